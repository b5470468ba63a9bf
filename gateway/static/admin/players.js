// Who is here, in pages; and the search.

import { call } from "./api.js";
import { byId, h, setText, show, table } from "./dom.js";
import { duration, number } from "./format.js";
import { Player } from "./player.js";

const PAGE = 15;

export class Players {
  /** Cursors of the pages before, and of this one. */
  #cursors = [null];
  #following = null;
  #player;
  #chosen = null;
  #asked = 0;

  constructor(announce) {
    this.#player = new Player(announce, () => this.choose(null));
    byId("search").addEventListener("submit", (event) => {
      event.preventDefault();
      const trueId = byId("search-id").value.trim();
      if (trueId) this.choose(trueId);
    });
  }

  /** Show a player, or with null the list. */
  choose(trueId) {
    const before = this.#chosen;
    this.#chosen = trueId;
    byId("player-list").hidden = trueId !== null;
    byId("player").hidden = trueId === null;
    if (trueId === null) {
      byId("search-id").value = "";
      byId("search-id").focus();
    } else if (trueId !== before) this.#player.open(trueId);
    this.refresh();
  }

  /** Ask for what is shown, and show it. */
  async refresh(now = this.now) {
    this.now = now;
    this.#asked += 1;
    const asked = this.#asked;
    if (this.#chosen !== null) {
      await this.#player.refresh(now);
      return;
    }
    const cursor = this.#cursors.at(-1);
    const page = await call("GET", `players?limit=${PAGE}${cursor ? `&cursor=${cursor}` : ""}`);
    if (asked !== this.#asked || this.#chosen !== null) return;
    if (!page.players.length && this.#cursors.length > 1) {
      this.#cursors.pop();
      return;
    }
    this.#following = page.cursor;
    setText(byId("players-note"), `${number(page.online)} online`);
    const rows = page.players.map(({ true_id, name, state, status, connections, since }) =>
      [true_id, name ?? "", state, status ?? "", connections, since === null ? "" : duration(Math.max(1, now - since))]);
    const place = [this.#cursors.length, page.cursor !== null];
    show(byId("player-list"), [rows, place], () => [this.#list(rows), this.#turns(...place)]);
  }

  #list(rows) {
    if (!rows.length) return h("p", { class: "empty" }, "Nobody is here.");
    const row = ([trueId, name, state, status, connections, since]) =>
      h("tr", { data: { trueId } },
        h("td", {},
          h("button", { type: "button", class: "link", data: { key: trueId }, on: { click: () => this.choose(trueId) } }, name || trueId),
          h("div", { class: "note mono" }, trueId)),
        h("td", {}, h("span", { class: "badge", data: { tone: state } }, state), status ? h("div", { class: "note" }, status) : null),
        h("td", { class: "number" }, String(connections)),
        h("td", { class: "number quiet" }, since));
    return table("Players who are here or away", [["Player"], ["State"], ["Conn.", "number"], ["For", "number"]], rows.map(row));
  }

  #turns(page, more) {
    if (page === 1 && !more) return h("div");
    const turn = (text, able, to) =>
      h("button", { type: "button", class: "small", disabled: !able, data: { key: text }, on: { click: to } }, text);
    return h("div", { class: "actions end" },
      turn("Back", page > 1, () => this.#turn(() => this.#cursors.pop())),
      turn("More", more, () => this.#turn(() => this.#cursors.push(this.#following))));
  }

  #turn(move) {
    move();
    this.refresh();
  }
}
