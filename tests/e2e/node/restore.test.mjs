import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, control, guest } from "./helpers.mjs";

test("a client is told when the store was set back to a backup, and goes on", async () => {
  const kept = {};
  const ada = new Client((present) => present(kept.token ? kept : { guest: true, name: "Ada" }));
  ada.socket.on("session", (session) => {
    kept.token = session.token;
  });
  ada.socket.on("message", (message) => {
    kept.offset = message.id;
  });
  await ada.ready();
  const bob = await guest("Bob");
  const { true_id: trueId } = ada.session;
  for (const number of [1, 2]) await bob.send(trueId, number);
  await ada.received(2);

  await control("backup");
  for (const number of [3, 4]) await bob.send(trueId, number);
  await ada.received(4);
  // More generations of its token than the backup knows of.
  for (const time of [2, 3, 4]) {
    ada.drop();
    await ada.ready(time);
    assert.equal(ada.session.outcome, "resumed");
    assert.equal(ada.socket.recovered, true);
    // Without the pid, as after a reload: that makes a new token.
    ada.socket._pid = undefined;
    ada.drop();
    await ada.until("the next session", () => ada.sessions.length > time);
    ada.sessions.splice(time - 1, 1);
  }
  const last = kept.offset;
  bob.close();

  await control("terminate");
  await control("wait");
  await control("restore");
  await control("start");
  await ada.ready(5);
  assert.equal(ada.trueId, trueId);
  assert.equal(ada.session.name, "Ada");
  assert.equal(ada.session.outcome, "store_reset");
  assert.deepEqual(ada.session.gap, { after: last, lost: null });
  assert.equal(ada.socket.recovered, false);

  // As many messages as were lost, so that the old offset would look like one of these.
  const cem = await guest("Cem");
  for (const number of [5, 6]) assert.equal((await cem.send(trueId, number)).status, "delivered");
  await ada.until("the last message", () => ada.data.includes(6));
  // What the backup has comes again, with its id; nothing that came later is missing.
  assert.deepEqual(ada.data, [1, 2, 3, 4, 1, 2, 5, 6]);
  ada.drop();
  await ada.ready(6);
  assert.equal(ada.session.outcome, "resumed");
  await ada.settle();
  assert.deepEqual(ada.data, [1, 2, 3, 4, 1, 2, 5, 6]);
});
