/** Presence: what this tab says of itself, and whom it watches. */

import { Events } from "./events.js";
import { REQUEST_TIMEOUT_MS } from "./requests.js";
import { spread } from "./payload.js";

/** How long a tab that is looked at again waits for a sign of life of its connection. */
const PROBE_MS = 500;
/** Players in one `presence_watch`; the gateway takes 1000. */
const CHUNK = 500;

export class Presence {
  #connection;
  #requests;
  #emit;
  #document;
  /** @type {"active"|"hidden"} */
  #state = "active";
  /** @type {string|undefined} */
  #status;
  /** Callbacks by the true_id that is watched. */
  #watched = new Events();
  /** What the gateway is being told. @type {string|null} */
  #telling = null;
  /** @type {any} */
  #tellAgain = null;

  /**
   * @param {import("./connection.js").Connection} connection
   * @param {import("./requests.js").Requests} requests
   * @param {(event: string, value: object) => void} emit events for the game
   * @param {any} document undefined in Node
   */
  constructor(connection, requests, emit, document) {
    this.#connection = connection;
    this.#requests = requests;
    this.#emit = emit;
    this.#document = document;
  }

  /** The gateway takes a new connection for active, and it watches nobody. */
  restore() {
    if (this.#document) this.#state = this.#document.hidden ? "hidden" : "active";
    if (this.#state !== "active" || this.#status) this.#tell();
    this.#watch(this.#watched.names, (record) => this.heard(record));
  }

  /** The connection is gone, and with it what it was told. */
  onDown() {
    this.#telling = null;
    clearTimeout(this.#tellAgain);
  }

  /** @param {boolean} hidden what the page is now */
  onVisibility(hidden) {
    this.#state = hidden ? "hidden" : "active";
    if (hidden) this.#tell();
  }

  /** The page is back: tell so, and find out whether the connection is. */
  onReturn() {
    this.#tell(true);
  }

  /** @param {any} record of a player that is watched */
  heard(record) {
    this.#emit("presence", record);
    this.#watched.emit(record.true_id, record);
  }

  /** @param {string|null} status */
  setStatus(status) {
    this.#status = status ?? "";
    return this.#requests.request("presence_set", this.#own);
  }

  /**
   * @param {string[]} trueIds
   * @param {(record: any) => void} callback
   * @returns {() => void} which stops watching
   */
  watch(trueIds, callback) {
    let on = true;
    // A function of its own: the same callback may watch twice.
    const call = (/** @type {any} */ record) => on && callback(record);
    const stops = trueIds.map((trueId) => this.#watched.on(trueId, call));
    // Otherwise that is done once it is live.
    if (this.#connection.live) this.#watch(trueIds, call);
    return () => {
      on = false;
      for (const stop of stops) stop();
      const left = trueIds.filter((trueId) => !this.#watched.has(trueId));
      if (!left.length || !this.#connection.live) return;
      // Without it the gateway only says more than anybody listens to.
      this.#requests.request("presence_unwatch", { true_ids: left }).catch(() => {});
    };
  }

  get #own() {
    return { state: this.#state, status: this.#status };
  }

  /**
   * @param {string[]} trueIds
   * @param {(record: any) => void} heard what they are now
   */
  async #watch(trueIds, heard) {
    const event = "presence_watch";
    for (let first = 0; first < trueIds.length; first += CHUNK) {
      const chunk = trueIds.slice(first, first + CHUNK);
      try {
        const { presence } = await this.#requests.insist(event, { true_ids: chunk });
        for (const record of Object.values(presence)) heard(record);
      } catch (/** @type {any} */ { code, message }) {
        // Not live: all of them are watched anew when it is.
        if (!this.#connection.live) return;
        this.#emit("error", { code, message, event });
      }
    }
  }

  /**
   * Tell the gateway whether the tab is looked at. The connection of a tab that slept may look
   * open and be dead: as a `probe`, an answer has to come at once.
   */
  async #tell(probe = false) {
    const telling = `${this.#state} ${probe}`;
    if (!this.#connection.live || this.#telling === telling) return;
    this.#telling = telling;
    const { round } = this.#connection;
    try {
      const timeout = probe ? PROBE_MS : REQUEST_TIMEOUT_MS;
      const { error } = await this.#requests.ask("presence_set", this.#own, timeout);
      if (error?.code === "rate_limited") {
        clearTimeout(this.#tellAgain);
        this.#tellAgain = setTimeout(() => this.#tell(), spread(error.retry_after ?? 1));
      }
    } catch {
      const same = this.#connection.round === round && this.#connection.live;
      if (probe && same) this.#connection.restart("no answer");
    }
    if (this.#telling === telling) this.#telling = null;
  }
}
