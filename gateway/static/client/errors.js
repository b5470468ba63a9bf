/** Why a promise is rejected. */

/** Refusals that say "later"; others are final. */
const LATER = new Set(["unavailable", "rate_limited"]);

/** A refusal, or why a promise cannot be kept. `retryAfter` is in seconds. */
export class GatewayError extends Error {
  /**
   * @param {{code?: string, message?: string, field?: string, retry_after?: number|null}} [error]
   *   as the gateway sends it
   */
  constructor({ code = "unknown", message, field, retry_after: retryAfter } = {}) {
    super(message || code);
    this.name = "GatewayError";
    this.code = code;
    this.field = field;
    this.retryAfter = retryAfter ?? undefined;
  }
}

/**
 * Tell whether an answer is a refusal that says "later".
 * @param {any} answer
 */
export function isForNow(answer) {
  return answer?.ok === false && LATER.has(answer.error?.code);
}

/**
 * The gateway closes a connection over a packet that is far too large: it is not even sent.
 * @param {number} size bytes
 * @param {number} allowed bytes
 */
export function tooLarge(size, allowed) {
  const message = `data has ${size} bytes, ${allowed} are allowed`;
  return new GatewayError({ code: "too_large", message, field: "data" });
}

/** @param {string} event */
export function timedOut(event) {
  return new GatewayError({ code: "timeout", message: `no answer to ${event} in time` });
}

export function closed() {
  return new GatewayError({ code: "closed", message: "the client is closed" });
}

export function playerChanged() {
  const message = "the player is another one now";
  return new GatewayError({ code: "player_changed", message });
}

/**
 * Who does not look at a promise is not bothered when it is rejected.
 * @template T
 * @param {Promise<T>} promise
 */
export function unheeded(promise) {
  promise.catch(() => {});
  return promise;
}
