import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeStorage, judging, player } from "./client_helpers.mjs";
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

test("rooms of a store that is gone are joined anew, however often that fails", async () => {
  let joins = 0;
  const judge = (event) => {
    if (event !== "join") return null;
    joins += 1;
    if (joins !== 2) return null;
    ada.drop();
    return Promise.reject(new Error("no answer"));
  };
  const ada = await player({ io: judging(judge) });
  const bob = await player();
  const heard = [];
  const room = await ada.client.join("phoenix");
  room.on("message", ({ data }) => {
    heard.push(data);
    ada.look();
  });
  const other = await bob.client.join("phoenix");
  await control("kill");
  for (const one of [ada, bob]) await one.until("the loss", () => !one.client.connected);
  const sent = other.publish("from the ashes");
  await control("start");
  assert.equal((await sent).ok, true);
  await ada.until("the third join", () => joins === 3 && ada.client.connected);
  await ada.until("everybody", () => room.members === 2 || ada.rooms.at(-1)?.members === 2);
  await other.publish("again");
  await ada.until("the message", () => heard.includes("again"));
});
