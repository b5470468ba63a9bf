/** How a critter moves. The own one moves at once; others are told where it is. */

import { HEIGHT, RADIUS, WIDTH } from "./world.js";

const SPEED = 330;
const DASH_SPEED = 940;
/** Seconds. */
export const DASH_TIME = 0.2;
export const DASH_PAUSE = 1.3;
const AGILITY = 11;
const EDGE = RADIUS + 8;

/**
 * @typedef {object} Body
 * @property {number} x
 * @property {number} y
 * @property {number} vx units a second
 * @property {number} vy
 * @property {number} dash seconds left of a dash
 * @property {number} rest seconds until the next dash
 * @property {number} face 1 looks right, -1 left
 */

/**
 * @param {{x: number, y: number}} place
 * @returns {Body}
 */
export function bodyAt({ x, y }) {
  return { x, y, vx: 0, vy: 0, dash: 0, rest: 0, face: 1 };
}

/**
 * Begin a dash: where it is steered to, else where it looks.
 * @param {Body} body
 * @param {{x: number, y: number}} aim
 * @returns {boolean} false: too early
 */
export function dash(body, aim) {
  if (body.rest > 0) return false;
  const length = Math.hypot(aim.x, aim.y);
  const [x, y] = length > 0.1 ? [aim.x / length, aim.y / length] : [body.face, 0];
  Object.assign(body, { vx: x * DASH_SPEED, vy: y * DASH_SPEED, dash: DASH_TIME, rest: DASH_PAUSE });
  return true;
}

/**
 * Let time pass.
 * @param {Body} body which is changed
 * @param {{x: number, y: number}} aim where it is steered to, of length 1 at most
 * @param {number} seconds
 * @param {import("./world.js").Stone[]} stones
 */
export function step(body, aim, seconds, stones) {
  body.rest = Math.max(0, body.rest - seconds);
  body.dash = Math.max(0, body.dash - seconds);
  if (body.dash === 0) {
    const grip = 1 - Math.exp(-AGILITY * seconds);
    body.vx += (aim.x * SPEED - body.vx) * grip;
    body.vy += (aim.y * SPEED - body.vy) * grip;
    if (Math.hypot(body.vx, body.vy) < 4 && !aim.x && !aim.y) body.vx = body.vy = 0;
  }
  if (Math.abs(body.vx) > 20) body.face = Math.sign(body.vx);
  body.x += body.vx * seconds;
  body.y += body.vy * seconds;
  for (const { x, y, r } of stones) {
    const [dx, dy] = [body.x - x, body.y - y];
    const far = Math.hypot(dx, dy) || 1;
    const least = r + RADIUS * 0.7;
    if (far < least) [body.x, body.y] = [x + (dx / far) * least, y + (dy / far) * least];
  }
  body.x = Math.min(WIDTH - EDGE, Math.max(EDGE, body.x));
  body.y = Math.min(HEIGHT - EDGE, Math.max(EDGE, body.y));
}
