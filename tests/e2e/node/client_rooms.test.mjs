import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeStorage, judging, Player, player } from "./client_helpers.mjs";
import { Client, control, eventually, range } from "./helpers.mjs";

const PATIENT = { reconnectionDelay: 60_000, reconnectionDelayMax: 60_000 };

let made = 0;

/** A name that no other test uses. */
function newName() {
  made += 1;
  return `match-${process.pid}-${made}`;
}

/** `io` that counts the events which the client asks for. */
function counting(asked) {
  return judging((event) => {
    asked.push(event);
    return null;
  });
}

/** A player in a room, with what was heard there. */
async function member(name, options) {
  const one = await player(options);
  return { ...(await enter(one, name)), one, client: one.client };
}

async function enter(one, name) {
  const room = await one.client.join(name);
  const heard = { message: [], joined: [], left: [], rejoined: [] };
  for (const event of Object.keys(heard)) {
    room.on(event, (...values) => {
      heard[event].push(values);
      one.look();
    });
  }
  return { room, heard };
}

const dataOf = ({ heard }) => heard.message.map(([{ data }]) => data);

function received(somebody, count) {
  return somebody.one.until(`${count} messages`, () => somebody.heard.message.length >= count);
}

test("a room: members hear each other, in one order, the sender included", async () => {
  const name = newName();
  const ada = await member(name);
  assert.equal(ada.room.name, name);
  assert.equal(ada.room.members, 1);
  const bob = await member(name);
  assert.equal(bob.room.members, 2);
  await ada.one.until("bob", () => ada.heard.joined.length === 1);
  assert.deepEqual(ada.heard.joined, [[bob.client.trueId, 2]]);
  assert.equal(ada.room.members, 2);
  const receipt = await ada.room.publish({ move: "e4" }, { type: "move" });
  assert.equal(receipt.ok, true);
  const sends = range(1, 20).map((n) => (n % 2 ? ada : bob).room.publish(n));
  await Promise.all(sends);
  for (const one of [ada, bob]) await received(one, 21);
  assert.deepEqual(dataOf(ada), dataOf(bob));
  const [[{ room, from, type, data }]] = bob.heard.message;
  assert.deepEqual([room, from, type, data], [name, ada.client.trueId, "move", { move: "e4" }]);
  assert.deepEqual(ada.one.messages.length, 21, "`message` of the client hears rooms, too");
  assert.equal(ada.client.room(name), ada.room);
});

test("`echo: false` spares the sender, and no one else", async () => {
  const name = newName();
  const ada = await member(name);
  const bob = await member(name);
  await ada.room.publish(1, { echo: false });
  await ada.room.publish(2);
  await received(bob, 2);
  await received(ada, 1);
  await ada.one.settle();
  assert.deepEqual([dataOf(ada), dataOf(bob)], [[2], [1, 2]]);
});

test("the members are told page by page", async () => {
  const name = newName();
  const all = [];
  for (const _ of range(1, 3)) all.push(await member(name));
  const seen = [];
  let cursor;
  do {
    const page = await all[0].room.players({ limit: 2, cursor });
    assert.equal(page.members, 3);
    seen.push(...page.players.map(({ true_id: trueId }) => trueId));
    cursor = page.cursor ?? undefined;
  } while (cursor);
  assert.deepEqual(seen, all.map(({ client }) => client.trueId));
});

test("who left hears nothing more, and may not publish", async () => {
  const name = newName();
  const ada = await member(name);
  const bob = await member(name);
  await bob.room.leave();
  await ada.one.until("bob's leave", () => ada.heard.left.length === 1);
  assert.deepEqual(ada.heard.left, [[bob.client.trueId, 1]]);
  await ada.room.publish("among us");
  await bob.one.settle();
  assert.deepEqual(bob.one.messages, []);
  await assert.rejects(bob.room.publish("me again"), { code: "not_member" });
  const again = await enter(bob.one, name);
  assert.notEqual(again.room, bob.room);
  await again.room.publish("me again");
  await bob.one.until("the message", () => again.heard.message.length === 1);
  assert.deepEqual(bob.heard.message, []);
});

