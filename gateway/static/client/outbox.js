/**
 * Messages on their way. Each keeps its idempotency key until a receipt settles it, so it may be
 * sent again after a timeout or a reconnect, and still arrives once.
 *
 * Messages to one target form a lane: what follows waits, so that nothing overtakes a message
 * which the gateway asked to send again later.
 */

import { GatewayError, isForNow, timedOut, tooLarge } from "./errors.js";
import { spread } from "./payload.js";

const ACK_TIMEOUT_MS = 10_000;
/** Messages on their way at once, in all lanes together. */
const MAX_WINDOW = 256;
const PAUSE_SECONDS = 1;

/**
 * @typedef {object} Letter what is sent, and what has to be known to send it again
 * @property {string} event
 * @property {string} target
 * @property {any} payload with its `id`
 * @property {number} size bytes of its data
 * @property {number|null} sentAt when it was sent first, in Unix milliseconds
 *
 * @typedef {Letter & {
 *   lane: string, flight: symbol|null, cured: boolean, timer: any, promise: Promise<any>,
 *   resolve: (receipt: any) => void, reject: (error: Error) => void,
 * }} Entry
 *
 * @typedef {object} Post
 * @property {(event: string, payload: object, timeout: number) => Promise<any>} ask
 * @property {(payload: any, code: string) => Promise<void>|null} cure what can be done about a
 *   refusal before the message is sent once more; null: nothing
 * @property {() => void} changed the letters are others now
 */

export class Outbox {
  #post;
  #limit;
  #pipeline;
  /** @type {Map<string, Entry[]>} */
  #lanes = new Map();
  #waiting = 0;
  #flying = 0;
  #window = MAX_WINDOW;
  #live = false;
  #maxBytes = Infinity;
  #memoryMs = Infinity;
  /** @type {any} */
  #pause = null;

  /**
   * @param {Post} post
   * @param {number} limit of messages that wait
   * @param {number} pipeline messages to one target that may be on their way at once
   */
  constructor(post, limit, pipeline) {
    this.#post = post;
    this.#limit = limit;
    this.#pipeline = pipeline;
  }

  /** How many messages have no receipt yet. */
  get size() {
    return this.#waiting;
  }

