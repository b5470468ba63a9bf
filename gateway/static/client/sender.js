/** How a message goes: until there is a receipt, now or never, or the latest of its key. */

import { closed, GatewayError, isForNow, playerChanged, tooLarge, unheeded } from "./errors.js";
import { Kept } from "./kept.js";
import { DROPPED, Latest } from "./latest.js";
import { Outbox } from "./outbox.js";
import { randomId, snapshot } from "./payload.js";
import { REQUEST_TIMEOUT_MS } from "./requests.js";

/** More packets than that on their way out: a volatile message would come too late. */
const MAX_BACKLOG = 64;

/**
 * @typedef {object} Settings
 * @property {number} queue messages that wait at most
 * @property {number} pipeline messages to one target that may be on their way at once
 * @property {any} storage where those without a receipt are kept over a reload; null: nowhere
 * @property {string} place in it
 */

export class Sender {
  #connection;
  #requests;
  #outbox;
  #latest;
  #kept;
  #maxBytes = Infinity;
  /** Whose messages these are. @type {string|null} */
  #trueId = null;

  /**
   * @param {import("./connection.js").Connection} connection
   * @param {import("./requests.js").Requests} requests
   * @param {(event: string, value: object) => void} emit events for the game
   * @param {(room: string) => Promise<void>|null} rejoin a room whose member the player was
   * @param {Settings} settings
   */
  constructor(connection, requests, emit, rejoin, { queue, pipeline, storage, place }) {
    this.#connection = connection;
    this.#requests = requests;
    const post = {
      ask: requests.ask.bind(requests),
      cure: (/** @type {any} */ { room }, /** @type {string} */ code) =>
        room !== undefined && code === "not_member" ? rejoin(room) : null,
      changed: () => this.#kept.changed(),
    };
    this.#outbox = new Outbox(post, queue, pipeline);
    this.#latest = new Latest(post, queue, () => connection.socket?.io.engine);
    const letters = () => this.#outbox.letters;
    this.#kept = new Kept(storage, place, letters, () => this.#trueId);
    const kept = this.#kept.read();
    this.#trueId = kept.trueId;
    for (const letter of kept.letters) {
      // Nobody waits for the receipt: the page that did is gone.
      this.#outbox.add(letter).catch(({ code, message }) => {
        emit("error", { code, message, event: letter.event, id: letter.payload.id });
      });
    }
  }

  /** How many messages have no receipt yet. */
  get size() {
    return this.#outbox.size;
  }

  /**
   * @param {string} event
   * @param {{target_id?: string, room?: string, echo?: boolean}} target
   * @param {any} data
   * @param {import("./gateway.d.ts").SendOptions} [options]
   * @returns {Promise<any>} the receipt; rejects with a GatewayError
   */
  send(event, target, data, { type, id = randomId(), volatile, timeout } = {}) {
    let copy;
    try {
      copy = snapshot(data);
    } catch (error) {
      return Promise.reject(error);
    }
    const { value, size } = copy;
    const payload = { ...target, data: value, type };
    if (volatile) return this.#sendNow(event, { ...payload, volatile }, size, timeout);
    if (this.#connection.state === "closed") return Promise.reject(closed());
    const name = target.target_id ?? target.room ?? "";
    const letter = { event, target: name, payload: { ...payload, id }, size, sentAt: null };
    return this.#outbox.add(letter, timeout);
  }

  /**
   * @param {{room: string, key: string, echo?: boolean, type?: string}} target
   * @param {any} data
   * @returns {Promise<any>} the receipt; rejects with a GatewayError
   */
  sendLatest(target, data) {
    // A mistake of the game's own is thrown: nobody may look at the promise.
    const { value, size } = snapshot(data);
    if (this.#connection.state === "closed") return unheeded(Promise.reject(closed()));
    const slot = JSON.stringify([target.room, target.key]);
    return this.#latest.set(slot, { ...target, data: value, volatile: true }, size);
  }

  /** @param {import("./gateway.d.ts").Session} session which is live now */
  start({ true_id: trueId, limits }) {
    if (this.#trueId !== null && this.#trueId !== trueId) {
      // Some may have been accepted from the player of before: sent again, they were doubles.
      this.reject(playerChanged());
    }
    this.#trueId = trueId;
    this.#maxBytes = limits?.message_bytes || Infinity;
    this.#outbox.start(limits);
    this.#latest.start(limits);
  }

  /** The connection is gone. */
  stop() {
    this.#outbox.stop();
    this.#latest.stop();
  }

  /** The page may end: what has no receipt is kept, if it is to be. */
  keep() {
    this.#kept.write();
  }

  /** @param {Error} error why nothing is sent any more */
  reject(error) {
    this.#outbox.reject(error);
    this.#latest.reject(error);
    this.#kept.write();
  }

  /**
   * Now or never: whatever goes wrong on the way, the message is dropped.
   * @param {string} event
   * @param {object} payload
   * @param {number} size bytes
   * @param {number} [timeout] milliseconds
   */
  async #sendNow(event, payload, size, timeout = REQUEST_TIMEOUT_MS) {
    const backlog = this.#connection.socket?.io.engine?.writeBuffer?.length ?? 0;
    if (!this.#connection.live || backlog > MAX_BACKLOG) return DROPPED;
    if (size > this.#maxBytes) throw tooLarge(size, this.#maxBytes);
    let answer;
    try {
      answer = await this.#requests.ask(event, payload, timeout);
    } catch {
      return DROPPED;
    }
    if (answer?.ok) return answer;
    if (isForNow(answer)) return DROPPED;
    throw new GatewayError(answer?.error);
  }
}
