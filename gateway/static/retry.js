/**
 * When to try the next connection. One timer, visible from outside, so that the
 * page can count down and a returning tab can skip the wait.
 */

const BASE_MS = 500;
const CEILING_MS = 15_000;

/**
 * Exponential backoff with jitter: half of the delay is fixed, half is random,
 * so that many clients of one restarted server do not return in step.
 * @param {number} attempt 0 for the first retry
 * @param {() => number} [random]
 * @returns {number} milliseconds
 */
export function backoff(attempt, random = Math.random) {
  const full = Math.min(CEILING_MS, BASE_MS * 2 ** (attempt + 1));
  return full / 2 + (random() * full) / 2;
}

/**
 * Spread a delay that the server asked for: never earlier, up to a fifth later.
 * @param {number} seconds
 * @param {() => number} [random]
 * @returns {number} milliseconds
 */
export function spread(seconds, random = Math.random) {
  return seconds * 1000 * (1 + random() * 0.2);
}

export class RetryTimer {
  /** @param {() => void} action what to do when the wait is over */
  constructor(action) {
    this.action = action;
    this.timer = 0;
    /** Epoch milliseconds of the next attempt, null when none is due. @type {number|null} */
    this.dueAt = null;
    /** The server asked for this wait; only a person may cut it short. */
    this.imposed = false;
  }

  /**
   * @param {number} delay milliseconds
   * @param {boolean} [imposed]
   */
  schedule(delay, imposed = false) {
    this.cancel();
    this.dueAt = Date.now() + delay;
    this.imposed = imposed;
    this.timer = setTimeout(() => this.fire(), delay);
  }

  cancel() {
    clearTimeout(this.timer);
    this.dueAt = null;
    this.imposed = false;
  }

  /** Act at once and drop the wait. */
  fire() {
    this.cancel();
    this.action();
  }

  get waiting() {
    return this.dueAt !== null;
  }
}
