/** Rounds follow from the gateway's clock: nobody has to start one, or to have been there. */

/** Seconds at the end of each round in which nothing counts and the result is shown. */
export const BREAK = 10;
export const DEFAULT_LENGTH = 70;
const SHORTEST = 20;
const LONGEST = 3600;

/** @typedef {{round: number, playing: boolean, left: number, starts: number}} Moment */

/**
 * @param {number} seconds the gateway's time
 * @param {number} length of a round with its break, in seconds
 * @returns {Moment} `left`: seconds to the end of the play or of the break
 */
export function momentOf(seconds, length) {
  const round = Math.floor(seconds / length);
  const starts = round * length;
  const passed = seconds - starts;
  const playing = passed < length - BREAK;
  return { round, playing, starts, left: (playing ? length - BREAK : length) - passed };
}

/**
 * The match that an address names: `?match=NAME&round=SECONDS`. Pages with rounds of another
 * length are in another room, so that all in a room agree.
 * @param {URLSearchParams} parameters
 * @returns {{match: string, length: number, room: string}}
 */
export function matchOf(parameters) {
  const name = (parameters.get("match") ?? "").toLowerCase().replace(/[^a-z0-9-]+/g, "-");
  const match = name.replace(/^-+|-+$/g, "").slice(0, 32) || "arena";
  const asked = Math.round(Number(parameters.get("round") ?? NaN));
  const length = asked >= SHORTEST && asked <= LONGEST ? asked : DEFAULT_LENGTH;
  const room = length === DEFAULT_LENGTH ? `sparks-${match}` : `sparks-${match}-${length}`;
  return { match, length, room };
}
