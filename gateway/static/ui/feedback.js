/** What the player sees and hears of when something happens. */

import { count } from "./wording.js";

export class Feedback {
  /**
   * @param {object} parts
   * @param {import("../play.js").Play} parts.play
   * @param {import("../net/match.js").Match} parts.match
   * @param {import("../net/positions.js").Positions} parts.positions
   * @param {import("../draw/effects.js").Effects} parts.effects
   * @param {import("../draw/scene.js").Scene} parts.scene
   * @param {import("./hud.js").Hud} parts.hud
   */
  constructor({ play, match, positions, effects, scene, hud }) {
    const nameOf = (trueId) => match.nameOf(trueId) || "Somebody";
    const placeOf = (trueId) =>
      trueId === match.me ? play.body : positions.tracks.get(trueId)?.at(performance.now());

    play.on("claim", ({ x, y, points }) => {
      const { spark, gold } = scene.palette;
      const colour = points > 1 ? gold : spark;
      effects.burst({ x, y }, colour, points > 1 ? 14 : 7);
      effects.word({ x, y }, `+${points}`, colour);
    });
    play.on("beaten", ({ by }) => {
      if (play.body) effects.word(play.body, `${nameOf(by)} was first`, scene.palette.ink);
    });
    play.on("change", (change) => {
      if (change.kind === "take" && change.by !== match.me) {
        const place = placeOf(change.by);
        if (place) effects.burst(place, scene.palette.spark, 5);
      }
      if (change.kind !== "tag") return;
      const { by, victim, points } = change;
      const [taker, loser] = [placeOf(by), placeOf(victim)];
      if (loser) effects.burst(loser, scene.palette.gold, 14);
      if (loser) effects.word(loser, `−${points}`, scene.palette.gold);
      if (taker) effects.word(taker, `+${points}`, scene.palette.spark);
      if (victim === match.me) {
        effects.shake();
        hud.announce(`${nameOf(by)} took ${count(points, "point")} from you.`);
      }
      if (by === match.me) {
        hud.announce(`You took ${count(points, "point")} from ${nameOf(victim)}.`);
      }
    });
  }
}
