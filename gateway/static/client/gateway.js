/**
 * A client of the gateway: the stock Socket.IO client and what a game would have to write around
 * it. It remembers who it is over a reload, comes back by itself, sends every message until there
 * is a receipt, and tells the gateway whether the tab is looked at.
 *
 *     import { connect } from "/client/gateway.js";
 *     const client = connect({ name: "Ada" });
 *     client.on("message", ({ from, data }) => console.log(from, data));
 *     await client.send(friend, { hello: "world" });
 *
 * Types and the meaning of every option are in gateway.d.ts. In Node give it `io` of
 * socket.io-client; without a window it remembers as long as it lives.
 */

import { Connection } from "./connection.js";
import { Events } from "./events.js";
import { Memory, storages } from "./memory.js";
import {
  GatewayError,
  isForNow,
  Outbox,
  randomId,
  snapshot,
  spread,
  timedOut,
  tooLarge,
} from "./outbox.js";
import { watchPage } from "./page.js";

export { GatewayError };

const REQUEST_TIMEOUT_MS = 10_000;
/** How long a tab that is looked at again waits for a sign of life of its connection. */
const PROBE_MS = 500;
/** More packets than that on their way out: a volatile message would come too late. */
const MAX_BACKLOG = 64;

/**
 * @param {import("./gateway.d.ts").Options} [options]
 * @returns {GatewayClient} which is connecting already
 */
export function connect(options = {}) {
  return new GatewayClient(options);
}

/** Made by `connect`. */
export class GatewayClient {
  #connection;
  #events = new Events();
  #outbox;
  #document;
  #window;
  #unwatchPage = null;
  #session = null;
  /** Who waits until it is live. @type {Set<{resolve: Function, reject: Function}>} */
  #waiters = new Set();
  /** @type {Set<string>} */
  #watched = new Set();
  /** @type {{state: "active"|"hidden", status?: string}} */
  #presence = { state: "active" };
  /** What the gateway is being told. */
  #telling = null;
  #tellAgain = null;

