/**
 * Latest values: of each key only the newest is sent, when the way is free. Nothing is stored and
 * nothing sent twice, but the last value of a key goes out, also after a reconnect.
 */

import { GatewayError, isForNow, tooLarge, unheeded } from "./errors.js";
import { spread } from "./payload.js";

const ACK_TIMEOUT_MS = 10_000;
/** Packets on their way out: with more, a newer value had better replace this one. */
const MAX_BACKLOG = 16;
const PAUSE_SECONDS = 1;
export const DROPPED = Object.freeze({
  ok: true,
  id: null,
  status: "dropped",
  connections: 0,
  duplicate: false,
});

/**
 * @typedef {{
 *   slot: string, payload: any, size: number, cured: boolean, flying: boolean,
 *   resolve: (receipt: any) => void, reject: (error: Error) => void,
 * }} Value
 */

export class Latest {
  #post;
  #limit;
  #engine;
  /** Whose buffer has to drain. @type {any} */
  #draining = null;
  /** @type {Map<string, Value>} */
  #values = new Map();
  #live = false;
  #maxBytes = Infinity;
  /** @type {any} */
  #pause = null;

  /**
   * @param {import("./outbox.js").Post} post
   * @param {number} limit of keys that wait
   * @param {() => any} engine of the stock client
   */
  constructor(post, limit, engine) {
    this.#post = post;
    this.#limit = limit;
    this.#engine = engine;
  }

  /**
   * @param {string} slot whose older value this one replaces
   * @param {any} payload
   * @param {number} size bytes of its data
   * @returns {Promise<any>} the receipt: `dropped` when it was replaced
   */
  set(slot, payload, size) {
    const older = this.#values.get(slot);
    if (!older && this.#values.size >= this.#limit) {
      const message = `${this.#limit} keys wait already`;
      return unheeded(Promise.reject(new GatewayError({ code: "queue_full", message })));
    }
    // One that is on its way has its own answer.
    if (older && !older.flying) older.resolve(DROPPED);
    return unheeded(
      new Promise((resolve, reject) => {
        const value = { slot, payload, size, cured: false, flying: false, resolve, reject };
        this.#values.set(slot, value);
        this.#pump();
      }),
    );
  }

  /** @param {{message_bytes?: number}} [limits] of the gateway */
  start({ message_bytes: maxBytes } = {}) {
    this.#live = true;
    this.#maxBytes = maxBytes || Infinity;
    this.#pump();
  }

  /** The connection is gone. */
  stop() {
    this.#live = false;
    clearTimeout(this.#pause);
    this.#pause = null;
  }

  /** @param {Error} error why nothing is sent any more */
  reject(error) {
    for (const value of this.#values.values()) value.reject(error);
    this.#values.clear();
  }

  #pump() {
    for (const value of [...this.#values.values()]) {
      if (!this.#live || this.#pause !== null) return;
      if (value.flying) continue;
      if (this.#congested()) return;
      this.#send(value);
    }
  }

  #congested() {
    const engine = this.#engine();
    if (!(engine?.writeBuffer?.length > MAX_BACKLOG)) return false;
    if (this.#draining !== engine) {
      this.#draining = engine;
      engine.once("drain", () => {
        this.#draining = null;
        this.#pump();
      });
    }
    return true;
  }

  /** @param {Value} value */
  async #send(value) {
    if (value.size > this.#maxBytes) {
      this.#settle(value, tooLarge(value.size, this.#maxBytes));
      return;
    }
    value.flying = true;
    let answer = null;
    let error = null;
    try {
      answer = await this.#post.ask("publish", value.payload, ACK_TIMEOUT_MS);
      if (!answer?.ok && !isForNow(answer)) {
        error = new GatewayError(answer?.error);
        const cure = value.cured ? null : this.#post.cure(value.payload, error.code);
        if (cure) {
          value.cured = true;
          await cure;
          error = null;
        }
      }
    } catch (failure) {
      // Without an answer it may be sent again: it is the state that counts, not the message.
      if (failure instanceof GatewayError) error = failure;
    }
    value.flying = false;
    if (answer?.ok) this.#settle(value, null, answer);
    else if (error) this.#settle(value, error);
    else if (this.#values.get(value.slot) !== value) value.resolve(DROPPED);
    else if (isForNow(answer)) this.#rest(answer.error.retry_after ?? PAUSE_SECONDS);
    else if (answer) this.#pump();
    else this.#rest(PAUSE_SECONDS);
  }

  /** @param {number} seconds */
  #rest(seconds) {
    if (!this.#live || this.#pause !== null) return;
    this.#pause = setTimeout(() => {
      this.#pause = null;
      this.#pump();
    }, spread(seconds));
  }

  /**
   * @param {Value} value
   * @param {Error|null} error
   * @param {any} [receipt]
   */
  #settle(value, error, receipt) {
    if (this.#values.get(value.slot) === value) this.#values.delete(value.slot);
    if (error) value.reject(error);
    else value.resolve(receipt);
  }
}
