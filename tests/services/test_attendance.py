"""Who is online, as the game's backend is told: every coming and going, none of them twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count

import pytest

from gateway.attendance import Attendance
from gateway.errors import StoreUnavailable
from gateway.messages import TrueId
from gateway.outbox import OutboxLimits
from gateway.stores.memory import MemoryStore
from tests.services.world import LIMITS, Clock, scenario, settled

ANN, BOB = TrueId("ann"), TrueId("bob")
GRACE = 0.05


class Store(MemoryStore):
    """A memory store that can be out of reach, or slow."""

    down = False
    fault = False
    gate: asyncio.Event | None = None

    def __init__(self) -> None:
        limits = replace(LIMITS, outbox=OutboxLimits(enabled=True))
        super().__init__(limits, "e1", count(1), lambda reason, number: None)

    async def report_presence(self, changes: Mapping[TrueId, bool], now: float) -> None:
        if self.down:
            raise StoreUnavailable("down")
        if self.fault:
            raise RuntimeError("a fault")
        if self.gate is not None:
            await self.gate.wait()
        await super().report_presence(changes, now)

    async def reported_online(self) -> frozenset[TrueId]:
        if self.down:
            raise StoreUnavailable("down")
        return await super().reported_online()

    def told(self) -> list[tuple[str, str]]:
        return [(each.event.true_id, each.event.type) for each in self.outbox.list(0, 100)]


class Scene:
    def __init__(self, store: Store, grace: float) -> None:
        self.store = store
        self.here: set[TrueId] = set()
        self.attendance = Attendance(
            store, self.here.__contains__, grace, Clock(), asyncio.get_running_loop().time
        )

    async def come(self, *true_ids: TrueId) -> None:
        for true_id in true_ids:
            self.here.add(true_id)
            self.attendance.touch(true_id)
        await settled()

    async def go(self, *true_ids: TrueId) -> None:
        for true_id in true_ids:
            self.here.discard(true_id)
            self.attendance.touch(true_id)
        await settled()


@asynccontextmanager
async def scene(store: Store | None = None, grace: float = 3600.0) -> AsyncIterator[Scene]:
    running = Scene(store or Store(), grace)
    task = asyncio.create_task(running.attendance.run())
    await settled()
    try:
        yield running
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(store: Store, told: list[tuple[str, str]]) -> None:
    async with asyncio.timeout(15):
        while store.told() != told:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@scenario
async def test_who_comes_and_goes_is_told_in_order() -> None:
    async with scene() as now:
        await now.come(ANN, BOB)
        await now.go(ANN)
        await now.come(ANN)
        assert now.store.told() == [
            ("ann", "player.online"),
            ("bob", "player.online"),
            ("ann", "player.offline"),
            ("ann", "player.online"),
        ]


@scenario
async def test_who_is_here_already_is_told_once() -> None:
    async with scene() as now:
        await now.come(ANN)
        await now.come(ANN)
        await now.go(BOB)
        assert now.store.told() == [("ann", "player.online")]


@scenario
async def test_who_comes_while_the_store_is_away_is_told_afterwards() -> None:
    async with scene() as now:
        await now.come(ANN)
        now.store.down = True
        await now.go(ANN)
        await now.come(BOB)
        await now.come(ANN)
        now.store.down = False
        await until(now.store, [("ann", "player.online"), ("bob", "player.online")])


@scenario
async def test_a_fault_is_logged_and_the_reports_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async with scene() as now:
        now.store.fault = True
        await now.come(ANN)
        assert now.store.told() == []
        now.store.fault = False
        await until(now.store, [("ann", "player.online")])
    assert "reporting who comes and goes failed" in caplog.text


@scenario
async def test_who_goes_while_the_coming_is_written_is_told_to_have_gone() -> None:
    async with scene() as now:
        now.store.gate = asyncio.Event()
        await now.come(ANN)
        await now.go(ANN)
        assert now.store.told() == []
        now.store.gate.set()
        await until(now.store, [("ann", "player.online"), ("ann", "player.offline")])


@scenario
async def test_who_was_online_when_the_gateway_died_is_offline_after_the_grace() -> None:
    store = Store()
    await store.report_presence({ANN: True, BOB: True}, 0.0)
    came = [("ann", "player.online"), ("bob", "player.online")]
    async with scene(store, GRACE) as now:
        assert store.told() == came
        await now.come(BOB)
        await until(store, [*came, ("ann", "player.offline")])
    assert await store.reported_online() == {BOB}


@scenario
async def test_who_is_back_within_the_grace_was_never_gone() -> None:
    store = Store()
    await store.report_presence({ANN: True}, 0.0)
    async with scene(store) as now:
        await now.come(ANN)
        assert store.told() == [("ann", "player.online")]
        await now.go(ANN)
        assert store.told()[1:] == [("ann", "player.offline")]


@scenario
async def test_a_store_that_is_away_at_the_start_is_asked_later() -> None:
    store = Store()
    await store.report_presence({ANN: True}, 0.0)
    store.down = True
    async with scene(store, GRACE) as now:
        await now.come(BOB)
        store.down = False
        await until(
            store,
            [("ann", "player.online"), ("bob", "player.online"), ("ann", "player.offline")],
        )


@scenario
async def test_another_store_is_told_who_is_here() -> None:
    async with scene(grace=0.0) as now:
        await now.come(ANN)
        other = now.store.outbox
        other.online.clear()
        await other_report(now.store, BOB)
        now.attendance.start_anew()
        await until(
            now.store,
            [
                ("ann", "player.online"),
                ("bob", "player.online"),
                ("ann", "player.online"),
                ("bob", "player.offline"),
            ],
        )


async def other_report(store: Store, true_id: TrueId) -> None:
    """What the other store says was reported by another gateway."""
    await MemoryStore.report_presence(store, {true_id: True}, 0.0)
