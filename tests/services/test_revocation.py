"""Revocation: a session ends, its connection with it, and its token is worth nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.errors import RequestRefused, StoreUnavailable
from gateway.messages import TrueId
from gateway.store import Ban
from tests.services.world import LIFETIME, Client, Gate, World, scenario, settled


@scenario
async def test_a_revoked_session_loses_its_connection_and_its_future() -> None:
    world = World()
    client = await world.guest()
    await world.revocation.revoke(client.link.session, "banned")
    assert client.closed == ("banned", False)
    for auth in ({"token": client.token}, {"pid": client.pid}):
        assert (await world.refused(auth)).code == "session_revoked"


@scenario
async def test_a_session_without_connection_can_be_revoked() -> None:
    world = World()
    client = await world.guest()
    client.lose()
    await world.revocation.revoke(client.link.session, "banned")
    assert client.closed is None
    assert (await world.refused({"token": client.token})).code == "session_revoked"


@scenario
async def test_other_connections_of_the_player_stay() -> None:
    world = World()
    first, second = [await world.connect(username="ann") for _ in range(2)]
    await world.revocation.revoke(first.link.session, "kicked")
    assert (first.closed, second.closed) == (("kicked", False), None)


@scenario
async def test_a_revoked_session_stays_revoked_as_long_as_its_token_lives() -> None:
    world = World()
    client = await world.guest()
    await world.revocation.revoke(client.link.session, "kicked")
    begin = world.clock.now
    # A token's age is counted in whole seconds.
    for age, code in (
        (LIFETIME - 1, "session_revoked"),
        (LIFETIME + 0.9, "session_revoked"),
        (LIFETIME + 1, "token_expired"),
        (LIFETIME * 2, "token_expired"),
    ):
        world.clock.now = begin + age
        await world.store.expire(world.clock.now)
        assert (await world.refused({"token": client.token})).code == code


def log_out(world: World, client: Client, everywhere: bool, answer: Callable[[], None]) -> None:
    """Log a client's session out; it does not fail."""

    def on_failed(error: RequestRefused) -> None:
        raise AssertionError(error)

    world.revocation.log_out(client.link.session, everywhere, answer, on_failed)


@scenario
async def test_a_logout_is_answered_before_the_close_and_once() -> None:
    world = World()
    client = await world.guest()
    answers: list[object] = []
    for _ in range(2):
        log_out(world, client, False, lambda: answers.append(client.closed))
    assert client.closed is None
    await settled()
    assert answers[0] is None
    assert client.closed == ("logout", False)


