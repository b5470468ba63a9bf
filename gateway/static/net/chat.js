/**
 * What was said, each line once, bounded, kept over a reload.
 *
 * Events: `added` and `changed` (line), `removed` (key), `cleared` ().
 */

import { Events } from "../client/events.js";
import { KEYS } from "../ui/store.js";

const LIMIT = 80;
/** Milliseconds. */
const FLOATS = 5000;
const LONGEST = 240;
const LONGEST_KEY = 64;

/**
 * @typedef {object} Line
 * @property {string} key chosen by who said it
 * @property {string} from true_id
 * @property {string} name as it was then
 * @property {string} text
 * @property {number} at Unix time in milliseconds
 * @property {number} heardAt by this device's clock
 * @property {boolean} missed it came while this player was away
 * @property {"waiting"|"done"|"failed"} status of the own ones, until they are back
 */

export class Chat extends Events {
  #match;
  #store;

  /**
   * @param {import("./match.js").Match} match
   * @param {import("../ui/store.js").TabStore} store
   */
  constructor(match, store) {
    super();
    this.#match = match;
    this.#store = store;
    /** @type {Line[]} */
    this.lines = store.read(KEYS.chat, []);
    match.on("members", () => this.#fillNames());
  }

  /**
   * @param {string} trueId
   * @returns {string} what they have said just now; it floats above them
   */
  latestOf(trueId) {
    const line = this.lines.findLast((one) => one.from === trueId);
    return line && Date.now() - line.heardAt < FLOATS ? line.text : "";
  }

  clear() {
    this.lines = [];
    this.#store.write(KEYS.chat, null);
    this.emit("cleared");
  }

  /** @param {string} text of this player; it leaves now or with the next connection */
  async say(text) {
    const { me } = this.#match;
    const key = crypto.getRandomValues(new Uint32Array(3)).join("-");
    const line = { key, from: me, name: this.#match.nameOf(me), text, missed: false };
    this.#add({ ...line, at: Date.now(), status: "waiting" });
    try {
      await this.#match.publish("say", { key, text });
      this.#settle(key, "done");
    } catch {
      this.#settle(key, "failed");
    }
  }

  /**
   * @param {any} message of type `say`
   * @param {boolean} missed it came while this player was away
   */
  receive({ from, data, ts }, missed) {
    const { key, text } = data;
    if (typeof key !== "string" || key.length > LONGEST_KEY) return;
    if (typeof text !== "string" || from === null) return;
    const said = `${from} ${key}`;
    if (from === this.#match.me && this.lines.some((line) => line.key === key)) {
      this.#settle(key, "done");
      return;
    }
    if (this.lines.some((line) => `${line.from} ${line.key}` === said)) return;
    const [name, at] = [this.#match.nameOf(from), ts * 1000];
    this.#add({ key, from, name, text: text.slice(0, LONGEST), at, missed, status: "done" });
  }

  /** What was missed comes before it is known who is there. */
  #fillNames() {
    for (const line of this.lines) {
      if (line.name) continue;
      line.name = this.#match.nameOf(line.from);
      if (line.name) this.emit("changed", line);
    }
  }

  #settle(key, status) {
    const line = this.lines.find((one) => one.key === key && one.from === this.#match.me);
    if (!line || line.status === status || line.status === "done") return;
    line.status = status;
    this.#save();
    this.emit("changed", line);
  }

  #add(line) {
    line.heardAt = Date.now();
    this.lines.push(line);
    this.emit("added", line);
    while (this.lines.length > LIMIT) this.emit("removed", this.lines.shift());
    this.#save();
  }

  #save() {
    this.#store.write(KEYS.chat, this.lines);
  }
}
