/** What happened to this tab's connection, newest first, kept over a reload. */

import { byId, element, timeElement } from "./dom.js";
import { KEYS } from "./store.js";
import { count, gapText } from "./wording.js";

const LIMIT = 80;

/** @typedef {"plain"|"good"|"warn"|"bad"} Tone */

export class Timeline {
  /** @param {import("./store.js").TabStore} store */
  constructor(store) {
    this.store = store;
    this.list = byId("timeline");
    this.reload();
  }

  /** Read again what the tab remembers. */
  reload() {
    /** @type {{at: number, text: string, tone: Tone}[]} */
    this.lines = this.store.read(KEYS.timeline, []);
    this.list.replaceChildren();
    for (const line of this.lines) this.#show(line);
  }

  /**
   * @param {string} text
   * @param {Tone} [tone]
   */
  add(text, tone = "plain") {
    const line = { at: Date.now(), text, tone };
    this.lines.push(line);
    this.#show(line);
    while (this.lines.length > LIMIT) {
      this.lines.shift();
      this.list.lastElementChild?.remove();
    }
    this.store.write(KEYS.timeline, this.lines);
  }

  #show({ at, text, tone }) {
    this.list.prepend(element("li", { "data-tone": tone }, timeElement(at), element("p", {}, text)));
  }

  /**
   * Tell how a connection came to be.
   * @param {{session: any, socketId: string, before: any, reloaded: boolean, downSince: number}} arrival
   */
  addArrival({ session, socketId, before, reloaded, downSince }) {
    this.add(arrivalText(session, socketId, before, reloaded, downSince), "good");
    if (session.missed > 0) {
      this.add(`${count(session.missed, "message")} waited for you.`, "good");
    }
    if (session.gap) this.add(`There is a gap: ${gapText(session.gap)}.`, "warn");
  }
}

function arrivalText(session, socketId, before, reloaded, downSince) {
  if (!before) return `Joined as ${session.name || session.true_id}, socket id ${socketId}.`;
  if (before.true_id !== session.true_id) {
    return `Joined as another player, ${session.name || session.true_id}, socket id ${socketId}.`;
  }
  const change = `same true_id, new socket id ${before.socket_id} → ${socketId}`;
  if (before.session_id !== session.session_id) {
    return session.outcome === "new"
      ? `Second connection of the same player: same true_id, own session, socket id ${socketId}.`
      : `Came back with a new session: ${change}.`;
  }
  if (reloaded) return `Page loaded again: ${change}.`;
  const pause = downSince ? ` after ${((Date.now() - downSince) / 1000).toFixed(1)} s` : "";
  return `Reconnected${pause}: ${change}.`;
}
