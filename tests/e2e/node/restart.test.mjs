import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, control, guest } from "./helpers.mjs";

test("a crash of the gateway keeps the player; what was lost is said", async () => {
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

test("a stop asks the players to come back, each at another time", async () => {
  const auths = new Map();
  const players = [];
  for (const name of ["Ada", "Bob", "Cem"]) {
    const player = new Client((present) => present(auths.get(name) ?? { guest: true, name }), {
      reconnection: false,
    });
    await player.ready();
    auths.set(name, { token: player.session.token });
    players.push(player);
  }
  await control("terminate");
  for (const player of players) {
    await player.until("goaway", () => player.goaways.length);
    const { reason, reconnect_in: seconds } = player.goaways[0];
    assert.equal(reason, "draining");
    assert.ok(seconds > 0);
  }
  assert.equal(new Set(players.map(({ goaways }) => goaways[0].reconnect_in)).size, 3);
  const newcomer = new Client({ guest: true, name: "Late" }, { reconnection: false });
  const data = await newcomer.refused();
  assert.equal(data.code, "draining");
  assert.equal(data.reconnect, true);
  newcomer.close();
  // While it drains, who is still there can talk.
  assert.equal((await players[0].send(players[1].trueId, "bye")).status, "delivered");
  assert.deepEqual(await players[1].received(1), ["bye"]);
  const ids = players.map(({ trueId }) => trueId);
  for (const player of players) player.socket.disconnect();
  await control("wait");
  await control("start");
  for (const [index, player] of players.entries()) {
    player.socket.connect();
    await player.ready(2);
    assert.equal(player.trueId, ids[index]);
  }
});

test("who does not go is sent away when the grace is over", async () => {
  const player = await guest("Ada", { reconnection: false });
  await control("terminate");
  await player.until("goaway", () => player.goaways.length);
  await player.until("the end", () => player.disconnects.length);
  await control("wait");
  await control("start");
});