test("a reconnect finds the player a member: nothing missed, and no second join", async () => {
  const name = newName();
  const asked = [];
  const ada = await member(name, { io: counting(asked) });
  const bob = await member(name);
  ada.one.drop();
  for (const n of range(1, 5)) await bob.room.publish(n);
  await ada.one.ready(2);
  await received(ada, 5);
  await ada.one.settle();
  assert.deepEqual(dataOf(ada), range(1, 5));
  assert.equal(asked.filter((event) => event === "join").length, 1);
  assert.deepEqual([bob.heard.joined, bob.heard.left, ada.heard.rejoined], [[], [], []]);
});

test("who comes back asks first whether they are still a member", async () => {
  const name = newName();
  const asked = [];
  const tab = { sessionStorage: new FakeStorage() };
  const ada = await member(name, { io: counting(asked), window: tab, ...PATIENT });
  const copy = await player({ window: { sessionStorage: new FakeStorage(tab.sessionStorage) } });
  assert.equal(copy.client.trueId, ada.client.trueId);
  const bob = await member(name);
  ada.one.drop();
  await new Promise((resolve) => setTimeout(resolve, 700));
  await bob.room.publish("the other tab kept the seat");
  ada.client.connect();
  await received(ada, 1);
  await ada.one.settle();
  assert.deepEqual(asked.filter((event) => event !== "message"), ["join", "members"]);
  assert.deepEqual([ada.heard.rejoined, bob.heard.left], [[], []]);
});

test("who was away until the membership ended joins again", async () => {
  const name = newName();
  const ada = await member(name, PATIENT);
  const bob = await member(name);
  ada.one.drop();
  await bob.one.until("the end", () => bob.heard.left.length === 1);
  ada.client.connect();
  await bob.one.until("the return", () => bob.heard.joined.length === 1);
  assert.deepEqual(bob.heard.joined, [[ada.client.trueId, 2]]);
  await ada.one.until("the news", () => ada.heard.rejoined.length === 1);
  await bob.room.publish("welcome");
  await received(ada, 1);
  assert.deepEqual(dataOf(ada), ["welcome"]);
  assert.deepEqual(ada.one.errors, []);
});

test("a room is not lost to refusals for now, over reconnects too", async () => {
  const name = newName();
  const later = { ok: false, error: { code: "unavailable", message: "no", retry_after: 0.01 } };
  const asked = [];
  const judge = async (event) => {
    if (event !== "members") return null;
    asked.push(event);
    ada.one.look();
    if (asked.length === 1) {
      // Answered when there is another connection already.
      ada.one.drop();
      await ada.one.ready(3);
    }
    return asked.length <= 3 ? later : null;
  };
  const ada = await member(name, { io: judging(judge) });
  ada.one.drop();
  await ada.one.until("the questions", () => asked.length === 4);
  await ada.one.settle();
  assert.deepEqual([ada.heard.left, ada.heard.rejoined, ada.one.errors], [[], [], []]);
  await ada.room.publish("still here");
  await received(ada, 1);
});

test("over kill -9 of the gateway a room goes on, and all arrives once and in order", async () => {
  const name = newName();
  const ada = await member(name);
  const bob = await member(name);
  const receipts = range(1, 50).map((n) => ada.room.publish(n));
  await received(bob, 10);
  await control("kill");
  await ada.one.until("the loss", () => !ada.client.connected);
  receipts.push(...range(51, 100).map((n) => ada.room.publish(n)));
  await control("start");
  const answers = await Promise.all(receipts);
  assert.ok(answers.every(({ ok }) => ok));
  for (const one of [ada, bob]) {
    await received(one, 100);
    await one.one.settle();
    assert.deepEqual(dataOf(one), range(1, 100));
  }
});

test("`not_member` is answered by joining again, once for each message", async () => {
  const name = newName();
  const asked = [];
  let refusals = 1;
  const judge = (event, payload) => {
    if (event === "join" || event === "publish") asked.push([event, payload.data].flat(2));
    if (event !== "publish" || refusals-- <= 0) return null;
    return { ok: false, error: { code: "not_member", message: "not a member" } };
  };
  const ada = await member(name, { io: judging(judge) });
  await Promise.all([ada.room.publish(1), ada.room.publish(2)]);
  await received(ada, 2);
  assert.deepEqual(dataOf(ada), [1, 2]);
  assert.deepEqual(asked.map(([event]) => event), ["join", "publish", "join", "publish", "publish"]);
  refusals = Infinity;
  await assert.rejects(ada.room.publish(3), { code: "not_member" });
  assert.equal(asked.length, 8);
});

