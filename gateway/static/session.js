/**
 * The connection and whose it is. Wraps the stock Socket.IO client and decides
 * when to connect, what to present, and what a refusal or a disconnect means.
 *
 * Events (CustomEvent, payload in `detail`):
 * - `state`     {state, reason, code}
 * - `session`   {session, socketId, before, reloaded, downSince}
 * - `message`   {envelope, replayed}
 * - `presence`  a presence record
 * - `transport` the transport's name
 * - `notice`    {text, tone}: a line for the timeline
 * - `signedout` {code, reason}
 */

import { backoff, RetryTimer, spread } from "./retry.js";
import { createSocket } from "./socket.js";
import { disconnectReason, refusal } from "./wording.js";

/** Refusals after which the stored token is worthless. */
const FORGET_TOKEN = new Set(["token_expired", "token_invalid", "token_reused", "session_revoked"]);
const DROP_PAUSE_MS = 2000;
const STABLE_MS = 5000;
const RETURN_MS = 2000;
const ASK_AGAIN_MS = 30_000;

export class GatewaySession extends EventTarget {
  /** @param {import("./identity.js").Identity} identity */
  constructor(identity) {
    super();
    this.identity = identity;
    this.retry = new RetryTimer(() => this.#connect());
    this.socket = null;
    this.state = "offline";
    this.attempts = 0;
    this.liveSince = Infinity;
    this.downSince = 0;
    this.askedAfterServerClose = -Infinity;
    this.returnedAt = -Infinity;
    this.missedLeft = 0;
    this.freshPage = true;
    this.leaving = false;
    this.dropping = false;
  }

  get live() {
    return this.state === "live" && Boolean(this.socket?.connected);
  }

  /**
   * Join with typed credentials; a player of before is forgotten first.
   * @param {import("./identity.js").Credentials} credentials
   */
  signIn(credentials) {
    this.identity.replace(credentials);
    this.open();
  }

  /**
   * Ask the server something.
   * @param {string} event
   * @param {object} payload
   * @param {number} [timeout] milliseconds
   * @returns {Promise<any>} the ack; rejects on timeout or when the connection breaks
   */
  request(event, payload, timeout = 5000) {
    if (!this.live) return Promise.reject(new Error("not connected"));
    return this.socket.timeout(timeout).emitWithAck(event, payload);
  }

  /** Cut the transport below Socket.IO, as a bad network would. */
  drop() {
    if (!this.live) return;
    this.dropping = true;
    this.socket.io.engine.close();
  }

  /** A person asked for it: connect now, whatever the wait was for. */
  connectNow() {
    if (this.socket && !this.socket.connected) this.retry.fire();
  }

  /** The tab or the network is back: skip our own wait, keep to one the server asked for. */
  hasten() {
    this.returnedAt = Date.now();
    if (this.retry.waiting && !this.retry.imposed) this.retry.fire();
  }

  /** @param {boolean} everywhere end all sessions of this player, not just this tab's */
  async logout(everywhere) {
    let reason = everywhere ? "You logged out everywhere." : "You logged out.";
    this.leaving = true;
    try {
      const answer = await this.request("logout", { everywhere });
      if (answer?.ok === false) throw new Error(answer.error?.message);
    } catch {
      reason = everywhere
        ? "Only this tab was logged out: the server could not be told."
        : "Logged out here. The server could not be told; its session will expire.";
    }
    this.#signOut("logged_out", reason);
  }

  /** Connect with what the identity has: a stored token, else typed credentials. */
  open() {
    this.#discard();
    const handlers = {
      session: (session) => this.#onSession(session),
      message: (envelope) => this.#onMessage(envelope),
      presence: (presence) => this.#emit("presence", presence),
      goaway: (notice) => this.#onGoaway(notice),
      error: (error) => this.#onError(error),
      disconnect: (reason) => this.#onDisconnect(reason),
      connect_error: (error) => this.#onConnectError(error),
    };
    this.socket = createSocket(
      () => this.identity.auth(),
      handlers,
      (name) => this.#emit("transport", name),
    );
    this.attempts = 0;
    this.leaving = false;
    this.#connect();
  }

  #connect() {
    if (!this.socket || this.socket.connected) return;
    this.#setState(this.downSince ? "reconnecting" : "connecting", "");
    this.liveSince = Infinity;
    this.socket.connect();
  }

