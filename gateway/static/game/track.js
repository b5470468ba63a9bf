/**
 * Where somebody else is. What arrives is a little late and not evenly so; it is shown a moment
 * later still, between two places that are known, and for a blink beyond the last one.
 */

/** Milliseconds. */
const DELAY = 110;
const BEYOND = 180;
const GAP = 400;
const KEPT = 16;

/** @typedef {{x: number, y: number, vx: number, vy: number, dash: boolean, at: number}} Sample */

export class Track {
  /** 1 looks right, -1 left. */
  face = 1;
  /** @type {Sample[]} */
  #samples = [];
  /** Between the sender's clock and ours, at the quickest message of late. */
  #shift = null;

  /**
   * @param {{x: number, y: number, vx: number, vy: number, dash: boolean, at: number}} sample
   *   `at`: milliseconds of the sender's clock, of which only differences count
   * @param {number} now milliseconds of ours
   */
  push(sample, now) {
    const shift = now - sample.at;
    // A quicker message is nearer to the truth; slower ones win only slowly, as clocks drift.
    const jump = this.#shift === null || Math.abs(shift - this.#shift) > 2000;
    this.#shift = jump ? shift : Math.min(shift, this.#shift + 0.5);
    if (jump) this.#samples.length = 0;
    const at = sample.at + this.#shift;
    const before = this.#samples.at(-1);
    if (before && at <= before.at) return;
    // It stood still until just now: who only moves tells only then.
    if (before && at - before.at > GAP) {
      this.#samples.push({ ...before, vx: 0, vy: 0, dash: false, at: at - 70 });
    }
    this.#samples.push({ ...sample, at });
    if (Math.abs(sample.vx) > 20) this.face = Math.sign(sample.vx);
    if (this.#samples.length > KEPT) this.#samples.shift();
  }

  /** Whether anything is known. */
  get known() {
    return this.#samples.length > 0;
  }

  /**
   * @param {number} now milliseconds
   * @returns {{x: number, y: number, vx: number, vy: number, dash: boolean}|null}
   */
  at(now) {
    const time = now - DELAY;
    const next = this.#samples.findIndex((sample) => sample.at > time);
    if (next === 0 || this.#samples.length === 0) return this.#samples[0] ?? null;
    if (next < 0) {
      const last = this.#samples.at(-1);
      const ahead = Math.min(BEYOND, time - last.at) / 1000;
      const late = time - last.at > BEYOND;
      return {
        x: last.x + last.vx * ahead,
        y: last.y + last.vy * ahead,
        vx: late ? 0 : last.vx,
        vy: late ? 0 : last.vy,
        dash: last.dash && !late,
      };
    }
    const [a, b] = [this.#samples[next - 1], this.#samples[next]];
    const part = (time - a.at) / (b.at - a.at);
    const mix = (from, to) => from + (to - from) * part;
    return {
      x: mix(a.x, b.x),
      y: mix(a.y, b.y),
      vx: mix(a.vx, b.vx),
      vy: mix(a.vy, b.vy),
      dash: a.dash || b.dash,
    };
  }
}
