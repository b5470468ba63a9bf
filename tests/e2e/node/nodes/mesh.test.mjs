/** Stock clients behind a proxy that sends each request to any node; GATEWAY_TRANSPORTS says how. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { control, guest, range } from "../helpers.mjs";

const TRANSPORTS = process.env.GATEWAY_TRANSPORTS.split(",");
const PLAYERS = 6;
const MESSAGES = Number(process.env.GATEWAY_MESSAGES);
/** What befalls the nodes meanwhile, such as "terminate-0,wait-0,start-0". */
const EVENTS = process.env.GATEWAY_EVENTS ? process.env.GATEWAY_EVENTS.split(",") : [];
const WAIT_MS = 60_000;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

test("players at any node write to each other: nothing is lost, doubled or out of order", async () => {
  const players = await Promise.all(
    range(1, PLAYERS).map((n) =>
      guest(`Player ${n}`, { transports: TRANSPORTS, retries: 10_000, ackTimeout: 5000 }),
    ),
  );
  if (TRANSPORTS.length > 1) {
    const upgraded = (client) => () => client.engine?.transport.name === "websocket";
    for (const client of players) {
      client.socket.io.engine.on("upgrade", () => client.look());
      await client.until("the upgrade", upgraded(client));
    }
  }
  const ids = players.map(({ trueId }) => trueId);
  assert.equal(new Set(ids).size, PLAYERS);

  let sent = 0;
  const events = (async () => {
    for (const [index, event] of EVENTS.entries()) {
      // Spread over the traffic; nothing else happens at a time of its own.
      while (sent < (MESSAGES * PLAYERS * (index + 1)) / (EVENTS.length + 2)) await pause(5);
      await control(event);
    }
  })();
  const all = Promise.all(
    players.map(async (client, sender) => {
      const receipts = [];
      for (const n of range(0, MESSAGES - 1)) {
        const target = (sender + 1 + (n % (PLAYERS - 1))) % PLAYERS;
        const payload = { target_id: ids[target], data: { sender, n }, id: `n${n}` };
        receipts.push(
          new Promise((resolve, reject) => {
            client.socket.emit("message", payload, (error, answer) => {
              sent += 1;
              if (error) reject(error);
              else resolve({ sender, target, n, answer });
            });
          }),
        );
        if (n % 5 === 4) await receipts.at(-1);
      }
      return Promise.all(receipts);
    }),
  );
  const receipts = (await all).flat();
  await events;
  for (const { answer } of receipts) assert.equal(answer.ok, true, JSON.stringify(answer));

  for (const [target, client] of players.entries()) {
    const wanted = receipts.filter((receipt) => receipt.target === target).length;
    await client.until("all messages", () => client.messages.length >= wanted, WAIT_MS);
    const mark = { mark: target };
    const marked = new Promise((resolve) => {
      const payload = { target_id: ids[target], data: mark, id: `mark ${target}` };
      client.socket.emit("message", payload, resolve);
    });
    assert.equal(await marked, null);
    await client.until("the mark", () => client.data.at(-1)?.mark === target, WAIT_MS);
    assert.equal(client.messages.length, wanted + 1);
    for (const sender of players.keys()) {
      const got = client.data.filter((data) => data.sender === sender).map(({ n }) => n);
      const right = receipts.filter((r) => r.sender === sender && r.target === target);
      assert.deepEqual(got, right.map(({ n }) => n), `from ${sender} to ${target}`);
    }
    const messages = client.messages.map(({ envelope }) => envelope.id);
    assert.equal(new Set(messages).size, messages.length);
    assert.ok(client.sessions.every((session) => session.true_id === ids[target]));
    // Nobody was thrown out for being sent to and fro.
    if (!EVENTS.length) assert.deepEqual(client.disconnects, []);
    assert.ok(client.connects.slice(1).every(({ recovered }) => recovered));
  }
  const returns = players.reduce((sum, { connects }) => sum + connects.length - 1, 0);
  console.log(`${receipts.length} messages, ${returns} returns`);
});
