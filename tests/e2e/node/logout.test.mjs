import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, guest, PASSWORD_LOGIN } from "./helpers.mjs";

test("logout ends this session and no other", async () => {
  const first = await guest("Ada");
  const second = new Client({ token: first.session.token });
  await second.ready();
  assert.deepEqual(await first.ask("logout", {}), { ok: true });
  await first.until("the end", () => first.disconnects.length);
  assert.equal(first.disconnects[0], "io server disconnect");
  assert.equal(first.socket.active, false, "a stock client does not come back by itself");
  const late = new Client({ token: first.session.token });
  assert.equal((await late.refused()).code, "session_revoked");
  assert.equal((await second.send(second.trueId, "still here")).connections, 1);
  assert.deepEqual(await second.received(1), ["still here"]);
});

test("the pid of a session that was logged out is worth nothing", async () => {
  const player = await guest("Ada");
  const pid = player.socket._pid;
  assert.ok(pid);
  await player.ask("logout", {});
  await player.until("the end", () => player.disconnects.length);
  const late = new Client({ pid });
  const { code } = await late.refused();
  assert.ok(["session_revoked", "token_expired"].includes(code), code);
});

test("logout everywhere ends all sessions of the player", async () => {
  const clients = [];
  for (const _ of [1, 2, 3]) {
    const client = new Client(PASSWORD_LOGIN);
    await client.ready();
    clients.push(client);
  }
  const stranger = await guest("Bob");
  assert.deepEqual(await clients[0].ask("logout", { everywhere: true }), { ok: true });
  for (const client of clients) {
    await client.until("the end", () => client.disconnects.length);
    assert.equal(client.disconnects[0], "io server disconnect");
    const late = new Client({ token: client.session.token });
    assert.equal((await late.refused()).code, "session_revoked");
  }
  assert.equal(stranger.socket.connected, true);
  const back = new Client(PASSWORD_LOGIN);
  await back.ready();
  assert.equal(back.trueId, clients[0].trueId, "the player stays");
});
