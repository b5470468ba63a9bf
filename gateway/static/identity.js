/**
 * Who this tab is and what proves it. The token outlives a reload; typed
 * credentials live in memory until the server has answered with a session.
 */

import { KEYS } from "./store.js";

/**
 * @typedef {{true_id: string, name?: string, session_id: string, socket_id: string}} Player
 * @typedef {{guest: true, name: string}|{username: string, password: string}} Credentials
 */

export class Identity {
  /** @param {import("./store.js").TabStore} store */
  constructor(store) {
    this.store = store;
    /** @type {Credentials|null} */
    this.credentials = null;
  }

  /** Who this tab last was. @returns {Player|null} */
  get player() {
    return this.store.read(KEYS.identity, null);
  }

  /** A token is at hand. */
  get known() {
    return this.store.read(KEYS.token, null) !== null;
  }

  /**
   * What to present on connect. The stock client adds the pid; our offset
   * outlives a reload, so it also counts where the stock client has none yet.
   */
  auth() {
    const token = this.store.read(KEYS.token, null);
    if (token === null) return { ...this.credentials };
    const offset = this.store.read(KEYS.offset, null);
    return offset === null ? { token } : { token, offset };
  }

  /**
   * Take over what the server granted.
   * @param {any} session payload of the `session` event
   * @param {string} socketId
   * @returns {Player|null} who this tab was before
   */
  accept(session, socketId) {
    // First of all: the token just used is spent.
    this.store.write(KEYS.token, session.token);
    this.credentials = null;
    const before = this.player;
    if (before && before.true_id !== session.true_id) this.store.write(KEYS.offset, null);
    this.store.write(KEYS.identity, {
      true_id: session.true_id,
      name: session.name ?? before?.name,
      session_id: session.session_id,
      socket_id: socketId,
    });
    return before;
  }

  /** @param {string} id the message that was handled last */
  saw(id) {
    this.store.write(KEYS.offset, id);
  }

  /** @param {Credentials|null} credentials of the next player, if any */
  replace(credentials) {
    this.store.clear();
    this.credentials = credentials;
  }
}
