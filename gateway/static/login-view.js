/** The form at the door. Typed credentials leave it once, as an event's payload. */

import { byId, element, setText } from "./dom.js";
import { sprite } from "./sprite.js";

/** Names that draw three good-looking creatures for the door. */
const CAST = ["moss", "ember", "harbor"];

export class LoginView {
  /** @param {(credentials: import("./identity.js").Credentials) => void} onSubmit */
  constructor(onSubmit) {
    this.onSubmit = onSubmit;
    this.form = byId("login-form");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    for (const id of ["mode-guest", "mode-password"]) {
      byId(id).addEventListener("change", () => this.#showMode());
    }
    const cast = CAST.flatMap((name) => [element("i"), element("span", {}, sprite(name))]);
    byId("cast").replaceChildren(...cast.slice(1));
    this.#showMode();
  }

  /**
   * @param {string} [reason] why the player is asked again
   * @param {"bad"|"plain"} [tone]
   */
  show(reason = "", tone = "bad") {
    byId("password").value = "";
    byId("welcome").hidden = false;
    this.busy(false);
    this.say(reason, tone);
    this.#fields()[0].select();
  }

  hide() {
    byId("welcome").hidden = true;
    byId("password").value = "";
    this.busy(false);
    this.say("");
  }

  /**
   * @param {string} reason
   * @param {"bad"|"plain"} [tone]
   */
  say(reason, tone = "bad") {
    byId("login-reason").dataset.tone = tone;
    setText(byId("login-reason"), reason);
  }

  /** @param {boolean} busy an attempt is under way */
  busy(busy) {
    setText(byId("login-submit"), busy ? "Joining…" : "Join");
    this.form.setAttribute("aria-busy", String(busy));
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
    this.say("");
    this.busy(true);
    this.onSubmit(
      this.#guest
        ? { guest: true, name: byId("name").value.trim() }
        : { username: byId("username").value.trim(), password: byId("password").value },
    );
  }
}
