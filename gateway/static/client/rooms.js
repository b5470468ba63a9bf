/**
 * Rooms. To be a member is the player's, not the connection's: it outlives reconnects and
 * reloads, so a room is joined again only when the membership has ended: the gateway says
 * `not_member`. It is asked after each reconnect: a page that slept cannot tell for how long the
 * gateway has missed it, since what it had been sent before may come all at once when it wakes.
 */

import { playerChanged } from "./errors.js";
import { Events } from "./events.js";
import { Room } from "./room.js";

/** Messages that wait while a room is being joined; beyond, they wait no longer. */
const MAX_HELD = 1000;

export class Rooms {
  #requests;
  #sender;
  #emit;
  /** The player whose memberships these are. @type {string|null} */
  #trueId = null;
  /** @type {Map<string, {room: Room, events: Events}>} */
  #rooms = new Map();
  /** Names of rooms that were joined. @type {Set<string>} */
  #joined = new Set();
  /** @type {Map<string, Promise<void>>} */
  #restoring = new Map();
  #joining = 0;
  /** @type {(() => void)[]} */
  #held = [];

  /**
   * @param {import("./requests.js").Requests} requests
   * @param {import("./sender.js").Sender} sender
   * @param {(event: string, value: object) => void} emit events for the game
   */
  constructor(requests, sender, emit) {
    this.#requests = requests;
    this.#sender = sender;
    this.#emit = emit;
  }

  /** @param {string} name @returns {Room} the one of this name */
  room(name) {
    const known = this.#rooms.get(name);
    if (known) return known.room;
    const events = new Events();
    const room = new Room(name, events, this, this.#requests, this.#sender);
    this.#rooms.set(name, { room, events });
    return room;
  }

  /**
   * Messages that come while a room is joined wait until whoever awaited that had the time to
   * listen: `const room = await game.join("lobby"); room.on("message", …)` misses nothing.
   * @param {string} name
   */
  async join(name) {
    const room = this.room(name);
    this.#joining += 1;
    try {
      const { members } = await this.#requests.request("join", { room: name });
      room.members = members;
      this.#joined.add(name);
      return room;
    } finally {
      setTimeout(() => {
        this.#joining -= 1;
        if (!this.#joining) this.#flush();
      });
    }
  }

  /** @param {Room} room */
  async leave(room) {
    this.#joined.delete(room.name);
    await this.#requests.request("leave", { room: room.name });
    const known = this.#rooms.get(room.name);
    if (known?.room !== room) return;
    for (const event of known.events.names) known.events.off(event);
    this.#rooms.delete(room.name);
  }

  /**
   * A message for the game: `handle` is called now or, while a room is being joined, soon.
   * @param {() => void} handle
   */
  take(handle) {
    this.#held.push(handle);
    if (!this.#joining || this.#held.length > MAX_HELD) this.#flush();
  }

  #flush() {
    for (;;) {
      const handle = this.#held.shift();
      if (!handle) return;
      handle();
    }
  }

  /** What still waits was not handled: it comes again over the next connection. */
  end() {
    this.#held.length = 0;
  }

  /** @param {any} message */
  onMessage(message) {
    this.#rooms.get(message.room)?.events.emit("message", message);
  }

  /** @param {{room: string, joined?: string, left?: string, members: number}} change */
  onChange({ room: name, joined, left, members }) {
    if (left === this.#trueId) this.#joined.delete(name);
    const known = this.#rooms.get(name);
    if (!known) return;
    known.room.members = members;
    if (joined !== undefined) known.events.emit("joined", joined, members);
    if (left !== undefined) known.events.emit("left", left, members);
  }

  /** @param {import("./gateway.d.ts").Session} session which begins */
  onSession({ true_id: trueId }) {
    const before = this.#trueId;
    this.#trueId = trueId;
    if (before !== null && before !== trueId) {
      for (const name of this.#joined) this.#lost(name, before, playerChanged());
      return;
    }
    for (const name of this.#joined) this.#restore(name, false).catch(() => {});
  }

  /**
   * The gateway says `not_member`: join again, if that was joined here.
   * @param {string} name
   * @returns {Promise<void>|null} rejects with why that is not possible
   */
  cure(name) {
    return this.#joined.has(name) ? this.#restore(name, true) : null;
  }

  /**
   * @param {string} name
   * @param {boolean} ended whether that is known
   */
  #restore(name, ended) {
    const restoring = this.#restoring.get(name) ?? this.#askAgain(name, ended);
    this.#restoring.set(name, restoring);
    return restoring;
  }

  /**
   * @param {string} name
   * @param {boolean} ended
   */
  async #askAgain(name, ended) {
    try {
      if (!ended && (await this.#isMember(name))) return;
      // The game may have left it just now.
      if (!this.#joined.has(name)) return;
      const { members } = await this.#insist("join", { room: name });
      const known = this.#rooms.get(name);
      if (!known || !this.#joined.has(name)) return;
      known.room.members = members;
      known.events.emit("rejoined", members);
    } catch (/** @type {any} */ error) {
      // Without an answer, the next connection asks again.
      const final = !["timeout", "closed"].includes(error.code);
      if (final && this.#joined.has(name)) this.#lost(name, this.#trueId, error);
      throw error;
    } finally {
      this.#restoring.delete(name);
    }
  }

  /** @param {string} name */
  async #isMember(name) {
    try {
      const { members } = await this.#insist("members", { room: name, limit: 1 });
      this.room(name).members = members;
      return true;
    } catch (/** @type {any} */ error) {
      if (error.code === "not_member") return false;
      throw error;
    }
  }

  /**
   * Ask until the gateway no longer says "later", over reconnects too.
   * @param {string} event
   * @param {{room: string, limit?: number}} payload
   */
  #insist(event, payload) {
    return this.#requests.insist(event, payload, () => this.#joined.has(payload.room));
  }

  /**
   * @param {string} name
   * @param {any} trueId who is no member any more
   * @param {import("./errors.js").GatewayError} error why
   */
  #lost(name, trueId, { code, message }) {
    this.#joined.delete(name);
    this.#emit("error", { code, message, event: "join", room: name });
    this.onChange({ room: name, left: trueId, members: (this.room(name).members ?? 1) - 1 });
  }
}
