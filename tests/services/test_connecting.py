"""A session that another node changes while it is admitted here."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import ConnectRefused
from gateway.messages import SessionId, TrueId
from gateway.session import Session
from gateway.store import Ban
from gateway.stores.memory import MemoryStore
from tests.services.world import Client, Gate, World, scenario, settled


@scenario
async def test_a_token_is_good_when_another_node_has_just_used_it() -> None:
    world = World()
    client = await world.guest()
    client.lose()

    async def use(session: Session) -> None:
        (kept,) = await world.sessions(client.true_id)
        kept.generation = session.generation

    world.store.rival = [use]
    back = await world.connect(token=client.token)
    assert (back.session_id, back.resumed[:2]) == (client.session_id, (True, "resumed"))
    # The one that the other node has issued, too.
    assert world.tokens.verify_token(back.token).generation == 2


@pytest.mark.parametrize("by", ["pid", "token"])
@scenario
async def test_a_session_that_another_node_has_ended_is_not_resumed(by: str) -> None:
    world = World()
    client = await world.guest()
    client.lose()

    async def revoke(session: Session) -> None:
        await MemoryStore.revoke_session(world.store, session.id, session.true_id, world.clock.now)

    world.store.rival = [revoke]
    credentials = {"pid": client.pid, "token": client.token}
    assert (await world.refused({by: credentials[by]})).code == "session_revoked"
    assert len(world.registry) == 0


@pytest.mark.parametrize("by", ["pid", "token", "username"])
@scenario
async def test_a_player_whom_another_node_has_banned_does_not_get_in(by: str) -> None:
    world = World()
    client = await world.connect(username="ann")
    client.lose()

    async def ban(session: Session) -> None:
        await MemoryStore.set_ban(world.store, session.true_id, Ban(None, "rude"))

    world.store.rival = [ban]
    credentials = {"pid": client.pid, "token": client.token, "username": "ann"}
    error = await world.refused({by: credentials[by]})
    assert (error.code, len(world.registry)) == ("banned", 0)
    assert len(await world.sessions(client.true_id)) == 1


@scenario
async def test_a_session_that_another_node_has_just_opened_again_is_resumed() -> None:
    world = World()
    client = await world.guest()
    client.lose()
    (lost,) = await world.sessions(client.true_id)
    world.store._drop(lost)

    async def reopen(session: Session) -> None:
        lost.generation = lost.opened = session.generation
        await MemoryStore.add_session(world.store, lost)

    world.store.rival = [reopen]
    back = await world.connect(token=client.token)
    assert (back.session_id, back.resumed[:2]) == (client.session_id, (True, "resumed"))


@scenario
async def test_a_session_that_never_comes_to_rest_is_refused_and_stays() -> None:
    world = World()
    client = await world.guest()
    client.lose()

    async def nothing(session: Session) -> None:
        pass

    world.store.rival = [nothing] * 5
    error = await world.refused({"token": client.token})
    assert (error.code, error.reconnect, error.retry_after) == ("unavailable", True, 5.0)
    assert world.metric("refused_connects", "unavailable") == 1
    assert not world.locks._locks
    back = await world.connect(token=client.token)
    assert back.session_id == client.session_id


@scenario
async def test_a_store_is_told_when_a_session_is_taken_into_use() -> None:
    world = World()
    client = await world.guest()
    client.lose()
    world.clock.now += 50
    seen: list[float] = []
    world.store.on_update = lambda session: seen.append(session.last_seen)
    await world.connect(token=client.token)
    assert seen == [world.clock.now]


@scenario
async def test_a_session_in_use_on_another_node_is_taken_over() -> None:
    world = World()
    client = await world.guest()
    client.lose()
    (session,) = await world.sessions(client.true_id)
    session.node = "elsewhere"
    assert session.elsewhere
    await world.connect(pid=client.pid)
    assert world.metric("takeovers", "pid") == 1


async def arriving(
    world: World, name: str, **auth: object
) -> tuple[Gate, Client, asyncio.Task[None]]:
    """Send a CONNECT whose session the store has taken, and not yet said so."""
    gate = world.store.gates[name] = Gate(after=True)
    client = Client()
    task = asyncio.create_task(world.admit(client, **auth))
    await settled()
    assert gate.reached
    return gate, client, task


@scenario
async def test_a_session_that_another_node_ends_while_it_comes_in_does_not_come_in() -> None:
    world = World()
    client = await world.guest()
    client.lose()
    gate, _, task = await arriving(world, "update_session", pid=client.pid)
    world.admission.arrivals.on_ended(client.true_id, None, "banned")
    gate.open()
    with pytest.raises(ConnectRefused) as caught:
        await task
    assert caught.value.cut
    assert len(world.registry) == 0
    assert len(world.admission.arrivals) == 0
    (session,) = await world.sessions(client.true_id)
    assert session.connection_id is None
    assert world.metric("closed_connections", "banned") == 1


@scenario
async def test_a_session_whose_client_is_at_another_node_by_then_is_cut() -> None:
    world = World()
    client = await world.guest()
    client.lose()
    gate, _, task = await arriving(world, "update_session", pid=client.pid)
    world.admission.arrivals.on_fenced(client.true_id, client.session_id, 1)
    gate.open()
    with pytest.raises(ConnectRefused) as caught:
        await task
    assert caught.value.cut
    assert len(world.registry) == 0


@scenario
async def test_a_fence_of_before_is_no_hindrance() -> None:
    world = World()
    client = await world.guest()
    client.lose()
    world.store.on_update = lambda session: setattr(session, "version", 3)
    gate, back, task = await arriving(world, "update_session", pid=client.pid)
    world.admission.arrivals.on_fenced(client.true_id, client.session_id, 3)
    world.admission.arrivals.on_ended(client.true_id, SessionId("another"), "revoked")
    gate.open()
    await task
    assert back.greeting["resumed"]


@scenario
async def test_a_new_session_that_another_node_ends_while_it_comes_in_does_not_come_in() -> None:
    world = World()
    gate, client, task = await arriving(world, "add_session", username="ann")
    world.admission.arrivals.on_ended(TrueId("acc-ann"), None, "banned")
    gate.open()
    with pytest.raises(ConnectRefused):
        await task
    assert client.events == []
    assert len(world.registry) == 0
