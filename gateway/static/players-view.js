/** The list of players; one press addresses a message to one of them. */

import { byId, element, setText } from "./dom.js";
import { sprite } from "./sprite.js";
import { PRESENCE_LABELS } from "./wording.js";

export class PlayersView {
  /**
   * @param {import("./roster.js").Roster} roster
   * @param {(trueId: string) => void} onPick
   */
  constructor(roster, onPick) {
    this.roster = roster;
    this.onPick = onPick;
    this.list = byId("players");
    /** @type {Map<string, HTMLLIElement>} */
    this.rows = new Map();
  }

  /**
   * Bring the list up to date, reusing rows so that focus stays where it is.
   * @param {string} own true_id of this player, listed first
   * @param {string} target true_id that is addressed now
   */
  show(own, target) {
    const { roster } = this;
    const ids = [...roster.online].sort((a, b) => Number(b === own) - Number(a === own));
    for (const [trueId, row] of this.rows) {
      if (ids.includes(trueId)) continue;
      row.remove();
      this.rows.delete(trueId);
    }
    ids.forEach((trueId, index) => {
      const row = this.#row(trueId);
      this.#fill(row, trueId, own, target);
      const there = this.list.children[index];
      if (there !== row) this.list.insertBefore(row, there ?? null);
    });
    setText(byId("online-count"), roster.total ? String(roster.total) : "");
    setText(byId("players-note"), this.#note(ids, own));
  }

  #note(ids, own) {
    if (this.roster.failure) return this.roster.failure;
    if (!this.roster.complete) return `The first ${ids.length} of ${this.roster.total}.`;
    return ids.length === 1 && ids[0] === own ? "Only you so far." : "";
  }

  #row(trueId) {
    const known = this.rows.get(trueId);
    if (known) return known;
    const button = element(
      "button",
      { type: "button", class: "player" },
      sprite(trueId),
      element("span", { class: "name" }),
      element("code", { class: "short" }, trueId),
      element("span", { class: "presence" }),
      element("span", { class: "self" }),
    );
    button.addEventListener("click", () => this.onPick(trueId));
    const row = element("li", { "data-true-id": trueId }, button);
    this.rows.set(trueId, row);
    return row;
  }

  #fill(row, trueId, own, target) {
    const presence = this.roster.presence.get(trueId);
    const state = presence?.state ?? "offline";
    const connections = presence?.connections ?? 0;
    row.dataset.state = state;
    const [button] = row.children;
    button.setAttribute("aria-pressed", String(trueId === target));
    setText(button.querySelector(".name"), this.roster.nameOf(trueId) || "Player");
    setText(button.querySelector(".self"), trueId === own ? "you" : "");
    const label = PRESENCE_LABELS[state] ?? state;
    const more = connections > 1 ? ` ×${connections}` : "";
    setText(button.querySelector(".presence"), label + more);
  }
}
