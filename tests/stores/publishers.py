"""Nodes that publish to a room, and may die in the middle of it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from gateway.errors import GatewayError, StoreUnavailable
from gateway.mailbox import Batch, RoomDraft
from gateway.messages import SessionId, TrueId
from gateway.store import Copies, Membership, Published
from gateway.store_url import parse_redis_url
from gateway.stores.redis.client import Done, Redis, Word
from gateway.stores.redis.keys import partition_of
from gateway.stores.redis.scripts import Script
from gateway.stores.redis.store import RedisStore
from tests.redis_servers import RedisServer
from tests.stores.conftest import LIMITS

PARTITIONS = 16
PLAYERS = [TrueId(f"player{number}") for number in range(12)]
ROOM = "room"
#: A guard against hangs, in seconds.
LONG = 60


class Mortal(Redis):
    """A client that dies after so many calls: what it sent before is done, and nothing more."""

    left: int | None = None

    def call(self, partition: int, script: Script, args: Sequence[Word], done: Done) -> None:
        if self.left == 0:
            error = StoreUnavailable("this node is dead")
            asyncio.get_running_loop().call_soon(done, error)
            return
        if self.left is not None:
            self.left -= 1
        super().call(partition, script, args, done)


class Node:
    """A store of its own, and what it was told of messages that others have stored."""

    def __init__(self, store: RedisStore, redis: Mortal, dropped: list[tuple[str, int]]) -> None:
        self.store = store
        self.redis = redis
        self.dropped = dropped
        self.copies: list[tuple[bytes, TrueId]] = []
        #: Members of the room, by what this node was told and answered.
        self.believed = set(store.memberships.members_of(ROOM))
        store.on_copies = self._on_copies
        store.on_membership = self._on_membership

    def _on_copies(self, copies: Sequence[Copies], full: Sequence[TrueId]) -> None:
        self.copies += [(message.body, each) for message, players in copies for each in players]

    def _on_membership(self, room: str, true_id: TrueId, joined: bool, members: int) -> None:
        (self.believed.add if joined else self.believed.discard)(true_id)

    def _answered(
        self, true_id: TrueId, joined: bool, result: Membership | GatewayError
    ) -> Membership | GatewayError:
        if isinstance(result, Membership) and result.changed:
            self._on_membership(ROOM, true_id, joined, result.members)
        return result

    async def publish(
        self,
        body: bytes,
        *,
        sender: TrueId | None = PLAYERS[0],
        key: str | None = None,
        skip: SessionId | None = None,
    ) -> Published | GatewayError:
        draft = RoomDraft(ROOM, sender, body, key, skip)
        return await asked(lambda done: self.store.publish(draft, 0.0, done))

    async def join(self, true_id: TrueId, room: str = ROOM) -> Membership | GatewayError:
        def ask(done: Callable[..., None]) -> None:
            self.store.join(
                room, true_id, lambda result: done(self._answered(true_id, True, result))
            )

        return await asked(ask)

    async def leave(self, true_id: TrueId) -> Membership | GatewayError:
        def ask(done: Callable[..., None]) -> None:
            self.store.leave(
                ROOM, true_id, lambda result: done(self._answered(true_id, False, result))
            )

        return await asked(ask)

    async def read(self, true_id: TrueId) -> list[bytes]:
        batch = await asked(lambda done: self.store.read(true_id, 0, 10_000, 0, done))
        assert isinstance(batch, Batch)
        return [message.body for message in batch.messages]

    async def read_all(self) -> list[list[bytes]]:
        return [await self.read(true_id) for true_id in PLAYERS]


async def asked(ask: Callable[[Callable[..., None]], None]) -> Any:
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    ask(lambda *arguments: answer.set_result(arguments[-1]))
    return await asyncio.wait_for(answer, LONG)


class World:
    """Nodes on one store, whose data `servers` have. `nodes` is who lives."""

    def __init__(
        self, url: str, servers: list[RedisServer], prefix: str, limits: dict[str, Any]
    ) -> None:
        self._url = f"{url}{'&' if '?' in url else '?'}prefix={prefix}"
        self._limits = replace(LIMITS, **{"dedupe_window": 1000.0, **limits})
        self._numbers = itertools.count(1)
        self._prefix = prefix
        self.servers = servers
        self.nodes: list[Node] = []
        #: What nodes were told of limits.
        self.limits_hit: list[str] = []

    def key(self, name: str, key: str) -> str:
        """Return a key of the partition of a player or room."""
        return f"{self._prefix}:{{{partition_of(name, PARTITIONS)}}}:{key}"

    def keys(self, pattern: str) -> list[bytes]:
        """Return the keys of all partitions that are like this."""
        whole = f"{self._prefix}:*:{pattern}"
        return [key for server in self.servers for key in server.ask("KEYS", whole)]

    async def start(self) -> Node:
        number = next(self._numbers)
        redis = Mortal(parse_redis_url(self._url), PARTITIONS)
        dropped: list[tuple[str, int]] = []
        store = RedisStore(
            redis,
            self._limits,
            f"node{number}",
            itertools.count(number << 32),
            lambda *each: dropped.append(each),
            on_limit=self.limits_hit.append,
        )
        await store.open()
        node = Node(store, redis, dropped)
        self.nodes.append(node)
        return node

    async def bury(self, node: Node) -> None:
        if node in self.nodes:
            self.nodes.remove(node)
        await node.store.close()

    async def close(self) -> None:
        for node in tuple(self.nodes):
            await self.bury(node)


prefixes = itertools.count()


@asynccontextmanager
async def world(
    server: RedisServer,
    count: int,
    url: str = "",
    others: tuple[RedisServer, ...] = (),
    **limits: Any,
) -> AsyncIterator[World]:
    """Start so many nodes on a server, or with a `url` on several."""
    prefix = f"publishing{next(prefixes)}"
    subject = World(url or server.url, [server, *others], prefix, limits)
    try:
        for _ in range(count):
            await subject.start()
        yield subject
    finally:
        await subject.close()


async def settle(subject: World) -> None:
    """Wait until nothing is under way any more."""
    node = subject.nodes[0]
    for _ in range(1000):
        await node.store.expire(0.0)
        if not subject.keys("g[lu]*"):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("something stays under way")


async def agree(subject: World) -> None:
    """Wait until all nodes have heard of all changes: then they know the same members."""
    for _ in range(1000):
        found = redis_members(subject)
        if all(dict(each.store.memberships.members_of(ROOM)) == found for each in subject.nodes):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("a node does not hear of a change")


def redis_members(subject: World) -> dict[TrueId, int]:
    found: list[bytes] = subject.servers[0].ask("HGETALL", subject.key(ROOM, f"g:{ROOM}"))
    pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
    members = sorted((int(number), TrueId(each.decode())) for each, number in pairs)
    return {true_id: number for number, true_id in members}