@scenario
async def test_a_logout_that_fails_for_no_known_reason_is_answered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    client = await world.guest()

    async def revoke(*arguments: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(world.store, "revoke_session", revoke)
    refusals: list[RequestRefused] = []
    world.revocation.log_out(client.link.session, False, lambda: None, refusals.append)
    await settled()
    assert [refusal.code for refusal in refusals] == ["unavailable"]
    assert client.closed is None
    assert "could not be logged out" in caplog.text


@scenario
async def test_a_logout_everywhere_answers_when_all_others_are_out() -> None:
    world = World()
    first, second = [await world.connect(username="ann") for _ in range(2)]
    answers: list[object] = []
    log_out(world, first, True, lambda: answers.append(second.closed))
    await settled()
    assert answers == [("logout", False)]
    assert await world.store.sessions_of(first.true_id) == ()


@scenario
async def test_a_logout_everywhere_ends_sessions_that_the_store_has_forgotten() -> None:
    world = World(session_lifetime=100.0)
    lost, bob = await world.connect(username="ann"), await world.connect(username="bob")
    for client in (lost, bob):
        client.lose()
    world.clock.now += 101
    await world.store.expire(world.clock.now)
    ann = await world.connect(username="ann")
    log_out(world, ann, True, lambda: None)
    await settled()
    for client in (lost, ann):
        assert (await world.refused({"token": client.token})).code == "session_revoked"
    assert (await world.connect(token=bob.token)).greeting["outcome"] == "expired"
    # The player may come back, and is not logged out again.
    world.clock.now += 1
    again = await world.connect(username="ann")
    again.lose()
    world.clock.now += 101
    await world.store.expire(world.clock.now)
    assert (await world.connect(token=again.token)).greeting["outcome"] == "expired"


@scenario
async def test_a_player_is_revoked_as_a_whole_and_alone() -> None:
    world = World()
    first, second, bob = [await world.connect(username=name) for name in ("ann", "ann", "bob")]
    second.lose()
    await world.revocation.revoke_player(first.true_id, "account_removed")
    assert (first.closed, bob.closed) == (("account_removed", False), None)
    for client in (first, second):
        assert (await world.refused({"token": client.token})).code == "session_revoked"


@scenario
async def test_a_connection_of_the_session_is_closed_though_the_store_has_forgotten_it() -> None:
    world = World()
    client = await world.guest()
    session = client.link.session
    await world.store.revoke_session(session.id, session.true_id, world.clock.now)
    await world.revocation.revoke(session, "kicked")
    assert client.closed == ("kicked", False)


@scenario
async def test_a_session_never_has_two_connections() -> None:
    world = World()
    client = await world.guest()
    # As when the session was opened again while an old connection had not closed yet.
    client.link.session.connection_id = None
    second = await world.connect(pid=client.pid)
    assert client.closed == ("taken_over", False)
    await world.revocation.revoke(second.link.session, "kicked")
    assert second.closed == ("kicked", False)
    assert len(world.registry) == 0


@scenario
async def test_revocations_of_a_session_come_in_turn() -> None:
    world = World()
    client = await world.guest()
    session = client.link.session
    gate = world.store.gates["revoke_session"] = Gate(after=True)
    tasks = [asyncio.create_task(world.revocation.revoke(session, reason)) for reason in ("a", "b")]
    await settled()
    assert gate.reached
    assert world.store.calls.count("revoke_session") == 1
    # Not before the store has it.
    assert client.closed is None
    gate.open()
    await asyncio.gather(*tasks)
    assert client.closed == ("a", False)
    assert len(world.locks) == 0


@scenario
async def test_a_logout_everywhere_that_fails_half_way_leaves_the_asking_session() -> None:
    world = World()
    first, second = [await world.connect(username="ann") for _ in range(2)]
    world.store.broken.add("sessions_of")
    failures: list[RequestRefused] = []
    world.revocation.log_out(first.link.session, True, lambda: None, failures.append)
    await settled()
    assert [error.code for error in failures] == ["unavailable"]
    assert (first.closed, second.closed) == (None, None)
    world.store.broken.clear()
    log_out(world, first, True, lambda: None)
    await settled()
    assert (first.closed, second.closed) == (("logout", False), ("logout", False))


# Bans


@scenario
async def test_a_ban_closes_all_that_the_player_has_open_and_nothing_else() -> None:
    world = World()
    first, second, bob = [await world.connect(username=name) for name in ("ann", "ann", "bob")]
    copy = await world.connect(token=first.token)
    await world.revocation.ban(first.true_id, Ban(None, "cheating"))
    for client in (first, second, copy):
        assert client.closed == ("banned", False)
    assert bob.closed is None
    assert list(world.registry) == [bob.link]
    assert world.metric("closed_connections", "banned") == 3
    assert world.look(first.true_id)["connections"] == 0


@scenario
async def test_the_sessions_of_a_banned_player_wait_for_the_end_of_the_ban() -> None:
    world = World()
    client = await world.connect(username="ann")
    world.write(client, "a")
    await world.revocation.ban(client.true_id, Ban(None, ""))
    # Messages wait, too.
    world.write(client, "b")
    assert client.data == ["a"]
    for auth in ({"username": "ann"}, {"token": client.token}, {"pid": client.pid}):
        assert (await world.refused(auth)).code == "banned"
    await world.revocation.lift_ban(client.true_id)
    back = await world.connect(token=client.token, offset=client.last_id)
    assert back.resumed == (True, "resumed", 1, None)
    assert back.session_id == client.session_id
    assert back.data == ["b"]


@scenario
async def test_a_ban_of_somebody_who_was_never_here_holds() -> None:
    world = World()
    await world.revocation.ban(TrueId("acc-eve"), Ban(None, ""))
    assert (await world.refused({"username": "eve"})).code == "banned"
    await world.revocation.lift_ban(TrueId("acc-eve"))
    assert (await world.connect(username="eve")).greeting["outcome"] == "new"
    # Nor does it hurt to lift what is not there.
    await world.revocation.lift_ban(TrueId("acc-bob"))


@scenario
async def test_the_last_ban_counts() -> None:
    world = World()
    ann = TrueId("acc-ann")
    await world.revocation.ban(ann, Ban(None, "for good"))
    await world.revocation.ban(ann, Ban(world.clock.now + 10, "a moment"))
    error = await world.refused({"username": "ann"})
    assert (error.retry_after, "a moment" in error.message) == (10.0, True)
    await world.time_passes(10)
    await world.connect(username="ann")


@scenario
async def test_a_ban_that_cannot_be_kept_closes_nothing() -> None:
    world = World()
    client = await world.connect(username="ann")
    world.store.down = True
    with pytest.raises(StoreUnavailable):
        await world.revocation.ban(client.true_id, Ban(None, ""))
    with pytest.raises(StoreUnavailable):
        await world.revocation.lift_ban(client.true_id)
    world.store.down = False
    assert client.closed is None
    client.lose()
    assert (await world.connect(token=client.token)).greeting["resumed"]


@scenario
async def test_what_is_under_way_is_waited_for() -> None:
    world = World()
    await world.revocation.close()
    client = await world.guest()
    log_out(world, client, False, lambda: None)
    await world.revocation.close()
    assert client.closed == ("logout", False)


@scenario
async def test_a_store_that_is_down_revokes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    client = await world.guest()
    world.store.down = True
    with pytest.raises(StoreUnavailable):
        await world.revocation.revoke(client.link.session, "kicked")
    answers: list[object] = []
    failures: list[RequestRefused] = []
    for everywhere in (False, True):
        world.revocation.log_out(
            client.link.session, everywhere, lambda: answers.append(None), failures.append
        )
    await settled()
    assert answers == []
    assert [error.code for error in failures] == ["unavailable", "unavailable"]
    assert client.closed is None
    # A client could fill the log with it.
    assert caplog.text == ""
    world.store.down = False
    client.lose()
    assert (await world.connect(token=client.token)).greeting["resumed"]
