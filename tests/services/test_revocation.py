"""Revocation: a session ends, its connection with it, and its token is worth nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.errors import RequestRefused, StoreUnavailable
from tests.services.world import LIFETIME, Client, World, scenario, settled


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
        world.store.expire(world.clock.now)
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
    world.store.expire(world.clock.now)
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
    world.store.expire(world.clock.now)
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
    assert f"session {client.session_id} could not be logged out" in caplog.text
    world.store.down = False
    client.lose()
    assert (await world.connect(token=client.token)).greeting["resumed"]
