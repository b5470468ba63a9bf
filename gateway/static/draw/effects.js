/** What flashes up and is gone: bits that fly, and words that rise. Few, and none if unwanted. */

const MOST_BITS = 120;
const MOST_WORDS = 12;

export class Effects {
  /** @type {{x: number, y: number, vx: number, vy: number, left: number, life: number, colour: string}[]} */
  bits = [];
  /** @type {{x: number, y: number, left: number, text: string, colour: string}[]} */
  words = [];
  /** Seconds of trembling that are left. */
  tremble = 0;
  /** Whether the player wants things to move that need not. */
  calm = false;

  /**
   * @param {{x: number, y: number}} place
   * @param {string} colour
   * @param {number} count
   */
  burst({ x, y }, colour, count) {
    if (this.calm) return;
    for (let n = 0; n < count && this.bits.length < MOST_BITS; n += 1) {
      const angle = Math.random() * 2 * Math.PI;
      const speed = 60 + Math.random() * 170;
      const life = 0.3 + Math.random() * 0.35;
      const [vx, vy] = [Math.cos(angle) * speed, Math.sin(angle) * speed - 50];
      this.bits.push({ x, y, vx, vy, left: life, life, colour });
    }
  }

  /**
   * @param {{x: number, y: number}} place
   * @param {string} text
   * @param {string} colour
   */
  word({ x, y }, text, colour) {
    this.words.push({ x, y: y - 40, left: 0.9, text, colour });
    if (this.words.length > MOST_WORDS) this.words.shift();
  }

  shake() {
    if (!this.calm) this.tremble = 0.28;
  }

  /** @param {number} seconds that have passed */
  step(seconds) {
    this.tremble = Math.max(0, this.tremble - seconds);
    for (const bit of this.bits) {
      bit.left -= seconds;
      bit.x += bit.vx * seconds;
      bit.y += bit.vy * seconds;
      bit.vy += 320 * seconds;
    }
    for (const word of this.words) {
      word.left -= seconds;
      if (!this.calm) word.y -= 46 * seconds;
    }
    this.bits = this.bits.filter(({ left }) => left > 0);
    this.words = this.words.filter(({ left }) => left > 0);
  }
}
