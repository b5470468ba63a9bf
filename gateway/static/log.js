/**
 * The conversation: what came in and what went out, each id once, bounded,
 * kept over a reload.
 *
 * Events: `added` and `changed`, the entry in `detail`; `removed`, its key.
 */

import { KEYS } from "./store.js";

const LIMIT = 200;
const SEEN_LIMIT = 2000;
const KEPT_TEXT = 2000;

/**
 * @typedef {object} Entry
 * @property {string} key unique in the log
 * @property {"in"|"out"} direction
 * @property {string} id the message id, or the sender's idempotency key
 * @property {string|null} from true_id of the sender, null for the game itself
 * @property {string|null} to true_id of the target, for outgoing messages
 * @property {string} text
 * @property {string} [label] room or type, if any
 * @property {number} at epoch milliseconds
 * @property {boolean} [replayed] arrived while this player was away
 * @property {"sending"|"waiting"|"done"|"failed"} [status]
 * @property {string} [code] "delivered", "queued" or the error's code
 * @property {string} [receipt] the receipt in words
 */

/**
 * The text of a message, whatever the game put into it.
 * @param {unknown} data
 * @returns {string}
 */
export function textOf(data) {
  if (typeof data === "string") return data;
  if (data && typeof data === "object" && typeof data.text === "string") return data.text;
  return JSON.stringify(data) ?? "";
}

export class ConversationLog extends EventTarget {
  /** @param {import("./store.js").TabStore} store */
  constructor(store) {
    super();
    this.store = store;
    this.reload();
  }

  /** Read again what the tab remembers. */
  reload() {
    /** @type {Entry[]} */
    this.entries = this.store.read(KEYS.log, []);
    /** @type {Set<string>} */
    this.seen = new Set(this.entries.map((entry) => entry.key));
    this.unnamed = 0;
  }

  /**
   * @param {any} envelope
   * @param {boolean} replayed
   * @returns {boolean} false if this id was here before
   */
  receive(envelope, replayed) {
    const id = envelope.id ?? "";
    const key = id ? `in:${id}` : `volatile:${Date.now()}:${(this.unnamed += 1)}`;
    if (this.seen.has(key)) return false;
    const label = [envelope.room && `room ${envelope.room}`, envelope.type].filter(Boolean);
    this.#add({
      key,
      direction: "in",
      id,
      from: envelope.from ?? null,
      to: null,
      text: textOf(envelope.data),
      label: label.join(", "),
      at: envelope.ts ? envelope.ts * 1000 : Date.now(),
      replayed,
    });
    return true;
  }

  /**
   * @param {string} id idempotency key
   * @param {string} from
   * @param {string} to
   * @param {string} text
   * @returns {Entry}
   */
  compose(id, from, to, text) {
    const entry = {
      key: `out:${id}`,
      direction: "out",
      id,
      from,
      to,
      text,
      at: Date.now(),
      status: "waiting",
      receipt: "",
    };
    this.#add(entry);
    return entry;
  }

  /**
   * @param {Entry} entry
   * @param {Partial<Entry>} changes
   */
  update(entry, changes) {
    Object.assign(entry, changes);
    this.#save();
    this.#emit("changed", entry);
  }

  /** Outgoing messages that no receipt has settled, oldest first. */
  unsettled() {
    return this.entries.filter(({ status }) => status === "sending" || status === "waiting");
  }

  /** True_ids this player has written to or heard from. */
  peers() {
    const ids = this.entries.map((entry) => (entry.direction === "in" ? entry.from : entry.to));
    return new Set(ids.filter(Boolean));
  }

  #add(entry) {
    this.entries.push(entry);
    this.seen.add(entry.key);
    if (this.seen.size > SEEN_LIMIT) this.seen.delete(this.seen.values().next().value);
    this.#emit("added", entry);
    while (this.entries.length > LIMIT) this.#emit("removed", this.entries.shift().key);
    this.#save();
  }

  #save() {
    const kept = this.entries.map((entry) =>
      // An unsettled message is sent again after a reload, so it is kept whole.
      entry.text.length > KEPT_TEXT && entry.status !== "waiting" && entry.status !== "sending"
        ? { ...entry, text: `${entry.text.slice(0, KEPT_TEXT)}…` }
        : entry,
    );
    this.store.write(KEYS.log, kept);
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
