// A message to everybody, to the members of a room, or to a player.

import { call } from "./api.js";
import { confirm } from "./dialog.js";
import { byId, h } from "./dom.js";
import { number } from "./format.js";

const TARGETS = [["all", "Everybody"], ["room", "A room"], ["target_id", "A player"]];

const field = (label, input, note) =>
  h("div", { class: "field" }, h("label", { for: input.id }, label), input, note ? h("p", { class: "note" }, note) : null);

function outcome({ status, connections, players, refused }) {
  const many = players === undefined ? "" : ` to ${number(players)} players`;
  const less = refused ? `, ${number(refused)} mailboxes are full` : "";
  return `Sent${many}: ${status}, ${number(connections)} connections${less}.`;
}

export class Announce {
  #form = byId("announce");
  #target = h("input", { id: "announce-target", maxlength: 128, autocomplete: "off", spellcheck: "false", autocapitalize: "off" });
  #targetField = field("Name of the room", this.#target);
  #type = h("input", { id: "announce-type", value: "announcement", maxlength: 64, autocomplete: "off", spellcheck: "false" });
  #text = h("textarea", { id: "announce-text", rows: 3 });
  #json = h("input", { id: "announce-json", type: "checkbox" });
  #volatile = h("input", { id: "announce-volatile", type: "checkbox" });
  #reason = h("p", { class: "reason", role: "alert" });
  #kinds;

  constructor() {
    this.#kinds = TARGETS.map(([value, text]) => h("input", { type: "radio", name: "announce-to", id: `announce-to-${value}`, value, "aria-label": text }));
    this.#kinds[0].checked = true;
    const choice = h("fieldset", { class: "choice" }, h("legend", { class: "unseen" }, "To whom"),
      ...this.#kinds.map((input, index) => h("label", {}, input, h("span", {}, TARGETS[index][1]))));
    choice.addEventListener("change", () => this.#onKind());
    this.#form.append(choice, this.#targetField, field("Message", this.#text), field("Type", this.#type),
      h("label", { class: "check" }, this.#json, "The message is JSON; else it is sent as a text"),
      h("label", { class: "check" }, this.#volatile, "Volatile: only for who is connected now"),
      this.#reason, h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Send…")));
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask();
    });
    this.#onKind();
  }

  get #kind() {
    return this.#kinds.find((input) => input.checked).value;
  }

  #onKind() {
    this.#targetField.hidden = this.#kind === "all";
    this.#targetField.firstChild.textContent = this.#kind === "room" ? "Name of the room" : "true_id of the player";
  }

  /** Begin a message to a room or, with `target_id`, to a player. */
  begin(kind, target) {
    this.#kinds.find((input) => input.value === kind).checked = true;
    this.#target.value = target;
    this.#onKind();
    this.#form.scrollIntoView({ block: "center" });
    this.#text.focus();
  }

  #request() {
    const kind = this.#kind;
    const target = this.#target.value.trim();
    if (kind !== "all" && !target) throw new Error(kind === "room" ? "Name a room." : "Give a true_id.");
    if (!this.#text.value.trim()) throw new Error("There is no message.");
    let data = this.#text.value;
    if (this.#json.checked) {
      try {
        data = JSON.parse(data);
      } catch {
        throw new Error("The message is not JSON.");
      }
    }
    // With an id, a second try after a lost answer reaches nobody twice.
    const request = { [kind]: kind === "all" ? true : target, data, volatile: this.#volatile.checked, id: newId() };
    const type = this.#type.value.trim();
    return type ? { ...request, type } : request;
  }

  #ask() {
    let request;
    try {
      request = this.#request();
      this.#reason.textContent = "";
    } catch (error) {
      this.#reason.textContent = error.message;
      return;
    }
    const to = request.all ? "everybody, also players who are away" : request.room ? `all members of ${request.room}` : request.target_id;
    confirm({
      title: "Send this message?",
      text: `To ${request.all && request.volatile ? "everybody who is connected" : to}: ${this.#text.value.slice(0, 200)}`,
      action: "Send",
      danger: false,
      run: async () => {
        const told = outcome(await call("POST", "announcements", request));
        this.#text.value = "";
        return told;
      },
    });
  }
}

/** Random bytes in hex; crypto.randomUUID is for secure contexts only. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
