/**
 * Where everybody is: volatile messages, of which only the latest counts. The own place is told
 * while it changes; of the others a track is kept.
 *
 * A player may have several tabs. The one that was steered last leads, the others follow it.
 */

import { Track } from "../game/track.js";
import { HEIGHT, WIDTH } from "../game/world.js";

/** Milliseconds between two messages. */
const PACE = 55;
/** A tab that was steered so recently does not follow another one. */
const MINE = 400;
const MOST_TRACKS = 200;

export class Positions {
  /** @type {Map<string, Track>} */
  tracks = new Map();
  /** Of this player's other tab, when that one leads. @type {Track|null} */
  leader = null;
  #match;
  #page = crypto.getRandomValues(new Uint32Array(1))[0];
  #toldAt = -Infinity;
  #told = "";
  #steeredAt = -Infinity;
  #owed = false;

  /** @param {import("./match.js").Match} match */
  constructor(match) {
    this.#match = match;
    match.on("message", (message) => this.#onMessage(message));
    match.on("members", () => this.#forget());
    match.on("joined", () => (this.#told = ""));
  }

  /** This tab leads now. @param {number} now milliseconds */
  steer(now) {
    this.#steeredAt = now;
    this.leader = null;
  }

  /** There is no other tab of this player any more. */
  lead() {
    this.leader = null;
  }

  get #steered() {
    return this.#steeredAt > -Infinity;
  }

  /**
   * Tell where this player is, if that is news and not too soon.
   * @param {import("../game/motion.js").Body} body
   * @param {number} now milliseconds
   */
  tell(body, now) {
    if (this.leader || now - this.#toldAt < PACE) return;
    const [x, y, vx, vy] = [body.x, body.y, body.vx, body.vy].map(Math.round);
    const news = [x, y, vx, vy].join();
    if (news === this.#told && !this.#owed) return;
    [this.#toldAt, this.#told, this.#owed] = [now, news, false];
    const dash = body.dash > 0;
    const own = { page: this.#page, steered: this.#steered };
    const data = { x, y, vx, vy, dash, at: Math.round(now), ...own };
    this.#match.tell("at", data, false);
  }

  #onMessage({ type, from, data }) {
    if (type === "where") {
      // Not all at once.
      setTimeout(() => (this.#owed = true), from === this.#match.me ? 0 : Math.random() * 200);
    }
    if (type !== "at" || from === null || !fits(data)) return;
    const now = performance.now();
    if (from === this.#match.me) this.#follow(data, now);
    else this.#track(from).push({ ...data, dash: data.dash === true }, now);
  }

  #follow(data, now) {
    if (data.page === this.#page || now - this.#steeredAt < MINE) return;
    if (!this.leader && !this.#yields(data)) return;
    this.leader ??= new Track();
    this.leader.push(data, now);
  }

  /** Of two that stand still just one has to lead. */
  #yields({ vx, vy, steered, page }) {
    if (vx || vy) return true;
    return steered === this.#steered ? page > this.#page : steered === true;
  }

  #track(trueId) {
    const known = this.tracks.get(trueId);
    if (known) return known;
    if (this.tracks.size >= MOST_TRACKS) this.tracks.delete(this.tracks.keys().next().value);
    const track = new Track();
    this.tracks.set(trueId, track);
    return track;
  }

  #forget() {
    const { members } = this.#match;
    for (const id of this.tracks.keys()) if (!members.has(id)) this.tracks.delete(id);
  }
}

/** Others may send anything. */
function fits({ x, y, vx, vy, at }) {
  return (
    [x, y, vx, vy, at].every(Number.isFinite) &&
    x >= 0 && x <= WIDTH && y >= 0 && y <= HEIGHT && Math.hypot(vx, vy) < 2000
  );
}
