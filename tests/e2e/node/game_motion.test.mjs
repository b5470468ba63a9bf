/** How things move in the game at `/`, where they are, and what time it is. No network. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Effects } from "../../../gateway/static/draw/effects.js";
import { ServerClock } from "../../../gateway/static/game/clock.js";
import { bodyAt, dash, DASH_PAUSE, step } from "../../../gateway/static/game/motion.js";
import { BREAK, matchOf, momentOf } from "../../../gateway/static/game/rounds.js";
import { Track } from "../../../gateway/static/game/track.js";
import {
  distance,
  HEIGHT,
  RADIUS,
  SLOTS,
  sparkAt,
  sparkOf,
  startOf,
  stonesOf,
  WIDTH,
} from "../../../gateway/static/game/world.js";
import { seeded } from "./game_helpers.mjs";

const RIGHT = { x: 1, y: 0 };
const STILL = { x: 0, y: 0 };
const TURN = 1 / 60;

test("every page sees the same arena, and each match has its own", () => {
  assert.deepEqual(stonesOf("arena"), stonesOf("arena"));
  assert.notDeepEqual(stonesOf("arena"), stonesOf("other"));
  const spark = sparkOf("arena", 7, 3, 1, stonesOf("arena"));
  assert.deepEqual(sparkOf("arena", 7, 3, 1, stonesOf("arena")), spark);
  assert.notDeepEqual(sparkOf("arena", 7, 3, 2, stonesOf("arena")), spark);
  assert.notDeepEqual(sparkOf("arena", 8, 3, 1, stonesOf("arena")), spark);
});

test("sparks and players are in the arena, and not under a stone", () => {
  for (let round = 0; round < 20; round += 1) {
    const match = `match-${round}`;
    const stones = stonesOf(match);
    assert.ok(stones.length >= 4);
    const places = [startOf(match, `p-${round}`)];
    for (let slot = 0; slot < SLOTS; slot += 1) {
      const spark = sparkOf(match, round, slot, 0, stones);
      for (const seconds of [0, 0.9, 1.8]) places.push(sparkAt(spark, seconds));
    }
    for (const place of places) {
      assert.ok(place.x > 0 && place.x < WIDTH && place.y > 0 && place.y < HEIGHT);
      const free = stones.every((stone) => distance(place, stone) > stone.r);
      assert.ok(free, `${match} ${JSON.stringify(place)}`);
    }
  }
});

test("a critter runs where it is steered to, and stops", () => {
  const body = bodyAt({ x: 200, y: 200 });
  for (let n = 0; n < 60; n += 1) step(body, RIGHT, TURN, []);
  assert.ok(body.x > 400 && body.y === 200);
  assert.equal(body.face, 1);
  for (let n = 0; n < 60; n += 1) step(body, STILL, TURN, []);
  assert.deepEqual([body.vx, body.vy], [0, 0]);
});

test("it goes as far in many small steps as in few large ones, roughly", () => {
  const [smooth, rough] = [bodyAt({ x: 200, y: 200 }), bodyAt({ x: 200, y: 200 })];
  for (let n = 0; n < 120; n += 1) step(smooth, RIGHT, 1 / 120, []);
  for (let n = 0; n < 20; n += 1) step(rough, RIGHT, 1 / 20, []);
  assert.ok(Math.abs(smooth.x - rough.x) < 20, `${smooth.x} and ${rough.x}`);
});

test("a dash is quicker, and has to be waited for", () => {
  const [runner, dasher] = [bodyAt({ x: 200, y: 200 }), bodyAt({ x: 200, y: 200 })];
  assert.equal(dash(dasher, RIGHT), true);
  assert.equal(dash(dasher, RIGHT), false);
  for (let n = 0; n < 12; n += 1) for (const each of [runner, dasher]) step(each, RIGHT, TURN, []);
  assert.ok(dasher.x > runner.x + 80);
  step(dasher, STILL, DASH_PAUSE, []);
  assert.equal(dash(dasher, STILL), true);
  assert.ok(dasher.vx > 0, "it dashes where it looks");
});

test("nothing leaves the arena or goes through a stone, however it is steered", () => {
  const stones = stonesOf("arena");
  const next = seeded(11);
  const body = bodyAt(startOf("arena", "ada"));
  for (let n = 0; n < 6000; n += 1) {
    const angle = Math.floor(n / 40) * 2.4 + next();
    const aim = { x: Math.cos(angle), y: Math.sin(angle) };
    if (next() < 0.05) dash(body, aim);
    step(body, aim, next() * 0.05, stones);
    assert.ok(body.x >= RADIUS && body.x <= WIDTH - RADIUS);
    assert.ok(body.y >= RADIUS && body.y <= HEIGHT - RADIUS);
    for (const stone of stones) assert.ok(distance(body, stone) > stone.r);
  }
});

function sample(x, at, vx = 100) {
  return { x, y: 0, vx, vy: 0, dash: false, at };
}

test("others are shown between two places that are known, whatever their clock says", () => {
  const track = new Track();
  assert.equal(track.at(0), null);
  for (let n = 0; n < 10; n += 1) track.push(sample(n * 6, 5_000_000 + n * 60), 1000 + n * 60);
  let before = track.at(1110).x;
  for (let now = 1117; now < 1600; now += 7) {
    const { x } = track.at(now);
    assert.ok(x >= before && x - before < 2, `${before} and ${x} at ${now}`);
    before = x;
  }
});

test("delays that differ are evened out", () => {
  const track = new Track();
  const next = seeded(5);
  let before = 0;
  for (let n = 0; n < 60; n += 1) {
    track.push(sample(n * 6, n * 60), 1000 + n * 60 + next() * 50);
    if (n < 5) continue;
    for (const more of [0, 20, 40]) {
      const { x } = track.at(1050 + n * 60 + more);
      assert.ok(Math.abs(x - before) < 9 || n === 5, `a jump from ${before} to ${x}`);
      before = x;
    }
  }
});

test("who tells nothing any more stands still, and starts again from there", () => {
  const track = new Track();
  track.push(sample(0, 0), 0);
  track.push(sample(6, 60), 60);
  track.push(sample(2, 120, -100), 120);
  assert.equal(track.face, -1);
  track.push(sample(2, 180, 0), 180);
  assert.equal(track.face, -1, "it still looks where it went");
  const rest = track.at(5000);
  assert.equal(rest.vx, 0);
  assert.ok(rest.x < 30);
  assert.deepEqual(track.at(9000), rest);
  track.push(sample(12, 10_000), 10_000);
  assert.ok(track.at(10_060).x < 12);
  assert.equal(track.at(10_110).x, 12);
});

test("what overtakes on the way is not shown", () => {
  const track = new Track();
  track.push(sample(0, 0), 0);
  track.push(sample(50, 100), 100);
  track.push(sample(20, 50), 110);
  assert.equal(track.at(210).x, 50);
});

test("the gateway's time is that of the quickest message", () => {
  let now = 1_000_000;
  const clock = new ServerClock(() => now);
  assert.equal(clock.seconds, 1000);
  const delays = [80, 30, 200, 45];
  for (const delay of delays) {
    now += 1000;
    // The gateway is 12 seconds ahead.
    clock.observe((now - delay) / 1000 + 12);
  }
  assert.ok(Math.abs(clock.seconds - (now / 1000 + 12 - 0.03)) < 1e-9);
  // This device's clock is set back by an hour.
  now -= 3_600_000;
  clock.observe((now - 20) / 1000 + 3612);
  assert.ok(Math.abs(clock.seconds - (now / 1000 + 3612 - 0.02)) < 1e-9);
  clock.observe(Number.NaN);
  clock.observe(undefined);
  assert.ok(Number.isFinite(clock.seconds));
});

test("rounds follow from the time alone", () => {
  const length = 70;
  assert.deepEqual(momentOf(700, length), { round: 10, playing: true, starts: 700, left: 60 });
  assert.deepEqual(momentOf(765, length), { round: 10, playing: false, starts: 700, left: 5 });
  assert.equal(momentOf(770 - BREAK - 0.001, length).playing, true);
  assert.equal(momentOf(770, length).round, 11);
});

test("an address names a match; a room has one length of rounds", () => {
  const match = (query) => matchOf(new URLSearchParams(query));
  assert.deepEqual(match(""), { match: "arena", length: 70, room: "sparks-arena" });
  assert.equal(match("match=Team%20Blue!").room, "sparks-team-blue");
  assert.equal(match("match=--").match, "arena");
  assert.equal(match(`match=${"x".repeat(99)}`).match.length, 32);
  assert.deepEqual(match("match=a&round=600"), { match: "a", length: 600, room: "sparks-a-600" });
  for (const round of ["0", "-5", "x", "1e9", ""]) assert.equal(match(`round=${round}`).length, 70);
});

test("who wants nothing to move gets words that stand still, and nothing else", () => {
  const effects = new Effects();
  const show = () => {
    effects.burst({ x: 0, y: 0 }, "red", 9);
    effects.word({ x: 0, y: 0 }, "+1", "red");
    effects.shake();
  };
  show();
  assert.ok(effects.bits.length > 0 && effects.tremble > 0);
  effects.step(10);
  assert.deepEqual([effects.bits.length, effects.words.length, effects.tremble], [0, 0, 0]);
  effects.calm = true;
  show();
  assert.deepEqual([effects.bits.length, effects.words.length, effects.tremble], [0, 1, 0]);
  const { y } = effects.words[0];
  effects.step(0.1);
  assert.equal(effects.words[0].y, y);
});
