import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { test } from "node:test";
import { GatewayClient } from "../../../gateway/static/client/gateway.js";
import { FakeStorage, Player, player, Tab } from "./client_helpers.mjs";
import { Client, PASSWORD_LOGIN, range, URL_OF_GATEWAY } from "./helpers.mjs";

const CLIENT = new URL("../../../gateway/static/client/", import.meta.url);

test("the gateway serves the module, what it imports, and its types", async () => {
  const names = (await readdir(CLIENT)).filter((name) => /\.(js|d\.ts)$/.test(name));
  const source = await readFile(new URL("gateway.js", CLIENT), "utf8");
  for (const [, name] of source.matchAll(/from "\.\/(.+?)"/g)) assert.ok(names.includes(name), name);
  for (const name of names) {
    const answer = await fetch(new URL(`client/${name}`, URL_OF_GATEWAY));
    assert.equal(answer.status, 200, name);
    assert.equal(await answer.text(), await readFile(new URL(name, CLIENT), "utf8"));
    if (name.endsWith(".js")) assert.match(answer.headers.get("content-type"), /javascript/);
  }
});

test("the types name every member of the client, and no other", async () => {
  const types = await readFile(new URL("gateway.d.ts", CLIENT), "utf8");
  const body = types.slice(types.indexOf("export class GatewayClient"));
  const declared = body.slice(0, body.indexOf("\n}")).matchAll(/^ {2}(?:readonly )?(\w+)[<(:]/gm);
  const members = Object.getOwnPropertyNames(GatewayClient.prototype);
  const names = (all) => [...new Set(all)].filter((name) => name !== "constructor").sort();
  assert.deepEqual(names([...declared].map((found) => found[1])), names(members));
});

test("a guest joins and talks", async () => {
  const ada = new Player({ name: "Ada" });
  assert.equal(ada.client.state, "connecting");
  await ada.ready();
  const bob = await player({ name: "Bob" });
  assert.equal(ada.client.state, "live");
  assert.equal(ada.client.connected, true);
  assert.match(ada.client.trueId, /^p_/);
  assert.equal(ada.client.sessionId, ada.sessions[0].session_id);
  assert.equal(ada.sessions[0].name, "Ada");
  const receipt = await bob.client.send(ada.client.trueId, { hello: "world" }, { type: "chat" });
  assert.equal(receipt.status, "delivered");
  await ada.received(1);
  const [{ id, from, type, data }] = ada.messages;
  assert.deepEqual({ id, from, type }, { id: receipt.id, from: bob.client.trueId, type: "chat" });
  assert.deepEqual(data, { hello: "world" });
});

test("a reload resumes: the same player, nothing missed, nothing twice", async () => {
  const bob = await player();
  const storage = new FakeStorage();
  let credentials = 0;
  const auth = () => {
    credentials += 1;
    return { guest: true, name: "Ada" };
  };
  const before = await player({ storage, auth });
  const { trueId, sessionId } = before.client;
  for (const n of [1, 2]) await bob.client.send(trueId, n);
  await before.received(2);
  before.client.close();
  for (const n of [3, 4]) await bob.client.send(trueId, n);
  const after = await player({ storage, auth });
  assert.equal(after.client.trueId, trueId);
  assert.equal(after.client.sessionId, sessionId);
  assert.equal(after.sessions[0].outcome, "resumed");
  await after.settle();
  assert.deepEqual(after.data, [3, 4]);
  assert.equal(credentials, 1, "credentials are for who has no token");
  // What was handled is known after a second reload, too.
  after.client.close();
  const third = await player({ storage, auth });
  await third.settle();
  assert.deepEqual(third.data, []);
});

test("a reconnect resumes by pid: nothing missed, nothing twice", async () => {
  const bob = await player();
  const ada = await player();
  await bob.client.send(ada.client.trueId, 1);
  await ada.received(1);
  ada.drop();
  for (const n of range(2, 20)) await bob.client.send(ada.client.trueId, n);
  await ada.ready(2);
  await ada.settle();
  assert.deepEqual(ada.data, range(1, 20));
  assert.equal(ada.client.socket.recovered, true);
  assert.deepEqual(ada.states, ["live", "away", "live"]);
  assert.deepEqual(ada.losts, []);
});

test("a handler that throws neither stops the others nor makes the message come again", async () => {
  const bob = await player();
  const ada = await player();
  const thrown = [];
  const before = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", (error) => thrown.push(error.message));
  try {
    ada.client.on("message", () => {
      throw new Error("my own fault");
    });
    const later = [];
    ada.client.on("message", ({ data }) => later.push(data));
    await bob.client.send(ada.client.trueId, 1);
    await ada.received(1);
    ada.drop();
    await ada.ready(2);
    await bob.client.send(ada.client.trueId, 2);
    await ada.received(2);
    assert.deepEqual(later, [1, 2]);
    await new Promise((resolve) => setTimeout(resolve));
  } finally {
    process.removeAllListeners("uncaughtException");
    for (const listener of before) process.on("uncaughtException", listener);
  }
  assert.deepEqual(thrown, ["my own fault", "my own fault"]);
});

test("a duplicated tab becomes a session of its own, of the same player", async () => {
  const bob = await player();
  const tab = new Tab();
  const original = await player({ window: tab });
  await bob.client.send(original.client.trueId, 1);
  await original.received(1);
  const copiedTab = new Tab({ copyOf: tab });
  const copy = await player({ window: copiedTab });
  assert.equal(copy.client.trueId, original.client.trueId);
  assert.notEqual(copy.client.sessionId, original.client.sessionId);
  assert.notEqual(tab.sessionStorage.record.token, copiedTab.sessionStorage.record.token);
  await bob.client.send(original.client.trueId, 2);
  assert.deepEqual(await original.received(2), [1, 2]);
  assert.deepEqual(await copy.received(1), [2]);
  // Each goes on as itself after a reload.
  for (const [old, window] of [[original, tab], [copy, copiedTab]]) {
    const { sessionId } = old.client;
    // Marks go to all sessions of the player: this one has what the other's test sent.
    await old.settle();
    old.client.close();
    const again = await player({ window });
    assert.equal(again.client.sessionId, sessionId);
    await again.settle();
    assert.deepEqual(again.data, []);
    again.client.close();
  }
});

test("with localStorage tabs keep sessions of their own, and the browser its player", async () => {
  const bob = await player();
  const local = new FakeStorage();
  const tabs = [new Tab({ local }), new Tab({ local })];
  const open = (window) => player({ window, storage: "local" });
  let [first, second] = [await open(tabs[0]), await open(tabs[1])];
  const { trueId } = first.client;
  assert.equal(second.client.trueId, trueId);
  assert.notEqual(second.client.sessionId, first.client.sessionId);
  await bob.client.send(trueId, 1);
  for (const one of [first, second]) await one.received(1);
  const ids = [first.client.sessionId, second.client.sessionId];
  for (let round = 0; round < 3; round += 1) {
    first.client.close();
    first = await open(tabs[0]);
    second.client.close();
    second = await open(tabs[1]);
    assert.deepEqual([first.client.sessionId, second.client.sessionId], ids);
  }
  // The browser ends; of its tabs only localStorage is left.
  first.client.close();
  second.client.close();
  await bob.client.send(trueId, 2);
  const later = await open(new Tab({ local }));
  assert.equal(later.client.trueId, trueId);
  assert.ok(ids.includes(later.client.sessionId));
  assert.deepEqual(await later.received(1), [2]);
});

test("storage that throws is no storage", async () => {
  const blocked = new Tab();
  for (const name of ["sessionStorage", "localStorage"]) {
    Object.defineProperty(blocked, name, {
      get() {
        throw new Error("blocked");
      },
    });
  }
  const ada = await player({ window: blocked, storage: "local" });
  ada.drop();
  assert.equal((await ada.ready(2)).outcome, "resumed");
  assert.throws(() => new Player({ storage: "cookie" }), TypeError);
});

test("a token that is refused is forgotten; then credentials are asked for", async () => {
  const storage = new FakeStorage();
  const first = await player({ storage });
  const { trueId } = first.client;
  await first.client.request("logout");
  first.client.close();
  assert.ok(storage.record.token);
  let asked = 0;
  const second = await player({
    storage,
    auth: async () => {
      asked += 1;
      return PASSWORD_LOGIN;
    },
  });
  assert.equal(asked, 1);
  assert.notEqual(second.client.trueId, trueId);
  const [{ code, reconnect, final }] = second.refuseds;
  assert.deepEqual([code, reconnect, final], ["session_revoked", false, false]);
  assert.equal(second.refuseds.length, 1);
});

test("credentials that are refused close the client until it is told to try again", async () => {
  let password = "wrong";
  const ada = new Player({ auth: () => ({ ...PASSWORD_LOGIN, password }) });
  const early = ada.client.send("p_somebody", 1);
  await assert.rejects(early, { code: "bad_credentials" });
  assert.equal(ada.client.state, "closed");
  assert.equal(ada.refuseds[0].final, true);
  await assert.rejects(ada.client.send("p_somebody", 1), { code: "closed" });
  ({ password } = PASSWORD_LOGIN);
  ada.client.connect();
  await ada.ready();
  const nobody = new Player({ auth: () => null });
  await nobody.until("the end", () => nobody.client.state === "closed");
});

test("logout forgets the player", async () => {
  const storage = new FakeStorage();
  const ada = await player({ storage });
  const { trueId } = ada.client;
  await ada.client.logout();
  assert.equal(ada.client.state, "closed");
  assert.equal(storage.record, null);
  const next = await player({ storage });
  assert.notEqual(next.client.trueId, trueId);
  assert.deepEqual(next.refuseds, []);
});

test("presence: visibility is told by itself, watching outlives a reconnect", async () => {
  const tab = new Tab();
  const ada = await player({ window: tab });
  const bob = await player();
  const { trueId } = ada.client;
  const heard = [];
  const stop = bob.client.watch([trueId], (presence) => {
    heard.push(presence);
    bob.look();
  });
  await bob.until("the first record", () => heard.length === 1);
  assert.deepEqual([heard[0].true_id, heard[0].state], [trueId, "active"]);
  const now = (state, from = 0) =>
    bob.until(state, () => bob.presences.slice(from).some((one) => one.state === state));
  tab.show(true);
  await now("hidden");
  const seen = bob.presences.length;
  tab.show(false);
  await now("active", seen);
  // A connection that begins in a hidden tab says so.
  tab.show(true);
  ada.drop();
  await ada.ready(2);
  await bob.until("hidden again", () => bob.presences.at(-1).state === "hidden");
  const before = bob.presences.length;
  bob.drop();
  await bob.ready(2);
  await bob.until("the record anew", () => bob.presences.length > before);
  await ada.client.setStatus("in a duel");
  await bob.until("the status", () => bob.presences.at(-1).status === "in a duel");
  assert.ok((await bob.client.players({ limit: 200 })).players.length >= 2);
  assert.deepEqual(heard.slice(1), bob.presences);
  stop();
  tab.show(false);
  await ada.settle();
  await bob.settle();
  assert.deepEqual(heard.slice(1), bob.presences);
});

test("a stock client and this one understand each other", async () => {
  const ada = await player();
  const stock = new Client({ guest: true });
  await stock.ready();
  await ada.client.send(stock.trueId, 1);
  assert.deepEqual(await stock.received(1), [1]);
  await stock.send(ada.client.trueId, 2);
  assert.deepEqual(await ada.received(1), [2]);
});

test("a handler may close the client, whatever it hears", async () => {
  for (const event of ["state", "session", "message"]) {
    const ada = new Player();
    ada.client.on(event, () => ada.client.close());
    ada.client.on("session", ({ true_id: trueId }) => ada.client.send(trueId, 1).catch(() => {}));
    await ada.until("the end", () => ada.client.state === "closed");
    assert.equal(ada.client.socket, null);
  }
});

test("handlers can be taken back", async () => {
  const ada = await player();
  const heard = [];
  const note = (name) => () => heard.push(name);
  const [on, once, off] = [note("on"), note("once"), note("off")];
  ada.client.on("message", on);
  ada.client.once("message", once);
  ada.client.once("message", off);
  ada.client.off("message", off);
  const stop = ada.client.on("message", note("stopped"));
  stop();
  await ada.client.send(ada.client.trueId, 1);
  await ada.client.send(ada.client.trueId, 2);
  await ada.received(2);
  assert.deepEqual(heard, ["on", "once", "on"]);
});
