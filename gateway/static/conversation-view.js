/** The log of messages and the receipts under one's own. */

import { byId, element, setText, timeElement } from "./dom.js";
import { sprite } from "./sprite.js";

const NEAR_END_PX = 80;

export class ConversationView {
  /**
   * @param {import("./log.js").ConversationLog} log
   * @param {import("./roster.js").Roster} roster
   * @param {{onPick: (trueId: string) => void, onAgain: (entry: import("./log.js").Entry) => void}} callbacks
   */
  constructor(log, roster, callbacks) {
    this.log = log;
    this.roster = roster;
    this.callbacks = callbacks;
    this.list = byId("messages");
    this.scroller = byId("scroller");
    /** @type {Map<string, HTMLLIElement>} */
    this.rows = new Map();
    this.pinned = true;
    this.scroller.addEventListener("scroll", () => this.#notePosition(), { passive: true });
    new ResizeObserver(() => this.pinned && this.#scrollToEnd()).observe(this.scroller);
    log.addEventListener("added", ({ detail }) => this.#add(detail));
    log.addEventListener("changed", ({ detail }) => this.#change(detail));
    log.addEventListener("removed", ({ detail }) => this.#remove(detail));
  }

  /** Draw all of it anew, silently. */
  showAll() {
    this.scroller.setAttribute("aria-live", "off");
    this.rows.clear();
    this.list.replaceChildren();
    for (const entry of this.log.entries) this.#add(entry);
    this.#scrollToEnd();
    byId("no-messages").hidden = this.log.entries.length > 0;
    setText(byId("receipt"), "");
    setTimeout(() => this.scroller.setAttribute("aria-live", "polite"), 500);
  }

  /** Names may have become known since. */
  showNames() {
    for (const entry of this.log.entries) {
      const who = this.rows.get(entry.key)?.querySelector(".peer");
      if (who) setText(who, this.#peer(entry));
    }
  }

  #peer(entry) {
    const trueId = entry.direction === "in" ? entry.from : entry.to;
    return trueId === null ? "The game" : this.roster.nameOf(trueId) || trueId;
  }

  #add(entry) {
    const row = element("li", {
      class: entry.direction,
      "data-id": entry.id,
      "data-from": entry.from ?? "",
      "data-direction": entry.direction,
    });
    row.append(this.#head(entry), element("p", { class: "text" }, entry.text));
    if (entry.direction === "out") row.append(element("p", { class: "status" }));
    this.rows.set(entry.key, row);
    this.list.append(row);
    byId("no-messages").hidden = true;
    if (entry.direction === "out") this.#showStatus(row, entry);
    if (this.pinned || entry.direction === "out") this.#scrollToEnd();
  }

  #scrollToEnd() {
    this.pinned = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  /** Note whether the reader is at the end; then new messages keep them there. */
  #notePosition() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    this.pinned = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
  }

  #head(entry) {
    const trueId = entry.direction === "in" ? entry.from : entry.to;
    const head = element("div", { class: "head" });
    if (trueId !== null) head.append(sprite(trueId));
    if (entry.direction === "out") head.append(element("span", { class: "to-word" }, "to"));
    const who = element(trueId === null ? "span" : "button", { class: "peer" }, this.#peer(entry));
    if (trueId !== null) {
      who.type = "button";
      who.title = `Write to ${trueId}`;
      who.addEventListener("click", () => this.callbacks.onPick(trueId));
    }
    head.append(who);
    if (entry.label) head.append(element("span", { class: "label" }, entry.label));
    if (entry.replayed) {
      head.append(element("span", { class: "away-tag" }, "while you were away"));
    }
    head.append(timeElement(entry.at));
    return head;
  }

  #change(entry) {
    const row = this.rows.get(entry.key);
    if (row) this.#showStatus(row, entry);
    if (this.pinned) this.#scrollToEnd();
    const receipt = byId("receipt");
    setText(receipt, `To ${this.#peer(entry)}: ${entry.receipt}`);
    receipt.dataset.status = entry.status ?? "";
    receipt.dataset.code = entry.code ?? "";
  }

  #showStatus(row, entry) {
    row.dataset.status = entry.status;
    const status = row.querySelector(".status");
    status.replaceChildren(entry.receipt ?? "");
    if (entry.status !== "failed") return;
    const again = element("button", { type: "button", class: "small" }, "Send again");
    again.addEventListener("click", () => this.callbacks.onAgain(entry));
    status.append(" ", again);
  }

  #remove(key) {
    this.rows.get(key)?.remove();
    this.rows.delete(key);
  }
}
