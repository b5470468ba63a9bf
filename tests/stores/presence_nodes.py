"""Nodes that share presence on a real Redis, for tests: the store's part of it alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from gateway.errors import StoreUnavailable
from gateway.messages import SessionId, TrueId
from gateway.presence_store import Change, Entry, Found, Seen, Tab
from gateway.store_url import parse_redis_url
from gateway.stores.redis import bus
from gateway.stores.redis.client import Redis
from gateway.stores.redis.partitions import Partitions
from gateway.stores.redis.presence import RedisPresence
from gateway.stores.redis.totals import Totals
from tests.stores.conftest import LIMITS

GRACE = 30.0
ANN, BOB = TrueId("ann"), TrueId("bob")


class Clock:
    """The clock of all nodes."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now


class Group:
    """What all nodes share. The first one sees to all partitions."""

    def __init__(self, *names: str, partitions: int) -> None:
        self.clock = Clock()
        self.partitions = partitions
        self.live = frozenset(names)
        self.listed = 0.0
        self.owner = names[0]

    def dies(self, node: str) -> None:
        """The others learn that a node is not alive."""
        self.live -= {node}
        self.is_listed()

    def is_listed(self) -> None:
        """All learn anew who is alive."""
        self.listed = asyncio.get_running_loop().time()


@dataclass
class Peers:
    """The group, as one node sees it."""

    group: Group
    node: str

    @property
    def live(self) -> frozenset[str] | None:
        return self.group.live

    @property
    def listed(self) -> float:
        return self.group.listed

    @property
    def owned(self) -> Collection[int]:
        return range(self.group.partitions) if self.node == self.group.owner else ()


class Backing:
    """A node's connection to Redis, and its part of presence there."""

    def __init__(
        self, url: str, name: str, group: Group, grace: float = GRACE, webhooks: bool = False
    ) -> None:
        self.name = name
        self.redis = Redis(parse_redis_url(url), group.partitions)
        self.partitions = Partitions(self.redis, self._on_replaced)
        self.totals = Totals(self.partitions, LIMITS, name)
        self.webhooks = 0
        self._seeds = count(1)
        self.presence = RedisPresence(
            self.partitions,
            self.totals,
            Peers(group, name),
            name,
            grace,
            lambda partition: (name, 0, 0, next(self._seeds) if webhooks else b""),
            self._note_webhooks,
            group.clock,
        )

    async def open(self) -> None:
        channel = b"n:" + self.name.encode()
        channels = [(each, channel) for each in range(self.redis.partitions)]
        self.redis.listen(channels, self._on_message)
        self.redis.on_restored = self._on_restored
        await self.redis.open()
        await self.partitions.open()

    def _on_message(self, partition: int, channel: bytes, text: bytes) -> None:
        kind, fields = bus.decode(text)
        if kind in (bus.PRESENCE, bus.DROPPED):
            self.presence.on_told(kind, partition, fields)

    def _on_replaced(self, replaced: frozenset[int]) -> None:
        self.presence.on_restored(replaced, complete=False)

    def _on_restored(self, partitions: frozenset[int], same: bool) -> None:
        self.presence.on_restored(partitions, complete=same)

    def _note_webhooks(self, partition: int, counts: Sequence[int]) -> None:
        self.webhooks += counts[0]

    async def settled(self) -> None:
        """What was asked before has been answered, and what that led to."""
        for _ in range(3):
            await self.totals.look()


class Node:
    """One node. `told` is what its listener was told: who, state and connections."""

    def __init__(self, backing: Backing, group: Group) -> None:
        self.name = backing.name
        self.clock = group.clock
        self.backing = backing
        self.redis = backing.redis
        self.totals = backing.totals
        self.presence = backing.presence
        self.presence.attach(self)
        self.told: list[tuple[TrueId, str, int]] = []
        self.dropped: list[TrueId] = []
        self.restored: list[bool] = []
        self.gone: list[TrueId] = []

    # PresenceListener

    def on_seen(self, true_id: TrueId, found: Found, at: float) -> None:
        seen = found.seen
        state = ("offline", 0) if seen is None else (seen.state, seen.connections)
        self.told.append((true_id, *state))

    def on_dropped(self, true_id: TrueId) -> None:
        self.dropped.append(true_id)

    def on_restored(self, concerns: Callable[[TrueId], bool], *, complete: bool) -> None:
        self.restored.append(complete)

    def on_gone(self, true_id: TrueId) -> None:
        self.gone.append(true_id)

    # What it does

    async def say(
        self,
        true_id: TrueId,
        *tabs: str,
        name: str = "Ann",
        status: str | None = None,
        at: float | None = None,
        left: bool = False,
    ) -> Found:
        """Tabs are a session each, with its state: "s1", "s1 hidden", "s1 new lost"."""
        at = self.clock.now if at is None else at
        entry = Entry(name, at, status, at, [_tab(each) for each in tabs]) if tabs else None
        found = await self._ask(
            lambda done: self.presence.write([Change(true_id, entry, at, left)], done), 1
        )
        return found[true_id]

    async def watch(self, *true_ids: TrueId) -> dict[TrueId, Found]:
        return await self._ask(lambda done: self.presence.watch(true_ids, done), len(true_ids))

    async def look(self, *true_ids: TrueId) -> dict[TrueId, Found]:
        return await self._ask(lambda done: self.presence.look(true_ids, done), len(true_ids))

    async def expect(self, *true_ids: TrueId) -> None:
        await self._ask(lambda done: self.presence.expect(true_ids, done), len(true_ids))

    async def seen(self, true_id: TrueId) -> tuple[str, int, float | None]:
        seen = (await self.look(true_id))[true_id].seen
        return ("offline", 0, None) if seen is None else (seen.state, seen.connections, seen.since)

    async def page(
        self, limit: int, cursor: str | None = None
    ) -> tuple[Sequence[tuple[TrueId, Seen]], str | None]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.presence.page(cursor, limit, answer.set_result)
        found = await answer
        assert not isinstance(found, StoreUnavailable)
        return found

    async def sweep(self) -> None:
        self.presence.sweep()
        await self.backing.settled()

    @staticmethod
    async def _ask(ask: Callable[[Any], None], number: int) -> dict[TrueId, Found]:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        known: dict[TrueId, Found] = {}
        asked: list[TrueId] = []

        def done(true_ids: Sequence[TrueId], found: dict[TrueId, Found] | StoreUnavailable) -> None:
            assert not isinstance(found, StoreUnavailable)
            known.update(found)
            asked.extend(true_ids)
            if len(asked) == number:
                answer.set_result(None)

        ask(done)
        await answer
        return known


def _tab(text: str) -> Tab:
    session, *words = text.split()
    state: Any = next((word for word in words if word != "lost"), "active")
    return Tab(SessionId(session), state, "lost" not in words)


@asynccontextmanager
async def nodes_of(group: Group, backings: list[Backing]) -> AsyncIterator[list[Node]]:
    """Open them."""
    nodes = [Node(backing, group) for backing in backings]
    try:
        for backing in backings:
            await backing.open()
        yield nodes
    finally:
        for backing in backings:
            await backing.redis.close()
