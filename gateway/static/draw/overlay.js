/** What is drawn over the arena: effects, who is out of sight, the stick of a touch. */

import { critterImage } from "./critter.js";

/** Pixels from the edge. */
const EDGE = 26;

/**
 * @param {import("./scene.js").Art} art
 * @param {import("./effects.js").Effects} effects
 */
export function drawEffects({ pen, palette }, { bits, words }) {
  for (const { x, y, left, life, colour } of bits) {
    pen.globalAlpha = Math.min(1, (left / life) * 1.6);
    pen.fillStyle = colour;
    pen.fillRect(x - 4, y - 4, 8, 8);
  }
  pen.textAlign = "center";
  pen.font = "800 28px system-ui, sans-serif";
  pen.lineJoin = "round";
  pen.lineWidth = 6;
  pen.strokeStyle = palette.bubble;
  for (const { x, y, left, text, colour } of words) {
    pen.globalAlpha = Math.min(1, left * 2.5);
    pen.strokeText(text, x, y);
    pen.fillStyle = colour;
    pen.fillText(text, x, y);
  }
  pen.globalAlpha = 1;
  pen.textAlign = "start";
}

/**
 * Somebody who is out of sight: their face at the edge, and where they are.
 * @param {import("./scene.js").Art} art
 * @param {import("./scene.js").Actor} actor
 * @param {{left: number, top: number, width: number, height: number}} sight in units
 */
export function drawPointer(art, { x, y, trueId, asleep }, { left, top, width, height }) {
  const { pen, palette, zoom } = art;
  const margin = 10;
  const [px, py] = [(x - left) * zoom, (y - top) * zoom];
  const [wide, high] = [width * zoom, height * zoom];
  if (px > -margin && py > -margin && px < wide + margin && py < high + margin) return;
  const at = [Math.min(wide - EDGE, Math.max(EDGE, px)), Math.min(high - EDGE, Math.max(EDGE, py))];
  const image = art.image(`small ${trueId}`, () => critterImage(trueId, 3, palette, false));
  pen.save();
  pen.globalAlpha = asleep ? 0.55 : 0.95;
  pen.translate(at[0], at[1]);
  pen.fillStyle = palette.bubble;
  pen.beginPath();
  pen.arc(0, 0, 18, 0, 2 * Math.PI);
  pen.fill();
  pen.drawImage(image, -14, -14, 28, 28);
  pen.rotate(Math.atan2(py - at[1], px - at[0]));
  pen.fillStyle = palette.ink;
  pen.beginPath();
  pen.moveTo(25, 0);
  pen.lineTo(17, -5);
  pen.lineTo(17, 5);
  pen.fill();
  pen.restore();
}

/**
 * @param {import("./scene.js").Art} art
 * @param {{x: number, y: number, dx: number, dy: number}} stick in pixels
 */
export function drawStick({ pen, palette }, { x, y, dx, dy }) {
  pen.fillStyle = palette.paper;
  pen.strokeStyle = palette.accent;
  pen.lineWidth = 2;
  pen.globalAlpha = 0.6;
  pen.beginPath();
  pen.arc(x, y, 46, 0, 2 * Math.PI);
  pen.fill();
  pen.stroke();
  pen.globalAlpha = 0.9;
  pen.fillStyle = palette.accent;
  pen.beginPath();
  pen.arc(x + dx * 40, y + dy * 40, 20, 0, 2 * Math.PI);
  pen.fill();
  pen.globalAlpha = 1;
}
