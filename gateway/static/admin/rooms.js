// Rooms, the largest first.

import { call } from "./api.js";
import { byId, h, setText, show, table } from "./dom.js";
import { number } from "./format.js";

const PAGE = 10;

export class Rooms {
  #offset = 0;
  #announce;

  /** `announce` begins a message to a room. */
  constructor(announce) {
    this.#announce = announce;
  }

  /** Ask for the page, and show it. */
  async refresh() {
    const { rooms, offset, largest } = await call("GET", `rooms?limit=${PAGE}&offset=${this.#offset}`);
    if (offset && offset >= rooms) {
      this.#offset = Math.max(0, this.#offset - PAGE);
      return;
    }
    setText(byId("rooms-note"), rooms ? `${number(offset + 1)}–${number(offset + largest.length)} of ${number(rooms)}, largest first` : "");
    show(byId("rooms"), [rooms > offset + PAGE, offset, largest], () => [this.#list(largest), this.#turns(rooms > offset + PAGE, offset)]);
  }

  #list(largest) {
    if (!largest.length) return h("p", { class: "empty" }, "There are no rooms.");
    const row = ({ room, members }) =>
      h("tr", {},
        h("th", { scope: "row" }, room),
        h("td", { class: "number" }, number(members)),
        h("td", { class: "number" }, h("button", { type: "button", class: "small", "aria-label": `Message room ${room}`, data: { key: `room ${room}` },
          on: { click: () => this.#announce(room) } }, "Message")));
    return table("Rooms, the largest first", [["Room"], ["Members", "number"], ["", "number"]], largest.map(row));
  }

  #turns(more, offset) {
    if (!more && !offset) return h("div");
    const turn = (text, able, step) =>
      h("button", { type: "button", class: "small", disabled: !able, data: { key: `rooms ${text}` }, on: { click: () => this.#turn(step) } }, text);
    return h("div", { class: "actions end" }, turn("Back", offset > 0, -PAGE), turn("More", more, PAGE));
  }

  #turn(step) {
    this.#offset = Math.max(0, this.#offset + step);
    this.refresh();
  }
}
