/** The rules of the game at `/`, and how a newcomer comes to know the score. No network. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { LOOT, REGROW, SHIELD } from "../../../gateway/static/game/ledger.js";
import { SyncedLedger } from "../../../gateway/static/game/sync.js";
import { SLOTS, sparkOf, stonesOf } from "../../../gateway/static/game/world.js";
import { END, LENGTH, MATCH, newLedger, ROUND, seeded, START, tag, take } from "./game_helpers.mjs";

const LATE = START + 5;

function pointsOf(slot, generation) {
  return sparkOf(MATCH, ROUND, slot, generation, stonesOf(MATCH)).points;
}

test("of two who take the same spark the first in the room's order has it", () => {
  const ledger = newLedger();
  const change = ledger.apply(take("ada", 3, 0, LATE));
  assert.equal(change.points, pointsOf(3, 0));
  assert.equal(ledger.apply(take("bob", 3, 0, LATE)), null);
  assert.deepEqual(ledger.at(LATE).scores, { ada: pointsOf(3, 0) });
});

test("the next spark of a slot has to grow first", () => {
  const ledger = newLedger();
  ledger.apply(take("ada", 0, 0, LATE));
  assert.equal(ledger.apply(take("bob", 0, 1, LATE + REGROW - 0.01)), null);
  assert.notEqual(ledger.apply(take("bob", 0, 1, LATE + REGROW)), null);
  assert.equal(ledger.at(LATE).generations[0], 2);
});

test("a message that comes twice counts once", () => {
  const ledger = newLedger();
  for (const message of [take("ada", 0, 0, LATE), tag("bob", "ada", LATE + 1)]) {
    assert.notEqual(ledger.apply(message), null);
    const before = ledger.snapshot();
    assert.equal(ledger.apply(message), null);
    assert.deepEqual(ledger.snapshot(), before);
  }
});

test("a tag moves points, never more than there are, and then not again for a while", () => {
  const ledger = newLedger();
  let points = 0;
  for (let slot = 0; slot < 5; slot += 1) points += ledger.apply(take("ada", slot, 0, LATE)).points;
  const loot = Math.min(LOOT, points);
  assert.equal(ledger.apply(tag("bob", "ada", LATE)).points, loot);
  assert.equal(ledger.apply(tag("eve", "ada", LATE + SHIELD - 0.01)), null);
  let ts = LATE + SHIELD;
  while (ledger.apply(tag("eve", "ada", ts))) ts += SHIELD;
  const { scores } = ledger.at(LATE);
  assert.equal(scores.ada, 0);
  assert.equal(scores.bob + scores.eve, points);
  assert.equal(ledger.apply(tag("bob", "bob", ts)), null);
  assert.equal(ledger.apply(tag("bob", "nobody", ts)), null);
});

test("what was sent for another round or in the break counts nothing", () => {
  const ledger = newLedger();
  assert.equal(ledger.apply(take("ada", 0, 0, LATE, ROUND - 1)), null);
  assert.equal(ledger.apply(take("ada", 0, 0, LATE, ROUND + 1)), null);
  assert.equal(ledger.apply(take("ada", 0, 0, END + 1)), null);
  assert.deepEqual(ledger.at(LATE).scores, {});
});

test("a new round begins from nothing and knows the result of the one before", () => {
  const ledger = newLedger();
  const { points } = ledger.apply(take("ada", 0, 0, LATE));
  assert.deepEqual(ledger.at(START + LENGTH).scores, {});
  assert.deepEqual(ledger.at(START + LENGTH).last, { round: ROUND, scores: { ada: points } });
  assert.deepEqual(ledger.at(START + 2 * LENGTH).last, null);
  // It looked ahead only: what was still on its way counts.
  assert.notEqual(ledger.apply(take("bob", 1, 0, LATE)), null);
  assert.notEqual(ledger.apply(take("bob", 1, 0, START + LENGTH + 5, ROUND + 1)), null);
  assert.equal(ledger.apply(take("ada", 2, 0, LATE)), null);
});

test("whatever a member sends, nothing breaks and nothing is made of it", () => {
  const ledger = newLedger();
  const data = [null, 1, "x", [], {}, { round: ROUND }, { round: ROUND, slot: -1, generation: 0 }];
  data.push({ round: ROUND, slot: 0.5, generation: 0 }, { round: ROUND, slot: SLOTS, generation: 0 });
  data.push({ round: "1", slot: 0, generation: 0 }, { round: ROUND, victim: "__proto__" });
  data.push({ round: ROUND, victim: ["ada"] }, { round: ROUND, slot: "0", generation: 0 });
  for (const type of ["take", "tag", "hello", undefined]) {
    for (const each of data) {
      assert.equal(ledger.apply({ type, from: "eve", data: each, ts: LATE }), null);
    }
  }
  assert.equal(ledger.apply(take(null, 0, 0, LATE)), null);
  assert.deepEqual(ledger.at(LATE).scores, {});
});

test("a state that does not fit is not taken", () => {
  const good = newLedger();
  good.apply(take("ada", 0, 0, LATE));
  const state = good.snapshot();
  assert.deepEqual(newLedger(state).snapshot(), state);
  const bad = [null, 1, {}, { ...state, generations: [1] }, { ...state, scores: { ada: "9" } }];
  bad.push({ ...state, scores: { ada: -1 } }, { ...state, last: 1 }, { ...state, since: "x" });
  bad.push({ ...state, round: 0.5 }, { ...state, tagged: [] });
  for (const each of bad) assert.deepEqual(newLedger(each).at(LATE).scores, {});
});

/** Random claims, good and bad ones. */
function randomClaims(next, count) {
  const names = ["ada", "bob", "eve", "fay"];
  const name = () => names[Math.floor(next() * names.length)];
  let ts = START + 3;
  return Array.from({ length: count }, () => {
    ts += next() * 0.4;
    if (next() < 0.25) return tag(name(), name(), ts);
    return take(name(), Math.floor(next() * 6), Math.floor(next() * 4), ts);
  });
}