  #onSession(session) {
    const socketId = this.socket.id;
    const before = this.identity.accept(session, socketId);
    this.missedLeft = session.missed ?? 0;
    this.liveSince = Date.now();
    this.#setState("live", "");
    this.#emit("session", {
      session,
      socketId,
      before,
      reloaded: this.freshPage && before !== null,
      downSince: this.downSince,
    });
    this.freshPage = false;
    this.downSince = 0;
  }

  #onMessage(envelope) {
    if (!envelope || typeof envelope !== "object") return;
    const replayed = Boolean(envelope.id) && this.missedLeft > 0;
    if (replayed) this.missedLeft -= 1;
    this.#emit("message", { envelope, replayed });
    if (envelope.id) this.identity.saw(envelope.id);
  }

  #onGoaway({ reason, reconnect_in: seconds = 1 } = {}) {
    const words = refusal(reason, "The server asked this page to reconnect.");
    this.#notice(`${words} Back in ${Math.ceil(seconds)} s.`, "warn");
    this.leaving = true;
    this.socket.disconnect();
    this.leaving = false;
    this.#wait(seconds * 1000, words, true);
  }

  #onError({ code, message, event } = {}) {
    this.#notice(`Server error ${code}${event ? ` on ${event}` : ""}: ${message ?? ""}`, "bad");
  }

  #onDisconnect(reason) {
    if (Date.now() - this.liveSince > STABLE_MS) this.attempts = 0;
    this.downSince ||= Date.now();
    if (this.leaving) return;
    if (reason === "io server disconnect") this.#onServerClose();
    else {
      const why = this.dropping ? "you dropped it" : disconnectReason(reason);
      this.#notice(`Connection lost: ${why}.`, "warn");
      this.#wait(this.dropping ? DROP_PAUSE_MS : this.#pause(), `Connection lost: ${why}.`);
      this.dropping = false;
    }
  }

  /** A page that was frozen hears of its loss just after it is back, and must not wait then. */
  #pause() {
    const back = this.attempts === 0 && Date.now() - this.returnedAt < RETURN_MS;
    const delay = backoff(this.attempts++);
    return back ? 0 : delay;
  }

  /** Taken over, logged out elsewhere or removed: asking once more tells which. */
  #onServerClose() {
    const reason = "The server closed this connection.";
    this.#notice(reason, "bad");
    if (Date.now() - this.askedAfterServerClose > ASK_AGAIN_MS) {
      this.askedAfterServerClose = Date.now();
      this.#wait(backoff(1), reason);
    } else {
      // Twice in a row: another client may hold this session; do not fight over it.
      this.#setState("offline", `${reason} It may be in use elsewhere.`);
    }
  }

  #onConnectError(error) {
    const { code, reconnect, retry_after: seconds } = error.data ?? {};
    if (!code) {
      const words = "The server cannot be reached.";
      if (this.attempts === 0) this.#notice(words, "warn");
      this.downSince ||= Date.now();
      return this.#wait(backoff(this.attempts++), words);
    }
    const words = refusal(code, error.message);
    this.#notice(`Refused (${code}): ${words}`, "bad");
    const stale = FORGET_TOKEN.has(code) || (!reconnect && !this.identity.known);
    if (stale) return this.#signOut(code, words);
    if (reconnect) {
      this.retry.schedule(seconds ? spread(seconds) : backoff(this.attempts), true);
      this.attempts += 1;
    }
    this.#setState("refused", words, code);
  }

  /** Plan the next attempt and say why there has to be one. */
  #wait(delay, reason, imposed = false) {
    this.retry.schedule(delay, imposed);
    if (navigator.onLine) this.#setState("reconnecting", reason);
    else this.#setState("offline", "This device is offline.");
  }

  #signOut(code, reason) {
    this.#discard();
    this.identity.replace(null);
    this.#setState(code === "logged_out" ? "offline" : "refused", reason, code);
    this.#emit("signedout", { code, reason });
  }

  #discard() {
    this.retry.cancel();
    if (this.socket) {
      this.socket.off();
      this.socket.disconnect();
    }
    this.socket = null;
    this.downSince = 0;
  }

  #setState(state, reason, code = "") {
    this.state = state;
    this.#emit("state", { state, reason, code });
  }

  #notice(text, tone) {
    this.#emit("notice", { text, tone });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
