/** Where the stock client comes from when the game brings none. */

/** @type {any} */
const scope = globalThis;
let attempts = 0;

/**
 * Throws a TypeError where there can be none: the build that the gateway serves is for browsers.
 * @param {unknown} io
 */
export function checkIo(io) {
  const missing = io === undefined && scope.io === undefined && scope.process?.versions?.node;
  if (missing || (io !== undefined && typeof io !== "function")) {
    throw new TypeError("give `io` of socket.io-client 4");
  }
}

/**
 * The global `io`, else the build beside this module on the gateway.
 * @returns {Promise<(...args: any[]) => any>} rejects when it cannot be loaded now
 */
export async function loadIo() {
  if (typeof scope.io === "function") return scope.io;
  const url = new URL("../vendor/socket.io.esm.min.js", import.meta.url);
  // A browser may remember that an address did not load.
  if (attempts++) url.searchParams.set("attempt", String(attempts));
  return (await import(url.href)).io;
}
