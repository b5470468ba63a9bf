/**
 * The game of this page: the own critter moves at once, the others as they tell, and what is
 * reached is claimed. What counts is decided by the ledger.
 *
 * Events, for effects and words: `claim` ({x, y, points}), `beaten` (change) by somebody who was
 * first, `change` (change).
 */

import { Events } from "./client/events.js";
import { SHIELD } from "./game/ledger.js";
import { bodyAt, dash, DASH_PAUSE, step } from "./game/motion.js";
import { momentOf } from "./game/rounds.js";
import { distance, RADIUS, REACH, sparkAt, sparkOf, startOf } from "./game/world.js";
import { KEYS } from "./ui/store.js";

/** Seconds: a page that slept longer does not jump. */
const LONGEST_STEP = 0.05;
const TAG_REACH = 2 * RADIUS + 12;

export class Play extends Events {
  /** @type {import("./game/motion.js").Body|null} */
  body = null;
  aim = { x: 0, y: 0 };
  #match;
  #positions;
  #store;
  /** What was claimed and is not decided yet, by slot. @type {Map<number, {round: number, generation: number, points: number}>} */
  #claims = new Map();
  /** Whom this dash has reached. @type {Set<string>} */
  #reached = new Set();
  #whose = null;
  /** Sparks are the same until they are taken. @type {Map<string, import("./game/world.js").Spark>} */
  #sparks = new Map();

  /**
   * @param {import("./net/match.js").Match} match
   * @param {import("./net/positions.js").Positions} positions
   * @param {import("./ui/store.js").TabStore} store
   */
  constructor(match, positions, store) {
    super();
    this.#match = match;
    this.#positions = positions;
    this.#store = store;
    match.on("change", (change, missed) => this.#onChange(change, missed));
    match.on("void", (message) => this.#onVoid(message));
  }

  get moment() {
    return momentOf(this.#match.seconds, this.#match.length);
  }

  get state() {
    return this.#match.ledger.at(this.#match.seconds);
  }

  get score() {
    return this.state.scores[this.#match.me] ?? 0;
  }

  /** Points that were claimed and are not decided yet. */
  get claimed() {
    let points = 0;
    for (const claim of this.#claims.values()) if (this.#open(claim)) points += claim.points;
    return points;
  }

  /** How ready the next dash is, from 0 to 1. */
  get stamina() {
    return this.body ? 1 - this.body.rest / DASH_PAUSE : 1;
  }

  /** Put the player where they were. */
  enter() {
    const { me, name } = this.#match;
    if (me === null || this.#whose === me) return;
    this.#whose = me;
    const kept = this.#store.read(KEYS.place, null);
    const known = kept?.true_id === me && Number.isFinite(kept.x) && Number.isFinite(kept.y);
    this.body = bodyAt(known ? kept : startOf(name, me));
    this.#claims.clear();
  }

  /** Remember where the player is. */
  keep() {
    if (!this.body) return;
    const [x, y] = [this.body.x, this.body.y].map(Math.round);
    this.#store.write(KEYS.place, { true_id: this.#whose, x, y });
  }

  /** @param {number} now milliseconds */
  dash(now) {
    if (!this.body || !dash(this.body, this.aim)) return;
    this.#positions.steer(now);
    this.#reached.clear();
  }

  /**
   * @param {{x: number, y: number}} aim
   * @param {number} seconds since the last time
   * @param {number} now milliseconds
   */
  step(aim, seconds, now) {
    if (!this.body) return;
    this.aim = aim;
    if (aim.x || aim.y) this.#positions.steer(now);
    const { leader } = this.#positions;
    if (leader) this.#follow(leader.at(now));
    else {
      step(this.body, aim, Math.min(LONGEST_STEP, seconds), this.#match.ledger.stones);
      if (this.moment.playing && this.#match.ledger.whole) this.#reach(now);
    }
    this.#positions.tell(this.body, now);
  }

  /** Another tab of this player leads. */
  #follow(place) {
    if (!place) return;
    const face = Math.abs(place.vx) > 20 ? Math.sign(place.vx) : this.body.face;
    Object.assign(this.body, { ...place, dash: place.dash ? 0.05 : 0, face });
  }

  /** Who stands still catches nothing: points are for players, not for tabs that are open. */
  #reach(now) {
    if (this.body.vx === 0 && this.body.vy === 0) return;
    const { seconds, me } = this.#match;
    for (const { slot, generation, points, x, y, age } of this.sparks()) {
      if (age < 0 || distance(this.body, { x, y }) > REACH) continue;
      const { round } = this.moment;
      this.#claims.set(slot, { round, generation, points, slot });
      this.emit("claim", { x, y, points });
      this.#match.publish("take", { round, slot, generation }).catch(() => this.#claims.delete(slot));
    }
    if (this.body.dash <= 0) return;
    const { scores, tagged } = this.state;
    for (const other of this.others(now)) {
      const { trueId } = other;
      const safe = seconds < (tagged[trueId] ?? -Infinity) + SHIELD;
      if (safe || this.#reached.has(trueId) || !scores[trueId] || trueId === me) continue;
      if (distance(this.body, other) > TAG_REACH) continue;
      this.#reached.add(trueId);
      const { round } = this.moment;
      this.#match.publish("tag", { round, victim: trueId }).catch(() => {});
    }
  }

  #open({ round, slot, generation }) {
    const state = this.state;
    return state.round === round && state.generations[slot] === generation;
  }

  /** What lies there and was not claimed; `age` is negative while it still grows. */
  sparks() {
    const { seconds, ledger, name } = this.#match;
    const state = ledger.at(seconds);
    if (!this.moment.playing) return [];
    if (this.#sparks.size > 400) this.#sparks.clear();
    const found = [];
    state.generations.forEach((generation, slot) => {
      const claim = this.#claims.get(slot);
      if (claim && this.#open(claim)) return;
      const key = `${state.round} ${slot} ${generation}`;
      let spark = this.#sparks.get(key);
      if (!spark) {
        spark = sparkOf(name, state.round, slot, generation, ledger.stones);
        this.#sparks.set(key, spark);
      }
      const { x, y } = sparkAt(spark, seconds);
      const age = seconds - state.since[slot];
      found.push({ x, y, slot, generation, points: spark.points, age });
    });
    return found;
  }

  /**
   * Where the others are.
   * @param {number} now milliseconds
   */
  others(now) {
    const found = [];
    for (const [trueId, member] of this.#match.members) {
      if (trueId === this.#match.me || member.state === "offline") continue;
      const track = this.#positions.tracks.get(trueId);
      const place = track?.at(now);
      if (place) found.push({ ...place, face: track.face, trueId, member });
    }
    return found;
  }

  #onVoid({ type, from, data }) {
    if (type !== "take" || from !== this.#match.me) return;
    if (this.#claims.get(data.slot)?.generation === data.generation) this.#claims.delete(data.slot);
  }

  #onChange(change, missed) {
    const { me } = this.#match;
    if (change.kind === "take" && this.#claims.get(change.slot)?.generation <= change.generation) {
      const mine = change.by === me;
      this.#claims.delete(change.slot);
      if (!mine && !missed) this.emit("beaten", change);
    }
    if (!missed) this.emit("change", change);
  }
}
