import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, eventually, guest, PASSWORD_LOGIN } from "./helpers.mjs";

for (const [how, transports, final] of [
  ["websocket", ["websocket"], "websocket"],
  ["polling", ["polling"], "polling"],
  ["polling with upgrade", ["polling", "websocket"], "websocket"],
]) {
  test(`a guest joins and talks by ${how}`, async () => {
    const client = new Client({ guest: true, name: "Ada" }, { transports });
    client.socket.io.on("open", () => client.engine.on("upgrade", () => client.look()));
    const session = await client.ready();
    await client.until("the upgrade", () => client.engine.transport.name === final);
    assert.match(session.true_id, /^p_/);
    assert.equal(session.name, "Ada");
    assert.equal(session.outcome, "new");
    assert.equal(session.resumed, false);
    assert.equal(session.missed, 0);
    assert.equal(session.gap, null);
    assert.equal(session.connections, 1);
    assert.ok(session.token);
    const receipt = await client.send(session.true_id, { hello: "world" });
    assert.equal(receipt.status, "delivered");
    await client.received(1);
    const [{ envelope, rest }] = client.messages;
    assert.deepEqual(envelope.data, { hello: "world" });
    assert.equal(envelope.from, session.true_id);
    assert.equal(envelope.id, receipt.id);
    assert.deepEqual(rest, [receipt.id], "the id is repeated as the client's offset");
  });
}

test("recovery: false leaves out the offset", async () => {
  const client = new Client({ guest: true, name: "Plain", recovery: false });
  await client.ready();
  await client.send(client.trueId, 1);
  await client.received(1);
  assert.deepEqual(client.messages[0].rest, []);
  assert.ok(client.messages[0].envelope.id);
  await client.send(client.trueId, 2);
  assert.deepEqual(await client.received(2), [1, 2]);
  client.drop();
  await client.ready(2);
  assert.equal(client.session.resumed, true);
  await client.settle();
  assert.deepEqual([...new Set(client.data)].slice(0, 2), [1, 2], "at least once");
});

test("two connections of a player both get its messages", async () => {
  const first = new Client(PASSWORD_LOGIN);
  await first.ready();
  const second = new Client(PASSWORD_LOGIN);
  await second.ready();
  assert.equal(first.trueId, second.trueId);
  assert.notEqual(first.session.session_id, second.session.session_id);
  assert.equal(second.session.connections, 2);
  const other = await guest("Other");
  const receipt = await other.send(first.trueId, "both");
  assert.equal(receipt.connections, 2);
  assert.deepEqual(await first.received(1), ["both"]);
  assert.deepEqual(await second.received(1), ["both"]);
  assert.equal(first.messages[0].envelope.id, second.messages[0].envelope.id);
  second.socket.disconnect();
  await eventually(
    () => other.send(first.trueId, "one", { id: "one" }),
    ({ connections }) => connections === 1,
  );
  assert.deepEqual(await first.received(2), ["both", "one"]);
});

test("a copied token of a live session gives a session of its own", async () => {
  const first = await guest("Twin");
  const second = new Client({ token: first.session.token });
  await second.ready();
  assert.equal(second.trueId, first.trueId);
  assert.notEqual(second.session.session_id, first.session.session_id);
  assert.equal(second.session.resumed, false);
  assert.equal(second.session.connections, 2);
  assert.deepEqual(first.disconnects, []);
  assert.equal((await first.send(first.trueId, "hi")).connections, 2);
  assert.deepEqual(await first.received(1), ["hi"]);
  assert.deepEqual(await second.received(1), ["hi"]);
});

test("refusals have a code, and say whether to come again", async (t) => {
  const player = await guest("Refused");
  const cases = {
    "nothing": [{}, "bad_credentials"],
    "a wrong password": [{ ...PASSWORD_LOGIN, password: "wrong" }, "bad_credentials"],
    "an unknown user": [{ username: "nobody", password: "wrong" }, "bad_credentials"],
    "a key of the wrong type": [{ token: 7 }, "bad_credentials"],
    "a token that is none": [{ token: "rubbish" }, "token_invalid"],
    "a token with one letter changed": [{ token: `x${player.session.token}` }, "token_invalid"],
    "a method that is off": [{ jwt: "a.b.c" }, "unsupported"],
  };
  for (const [what, [auth, code]] of Object.entries(cases)) {
    await t.test(what, async () => {
      const client = new Client(auth);
      const data = await client.refused();
      assert.equal(data.code, code);
      assert.equal(data.reconnect, false);
      assert.ok(client.refusals[0].message);
      assert.deepEqual(client.sessions, []);
      client.close();
    });
  }
});

test("a token that was used twice revokes its session", async () => {
  const first = await guest("Copied");
  const { token, session_id: sessionId } = first.session;
  let auth = { token };
  first.close();
  const second = new Client((present) => present(auth));
  await second.ready();
  assert.equal(second.session.session_id, sessionId);
  auth = { token: second.session.token };
  second.close();
  const third = new Client(auth);
  await third.ready();
  assert.equal(third.session.session_id, sessionId);
  const thief = new Client({ token });
  assert.equal((await thief.refused()).code, "token_reused");
  await third.until("the end of the session", () => third.disconnects.length);
  assert.equal(third.disconnects[0], "io server disconnect");
  const late = new Client({ token: third.session.token });
  assert.equal((await late.refused()).code, "session_revoked");
});

test("a player has so many connections and no more", async () => {
  const player = await guest("Many");
  const { token } = player.session;
  for (const n of [2, 3, 4]) {
    const tab = new Client({ token });
    assert.equal((await tab.ready()).connections, n);
  }
  const tooMuch = new Client({ token });
  const data = await tooMuch.refused();
  assert.equal(data.code, "rate_limited");
  assert.equal(data.reconnect, true);
  assert.ok(data.retry_after > 0);
});
