/**
 * How a newcomer gets the ledger. It publishes `hello` with a key of its own. Where that is in
 * the room's order is the same for all, so a member that has the whole ledger answers with its
 * state at just that point, and the newcomer adds what it has seen since.
 *
 * Until an answer is there a newcomer counts from nothing, which is right when nobody is there
 * and harmless when everybody sleeps: with the next round all agree again.
 */

import { Ledger } from "./ledger.js";

/** More than any round has; a newcomer that gets no answer does not remember for ever. */
const LOGGED = 5000;

export class SyncedLedger {
  /** @type {Ledger} */
  #ledger;
  /** Of the own hello, until it is answered. @type {string|null} */
  #key = null;
  /** What came after the own hello. @type {object[]|null} */
  #log = null;
  #trusted = false;

  /**
   * @param {string} match
   * @param {number} length of a round, in seconds
   * @param {unknown} [state] which was kept over a reload
   */
  constructor(match, length, state = null) {
    this.match = match;
    this.length = length;
    this.#ledger = new Ledger(match, length, state);
  }

  /** Whether nothing is missing, as far as is known. */
  get whole() {
    return this.#key === null || this.#trusted;
  }

  get stones() {
    return this.#ledger.stones;
  }

  /** @param {number} seconds the gateway's time */
  at(seconds) {
    return this.#ledger.at(seconds);
  }

  snapshot() {
    return this.#ledger.snapshot();
  }

  /**
   * Something may have been missed.
   * @param {string} key of the hello that is about to be published
   */
  ask(key) {
    [this.#key, this.#log, this.#trusted] = [key, null, false];
  }

  /** Nobody is awake to answer. An answer that comes later is still taken. */
  trust() {
    this.#trusted = true;
  }

  /**
   * @param {any} message of the room, in the room's order
   * @returns {import("./ledger.js").Change|null}
   */
  apply(message) {
    const { type, data } = message;
    if (this.#key !== null && data?.key === this.#key) {
      if (type === "hello") this.#log ??= [];
      if (type === "state" && this.#log) this.#adopt(data.state);
      return null;
    }
    if (this.#log?.push(message) > LOGGED) this.#forget();
    return this.#ledger.apply(message);
  }

  #adopt(state) {
    this.#ledger = new Ledger(this.match, this.length, state);
    for (const message of this.#log) this.#ledger.apply(message);
    this.#forget();
  }

  #forget() {
    [this.#key, this.#log, this.#trusted] = [null, null, false];
  }
}
