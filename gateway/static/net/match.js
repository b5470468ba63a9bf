/**
 * A match: one room of the gateway, who is in it, and the ledger they share.
 *
 * Reliable messages in the room, each in one order for all: `take` and `tag` (see
 * game/ledger.js), `say`, and `hello` with its answer `state` (see game/sync.js).
 *
 * Events: `members` (), `change` (change, missed), `void` (message) for a claim that did not fit,
 * `say` (message, missed), `message` (message) for volatile ones, `joined` (), `failed` (error).
 * `missed`: it came while this player was away.
 */

import { Events } from "../client/events.js";
import { ServerClock } from "../game/clock.js";
import { SyncedLedger } from "../game/sync.js";
import { KEYS } from "../ui/store.js";
import { Members } from "./members.js";

/** Milliseconds until a newcomer whom nobody answers counts by itself. */
const ANSWER_WITHIN = 3000;
/** Members answer one after the other, until one has. */
const TURN = 250;
const MOST_ANSWERS = 16;
const LONGEST_KEY = 64;

export class Match extends Events {
  clock = new ServerClock();
  /** Of this player. @type {string|null} */
  me = null;
  #client;
  #room;
  #store;
  #people;
  #sessionId = null;
  /** Whether another tab of this player is here, too. */
  #twice = false;
  /** Counts arrivals in the room: what belongs to an older one is ignored. */
  #turn = 0;
  #patience;
  /** Answers that are due, by the key of the hello. @type {Map<string, any>} */
  #answers = new Map();
  /** Messages that are still to come of those that were missed. */
  #missed = 0;

  /**
   * @param {import("../client/gateway.d.ts").GatewayClient} client
   * @param {import("../ui/store.js").TabStore} store
   * @param {{match: string, length: number, room: string}} place
   */
  constructor(client, store, { match, length, room }) {
    super();
    this.name = match;
    this.length = length;
    this.#client = client;
    this.#room = client.room(room);
    this.#store = store;
    this.ledger = new SyncedLedger(match, length);
    this.#people = new Members(client, this.#room);
    this.#people.on("changed", () => this.emit("members"));
    client.on("session", (session) => this.#onSession(session));
    // All messages, to know which were missed.
    client.on("message", (message) => this.#onMessage(message));
    // The membership had ended: what the room was told meanwhile is missed.
    this.#room.on("rejoined", () => this.#enter(++this.#turn, this.#newKey()));
  }

  /** @returns {Map<string, import("./members.js").Member>} */
  get members() {
    return this.#people.all;
  }

  /** The gateway's time in seconds. */
  get seconds() {
    return this.clock.seconds;
  }

  /**
   * @param {string} trueId
   * @returns {string} empty: it is not known yet
   */
  nameOf(trueId) {
    return this.#people.nameOf(trueId);
  }

  /**
   * Claim something; it counts when it comes back in the room's order.
   * @param {"take"|"tag"|"say"|"hello"|"state"} type
   * @param {object} data
   * @returns {Promise<any>} the receipt
   */
  publish(type, data) {
    return this.#room.publish(data, { type });
  }

  /**
   * Tell those who are here now; of each type only the newest matters.
   * @param {"at"|"where"} type
   * @param {object} data
   * @param {boolean} [echo] to this page, too
   */
  tell(type, data, echo = true) {
    this.#room.volatile(type, data, { type, echo });
  }

  #onSession(session) {
    const whole = this.#goOn(session) && this.ledger.whole;
    this.#missed = session.missed ?? 0;
    this.#twice = session.connections > 1;
    this.#enter(++this.#turn, whole ? null : this.#newKey());
  }

  /** @returns {boolean} whether the ledger has everything up to this session's first message */
  #goOn(session) {
    const before = [this.me, this.#sessionId];
    this.#sessionId = session.session_id;
    this.#people.call(session.true_id, session.name);
    if (this.me !== session.true_id) {
      this.me = session.true_id;
      const kept = this.#store.read(KEYS.ledger, null);
      const mine = kept?.room === this.#room.name && kept.true_id === this.me;
      this.ledger = new SyncedLedger(this.name, this.length, mine ? kept.state : null);
      if (!mine) return false;
      before[1] = kept.session_id;
    }
    // A tab that was duplicated has a copy of the ledger, but a session of its own.
    return session.outcome === "resumed" && before[1] === session.session_id;
  }

  #newKey() {
    const key = crypto.getRandomValues(new Uint32Array(2)).join("-");
    this.ledger.ask(key);
    return key;
  }

  /**
   * @param {number} turn
   * @param {string|null} key to ask for the ledger with; null: it is whole, if this player is
   *   a member still
   */
  async #enter(turn, key) {
    clearTimeout(this.#patience);
    const current = () => turn === this.#turn;
    try {
      const member = key === null && (await this.#people.list(current));
      if (!current()) return;
      const asks = member ? null : (key ?? this.#newKey());
      if (!member) await this.#client.join(this.#room.name);
      if (!current()) return;
      this.emit("joined");
      // All say where they are; one's own copy of it sets the clock.
      this.tell("where", {});
      if (member) return;
      await this.#people.list(current);
      if (current()) this.#ask(asks);
    } catch (error) {
      if (current() && this.#client.connected) this.emit("failed", error);
    }
  }

  /** @param {string} key */
  #ask(key) {
    this.publish("hello", { key }).catch(() => {});
    const awake = ({ state }, id) => id !== this.me && (state === "active" || state === "hidden");
    const anybody = this.#twice || [...this.members].some(([id, member]) => awake(member, id));
    if (anybody) this.#patience = setTimeout(() => this.ledger.trust(), ANSWER_WITHIN);
    else this.ledger.trust();
  }

  #onMessage(message) {
    const missed = Boolean(message.id) && this.#missed > 0;
    if (missed) this.#missed -= 1;
    const { room, type, data } = message;
    if (room !== this.#room.name || data === null || typeof data !== "object") return;
    if (!missed) this.clock.observe(message.ts);
    const change = this.ledger.apply(message);
    if (type === "hello") this.#prepareAnswer(data.key);
    if (type === "state") this.#cancelAnswer(data.key);
    if (message.id) this.#keep();
    if (change) this.emit("change", change, missed);
    else if (type === "say") this.emit("say", message, missed);
    else if (!message.id) this.emit("message", message);
    else this.emit("void", message);
  }

  /** The state is that of just now, whenever it is sent. */
  #prepareAnswer(key) {
    if (typeof key !== "string" || key.length > LONGEST_KEY) return;
    if (!this.ledger.whole || this.#answers.size >= MOST_ANSWERS) return;
    const awake = [...this.members].filter(([, { state }]) => state === "active");
    const turn = awake.map(([id]) => id).sort().indexOf(this.me);
    const state = this.ledger.snapshot();
    const answer = () => {
      this.#answers.delete(key);
      this.publish("state", { key, state }).catch(() => {});
    };
    const wait = (turn < 0 ? awake.length : turn) * TURN + Math.random() * 50;
    this.#cancelAnswer(key);
    this.#answers.set(key, setTimeout(answer, wait));
  }

  #cancelAnswer(key) {
    clearTimeout(this.#answers.get(key));
    this.#answers.delete(key);
  }

  /** Before the client remembers the message as handled: what comes again changes nothing. */
  #keep() {
    const state = this.ledger.snapshot();
    const whose = { true_id: this.me, session_id: this.#sessionId, room: this.#room.name };
    this.#store.write(KEYS.ledger, this.ledger.whole ? { ...whose, state } : null);
  }
}
