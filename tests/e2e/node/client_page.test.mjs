import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeStorage, Player, player, Tab } from "./client_helpers.mjs";
import { Proxy, range } from "./helpers.mjs";
import { watchPage } from "../../../gateway/static/client/page.js";

/** So long that only the page's events bring a client back. */
const PATIENT = { reconnectionDelay: 60_000, reconnectionDelayMax: 60_000 };

const RETURNS = {
  "is looked at again": (tab) => tab.show(false),
  "is thawed": (tab) => tab.document.dispatchEvent(new Event("resume")),
  "is online again": (tab) => tab.tell("online"),
  "is shown from the cache": (tab) => tab.tell("pageshow"),
};

for (const [what, act] of Object.entries(RETURNS)) {
  test(`a page that ${what} does not wait for the backoff`, async () => {
    const tab = new Tab();
    const ada = await player({ window: tab, ...PATIENT });
    const bob = await player();
    ada.drop();
    assert.equal(ada.client.state, "away");
    await bob.client.send(ada.client.trueId, "meanwhile");
    const ms = await ada.comesBack(() => act(tab));
    assert.ok(ms < 1000, `${ms} ms`);
    assert.equal(ada.sessions[1].outcome, "resumed");
    assert.deepEqual(await ada.received(1), ["meanwhile"]);
  });
}

for (const hidden of [false, true]) {
  test(`a ${hidden ? "hidden" : "visible"} page whose process was stopped is back: ${!hidden}`, (t) => {
    t.mock.timers.enable({ apis: ["setInterval", "Date"], now: 1_000_000 });
    const tab = new Tab();
    let returns = 0;
    const handlers = { onVisibility() {}, onReturn: () => (returns += 1), onLeave() {} };
    const stop = watchPage(tab.document, tab, handlers);
    tab.document.hidden = hidden;
    const pass = (seconds) => range(1, seconds).forEach(() => t.mock.timers.tick(1000));
    const sleep = () => t.mock.timers.setTime(Date.now() + 10_000);
    pass(60);
    assert.equal(returns, 0, "time passed, and was noticed");
    sleep();
    pass(60);
    assert.equal(returns, hidden ? 0 : 1, "once for each sleep");
    stop();
    sleep();
    pass(60);
    assert.equal(returns, hidden ? 0 : 1, "nobody listens any more");
  });
}

test("a page that comes back to a dead connection replaces it at once", async () => {
  const proxy = await Proxy.start();
  const tab = new Tab();
  const ada = await player({ url: proxy.url, window: tab, ...PATIENT });
  const bob = await player();
  tab.show(true);
  await ada.settle();
  proxy.stall();
  await bob.client.send(ada.client.trueId, "into the void");
  const ms = await ada.comesBack(() => tab.show(false));
  assert.ok(ms < 1000, `${ms} ms`);
  assert.deepEqual(await ada.received(1), ["into the void"]);
  assert.equal(ada.client.socket.recovered, true);
});

test("a page that comes back to a live connection keeps it", async () => {
  const tab = new Tab();
  const ada = await player({ window: tab });
  for (const act of Object.values(RETURNS)) {
    tab.show(true);
    act(tab);
  }
  await new Promise((resolve) => setTimeout(resolve, 700));
  await ada.settle();
  assert.equal(ada.sessions.length, 1);
});

test("a loss that a thawed page only hears of now is not waited for, each time", async () => {
  const tab = new Tab();
  const ada = await player({ window: tab, ...PATIENT });
  for (const _ of range(1, 3)) {
    const ms = await ada.comesBack(() => {
      tab.show(false);
      ada.drop();
    });
    assert.ok(ms < 1000, `${ms} ms`);
  }
});

test("a connection that is lost again after a return is waited for", async () => {
  const tab = new Tab();
  const ada = await player({ window: tab, ...PATIENT });
  await ada.comesBack(() => {
    tab.show(false);
    ada.drop();
  });
  ada.drop();
  await new Promise((resolve) => setTimeout(resolve, 500));
  assert.equal(ada.client.state, "away");
});

