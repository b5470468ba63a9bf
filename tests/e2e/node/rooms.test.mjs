import assert from "node:assert/strict";
import { test } from "node:test";
import { control, eventually, guest, range } from "./helpers.mjs";

const ROOM = "match 7";

/** Guests who are in the room, and what each was told of it. */
async function party(...names) {
  const players = [];
  for (const name of names) {
    const player = await guest(name);
    player.rooms = [];
    player.socket.on("room", (event) => {
      player.rooms.push(event);
      player.look();
    });
    const answer = await player.ask("join", { room: ROOM });
    assert.equal(answer.ok, true);
    players.push(player);
  }
  return players;
}

/** Publish until there is a receipt: what has an id is accepted once. */
function publish(player, data, more = {}) {
  return eventually(
    () => player.ask("publish", { room: ROOM, data, ...more }).catch((error) => ({ error })),
    ({ ok, error }) => {
      assert.ok(ok || error instanceof Error || error.code === "unavailable", JSON.stringify(error));
      return ok;
    },
  );
}

test("members hear each other and who comes and goes", async () => {
  const [ada, bob] = await party("Ada", "Bob");
  await ada.until("Bob", () => ada.rooms.some(({ joined }) => joined === bob.trueId));
  const receipt = await publish(ada, { x: 1 }, { type: "move" });
  assert.equal(receipt.status, "delivered");
  assert.equal(receipt.connections, 2);
  for (const player of [ada, bob]) {
    await player.received(1);
    const [{ envelope, rest }] = player.messages;
    assert.equal(envelope.room, ROOM);
    assert.equal(envelope.from, ada.trueId);
    assert.equal(envelope.type, "move");
    assert.deepEqual(rest, [envelope.id]);
  }
  assert.equal(receipt.id, ada.messages[0].envelope.id);
  assert.deepEqual(await bob.ask("leave", { room: ROOM }), { ok: true, members: 1 });
  await ada.until("the leave", () => ada.rooms.some(({ left }) => left === bob.trueId));
  const { players, members } = await ada.ask("members", { room: ROOM });
  assert.equal(members, 1);
  assert.deepEqual(players, [{ true_id: ada.trueId, name: "Ada", state: "active" }]);
  assert.equal((await bob.ask("publish", { room: ROOM, data: 1 })).error.code, "not_member");
});

test("over reconnects and crashes nothing is lost, doubled or out of order", async () => {
  const players = await party("Ada", "Bob", "Cem");
  const [ada, bob, cem] = players;
  const say = (round) =>
    Promise.all(
      players.flatMap((player, who) =>
        range(1, 20).map((n) =>
          publish(player, { who, n: 100 * round + n }, { id: `${who}-${round}-${n}` }),
        ),
      ),
    );
  await say(0);
  // In between connections end, in the page and with the gateway.
  const speaking = say(1);
  bob.drop();
  cem.drop();
  await speaking;
  for (const round of [2, 3]) {
    await control("kill");
    await control("start");
    await Promise.all(players.map((player) => player.until("the return", () => player.socket.connected)));
    await say(round);
  }
  for (const player of players) {
    await player.received(3 * 20 * 4);
    await player.settle();
  }
  const heard = (player) => player.data.map(({ who, n }) => `${who}-${n}`);
  assert.equal(new Set(heard(ada)).size, 240);
  for (const player of players) {
    assert.deepEqual(heard(player), heard(ada), "another order");
    assert.ok(player.connects.slice(1).every(({ recovered }) => recovered));
  }
});

test("what a session published without echo stays away from it for good", async () => {
  const [ada, bob] = await party("Ada", "Bob");
  await publish(ada, 1, { echo: false });
  await publish(bob, 2);
  await publish(ada, 3, { echo: false });
  ada.drop();
  await ada.ready(2);
  await publish(ada, 4, { echo: false });
  await control("kill");
  await control("start");
  await Promise.all([ada.ready(3), bob.ready(2)]);
  await publish(bob, 5);
  await ada.received(2);
  await bob.received(5);
  await ada.settle();
  assert.deepEqual(ada.data, [2, 5]);
  assert.deepEqual(bob.data, [1, 2, 3, 4, 5]);
  for (const session of ada.sessions) assert.equal(session.gap, null);
});
