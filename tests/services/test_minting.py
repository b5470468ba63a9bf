"""Sessions that a backend opens before their player connects."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from gateway.api_types import MintRequest
from gateway.errors import RequestRefused
from gateway.messages import SessionId, TrueId
from gateway.minting import Minting
from gateway.store import Ban
from tests.services.world import LIFETIME, World, scenario

ADA = TrueId("ada")


def minting(world: World, name_bytes: int = 64) -> Minting:
    numbers = count(1)
    return Minting(
        world.store,
        world.tokens,
        world.locks,
        world.metrics,
        lambda true_id: bool(world.registry.connections_of(true_id)),
        lambda: SessionId(f"m{next(numbers)}"),
        world.clock,
        name_bytes,
    )


async def mint(world: World, **attributes: Any) -> str:
    return (await minting(world).mint(MintRequest(ADA, attributes))).token


@scenario
async def test_the_first_use_is_a_new_session_and_the_next_a_resumed_one() -> None:
    world = World()
    minted = await minting(world).mint(MintRequest(ADA))
    assert (minted.session_id, minted.token_expires_in) == ("m1", LIFETIME)
    client = await world.connect(token=minted.token)
    assert client.resumed == (False, "new", 0, None)
    client.lose()
    again = await world.connect(token=client.token)
    assert again.resumed == (True, "resumed", 0, None)
    assert again.session_id == "m1"


@scenario
async def test_messages_wait_for_a_player_from_the_minting_on() -> None:
    world = World()
    token = await mint(world)
    world.write(ADA, 1, 2)
    client = await world.connect(token=token)
    assert (client.resumed[2], client.data) == (2, [1, 2])


@scenario
async def test_the_first_token_is_good_until_the_next_was_used() -> None:
    world = World()
    token = await mint(world)
    lost = await world.connect(token=token)
    lost.lose()
    client = await world.connect(token=token)
    assert client.resumed[:2] == (True, "resumed")
    client.lose()
    (await world.connect(token=client.token)).lose()
    assert (await world.refused({"token": token})).code == "token_reused"


@scenario
async def test_a_stock_client_recovers_by_pid() -> None:
    world = World()
    first = await world.connect(token=await mint(world))
    first.lose()
    world.write(ADA, 1)
    again = await world.connect(pid=first.pid)
    assert (again.pid, again.resumed[:2], again.data) == (first.pid, (True, "resumed"), [1])


@scenario
async def test_a_session_that_was_forgotten_meanwhile_is_opened_anew() -> None:
    world = World(sessions=1)
    token = await mint(world, name="Ada", team="red")
    guest = await world.guest()
    guest.lose()
    client = await world.connect(token=token)
    assert (client.true_id, client.resumed[1]) == (ADA, "expired")
    assert client.greeting["name"] == "Ada"
    assert client.greeting["attributes"] == {"name": "Ada", "team": "red"}


@scenario
async def test_a_duplicated_tab_has_the_attributes_too() -> None:
    world = World()
    first = await world.connect(token=await mint(world, team="red"))
    fork = await world.connect(token=first.token)
    assert fork.session_id != first.session_id
    assert fork.greeting["attributes"] == {"team": "red"}


@scenario
async def test_a_player_who_is_here_gets_nothing_twice_by_another_session() -> None:
    world = World()
    first = await world.connect(token=await mint(world))
    world.write(ADA, 1)
    assert first.data == [1]
    second = await world.connect(token=await mint(world))
    assert second.data == []


@scenario
async def test_a_name_is_the_id_unless_it_is_given() -> None:
    world = World()
    assert (await world.connect(token=await mint(world))).greeting["name"] == "ada"
    short = await minting(world, name_bytes=2).mint(MintRequest(ADA))
    assert (await world.connect(token=short.token)).greeting["name"] == "ad"


@scenario
async def test_nobody_is_displaced_who_has_a_connection() -> None:
    world = World(sessions=1)
    await world.guest()
    with pytest.raises(RequestRefused) as caught:
        await mint(world)
    assert caught.value.code == "unavailable"
    assert world.metric("limit_hits", "sessions") == 1


@scenario
async def test_a_ban_holds_for_minted_tokens() -> None:
    world = World()
    token = await mint(world)
    await world.store.set_ban(ADA, Ban(None, ""))
    assert (await world.refused({"token": token})).code == "banned"
