// Asks before anything is done, and tells what became of it.

import { Refused } from "./api.js";
import { byId, h } from "./dom.js";

let told = 0;

/** Tell the operator something; it goes away by itself. */
export function tell(text, tone = "good") {
  const place = byId("told");
  place.textContent = text;
  place.dataset.tone = tone;
  clearTimeout(told);
  told = setTimeout(() => {
    place.textContent = "";
  }, 8000);
}

/** What to say of an error. */
export function wording(error) {
  if (error instanceof Refused) return `Refused: ${error.message}.`;
  return "The gateway does not answer.";
}

/**
 * Ask in a dialog and, if the answer is yes, do it; what `run` returns is told.
 *
 * `fields` are elements to fill in. A refusal is shown in the dialog, which stays.
 */
export function confirm({ title, text, action, danger = true, fields = [], run }) {
  const dialog = byId("dialog");
  const reason = h("p", { class: "reason", role: "alert" });
  const yes = h("button", { type: "submit", class: danger ? "danger" : "primary", id: "dialog-yes" }, action);
  const no = h("button", { type: "button", id: "dialog-no", on: { click: () => dialog.close() } }, "Cancel");
  const form = h("form", { class: "form" },
    h("h2", { id: "dialog-title" }, title), h("p", {}, text), ...fields, reason, h("div", { class: "actions end" }, no, yes));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    yes.disabled = true;
    reason.textContent = "";
    try {
      const done = await run();
      dialog.close();
      tell(done);
    } catch (error) {
      reason.textContent = wording(error);
    }
    yes.disabled = false;
  });
  dialog.replaceChildren(form);
  dialog.showModal();
  (fields.length ? form.querySelector("input, select") : no).focus();
}
