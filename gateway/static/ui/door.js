/** The form at the door. Typed credentials leave it once, and are kept nowhere. */

import { byId, setText } from "./dom.js";

export class Door {
  #form = byId("login-form");
  /** Who waits for credentials. */
  #resolve = null;

  #backdrop;

  /** @param {import("./backdrop.js").Backdrop} backdrop */
  constructor(backdrop) {
    this.#backdrop = backdrop;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    for (const id of ["mode-guest", "mode-password"]) {
      byId(id).addEventListener("change", () => this.#showMode());
    }
    this.#showMode();
  }

  /**
   * Open, until somebody has said who they are.
   * @param {string} reason why they are asked
   * @param {"bad"|"plain"} tone
   * @returns {Promise<import("../client/gateway.d.ts").Credentials>}
   */
  ask(reason, tone) {
    this.say(reason, tone);
    byId("password").value = "";
    byId("welcome").hidden = false;
    byId("game").hidden = true;
    byId("state").hidden = true;
    this.#backdrop.start();
    this.#busy(false);
    this.#fields()[0].select();
    return new Promise((resolve) => (this.#resolve = resolve));
  }

  close() {
    byId("welcome").hidden = true;
    byId("game").hidden = false;
    byId("state").hidden = false;
    this.#backdrop.stop();
    byId("password").value = "";
    this.#busy(false);
    this.say("");
  }

  get open() {
    return !byId("welcome").hidden;
  }

  /** The way that was chosen is not offered here: leave the other one. */
  withdraw() {
    const [chosen, other] = this.#guest
      ? [byId("mode-guest"), byId("mode-password")]
      : [byId("mode-password"), byId("mode-guest")];
    // A gateway may have neither: then there is nothing to choose.
    if (other.disabled) return;
    chosen.disabled = true;
    other.checked = true;
    byId("modes").hidden = true;
    this.#showMode();
  }

  /**
   * @param {string} reason why the player is asked, or has to wait
   * @param {"bad"|"plain"} [tone]
   */
  say(reason, tone = "bad") {
    byId("login-reason").dataset.tone = tone;
    setText(byId("login-reason"), reason);
  }

  #busy(busy) {
    setText(byId("login-submit"), busy ? "Joining…" : "Play");
    this.#form.setAttribute("aria-busy", String(busy));
  }

  get #guest() {
    return byId("mode-guest").checked;
  }

  #fields() {
    return this.#guest ? [byId("name")] : [byId("username"), byId("password")];
  }

  #showMode() {
    byId("guest-fields").hidden = !this.#guest;
    byId("password-fields").hidden = this.#guest;
    this.say("");
  }

  #submit() {
    const empty = this.#fields().find((field) => field.value.trim() === "");
    if (empty) {
      this.say(empty.id === "password" ? "A password is needed." : "A name is needed.");
      empty.focus();
      return;
    }
    const resolve = this.#resolve;
    if (!resolve) return;
    this.#resolve = null;
    this.say("");
    this.#busy(true);
    resolve(
      this.#guest
        ? { guest: true, name: byId("name").value.trim() }
        : { username: byId("username").value.trim(), password: byId("password").value },
    );
    byId("password").value = "";
  }
}
