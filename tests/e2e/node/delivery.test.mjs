import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, guest, Proxy, range } from "./helpers.mjs";

test("receipts: delivered, queued, duplicate", async () => {
  const player = await guest("Ada");
  const other = await guest("Bob");
  const { true_id: trueId, token } = player.session;
  const delivered = await other.send(trueId, 1, { id: "one" });
  assert.equal(delivered.ok, true);
  assert.equal(delivered.status, "delivered");
  assert.equal(delivered.connections, 1);
  assert.equal(delivered.duplicate, false);
  const again = await other.send(trueId, 1, { id: "one" });
  assert.equal(again.duplicate, true);
  assert.equal(again.id, delivered.id);
  await player.settle();
  assert.deepEqual(player.data, [1]);

  const watching = await other.ask("presence_watch", { true_ids: [trueId] });
  assert.equal(watching.presence[trueId].state, "active");
  player.close();
  await other.until("the leave", () => other.presences.some(({ state }) => state === "away"));
  const queued = await other.send(trueId, 2, { id: "two" });
  assert.equal(queued.status, "queued");
  assert.equal(queued.connections, 0);
  assert.equal((await other.send(trueId, 2, { id: "two" })).duplicate, true);
  const offset = player.messages.at(-1).envelope.id;
  const back = new Client({ token, offset });
  await back.ready();
  await back.settle();
  assert.deepEqual(back.data.filter((data) => typeof data === "number"), [2]);
});

test("a key belongs to its sender", async () => {
  const player = await guest("Ada");
  const [bob, cem] = [await guest("Bob"), await guest("Cem")];
  assert.equal((await bob.send(player.trueId, "b", { id: "same" })).duplicate, false);
  assert.equal((await cem.send(player.trueId, "c", { id: "same" })).duplicate, false);
  await player.settle();
  assert.deepEqual(player.data, ["b", "c"]);
});

test("volatile messages are stored nowhere", async () => {
  const player = await guest("Ada");
  const other = await guest("Bob");
  const receipt = await other.send(player.trueId, { x: 1 }, { volatile: true });
  assert.deepEqual([receipt.id, receipt.status, receipt.connections], [null, "delivered", 1]);
  await player.received(1);
  assert.equal("id" in player.messages[0].envelope, false);
  assert.deepEqual(player.messages[0].rest, []);
  await other.ask("presence_watch", { true_ids: [player.trueId] });
  const { true_id: trueId, token } = player.session;
  player.close();
  await other.until("the leave", () => other.presences.some(({ state }) => state === "away"));
  const dropped = await other.send(trueId, { x: 2 }, { volatile: true });
  assert.deepEqual([dropped.id, dropped.status, dropped.connections], [null, "dropped", 0]);
  const back = new Client({ token });
  await back.ready();
  await back.settle();
  assert.deepEqual(back.data, []);
});

test("errors come by ack, or as an event without one", async () => {
  const player = await guest("Ada");
  const unknown = await player.send("p_nobody", 1);
  assert.equal(unknown.ok, false);
  assert.equal(unknown.error.code, "unknown_target");
  const bad = await player.ask("message", { target_id: 7, data: 1 });
  assert.deepEqual([bad.error.code, bad.error.field], ["bad_request", "target_id"]);
  player.socket.emit("message", { target_id: "p_nobody", data: 1 });
  await player.until("the error", () => player.errors.length);
  assert.equal(player.errors[0].code, "unknown_target");
  assert.equal(player.errors[0].event, "message");
  assert.equal(player.socket.connected, true);
});

test("retries and ids make sending effectively once over lost links", async () => {
  const proxy = await Proxy.start();
  const player = await guest("Ada");
  const other = await guest("Bob", { url: proxy.url, retries: 100, ackTimeout: 300 });
  const answers = range(1, 60).map(
    (n) =>
      new Promise((resolve, reject) => {
        const payload = { target_id: player.trueId, data: n, id: `n${n}` };
        other.socket.emit("message", payload, (error, answer) => (error ? reject(error) : resolve(answer)));
      }),
  );
  for (const n of [10, 20, 30, 40, 50]) {
    await answers[n];
    if (n % 20) proxy.cut();
    else {
      // The worst case: the message arrives, its receipt does not.
      for (const link of proxy.links) link.far.pause();
      await player.received(n + 2);
      proxy.cut();
    }
  }
  const receipts = await Promise.all(answers);
  assert.ok(receipts.every(({ ok }) => ok));
  assert.ok(receipts.some(({ duplicate }) => duplicate), "some were sent twice");
  await player.settle();
  assert.deepEqual(player.data, range(1, 60));
});
