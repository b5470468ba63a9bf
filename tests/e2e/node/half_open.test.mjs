import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { Client, guest, Proxy, range } from "./helpers.mjs";

test("a new connection takes over at once from one that has stalled", async () => {
  const proxy = await Proxy.start();
  const player = await guest("Ada", { url: proxy.url });
  const other = await guest("Bob");
  await other.send(player.trueId, 1);
  await player.received(1);

  const old = proxy.stall();
  assert.equal(old.length, 1);
  for (const n of range(2, 4)) {
    const receipt = await other.send(player.trueId, n);
    assert.equal(receipt.status, "delivered", "the gateway cannot know yet");
  }
  const started = Date.now();
  player.drop();
  await player.ready(2);
  assert.ok(Date.now() - started < 2000, "the heartbeat would have taken 45 s");
  await player.settle();
  assert.deepEqual(player.data, [1, 2, 3, 4]);
  assert.equal(player.socket.recovered, true);
  assert.equal(player.session.connections, 1);

  // The old one ends late, and nobody minds.
  proxy.cut(old);
  const receipt = await other.send(player.trueId, 5);
  assert.deepEqual([receipt.status, receipt.connections], ["delivered", 1]);
  await player.settle();
  assert.deepEqual(player.data, [1, 2, 3, 4, 5]);
  assert.equal(player.disconnects.length, 1);
});

test("a client that had received nothing loses nothing in a stalled link", async () => {
  const proxy = await Proxy.start();
  const player = await guest("Ada", { url: proxy.url });
  const other = await guest("Bob");
  proxy.stall();
  for (const n of range(1, 3)) await other.send(player.trueId, n);
  player.drop();
  await player.ready(2);
  await player.settle();
  assert.deepEqual(player.data, [1, 2, 3]);
});

test("a token takes over from a stalled link once the probe went unanswered", async () => {
  const proxy = await Proxy.start();
  const player = await guest("Ada", { url: proxy.url, reconnection: false });
  const other = await guest("Bob");
  const { token, session_id: sessionId, true_id: trueId } = player.session;
  const old = proxy.stall();
  await other.send(trueId, 1);
  const after = new Client({ token });
  await after.ready();
  assert.equal(after.session.session_id, sessionId);
  assert.equal(after.session.resumed, true);
  assert.equal(after.session.connections, 1);
  await after.settle();
  assert.deepEqual(after.data, [1]);
  proxy.cut(old);
  await other.send(trueId, 2);
  await after.settle();
  assert.deepEqual(after.data, [1, 2]);
  assert.deepEqual(after.disconnects, []);
});

test("the gateway closes the old link, and its client learns of it when it can", async () => {
  const proxy = await Proxy.start();
  const player = await guest("Ada", { url: proxy.url });
  const [link] = proxy.stall();
  player.drop();
  const ended = once(link.far, "close");
  await player.ready(2);
  // What the gateway says on the old link goes nowhere; it hangs up on it all the same.
  await Promise.race([
    ended,
    new Promise((_, reject) => setTimeout(reject, 12_000, new Error("still open")).unref()),
  ]);
  assert.equal(player.socket.connected, true);
});
