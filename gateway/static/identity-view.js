/** The strip at the top: who you are, the line to the gateway, how it stands. */

import { byId, copyText, setText } from "./dom.js";
import { sprite } from "./sprite.js";
import { outcomeText, STATE_LABELS } from "./wording.js";

const TICK_MS = 250;

export class IdentityView {
  /**
   * @param {import("./session.js").GatewaySession} session
   */
  constructor(session) {
    this.session = session;
    this.ticker = 0;
    this.unread = 0;
    this.name = "";
    this.drawn = "";
    byId("drop").addEventListener("click", () => session.drop());
    byId("reconnect").addEventListener("click", () => session.connectNow());
    byId("copy").addEventListener("click", () => this.#copy());
  }

  /** @param {{true_id: string, name?: string, session_id?: string}} player */
  showPlayer(player) {
    this.name = player.name || "Player";
    setText(byId("own-name"), this.name);
    setText(byId("true-id"), player.true_id);
    setText(byId("session-id"), player.session_id ?? "none");
    if (this.drawn !== player.true_id) byId("own-sprite").replaceChildren(sprite(player.true_id));
    this.drawn = player.true_id;
    this.showTitle();
  }

  /**
   * @param {any} session payload of the `session` event
   * @param {string} socketId
   */
  showSession(session, socketId) {
    setText(byId("socket-id"), socketId);
    this.showConnections(session.connections);
    const outcome = byId("outcome");
    setText(outcome, outcomeText(session));
    outcome.dataset.outcome = session.outcome;
    outcome.dataset.resumed = String(session.resumed);
    outcome.dataset.missed = String(session.missed ?? 0);
  }

  /** @param {number} n */
  showConnections(n) {
    setText(byId("connections"), String(n));
  }

  /** @param {string} name of the transport */
  showTransport(name) {
    setText(byId("transport"), name);
  }

  /** @param {{state: import("./wording.js").State, reason: string}} change */
  showState({ state, reason }) {
    const pill = byId("state");
    pill.dataset.state = state;
    setText(pill, STATE_LABELS[state]);
    byId("line").dataset.state = state;
    setText(byId("reason"), reason);
    if (state !== "live") {
      setText(byId("socket-id"), "none");
      setText(byId("transport"), "no transport");
    }
    this.#showCountdown();
    this.showTitle();
  }

  /** @param {number} [unread] messages that came while the page was hidden */
  showTitle(unread = this.unread) {
    this.unread = unread;
    const { state } = this.session;
    const parts = [this.name, state === "live" ? "" : STATE_LABELS[state], "Game gateway"];
    document.title = (unread ? `(${unread}) ` : "") + parts.filter(Boolean).join(" · ");
  }

  /** Swap the buttons with the state, keeping keyboard focus on the one that is left. */
  #showCountdown() {
    const { state, retry } = this.session;
    const drop = byId("drop");
    const reconnect = byId("reconnect");
    const focused = document.activeElement === drop || document.activeElement === reconnect;
    drop.hidden = state !== "live";
    reconnect.hidden = state === "live" || state === "connecting";
    reconnect.disabled = state === "reconnecting" && !retry.waiting;
    if (focused) (drop.hidden ? reconnect : drop).focus();
    clearInterval(this.ticker);
    if (retry.waiting) this.ticker = setInterval(() => this.#tick(), TICK_MS);
    this.#tick();
  }

  #tick() {
    const { retry, state } = this.session;
    let text = "";
    if (retry.waiting) {
      const left = Math.max(0, Math.ceil((retry.dueAt - Date.now()) / 1000));
      text = `Trying again in ${left} s`;
    } else if (state === "reconnecting" || state === "connecting") text = "Connecting…";
    setText(byId("countdown"), text);
    setText(byId("login-countdown"), text);
  }

  async #copy() {
    const button = byId("copy");
    const shown = byId("true-id");
    const done = await copyText(shown.textContent, shown);
    setText(button, done ? "Copied" : "Selected");
    setTimeout(() => setText(button, "Copy"), 1600);
  }
}
