/** The score board: everybody in the room and everybody with points, best first. */

import { portrait } from "../draw/critter.js";
import { byId, element, setText } from "./dom.js";

const SHOWN = 12;
const STATES = { active: "", hidden: "asleep", away: "away", offline: "gone" };

export class Board {
  #list = byId("players");
  /** @type {Map<string, HTMLLIElement>} */
  #rows = new Map();
  #shown = "";

  /**
   * @param {import("../net/match.js").Match} match
   * @param {Record<string, number>} scores
   */
  show(match, scores) {
    const here = [...match.members].filter(([, { state }]) => state !== "offline");
    const ids = new Set([...here.map(([id]) => id), ...Object.keys(scores)]);
    if (match.me) ids.add(match.me);
    const all = Array.from(ids, (trueId) => ({
      trueId,
      score: scores[trueId] ?? 0,
      own: trueId === match.me,
      name: match.nameOf(trueId) || "Somebody",
      state: match.members.get(trueId)?.state ?? (trueId === match.me ? "active" : "offline"),
    }));
    all.sort((a, b) => b.score - a.score || Number(b.own) - Number(a.own) || (a.trueId < b.trueId ? -1 : 1));
    const top = all.slice(0, SHOWN);
    const own = all.find((player) => player.own);
    if (own && !top.includes(own)) top[SHOWN - 1] = own;
    const shown = JSON.stringify(top);
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#draw(top);
    const rest = all.length - top.length;
    setText(byId("players-note"), rest > 0 ? `and ${rest} more` : this.#hint(here.length));
  }

  #hint(players) {
    return players > 1 ? "" : "Only you so far. Open this page in another browser or on a phone.";
  }

  #draw(players) {
    for (const [trueId, row] of this.#rows) {
      if (players.some((player) => player.trueId === trueId)) continue;
      row.remove();
      this.#rows.delete(trueId);
    }
    players.forEach((player, index) => {
      const row = this.#row(player.trueId);
      Object.assign(row.dataset, { score: player.score, state: player.state, own: player.own });
      setText(row.querySelector(".name"), player.name);
      setText(row.querySelector(".tag"), player.own ? "you" : STATES[player.state]);
      setText(row.querySelector(".score"), String(player.score));
      if (this.#list.children[index] !== row) {
        this.#list.insertBefore(row, this.#list.children[index] ?? null);
      }
    });
  }

  #row(trueId) {
    const known = this.#rows.get(trueId);
    if (known) return known;
    const row = element(
      "li",
      { "data-true-id": trueId },
      portrait(trueId),
      element("span", { class: "name" }),
      element("span", { class: "tag" }),
      element("span", { class: "score" }),
    );
    this.#rows.set(trueId, row);
    return row;
  }
}
