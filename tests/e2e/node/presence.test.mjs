import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, guest } from "./helpers.mjs";

test("a watcher sees a player come, hide, lose the connection, return and leave", async () => {
  const watcher = await guest("Watcher");
  const player = await guest("Ada");
  const { true_id: trueId, token } = player.session;
  const answer = await watcher.ask("presence_watch", { true_ids: [trueId, "p_nobody"] });
  assert.equal(answer.ok, true);
  assert.equal(answer.presence[trueId].state, "active");
  assert.equal(answer.presence[trueId].connections, 1);
  assert.equal(answer.presence.p_nobody.state, "offline");

  const states = () => watcher.presences.map(({ state }) => state);
  const reached = (...wanted) =>
    watcher.until(wanted.join(), () => states().length >= wanted.length).then(() => {
      assert.deepEqual(states(), wanted);
    });
  assert.deepEqual(await player.ask("presence_set", { state: "hidden" }), { ok: true });
  await reached("hidden");
  await player.ask("presence_set", { state: "active", status: "in a match" });
  await reached("hidden", "active");
  assert.equal(watcher.presences[1].status, "in a match");
  player.close();
  await reached("hidden", "active", "away");
  const back = new Client({ token });
  await back.ready();
  await reached("hidden", "active", "away", "active");
  back.close();
  await reached("hidden", "active", "away", "active", "away", "offline");
  assert.equal(watcher.presences.at(-1).connections, 0);
  assert.ok(watcher.presences.every((presence) => presence.true_id === trueId));

  const again = new Client({ token: back.session.token });
  await again.ready();
  await reached("hidden", "active", "away", "active", "away", "offline", "active");
  await watcher.ask("presence_unwatch", { true_ids: [trueId] });
  await again.ask("logout", {});
  await watcher.settle();
  assert.equal(states().length, 7);
});

test("players are listed while they are here", async () => {
  const player = await guest("Ada");
  const other = await guest("Bob");
  const list = async () => (await other.ask("players", { limit: 200 })).players;
  const found = (await list()).find(({ true_id: trueId }) => trueId === player.trueId);
  assert.equal(found.name, "Ada");
  await player.ask("logout", {});
  assert.ok(!(await list()).some(({ true_id: trueId }) => trueId === player.trueId));
});
