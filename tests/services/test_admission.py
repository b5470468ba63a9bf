"""CONNECT, as PROTOCOL 1.1 and 1.2 have it: who gets in, as whom, and what they missed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest

from gateway.connect_request import ConnectRequest
from gateway.errors import ConnectRefused
from gateway.messages import SessionId, TrueId
from gateway.session import Session
from gateway.store import Ban
from tests.services.world import (
    GRACE,
    INTERVAL,
    LIFETIME,
    SETTLE,
    Client,
    Gate,
    World,
    scenario,
    settled,
)

ACCOUNT = TrueId("acc-ann")


# What the payload may be


@pytest.mark.parametrize(
    ("auth", "message"),
    [
        ([], "auth must be an object"),
        ("token", "auth must be an object"),
        (7, "auth must be an object"),
        ({"token": 7}, "auth.token must be a string"),
        ({"token": ["a"]}, "auth.token must be a string"),
        ({"pid": {}}, "auth.pid must be a string"),
        ({"offset": 12}, "auth.offset must be a string"),
        ({"recovery": "no"}, "auth.recovery must be true or false"),
        ({"recovery": None}, "auth.recovery must be true or false"),
    ],
)
@scenario
async def test_a_wrong_type_is_refused_by_its_key(auth: object, message: str) -> None:
    error = await World().refused(auth)
    assert (error.code, error.message, error.reconnect) == ("bad_credentials", message, False)


def test_a_payload_is_split_into_resumption_and_credentials() -> None:
    request = ConnectRequest.parse(
        {"token": "t", "pid": None, "offset": "o", "recovery": False, "guest": True, "x": 1},
        "192.0.2.1",
    )
    assert request == ConnectRequest("t", None, "o", False, {"guest": True, "x": 1}, "192.0.2.1")
    assert ConnectRequest.parse(None, "") == ConnectRequest(None, None, None, True, {}, "")


@pytest.mark.parametrize("auth", [None, {}, {"name": "Ann"}, {"offset": "e1.1.1"}])
@scenario
async def test_without_credentials_nobody_gets_in(auth: object) -> None:
    world = World()
    assert (await world.refused(auth)).code == "bad_credentials"
    assert world.metric("refused_connects", "bad_credentials") == 1


@scenario
async def test_a_refusal_says_what_programs_need() -> None:
    error = await World().refused({"guest": "yes"})
    assert error.payload() == {
        "message": error.message,
        "data": {"code": "bad_credentials", "reconnect": False, "retry_after": None},
    }


# A new player


@scenario
async def test_a_guest_is_greeted_with_all_the_protocol_promises() -> None:
    world = World(message_bytes=1000)
    client = await world.guest("Ann")
    assert client.greeting == {
        "true_id": "e1-g1",
        "session_id": "e1-s1",
        "name": "Ann",
        "attributes": {},
        "token": client.token,
        "token_expires_in": LIFETIME,
        "resumed": False,
        "outcome": "new",
        "missed": 0,
        "gap": None,
        "connections": 1,
        "limits": {"message_bytes": 1000},
    }
    token = world.tokens.verify_token(client.token)
    assert (token.true_id, token.session_id, token.generation, token.epoch, token.name) == (
        "e1-g1",
        "e1-s1",
        1,
        "e1",
        "Ann",
    )
    pid = world.tokens.verify_pid(client.pid)
    assert pid is not None
    assert (pid.true_id, pid.session_id) == ("e1-g1", "e1-s1")
    assert world.metric("resumes", "new") == 1


@scenario
async def test_every_guest_is_another_player() -> None:
    world = World()
    assert (await world.guest()).true_id != (await world.guest()).true_id


# By pid


@scenario
async def test_a_pid_and_an_offset_resume_after_that_message() -> None:
    world = World()
    first = await world.guest()
    world.write(first, "a", "b")
    offset = first.messages[0]["id"]
    first.lose()
    world.write(first, "c")
    second = await world.connect(pid=first.pid, offset=offset)
    assert second.resumed == (True, "resumed", 2, None)
    assert second.data == ["b", "c"]
    assert (second.true_id, second.session_id) == (first.true_id, first.session_id)
    assert second.pid == first.pid
    world.write(first, "d")
    assert second.data == ["b", "c", "d"]


@scenario
async def test_a_pid_without_offset_replays_from_the_start_of_the_session() -> None:
    world = World()
    first = await world.guest()
    world.write(first, "a", "b")
    first.heartbeat()
    first.lose()
    second = await world.connect(pid=first.pid)
    assert second.resumed == (True, "resumed", 2, None)
    assert second.data == ["a", "b"]


@scenario
async def test_a_pid_of_a_client_without_offsets_replays_from_what_was_confirmed() -> None:
    world = World()
    first = await world.connect(guest=True, recovery=False)
    world.write(first, "a", "b")
    first.heartbeat()
    world.write(first, "c")
    first.lose()
    second = await world.connect(pid=first.pid, recovery=False)
    assert second.data == ["c"]


@scenario
async def test_a_pid_wins_over_stale_credentials() -> None:
    world = World()
    first = await world.guest()
    first.lose()
    for stale in (
        {"guest": True},
        {"guest": "nonsense"},
        {"username": "ann", "password": "wrong"},
        {"token": "rubbish"},
        {"token": first.token},
    ):
        client = await world.connect(pid=first.pid, **stale)
        assert (client.true_id, client.greeting["resumed"]) == (first.true_id, True)


@scenario
async def test_a_pid_wins_over_an_expired_token() -> None:
    world = World()
    first = await world.guest()
    world.clock.now += LIFETIME + 1
    second = await world.connect(pid=first.pid, token=first.token)
    assert second.session_id == first.session_id
    assert world.tokens.verify_token(second.token).issued_at == world.clock.now


@scenario
async def test_a_token_of_another_session_wins_over_a_pid() -> None:
    world = World()
    ann, bob = await world.guest("Ann"), await world.guest("Bob")
    ann.lose()
    bob.lose()
    client = await world.connect(pid=ann.pid, token=bob.token)
    assert (client.true_id, client.session_id) == (bob.true_id, bob.session_id)
    assert client.pid == bob.pid


@scenario
async def test_a_token_used_beside_its_pid_does_not_rotate() -> None:
    world = World()
    first = await world.guest()
    for _ in range(3):
        client = await world.connect(pid=first.pid, token=first.token)
        assert world.tokens.verify_token(client.token).generation == 1
    client.lose()
    assert (await world.connect(token=first.token)).session_id == first.session_id


@scenario
async def test_a_pid_of_an_unknown_session_falls_back_to_credentials() -> None:
    world = World()
    pid = world.tokens.sign_pid(TrueId("old"), SessionId("gone"))
    client = await world.connect(pid=pid, offset="e0.3.n", guest=True, name="Bob")
    assert client.greeting["name"] == "Bob"
    assert client.true_id != "old"
    assert client.pid != pid
    assert client.resumed == (False, "new", 0, None)


@scenario
async def test_a_pid_of_an_unknown_session_falls_back_to_its_token() -> None:
    world = World()
    first = await world.guest()
    client = await world.restarted().connect(pid=first.pid, token=first.token, guest=True)
    assert client.true_id == first.true_id
    assert client.greeting["outcome"] == "store_reset"


@scenario
async def test_a_pid_of_an_unknown_session_alone_says_why_it_does_not_help() -> None:
    world = World()
    first = await world.guest()
    assert (await world.restarted().refused({"pid": first.pid})).code == "token_expired"
    first.call("logout")
    await settled()
    assert (await world.refused({"pid": first.pid})).code == "session_revoked"


@pytest.mark.parametrize("pid", ["", "rubbish", "x" * 5000])
@scenario
async def test_a_pid_that_is_none_of_ours_is_ignored(pid: str) -> None:
    world = World()
    assert (await world.connect(pid=pid, guest=True)).greeting["outcome"] == "new"
    assert (await world.refused({"pid": pid})).code == "bad_credentials"


@scenario
async def test_a_pid_takes_over_however_alive_the_old_connection_looks() -> None:
    world = World()
    first = await world.guest()
    world.write(first, "a")
    second = await world.connect(pid=first.pid, offset=first.last_id)
    assert first.closed == ("taken_over", False)
    assert first.pings == 0
    assert second.greeting["connections"] == 1
    assert second.data == []
    assert world.metric("takeovers", "pid") == 1
    world.write(second, "b")
    assert (first.data, second.data) == (["a"], ["b"])


@scenario
async def test_the_late_close_of_a_fenced_connection_changes_nothing() -> None:
    world = World()
    first = await world.guest()
    second = await world.connect(pid=first.pid)
    first.lose()
    first.lose()
    assert list(world.registry.connections_of(first.true_id)) == [second.link]
    assert second.link.session.connection_id == second.link.id
    assert world.look(first.true_id)["connections"] == 1
    assert (await world.connect(pid=first.pid)).greeting["connections"] == 1
    assert second.closed == ("taken_over", False)


@scenario
async def test_what_a_fenced_client_still_sends_is_ignored() -> None:
    world = World()
    first = await world.guest()
    second = await world.connect(pid=first.pid)
    first.emit("message", {"target_id": first.true_id, "data": 1})
    first.emit("logout")
    await settled()
    assert (second.data, second.closed) == ([], None)


@scenario
async def test_presence_does_not_flap_at_a_takeover() -> None:
    world = World()
    watcher = await world.guest("Eve")
    ann = await world.guest()
    watcher.call("presence_watch", {"true_ids": [ann.true_id]})
    for _ in range(3):
        ann = await world.connect(pid=ann.pid)
    ann = await world.connect(token=(await world.connect(pid=ann.pid)).token, pid=ann.pid)
    world.pass_by(SETTLE + INTERVAL)
    assert watcher.payloads("presence") == []
    ann.lose()
    world.pass_by(SETTLE)
    assert [payload["state"] for payload in watcher.payloads("presence")] == ["away"]


# By token


@scenario
async def test_a_token_resumes_after_what_was_confirmed() -> None:
    world = World()
    first = await world.guest()
    world.write(first, "a", "b")
    first.heartbeat()
    world.write(first, "c")
    first.lose()
    world.write(first, "d")
    second = await world.connect(token=first.token)
    assert second.resumed == (True, "resumed", 2, None)
    assert second.data == ["c", "d"]
    assert (second.true_id, second.session_id) == (first.true_id, first.session_id)
    assert second.pid == first.pid


@scenario
async def test_a_token_and_an_offset_resume_after_that_message() -> None:
    world = World()
    first = await world.guest()
    world.write(first, "a", "b", "c")
    first.heartbeat()
    first.lose()
    second = await world.connect(token=first.token, offset=first.messages[0]["id"])
    assert second.data == ["b", "c"]


@scenario
async def test_a_reload_moves_the_start_of_the_session() -> None:
    world = World()
    first = await world.guest()
    world.write(first, "a")
    first.heartbeat()
    first.lose()
    world.write(first, "b")
    second = await world.connect(token=first.token)
    assert second.data == ["b"]
    # The new page's link breaks before anything reached it.
    second.lose()
    assert (await world.connect(pid=second.pid)).data == ["b"]


@scenario
async def test_the_token_rotates_at_every_use() -> None:
    world = World()
    client = await world.guest()
    for generation in (1, 2, 3, 4):
        assert world.tokens.verify_token(client.token).generation == generation
        client.lose()
        client = await world.connect(token=client.token)
        assert client.greeting["outcome"] == "resumed"


@scenario
async def test_the_token_before_the_newest_is_answered_by_the_newest_again() -> None:
    world = World()
    first = await world.guest()
    for _ in range(3):
        # The reply is lost with its link, so the client has nothing but its old token.
        (await world.connect(token=first.token)).lose()
        first.lose()
    client = await world.connect(token=first.token)
    assert world.tokens.verify_token(client.token).generation == 2


async def with_spent_token(world: World) -> tuple[Client, str]:
    """Return a live client, and the token of its session that was spent twice over."""
    client = await world.connect(username="ann")
    spent = client.token
    for _ in range(2):
        client.lose()
        client = await world.connect(token=client.token)
    return client, spent


@scenario
async def test_an_older_token_is_theft_and_ends_the_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    client, spent = await with_spent_token(world)
    error = await world.refused({"token": spent})
    assert (error.code, error.reconnect) == ("token_reused", False)
    assert client.closed == ("token_reused", False)
    assert world.metric("refused_connects", "token_reused") == 1
    assert "token_reused" in caplog.text
    assert client.session_id in caplog.text
    assert spent not in caplog.text
    for auth in ({"token": spent}, {"token": client.token}, {"pid": client.pid}):
        assert (await world.refused(auth)).code == "session_revoked"


@scenario
async def test_theft_ends_no_other_session_of_the_player() -> None:
    world = World()
    other = await world.connect(username="ann")
    client, spent = await with_spent_token(world)
    await world.refused({"token": spent})
    assert client.true_id == other.true_id
    assert other.closed is None
    world.write(other, "a")
    assert other.data == ["a"]
    other.lose()
    assert (await world.connect(token=other.token)).session_id == other.session_id


@pytest.mark.parametrize("token", ["", "rubbish", "a.b.c"])
@scenario
async def test_a_token_that_is_none_of_ours_is_refused_whatever_comes_with_it(token: str) -> None:
    world = World()
    for auth in ({"token": token}, {"token": token, "guest": True}, {"token": token, "pid": "x"}):
        assert (await world.refused(auth)).code == "token_invalid"


@scenario
async def test_an_expired_token_is_refused() -> None:
    world = World()
    client = await world.guest()
    client.lose()
    world.clock.now += LIFETIME + 1
    assert (await world.refused({"token": client.token})).code == "token_expired"


@scenario
async def test_a_token_may_be_used_as_long_as_it_lives() -> None:
    world = World()
    client = await world.guest()
    client.lose()
    world.clock.now += LIFETIME
    assert (await world.connect(token=client.token)).greeting["outcome"] == "resumed"


# The old connection is probed


@scenario
async def test_a_duplicated_tab_gets_a_session_of_its_own() -> None:
    world = World()
    original = await world.guest()
    world.write(original, "a")
    copy = await world.connect(token=original.token)
    assert original.pings == 1
    assert original.closed is None
    assert copy.true_id == original.true_id
    assert copy.session_id != original.session_id
    assert copy.pid != original.pid
    assert copy.greeting["name"] == "Ann"
    assert copy.greeting["connections"] == 2
    assert copy.resumed == (False, "new", 0, None)
    world.write(original, "b")
    assert (original.data, copy.data) == (["a", "b"], ["b"])
    assert world.metric("takeovers", "token") == 0


@scenario
async def test_a_duplicated_tab_may_ask_for_what_its_original_had() -> None:
    world = World()
    original = await world.guest()
    world.write(original, "a", "b")
    copy = await world.connect(token=original.token, offset=original.messages[0]["id"])
    assert (copy.data, copy.greeting["missed"]) == (["b"], 1)


@scenario
async def test_the_original_keeps_its_token_and_pid() -> None:
    world = World()
    original = await world.guest()
    for _ in range(3):
        await world.connect(token=original.token)
    original.lose()
    back = await world.connect(token=original.token)
    assert back.session_id == original.session_id
    assert world.tokens.verify_token(back.token).generation == 2
    assert (await world.connect(pid=original.pid)).session_id == original.session_id


@scenario
async def test_a_duplicated_tab_does_not_use_up_the_token_of_its_original() -> None:
    world = World()
    first = await world.guest()
    first.lose()
    original = await world.connect(token=first.token)
    # The newest token is not spent by the first copy, so the one before it is no theft.
    for token in (original.token, first.token, original.token):
        copy = await world.connect(token=token)
        assert copy.session_id != original.session_id
    assert original.closed is None


@scenario
async def test_a_token_takes_over_when_the_old_connection_does_not_answer() -> None:
    world = World(probe_timeout=0.0)
    first = await world.guest(alive=False)
    world.write(first, "a")
    second = await world.connect(token=first.token)
    assert first.pings == 1
    assert first.closed == ("taken_over", False)
    assert second.session_id == first.session_id
    assert second.data == ["a"]
    assert world.tokens.verify_token(second.token).generation == 2
    assert world.metric("takeovers", "token") == 1
    first.lose()
    assert list(world.registry.connections_of(first.true_id)) == [second.link]


async def probed(world: World) -> tuple[Client, asyncio.Task[Client]]:
    """Return a client that does not answer, and the newcomer who waits for that."""
    first = await world.guest(alive=False)
    newcomer = asyncio.create_task(world.connect(token=first.token))
    await settled()
    assert first.pings == 1
    assert not newcomer.done()
    return first, newcomer


@scenario
async def test_a_token_takes_over_at_once_when_the_old_connection_breaks_while_probed() -> None:
    world = World()
    first, newcomer = await probed(world)
    world.write(first, "a")
    first.lose()
    second = await newcomer
    assert second.session_id == first.session_id
    assert second.data == ["a"]


@scenario
async def test_a_session_that_ends_while_its_connection_is_probed_takes_the_newcomer_along() -> (
    None
):
    world = World()
    first, newcomer = await probed(world)
    first.emit("logout")
    await settled()
    # A session ends and is resumed in turn.
    assert not newcomer.done()
    first.lose()
    second = await newcomer
    await settled()
    assert second.session_id == first.session_id
    assert second.closed == ("logout", False)
    assert len(world.registry) == 0
    assert len(world.locks) == 0
    for auth in ({"pid": second.pid}, {"token": first.token}, {"token": second.token}):
        assert (await world.refused(auth)).code == "session_revoked"


@scenario
async def test_a_logout_while_the_connection_is_probed_ends_that_session_only() -> None:
    world = World()
    first, newcomer = await probed(world)
    assert first.call("logout") is None
    await settled()
    first.link.on_pong()
    copy = await newcomer
    await settled()
    assert first.acks == {1: {"ok": True}}
    assert (first.closed, copy.closed) == (("logout", False), None)
    assert copy.session_id != first.session_id


@scenario
async def test_a_pid_waits_for_the_probe_then_takes_over() -> None:
    world = World()
    first, newcomer = await probed(world)
    back = asyncio.create_task(world.connect(pid=first.pid))
    await settled()
    assert not back.done()
    first.link.on_pong()
    copy, again = await newcomer, await back
    assert first.closed == ("taken_over", False)
    assert again.session_id == first.session_id
    assert copy.session_id != first.session_id
    assert copy.closed is None


@scenario
async def test_a_newcomer_that_gives_up_while_probing_leaves_everything_as_it_was() -> None:
    world = World()
    first, newcomer = await probed(world)
    newcomer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await newcomer
    assert first.closed is None
    first.lose()
    back = await world.connect(token=first.token)
    assert back.session_id == first.session_id
    assert len(world.locks) == 0


@scenario
async def test_connects_with_the_same_token_come_one_after_the_other() -> None:
    world = World()
    first = await world.guest()
    first.lose()
    clients = await asyncio.gather(*[world.connect(token=first.token) for _ in range(4)])
    # The first one has the session; it lives, so each of the others gets one of its own.
    assert len({client.session_id for client in clients}) == 4
    assert clients[0].session_id == first.session_id
    assert {client.true_id for client in clients} == {first.true_id}
    assert [client.closed for client in clients] == [None] * 4
    world.write(first, "a")
    assert [client.data for client in clients] == [["a"]] * 4
    assert len(world.locks) == 0


@scenario
async def test_connects_with_the_same_pid_leave_one_of_them() -> None:
    world = World()
    first = await world.guest()
    clients = await asyncio.gather(*[world.connect(pid=first.pid) for _ in range(4)])
    assert [client.closed for client in clients] == [("taken_over", False)] * 3 + [None]
    assert len(world.registry.connections_of(first.true_id)) == 1


# What was lost is told


@pytest.mark.parametrize("by", ["pid", "token"])
@scenario
async def test_trimmed_messages_are_told_and_counted(by: str) -> None:
    world = World()
    first = await world.guest()
    world.write(first, "a")
    first.lose()
    world.write(first, *range(103))
    credentials = {"pid": {"pid": first.pid}, "token": {"token": first.token}}[by]
    second = await world.connect(**credentials, offset=first.last_id)
    assert second.resumed == (True, "trimmed", 100, {"after": first.last_id, "lost": 3})
    assert second.data == list(range(3, 103))


@scenario
async def test_messages_trimmed_since_the_start_of_the_session_are_told_too() -> None:
    world = World()
    first = await world.guest()
    first.lose()
    world.write(first, *range(104))
    second = await world.connect(pid=first.pid)
    assert second.resumed == (True, "trimmed", 100, {"after": None, "lost": 4})


@pytest.mark.parametrize("offset", ["e0.1.1", "e1.1.other", "e1.99.63", "not ours", ""])
@pytest.mark.parametrize("by", ["pid", "token"])
@scenario
async def test_a_foreign_offset_replays_all_that_is_there_and_says_so(by: str, offset: str) -> None:
    world = World()
    first = await world.guest()
    world.write(first, "a", "b")
    first.heartbeat()
    first.lose()
    credentials = {"pid": {"pid": first.pid}, "token": {"token": first.token}}[by]
    second = await world.connect(**credentials, offset=offset)
    assert second.resumed == (True, "store_reset", 2, {"after": offset, "lost": None})
    assert second.data == ["a", "b"]


@scenario
async def test_an_expired_session_is_told_and_its_player_kept() -> None:
    world = World(session_lifetime=100.0)
    first = await world.connect(username="ann")
    await world.store.know([ACCOUNT])
    world.write(first, "a", "b")
    first.lose()
    world.clock.now += 101
    await world.store.expire(world.clock.now)
    second = await world.connect(token=first.token, offset=first.messages[0]["id"])
    assert (second.true_id, second.greeting["name"]) == (first.true_id, "ann")
    assert second.session_id == first.session_id
    assert second.pid != first.pid
    assert second.resumed == (False, "expired", 1, None)
    assert second.data == ["b"]


@scenario
async def test_an_expired_session_without_offset_cannot_say_what_was_lost() -> None:
    world = World(session_lifetime=100.0)
    first = await world.connect(username="ann")
    await world.store.know([ACCOUNT])
    world.write(first, "a")
    first.heartbeat()
    world.write(first, "b")
    first.lose()
    world.clock.now += 101
    await world.store.expire(world.clock.now)
    second = await world.connect(token=first.token)
    assert second.resumed == (False, "expired", 1, {"after": None, "lost": None})
    assert second.data == ["b"]


@scenario
async def test_after_a_loss_of_the_store_players_keep_id_and_name() -> None:
    world = World()
    first = await world.guest("Ann")
    world.write(first, "a")
    second = await world.restarted().connect(token=first.token, offset=first.last_id)
    assert (second.true_id, second.greeting["name"]) == (first.true_id, "Ann")
    assert second.session_id == first.session_id
    assert second.pid != first.pid
    assert second.resumed == (False, "store_reset", 0, {"after": first.last_id, "lost": None})


@scenario
async def test_after_a_loss_of_the_store_the_new_token_is_one_of_the_new_store() -> None:
    world = World()
    first = await world.guest()
    after = world.restarted()
    second = await after.connect(token=first.token)
    assert second.resumed == (False, "store_reset", 0, {"after": None, "lost": None})
    second.lose()
    assert (await after.connect(token=second.token)).resumed == (True, "resumed", 0, None)


async def set_back() -> tuple[World, list[str]]:
    """A store restored from a backup, and the later tokens of the session in it, in order."""
    world = World()
    client = await world.guest()
    session = await world.store.session(client.session_id, client.true_id)
    assert session is not None
    backup = replace(session, connection_id=None)
    later = []
    for _ in range(4):
        client.lose()
        client = await world.connect(token=client.token)
        later.append(client.token)
    after = world.restarted()
    await after.store.add_session(backup)
    return after, later


@scenario
async def test_a_token_newer_than_the_backup_goes_on_with_the_session_and_is_told() -> None:
    world, later = await set_back()
    back = await world.connect(token=later[-1])
    assert back.resumed == (True, "store_reset", 0, {"after": None, "lost": None})
    back.lose()
    # Its reply may have been lost.
    again = await world.connect(token=later[-1])
    assert again.session_id == back.session_id
    again.lose()
    assert (await world.connect(token=again.token)).resumed == (True, "resumed", 0, None)


@scenario
async def test_theft_is_noticed_after_a_restore_too() -> None:
    world, later = await set_back()
    thief = await world.connect(token=later[-3])
    assert (await world.refused({"token": later[-1]})).code == "token_reused"
    assert thief.closed == ("token_reused", False)
    world, later = await set_back()
    await world.connect(token=later[-1])
    assert (await world.refused({"token": later[-3]})).code == "token_reused"


# A session that the store no longer has is opened again


async def forgotten(world: World, *clients: Client) -> None:
    """Let the sessions of these clients expire."""
    for client in clients:
        client.lose()
    world.clock.now += 101
    await world.store.expire(world.clock.now)


@scenario
async def test_a_token_goes_on_where_its_session_was_forgotten() -> None:
    world = World(session_lifetime=100.0)
    first = await world.guest()
    await forgotten(world, first)
    for _ in range(2):
        # The reply is lost with its link, so the client still has the same token.
        again = await world.connect(token=first.token)
        again.lose()
        assert (again.true_id, again.session_id) == (first.true_id, first.session_id)
        assert world.tokens.verify_token(again.token).generation == 2
    third = await world.connect(token=again.token)
    assert third.greeting["outcome"] == "resumed"
    assert world.tokens.verify_token(third.token).generation == 3


@pytest.mark.parametrize("restarted", [False, True])
@scenario
async def test_theft_is_noticed_beyond_the_life_of_a_session(restarted: bool) -> None:
    world = World(session_lifetime=100.0)
    client, spent = await with_spent_token(world)
    await forgotten(world, client)
    world = world.restarted() if restarted else world
    thief = await world.connect(token=spent)
    error = await world.refused({"token": client.token})
    assert error.code == "token_reused"
    assert thief.closed == ("token_reused", False)
    assert (await world.refused({"token": thief.token})).code == "session_revoked"


@scenario
async def test_a_session_opened_again_has_another_pid_and_the_old_one_is_worth_nothing() -> None:
    world = World(session_lifetime=100.0)
    first = await world.guest()
    await forgotten(world, first)
    second = await world.connect(token=first.token, pid=first.pid)
    assert second.pid != first.pid
    second.lose()
    # Its client never got the new pid: it may not take its state for recovered.
    assert (await world.refused({"pid": first.pid})).code == "token_expired"
    third = await world.connect(token=first.token, pid=first.pid)
    assert (third.session_id, third.pid) == (second.session_id, second.pid)
    third.lose()
    assert (await world.connect(pid=third.pid)).greeting["resumed"]


# Accounts: players who exist before they come


@scenario
async def test_what_waits_for_an_account_reaches_its_first_login() -> None:
    world = World()
    await world.store.know([ACCOUNT])
    world.write(ACCOUNT, "a", "b")
    client = await world.connect(username="ann")
    assert client.true_id == ACCOUNT
    assert client.resumed == (False, "new", 2, None)
    assert client.data == ["a", "b"]


@scenario
async def test_what_an_account_lost_before_its_first_login_is_told() -> None:
    world = World()
    await world.store.know([ACCOUNT])
    world.write(ACCOUNT, *range(102))
    client = await world.connect(username="ann")
    assert client.resumed == (False, "new", 100, {"after": None, "lost": 2})


@scenario
async def test_a_second_device_starts_with_what_is_new() -> None:
    world = World()
    first = await world.connect(username="ann")
    world.write(first, "a")
    second = await world.connect(username="ann")
    assert second.resumed == (False, "new", 0, None)
    assert second.greeting["connections"] == 2
    world.write(first, "b")
    assert (first.data, second.data) == (["a", "b"], ["b"])


@scenario
async def test_a_later_login_starts_after_what_any_device_has_confirmed() -> None:
    world = World()
    first = await world.connect(username="ann")
    world.write(first, "a")
    first.heartbeat()
    world.write(first, "b")
    first.lose()
    world.write(first, "c")
    assert (await world.connect(username="ann")).data == ["b", "c"]


@scenario
async def test_an_account_that_was_there_once_can_be_written_to_for_good() -> None:
    world = World(session_lifetime=100.0)
    ann, guest = await world.connect(username="ann"), await world.guest()
    await forgotten(world, ann, guest)
    world.write(ann, "a")
    answers: list[object] = []
    eve = await world.guest("Eve")
    answers.append(eve.call("message", {"target_id": guest.true_id, "data": 1}))
    assert answers[0]["error"]["code"] == "unknown_target"  # type: ignore[index]
    assert (await world.connect(username="ann")).data == ["a"]


@pytest.mark.parametrize("by", ["pid", "token"])
@scenario
async def test_nobody_comes_back_to_a_removed_account(by: str) -> None:
    world = World()
    ann, bob = await world.connect(username="ann"), await world.connect(username="bob")
    world.accounts.removed.add(ACCOUNT)
    credentials = {"pid": {"pid": ann.pid}, "token": {"token": ann.token}}[by]
    assert (await world.refused(credentials)).code == "session_revoked"
    assert ann.closed == ("account_removed", False)
    assert bob.closed is None
    # Nor when there is an account by that id again.
    world.accounts.removed.clear()
    for auth in ({"pid": ann.pid}, {"token": ann.token}):
        assert (await world.refused(auth)).code == "session_revoked"


@scenario
async def test_a_removed_account_does_not_survive_the_loss_of_the_store() -> None:
    world = World()
    ann, guest = await world.connect(username="ann"), await world.guest()
    world = world.restarted()
    world.accounts.removed.add(ACCOUNT)
    assert (await world.refused({"token": ann.token})).code == "session_revoked"
    world.accounts.removed.clear()
    assert (await world.refused({"token": ann.token})).code == "session_revoked"
    assert (await world.connect(token=guest.token)).true_id == guest.true_id


@scenario
async def test_how_a_player_logged_in_goes_from_token_to_session_to_token() -> None:
    world = World(session_lifetime=100.0)
    client = await world.connect(username="ann")
    for _ in range(2):
        copy = await world.connect(token=client.token)
        for each in (client, copy):
            assert each.link.session.method == "password"
            assert world.tokens.verify_token(each.token).method == "password"
        await forgotten(world, client, copy)
        client = await world.connect(token=client.token)


@pytest.mark.parametrize("by", ["pid", "token"])
@scenario
async def test_a_session_that_ends_while_its_account_is_looked_up_is_closed(by: str) -> None:
    world = World()
    client = await world.connect(username="ann")
    client.lose()
    auth = {by: {"pid": client.pid, "token": client.token}[by]}
    admission = asyncio.create_task(world.connect(**auth))
    await asyncio.sleep(0)
    await world.revocation.revoke(client.link.session, "kicked")
    back = await admission
    assert back.closed == ("kicked", False)
    assert len(world.registry) == 0
    assert (await world.refused(auth)).code == "session_revoked"
    assert (await world.refused({"token": back.token})).code == "session_revoked"


# Limits


@scenario
async def test_a_player_has_so_many_connections_at_most() -> None:
    world = World(connections_per_player=2)
    first = await world.connect(username="ann")
    second = await world.connect(username="ann")
    error = await world.refused({"username": "ann"})
    assert (error.code, error.reconnect) == ("rate_limited", True)
    assert error.retry_after is not None
    assert world.metric("limit_hits", "connections_per_player") == 1
    assert (await world.refused({"token": first.token})).code == "rate_limited"
    await world.connect(username="bob")
    second.lose()
    await world.connect(username="ann")


@scenario
async def test_a_takeover_needs_no_room_for_another_connection() -> None:
    world = World(connections_per_player=1, probe_timeout=0.0)
    client = await world.guest()
    client = await world.connect(pid=client.pid, alive=False)
    client = await world.connect(token=client.token)
    assert client.greeting["connections"] == 1


@pytest.mark.parametrize("by", ["pid", "token"])
@scenario
async def test_coming_back_to_a_session_takes_room_too(by: str) -> None:
    world = World(connections_per_player=1)
    first = await world.connect(username="ann")
    first.lose()
    second = await world.connect(username="ann")
    credentials = {"pid": first.pid, "token": first.token}
    assert (await world.refused({by: credentials[by]})).code == "rate_limited"
    assert len(world.registry) == 1
    second.lose()
    back = await world.connect(**{by: credentials[by]})
    assert back.session_id == first.session_id
    # The refusal did not use up the token.
    assert world.tokens.verify_token(back.token).generation == (2 if by == "token" else 1)


@scenario
async def test_the_store_has_room_for_so_many_sessions_in_use() -> None:
    world = World(sessions=2)
    first = await world.guest()
    await world.guest()
    error = await world.refused({"guest": True})
    assert (error.code, error.reconnect) == ("server_full", True)
    assert world.metric("limit_hits", "sessions") == 1
    assert len(world.registry) == 2
    first.lose()
    assert (await world.connect(pid=first.pid)).greeting["resumed"]


@scenario
async def test_a_newcomer_takes_the_place_of_whoever_was_away_longest() -> None:
    world = World(sessions=2)
    first, second = await world.guest(), await world.guest()
    second.lose()
    first.lose()
    first = await world.connect(pid=first.pid)
    third = await world.guest()
    assert (await world.refused({"pid": second.pid})).code == "token_expired"
    assert first.closed is None
    # The player has lost nothing but the session.
    third.lose()
    back = await world.connect(token=second.token)
    assert (back.true_id, back.greeting["outcome"]) == (second.true_id, "expired")


@scenario
async def test_a_network_opens_so_many_sessions_a_minute() -> None:
    world = World(new_sessions_per_minute=2, session_lifetime=100.0)
    first, second = await world.guest(), await world.connect(username="ann")
    error = await world.refused({"guest": True})
    assert (error.code, error.reconnect, error.retry_after) == ("rate_limited", True, 30.0)
    assert world.metric("limit_hits", "new_sessions_per_minute") == 1
    # Neither forked nor reopened.
    assert (await world.refused({"token": first.token})).code == "rate_limited"
    assert first.closed is None
    second.lose()
    # Those who have a session come back to it.
    second = await world.connect(pid=second.pid)
    second.lose()
    second = await world.connect(token=second.token)
    await forgotten(world, second)
    assert (await world.refused({"token": second.token})).code == "rate_limited"
    assert await world.store.sessions_of(second.true_id) == ()
    world.monotonic.now += 30
    assert (await world.connect(token=second.token)).greeting["outcome"] == "expired"


@scenario
async def test_other_networks_open_sessions_meanwhile() -> None:
    world = World(new_sessions_per_minute=1)
    await world.connect(guest=True, address="2001:db8::1")
    with pytest.raises(ConnectRefused, match="your network"):
        await world.connect(guest=True, address="2001:db8::2")
    await world.connect(guest=True, address="2001:db8:0:1::1")


@scenario
async def test_a_player_with_too_many_sessions_loses_the_one_longest_unseen() -> None:
    world = World(sessions_per_player=2)
    clients = []
    for _ in range(2):
        clients.append(await world.connect(username="ann"))
        world.clock.now += 1
    for client in reversed(clients):
        client.lose()
        world.clock.now += 1
    third = await world.connect(username="ann")
    assert (await world.connect(token=clients[0].token)).greeting["outcome"] == "resumed"
    assert (await world.refused({"pid": clients[1].pid})).code == "token_expired"
    # Both sessions are in use now.
    assert (await world.refused({"username": "ann"})).code == "server_full"
    assert third.closed is None


@scenario
async def test_nobody_gets_in_while_draining() -> None:
    world = World()
    client = await world.guest()
    world.admission.draining = True
    for auth in ({"guest": True}, {"pid": client.pid}, {"token": client.token}, "rubbish"):
        error = await world.refused(auth)
        assert (error.code, error.reconnect) == ("draining", True)
        assert error.retry_after is not None
        assert error.cut == ("pid" in auth)
    assert client.closed is None


@scenario
async def test_a_store_that_is_down_is_told_and_nothing_changed() -> None:
    world = World()
    client = await world.guest()
    world.store.down = True
    for auth in ({"pid": client.pid}, {"token": client.token}):
        error = await world.refused(auth)
        assert (error.code, error.reconnect) == ("unavailable", True)
        # A stock client that is refused would not come back by itself; one that is cut does.
        assert error.cut == ("pid" in auth)
    assert world.metric("refused_connects", "unavailable") == 2
    world.store.down = False
    assert client.closed is None
    client.lose()
    assert (await world.connect(token=client.token)).greeting["resumed"]


# The token's rotation is kept first


@scenario
async def test_a_rotation_is_kept_before_the_client_learns_of_it() -> None:
    world = World()
    first = await world.guest()
    world.write(first, "a")
    first.heartbeat()
    first.lose()
    session = first.link.session
    before = replace(session)
    gate = world.store.gates["update_session"] = Gate()
    kept: list[Session] = []
    world.store.on_update = kept.append
    newcomer = Client()
    admission = asyncio.create_task(world.admit(newcomer, token=first.token))
    await settled()
    assert gate.reached
    assert not admission.done()
    assert newcomer.events == []
    assert len(world.registry) == 0
    # The store is given a copy: the session itself is as it was.
    assert session == before
    gate.open()
    await admission
    (changed,) = kept
    assert changed is not session
    assert (changed.id, changed.generation, changed.start) == (session.id, 2, 1)
    assert changed.pid == newcomer.pid
    assert newcomer.link.session is session
    assert (session.generation, session.start, session.pid) == (2, 1, changed.pid)
    assert world.tokens.verify_token(newcomer.token).generation == 2


@pytest.mark.parametrize("old_link", ["lost", "dead"])
@scenario
async def test_a_rotation_that_cannot_be_kept_leaves_the_old_token_good(old_link: str) -> None:
    world = World(probe_timeout=0.0)
    first = await world.guest(alive=False)
    world.write(first, "a")
    if old_link == "lost":
        first.lose()
    session = first.link.session
    before = replace(session)
    world.store.broken.add("update_session")
    for _ in range(3):
        error = await world.refused({"token": first.token, "offset": first.last_id})
        assert (error.code, error.reconnect) == ("unavailable", True)
        assert error.retry_after is not None
        assert session == before
    assert first.closed is None
    assert world.metric("takeovers", "token") == 0
    assert len(world.locks) == 0
    world.store.broken.clear()
    client = await world.connect(token=first.token, offset=first.last_id)
    assert client.resumed == (True, "resumed", 0, None)
    assert world.tokens.verify_token(client.token).generation == 2


@scenario
async def test_a_token_that_was_issued_again_is_kept_like_a_new_one() -> None:
    world = World()
    first = await world.guest()
    (await world.connect(pid=first.pid)).lose()
    (await world.connect(token=first.token)).lose()
    world.store.broken.add("update_session")
    assert (await world.refused({"token": first.token})).code == "unavailable"
    world.store.broken.clear()
    client = await world.connect(token=first.token)
    assert world.tokens.verify_token(client.token).generation == 2


# Bans


def banned(error: ConnectRefused) -> tuple[str, float | None]:
    """Return text and wait of a refusal that is a ban."""
    assert (error.code, error.reconnect) == ("banned", False)
    return error.message, error.retry_after


@pytest.mark.parametrize("way", ["login", "pid", "token", "fork", "reopen"])
@scenario
async def test_a_banned_player_is_turned_away_whichever_way_they_come(way: str) -> None:
    world, auth = await before_admission(way)
    await world.store.set_ban(ACCOUNT, Ban(None, "cheating"))
    begin = len(world.store.calls)
    sessions = await world.sessions(ACCOUNT)
    assert banned(await world.refused(auth)) == ("you may not play here now: cheating", None)
    assert world.metric("refused_connects", "banned") == 1
    assert await world.sessions(ACCOUNT) == sessions
    # Nothing of the mailbox was read.
    assert {"view", "know"}.isdisjoint(world.store.calls[begin:])
    # Others play on.
    await world.connect(username="bob")


@scenario
async def test_a_ban_is_told_with_its_end_and_without_a_reason_if_there_is_none() -> None:
    world = World()
    await world.store.set_ban(ACCOUNT, Ban(world.clock.now + 60.0, ""))
    world.clock.now += 0.5
    assert banned(await world.refused({"username": "ann"})) == ("you may not play here now", 59.5)


@scenario
async def test_a_ban_is_told_only_to_whom_it_concerns() -> None:
    world = World()
    client = await world.connect(username="ann")
    await world.revocation.ban(ACCOUNT, Ban(None, "cheating"))
    flipped = client.token[:-1] + ("A" if client.token[-1] != "A" else "B")
    assert (await world.refused({"token": flipped})).code == "token_invalid"
    await world.revocation.revoke(client.link.session, "kicked")
    assert (await world.refused({"token": client.token})).code == "session_revoked"


@pytest.mark.parametrize("swept", [False, True])
@pytest.mark.parametrize("way", ["login", "pid", "token", "fork", "reopen"])
@scenario
async def test_a_ban_ends_by_itself(way: str, swept: bool) -> None:
    world, auth = await before_admission(way)
    until = world.clock.now + 60.0
    await world.store.set_ban(ACCOUNT, Ban(until, ""))
    for moment, code in ((until - 1, "banned"), (until, None)):
        world.clock.now = moment
        if swept:
            await world.store.expire(moment)
        if code is not None:
            assert (await world.refused(auth)).code == code
    assert (await world.connect(**auth)).true_id == ACCOUNT


@scenario
async def test_theft_by_a_banned_player_is_still_only_a_ban() -> None:
    world = World()
    client, spent = await with_spent_token(world)
    await world.revocation.ban(ACCOUNT, Ban(None, ""))
    assert (await world.refused({"token": spent})).code == "banned"
    await world.revocation.lift_ban(ACCOUNT)
    assert (await world.connect(token=client.token)).greeting["resumed"]


# Whatever happens meanwhile: at each call of the store, before it and before its answer

#: The ways in; by "pid over" and "token over" a connection is taken over.
WAYS = ["login", "pid", "pid over", "token", "token over", "fork", "reopen"]


async def before_admission(way: str) -> tuple[World, dict[str, object]]:
    """Return a world, and the CONNECT by which Ann comes in this way, with missed messages."""
    world = World(probe_timeout=60.0 if way == "fork" else 0.0, session_lifetime=100.0)
    if way == "login":
        await world.store.know([ACCOUNT])
        world.write(ACCOUNT, "a", "b")
        return world, {"username": "ann"}
    ann = await world.connect(username="ann", alive=way == "fork")
    world.write(ann, "a")
    if way in {"pid", "token"}:
        ann.lose()
    elif way == "reopen":
        await forgotten(world, ann)
    world.write(ACCOUNT, "b")
    if way == "fork":
        # Else the pong of the probe would confirm it.
        ann.heartbeat()
    return world, {"pid": ann.pid} if way in {"pid", "pid over"} else {"token": ann.token}


async def moments(way: str) -> list[tuple[int, bool]]:
    """Return the numbers of the calls in such an admission, each with False and with True."""
    world, auth = await before_admission(way)
    begin = len(world.store.calls)
    await world.connect(**auth)
    assert world.store.calls[begin:]
    return [
        (number, after)
        for number in range(begin, len(world.store.calls))
        for after in (False, True)
    ]


async def interrupted(
    world: World,
    auth: dict[str, object],
    moment: tuple[int, bool],
    action: Callable[[], Coroutine[object, object, object]],
) -> tuple[Client, ConnectRefused | None]:
    """Begin an admission, at that moment the action; return the client and its refusal."""
    number, after = moment
    gate = world.store.gates[number] = Gate(after=after)
    client = Client(alive=False)
    admission = asyncio.create_task(world.admit(client, **auth))
    await settled()
    assert gate.reached
    acting = asyncio.create_task(action())
    await settled()
    gate.open()
    refusal = None
    try:
        await admission
    except ConnectRefused as error:
        refusal = error
        # Before any byte.
        assert client.events == []
        assert client.closed is None
    await acting
    assert len(world.locks) == 0
    return client, refusal


@pytest.mark.parametrize("way", WAYS)
@scenario
async def test_a_ban_holds_at_whatever_moment_of_an_admission_it_comes(way: str) -> None:
    outcomes = set()
    for moment in await moments(way):
        world, auth = await before_admission(way)
        client, refusal = await interrupted(
            world, auth, moment, partial(world.revocation.ban, ACCOUNT, Ban(None, ""))
        )
        assert len(world.registry) == 0
        assert refusal.code == "banned" if refusal else client.closed == ("banned", False)
        outcomes.add(refusal is None)
        world.write(ACCOUNT, "c")
        assert "c" not in client.data
        assert (await world.refused(auth)).code == "banned"
        await world.revocation.lift_ban(ACCOUNT)
        assert (await world.connect(**auth)).data[-1] == "c"
    assert False in outcomes


@pytest.mark.parametrize("way", ["pid", "pid over", "token", "token over"])
@scenario
async def test_a_session_that_is_revoked_in_the_middle_of_an_admission_is_closed(way: str) -> None:
    for moment in await moments(way):
        world, auth = await before_admission(way)
        (session,) = await world.sessions(ACCOUNT)
        client, refusal = await interrupted(
            world, auth, moment, partial(world.revocation.revoke, session, "kicked")
        )
        # The admission came first; nobody is left hanging.
        assert refusal is None
        assert client.session_id == session.id
        assert client.closed == ("kicked", False)
        assert len(world.registry) == 0
        assert await world.store.sessions_of(ACCOUNT) == ()
        for again in (auth, {"pid": client.pid}, {"token": client.token}):
            assert (await world.refused(again)).code == "session_revoked"


@pytest.mark.parametrize("way", ["pid", "pid over", "token", "token over"])
@scenario
async def test_an_admission_in_the_middle_of_a_revocation_is_refused(way: str) -> None:
    for after in (False, True):
        world, auth = await before_admission(way)
        (session,) = await world.sessions(ACCOUNT)
        gate = world.store.gates["revoke_session"] = Gate(after=after)
        revoking = asyncio.create_task(world.revocation.revoke(session, "kicked"))
        await settled()
        assert gate.reached
        admission = asyncio.create_task(world.refused(auth))
        await settled()
        assert not admission.done()
        gate.open()
        await revoking
        assert (await admission).code == "session_revoked"
        assert len(world.registry) == 0


@pytest.mark.parametrize(
    "way",
    [
        "pid",
        "pid over",
        "token",
        "token over",
        "fork",
        "reopen",
    ],
)
@scenario
async def test_a_player_revoked_in_the_middle_of_an_admission_has_nothing_left(way: str) -> None:
    for moment in await moments(way):
        world, auth = await before_admission(way)
        client, refusal = await interrupted(
            world, auth, moment, partial(world.revocation.revoke_player, ACCOUNT, "kicked")
        )
        assert refusal.code == "session_revoked" if refusal else client.closed == ("kicked", False)
        assert len(world.registry) == 0
        assert await world.store.sessions_of(ACCOUNT) == ()


# Here the probe takes its time: no store need wait for it.
@scenario
async def test_a_logout_everywhere_ends_the_copy_that_is_probing_its_original() -> None:
    world = World()
    other = await world.connect(username="ann")
    first = await world.connect(username="ann", alive=False)
    newcomer = asyncio.create_task(world.connect(token=first.token))
    await settled()
    other.call("logout", {"everywhere": True})
    await settled()
    first.link.on_pong()
    with pytest.raises(ConnectRefused) as caught:
        await newcomer
    assert caught.value.code == "session_revoked"
    await settled()
    assert first.closed == ("logout", False)
    assert other.closed == ("logout", False)
    assert await world.sessions(ACCOUNT) == ()


@pytest.mark.parametrize("way", WAYS)
@scenario
async def test_whichever_call_fails_the_client_is_told_to_wait_and_may_come_again(way: str) -> None:
    world, auth = await before_admission(way)
    expected = (await world.connect(**auth)).resumed
    numbers = list(dict.fromkeys(number for number, _ in await moments(way)))
    for number in numbers:
        world, auth = await before_admission(way)
        links = list(world.registry)
        sessions = [(session, replace(session)) for session in await world.sessions(ACCOUNT)]
        world.store.broken.add(number)
        error = await world.refused(auth)
        assert (error.code, error.reconnect) == ("unavailable", True)
        assert world.metric("refused_connects", "unavailable") == 1
        # Nothing has changed.
        assert list(world.registry) == links
        assert not any(link.closed for link in links)
        for session, before in sessions:
            assert session == before
        assert await world.sessions(ACCOUNT) == tuple(session for session, _ in sessions)
        assert len(world.locks) == 0
        assert (await world.connect(**auth)).resumed == expected


@pytest.mark.parametrize("way", ["login", "fork", "reopen"])
@scenario
async def test_whoever_is_banned_while_their_session_is_added_is_closed(way: str) -> None:
    number = (await moments(way))[-1][0]
    world, auth = await before_admission(way)
    client, refusal = await interrupted(
        world, auth, (number, False), partial(world.revocation.ban, ACCOUNT, Ban(None, ""))
    )
    assert refusal is None
    assert client.closed == ("banned", False)
    assert len(world.registry) == 0
    assert (await world.refused(auth)).code == "banned"


@pytest.mark.parametrize("way", ["pid", "token"])
@scenario
async def test_a_session_that_was_resumed_is_still_in_the_store(way: str) -> None:
    for moment in await moments(way):
        world, auth = await before_admission(way)
        world.store._limits = replace(world.store._limits, sessions=1)

        async def bob_comes(world: World = world) -> None:
            with suppress(ConnectRefused):
                await world.connect(username="bob")

        client, refusal = await interrupted(world, auth, moment, bob_comes)
        if refusal is None:
            # It made room before it was taken into use, and was opened again, or it is kept.
            assert client.link.session in await world.sessions(ACCOUNT)


# Time


@scenario
async def test_a_connected_session_does_not_expire() -> None:
    world = World(session_lifetime=100.0)
    client = await world.guest()
    world.clock.now += 500
    await world.store.expire(world.clock.now)
    client.lose()
    world.clock.now += 99
    await world.store.expire(world.clock.now)
    assert (await world.connect(pid=client.pid)).greeting["outcome"] == "resumed"


@scenario
async def test_a_player_who_comes_back_within_the_grace_was_never_offline() -> None:
    world = World()
    watcher, ann = await world.guest("Eve"), await world.guest()
    watcher.call("presence_watch", {"true_ids": [ann.true_id]})
    ann.lose()
    world.pass_by(SETTLE)
    world.pass_by(GRACE - SETTLE - 1)
    await world.connect(token=ann.token)
    world.pass_by(GRACE)
    states = [payload["state"] for payload in watcher.payloads("presence")]
    assert states == ["away", "active"]