  /** @returns {Letter[]} what has no receipt yet; in order for each target */
  get letters() {
    return [...this.#lanes.values()].flat().map(({ event, target, payload, size, sentAt }) => {
      return { event, target, payload, size, sentAt };
    });
  }

  /**
   * @param {Letter} letter
   * @param {number} [timeout] milliseconds until the message is given up
   * @returns {Promise<any>} the receipt; rejects with a GatewayError
   */
  add({ event, target, payload, size, sentAt }, timeout) {
    if (this.#waiting >= this.#limit) {
      const message = `${this.#limit} messages wait already`;
      return Promise.reject(new GatewayError({ code: "queue_full", message }));
    }
    const lane = `${event} ${target}`;
    const letter = { event, target, payload, size, sentAt };
    const entry = /** @type {Entry} */ ({ ...letter, lane, flight: null, cured: false });
    entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    if (timeout !== undefined) {
      entry.timer = setTimeout(() => this.#settle(entry, timedOut(event)), timeout);
    }
    const others = this.#lanes.get(lane) ?? [];
    others.push(entry);
    this.#lanes.set(lane, others);
    this.#waiting += 1;
    this.#post.changed();
    this.#pump();
    return entry.promise;
  }

  /**
   * The connection is live: all that has no receipt goes out, in order.
   * @param {{message_bytes?: number, dedupe_window?: number}} [limits] of the gateway
   */
  start({ message_bytes: maxBytes, dedupe_window: seconds } = {}) {
    this.#live = true;
    this.#maxBytes = maxBytes || Infinity;
    this.#memoryMs = (seconds || Infinity) * 1000;
    this.#pump();
  }

  /** The connection is gone: whether anything on its way arrived is not known. */
  stop() {
    this.#live = false;
    this.#flying = 0;
    clearTimeout(this.#pause);
    this.#pause = null;
    for (const lane of this.#lanes.values()) for (const entry of lane) entry.flight = null;
  }

  /**
   * Give up everything. It is no fault then that nobody waits for a receipt.
   * @param {Error} error why
   */
  reject(error) {
    for (const entry of [...this.#lanes.values()].flat()) {
      entry.promise.catch(() => {});
      this.#settle(entry, error);
    }
  }

  #pump() {
    if (!this.#live || this.#pause !== null) return;
    for (const lane of [...this.#lanes.values()]) {
      for (const entry of lane.slice(0, this.#pipeline)) {
        if (this.#flying >= this.#window) return;
        if (entry.flight === null) this.#send(entry);
      }
    }
  }

  /** @param {Entry} entry */
  async #send(entry) {
    if (entry.size > this.#maxBytes) {
      this.#settle(entry, tooLarge(entry.size, this.#maxBytes));
      return;
    }
    entry.sentAt ??= Date.now();
    if (Date.now() - entry.sentAt > this.#memoryMs) {
      // The gateway no longer knows its key: if it arrived, it would arrive twice.
      this.#settle(entry, timedOut(entry.event));
      return;
    }
    const flight = Symbol();
    entry.flight = flight;
    this.#flying += 1;
    let answer = null;
    let error = null;
    try {
      answer = await this.#post.ask(entry.event, entry.payload, ACK_TIMEOUT_MS);
      if (answer?.ok === false && !isForNow(answer)) error = await this.#cure(entry, answer.error);
    } catch {
      // No answer says nothing about arrival; the same key makes asking again safe.
    }
    // Settled by something else, or sent again over a newer connection.
    if (entry.flight !== flight) return;
    entry.flight = null;
    this.#flying -= 1;
    if (answer?.ok) {
      this.#window = Math.min(MAX_WINDOW, this.#window + 1);
      this.#settle(entry, null, answer);
    } else if (error) {
      this.#settle(entry, error);
    } else if (answer && !isForNow(answer)) {
      this.#pump();
    } else {
      this.#rest(answer?.error.retry_after ?? PAUSE_SECONDS);
    }
  }

  /**
   * @param {Entry} entry
   * @param {any} refusal
   * @returns {Promise<Error|null>} null: it may be sent once more
   */
  async #cure(entry, refusal) {
    const cure = entry.cured ? null : this.#post.cure(entry.payload, refusal?.code);
    if (!cure) return new GatewayError(refusal);
    entry.cured = true;
    try {
      await cure;
      return null;
    } catch (error) {
      return /** @type {Error} */ (error);
    }
  }

  /**
   * What the gateway refused for now is a matter of the connection or of its store: all wait.
   * @param {number} seconds
   */
  #rest(seconds) {
    this.#window = 1;
    if (!this.#live || this.#pause !== null) return;
    this.#pause = setTimeout(() => {
      this.#pause = null;
      this.#pump();
    }, spread(seconds));
  }

  /**
   * @param {Entry} entry
   * @param {Error|null} error
   * @param {any} [receipt]
   */
  #settle(entry, error, receipt) {
    const lane = this.#lanes.get(entry.lane) ?? [];
    const index = lane.indexOf(entry);
    if (index < 0) return;
    lane.splice(index, 1);
    // Behind the others, or a busy lane would keep them waiting while the window is small.
    this.#lanes.delete(entry.lane);
    if (lane.length) this.#lanes.set(entry.lane, lane);
    this.#waiting -= 1;
    if (entry.flight !== null) {
      entry.flight = null;
      this.#flying -= 1;
    }
    clearTimeout(entry.timer);
    this.#post.changed();
    if (error) entry.reject(error);
    else entry.resolve(receipt);
    this.#pump();
  }
}
