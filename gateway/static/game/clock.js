/**
 * The gateway's clock, as far as it can be told from the `ts` of messages. A message is never
 * here before it was sent, so the largest difference seen is the nearest to the truth.
 */

const KEPT = 32;
/** Seconds: of all that come in so short a time the nearest to the truth is kept. */
const WINDOW = 0.25;

export class ServerClock {
  /** @type {{at: number, difference: number}[]} */
  #windows = [];
  #now;

  /** @param {() => number} now this device's Unix time in milliseconds */
  constructor(now = Date.now) {
    this.#now = now;
  }

  /** @param {number} ts of a message that has just arrived from the network, in seconds */
  observe(ts) {
    if (!Number.isFinite(ts)) return;
    const now = this.#now() / 1000;
    const difference = ts - now;
    const last = this.#windows.at(-1);
    if (last && Math.abs(now - last.at) < WINDOW) {
      last.difference = Math.max(last.difference, difference);
      return;
    }
    // This device's clock was set, or it slept: what was seen before says nothing any more.
    if (last && now < last.at) this.#windows.length = 0;
    this.#windows.push({ at: now, difference });
    if (this.#windows.length > KEPT) this.#windows.shift();
  }

  /** The gateway's time in seconds. */
  get seconds() {
    const differences = this.#windows.map(({ difference }) => difference);
    return this.#now() / 1000 + (differences.length ? Math.max(...differences) : 0);
  }
}
