/**
 * The connection: when to connect, what to present, and what a refusal or a disconnect means.
 *
 * The stock client's own reconnection is off. Its wait cannot be cut short when a tab comes back,
 * and it knows nothing of `retry_after`.
 */

import { GatewayError } from "./errors.js";
import { spread } from "./payload.js";

/** An attempt that is older was begun before the tab slept or the network changed. */
const STALE_ATTEMPT_MS = 1000;
/** A page that was frozen hears of its loss just after it is back, and does not wait then. */
const RETURN_MS = 2000;
/** A connection that lasted so long is a new start for the backoff. */
const STABLE_MS = 5000;
const FIGHT_MS = 30_000;

/**
 * @typedef {object} Owner
 * @property {(event: string, ...values: any[]) => void} emit events for the game
 * @property {(session: any) => void} onSession
 * @property {(message: any, handled: () => void) => void} onMessage
 * @property {(room: any) => void} onRoom
 * @property {(presence: any) => void} onPresence
 * @property {() => void} onDown no answer will come any more to what was asked
 * @property {(error: GatewayError) => void} onEnd it will not connect again by itself
 */

export class Connection {
  #owner;
  #memory;
  #loadIo;
  #makeSocket;
  #auth;
  #delay;
  #delayMax;
  /** The stock client. @type {any} */
  socket = null;
  /** @type {"connecting"|"live"|"away"|"closed"} */
  state = "closed";
  /** Logging out or disconnecting on purpose: a disconnect is no loss. */
  leaving = false;
  /** Counts attempts: what belongs to an older one is ignored. */
  round = 0;
  /** @type {any} */
  #io = null;
  /** @type {any} */
  #credentials = null;
  #asking = false;
  #wasLive = false;
  /** @type {any} */
  #retry = null;
  /** The gateway asked for this wait; only a person may cut it short. */
  #imposed = false;
  #failures = 0;
  #attemptAt = -Infinity;
  #liveAt = -Infinity;
  #returnedAt = -Infinity;
  #takenOverAt = -Infinity;

  /**
   * @param {Owner} owner
   * @param {import("./memory.js").Memory} memory
   * @param {() => Promise<any>} loadIo returns `io` of the stock client
   * @param {(io: any, options: object) => any} makeSocket returns a new stock client
   * @param {any} auth credentials, or a function that returns them or a promise of them
   * @param {{delay: number, delayMax: number}} backoff milliseconds
   */
  constructor(owner, memory, loadIo, makeSocket, auth, { delay, delayMax }) {
    this.#owner = owner;
    this.#memory = memory;
    this.#loadIo = loadIo;
    this.#makeSocket = makeSocket;
    this.#auth = auth;
    this.#delay = delay;
    this.#delayMax = delayMax;
  }

  get live() {
    return this.state === "live";
  }

