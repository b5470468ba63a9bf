/** What lies over the arena: time, score, the dash, and a word about what is going on. */

import { BREAK } from "../game/rounds.js";
import { byId, setText } from "./dom.js";
import { count } from "./wording.js";

/** Milliseconds between two announcements of the score. */
const SCORE_PAUSE = 4000;

export class Hud {
  #saidScore = 0;
  #scoreSaidAt = 0;
  #phase = "";
  #failure = "";

  /** @param {string} text why there is nothing to play; empty: there is */
  fail(text) {
    this.#failure = text;
    if (text) this.announce(text);
  }

  /** @param {string} text for screen readers */
  announce(text) {
    setText(byId("announcer"), text);
  }

  /**
   * @param {import("../play.js").Play} play
   * @param {import("../net/match.js").Match} match
   * @param {boolean} follows another tab of this player leads
   */
  show(play, match, follows) {
    const { playing, left, round } = play.moment;
    const { scores, last } = play.state;
    const seconds = Math.ceil(left);
    const clock = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
    setText(byId("clock"), clock);
    byId("clock").dataset.phase = playing ? "play" : "break";
    const part = playing ? left / (match.length - BREAK) : 0;
    byId("time-left").style.setProperty("--part", String(part));
    setText(byId("score"), String(play.score));
    const claimed = play.claimed;
    setText(byId("claimed"), claimed ? `+${claimed} on its way` : "");
    byId("dash").style.setProperty("--ready", String(play.stamina));
    byId("dash").setAttribute("aria-disabled", String(play.stamina < 1));
    const banner = this.#banner(playing, seconds, scores, last, match, follows);
    setText(byId("banner-title"), banner.title);
    setText(byId("banner-text"), banner.text);
    byId("banner").hidden = !banner.title && !banner.text;
    this.#announceRound(playing, round, banner, scores, match);
    this.#announceScore(playing, play.score);
  }

  #banner(playing, seconds, scores, last, match, follows) {
    if (this.#failure) return { title: "", text: this.#failure };
    if (follows) return { title: "", text: "You play in another tab. Steer here to take over." };
    if (playing) return { title: "", text: "" };
    const next = `Next round in ${seconds}`;
    const [best, points] = bestOf(scores);
    if (!best) return { title: "Round over", text: next };
    const who = best === match.me ? "You win" : `${match.nameOf(best) || "Somebody"} wins`;
    return { title: `${who} with ${count(points, "point")}`, text: next };
  }

  #announceRound(playing, round, { title }, scores, match) {
    const phase = `${round} ${playing}`;
    if (phase === this.#phase) return;
    const first = this.#phase === "";
    this.#phase = phase;
    if (playing) this.announce(first ? "" : "A new round has begun.");
    else this.announce(`${title}. You have ${count(scores[match.me] ?? 0, "point")}.`);
    this.#saidScore = 0;
  }

  #announceScore(playing, score) {
    const now = performance.now();
    if (!playing || score === this.#saidScore || now - this.#scoreSaidAt < SCORE_PAUSE) return;
    [this.#saidScore, this.#scoreSaidAt] = [score, now];
    this.announce(count(score, "point"));
  }
}

/**
 * @param {Record<string, number>} scores
 * @returns {[string|null, number]} who has most, and how much
 */
export function bestOf(scores) {
  const order = Object.entries(scores).sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1));
  const [best, points] = order[0] ?? [null, 0];
  return points > 0 ? [best, points] : [null, 0];
}
