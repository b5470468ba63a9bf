/** The arena's colours by day and by night; the page's own are in base.css and app.css. */

/**
 * @typedef {object} Palette
 * @property {string} ground
 * @property {string[]} patches of moss, drawn large
 * @property {string[]} tufts of grass, drawn small
 * @property {string} flower
 * @property {string} rim of the arena
 * @property {string} stone
 * @property {string} stoneLight
 * @property {string} shadow
 * @property {string} ink of names
 * @property {string} paper behind them
 * @property {string} bubble behind words
 * @property {string} accent
 * @property {string} onAccent
 * @property {string} outline
 * @property {string} eye
 * @property {string} spark
 * @property {string} gold
 * @property {string} sparkCore
 * @property {string} sparkEdge
 * @property {number[]} glow red, green and blue
 * @property {number[]} goldGlow
 * @property {(hue: number) => string} critter
 * @property {(hue: number) => string} critterShade
 */

/** @type {Palette} */
const DAY = {
  ground: "#d5e2c8",
  patches: ["#cbdbbc", "#deead2"],
  tufts: ["#a9c396", "#b8cfa6", "#9dba8c"],
  flower: "#f6f3e4",
  rim: "#8fae84",
  stone: "#a9b1a6",
  stoneLight: "#c3cac0",
  shadow: "rgb(44 66 48 / 20%)",
  ink: "#1b2722",
  paper: "rgb(250 251 248 / 82%)",
  bubble: "rgb(250 251 248 / 95%)",
  accent: "#1f6b52",
  onAccent: "#fbfdfa",
  outline: "#22332b",
  eye: "#fbfdfa",
  spark: "#f08a24",
  gold: "#d93a6a",
  sparkCore: "#fff6d8",
  sparkEdge: "rgb(92 46 8 / 75%)",
  glow: [255, 196, 84],
  goldGlow: [255, 120, 160],
  critter: (hue) => `oklch(0.62 0.15 ${hue})`,
  critterShade: (hue) => `oklch(0.52 0.13 ${hue})`,
};

/** @type {Palette} */
const NIGHT = {
  ground: "#14211c",
  patches: ["#182820", "#111c18"],
  tufts: ["#234034", "#1d352b", "#2a4a3c"],
  flower: "#3f6557",
  rim: "#2f5044",
  stone: "#33403b",
  stoneLight: "#46564f",
  shadow: "rgb(0 0 0 / 42%)",
  ink: "#e4ebe6",
  paper: "rgb(13 20 17 / 72%)",
  bubble: "rgb(22 31 27 / 94%)",
  accent: "#7cd0a8",
  onAccent: "#0c1a14",
  outline: "#0a100e",
  eye: "#f4faf6",
  spark: "#ffc14d",
  gold: "#ff7fa6",
  sparkCore: "#fffbe9",
  sparkEdge: "rgb(0 0 0 / 0%)",
  glow: [255, 190, 80],
  goldGlow: [255, 110, 160],
  critter: (hue) => `oklch(0.78 0.14 ${hue})`,
  critterShade: (hue) => `oklch(0.66 0.13 ${hue})`,
};

/** @param {boolean} dark */
export function paletteOf(dark) {
  return dark ? NIGHT : DAY;
}
