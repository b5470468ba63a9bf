/** Behind the door: the arena of the match, where a few critters wander about. */

import { Scene } from "../draw/scene.js";
import { momentOf } from "../game/rounds.js";
import { HEIGHT, SLOTS, sparkAt, sparkOf, stonesOf, WIDTH } from "../game/world.js";
import { byId } from "./dom.js";

/** Names that draw good-looking critters. */
const CAST = ["moss", "ember", "harbor", "birch", "thistle"];

export class Backdrop {
  #scene;
  #sparks;
  #running = false;

  /** @param {{match: string, length: number}} place */
  constructor({ match, length }) {
    const stones = stonesOf(match);
    const { round } = momentOf(Date.now() / 1000, length);
    this.#scene = new Scene(byId("backdrop"), match, stones);
    const slots = Array.from({ length: SLOTS }, (_, slot) => slot);
    this.#sparks = slots.map((slot) => sparkOf(match, round, slot, 0, stones));
  }

  start() {
    if (!this.#running) requestAnimationFrame((now) => this.#turn(now));
    this.#running = true;
  }

  stop() {
    this.#running = false;
  }

  #turn(now) {
    if (!this.#running) return;
    requestAnimationFrame((next) => this.#turn(next));
    // Still where nothing is to move, but drawn, in case that the size is another one.
    const seconds = this.#scene.calm ? 3 : now / 1000;
    const sparks = this.#sparks.map((spark) => ({ ...spark, ...sparkAt(spark, seconds), age: 1 }));
    const actors = CAST.map((name, index) => wanderer(name, index, seconds));
    this.#scene.draw({ now, actors, sparks, centre: { x: WIDTH / 2, y: HEIGHT / 2 } });
  }
}

function wanderer(trueId, index, seconds) {
  const turn = (index / CAST.length) * 2 * Math.PI + seconds * 0.22;
  const [x, y] = [Math.cos(turn), Math.sin(turn * 1.5 + index)];
  const [vx, vy] = [-Math.sin(turn) * 140, Math.cos(turn * 1.5 + index) * 90];
  const place = { x: WIDTH / 2 + x * 620, y: HEIGHT / 2 + y * 330 };
  const looks = { dash: false, own: false, asleep: false, shielded: false, leads: false, says: "" };
  return { ...place, ...looks, trueId, name: "", vx, vy, face: Math.sign(vx) || 1 };
}
