"""Whether a node that has lost the store sends its players away. In which order: test_draining."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest

from gateway.cut_off import CutOff
from gateway.nodes import NodeId
from tests.services.world import World, scenario
from tests.waiting import until

PATIENCE = 0.05
ONE, TWO = NodeId("one"), NodeId("two")


class Others:
    """Two other nodes, and how often they were asked."""

    def __init__(self, one: bool = False, two: bool = False) -> None:
        self.serving = {ONE: one, TWO: two}
        self.asked = 0

    async def serves(self, node: NodeId) -> bool:
        self.asked += 1
        return self.serving[node]

    async def asked_again(self) -> None:
        """Wait until both were asked twice from now on: once all of it was after now."""
        enough = self.asked + 4
        await until(lambda: self.asked >= enough)


@asynccontextmanager
async def cut_off(
    world: World, others: Others, pace: tuple[float, float] = (0.0, 5.0)
) -> AsyncIterator[CutOff]:
    """The world's node, when the store has been away for the length of its lease."""
    service = CutOff(
        world.registry, lambda: others.serving, others.serves, lambda: pace, Random(1), PATIENCE
    )
    service.begin()
    yield service
    await service.stop()


async def gone(world: World) -> None:
    await until(lambda: not len(world.registry))


@scenario
async def test_players_stay_while_no_other_node_has_the_store(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world, others = World(), Others()
    client = await world.guest()
    async with cut_off(world, others):
        await others.asked_again()
        await others.asked_again()
        assert client.closed is None
        assert not client.payloads("goaway")
    assert caplog.text.count("players stay here") == 1


@scenario
async def test_players_are_sent_away_one_by_one_when_another_node_has_it() -> None:
    world, others = World(), Others(two=True)
    clients = [await world.guest() for _ in range(4)]
    async with cut_off(world, others, (40.0, 5.0)):
        await gone(world)
    notices = [notice for client in clients for notice in client.payloads("goaway")]
    assert {notice["reason"] for notice in notices} == {"cut_off"}
    assert sorted(notice["reconnect_in"] for notice in notices) == [1.025, 1.05, 1.075, 1.1]
    assert [client.closed for client in clients] == [("cut_off", True)] * 4


@scenario
async def test_one_that_gets_the_store_back_later_takes_them_too() -> None:
    world, others = World(), Others()
    client = await world.guest()
    async with cut_off(world, others, (0.0, 0.0)):
        await others.asked_again()
        assert client.closed is None
        others.serving[ONE] = True
        await gone(world)
    assert client.closed == ("cut_off", True)


@scenario
async def test_who_is_still_here_stays_when_the_store_is_back() -> None:
    world, others = World(), Others(one=True)
    first, last = await world.guest(), await world.guest()
    async with cut_off(world, others, (0.1, 600.0)) as service:
        await until(lambda: first.payloads("goaway") and last.payloads("goaway"))
        service.end()
        await asyncio.sleep(0)
        assert (first.closed, last.closed) == (None, None)
        # And the next time it begins anew.
        asked = others.asked
        service.begin()
        await until(lambda: others.asked > asked)


@scenario
async def test_a_gateway_that_stops_sends_nobody_away_for_this() -> None:
    world, others = World(), Others(one=True)
    client = await world.guest()
    async with cut_off(world, others, (0.0, 0.0)) as service:
        await service.stop()
        service.begin()
        await asyncio.sleep(2 * PATIENCE)
        assert client.closed is None
