/** Critters in the arena, and what belongs to them. */

import { CELLS, critterImage } from "./critter.js";

/** Units of a critter's cell. */
const CELL = 8;
const SIZE = (CELLS + 2) * CELL;
const LONGEST_NAME = 16;
const LONGEST_WORDS = 34;

/** @typedef {import("./scene.js").Art} Art */
/** @typedef {import("./scene.js").Actor} Actor */

/**
 * @param {Art} art
 * @param {Actor} actor
 * @param {number} now milliseconds
 */
export function drawActor(art, actor, now) {
  const { pen, palette, calm } = art;
  const { x, y, asleep, trueId } = actor;
  const cell = Math.max(2, Math.round(CELL * art.scale));
  const key = `${asleep ? "asleep" : "awake"} ${trueId}`;
  const image = art.image(key, () => critterImage(trueId, cell, palette, asleep));
  const speed = Math.hypot(actor.vx, actor.vy);
  const hop = calm || asleep ? 0 : Math.abs(Math.sin(now / 95)) * Math.min(1, speed / 200) * 9;
  drawShadow(art, actor, hop);
  const put = (dx, dy, opacity) => {
    pen.save();
    pen.globalAlpha = opacity;
    pen.translate(x + dx, y + dy - hop);
    const stretch = actor.dash && !calm ? 1.14 : 1;
    const breath = asleep && !calm ? 1 + Math.sin(now / 600) * 0.03 : 1;
    pen.scale(actor.face * stretch, breath / stretch);
    pen.drawImage(image, -SIZE / 2, -SIZE / 2, SIZE, SIZE);
    pen.restore();
  };
  if (actor.dash && !calm) {
    for (const n of [3, 2, 1]) put(-actor.vx * n * 0.018, -actor.vy * n * 0.018, 0.4 - n * 0.1);
  }
  put(0, 0, asleep ? 0.65 : 1);
  if (actor.shielded) drawShield(art, actor, now);
  if (asleep) drawSleep(art, actor, now);
  if (actor.leads) drawCrown(art, actor, hop);
}

function drawShadow({ pen, palette }, { x, y, own }, hop) {
  pen.fillStyle = palette.shadow;
  pen.beginPath();
  pen.ellipse(x, y + 26, 25 - hop * 0.5, 9 - hop * 0.2, 0, 0, 2 * Math.PI);
  pen.fill();
  if (!own) return;
  pen.strokeStyle = palette.accent;
  pen.lineWidth = 3;
  pen.beginPath();
  pen.ellipse(x, y + 26, 33, 13, 0, 0, 2 * Math.PI);
  pen.stroke();
}

function drawShield({ pen, palette, calm }, { x, y }, now) {
  pen.strokeStyle = palette.ink;
  pen.lineWidth = 2.5;
  pen.setLineDash([7, 7]);
  pen.lineDashOffset = calm ? 0 : now / 40;
  pen.beginPath();
  pen.arc(x, y, 42, 0, 2 * Math.PI);
  pen.stroke();
  pen.setLineDash([]);
}

function drawSleep({ pen, palette, calm }, { x, y }, now) {
  pen.fillStyle = palette.ink;
  for (const n of [0, 1, 2]) {
    const part = calm ? n / 3 : (now / 2400 + n / 3) % 1;
    pen.globalAlpha = 1 - part * 0.8;
    pen.font = `700 ${14 + part * 11}px ui-monospace, monospace`;
    pen.fillText("z", x + 20 + part * 16, y - 24 - part * 30);
  }
  pen.globalAlpha = 1;
}

function drawCrown({ pen, palette }, { x, y }, hop) {
  const [left, top] = [x - 14, y - 54 - hop];
  pen.fillStyle = palette.outline;
  pen.fillRect(left - 3, top + 3, 34, 14);
  pen.fillStyle = palette.spark;
  for (const [dx, height] of [[0, 13], [4, 6], [8, 9], [12, 14], [16, 9], [20, 6], [24, 13]]) {
    pen.fillRect(left + dx, top + 14 - height, 4, height);
  }
}

/**
 * The name below, and what was said above.
 * @param {Art} art
 * @param {Actor} actor
 * @param {{left: number, width: number}} sight in units; words stay in it
 */
export function drawLabels(art, { x, y, name, own, asleep, leads, says }, { left, width }) {
  const { pen, palette } = art;
  const size = Math.max(15, 12 / art.zoom);
  const text = own ? "You" : shortened(name, LONGEST_NAME);
  pen.globalAlpha = asleep ? 0.8 : 1;
  const [paper, ink] = own ? [palette.accent, palette.onAccent] : [palette.paper, palette.ink];
  if (text) drawPill(pen, text, [x, y + 42 + size * 0.7], size, paper, ink);
  pen.globalAlpha = 1;
  if (!says || x < left || x > left + width) return;
  const words = shortened(says, LONGEST_WORDS);
  pen.font = fontOf(size * 1.1);
  const half = pen.measureText(words).width / 2 + size;
  const middle = Math.max(left + half, Math.min(left + width - half, x));
  const above = y - (leads ? 82 : 64);
  drawPill(pen, words, [middle, above], size * 1.1, palette.bubble, palette.ink);
}

function fontOf(size) {
  return `650 ${size}px system-ui, sans-serif`;
}

function drawPill(pen, text, [x, middle], size, paper, ink) {
  pen.font = fontOf(size);
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  const width = pen.measureText(text).width + size * 1.1;
  pen.fillStyle = paper;
  pen.beginPath();
  pen.roundRect(x - width / 2, middle - size * 0.8, width, size * 1.6, size * 0.8);
  pen.fill();
  pen.fillStyle = ink;
  pen.fillText(text, x, middle + size * 0.06);
  pen.textAlign = "start";
  pen.textBaseline = "alphabetic";
}

function shortened(text, longest) {
  const letters = Array.from(text);
  return letters.length > longest ? `${letters.slice(0, longest - 1).join("")}…` : text;
}