test("a newcomer has the same ledger as all others, whenever it comes and is answered", () => {
  for (let seed = 1; seed <= 300; seed += 1) {
    const next = seeded(seed);
    const claims = randomClaims(next, 60);
    const member = new SyncedLedger(MATCH, LENGTH);
    const newcomer = new SyncedLedger(MATCH, LENGTH, next() < 0.5 ? { nonsense: true } : null);
    newcomer.ask("key");
    const later = (than) => than + Math.floor(next() * 15);
    const joins = later(0);
    const hello = later(joins);
    const answered = later(hello + 1);
    let state = null;
    claims.forEach((claim, index) => {
      const room = [claim];
      const message = { from: "ada", ts: claim.ts };
      if (index === hello) room.push({ ...message, type: "hello", data: { key: "key" } });
      // Somebody else is answered, too.
      if (index === answered - 1) room.push({ ...message, type: "state", data: { key: "other", state } });
      if (index === answered) room.push({ ...message, type: "state", data: { key: "key", state } });
      for (const each of room) {
        member.apply(each);
        if (each.type === "hello") state = member.snapshot();
        if (index >= joins) newcomer.apply(each);
      }
    });
    assert.equal(newcomer.whole, true, `seed ${seed}`);
    assert.deepEqual(newcomer.snapshot(), member.snapshot(), `seed ${seed}`);
  }
});

test("a newcomer whom nobody answers counts by itself, and takes an answer that comes late", () => {
  const member = new SyncedLedger(MATCH, LENGTH);
  member.apply(take("ada", 0, 0, LATE));
  const newcomer = new SyncedLedger(MATCH, LENGTH);
  newcomer.ask("key");
  assert.equal(newcomer.whole, false);
  const hello = { type: "hello", from: "bob", data: { key: "key" }, ts: LATE };
  for (const each of [member, newcomer]) each.apply(hello);
  const state = member.snapshot();
  newcomer.trust();
  assert.equal(newcomer.whole, true);
  const claim = take("bob", 1, 0, LATE + 1);
  for (const each of [member, newcomer]) each.apply(claim);
  assert.deepEqual(newcomer.at(LATE).scores, { bob: pointsOf(1, 0) });
  newcomer.apply({ type: "state", from: "ada", data: { key: "key", state }, ts: LATE + 2 });
  assert.deepEqual(newcomer.snapshot(), member.snapshot());
});

test("an answer to somebody else, or before the own hello is in the room, is not taken", () => {
  const newcomer = new SyncedLedger(MATCH, LENGTH);
  newcomer.ask("key");
  const donor = newLedger();
  donor.apply(take("ada", 0, 0, LATE));
  const answer = (key) => ({ type: "state", from: "ada", data: { key, state: donor.snapshot() }, ts: LATE });
  newcomer.apply(answer("key"));
  newcomer.apply(answer("other"));
  assert.deepEqual(newcomer.at(LATE).scores, {});
  assert.equal(newcomer.whole, false);
});