test("a room that may not be joined again is left, and the game is told", async () => {
  const name = newName();
  let open = true;
  const judge = (event) => {
    const refusal = { join: "forbidden", publish: "not_member" }[event];
    return !open && refusal ? { ok: false, error: { code: refusal, message: "no" } } : null;
  };
  const ada = await member(name, { io: judging(judge) });
  open = false;
  await assert.rejects(ada.room.publish(1), { code: "forbidden" });
  assert.deepEqual(ada.heard.left.map(([trueId]) => trueId), [ada.client.trueId]);
  assert.deepEqual(ada.one.errors.map(({ code, room }) => [code, room]), [["forbidden", name]]);
  // It does not try for ever.
  await assert.rejects(ada.room.publish(1), { code: "not_member" });
  await assert.rejects(ada.client.join(name), { code: "forbidden" });
});

test("another tab of the player leaves the room for both", async () => {
  const name = newName();
  const storage = new FakeStorage();
  const ada = await member(name, { storage });
  const copy = new Client({ token: storage.record.token });
  await copy.ready();
  assert.equal(copy.trueId, ada.client.trueId);
  assert.equal((await copy.ask("leave", { room: name })).ok, true);
  await ada.one.until("the leave", () => ada.heard.left.length === 1);
  await assert.rejects(ada.room.publish(1), { code: "not_member" });
});

test("what was missed over a reload is heard by who listens right after `join`", async () => {
  const name = newName();
  const storage = new FakeStorage();
  const bob = await member(name);
  const ada = await member(name, { storage });
  await bob.room.publish(1);
  await received(ada, 1);
  ada.client.close();
  for (const n of range(2, 40)) await bob.room.publish(n);
  const next = new Player({ storage });
  const again = await enter(next, name);
  await next.until("all", () => again.heard.message.length === 39);
  assert.deepEqual(dataOf(again), range(2, 40));
  assert.equal(again.heard.message[0][0].room, name);
});

test("what waits for a join is not taken for handled", async () => {
  const name = newName();
  const storage = new FakeStorage();
  const bob = await member(name);
  const ada = await member(name, { storage });
  const { offset } = storage.record;
  ada.client.close();
  await bob.room.publish("missed");
  // A page that ends before it could listen.
  const judge = (event) => (event === "join" ? new Promise(() => {}) : null);
  const brief = new Player({ storage, io: judging(judge) });
  brief.client.join(name).catch(() => {});
  await brief.ready();
  const { engine } = brief.client.socket.io;
  await eventually(
    () => new Promise((resolve) => setTimeout(() => resolve(brief.client.socket._lastOffset), 5)),
    (last) => Boolean(last) && last !== offset,
  );
  assert.deepEqual(brief.messages, []);
  assert.equal(storage.record.offset, offset);
  // As a crash would: nothing of the page runs any more.
  brief.client.socket.off();
  engine.close();
  const next = new Player({ storage });
  const again = await enter(next, name);
  await next.until("the message", () => again.heard.message.length === 1);
  assert.deepEqual(dataOf(again), ["missed"]);
});

test("rooms of one player are not those of the next", async () => {
  const name = newName();
  const storage = new FakeStorage();
  const asked = [];
  const ada = await member(name, { storage, io: counting(asked), ...PATIENT });
  const { trueId } = ada.client;
  ada.one.drop();
  const elsewhere = new Client({ token: storage.record.token });
  await elsewhere.ready();
  await elsewhere.ask("logout", {});
  ada.client.connect();
  await ada.one.until("another player", () => ![null, trueId].includes(ada.client.trueId));
  await ada.one.until("the loss", () => ada.heard.left.length === 1);
  assert.deepEqual(ada.one.errors.map(({ code }) => code), ["player_changed"]);
  await assert.rejects(ada.room.publish(1), { code: "not_member" });
  assert.equal(asked.filter((event) => event === "join").length, 1);
});
