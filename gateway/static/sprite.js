/**
 * A small creature drawn from a true_id: the same player always looks the same,
 * whatever connection they come over.
 */

const SVG = "http://www.w3.org/2000/svg";
const SIZE = 7;
const HUES = 9;

/**
 * FNV-1a with a final mix: a few stable bits out of any string.
 * @param {string} text
 * @returns {() => number} a generator of 32-bit numbers
 */
function bitsFrom(text) {
  let state = 0x811c9dc5;
  for (const character of text) {
    state = Math.imul(state ^ character.codePointAt(0), 0x01000193) >>> 0;
  }
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 16), 0x85ebca6b);
    mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
    return (mixed ^ (mixed >>> 16)) >>> 0;
  };
}

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
 * @returns {SVGSVGElement} decorative; the name stands next to it
 */
export function sprite(trueId) {
  const next = bitsFrom(trueId);
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", `0 0 ${SIZE} ${SIZE}`);
  drawing.setAttribute("class", `sprite hue-${next() % HUES}`);
  drawing.setAttribute("aria-hidden", "true");
  let path = "";
  SHAPE.forEach((row, y) => {
    row.forEach((chance, x) => {
      if (next() % 16 >= chance) return;
      path += `M${x} ${y}h1v1h-1z`;
      if (x < 3) path += `M${SIZE - 1 - x} ${y}h1v1h-1z`;
    });
  });
  const body = document.createElementNS(SVG, "path");
  body.setAttribute("d", path);
  drawing.append(body);
  return drawing;
}
