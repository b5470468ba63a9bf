/** Chance that every page agrees on: the same words give the same numbers everywhere. */

/**
 * FNV-1a over the words, told apart by a separator.
 * @param {...(string|number)} words
 * @returns {number} 32 bits
 */
export function hash(...words) {
  let state = 0x811c9dc5;
  for (const character of words.join("\u0000")) {
    state = Math.imul(state ^ character.codePointAt(0), 0x01000193) >>> 0;
  }
  return state;
}

/**
 * @param {number} seed 32 bits
 * @returns {() => number} a generator of 32-bit numbers
 */
export function bits(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 16), 0x85ebca6b);
    mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
    return (mixed ^ (mixed >>> 16)) >>> 0;
  };
}

/**
 * @param {number} seed 32 bits
 * @returns {() => number} a generator of numbers from 0 to below 1
 */
export function fractions(seed) {
  const next = bits(seed);
  return () => next() / 0x1_0000_0000;
}
