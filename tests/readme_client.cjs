// Runs the README's browser example in Node: two tabs of two players, then a reload.
// Arguments: the example's file, the gateway's URL, the stock client's directory.
const assert = require("node:assert/strict");
const { once, EventEmitter } = require("node:events");
const fs = require("node:fs");
const vm = require("node:vm");

const [example, url, clientPath] = process.argv.slice(2);
const source = fs.readFileSync(example, "utf8");
// The stock client reads the page's address where it is called without one.
globalThis.location = new URL(url);
const { io } = require(clientPath);

class Storage extends Map {
  getItem(key) { return this.has(key) ? this.get(key) : null; }
  setItem(key, value) { this.set(key, String(value)); }
}

/** A page with the example as its script; `printed` emits what it logs. */
function openTab(sessionStorage) {
  const printed = new EventEmitter();
  const lines = [];
  const console = { log: (...words) => { lines.push(words); printed.emit("line", words); } };
  const context = vm.createContext({ io, sessionStorage, console, setTimeout, location });
  vm.runInContext(source, context);
  const tab = vm.runInContext("({ socket, send })", context);
  const line = async (matches) => {
    for (;;) {
      const found = lines.find(matches);
      if (found) return found;
      await once(printed, "line");
    }
  };
  return { ...tab, lines, line, storage: sessionStorage };
}

const greeting = (words) => words[0] === "I am";
const saying = (text) => (words) => words[1] === "says" && words[2] === text;

async function main() {
  const ada = openTab(new Storage());
  const bob = openTab(new Storage());
  const [, adaId, adaOutcome] = await ada.line(greeting);
  const [, bobId] = await bob.line(greeting);
  assert.equal(adaOutcome, "new");
  assert.notEqual(adaId, bobId);

  const receipt = await ada.send(bobId, "hello", "first");
  assert.deepEqual([receipt.ok, receipt.status, receipt.duplicate], [true, "delivered", false]);
  assert.equal((await ada.send(bobId, "hello", "first")).duplicate, true);
  assert.equal((await bob.line(saying("hello")))[0], adaId);

  // The connection breaks below Socket.IO and comes back by itself, as another socket.
  const socketId = bob.socket.id;
  const back = once(bob.socket, "connect");
  bob.socket.io.engine.close();
  assert.equal((await ada.send(bobId, "are you there?", "second")).ok, true);
  await back;
  assert.notEqual(bob.socket.id, socketId);
  await bob.line(saying("are you there?"));
  assert.ok(bob.lines.filter(greeting).every((words) => words[1] === bobId));

  // A reload: another page with the same sessionStorage.
  bob.socket.disconnect();
  while ((await ada.send(bobId, "anyone?", undefined)).status !== "queued");
  const reloaded = openTab(bob.storage);
  const [, sameId, outcome] = await reloaded.line(greeting);
  assert.deepEqual([sameId, outcome], [bobId, "resumed"]);
  await reloaded.line(saying("anyone?"));
  assert.equal((await reloaded.send(adaId, "here I am")).ok, true);
  await ada.line(saying("here I am"));
  for (const text of ["hello", "are you there?"]) {
    assert.equal(bob.lines.filter(saying(text)).length, 1, text);
    assert.equal(reloaded.lines.filter(saying(text)).length, 0, text);
  }

  // A token that is worthless: the page starts anew.
  reloaded.socket.disconnect();
  reloaded.storage.setItem("token", "rubbish");
  const anew = openTab(reloaded.storage);
  const [, newId, newOutcome] = await anew.line(greeting);
  assert.notEqual(newId, bobId);
  assert.equal(newOutcome, "new");
  for (const tab of [ada, anew]) tab.socket.disconnect();
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