test("an attempt that was begun before the page slept is begun anew", async () => {
  const proxy = await Proxy.start();
  const tab = new Tab();
  const ada = await player({ url: proxy.url, window: tab, ...PATIENT });
  ada.drop();
  proxy.server.once("connection", () => proxy.stall());
  tab.tell("online");
  await new Promise((resolve) => setTimeout(resolve, 1200));
  assert.equal(ada.client.state, "away");
  const ms = await ada.comesBack(() => tab.show(false));
  assert.ok(ms < 1000, `${ms} ms`);
});

test("a page that goes gives its connection back, and takes it up when it was kept", async () => {
  const tab = new Tab();
  const ada = await player({ window: tab, ...PATIENT });
  const bob = await player();
  tab.tell("pagehide");
  assert.equal(ada.client.state, "away");
  assert.equal(ada.client.socket.connected, false);
  await bob.client.send(ada.client.trueId, "meanwhile");
  const ms = await ada.comesBack(() => tab.tell("pageshow"));
  assert.ok(ms < 1000, `${ms} ms`);
  assert.deepEqual(await ada.received(1), ["meanwhile"]);
  // Reloaded: the gateway need not find out first that the old page is dead.
  tab.tell("pagehide");
  const next = await player({ window: tab });
  assert.equal(next.client.sessionId, ada.client.sessionId);
});

test("a wait that the gateway asked for is not cut short by the page", async () => {
  const tab = new Tab();
  const ada = await player({ window: tab, ...PATIENT });
  // As the gateway would say it.
  ada.client.socket.emitEvent(["goaway", { reason: "draining", reconnect_in: 0.4 }]);
  assert.equal(ada.client.state, "away");
  const ms = await ada.comesBack(() => {
    for (const act of Object.values(RETURNS)) act(tab);
  });
  assert.ok(ms >= 395, `${ms} ms`);
});

test("the last word on visibility counts, however fast it changes", async () => {
  const tab = new Tab();
  const ada = await player({ window: tab });
  const bob = await player();
  const { trueId } = ada.client;
  bob.client.watch(trueId, () => {});
  for (const n of range(1, 25)) tab.show(n % 2 === 1);
  await ada.settle();
  await bob.until("hidden", () => bob.presences.at(-1)?.state === "hidden");
  await new Promise((resolve) => setTimeout(resolve, 800));
  const { presence } = await bob.client.request("presence_watch", { true_ids: [trueId] });
  assert.equal(presence[trueId].state, "hidden");
  assert.equal(ada.sessions.length, 1);
});

test("two tabs that both believe to hold a session end with one each", async () => {
  // The tab slept, its copy took the session over, and then the tab woke up.
  const proxy = await Proxy.start();
  const tab = new Tab();
  const sleeper = await player({ url: proxy.url, window: tab });
  proxy.stall();
  const copy = await player({ url: proxy.url, window: new Tab({ copyOf: tab }) });
  const { trueId, sessionId } = sleeper.client;
  assert.equal(copy.client.sessionId, sessionId);
  tab.show(false);
  await copy.until("peace", () => {
    const both = copy.client.connected && sleeper.client.connected;
    return both && copy.client.sessionId !== sleeper.client.sessionId;
  });
  const bob = await player();
  await bob.client.send(trueId, "both");
  for (const one of [sleeper, copy]) {
    await one.settle();
    assert.deepEqual(one.data.filter((data) => data === "both"), ["both"]);
    assert.equal(one.client.trueId, trueId);
    assert.deepEqual([one.refuseds, one.losts], [[], []]);
  }
});

test("a client without a page needs none", async () => {
  const bot = new Player({ storage: new FakeStorage(), window: undefined, document: undefined });
  await bot.ready();
  await bot.settle();
});
