"""Revocation: a session ends, its connection with it, and its token is worth nothing."""

from __future__ import annotations

import pytest

from gateway.errors import StoreUnavailable
from tests.services.world import LIFETIME, World, scenario, settled


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


@scenario
async def test_a_logout_is_answered_before_the_close_and_once() -> None:
    world = World()
    client = await world.guest()
    answers: list[object] = []
    for _ in range(2):
        world.revocation.log_out(client.link.session, False, lambda: answers.append(client.closed))
    assert client.closed is None
    await settled()
    assert answers[0] is None
    assert client.closed == ("logout", False)


@scenario
async def test_a_logout_everywhere_answers_when_all_others_are_out() -> None:
    world = World()
    first, second = [await world.connect(username="ann") for _ in range(2)]
    answers: list[object] = []
    world.revocation.log_out(first.link.session, True, lambda: answers.append(second.closed))
    await settled()
    assert answers == [("logout", False)]
    assert await world.store.sessions_of(first.true_id) == ()


@scenario
async def test_what_is_under_way_is_waited_for() -> None:
    world = World()
    await world.revocation.close()
    client = await world.guest()
    world.revocation.log_out(client.link.session, False, lambda: None)
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
    world.revocation.log_out(client.link.session, False, lambda: answers.append(None))
    await settled()
    assert answers == []
    assert client.closed is None
    assert f"session {client.session_id} could not be logged out" in caplog.text
    world.store.down = False
    client.lose()
    assert (await world.connect(token=client.token)).greeting["resumed"]
