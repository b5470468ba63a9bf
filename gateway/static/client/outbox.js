/**
 * Messages on their way. Each keeps its idempotency key until a receipt settles it, so it may be
 * sent again after a timeout or a reconnect, and still arrives once.
 *
 * Messages to one target form a lane: what follows waits, so that nothing overtakes a message
 * which the gateway asked to send again later.
 */

const ACK_TIMEOUT_MS = 10_000;
/** Messages on their way at once, in all lanes together. */
const MAX_WINDOW = 256;
const PAUSE_SECONDS = 1;
/** Refusals that say "later"; others are final. */
const LATER = new Set(["unavailable", "rate_limited"]);

/** A refusal, or why a promise cannot be kept. `retryAfter` is in seconds. */
export class GatewayError extends Error {
  /** @param {{code?: string, message?: string, field?: string, retry_after?: number|null}} [error] */
  constructor({ code = "unknown", message, field, retry_after: retryAfter } = {}) {
    super(message || code);
    this.name = "GatewayError";
    this.code = code;
    this.field = field;
    this.retryAfter = retryAfter ?? undefined;
  }
}

/** Tell whether an answer is a refusal that says "later". */
export function isForNow(answer) {
  return answer?.ok === false && LATER.has(answer.error?.code);
}

/** @returns {string} a key no other message has; plain http has no `randomUUID` */
export function randomId() {
  if (typeof crypto.randomUUID === "function") return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Take a copy of what is to be sent: the caller may change theirs before it goes.
 * @returns {{value: any, size: number}} `size` is in bytes
 */
export function snapshot(data) {
  const text = JSON.stringify(data, (key, value) => {
    if (!(value instanceof ArrayBuffer) && !ArrayBuffer.isView(value)) return value;
    throw new TypeError("binary data cannot be sent: make it base64 text");
  });
  if (text === undefined) throw new TypeError("data has to be JSON");
  return { value: JSON.parse(text), size: new TextEncoder().encode(text).length };
}

/** Wait a little longer than the gateway asked for: others were asked, too. */
export function spread(seconds) {
  return seconds * 1000 * (1 + Math.random() * 0.2);
}

export class Outbox {
  #ask;
  #limit;
  #pipeline;
  /** @type {Map<string, object[]>} */
  #lanes = new Map();
  #waiting = 0;
  #flying = 0;
  #window = MAX_WINDOW;
  #live = false;
  #pause = null;
  #maxBytes = Infinity;

  /**
   * @param {(event: string, payload: object, timeout: number) => Promise<any>} ask
   * @param {number} limit of messages that wait
   * @param {number} pipeline messages to one target that may be on their way at once
   */
  constructor(ask, limit, pipeline) {
    this.#ask = ask;
    this.#limit = limit;
    this.#pipeline = pipeline;
  }

  /** How many messages have no receipt yet. */
  get size() {
    return this.#waiting;
  }

  /**
   * @param {string} event
   * @param {string} target
   * @param {{id: string}} payload
   * @param {number} size bytes of its data
   * @param {number} [timeout] milliseconds until the message is given up
   * @returns {Promise<any>} the receipt; rejects with a GatewayError
   */
  add(event, target, payload, size, timeout) {
    if (this.#waiting >= this.#limit) {
      const message = `${this.#limit} messages wait already`;
      return Promise.reject(new GatewayError({ code: "queue_full", message }));
    }
    const lane = `${event} ${target}`;
    const entry = { event, lane, payload, size, flight: null, timer: undefined };
    entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    if (timeout !== undefined) {
      entry.timer = setTimeout(() => this.#settle(entry, timedOut(event)), timeout);
    }
    if (!this.#lanes.has(lane)) this.#lanes.set(lane, []);
    this.#lanes.get(lane).push(entry);
    this.#waiting += 1;
    this.#pump();
    return entry.promise;
  }

  /** The connection is live: all that has no receipt goes out, in order. */
  start(maxBytes = Infinity) {
    this.#live = true;
    this.#maxBytes = maxBytes || Infinity;
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

  /** Give up everything. It is no fault then that nobody waits for a receipt. */
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

  async #send(entry) {
    if (entry.size > this.#maxBytes) {
      this.#settle(entry, tooLarge(entry.size, this.#maxBytes));
      return;
    }
    const flight = Symbol();
    entry.flight = flight;
    this.#flying += 1;
    let answer = null;
    try {
      answer = await this.#ask(entry.event, entry.payload, ACK_TIMEOUT_MS);
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
    } else if (answer && !isForNow(answer)) {
      this.#settle(entry, new GatewayError(answer.error));
    } else {
      this.#rest(answer?.error.retry_after ?? PAUSE_SECONDS);
    }
  }

  /** What the gateway refused for now is a matter of the connection or of its store: all wait. */
  #rest(seconds) {
    this.#window = 1;
    if (!this.#live || this.#pause !== null) return;
    this.#pause = setTimeout(() => {
      this.#pause = null;
      this.#pump();
    }, spread(seconds));
  }

  #settle(entry, error, receipt) {
    const lane = this.#lanes.get(entry.lane);
    const index = lane?.indexOf(entry) ?? -1;
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
    if (error) entry.reject(error);
    else entry.resolve(receipt);
    this.#pump();
  }
}

/** The gateway closes a connection over a packet that is far too large: it is not even sent. */
export function tooLarge(size, allowed) {
  const message = `data has ${size} bytes, ${allowed} are allowed`;
  return new GatewayError({ code: "too_large", message, field: "data" });
}

/** @returns {GatewayError} */
export function timedOut(event) {
  return new GatewayError({ code: "timeout", message: `no answer to ${event} in time` });
}
