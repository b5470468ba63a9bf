import assert from "node:assert/strict";
import { test } from "node:test";
import { generator, guest, Proxy, range } from "./helpers.mjs";

const PLAYERS = 5;
const MESSAGES = 200;
const SEED = 20_240_607;

test("a mesh of players whose connections drop at random loses and doubles nothing", async () => {
  const random = generator(SEED);
  const players = [];
  for (const n of range(1, PLAYERS)) {
    const proxy = await Proxy.start();
    const client = await guest(`Player ${n}`, { url: proxy.url, retries: 10_000, ackTimeout: 1000 });
    players.push({ client, proxy, id: client.trueId });
  }

  let drops = 0;
  /** Each way a link can end: in the page, on the way, or silently. */
  const ways = [
    ({ client }) => client.drop(),
    ({ proxy }) => proxy.cut(),
    ({ client, proxy }) => {
      proxy.stall();
      client.drop();
    },
  ];
  let busy = true;
  const chaos = players.map(async (player) => {
    while (busy) {
      await new Promise((resolve) => setTimeout(resolve, 10 + random() * 60));
      if (!busy || !player.client.socket.connected) continue;
      drops += 1;
      ways[Math.floor(random() * ways.length)](player);
    }
  });

  const receipts = await Promise.all(
    players.flatMap(({ client }, sender) =>
      range(0, MESSAGES - 1).map(
        (n) =>
          new Promise((resolve, reject) => {
            const step = 1 + Math.floor(random() * (PLAYERS - 1));
            const target = (sender + step) % PLAYERS;
            const payload = { target_id: players[target].id, data: { sender, n }, id: `n${n}` };
            client.socket.emit("message", payload, (error, answer) => {
              if (error) reject(error);
              else resolve({ sender, target, n, answer });
            });
          }),
      ),
    ),
  );
  busy = false;
  await Promise.all(chaos);
  for (const { answer } of receipts) assert.equal(answer.ok, true, JSON.stringify(answer));

  const connected = ({ client }) => client.until("the return", () => client.socket.connected);
  await Promise.all(players.map(connected));
  for (const [target, { client, id }] of players.entries()) {
    const mark = `mark ${target}`;
    const sent = new Promise((resolve) => {
      client.socket.emit("message", { target_id: id, data: mark, id: mark }, resolve);
    });
    assert.equal(await sent, null);
    await client.until("the mark", () => client.data.includes(mark));
    assert.equal(client.data.at(-1), mark);
    for (const sender of players.keys()) {
      const got = client.data.filter((data) => data.sender === sender).map(({ n }) => n);
      const wanted = receipts.filter((r) => r.sender === sender && r.target === target).map(({ n }) => n);
      assert.deepEqual(got, wanted, `from ${sender} to ${target}`);
    }
    const ids = client.messages.map(({ envelope }) => envelope.id);
    assert.equal(new Set(ids).size, ids.length);
    assert.ok(client.sessions.every((session) => session.true_id === id));
    assert.ok(client.connects.slice(1).every(({ recovered }) => recovered));
  }
  assert.ok(drops >= 3 * PLAYERS, `only ${drops} drops`);
  console.log(`${receipts.length} messages, ${drops} drops`);
});
