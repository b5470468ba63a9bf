/** A room without a network: all members get all messages in one order, each when it likes. */

import { Ledger } from "../../../gateway/static/game/ledger.js";
import { BREAK } from "../../../gateway/static/game/rounds.js";

export const MATCH = "arena";
export const LENGTH = 70;
export const ROUND = 25_000_000;
/** Unix time at which the round begins. */
export const START = ROUND * LENGTH;
/** When nothing counts any more. */
export const END = START + LENGTH - BREAK;

export function newLedger(state) {
  return new Ledger(MATCH, LENGTH, state);
}

export function take(from, slot, generation, ts, round = ROUND) {
  return { type: "take", from, data: { round, slot, generation }, ts };
}

export function tag(from, victim, ts, round = ROUND) {
  return { type: "tag", from, data: { round, victim }, ts };
}

/** @returns {() => number} numbers from 0 to below 1, the same ones for the same seed */
export function seeded(seed) {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 0x1_0000_0000;
  };
}