  /** Connect now, whatever the wait was for. */
  connect() {
    if (this.state !== "closed") {
      if (this.#retry !== null) this.#open();
      return;
    }
    this.leaving = false;
    this.#wasLive = false;
    this.#setState("connecting", "");
    this.#open();
  }

  /** The tab or the network is back: skip our own wait, keep to one that the gateway asked for. */
  hasten() {
    this.#returnedAt = Date.now();
    if (this.#imposed || this.#asking) return;
    if (this.#retry !== null) this.#open();
    else if (!this.live && Date.now() - this.#attemptAt > STALE_ATTEMPT_MS) this.restart("stale");
  }

  /**
   * Begin anew: the connection, or the attempt to get one, is dead.
   * @param {string} reason
   */
  restart(reason) {
    this.#disconnect();
    this.#wait(0, reason);
  }

  /** The page goes, perhaps for good; if not, `hasten` brings the connection back. */
  park() {
    if (this.#imposed || this.#asking) return;
    this.#disconnect();
    this.#wait(this.#delayMax, "pagehide");
  }

  /** Log in anew the next time, in this tab and in those to come. */
  forget() {
    this.#memory.forgetAll();
  }

  /**
   * Stop.
   * @param {GatewayError} error why
   */
  end(error) {
    if (this.state === "closed") return;
    this.leaving = true;
    this.#stopWaiting();
    this.round += 1;
    this.#asking = false;
    this.#credentials = null;
    this.#failures = 0;
    this.#discard();
    this.#owner.onDown();
    this.#setState("closed", error.code);
    this.#owner.onEnd(error);
  }

  async #open() {
    this.#stopWaiting();
    const round = ++this.round;
    this.#attemptAt = Date.now();
    this.#memory.refresh();
    if (!(await this.#prepare(round))) return;
    this.socket ??= this.#newSocket();
    this.socket.connect();
  }

  /**
   * Get what connecting needs: the stock client, and credentials if there is no token. They are
   * asked for before the connection is opened: who types a password takes their time.
   * @param {number} round
   * @returns {Promise<boolean>} whether to go on
   */
  async #prepare(round) {
    const asks = this.#memory.token === null && this.#credentials === null;
    let event = "connect";
    let credentials = this.#credentials;
    try {
      if (this.#io === null) {
        const io = await this.#loadIo();
        if (typeof io !== "function") throw new TypeError("that is no socket.io-client 4");
        this.#io = io;
      }
      if (round !== this.round) return false;
      if (!asks) return true;
      event = "auth";
      this.#asking = true;
      credentials = await (typeof this.#auth === "function" ? this.#auth() : this.#auth);
    } catch (error) {
      if (round !== this.round) return false;
      this.#asking = false;
      const code = event === "auth" ? "auth_failed" : "client_missing";
      this.#owner.emit("error", { code, message: String(error), event });
      if (round === this.round) this.#wait(this.#backoff(), code);
      return false;
    }
    if (round !== this.round) return false;
    this.#asking = false;
    this.#credentials = credentials;
    if (credentials) return true;
    this.end(new GatewayError({ code: "bad_credentials", message: "no credentials" }));
    return false;
  }

  #newSocket() {
    const socket = this.#makeSocket(this.#io, {
      forceNew: true,
      autoConnect: false,
      reconnection: false,
      auth: (/** @type {(auth: any) => void} */ present) => present(this.#presented()),
    });
    // One argument only: a trailing one is the stock client's offset.
    /** @type {(event: string, handler: (value: any) => void) => void} */
    const on = (event, handler) => socket.on(event, (/** @type {any} */ value) => handler(value ?? {}));
    on("session", (session) => this.#onSession(session));
    on("message", (message) => {
      // Only once it is handled: after a crash in a handler it comes again.
      const { era } = this.#memory;
      this.#owner.onMessage(message, () => message.id && this.#memory.saw(message.id, era));
    });
    on("presence", (presence) => this.#owner.onPresence(presence));
    on("room", (change) => this.#owner.onRoom(change));
    on("error", (error) => this.#owner.emit("error", error));
    on("goaway", (notice) => this.#onGoaway(notice));
    on("disconnect", (reason) => this.#onDisconnect(reason));
    on("connect_error", (error) => this.#onConnectError(error));
    return socket;
  }

  /**
   * What goes with CONNECT. The stock client adds its pid and its own offset; ours outlives a
   * reload, and is undefined where the stock client's would be of a store that is gone.
   */
  #presented() {
    const { token, offset } = this.#memory;
    return token === null ? this.#credentials : { token, offset: offset ?? undefined };
  }

  /** @param {any} session */
  #onSession(session) {
    // First of all: the token that was presented is spent.
    this.#memory.accept(session);
    this.#credentials = null;
    this.#wasLive = true;
    this.#liveAt = Date.now();
    this.#setState("live", "");
    // Unless a handler has closed it just now.
    if (this.live) this.#owner.onSession(session);
  }

  /** @param {any} notice */
  #onGoaway(notice) {
    this.#owner.emit("goaway", notice);
    if (this.state === "closed") return;
    this.#disconnect();
    this.#wait(spread(notice.reconnect_in ?? 1), notice.reason ?? "goaway", true);
  }

  /** @param {string} reason */
  #onDisconnect(reason) {
    // What waits in the stock client would go out before older messages of ours.
    this.socket.sendBuffer.length = 0;
    this.#owner.onDown();
    if (Date.now() - this.#liveAt > STABLE_MS) this.#failures = 0;
    if (this.leaving) return;
    if (reason === "io server disconnect") {
      this.#onServerClose(reason);
      return;
    }
    const back = Date.now() - this.#returnedAt < RETURN_MS;
    // Once for each return: what is lost again has another reason.
    this.#returnedAt = -Infinity;
    const delay = this.#backoff();
    this.#wait(back ? 0 : delay, reason);
  }

  /**
   * Taken over, logged out elsewhere or removed: asking once more tells which.
   * @param {string} reason
   */
  #onServerClose(reason) {
    const fight = Date.now() - this.#takenOverAt < FIGHT_MS;
    this.#takenOverAt = Date.now();
    // Twice in a row: somebody else holds this session and is alive, such as the copy of a tab
    // that was asleep. A pid would take it from them; a token alone gets a session of its own.
    if (fight) this.#discard();
    this.#wait(this.#backoff(), reason);
  }

  /** @param {{message: string, data?: any}} error */
  #onConnectError({ message, data }) {
    const { code, reconnect = false, retry_after: seconds = null } = data ?? {};
    if (!code) {
      this.#wait(this.#backoff(), message);
      return;
    }
    // A ban is the player's, not the token's: forgetting it would make a new guest of them.
    const again = !reconnect && this.#memory.token !== null && code !== "banned";
    const final = !reconnect && !again;
    const { round } = this;
    this.#owner.emit("refused", { code, message, reconnect, retryAfter: seconds, final });
    if (round !== this.round) return;
    if (reconnect) {
      const delay = this.#backoff();
      this.#wait(seconds === null ? delay : spread(seconds), code, seconds !== null);
    } else if (again) {
      this.#memory.forget();
      // The stock client would present its pid again.
      this.#discard();
      this.#open();
    } else {
      this.end(new GatewayError({ code, message, retry_after: seconds }));
    }
  }

  /** Half of the delay is random: clients of a gateway that restarted do not come in step. */
  #backoff() {
    const full = Math.min(this.#delayMax, this.#delay * 2 ** this.#failures++);
    return full / 2 + (Math.random() * full) / 2;
  }

  /**
   * @param {number} delay milliseconds
   * @param {string} reason
   */
  #wait(delay, reason, imposed = false) {
    this.#stopWaiting();
    this.round += 1;
    this.#imposed = imposed;
    this.#retry = setTimeout(() => this.#open(), delay);
    this.#setState(this.#wasLive ? "away" : "connecting", reason);
  }

  #stopWaiting() {
    clearTimeout(this.#retry);
    this.#retry = null;
    this.#imposed = false;
  }

  /** Disconnect without taking that for a loss. */
  #disconnect() {
    const { leaving } = this;
    this.leaving = true;
    this.socket?.disconnect();
    this.leaving = leaving;
  }

  #discard() {
    this.socket?.off();
    this.socket?.disconnect();
    this.socket = null;
  }

  /**
   * @param {"connecting"|"live"|"away"|"closed"} state
   * @param {string} reason
   */
  #setState(state, reason) {
    if (state === this.state) return;
    this.state = state;
    this.#owner.emit("state", state, reason);
  }
}
