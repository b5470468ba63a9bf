/** What goes into a message, and when it goes. */

/** @returns {string} a key no other message has; plain http has no `randomUUID` */
export function randomId() {
  if (typeof crypto.randomUUID === "function") return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Take a copy of what is to be sent: the caller may change theirs before it goes.
 * @param {any} data
 * @returns {{value: any, size: number}} `size` is in bytes
 */
export function snapshot(data) {
  const text = JSON.stringify(data, (key, value) => {
    if (!(value instanceof ArrayBuffer) && !ArrayBuffer.isView(value)) return value;
    throw new TypeError("binary data cannot be sent: make it base64 text");
  });
  if (text === undefined) throw new TypeError("data has to be JSON");
  return { value: JSON.parse(text), size: new TextEncoder().encode(text).length };
}

/**
 * Wait a little longer than the gateway asked for: others were asked, too.
 * @param {number} seconds
 * @returns {number} milliseconds
 */
export function spread(seconds) {
  return seconds * 1000 * (1 + Math.random() * 0.2);
}
