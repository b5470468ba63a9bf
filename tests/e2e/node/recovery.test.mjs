import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, guest, range } from "./helpers.mjs";

test("a dropped client recovers by itself, nothing lost or doubled", async () => {
  const player = await guest("Ada");
  const other = await guest("Bob");
  for (const n of range(1, 5)) await other.send(player.trueId, n);
  await player.received(5);
  const { id } = player.socket;
  const { session_id: sessionId, true_id: trueId } = player.session;
  for (const round of range(1, 3)) {
    player.drop();
    for (const n of range(round * 10, round * 10 + 4)) await other.send(trueId, n);
    await player.ready(round + 1);
  }
  await player.settle();
  assert.deepEqual(player.data, [1, 2, 3, 4, 5, ...range(10, 14), ...range(20, 24), ...range(30, 34)]);
  assert.equal(player.socket.recovered, true);
  assert.deepEqual(player.connects.map(({ recovered }) => Boolean(recovered)), [false, true, true, true]);
  assert.notEqual(player.socket.id, id);
  for (const session of player.sessions.slice(1)) {
    assert.equal(session.true_id, trueId);
    assert.equal(session.session_id, sessionId);
    assert.equal(session.resumed, true);
    assert.equal(session.outcome, "resumed");
    assert.equal(session.connections, 1);
  }
});

for (const transports of [["polling"], ["polling", "websocket"]]) {
  test(`recovery by ${transports.join(" and ")}`, async () => {
    const player = await guest("Ada", { transports });
    const other = await guest("Bob");
    await other.send(player.trueId, 1);
    await player.received(1);
    player.drop();
    await other.send(player.trueId, 2);
    await player.ready(2);
    await other.send(player.trueId, 3);
    await player.settle();
    assert.deepEqual(player.data, [1, 2, 3]);
    assert.equal(player.socket.recovered, true);
  });
}

test("a client that has received nothing yet gets what came meanwhile", async () => {
  const player = await guest("Ada");
  const other = await guest("Bob");
  player.drop();
  for (const n of range(1, 3)) await other.send(player.trueId, n);
  await player.ready(2);
  await player.settle();
  assert.deepEqual(player.data, [1, 2, 3]);
  assert.equal(player.socket.recovered, true);
});

test("messages that come while replay runs are neither lost nor doubled", async () => {
  const player = await guest("Ada");
  const other = await guest("Bob");
  await other.send(player.trueId, 0);
  await player.received(1);
  player.drop();
  // Sent without waiting: some are stored before the return, some come in the middle of it.
  const receipts = range(1, 300).map((n) => other.send(player.trueId, n));
  for (const receipt of await Promise.all(receipts)) assert.equal(receipt.ok, true);
  await player.ready(2);
  await player.settle();
  assert.deepEqual(player.data, range(0, 300));
});

test("an upgrade in the middle of a replay loses and doubles nothing", async () => {
  // So slow a return that the upgrade comes while hundreds of messages are on their way.
  const player = await guest("Ada", { transports: ["polling", "websocket"] });
  const other = await guest("Bob");
  await other.send(player.trueId, 0);
  await player.received(1);
  const upgrades = [];
  player.socket.io.on("open", () =>
    player.engine.on("upgrade", () => upgrades.push(player.messages.length)),
  );
  player.drop();
  const text = "x".repeat(2000);
  const receipts = range(1, 400).map((n) => other.send(player.trueId, { n, text }));
  await player.ready(2);
  for (const receipt of await Promise.all(receipts)) assert.equal(receipt.ok, true);
  await player.received(401);
  await player.settle();
  assert.deepEqual(player.data.map((data) => data.n ?? data), range(0, 400));
  assert.equal(player.socket.recovered, true);
  await player.until("the upgrade", () => upgrades.length);
});

test("texts at the end of what is not stored are taken for no offset", async () => {
  const player = await guest("Ada");
  const other = await guest("Bob");
  await other.send(player.trueId, 1);
  await player.received(1);
  const [{ rest }] = player.messages;
  await other.send(player.trueId, "not an offset", { volatile: true });
  await player.received(2);
  assert.deepEqual(player.messages[1].rest, []);
  // What the client will present as its offset.
  assert.equal(player.socket._lastOffset, rest[0]);
  player.drop();
  await other.send(player.trueId, "a text");
  await player.ready(2);
  await player.settle();
  assert.deepEqual(player.data, [1, "not an offset", "a text"]);
  assert.equal(player.socket.recovered, true);
});

test("token and offset resume after a reload, exactly once", async () => {
  const before = await guest("Ada");
  const other = await guest("Bob");
  await other.send(before.trueId, 1);
  await before.received(1);
  const { token, true_id: trueId, session_id: sessionId } = before.session;
  const offset = before.messages[0].envelope.id;
  before.close();
  await other.send(trueId, 2);
  const after = new Client({ token, offset });
  await after.ready();
  assert.equal(after.trueId, trueId);
  assert.equal(after.session.session_id, sessionId);
  assert.equal(after.session.resumed, true);
  assert.equal(after.session.missed, 1);
  assert.equal(after.socket.recovered, false, "this instance has recovered nothing");
  await after.settle();
  assert.deepEqual(after.data, [2]);
});

test("a token alone resumes at least once, with ids that tell doubles", async () => {
  const before = await guest("Ada");
  const other = await guest("Bob");
  await other.send(before.trueId, 1);
  await before.received(1);
  const { token, true_id: trueId } = before.session;
  before.close();
  await other.send(trueId, 2);
  const after = new Client({ token });
  await after.ready();
  await after.settle();
  const seen = new Map();
  for (const { envelope } of [...before.messages, ...after.messages]) seen.set(envelope.id, envelope.data);
  assert.deepEqual([...seen.values()], [1, 2]);
});

test("the token before last still works until the last one was used", async () => {
  const before = await guest("Ada");
  const { token } = before.session;
  before.close();
  const unlucky = new Client({ token });
  await unlucky.ready();
  const issued = unlucky.session.token;
  assert.notEqual(issued, token);
  unlucky.close();
  // As if the answer had been lost on its way.
  const again = new Client({ token });
  await again.ready();
  assert.equal(again.session.resumed, true);
});

test("an old client instance does not disturb the one that took over by its token", async () => {
  const before = await guest("Ada");
  const { token, true_id: trueId, session_id: sessionId } = before.session;
  before.socket.disconnect();
  const after = new Client({ token });
  await after.ready();
  assert.equal(after.session.session_id, sessionId);
  const receipt = await after.send(trueId, "here");
  assert.equal(receipt.connections, 1);
});
