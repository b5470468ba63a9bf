import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, control, guest } from "./helpers.mjs";

test("with a store in memory a crash keeps the player; what was lost is said", async () => {
  let token;
  const player = new Client((present) => present(token ? { token } : { guest: true, name: "Ada" }));
  player.socket.on("session", (session) => {
    token = session.token;
  });
  await player.ready();
  const other = await guest("Bob");
  const { true_id: trueId, session_id: sessionId } = player.session;
  await other.send(trueId, 1);
  await player.received(1);

  await control("kill");
  await player.until("the loss", () => player.disconnects.length);
  await control("start");
  await player.ready(2);
  assert.equal(player.trueId, trueId);
  assert.equal(player.session.name, "Ada");
  assert.equal(player.session.outcome, "store_reset");
  // It goes on under its name, but with a new pid: the client knows that it is not recovered.
  assert.equal(player.session.session_id, sessionId);
  assert.equal(player.session.resumed, false);
  assert.notEqual(player.session.gap, null);
  assert.equal(player.socket.recovered, false);
  const back = await guest("Cem");
  assert.equal((await back.send(trueId, 2)).status, "delivered");
  assert.deepEqual(await player.received(2), [1, 2]);
  player.drop();
  await player.ready(3);
  assert.equal(player.socket.recovered, true);
  assert.equal(player.session.outcome, "resumed");
  await player.settle();
  assert.deepEqual(player.data, [1, 2]);
});
