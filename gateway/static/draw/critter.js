/**
 * A small creature drawn from a true_id: the same player always looks the same, whatever
 * connection they come over. As SVG for lists, on a canvas for the arena.
 */

import { bits, hash } from "../game/random.js";

const SVG = "http://www.w3.org/2000/svg";
/** Cells on each side. */
export const CELLS = 7;
const HUES = [155, 195, 235, 270, 310, 350, 25, 60, 110];
/** Where it has holes to look through. */
const EYES = [{ x: 2, y: 3 }, { x: 4, y: 3 }];

/**
 * Chance out of 16 that a cell of the left half is filled; 16 is always, 0 never.
 * Eyes and body are given, outline and limbs vary.
 */
const SHAPE = [
  [5, 8, 3, 6],
  [3, 10, 14, 14],
  [8, 14, 16, 16],
  [10, 16, 0, 16],
  [11, 14, 16, 16],
  [7, 9, 13, 9],
  [6, 10, 8, 3],
];

/**
 * @param {string} trueId
 * @returns {{hue: number, cells: {x: number, y: number}[]}}
 */
export function critterOf(trueId) {
  const next = bits(hash(trueId));
  const hue = HUES[next() % HUES.length];
  const cells = [];
  SHAPE.forEach((row, y) => {
    row.forEach((chance, x) => {
      if (next() % 16 >= chance) return;
      cells.push({ x, y });
      if (x < 3) cells.push({ x: CELLS - 1 - x, y });
    });
  });
  return { hue, cells };
}

/**
 * @param {string} trueId
 * @returns {SVGSVGElement} decorative; the name stands next to it
 */
export function portrait(trueId) {
  const { hue, cells } = critterOf(trueId);
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", `0 0 ${CELLS} ${CELLS}`);
  drawing.setAttribute("class", "critter");
  drawing.setAttribute("aria-hidden", "true");
  drawing.style.setProperty("--hue", String(hue));
  const body = document.createElementNS(SVG, "path");
  body.setAttribute("d", cells.map(({ x, y }) => `M${x} ${y}h1v1h-1z`).join(""));
  drawing.append(body);
  return drawing;
}

/**
 * @param {string} trueId
 * @param {number} cell pixels of a cell
 * @param {import("./palette.js").Palette} palette
 * @param {boolean} asleep eyes closed
 * @returns {HTMLCanvasElement} which has a cell of free space around the critter
 */
export function critterImage(trueId, cell, palette, asleep) {
  const { hue, cells } = critterOf(trueId);
  const image = document.createElement("canvas");
  image.width = image.height = (CELLS + 2) * cell;
  const pen = image.getContext("2d");
  const fill = (list, colour, grow = 0) => {
    pen.fillStyle = colour;
    for (const { x, y } of list) {
      pen.fillRect((x + 1) * cell - grow, (y + 1) * cell - grow, cell + 2 * grow, cell + 2 * grow);
    }
  };
  const outline = Math.max(1, Math.round(cell * 0.4));
  // It sets the critter off from the ground.
  fill([...cells, ...EYES], palette.outline, outline);
  fill(cells, palette.critter(hue));
  fill(cells.filter(({ y }) => y >= 5), palette.critterShade(hue));
  if (asleep) fill(EYES, palette.critter(hue));
  pen.fillStyle = asleep ? palette.outline : palette.eye;
  const lid = asleep ? Math.round(cell * 0.7) : 0;
  for (const { x, y } of EYES) pen.fillRect((x + 1) * cell, (y + 1) * cell + lid, cell, cell - lid);
  if (asleep) return image;
  pen.fillStyle = palette.outline;
  const pupil = Math.max(1, Math.round(cell * 0.5));
  for (const { x, y } of EYES) {
    pen.fillRect((x + 2) * cell - pupil, (y + 2) * cell - pupil - outline * 0.3, pupil, pupil);
  }
  return image;
}
