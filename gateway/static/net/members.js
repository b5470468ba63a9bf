/**
 * Who is in a room, and how they are: `active`, `hidden`, `away` or `offline`.
 *
 * Event: `changed` ().
 */

import { Events } from "../client/events.js";

const MOST_MEMBERS = 100;
const MOST_NAMES = 300;

/** @typedef {{state: string, connections: number|null}} Member `null`: not known yet */

export class Members extends Events {
  /** @type {Map<string, Member>} */
  all = new Map();
  #client;
  #room;
  /** Each stops watching some. @type {(() => void)[]} */
  #stops = [];
  /** @type {Set<string>} */
  #watched = new Set();
  /** They outlive their players: the score board still has those who have left. */
  #names = new Map();

  /**
   * @param {import("../client/gateway.d.ts").GatewayClient} client
   * @param {import("../client/gateway.d.ts").Room} room
   */
  constructor(client, room) {
    super();
    this.#client = client;
    this.#room = room;
    room.on("joined", (trueId) => this.#onJoined(trueId));
    room.on("left", (trueId) => this.#onLeft(trueId));
  }

  /**
   * @param {string} trueId
   * @returns {string} empty: it is not known yet
   */
  nameOf(trueId) {
    return this.#names.get(trueId) ?? "";
  }

  /**
   * @param {string} trueId
   * @param {string} name
   */
  call(trueId, name) {
    this.#names.delete(trueId);
    this.#names.set(trueId, name);
    if (this.#names.size > MOST_NAMES) this.#names.delete(this.#names.keys().next().value);
  }

  /**
   * Ask who is there.
   * @param {() => boolean} wanted whether the answer still is
   * @returns {Promise<boolean>} false: this player is no member
   */
  async list(wanted) {
    const found = [];
    let cursor;
    try {
      do {
        const page = await this.#room.players({ cursor });
        found.push(...page.players);
        cursor = page.cursor ?? undefined;
      } while (cursor && found.length < MOST_MEMBERS);
    } catch (error) {
      if (error.code === "not_member") return false;
      throw error;
    }
    if (!wanted()) return true;
    const here = new Set(found.slice(0, MOST_MEMBERS).map((player) => player.true_id));
    for (const id of [...this.all.keys()]) if (!here.has(id)) this.all.delete(id);
    for (const player of found) if (here.has(player.true_id)) this.#onPresence(player);
    this.#watch();
    this.emit("changed");
    return true;
  }

  #onJoined(id) {
    if (this.all.has(id) || this.all.size >= MOST_MEMBERS) return;
    this.all.set(id, { state: "active", connections: null });
    this.#watch();
    this.emit("changed");
  }

  #onLeft(id) {
    // This player is put in again by the next session.
    if (id !== this.#client.trueId && this.all.delete(id)) this.emit("changed");
  }

  /** Hear of all members; of those who have left as well, until there are too many of them. */
  #watch() {
    if (this.#watched.size > 2 * MOST_MEMBERS) {
      for (const stop of this.#stops.splice(0)) stop();
      this.#watched.clear();
    }
    const added = [...this.all.keys()].filter((id) => !this.#watched.has(id));
    if (!added.length) return;
    for (const id of added) this.#watched.add(id);
    const onPresence = (record) => {
      if (!this.all.has(record.true_id)) return;
      this.#onPresence(record);
      this.emit("changed");
    };
    this.#stops.push(this.#client.watch(added, onPresence));
  }

  /** The list of a room does not tell of connections, presence does. */
  #onPresence({ true_id: id, name, state, connections }) {
    const known = this.all.get(id)?.connections ?? null;
    this.all.set(id, { state, connections: connections ?? known });
    if (name) this.call(id, name);
  }
}
