import assert from "node:assert/strict";
import { test } from "node:test";
import { KEYS, TabStore } from "../../../gateway/static/ui/store.js";
import { FakeStorage } from "./client_helpers.mjs";

class Tab extends TabStore {
  constructor(shared, copied) {
    super(new FakeStorage(copied?.storage), shared);
  }
}

const total = ({ items }) => [...items].flat().join("").length;

test("what may be large leaves room for the token where Firefox counts characters", () => {
  const tab = new Tab(new FakeStorage());
  tab.write(KEYS.chat, ["x".repeat(5000)]);
  tab.write(KEYS.ledger, { state: "y".repeat(5000) });
  tab.write(KEYS.place, { true_id: "p_1", x: 1, y: 2 });
  assert.ok(total(tab.storage) < 200);
});

test("a tab that is loaded again finds everything, whatever it writes first", () => {
  const shared = new FakeStorage();
  let tab = new Tab(shared);
  tab.write(KEYS.chat, ["hello"]);
  tab.write(KEYS.ledger, { whole: true });
  for (const n of [1, 2, 3]) {
    tab = new Tab(shared, tab);
    tab.write(KEYS.chat, [...tab.read(KEYS.chat, []), n]);
    assert.deepEqual(tab.read(KEYS.ledger, null), { whole: true });
  }
  assert.deepEqual(tab.read(KEYS.chat, []), ["hello", 1, 2, 3]);
});

test("a duplicated tab starts with a copy, and neither reads what the other writes", () => {
  const shared = new FakeStorage();
  const tab = new Tab(shared);
  tab.write(KEYS.chat, ["both"]);
  const copy = new Tab(shared, tab);
  assert.deepEqual(copy.read(KEYS.chat, []), ["both"]);
  // What it forgets is not the other's.
  copy.write(KEYS.chat, null);
  assert.deepEqual(copy.read(KEYS.chat, []), []);
  assert.deepEqual(tab.read(KEYS.chat, []), ["both"]);
  copy.write(KEYS.chat, ["copy"]);
  tab.write(KEYS.chat, ["tab"]);
  assert.deepEqual(new Tab(shared, copy).read(KEYS.chat, []), ["copy"]);
  assert.deepEqual(new Tab(shared, tab).read(KEYS.chat, []), ["tab"]);
  copy.clear();
  assert.deepEqual(tab.read(KEYS.chat, []), ["tab"]);
  tab.clear();
  assert.deepEqual(tab.read(KEYS.chat, []), []);
  assert.equal(tab.storage.length, 0);
});

test("what closed tabs have left is bounded", () => {
  const shared = new FakeStorage();
  for (let n = 0; n < 100; n += 1) new Tab(shared).write(KEYS.chat, [n]);
  assert.ok(shared.length < 20);
});

test("without storage it remembers as long as the page lives", () => {
  const tab = new TabStore(null, null);
  tab.write(KEYS.chat, ["hello"]);
  tab.write(KEYS.place, 1);
  assert.deepEqual([tab.read(KEYS.chat, []), tab.read(KEYS.place, 0)], [["hello"], 1]);
  tab.clearAll();
  assert.deepEqual(tab.read(KEYS.chat, []), []);
});
