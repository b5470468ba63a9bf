/** Draws what it is told to. It knows nothing of rules and of the network. */

import { HEIGHT, WIDTH } from "../game/world.js";
import { drawActor, drawLabels } from "./actors.js";
import { BORDER, groundImage } from "./ground.js";
import { drawEffects, drawPointer, drawStick } from "./overlay.js";
import { paletteOf } from "./palette.js";
import { drawSpark } from "./sparks.js";

/** Pixels of a unit at least: on a phone the view follows the player. */
const LEAST_ZOOM = 0.6;
const MOST_RATIO = 2;
const MOST_IMAGES = 160;
/** Of the way that the view has to go, for each picture. */
const FOLLOW = 0.16;

/**
 * What drawing takes.
 * @typedef {object} Art
 * @property {CanvasRenderingContext2D} pen
 * @property {import("./palette.js").Palette} palette
 * @property {number} scale pixels of the canvas for a unit
 * @property {number} zoom pixels of the page for a unit
 * @property {boolean} calm nothing moves that need not
 * @property {(key: string, make: () => HTMLCanvasElement) => HTMLCanvasElement} image kept by key
 */

/**
 * @typedef {object} Actor
 * @property {string} trueId
 * @property {string} name empty: none is shown
 * @property {number} x
 * @property {number} y
 * @property {number} vx
 * @property {number} vy
 * @property {number} face 1 looks right, -1 left
 * @property {boolean} dash
 * @property {boolean} own
 * @property {boolean} asleep
 * @property {boolean} shielded nobody can take from them now
 * @property {boolean} leads has most points
 * @property {string} says
 */

/**
 * @typedef {object} View
 * @property {number} now milliseconds
 * @property {Actor[]} actors
 * @property {{x: number, y: number, points: number, age: number}[]} sparks `age` in seconds
 * @property {{x: number, y: number}} centre
 * @property {import("./effects.js").Effects} [effects]
 * @property {{x: number, y: number, dx: number, dy: number}|null} [stick] in pixels of the page
 */

export class Scene {
  #canvas;
  #match;
  #stones;
  #dark = matchMedia("(prefers-color-scheme: dark)");
  #motion = matchMedia("(prefers-reduced-motion: reduce)");
  #ground = null;
  /** @type {Map<string, HTMLCanvasElement>} */
  #images = new Map();
  #ratio = 1;
  /** The upper left corner of what is seen, in units. @type {[number, number]|null} */
  #corner = null;
  /** @type {Art} */
  #art;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {string} match
   * @param {import("../game/world.js").Stone[]} stones
   */
  constructor(canvas, match, stones) {
    this.#canvas = canvas;
    this.#match = match;
    this.#stones = stones;
    this.#art = {
      pen: canvas.getContext("2d"),
      palette: paletteOf(this.#dark.matches),
      scale: 1,
      zoom: 1,
      calm: this.#motion.matches,
      image: (key, make) => this.#image(key, make),
    };
    new ResizeObserver(() => this.#fit()).observe(canvas);
    this.#dark.addEventListener("change", () => this.#fit());
    this.#motion.addEventListener("change", () => (this.#art.calm = this.#motion.matches));
    this.#fit();
  }

  get palette() {
    return this.#art.palette;
  }

  /** Whether nothing is to move that need not. */
  get calm() {
    return this.#art.calm;
  }

  /**
   * @param {number} x in pixels of the canvas on the page
   * @param {number} y
   * @returns {{x: number, y: number}} in units
   */
  unitsAt(x, y) {
    const [left, top] = this.#corner ?? [0, 0];
    return { x: left + x / this.#art.zoom, y: top + y / this.#art.zoom };
  }

  #fit() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    if (!width || !height) return;
    const art = this.#art;
    this.#ratio = Math.min(MOST_RATIO, devicePixelRatio || 1);
    this.#canvas.width = Math.round(width * this.#ratio);
    this.#canvas.height = Math.round(height * this.#ratio);
    art.zoom = Math.max(width / (WIDTH + BORDER), height / (HEIGHT + BORDER), LEAST_ZOOM);
    art.scale = art.zoom * this.#ratio;
    art.palette = paletteOf(this.#dark.matches);
    this.#images.clear();
    this.#ground = groundImage(this.#match, this.#stones, art.palette, art.scale);
    this.#corner = null;
  }

  /** @param {View} view */
  draw({ now, actors, sparks, centre, effects, stick }) {
    if (!this.#ground) return;
    const art = this.#art;
    const { pen, scale } = art;
    const [left, top] = this.#look(centre);
    const [dx, dy] = shaken(effects?.tremble ?? 0, now);
    pen.setTransform(1, 0, 0, 1, 0, 0);
    const [x, y] = [-(left + BORDER + dx) * scale, -(top + BORDER + dy) * scale];
    pen.drawImage(this.#ground, Math.round(x), Math.round(y));
    pen.setTransform(scale, 0, 0, scale, -(left + dx) * scale, -(top + dy) * scale);
    for (const spark of sparks) drawSpark(art, spark, now);
    const inOrder = [...actors].sort((a, b) => a.y - b.y);
    for (const actor of inOrder) drawActor(art, actor, now);
    const { clientWidth, clientHeight } = this.#canvas;
    const sight = { left, top, width: clientWidth / art.zoom, height: clientHeight / art.zoom };
    for (const actor of inOrder) drawLabels(art, actor, sight);
    if (effects) drawEffects(art, effects);
    pen.setTransform(this.#ratio, 0, 0, this.#ratio, 0, 0);
    for (const actor of actors) if (!actor.own && actor.name) drawPointer(art, actor, sight);
    if (stick) drawStick(art, stick);
  }

  /** Keep the player in the middle, but never look further over the rim than needed. */
  #look(centre) {
    const axis = (middle, size, pixels, before) => {
      const seen = pixels / this.#art.scale;
      const [least, most] = [-BORDER / 2, size + BORDER / 2 - seen];
      const wanted = Math.min(most, Math.max(least, middle - seen / 2));
      const goal = most < least ? (size - seen) / 2 : wanted;
      return before === undefined ? goal : before + (goal - before) * FOLLOW;
    };
    const [x, y] = this.#art.calm || !this.#corner ? [] : this.#corner;
    const { width, height } = this.#canvas;
    this.#corner = [axis(centre.x, WIDTH, width, x), axis(centre.y, HEIGHT, height, y)];
    return this.#corner;
  }

  #image(key, make) {
    const known = this.#images.get(key);
    if (known) return known;
    if (this.#images.size >= MOST_IMAGES) this.#images.clear();
    const made = make();
    this.#images.set(key, made);
    return made;
  }
}

/** @returns {[number, number]} by how much the view trembles, in units */
function shaken(tremble, now) {
  const far = tremble * 26;
  return far ? [Math.sin(now * 0.09) * far, Math.cos(now * 0.11) * far] : [0, 0];
}
