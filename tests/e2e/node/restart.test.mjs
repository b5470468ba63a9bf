import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, control, guest } from "./helpers.mjs";

test("a crash of the gateway is a recovered connection, nothing lost or doubled", async () => {
  const ada = await guest("Ada");
  const bob = await guest("Bob");
  await bob.send(ada.trueId, 1, { id: "one" });
  await ada.received(1);
  await control("kill");
  await ada.until("the crash", () => ada.disconnects.length);
  await control("start");
  await Promise.all([ada.ready(2), bob.ready(2)]);
  for (const player of [ada, bob]) {
    assert.equal(player.socket.recovered, true);
    assert.equal(player.session.outcome, "resumed");
    assert.equal(player.session.gap, null);
  }
  assert.equal((await bob.send(ada.trueId, 1, { id: "one" })).duplicate, true);
  assert.equal((await bob.send(ada.trueId, 2, { id: "two" })).duplicate, false);
  await ada.received(2);
  await ada.settle();
  assert.deepEqual(ada.data, [1, 2]);
});

test("what waits for a player who is away outlives a crash", async () => {
  const ada = await guest("Ada");
  const bob = await guest("Bob");
  const { trueId } = ada;
  await bob.send(trueId, 1);
  await ada.received(1);
  const { token } = ada.session;
  const offset = ada.messages[0].envelope.id;
  ada.close();
  for (const number of [2, 3]) {
    await control("kill");
    await control("start");
    await bob.ready(number);
    // Whether the gateway has noticed that she is gone makes no difference to what is kept.
    assert.equal((await bob.send(trueId, number)).ok, true);
  }
  const again = new Client({ token, offset });
  await again.ready();
  assert.equal(again.trueId, trueId);
  assert.equal(again.session.resumed, true);
  assert.deepEqual(await again.received(2), [2, 3]);
  await again.settle();
  assert.deepEqual(again.data, [2, 3]);
});

test("what was revoked stays so over a crash", async () => {
  const left = await guest("Ada");
  const { token: leftToken } = left.session;
  await left.ask("logout", {});
  const stolen = await guest("Bob");
  const { token: first } = stolen.session;
  stolen.close();
  let owner = new Client({ token: first });
  const { token: second } = await owner.ready();
  owner.close();
  owner = new Client({ token: second });
  await owner.ready();
  owner.close();
  const thief = new Client({ token: first });
  assert.equal((await thief.refused()).code, "token_reused");
  thief.close();
  const lasting = await guest("Cem");
  const { token: oldest } = lasting.session;
  lasting.close();
  owner = new Client({ token: oldest });
  const { token: newest } = await owner.ready();
  owner.close();
  owner = new Client({ token: newest });
  await owner.ready();
  owner.close();
  await control("kill");
  await control("start");
  for (const token of [leftToken, second]) {
    const client = new Client({ token }, { reconnection: false });
    assert.equal((await client.refused()).code, "session_revoked");
    client.close();
  }
  const reused = new Client({ token: oldest }, { reconnection: false });
  assert.equal((await reused.refused()).code, "token_reused");
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
