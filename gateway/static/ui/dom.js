/** Small DOM helpers. Data reaches the page as text only, never as markup. */

/**
 * @param {string} id
 * @returns {any} the element; a missing one is a programming error
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element #${id}`);
  return found;
}

/**
 * Build an element.
 * @param {string} tag
 * @param {Record<string, string>} [attributes] `class`, `data-…`, `aria-…` and the like
 * @param {...(Node|string)} children strings become text nodes
 * @returns {any}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/**
 * Set text only if it differs, so that live regions stay quiet.
 * @param {Element} target
 * @param {string} text
 */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/**
 * A `<time>` for today as hours and minutes; with the date for older ones.
 * @param {number} at epoch milliseconds
 */
export function timeElement(at) {
  const date = new Date(at);
  const today = new Date().toDateString() === date.toDateString();
  const clock = { hour: "2-digit", minute: "2-digit" };
  const style = today ? clock : { month: "short", day: "numeric", ...clock };
  const text = date.toLocaleString(undefined, style);
  return element("time", { datetime: date.toISOString() }, text);
}

/**
 * Copy text; works on plain http too, where there is no clipboard API.
 * @param {string} text
 * @param {Element} shown an element showing the text, selected as a last resort
 * @returns {Promise<boolean>}
 */
export async function copyText(text, shown) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection()?.selectAllChildren(shown);
    return document.execCommand("copy");
  }
}
