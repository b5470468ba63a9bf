/**
 * The arena: its size, its stones, and where sparks are. All of it follows from the match's
 * name, the round and the time, so that nobody has to send it.
 */

import { fractions, hash } from "./random.js";

export const WIDTH = 1600;
export const HEIGHT = 1000;
/** Of a critter. */
export const RADIUS = 24;
/** So near a spark is collected. */
export const REACH = 44;
export const SLOTS = 20;

const MARGIN = 60;
const STONES = 8;
const TRIES = 12;
const GOLD_ONE_IN = 7;

/** @typedef {{x: number, y: number}} Point */
/** @typedef {{x: number, y: number, r: number}} Stone */
/** @typedef {{x: number, y: number, points: number, drift: number, turn: number}} Spark */

/**
 * @param {Point} a
 * @param {Point} b
 */
export function distance(a, b) {
  return Math.hypot(a.x - b.x, a.y - b.y);
}

/**
 * @param {string} match
 * @returns {Stone[]} which nobody can walk through
 */
export function stonesOf(match) {
  const next = fractions(hash("stones", match));
  /** @type {Stone[]} */
  const stones = [];
  for (let tries = 0; stones.length < STONES && tries < STONES * TRIES; tries += 1) {
    const stone = {
      x: 160 + next() * (WIDTH - 320),
      y: 140 + next() * (HEIGHT - 280),
      r: 30 + next() * 34,
    };
    // A way for two between any two of them.
    const apart = stones.every((other) => distance(stone, other) > stone.r + other.r + 4 * RADIUS);
    if (apart) stones.push(stone);
  }
  return stones;
}

/**
 * The spark that lies in a slot of the arena. When it is taken the next generation follows.
 * @param {string} match
 * @param {number} round
 * @param {number} slot 0 to SLOTS - 1
 * @param {number} generation
 * @param {Stone[]} stones
 * @returns {Spark}
 */
export function sparkOf(match, round, slot, generation, stones) {
  const next = fractions(hash("spark", match, round, slot, generation));
  const gold = next() * GOLD_ONE_IN < 1;
  const spot = () => ({
    x: MARGIN + next() * (WIDTH - 2 * MARGIN),
    y: MARGIN + next() * (HEIGHT - 2 * MARGIN),
  });
  let place = spot();
  for (let tries = 0; tries < TRIES; tries += 1) {
    const at = place;
    if (stones.every((stone) => distance(at, stone) > stone.r + RADIUS + (gold ? 46 : 12))) break;
    place = spot();
  }
  return { ...place, points: gold ? 3 : 1, drift: gold ? 38 : 0, turn: next() * 2 * Math.PI };
}

/**
 * Gold ones do not lie still.
 * @param {Spark} spark
 * @param {number} seconds the gateway's time
 * @returns {Point}
 */
export function sparkAt(spark, seconds) {
  if (!spark.drift) return spark;
  const angle = spark.turn + (seconds % 1000) * 1.7;
  return {
    x: spark.x + Math.cos(angle) * spark.drift,
    y: spark.y + Math.sin(angle * 2) * spark.drift * 0.5,
  };
}

/**
 * Where a player begins.
 * @param {string} match
 * @param {string} trueId
 * @returns {Point}
 */
export function startOf(match, trueId) {
  const next = fractions(hash("start", match, trueId));
  const stones = stonesOf(match);
  let place = { x: WIDTH / 2, y: HEIGHT / 2 };
  for (let tries = 0; tries < TRIES; tries += 1) {
    const at = { x: WIDTH * (0.25 + next() * 0.5), y: HEIGHT * (0.25 + next() * 0.5) };
    place = at;
    if (stones.every((stone) => distance(at, stone) > stone.r + 2 * RADIUS)) break;
  }
  return place;
}
