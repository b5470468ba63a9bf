import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeStorage, Player, player, Tab } from "./client_helpers.mjs";
import { Client, eventually, Proxy, range } from "./helpers.mjs";

const PATIENT = { reconnectionDelay: 60_000, reconnectionDelayMax: 60_000 };

/** What a browser has left of a tab that it discarded, and loads again when it is looked at. */
function discarded(tab) {
  return new Tab({ local: tab.localStorage, copyOf: tab });
}

/** All receipts are there. */
function emptied({ client }) {
  const look = () => new Promise((resolve) => setTimeout(() => resolve(client.queued), 5));
  return eventually(look, (queued) => queued === 0);
}

test("a tab that was discarded does not present a token that another tab has replaced", async () => {
  const proxy = await Proxy.start();
  const local = new FakeStorage();
  const open = (window, options) => player({ window, storage: "local", ...options });
  const tab = new Tab({ local });
  const first = await open(tab, { url: proxy.url, key: "one" });
  const { trueId, sessionId } = first.client;
  const asleep = discarded(tab);
  proxy.stall();

  // Another tab finds that session's connection dead, goes on with it, and is reloaded.
  const other = new Tab({ local });
  for (const _ of range(1, 4)) {
    const second = await open(other, { url: proxy.url, key: "one" });
    assert.equal(second.client.sessionId, sessionId);
    second.client.close();
  }
  const second = await open(other, { url: proxy.url, key: "one" });

  const woken = await open(asleep, { url: proxy.url, key: "one" });
  assert.equal(woken.client.trueId, trueId);
  assert.notEqual(woken.client.sessionId, sessionId);
  assert.deepEqual(woken.refuseds, []);
  await second.settle();
  assert.equal(second.client.sessionId, sessionId);
  assert.equal(second.sessions.length, 1);
});

test("many tabs that start at once end with a session each, and none is refused", async () => {
  const local = new FakeStorage();
  const start = async () => {
    const tabs = range(1, 3).map(() => new Tab({ local }));
    const all = tabs.map((window) => new Player({ window, storage: "local" }));
    await Promise.all(all.map((one) => one.ready()));
    return all;
  };
  const seed = await player({ window: new Tab({ local }), storage: "local" });
  const { trueId } = seed.client;
  seed.client.close();
  for (const _ of range(1, 4)) {
    const all = await start();
    assert.deepEqual(new Set(all.map(({ client }) => client.trueId)), new Set([trueId]));
    assert.equal(new Set(all.map(({ client }) => client.sessionId)).size, all.length);
    for (const one of all) {
      assert.deepEqual([one.refuseds, one.losts], [[], []]);
      one.client.close();
    }
  }
  assert.ok(local.length <= 8, `${local.length} records`);
});

test("a new tab does not stop at a record that is worth nothing", async () => {
  const local = new FakeStorage();
  const tabs = [new Tab({ local }), new Tab({ local })];
  const open = (window) => player({ window, storage: "local" });
  const first = await open(tabs[0]);
  const second = await open(tabs[1]);
  const { trueId } = first.client;
  first.client.close();
  second.client.close();
  // The one used last is revoked.
  const elsewhere = new Client({ token: tabs[1].sessionStorage.record.token });
  await elsewhere.ready();
  await elsewhere.ask("logout", {});
  const third = await open(new Tab({ local }));
  assert.equal(third.client.trueId, trueId);
  assert.equal(third.client.sessionId, first.client.sessionId);
  assert.deepEqual(third.refuseds.map(({ code, final }) => [code, final]), [
    ["session_revoked", false],
  ]);
});

test("logout leaves no record of the player to tabs to come", async () => {
  const local = new FakeStorage();
  const open = (window) => player({ window, storage: "local" });
  const first = await open(new Tab({ local }));
  const second = await open(new Tab({ local }));
  assert.equal(local.length, 2);
  second.client.close();
  await first.client.logout();
  assert.equal(local.length, 0);
  const next = await open(new Tab({ local }));
  assert.notEqual(next.client.trueId, first.client.trueId);
});

test("with `persist` a reload sends what has no receipt, once, and in order", async () => {
  const bob = await player();
  const tab = new Tab();
  const ada = await player({ window: tab, persist: true, ...PATIENT });
  const { trueId } = ada.client;
  await ada.client.send(bob.client.trueId, 1);
  // This one arrives, and its ack is lost.
  const { socket } = ada.client;
  assert.equal(typeof socket.onack, "function");
  socket.onack = () => {};
  for (const n of range(2, 4)) ada.client.send(bob.client.trueId, n).catch(() => {});
  assert.deepEqual(await bob.received(2), [1, 2]);
  tab.tell("pagehide");

  const copied = new Tab({ copyOf: tab });
  const next = await player({ window: tab, persist: true });
  assert.equal(next.client.trueId, trueId);
  await bob.received(4);
  await emptied(next);
  // The tab was duplicated at the worst of all moments.
  const copy = await player({ window: copied, persist: true });
  await emptied(copy);
  await bob.settle();
  assert.deepEqual(bob.data, range(1, 4));
  assert.deepEqual([next.errors, copy.errors], [[], []]);
  // Nothing is left for the page after that.
  tab.tell("pagehide");
  const last = new Player({ window: tab, persist: true });
  assert.equal(last.client.queued, 0);
});

test("what was kept over a reload is not sent as another player; the game is told", async () => {
  const bob = await player();
  const tab = new Tab();
  const ada = await player({ window: tab, persist: true, ...PATIENT });
  ada.drop();
  ada.client.send(bob.client.trueId, "old", { id: "kept" }).catch(() => {});
  const elsewhere = new Client({ token: JSON.parse(tab.sessionStorage.items.get(recordOf(tab))).token });
  await elsewhere.ready();
  await elsewhere.ask("logout", {});
  tab.tell("pagehide");
  const next = await player({ window: tab, persist: true });
  assert.notEqual(next.client.trueId, ada.client.trueId);
  await next.until("the error", () => next.errors.length);
  assert.deepEqual(next.errors.map(({ code, event, id }) => [code, event, id]), [
    ["player_changed", "message", "kept"],
  ]);
  await next.client.send(bob.client.trueId, "new");
  await bob.settle();
  assert.deepEqual(bob.data, ["new"]);
});

test("without `persist` nothing is written but the record", async () => {
  const tab = new Tab();
  const ada = await player({ window: tab, ...PATIENT });
  ada.drop();
  ada.client.send(ada.client.trueId, 1).catch(() => {});
  tab.tell("pagehide");
  assert.equal(tab.sessionStorage.length, 1);
});

test("a queue that is closed is not kept", async () => {
  const tab = new Tab();
  const ada = await player({ window: tab, persist: true, ...PATIENT });
  ada.drop();
  const sent = assert.rejects(ada.client.send(ada.client.trueId, 1), { code: "closed" });
  tab.show(true);
  assert.equal(tab.sessionStorage.length, 2);
  ada.client.close();
  await sent;
  assert.equal(tab.sessionStorage.length, 1);
});

function recordOf(tab) {
  return [...tab.sessionStorage.items.keys()].find((key) => !key.startsWith("queue"));
}
