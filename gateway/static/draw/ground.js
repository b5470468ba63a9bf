/** What does not move: grass, stones and the rim. Drawn once for each size and scheme. */

import { fractions, hash } from "../game/random.js";
import { HEIGHT, WIDTH } from "../game/world.js";

/** Ground beyond the rim, for the view at the edges. */
export const BORDER = 40;
/** Units of a pixel of the drawing. */
const GRAIN = 4;
const ROUND = 36;

/**
 * @param {string} match
 * @param {import("../game/world.js").Stone[]} stones
 * @param {import("./palette.js").Palette} palette
 * @param {number} scale pixels of a unit
 * @returns {HTMLCanvasElement}
 */
export function groundImage(match, stones, palette, scale) {
  const coarse = coarseImage(match, stones, palette);
  const image = document.createElement("canvas");
  image.width = Math.ceil((WIDTH + 2 * BORDER) * scale);
  image.height = Math.ceil((HEIGHT + 2 * BORDER) * scale);
  const pen = image.getContext("2d");
  pen.imageSmoothingEnabled = false;
  pen.drawImage(coarse, 0, 0, coarse.width * GRAIN * scale, coarse.height * GRAIN * scale);
  return image;
}

function coarseImage(match, stones, palette) {
  const image = document.createElement("canvas");
  image.width = (WIDTH + 2 * BORDER) / GRAIN;
  image.height = (HEIGHT + 2 * BORDER) / GRAIN;
  const pen = image.getContext("2d");
  pen.fillStyle = palette.rim;
  pen.fillRect(0, 0, image.width, image.height);
  pen.scale(1 / GRAIN, 1 / GRAIN);
  pen.translate(BORDER, BORDER);
  pen.save();
  pen.beginPath();
  pen.roundRect(0, 0, WIDTH, HEIGHT, ROUND);
  pen.clip();
  pen.fillStyle = palette.ground;
  pen.fillRect(0, 0, WIDTH, HEIGHT);
  const next = fractions(hash("ground", match));
  drawPatches(pen, next, palette);
  drawTufts(pen, next, palette);
  pen.restore();
  for (const stone of stones) drawStone(pen, stone, palette);
  return image;
}

function drawPatches(pen, next, { patches }) {
  for (let n = 0; n < 46; n += 1) {
    pen.fillStyle = patches[n % patches.length];
    const [x, y, r] = [next() * WIDTH, next() * HEIGHT, 50 + next() * 110];
    disc(pen, x, y, r, 0.62);
  }
}

function drawTufts(pen, next, { tufts, flower }) {
  for (let n = 0; n < 420; n += 1) {
    const x = Math.round((next() * WIDTH) / GRAIN) * GRAIN;
    const y = Math.round((next() * HEIGHT) / GRAIN) * GRAIN;
    const blossom = next() < 0.1;
    pen.fillStyle = tufts[n % tufts.length];
    pen.fillRect(x, y - GRAIN, GRAIN, 2 * GRAIN);
    pen.fillRect(x + 2 * GRAIN, y - 2 * GRAIN, GRAIN, 3 * GRAIN);
    pen.fillRect(x + 4 * GRAIN, y - GRAIN, GRAIN, 2 * GRAIN);
    if (!blossom) continue;
    pen.fillStyle = flower;
    pen.fillRect(x + GRAIN, y - 3 * GRAIN, 3 * GRAIN, GRAIN);
    pen.fillRect(x + 2 * GRAIN, y - 4 * GRAIN, GRAIN, 3 * GRAIN);
  }
}

function drawStone(pen, { x, y, r }, { stone, stoneLight, shadow }) {
  pen.fillStyle = shadow;
  disc(pen, x + 4, y + r * 0.35, r * 1.08, 0.8);
  pen.fillStyle = stone;
  disc(pen, x, y, r, 0.9);
  pen.fillStyle = stoneLight;
  disc(pen, x - r * 0.18, y - r * 0.24, r * 0.62, 0.72);
}

/** A disc of whole pixels. */
function disc(pen, x, y, r, flat) {
  const snap = (value) => Math.round(value / GRAIN) * GRAIN;
  const [left, top] = [snap(x), snap(y)];
  const rows = Math.floor((r * flat) / GRAIN);
  for (let row = -rows; row <= rows; row += 1) {
    const height = (row * GRAIN) / flat;
    const half = snap(Math.sqrt(Math.max(0, r * r - height * height)));
    pen.fillRect(left - half, top + row * GRAIN, 2 * half, GRAIN);
  }
}
