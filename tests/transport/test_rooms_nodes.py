"""Rooms over two gateways on one Redis, and real sockets at each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.gateway_process import GatewayProcess
from tests.transport.client import Clients, Player
from tests.transport.test_rooms import join, messages

pytestmark = pytest.mark.gen_test(timeout=120)

ROOM = "r"


@pytest.fixture
def processes(tmp_path: Path, redis_url: str) -> Iterator[list[GatewayProcess]]:
    """Two gateways on one Redis."""
    config: dict[str, Any] = {
        "store": {"url": redis_url, "node_lease": 1},
        "resume": {"secret_keys": ["k" * 40]},
    }
    with ExitStack() as stack:
        started = []
        for number in range(2):
            folder = tmp_path / f"node{number}"
            folder.mkdir()
            started.append(stack.enter_context(GatewayProcess(folder, config=config)))
        yield started


@asynccontextmanager
async def clients_of(processes: list[GatewayProcess]) -> AsyncIterator[list[Clients]]:
    async with Clients(processes[0].url) as first, Clients(processes[1].url) as second:
        yield [first, second]


async def told(player: Player, count: int) -> list[Any]:
    """Return what the player is told of rooms, so many times."""
    return [(await player.event("room"))[0] for _ in range(count)]


async def test_members_at_two_gateways_are_told_who_comes_and_what_is_said(
    processes: list[GatewayProcess],
) -> None:
    async with clients_of(processes) as (first, second):
        ann, bob = await first.player(), await second.player()
        await join(ann)
        assert await join(bob) == 2
        joined = {"room": ROOM, "joined": bob.true_id, "members": 2}
        assert (await told(ann, 2))[1] == joined
        assert await told(bob, 1) == [joined]
        receipt = await ann.call("publish", {"room": ROOM, "data": 1})
        assert (receipt["status"], receipt["connections"]) == ("delivered", 2)
        assert (await messages(ann, 1), await messages(bob, 1)) == ([1], [1])
        # Whoever left is told at the other gateway, too.
        assert (await bob.call("leave", {"room": ROOM})) == {"ok": True, "members": 1}
        assert await told(ann, 1) == [{"room": ROOM, "left": bob.true_id, "members": 1}]
        refused = await bob.call("publish", {"room": ROOM, "data": 2})
        assert refused["error"]["code"] == "not_member"


async def test_all_members_get_all_messages_in_one_order(processes: list[GatewayProcess]) -> None:
    async with clients_of(processes) as both:
        players = [await clients.player() for clients in both * 4]
        for player in players:
            await join(player)

        async def publish(number: int) -> None:
            for count in range(25):
                receipt = await players[number].call(
                    "publish", {"room": ROOM, "data": [number, count]}
                )
                assert receipt["ok"], receipt

        await asyncio.gather(*(publish(number) for number in range(len(players))))
        whole = await messages(players[0], 25 * len(players))
        assert sorted(whole) == [[n, count] for n in range(len(players)) for count in range(25)]
        for player in players[1:]:
            assert await messages(player, len(whole)) == whole


async def test_what_a_killed_gateway_leaves_behind_holds_nothing_up(
    processes: list[GatewayProcess],
) -> None:
    async with clients_of(processes) as (first, second):
        here = [await first.player() for _ in range(4)]
        there = [await second.player() for _ in range(4)]
        for player in (*here, *there):
            await join(player)
        for number in range(200):
            await here[number % 4].emit(
                "publish", {"room": ROOM, "data": number, "id": str(number)}
            )
        processes[0].kill()
        receipt = await there[0].call("publish", {"room": ROOM, "data": "last"})
        assert receipt["ok"], receipt

        async def whole(player: Player) -> list[Any]:
            found: list[Any] = []
            while not found or found[-1] != "last":
                found += await messages(player, 1)
            return found

        seen = [await whole(player) for player in there]
        assert all(each == seen[0] for each in seen)
        assert len(set(map(str, seen[0]))) == len(seen[0])
        processes[0].start()


async def test_a_volatile_message_reaches_members_at_the_other_gateway(
    processes: list[GatewayProcess],
) -> None:
    async with clients_of(processes) as (first, second):
        ann, bob, eve = await first.player(), await second.player(), await second.player()
        await join(ann)
        await join(bob)
        await told(ann, 2)
        await told(bob, 1)
        # When this is answered, what the other gateway shows of its rooms is there as well.
        assert (await bob.call("publish", {"room": ROOM, "data": "stored"}))["ok"]
        receipt = await ann.call(
            "publish", {"room": ROOM, "data": 1, "volatile": True, "echo": False}
        )
        assert (receipt["status"], receipt["connections"]) == ("delivered", 1)
        assert await messages(bob, 2) == ["stored", 1]
        receipt = await eve.call("message", {"target_id": ann.true_id, "data": "hi"})
        assert receipt["connections"] == 1
        assert await messages(ann, 2) == ["stored", "hi"]
