/**
 * Sending. A message keeps its idempotency key until a receipt settles it, so
 * it may be sent again after a timeout or a reconnect and still arrives once.
 */

import { receiptText, sendError } from "./wording.js";

const ACK_TIMEOUT_MS = 10_000;
const RESENDS_WHILE_LIVE = 2;

/**
 * A random key. `crypto.randomUUID` exists on secure origins only; plain http
 * on a local network needs the long way.
 * @returns {string}
 */
export function randomId() {
  if (typeof crypto.randomUUID === "function") return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

export class Outbox {
  /**
   * @param {import("./session.js").GatewaySession} session
   * @param {import("./log.js").ConversationLog} log
   */
  constructor(session, log) {
    this.session = session;
    this.log = log;
    /** Keys on the wire right now. @type {Set<string>} */
    this.flying = new Set();
  }

  /**
   * Accept a message from the player; it leaves now or at the next connection.
   * @param {string} from
   * @param {string} to
   * @param {string} text
   */
  submit(from, to, text) {
    this.#send(this.log.compose(randomId(), from, to, text));
  }

  /** Send again what has no receipt. Called whenever the connection is live. */
  flush() {
    for (const entry of this.log.unsettled()) this.#send(entry);
  }

  /** @param {import("./log.js").Entry} entry one that the server did not accept */
  again(entry) {
    if (entry.status === "failed") this.#send(entry);
  }

  async #send(entry, resends = 0) {
    if (this.flying.has(entry.key)) return;
    if (!this.session.live) {
      this.log.update(entry, { status: "waiting", receipt: "waits for the connection" });
      return;
    }
    this.flying.add(entry.key);
    this.log.update(entry, { status: "sending", receipt: resends ? "sending again" : "sending" });
    const payload = { target_id: entry.to, data: { text: entry.text }, id: entry.id };
    let answer = null;
    try {
      answer = await this.session.request("message", payload, ACK_TIMEOUT_MS);
    } catch {
      // No answer says nothing about arrival; the same key makes asking again safe.
    } finally {
      this.flying.delete(entry.key);
    }
    if (answer) this.#settle(entry, answer);
    else if (this.session.live && resends < RESENDS_WHILE_LIVE) this.#send(entry, resends + 1);
    else {
      this.log.update(entry, { status: "waiting", receipt: "no receipt yet, sent again on reconnect" });
    }
  }

  #settle(entry, answer) {
    const { ok, status, error = {} } = answer;
    if (ok) this.log.update(entry, { status: "done", code: status, receipt: receiptText(answer) });
    else this.log.update(entry, { status: "failed", code: error.code, receipt: sendError(error) });
  }
}
