import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeStorage, judging, Player, player } from "./client_helpers.mjs";
import { control, PASSWORD_LOGIN, range } from "./helpers.mjs";

test("goaway: clients are sent away with different delays, and none is back too early", async () => {
  const all = await Promise.all(range(1, 8).map(() => player({ storage: new FakeStorage() })));
  const came = all.map((one) => one.until("goaway", () => one.goaways[0] && Date.now()));
  await control("terminate");
  const told = await Promise.all(came);
  const delays = all.map(({ goaways: [{ reconnect_in: seconds }] }) => seconds);
  assert.ok(new Set(delays).size > 1, `${delays}`);
  await control("wait");
  await control("start");
  await Promise.all(
    all.map(async (one, index) => {
      await one.ready(2);
      const waited = Date.now() - told[index];
      assert.ok(waited >= delays[index] * 1000 - 20, `${waited} ms, not ${delays[index]} s`);
      assert.equal(one.sessions[1].outcome, "resumed");
      assert.equal(one.goaways.length, 1);
    }),
  );
});

test("a connect that is refused for now is tried again after `retry_after`, not before", async () => {
  const login = () => player({ auth: PASSWORD_LOGIN, storage: new FakeStorage() });
  const all = [];
  for (const _ of range(1, 4)) all.push(await login());
  const fifth = new Player({ auth: PASSWORD_LOGIN });
  await fifth.until("a refusal", () => fifth.refuseds.length);
  const refused = Date.now();
  const [{ code, reconnect, retryAfter, final }] = fifth.refuseds;
  assert.deepEqual([code, reconnect, final], ["rate_limited", true, false]);
  assert.ok(retryAfter > 0);
  all[0].client.close();
  await fifth.until("the session", () => fifth.sessions.length, retryAfter * 1200 + 15_000);
  assert.ok(Date.now() - refused >= retryAfter * 1000 - 20);
  assert.equal(fifth.refuseds.length, 1);
  assert.equal(fifth.client.trueId, all[1].client.trueId);
});

test("an ack that is lost costs no double, and the queue goes on", async () => {
  let lost = 0;
  const dropped = [];
  const ada = await player({
    io: judging((event, { data }) => {
      if (event !== "message" || lost >= 3 || dropped.includes(data)) return null;
      lost += 1;
      dropped.push(data);
      // It is sent, and the connection ends before the ack is there.
      const sent = ada.client.socket.emit("message", { target_id: bob.client.trueId, data, id: `id-${data}` });
      assert.ok(sent);
      setTimeout(() => ada.drop());
      return Promise.reject(new Error("no ack"));
    }),
  });
  const bob = await player();
  const receipts = await Promise.all(
    range(1, 6).map((n) => ada.client.send(bob.client.trueId, n, { id: `id-${n}` })),
  );
  await bob.received(6);
  await bob.settle();
  assert.deepEqual(bob.data, range(1, 6));
  assert.deepEqual(dropped, [1, 2, 3]);
  assert.deepEqual(receipts.map(({ duplicate }) => duplicate), [true, true, true, false, false, false]);
});
