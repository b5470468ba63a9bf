// Runs the README's example of the client module in Node: two pages, then a reload of the second.
// Arguments: the example's file, the gateway's URL, the stock client's directory, the directory
// that the gateway serves.
import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [example, url, clientPath, served] = process.argv.slice(2);
globalThis.io = createRequire(import.meta.url)(clientPath).io;
globalThis.location = new URL(url);

class Storage {
  items = new Map();
  getItem(key) { return this.items.get(key) ?? null; }
  setItem(key, value) { this.items.set(key, value); }
  removeItem(key) { this.items.delete(key); }
}

let pages = 0;

/** A page with the example as its script, and the lines that it logs. */
async function open(sessionStorage = new Storage()) {
  pages += 1;
  const window = Object.assign(new EventTarget(), { sessionStorage, location });
  const page = { window, sessionStorage, lines: [], printed: new EventEmitter() };
  const module = pathToFileURL(path.join(served, "client", "gateway.js"));
  const source = (await readFile(example, "utf8")).replace('"/client/gateway.js"', `"${module}"`);
  const script = `${example}.${pages}.mjs`;
  await writeFile(script, `const console = globalThis.page${pages};\n${source}`);
  globalThis[`page${pages}`] = {
    log: (...words) => {
      page.lines.push(words);
      page.printed.emit("line");
    },
  };
  globalThis.window = window;
  await import(pathToFileURL(script));
  return page;
}

async function line(page, matches) {
  for (;;) {
    const found = page.lines.find(matches);
    if (found) return found;
    await once(page.printed, "line");
  }
}

const greeting = (words) => words[0] === "I am";
const move = (from) => (words) => words[0] === from && words[2]?.move === "e4";
const hello = (from) => (words) => words[0] === from && words[2] === "hello";

const ada = await open();
const [, adaId, outcome] = await line(ada, greeting);
assert.equal(outcome, "new");
const bob = await open();
const [, bobId] = await line(bob, greeting);
assert.notEqual(adaId, bobId);
await line(ada, (words) => words[0] === bobId && words[1] === "joined, now");
for (const page of [ada, bob]) assert.equal((await line(page, move(bobId))).at(-1), "to all");
assert.equal((await line(ada, hello(bobId))).at(-1), "to me");
await line(bob, (words) => words[0] === adaId && words[1] === "is");
for (const page of [ada, bob]) {
  await line(page, (words) => words[0] === bobId && String(words[2]) === "3,4");
}

// A reload: the same player, who is a member already.
bob.window.dispatchEvent(new Event("pagehide"));
const again = await open(bob.sessionStorage);
assert.deepEqual((await line(again, greeting)).slice(1), [bobId, "resumed"]);
await line(again, move(bobId));
assert.equal(ada.lines.filter((words) => words[1] === "joined, now").length, 1);
process.exit(0);
