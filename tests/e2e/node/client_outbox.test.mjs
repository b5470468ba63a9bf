import assert from "node:assert/strict";
import { test } from "node:test";
import { GatewayError } from "../../../gateway/static/client/gateway.js";
import { FakeStorage, judging, Player, player } from "./client_helpers.mjs";
import { Client, control, range } from "./helpers.mjs";

const LATER = { rate_limited: 0.05, unavailable: 0.05 };

for (const [how, options] of Object.entries({
  "one after the other": {},
  "several at once, by polling with upgrade": { pipeline: 8, transports: ["polling", "websocket"] },
})) {
  test(`over kill -9 and drops all arrives once and in order, ${how}`, async () => {
    const ada = await player(options);
    const [bob, cem] = [await player(), await player()];
    const receipts = [];
    const send = (first, last) => {
      for (const n of range(first, last)) {
        for (const { client } of [bob, cem]) receipts.push(ada.client.send(client.trueId, n));
      }
    };
    send(1, 100);
    await bob.received(20);
    send(101, 200);
    await control("kill");
    await ada.until("the loss", () => !ada.client.connected);
    send(201, 300);
    assert.ok(ada.client.queued >= 200);
    await control("start");
    await ada.ready(2);
    ada.drop();
    const answers = await Promise.all(receipts);
    assert.ok(answers.every(({ ok }) => ok));
    assert.equal(new Set(answers.map(({ id }) => id)).size, 600);
    assert.equal(ada.client.queued, 0);
    for (const other of [bob, cem]) {
      await other.received(300);
      await other.settle();
      assert.deepEqual(other.data, range(1, 300));
    }
  });
}

test("what was sent before the first connect goes out, and no more than the queue holds", async () => {
  const bob = await player();
  const ada = new Player({ queue: 3 });
  const sends = range(1, 3).map((n) => ada.client.send(bob.client.trueId, n));
  assert.equal(ada.client.queued, 3);
  await assert.rejects(ada.client.send(bob.client.trueId, 4), (error) => {
    assert.ok(error instanceof GatewayError);
    assert.equal(error.code, "queue_full");
    return true;
  });
  await Promise.all(sends);
  assert.deepEqual(await bob.received(3), [1, 2, 3]);
  await ada.client.send(bob.client.trueId, 5);
});

test("a final refusal rejects, and what follows is sent all the same", async () => {
  const ada = await player();
  const { trueId } = ada.client;
  const refused = (sent, why) => assert.rejects(sent, { name: "GatewayError", ...why });
  const { client } = ada;
  const all = [
    refused(client.send("p_nobody", 1), { code: "unknown_target" }),
    refused(client.send(trueId, 1, { type: "x".repeat(65) }), { code: "bad_request", field: "type" }),
    refused(client.send(trueId, "x".repeat(70_000)), { code: "too_large", field: "data" }),
  ];
  assert.equal((await client.send(trueId, "right")).status, "delivered");
  await Promise.all(all);
  await assert.rejects(ada.client.send(trueId, new Uint8Array(3)), TypeError);
  await assert.rejects(ada.client.send(trueId, undefined), TypeError);
  await assert.rejects(ada.client.request("no_such_event"), { code: "bad_request" });
  assert.equal(ada.sessions.length, 1, "the connection has borne all that");
  assert.equal(ada.client.queued, 0);
});

for (const [code, seconds] of Object.entries(LATER)) {
  test(`what is refused with ${code} is sent again later, and nothing overtakes it`, async () => {
    const bob = await player();
    const cem = await player();
    const refused = [];
    let left = 3;
    const judge = (event, { data }) => {
      if (event !== "message" || data !== 2 || left-- <= 0) return null;
      refused.push(Date.now());
      return { ok: false, error: { code, message: "later", retry_after: seconds } };
    };
    const ada = await player({ io: judging(judge) });
    const sends = range(1, 5).map((n) => ada.client.send(bob.client.trueId, n));
    const other = range(11, 15).map((n) => ada.client.send(cem.client.trueId, n));
    await Promise.all([...sends, ...other]);
    assert.deepEqual(await bob.received(5), range(1, 5));
    assert.deepEqual(await cem.received(5), range(11, 15));
    assert.equal(refused.length, 3);
    for (const gap of [refused[1] - refused[0], refused[2] - refused[1]]) {
      assert.ok(gap >= seconds * 1000 - 2, `asked again after ${gap} ms`);
    }
  });
}

