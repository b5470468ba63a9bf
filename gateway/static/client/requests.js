/** Questions to the gateway, and who waits until it can be asked. */

import { closed, GatewayError, isForNow, timedOut } from "./errors.js";
import { spread } from "./payload.js";

export const REQUEST_TIMEOUT_MS = 10_000;

export class Requests {
  #connection;
  /** @type {Set<{resolve: () => void, reject: (error: Error) => void}>} */
  #waiters = new Set();

  /** @param {import("./connection.js").Connection} connection */
  constructor(connection) {
    this.#connection = connection;
  }

  /**
   * Ask over the connection there is.
   * @param {string} event
   * @param {object} payload
   * @param {number} timeout milliseconds
   * @returns {Promise<any>} rejects when no answer comes
   */
  ask(event, payload, timeout) {
    if (!this.#connection.live) return Promise.reject(new Error("away"));
    return this.#connection.socket.timeout(timeout).emitWithAck(event, payload);
  }

  /**
   * Ask for what may be asked twice; waits until the client is live.
   * @param {string} event
   * @param {object} payload
   * @param {number} timeout milliseconds
   * @returns {Promise<any>} the answer; rejects with a GatewayError
   */
  async request(event, payload, timeout = REQUEST_TIMEOUT_MS) {
    const deadline = Date.now() + timeout;
    for (;;) {
      const left = () => Math.max(1, deadline - Date.now());
      if (!this.#connection.live) await this.whenLive(event, left());
      const { round } = this.#connection;
      let answer;
      try {
        answer = await this.ask(event, payload, left());
      } catch {
        if (this.#connection.leaving) throw closed();
        if (this.#connection.round === round || Date.now() >= deadline) throw timedOut(event);
        continue;
      }
      if (answer?.ok) return answer;
      throw new GatewayError(answer?.error);
    }
  }

  /**
   * The same, as often as the gateway says "later".
   * @param {string} event
   * @param {object} payload
   * @param {() => boolean} wanted whether to ask again; by default as long as this connection lasts
   * @returns {Promise<any>}
   */
  async insist(event, payload, wanted = this.#thisConnection()) {
    for (;;) {
      try {
        return await this.request(event, payload);
      } catch (/** @type {any} */ error) {
        if (!isForNow({ ok: false, error }) || !wanted()) throw error;
        await new Promise((resolve) => setTimeout(resolve, spread(error.retryAfter ?? 1)));
      }
    }
  }

  #thisConnection() {
    const { round } = this.#connection;
    return () => this.#connection.round === round;
  }

  /**
   * @param {string} event which has to wait
   * @param {number} [timeout] milliseconds
   * @returns {Promise<void>}
   */
  whenLive(event, timeout = REQUEST_TIMEOUT_MS) {
    if (this.#connection.state === "closed" || this.#connection.leaving) {
      return Promise.reject(closed());
    }
    return new Promise((resolve, reject) => {
      /** @param {() => void} how */
      const settle = (how) => {
        clearTimeout(timer);
        this.#waiters.delete(waiter);
        how();
      };
      const waiter = {
        resolve: () => settle(resolve),
        reject: (/** @type {Error} */ error) => settle(() => reject(error)),
      };
      const timer = setTimeout(() => waiter.reject(timedOut(event)), timeout);
      this.#waiters.add(waiter);
    });
  }

  /** The client is live. */
  release() {
    for (const waiter of [...this.#waiters]) waiter.resolve();
  }

  /** @param {Error} error why it will not be live */
  reject(error) {
    for (const waiter of [...this.#waiters]) waiter.reject(error);
  }
}
