import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeStorage, player } from "./client_helpers.mjs";
import { control } from "./helpers.mjs";

test("what a crash of a store in memory lost is told, and told once", async () => {
  const storage = new FakeStorage();
  const ada = await player({ storage });
  const bob = await player();
  const { trueId } = ada.client;
  await bob.client.send(trueId, 1);
  await ada.received(1);
  const { offset } = storage.record;

  await control("kill");
  await ada.until("the loss", () => !ada.client.connected);
  await control("start");
  await ada.ready(2);
  assert.equal(ada.client.trueId, trueId);
  assert.deepEqual(ada.losts, [{ after: offset, lost: null, outcome: "store_reset" }]);
  await bob.client.send(trueId, 2);
  await ada.received(2);
  await ada.settle();
  assert.deepEqual(ada.data, [1, 2]);
});

test("an offset of a store that is gone is not presented again", async () => {
  const storage = new FakeStorage();
  const ada = await player({ storage });
  const bob = await player();
  await bob.client.send(ada.client.trueId, 1);
  await ada.received(1);
  await control("kill");
  await ada.until("the loss", () => !ada.client.connected);
  await control("start");
  await ada.ready(2);
  // Nothing has come since: no reconnect and no reload may tell of the same loss again.
  ada.drop();
  assert.equal((await ada.ready(3)).outcome, "resumed");
  ada.client.close();
  const next = await player({ storage });
  assert.equal(next.sessions[0].outcome, "resumed");
  assert.deepEqual([ada.losts.length, next.losts.length], [1, 0]);
});
