/**
 * Who has what: the one truth of a match, without a server that keeps it.
 *
 * Every member of a room gets all its messages in the same order and with the same `ts`. So all
 * who fold them by the same rules come to the same result; of two who took the same spark, the
 * one whose message is first has it. Nothing here may depend on anything but the messages: no
 * clock of this device, no position as seen from here.
 *
 * What a page claims is believed (there is no server that saw it run there), but every claim
 * must fit: this round, this spark, this pause after the last tag.
 */

import { momentOf } from "./rounds.js";
import { SLOTS, sparkOf, stonesOf } from "./world.js";

/** Seconds until the next spark of a slot can be taken. */
export const REGROW = 0.8;
/** Points that change hands by a tag. */
export const LOOT = 3;
/** Seconds in which who was tagged is safe. */
export const SHIELD = 3;
const TAG_PAUSE = 0.5;
const MOST_PLAYERS = 256;

/**
 * @typedef {object} State
 * @property {number} round
 * @property {number[]} generations of the spark in each slot
 * @property {number[]} since when each can be taken, in the gateway's time
 * @property {Record<string, number>} scores by true_id
 * @property {Record<string, number>} tagged when a player was tagged last
 * @property {Record<string, number>} tagger when a player tagged last
 * @property {{round: number, scores: Record<string, number>}|null} last the round before
 */

/**
 * @typedef {{kind: "take", by: string, slot: number, generation: number, points: number}
 *   | {kind: "tag", by: string, victim: string, points: number}} Change
 */

export class Ledger {
  /** @type {State} */
  #state;
  /** What it will be in the next round. @type {State|null} */
  #ahead = null;

  /**
   * @param {string} match
   * @param {number} length of a round, in seconds
   * @param {unknown} [state] of `snapshot`, from whomever; one that does not fit is not taken
   */
  constructor(match, length, state = null) {
    this.match = match;
    this.length = length;
    this.stones = stonesOf(match);
    this.#state = checked(state) ?? this.#fresh(-1, null);
  }

  /** @returns {State} a copy, for those who join later and for reloads */
  snapshot() {
    return structuredClone(this.#state);
  }

  /**
   * The state at a time. It is not rolled over here: what others did before the round ended
   * may still be on its way.
   * @param {number} seconds the gateway's time
   * @returns {Readonly<State>}
   */
  at(seconds) {
    const { round } = momentOf(seconds, this.length);
    if (round <= this.#state.round) return this.#state;
    if (this.#ahead?.round !== round) this.#ahead = this.#next(round);
    return this.#ahead;
  }

  /**
   * @param {{type?: string, from: string|null, data: any, ts: number}} message of the room
   * @returns {Change|null} null: it changes nothing
   */
  apply({ type, from, data, ts }) {
    if (from === null || data === null || typeof data !== "object") return null;
    const moment = momentOf(ts, this.length);
    if (!moment.playing || data.round !== moment.round) return null;
    if (moment.round < this.#state.round) return null;
    if (moment.round > this.#state.round) this.#state = this.#next(moment.round);
    this.#ahead = null;
    if (type === "take") return this.#take(from, data, ts);
    if (type === "tag") return this.#tag(from, data, ts);
    return null;
  }

  #take(by, { slot, generation }, ts) {
    const state = this.#state;
    if (!Number.isInteger(slot) || slot < 0 || slot >= SLOTS) return null;
    if (generation !== state.generations[slot] || ts < state.since[slot]) return null;
    if (!this.#knows(by)) return null;
    const { points } = sparkOf(this.match, state.round, slot, generation, this.stones);
    state.generations[slot] += 1;
    state.since[slot] = ts + REGROW;
    state.scores[by] = (state.scores[by] ?? 0) + points;
    return { kind: "take", by, slot, generation, points };
  }

  #tag(by, { victim }, ts) {
    const state = this.#state;
    if (typeof victim !== "string" || victim === by || !this.#knows(by)) return null;
    const points = Math.min(LOOT, Object.hasOwn(state.scores, victim) ? state.scores[victim] : 0);
    if (points <= 0 || ts < (state.tagged[victim] ?? -Infinity) + SHIELD) return null;
    if (ts < (state.tagger[by] ?? -Infinity) + TAG_PAUSE) return null;
    state.tagged[victim] = ts;
    state.tagger[by] = ts;
    state.scores[victim] -= points;
    state.scores[by] = (state.scores[by] ?? 0) + points;
    return { kind: "tag", by, victim, points };
  }

  #knows(trueId) {
    const { scores } = this.#state;
    return Object.hasOwn(scores, trueId) || Object.keys(scores).length < MOST_PLAYERS;
  }

  #next(round) {
    const { round: before, scores } = this.#state;
    return this.#fresh(round, before === round - 1 ? { round: before, scores } : null);
  }

  #fresh(round, last) {
    const starts = round * this.length;
    return {
      round,
      generations: new Array(SLOTS).fill(0),
      // One after the other, so that the arena fills while it begins.
      since: Array.from({ length: SLOTS }, (_, slot) => starts + slot * 0.1),
      scores: {},
      tagged: {},
      tagger: {},
      last,
    };
  }
}

/** @returns {State|null} */
function checked(state) {
  if (state === null || typeof state !== "object") return null;
  const { round, generations, since, scores, tagged, tagger, last } = state;
  const fits =
    Number.isInteger(round) &&
    numbers(generations, Number.isInteger) &&
    numbers(since, Number.isFinite) &&
    table(scores, (value) => Number.isInteger(value) && value >= 0) &&
    table(tagged, Number.isFinite) &&
    table(tagger, Number.isFinite) &&
    (last === null || (Number.isInteger(last?.round) && table(last.scores, Number.isInteger)));
  return fits ? structuredClone({ round, generations, since, scores, tagged, tagger, last }) : null;
}

function numbers(list, test) {
  return Array.isArray(list) && list.length === SLOTS && list.every((value) => test(value));
}

function table(record, test) {
  if (record === null || typeof record !== "object" || Array.isArray(record)) return false;
  const values = Object.values(record);
  return values.length <= MOST_PLAYERS && values.every((value) => test(value));
}
