/** One turn for each picture: steer, move, draw, and say how things stand. */

import { SHIELD } from "../game/ledger.js";
import { byId } from "./dom.js";
import { bestOf } from "./hud.js";

/** Milliseconds between two looks at what changes slowly. */
const SLOW = 100;
/** Milliseconds: a page that is not looked at has no pictures, but goes on all the same. */
const UNSEEN = 250;

export class Loop {
  #parts;
  #before = 0;
  #slowAt = 0;
  #ticks = 0;

  /** @param {Record<string, any>} parts see app.js */
  constructor(parts) {
    this.#parts = parts;
  }

  start() {
    requestAnimationFrame((now) => this.#onPicture(now));
    setInterval(() => {
      const now = performance.now();
      if (now - this.#before > UNSEEN) this.#step(now);
    }, UNSEEN);
  }

  #onPicture(now) {
    requestAnimationFrame((next) => this.#onPicture(next));
    if (this.#step(now)) this.#parts.scene.draw(this.#view(now));
  }

  /** @returns {boolean} whether there is anything to draw */
  #step(now) {
    const { play, controls, effects, scene } = this.#parts;
    const seconds = Math.max(0, (now - this.#before) / 1000);
    this.#before = Math.max(now, this.#before);
    if (!play.body || byId("game").hidden) return false;
    const aim = controls.aim((x, y) => scene.unitsAt(x, y), play.body);
    play.step(aim, seconds, now);
    effects.calm = scene.calm;
    effects.step(Math.min(0.1, seconds));
    if (now - this.#slowAt >= SLOW) {
      this.#slowAt = now;
      this.#tell(now);
    }
    return true;
  }

  #view(now) {
    const { play, match, chat, controls, effects } = this.#parts;
    const { tagged, scores } = play.state;
    const [best] = bestOf(scores);
    const shielded = (trueId) => match.seconds < (tagged[trueId] ?? -Infinity) + SHIELD;
    const actor = (place, trueId, more) => ({
      ...place,
      trueId,
      name: match.nameOf(trueId) || "…",
      says: chat.latestOf(trueId),
      shielded: shielded(trueId),
      leads: trueId === best,
      ...more,
    });
    const { body } = play;
    const own = actor(body, match.me, { own: true, asleep: false, dash: body.dash > 0 });
    const others = play.others(now).map((other) => {
      const asleep = other.member.state !== "active";
      return actor(other, other.trueId, { own: false, asleep });
    });
    const sparks = play.sparks().filter(({ age }) => age >= 0);
    return { now, actors: [...others, own], sparks, centre: body, effects, stick: controls.stick };
  }

  #tell(now) {
    const { play, match, positions, hud, board } = this.#parts;
    const follows = positions.leader !== null;
    hud.show(play, match, follows);
    board.show(match, play.state.scores);
    const { playing, left, round } = play.moment;
    const { x, y, vx, vy } = play.body;
    this.#ticks += 1;
    Object.assign(document.documentElement.dataset, {
      synced: String(match.ledger.whole),
      members: String(match.members.size),
      round: String(round),
      phase: playing ? "play" : "break",
      left: String(Math.ceil(left)),
      x: String(Math.round(x)),
      y: String(Math.round(y)),
      moving: String(vx !== 0 || vy !== 0),
      tick: String(this.#ticks),
      score: String(play.score),
      claimed: String(play.claimed),
      leads: String(!follows),
      nearest: this.#nearest(play),
      others: JSON.stringify(Object.fromEntries(play.others(now).map(placeOf))),
    });
  }

  #nearest(play) {
    let found = null;
    for (const { x, y, age } of play.sparks()) {
      const [dx, dy] = [x - play.body.x, y - play.body.y];
      const far = Math.hypot(dx, dy);
      if (age >= 0 && (!found || far < found.far)) found = { far, dx, dy };
    }
    return found ? `${Math.round(found.dx)} ${Math.round(found.dy)}` : "";
  }
}

function placeOf({ trueId, x, y }) {
  return [trueId, [Math.round(x), Math.round(y)]];
}
