/**
 * Who is here: the list of online players, refreshed while the page is looked
 * at, and live presence of everyone this page cares about.
 *
 * Event `change`: the list, a name or a state is another one now.
 */

import { KEYS } from "./store.js";

const REFRESH_MS = 3000;
const LIMIT = 100;
const NAMES_LIMIT = 300;

/** @typedef {{true_id: string, name?: string, state: string, connections: number, since?: number}} Presence */

export class Roster extends EventTarget {
  /**
   * @param {import("./session.js").GatewaySession} session
   * @param {import("./store.js").TabStore} store
   */
  constructor(session, store) {
    super();
    this.session = session;
    this.store = store;
    this.timer = 0;
    this.refreshing = false;
    this.clear();
  }

  clear() {
    this.stop();
    /** The online list, in the server's order. @type {string[]} */
    this.online = [];
    this.total = 0;
    this.complete = true;
    this.failure = "";
    /** @type {Map<string, Presence>} */
    this.presence = new Map();
    /** Others than the listed ones that are watched: peers, target, self. @type {Set<string>} */
    this.wanted = new Set();
    /** @type {Set<string>} */
    this.watched = new Set();
    /** @type {Record<string, string>} */
    this.names = this.store.read(KEYS.names, {});
  }

  /** The connection is new, and so the server watches nobody for it yet. */
  start() {
    this.watched.clear();
    this.refresh();
  }

  stop() {
    clearTimeout(this.timer);
    this.refreshing = false;
  }

  /** @param {string} trueId */
  nameOf(trueId) {
    return this.names[trueId] ?? "";
  }

  /** @param {Iterable<string>} trueIds to watch besides the listed ones */
  care(trueIds) {
    for (const trueId of trueIds) this.wanted.add(trueId);
    this.#watch();
  }

  /** @param {Presence} record a live event */
  update(record) {
    if (!record?.true_id) return;
    this.#remember([record]);
    this.#changed();
  }

  /** Ask now and then every few seconds, as long as the page is visible and live. */
  async refresh() {
    clearTimeout(this.timer);
    if (document.hidden || !this.session.live || this.refreshing) return;
    this.refreshing = true;
    try {
      this.#accept(await this.session.request("players", { limit: LIMIT }));
      await this.#watch();
    } catch {
      // Lost on the way; the next round or the next connection brings it.
    } finally {
      this.refreshing = false;
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.refresh(), REFRESH_MS);
    }
  }

  #accept(answer) {
    if (answer?.ok) {
      this.failure = "";
      this.online = answer.players.map((player) => player.true_id);
      this.total = answer.online ?? this.online.length;
      this.complete = !answer.cursor;
      this.#remember(answer.players);
    } else {
      this.failure = answer?.error?.message ?? "The list is not available.";
    }
    this.#changed();
  }

  async #watch() {
    if (!this.session.live) return;
    const all = new Set([...this.online, ...this.wanted]);
    const added = [...all].filter((id) => !this.watched.has(id));
    const gone = [...this.watched].filter((id) => !all.has(id));
    this.watched = all;
    if (gone.length) {
      this.session.request("presence_unwatch", { true_ids: gone }).catch(() => {});
    }
    if (!added.length) return;
    try {
      const answer = await this.session.request("presence_watch", { true_ids: added });
      const records = Object.entries(answer?.presence ?? {});
      this.#remember(records.map(([trueId, record]) => ({ ...record, true_id: trueId })));
      this.#changed();
    } catch {
      for (const id of added) this.watched.delete(id);
    }
  }

  #remember(records) {
    let named = false;
    for (const record of records) {
      const known = this.presence.get(record.true_id);
      this.presence.set(record.true_id, { ...known, ...record });
      if (record.name && this.names[record.true_id] !== record.name) {
        this.names[record.true_id] = record.name;
        named = true;
      }
    }
    if (named) {
      this.names = Object.fromEntries(Object.entries(this.names).slice(-NAMES_LIMIT));
      this.store.write(KEYS.names, this.names);
    }
  }

  #changed() {
    this.dispatchEvent(new CustomEvent("change"));
  }
}
