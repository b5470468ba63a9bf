import assert from "node:assert/strict";
import { test } from "node:test";
import { judging, player } from "./client_helpers.mjs";
import { range } from "./helpers.mjs";

const PATIENT = { reconnectionDelay: 60_000, reconnectionDelayMax: 60_000 };
let made = 0;

/** Two members of a room, and what the second one hears. */
async function duel(options) {
  made += 1;
  const name = `duel-${process.pid}-${made}`;
  const [ada, bob] = [await player(options), await player()];
  const room = await ada.client.join(name);
  const heard = [];
  (await bob.client.join(name)).on("message", (message) => {
    heard.push(message);
    bob.look();
  });
  const last = (data) => bob.until(`${data}`, () => heard.at(-1)?.data === data);
  return { ada, bob, room, heard, last };
}

test("the last value of a key arrives, whatever becomes of those before", async () => {
  const { room, heard, last } = await duel();
  const receipts = range(1, 2000).map((n) => room.volatile("position", n));
  await last(2000);
  const statuses = new Set((await Promise.all(receipts)).map(({ status }) => status));
  assert.deepEqual([...statuses].sort(), ["delivered", "dropped"]);
  const values = heard.map(({ data }) => data);
  assert.deepEqual(values, [...values].sort((one, other) => one - other));
  assert.ok(heard.every(({ id }) => id === undefined));
});

test("keys do not replace each other", async () => {
  const { ada, bob, room, heard } = await duel(PATIENT);
  ada.drop();
  for (const n of range(1, 5)) for (const key of ["x", "y"]) room.volatile(key, `${key}${n}`);
  ada.client.connect();
  await bob.until("both", () => heard.length >= 2);
  await room.publish("end");
  await bob.until("the end", () => heard.at(-1).data === "end");
  assert.deepEqual(heard.map(({ data }) => data), ["x5", "y5", "end"]);
});

test("what the gateway refuses for now is tried again with the newest value", async () => {
  let refusals = 2;
  const asked = [];
  const judge = (event, { data, volatile }) => {
    if (!volatile) return null;
    asked.push(data);
    const error = { code: "rate_limited", message: "later", retry_after: 0.05 };
    return refusals-- > 0 ? { ok: false, error } : null;
  };
  const { room, heard, last } = await duel({ io: judging(judge) });
  const receipts = [room.volatile("position", 1)];
  await Promise.resolve();
  receipts.push(room.volatile("position", 2));
  await last(2);
  assert.deepEqual((await Promise.all(receipts)).map(({ status }) => status), [
    "dropped",
    "delivered",
  ]);
  assert.deepEqual(heard.map(({ data }) => data), [2]);
  assert.deepEqual(asked, [1, 2, 2]);
});

test("a refusal that is final rejects who looks, and bothers nobody else", async () => {
  const { ada, room } = await duel();
  room.volatile("big", "x".repeat(70_000));
  await assert.rejects(room.volatile("big", "x".repeat(70_000)), { code: "too_large" });
  await assert.rejects(room.volatile("k".repeat(65), 1), { code: "bad_request", field: "key" });
  assert.throws(() => room.volatile("function", () => {}), TypeError);
  ada.client.close();
  await assert.rejects(room.volatile("late", 1), { code: "closed" });
  room.volatile("late", 1);
  await new Promise((resolve) => setTimeout(resolve));
});

test("no more keys wait than the queue holds", async () => {
  const { ada, room, last } = await duel({ queue: 3, ...PATIENT });
  ada.drop();
  const receipts = range(1, 3).map((n) => room.volatile(`key-${n}`, n));
  receipts.push(room.volatile("key-3", "newer"));
  await assert.rejects(room.volatile("key-4", 4), { code: "queue_full" });
  ada.client.connect();
  await last("newer");
  // Heard by the other one is not yet acknowledged here: only then is there room.
  await Promise.all(receipts);
  await room.volatile("key-4", 4);
  await last(4);
});
