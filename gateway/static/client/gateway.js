/**
 * A client of the gateway: the stock Socket.IO client and what a game would have to write around
 * it. It remembers who it is over a reload, comes back by itself, sends every message until there
 * is a receipt, is in rooms, and tells the gateway whether the tab is looked at.
 *
 *     import { connect } from "/client/gateway.js";
 *     const game = connect({ name: "Ada" });
 *     game.on("message", ({ from, data }) => console.log(from, data));
 *     await game.send(friend, { hello: "world" });
 *     const room = await game.join("match-1");
 *     room.on("message", ({ from, data }) => console.log(from, "to all", data));
 *     await room.publish({ move: "e4" });
 *
 * Types and the meaning of every option are in gateway.d.ts. In Node give it `io` of
 * socket.io-client; without a window it remembers as long as it lives.
 */

import { Connection } from "./connection.js";
import { closed, GatewayError } from "./errors.js";
import { Events } from "./events.js";
import { Memory, storages } from "./memory.js";
import { watchPage } from "./page.js";
import { Presence } from "./presence.js";
import { Requests } from "./requests.js";
import { Rooms } from "./rooms.js";
import { Sender } from "./sender.js";
import { checkIo, loadIo } from "./stock.js";

export { GatewayError };

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
  #requests;
  #sender;
  #rooms;
  #presence;
  #document;
  #window;
  /** @type {(() => void)|null} */
  #unwatchPage = null;
  /** @type {import("./gateway.d.ts").Session|null} */
  #session = null;

  /** @param {import("./gateway.d.ts").Options} options */
  constructor({
    url,
    name,
    auth = { guest: true, name },
    io,
    storage = "session",
    persist = false,
    key = "",
    queue = 1000,
    pipeline = 1,
    window = globalThis.window,
    document = window?.document ?? globalThis.document,
    reconnectionDelay = 1000,
    reconnectionDelayMax = 15_000,
    ...socketOptions
  }) {
    checkIo(io);
    this.#window = window;
    this.#document = document;
    const { origin } = new URL(url ?? "", window?.location?.href ?? globalThis.location?.href);
    const place = ["gateway", origin, socketOptions.path, key].filter(Boolean).join(" ");
    const [tab, shared] = storages(storage, window);
    const emit = this.#events.emit.bind(this.#events);
    this.#connection = new Connection(
      {
        emit,
        onSession: (session) => this.#onSession(session),
        onMessage: (message, handled) =>
          this.#rooms.take(() => {
            emit("message", message);
            this.#rooms.onMessage(message);
            handled();
          }),
        onRoom: (change) => {
          emit("room", change);
          this.#rooms.onChange(change);
        },
        onPresence: (presence) => this.#presence.heard(presence),
        onDown: () => this.#onDown(),
        onEnd: (error) => this.#onEnd(error),
      },
      new Memory(place, tab, shared),
      async () => io ?? loadIo(),
      (stock, fixed) => {
        return stock(url, { rememberUpgrade: true, timeout: 10_000, ...socketOptions, ...fixed });
      },
      auth,
      { delay: reconnectionDelay, delayMax: reconnectionDelayMax },
    );
    this.#requests = new Requests(this.#connection);
    this.#presence = new Presence(this.#connection, this.#requests, emit, document);
    const settings = { queue, pipeline, storage: persist ? tab : null, place: `queue of ${place}` };
    /** @type {(room: string) => Promise<void>|null} */
    const rejoin = (room) => this.#rooms.cure(room);
    this.#sender = new Sender(this.#connection, this.#requests, emit, rejoin, settings);
    this.#rooms = new Rooms(this.#requests, this.#sender, emit);
    this.connect();
  }

  /** What it is doing: `connecting`, `live`, `away` or `closed`. */
  get state() {
    return this.#connection.state;
  }

  /** Whether `state` is `live`. */
  get connected() {
    return this.#connection.live;
  }

  /** The last `session` event. */
  get session() {
    return this.#session;
  }

  /** The player's address. */
  get trueId() {
    return this.#session?.true_id ?? null;
  }

  /** The session, which is this tab's own. */
  get sessionId() {
    return this.#session?.session_id ?? null;
  }

  /** How many messages have no receipt yet. */
  get queued() {
    return this.#sender.size;
  }

  /** The stock client, null until it is loaded. It is another one after the player has changed. */
  get socket() {
    return this.#connection.socket;
  }

  /**
   * @param {keyof import("./gateway.d.ts").Events} event
   * @param {(...values: any[]) => void} handler
   * @returns {() => void} which stops listening
   */
  on(event, handler) {
    return this.#events.on(event, handler);
  }

  /**
   * @param {keyof import("./gateway.d.ts").Events} event
   * @param {(...values: any[]) => void} handler
   * @returns {() => void} which stops listening
   */
  once(event, handler) {
    return this.#events.once(event, handler);
  }

  /**
   * @param {keyof import("./gateway.d.ts").Events} event
   * @param {(...values: any[]) => void} [handler] without it, all of the event's
   */
  off(event, handler) {
    this.#events.off(event, handler);
  }

  /** Connect now: after the end, or instead of waiting. */
  connect() {
    this.#unwatchPage ??= watchPage(this.#document, this.#window, {
      onVisibility: (hidden) => {
        // It may be the last that this page hears.
        if (hidden) this.#sender.keep();
        this.#presence.onVisibility(hidden);
      },
      onReturn: () => {
        this.#connection.hasten();
        this.#presence.onReturn();
      },
      onLeave: () => {
        this.#sender.keep();
        this.#connection.park();
      },
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
    return this.#sender.send("message", { target_id: targetId }, data, options);
  }

  /**
   * Join a room. Membership outlives reconnects and reloads.
   * @param {string} room
   * @returns {Promise<import("./room.js").Room>} rejects with a GatewayError
   */
  join(room) {
    return this.#rooms.join(room);
  }

  /**
   * The same object that `join` returns, without joining: to listen before the first message
   * can come, or where the game's server decides who is a member.
   * @param {string} room
   */
  room(room) {
    return this.#rooms.room(room);
  }

  /**
   * Who is online, page by page.
   * @param {{limit?: number, cursor?: string}} [options] which page
   * @returns {Promise<import("./gateway.d.ts").Players>}
   */
  players({ limit, cursor } = {}) {
    return this.request("players", { limit, cursor });
  }

  /**
   * Hear of these players: at once what they are, then every change, over reconnects too.
   * @param {string|string[]} trueIds
   * @param {(presence: import("./gateway.d.ts").Presence) => void} callback
   * @returns {() => void} which stops watching
   */
  watch(trueIds, callback) {
    return this.#presence.watch([trueIds].flat(), callback);
  }

  /**
   * Say something of this player to who watches them. Repeated on reconnects.
   * @param {string|null} status
   * @returns {Promise<{ok: true}>}
   */
  setStatus(status) {
    return this.#presence.setStatus(status);
  }

  /**
   * Ask for anything else; waits until the client is live.
   * @param {string} event
   * @param {object} [payload]
   * @param {{timeout?: number}} [options] milliseconds
   * @returns {Promise<any>} the answer; rejects with a GatewayError
   */
  request(event, payload = {}, { timeout } = {}) {
    return this.#requests.request(event, payload, timeout);
  }

  /**
   * End the session, or all of this player. Whatever comes of it, this tab forgets the player.
   * @param {{everywhere?: boolean}} [options]
   */
  async logout({ everywhere = false } = {}) {
    try {
      if (!this.connected) await this.#requests.whenLive("logout");
      // The gateway disconnects after its answer.
      this.#connection.leaving = true;
      await this.request("logout", { everywhere });
    } finally {
      this.#connection.forget();
      this.#connection.end(new GatewayError({ code: "logged_out", message: "logged out" }));
    }
  }

  /** @param {import("./gateway.d.ts").Session} session */
  #onSession(session) {
    this.#session = session;
    this.#rooms.onSession(session);
    this.#events.emit("session", session);
    if (session.gap) this.#events.emit("lost", { ...session.gap, outcome: session.outcome });
    // A handler may have closed it.
    if (!this.connected) return;
    this.#requests.release();
    this.#sender.start(session);
    this.#presence.restore();
  }

  #onDown() {
    this.#sender.stop();
    this.#presence.onDown();
  }

  /** @param {GatewayError} error */
  #onEnd(error) {
    this.#unwatchPage?.();
    this.#unwatchPage = null;
    this.#rooms.end();
    this.#requests.reject(error);
    this.#sender.reject(error);
  }
}
