/** The chat: what was said, and the field to say something. */

import { portrait } from "../draw/critter.js";
import { byId, element, setText, timeElement } from "./dom.js";

const NEAR_END = 60;
const STATUS = { waiting: "on its way", failed: "not sent", done: "" };

export class ChatView {
  #chat;
  #match;
  #list = byId("messages");
  #scroller = byId("scroller");
  /** @type {Map<string, HTMLLIElement>} */
  #rows = new Map();
  /** Whether the reader is at the end, and stays there when more is said. */
  #pinned = true;

  /**
   * @param {import("../net/chat.js").Chat} chat
   * @param {import("../net/match.js").Match} match
   */
  constructor(chat, match) {
    this.#chat = chat;
    this.#match = match;
    this.#scroller.addEventListener("scroll", () => (this.#pinned = this.#atEnd()));
    new ResizeObserver(() => this.#pinned && this.#scrollToEnd()).observe(this.#scroller);
    chat.on("added", (line) => this.#add(line));
    chat.on("changed", (line) => this.#show(line));
    chat.on("removed", (line) => this.#remove(line));
    chat.on("cleared", () => this.showAll());
    byId("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const field = byId("text");
      const text = field.value.trim();
      field.value = "";
      if (text) chat.say(text);
    });
    byId("text").addEventListener("keydown", (event) => {
      if (event.key === "Escape") byId("arena").focus();
    });
    this.showAll();
  }

  /** Draw all of it anew, silently. */
  showAll() {
    this.#scroller.setAttribute("aria-live", "off");
    this.#rows.clear();
    this.#list.replaceChildren();
    for (const line of this.#chat.lines) this.#add(line);
    this.#showEmpty();
    setTimeout(() => this.#scroller.setAttribute("aria-live", "polite"), 500);
  }

  #add(line) {
    const own = line.from === this.#match.me || line.status !== "done";
    const row = element(
      "li",
      { class: own ? "own" : "other", "data-from": line.from ?? "", "data-key": line.key },
      portrait(line.from ?? ""),
      element("span", { class: "peer" }),
      ...(line.missed ? [element("span", { class: "missed" }, "while you were away")] : []),
      timeElement(line.at),
      element("p", { class: "text" }, line.text),
      element("p", { class: "status" }),
    );
    row.dataset.missed = String(line.missed);
    this.#rows.set(this.#keyOf(line), row);
    this.#list.append(row);
    this.#show(line);
    this.#showEmpty();
    if (own || this.#pinned) this.#scrollToEnd();
  }

  #scrollToEnd() {
    this.#pinned = true;
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  #atEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR_END;
  }

  #showEmpty() {
    byId("no-messages").hidden = this.#rows.size > 0;
  }

  #show(line) {
    const row = this.#rows.get(this.#keyOf(line));
    if (!row) return;
    row.dataset.status = line.status;
    setText(row.querySelector(".peer"), line.name || "Somebody");
    setText(row.querySelector(".status"), STATUS[line.status]);
  }

  #remove(line) {
    this.#rows.get(this.#keyOf(line))?.remove();
    this.#rows.delete(this.#keyOf(line));
  }

  #keyOf({ from, key }) {
    return `${from} ${key}`;
  }
}