test("what is sent is what it was at the call, under the id that was given", async () => {
  const ada = new Player();
  const bob = await player();
  const state = { hp: 3 };
  const sent = ada.client.send(bob.client.trueId, state, { id: "mine" });
  state.hp = 0;
  assert.equal((await sent).duplicate, false);
  assert.deepEqual(await bob.received(1), [{ hp: 3 }]);
  assert.equal((await ada.client.send(bob.client.trueId, { hp: 3 }, { id: "mine" })).duplicate, true);
});

test("a volatile message arrives now or never", async () => {
  const bob = await player();
  const ada = new Player({ reconnectionDelay: 60_000, reconnectionDelayMax: 60_000 });
  const send = (data, more) => ada.client.send(bob.client.trueId, data, { volatile: true, ...more });
  assert.equal((await send("too early")).status, "dropped");
  assert.equal(ada.client.queued, 0);
  await ada.ready();
  const all = await Promise.all(range(1, 5).map((n) => send(n)));
  assert.deepEqual(all.map(({ id, status }) => [id, status]), Array(5).fill([null, "delivered"]));
  ada.drop();
  assert.equal((await send("away")).status, "dropped");
  ada.client.connect();
  await ada.ready(2);
  await ada.client.send(bob.client.trueId, "stored");
  await bob.settle();
  assert.deepEqual(bob.data, [...range(1, 5), "stored"]);
  await assert.rejects(send(1, { type: "x".repeat(65) }), { code: "bad_request" });
  await assert.rejects(send("x".repeat(200_000)), { code: "too_large" });
  assert.equal(ada.sessions.length, 2);
});

test("a message is given up after its timeout, a request after its own", async () => {
  const bob = await player();
  const ada = await player({ reconnectionDelay: 60_000, reconnectionDelayMax: 60_000 });
  ada.drop();
  assert.equal(ada.client.state, "away");
  await assert.rejects(ada.client.send(bob.client.trueId, 1, { timeout: 30 }), { code: "timeout" });
  await assert.rejects(ada.client.request("players", {}, { timeout: 30 }), { code: "timeout" });
  assert.equal(ada.client.queued, 0);
  const listed = ada.client.players();
  ada.client.connect();
  assert.equal((await listed).ok, true);
  await bob.settle();
  assert.deepEqual(bob.data, []);
});

test("messages of one player are not sent as another one", async () => {
  const storage = new FakeStorage();
  const bob = await player();
  const ada = await player({
    storage,
    reconnectionDelay: 60_000,
    reconnectionDelayMax: 60_000,
  });
  const { trueId } = ada.client;
  ada.drop();
  const sent = ada.client.send(bob.client.trueId, "as the old one");
  const elsewhere = new Client({ token: storage.record.token });
  await elsewhere.ready();
  await elsewhere.ask("logout", {});
  ada.client.connect();
  await assert.rejects(sent, { code: "player_changed" });
  await ada.ready(2);
  assert.notEqual(ada.client.trueId, trueId);
  await ada.client.send(bob.client.trueId, "as the new one");
  await bob.settle();
  assert.deepEqual(bob.messages.map(({ from, data }) => [from, data]), [
    [ada.client.trueId, "as the new one"],
  ]);
});

test("close gives up what waits, and harms nobody who did not care", async () => {
  const ada = new Player();
  const cared = ada.client.send("p_somebody", 1);
  ada.client.send("p_somebody", 2);
  const asked = ada.client.players();
  ada.client.close();
  const refused = (promise) => assert.rejects(promise, { code: "closed" });
  await Promise.all([cared, asked].map(refused));
  assert.equal(ada.client.state, "closed");
  assert.equal(ada.client.queued, 0);
});

test("goaway: the client leaves, and is back when it was asked to, not before", async () => {
  const ada = await player();
  const bob = await player();
  const { trueId } = bob.client;
  await control("terminate");
  const notice = await ada.until("goaway", () => ada.goaways[0]);
  const told = Date.now();
  assert.equal(notice.reason, "draining");
  assert.equal(ada.client.state, "away");
  const sent = ada.client.send(trueId, "after the restart");
  // Nobody has to be sent away.
  await control("wait");
  await control("start");
  await ada.ready(2);
  assert.ok(Date.now() - told >= notice.reconnect_in * 1000 - 5);
  assert.equal(ada.sessions[1].outcome, "resumed");
  assert.equal((await sent).ok, true);
  assert.deepEqual(await bob.received(1), ["after the restart"]);
});