  /** @param {import("./gateway.d.ts").Options} options */
  constructor({
    url,
    name,
    auth = { guest: true, name },
    io = globalThis.io,
    storage = "session",
    key = "",
    queue = 1000,
    pipeline = 1,
    window = globalThis.window,
    document = window?.document ?? globalThis.document,
    reconnectionDelay = 1000,
    reconnectionDelayMax = 15_000,
    ...socketOptions
  }) {
    if (typeof io !== "function") throw new TypeError("give `io` of socket.io-client 4");
    this.#window = window;
    this.#document = document;
    const { origin } = new URL(url ?? "", window?.location?.href ?? globalThis.location?.href);
    const place = ["gateway", origin, socketOptions.path, key].filter(Boolean).join(" ");
    const owner = {
      emit: (event, ...values) => this.#events.emit(event, ...values),
      onSession: (session) => this.#onSession(session),
      onDown: () => this.#onDown(),
      onEnd: (error) => this.#onEnd(error),
    };
    this.#connection = new Connection(
      owner,
      new Memory(place, ...storages(storage, window)),
      (fixed) => io(url, { rememberUpgrade: true, timeout: 10_000, ...socketOptions, ...fixed }),
      auth,
      { delay: reconnectionDelay, delayMax: reconnectionDelayMax },
    );
    this.#outbox = new Outbox((event, payload, ms) => this.#ask(event, payload, ms), queue, pipeline);
    this.connect();
  }

  get state() {
    return this.#connection.state;
  }

  get connected() {
    return this.#connection.live;
  }

  /** The last `session` event. */
  get session() {
    return this.#session;
  }

  get trueId() {
    return this.#session?.true_id ?? null;
  }

  get sessionId() {
    return this.#session?.session_id ?? null;
  }

  /** How many messages have no receipt yet. */
  get queued() {
    return this.#outbox.size;
  }

  /** The stock client. It is another one after the player has changed. */
  get socket() {
    return this.#connection.socket;
  }

  /** @returns {() => void} which stops listening */
  on(event, handler) {
    return this.#events.on(event, handler);
  }

  once(event, handler) {
    return this.#events.once(event, handler);
  }

  off(event, handler) {
    this.#events.off(event, handler);
  }

  /** Connect now: after the end, or instead of waiting. */
  connect() {
    this.#unwatchPage ??= watchPage(this.#document, this.#window, {
      onVisibility: (hidden) => {
        this.#presence.state = hidden ? "hidden" : "active";
        if (hidden) this.#tellPresence();
      },
      onReturn: () => {
        this.#connection.hasten();
        this.#tellPresence(true);
      },
      onLeave: () => this.#connection.park(),
    });
    this.#connection.connect();
  }

  /** Stop. The token is kept: the next `connect` with the same storage goes on. */
  close() {
    this.#connection.end(closed());
  }

  /**
   * Send a message until there is a receipt; in order, and it arrives once.
   * @param {string} targetId
   * @param {any} data
   * @param {import("./gateway.d.ts").SendOptions} [options]
   * @returns {Promise<import("./gateway.d.ts").Receipt>} rejects with a GatewayError
   */
  send(targetId, data, options) {
    return this.#submit("message", { target_id: targetId }, targetId, data, options);
  }

  /**
   * The same, to a room.
   * @param {string} room
   * @param {any} data
   * @param {import("./gateway.d.ts").PublishOptions} [options]
   * @returns {Promise<import("./gateway.d.ts").Receipt>}
   */
  publish(room, data, { key, echo, ...options } = {}) {
    return this.#submit("publish", { room, key, echo }, room, data, options);
  }

  /**
   * Ask for anything else; waits until the client is live.
   * @param {string} event
   * @param {object} [payload]
   * @param {{timeout?: number}} [options] milliseconds
   * @returns {Promise<any>} the answer; rejects with a GatewayError
   */
  async request(event, payload = {}, { timeout = REQUEST_TIMEOUT_MS } = {}) {
    const deadline = Date.now() + timeout;
    for (;;) {
      const left = () => Math.max(1, deadline - Date.now());
      if (!this.connected) await this.#whenLive(event, left());
      const { round } = this.#connection;
      let answer;
      try {
        answer = await this.#ask(event, payload, left());
      } catch {
        if (this.#connection.leaving) throw closed();
        if (this.#connection.round === round || Date.now() >= deadline) throw timedOut(event);
        // All of these may be asked again over the next connection.
        continue;
      }
      if (answer?.ok) return answer;
      throw new GatewayError(answer?.error);
    }
  }

  join(room) {
    return this.request("join", { room });
  }

  leave(room) {
    return this.request("leave", { room });
  }

  /** @param {{limit?: number, cursor?: string}} [options] which page of who is online */
  players({ limit, cursor } = {}) {
    return this.request("players", { limit, cursor });
  }

  /**
   * The tab's visibility is told by itself; what is set here is repeated on reconnects.
   * @param {{state?: "active"|"hidden", status?: string}} presence
   */
  presenceSet({ state = this.#presence.state, status } = {}) {
    this.#presence.state = state;
    if (status !== undefined) this.#presence.status = status;
    return this.request("presence_set", { ...this.#presence });
  }

  /**
   * Hear of these players, over reconnects too.
   * @param {string[]} trueIds
   * @returns {Promise<Record<string, import("./gateway.d.ts").Presence>>} as they are now
   */
  async presenceWatch(trueIds) {
    const answer = await this.request("presence_watch", { true_ids: trueIds });
    for (const trueId of trueIds) this.#watched.add(trueId);
    return answer.presence;
  }

  /** @param {string[]} trueIds */
  async presenceUnwatch(trueIds) {
    for (const trueId of trueIds) this.#watched.delete(trueId);
    await this.request("presence_unwatch", { true_ids: trueIds });
  }

  /**
   * End the session, or all of this player. Whatever comes of it, this tab forgets the player.
   * @param {{everywhere?: boolean}} [options]
   */
  async logout({ everywhere = false } = {}) {
    try {
      if (!this.connected) await this.#whenLive("logout", REQUEST_TIMEOUT_MS);
      // The gateway disconnects after its answer.
      this.#connection.leaving = true;
      await this.request("logout", { everywhere });
    } finally {
      this.#connection.forget();
      this.#connection.end(new GatewayError({ code: "logged_out", message: "logged out" }));
    }
  }

  #submit(event, target, lane, data, /** @type {any} */ options = {}) {
    const { type, id = randomId(), volatile, timeout } = options;
    let copy;
    try {
      copy = snapshot(data);
    } catch (error) {
      return Promise.reject(error);
    }
    const payload = { ...target, data: copy.value, type };
    if (volatile) return this.#sendNow(event, { ...payload, volatile }, copy.size, timeout);
    if (this.state === "closed") return Promise.reject(closed());
    return this.#outbox.add(event, lane, { ...payload, id }, copy.size, timeout);
  }

  /** Now or never: whatever goes wrong on the way, the message is dropped. */
  async #sendNow(event, payload, size, timeout = REQUEST_TIMEOUT_MS) {
    const dropped = { ok: true, id: null, status: "dropped", connections: 0, duplicate: false };
    const backlog = this.socket?.io.engine?.writeBuffer?.length ?? 0;
    if (!this.connected || backlog > MAX_BACKLOG) return dropped;
    const maxBytes = this.#session.limits?.message_bytes || Infinity;
    if (size > maxBytes) throw tooLarge(size, maxBytes);
    let answer;
    try {
      answer = await this.#ask(event, payload, timeout);
    } catch {
      return dropped;
    }
    if (answer?.ok) return answer;
    if (isForNow(answer)) return dropped;
    throw new GatewayError(answer?.error);
  }

  /** Ask over the connection there is. Rejects when no answer comes. */
  #ask(event, payload, timeout) {
    if (!this.connected) return Promise.reject(new Error("away"));
    return this.socket.timeout(timeout).emitWithAck(event, payload);
  }

  #whenLive(event, timeout) {
    if (this.state === "closed" || this.#connection.leaving) return Promise.reject(closed());
    return new Promise((resolve, reject) => {
      const settle = (how, error) => {
        clearTimeout(timer);
        this.#waiters.delete(waiter);
        how(error);
      };
      const waiter = {
        resolve: () => settle(resolve),
        reject: (error) => settle(reject, error),
      };
      const timer = setTimeout(() => waiter.reject(timedOut(event)), timeout);
      this.#waiters.add(waiter);
    });
  }

  #onSession(session) {
    const before = this.trueId;
    this.#session = session;
    if (before !== null && before !== session.true_id) {
      // Some may have been accepted from the player of before: sent again, they were doubles.
      const message = "the player is another one now";
      this.#outbox.reject(new GatewayError({ code: "player_changed", message }));
      this.#watched.clear();
    }
    this.#events.emit("session", session);
    if (session.gap) this.#events.emit("lost", { ...session.gap, outcome: session.outcome });
    if (!this.connected) return;
    for (const waiter of [...this.#waiters]) waiter.resolve();
    this.#outbox.start(session.limits?.message_bytes);
    this.#restorePresence();
  }

  /** The gateway takes a new connection for active, and it watches nobody. */
  async #restorePresence() {
    if (this.#document) this.#presence.state = this.#document.hidden ? "hidden" : "active";
    if (this.#presence.state !== "active" || this.#presence.status) this.#tellPresence();
    if (!this.#watched.size) return;
    const event = "presence_watch";
    try {
      const { presence } = await this.request(event, { true_ids: [...this.#watched] });
      for (const record of Object.values(presence)) this.#events.emit("presence", record);
    } catch ({ code, message }) {
      if (this.connected) this.#events.emit("error", { code, message, event });
    }
  }

  #onDown() {
    this.#outbox.stop();
    this.#telling = null;
    clearTimeout(this.#tellAgain);
  }

  #onEnd(error) {
    this.#unwatchPage?.();
    this.#unwatchPage = null;
    for (const waiter of [...this.#waiters]) waiter.reject(error);
    this.#outbox.reject(error);
  }

  /**
   * Tell the gateway whether the tab is looked at. The connection of a tab that slept may look
   * open and be dead: as a `probe`, an answer has to come at once.
   */
  async #tellPresence(probe = false) {
    const telling = `${this.#presence.state} ${probe}`;
    if (!this.connected || this.#telling === telling) return;
    this.#telling = telling;
    const { round } = this.#connection;
    try {
      const timeout = probe ? PROBE_MS : REQUEST_TIMEOUT_MS;
      const { error } = await this.#ask("presence_set", { ...this.#presence }, timeout);
      if (error?.code === "rate_limited") {
        clearTimeout(this.#tellAgain);
        this.#tellAgain = setTimeout(() => this.#tellPresence(), spread(error.retry_after ?? 1));
      }
    } catch {
      const same = this.#connection.round === round && this.connected;
      if (probe && same) this.#connection.restart("no answer");
    }
    if (this.#telling === telling) this.#telling = null;
  }
}

/** @returns {GatewayError} */
function closed() {
  return new GatewayError({ code: "closed", message: "the client is closed" });
}
