"""Rooms whose members are connected to several nodes: what each node hears of the others."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from gateway.mailbox import Retention, RoomDraft, StoredMessage
from gateway.messages import ConnectionId, SessionId, TrueId
from gateway.metrics import Metrics
from gateway.nodes import VolatileKey
from gateway.store import Membership, Published
from gateway.store_url import parse_redis_url
from gateway.stores.redis.building import build_redis_store
from gateway.stores.redis.keys import partition_of
from gateway.stores.redis.store import RedisStore
from tests.redis_servers import RedisServer
from tests.stores.conftest import ANN, BOB, LIMITS
from tests.stores.test_store import session
from tests.waiting import until

ROOM = "room"
#: A guard against hangs, in seconds.
LONG = 15.0


class Players:
    """The players of a node: what it is asked to tell them."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def on_message(self, message: StoredMessage, true_ids: Sequence[TrueId]) -> None:
        self.told.append(("message", message, list(true_ids)))

    def on_holes(self, true_ids: Sequence[TrueId]) -> None:
        self.told.append(("holes", list(true_ids)))

    def on_volatile(self, true_id: TrueId, array: bytes) -> None:
        self.told.append(("volatile", true_id, array))

    def on_room_volatile(self, room: str, array: bytes, key: VolatileKey | None) -> None:
        self.told.append(("room_volatile", room, array, key))

    def on_membership(self, room: str, true_id: TrueId, joined: bool, members: int) -> None:
        self.told.append(("membership", room, true_id, joined, members))

    def on_fenced(self, true_id: TrueId, session_id: SessionId, version: int) -> None:
        self.told.append(("fenced", true_id))

    def on_ended(self, true_id: TrueId, session_id: SessionId | None, reason: str) -> None:
        self.told.append(("ended", true_id))

    async def answers(self, true_id: TrueId, session_id: SessionId, timeout: float) -> bool:
        return True

    def on_cut_off(self) -> None:
        self.told.append(("cut_off",))

    def on_back(self) -> None:
        self.told.append(("back",))

    async def hears(self, *expected: tuple[Any, ...]) -> None:
        """Wait for exactly this, in this order, and forget it."""
        await until(lambda: len(self.told) >= len(expected))
        assert self.told == list(expected)
        self.told.clear()


async def asked(ask: Callable[[Callable[..., None]], None]) -> Any:
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    ask(lambda *arguments: answer.set_result(arguments[-1]))
    return await asyncio.wait_for(answer, LONG)


async def join(store: RedisStore, true_id: TrueId) -> Membership:
    result = await asked(lambda done: store.join(ROOM, true_id, done))
    assert isinstance(result, Membership)
    return result


async def publish(store: RedisStore, body: bytes, sender: TrueId | None) -> Published:
    draft = RoomDraft(ROOM, sender, body)
    result = await asked(lambda done: store.publish(draft, 0.0, done))
    assert isinstance(result, Published)
    return result


async def connect(store: RedisStore, number: int, true_id: TrueId) -> None:
    await store.add_session(replace(session(number, true_id), connection_id=ConnectionId(number)))


@asynccontextmanager
async def two_nodes(url: str, **limits: Any) -> AsyncIterator[list[tuple[RedisStore, Players]]]:
    found: list[tuple[RedisStore, Players]] = []
    try:
        for number in (1, 2):
            counters = Metrics().counters("heard", "What was heard", "kind")
            store = build_redis_store(
                parse_redis_url(url),
                replace(LIMITS, **limits),
                itertools.count(number << 32),
                lambda reason, count: None,
                lambda concerns: None,
                lambda added, given_up: None,
                lambda kind, seconds: None,
                node_lease=LONG,
                presence_grace=LONG,
                heard=counters,
                on_webhooks_lost=lambda numbers: None,
            )
            players = Players()
            store.nodes.attach(players)
            await store.open()
            found.append((store, players))
        await seen(found)
        yield found
    finally:
        for store, _ in found:
            await store.close()


async def seen(nodes: list[tuple[RedisStore, Players]]) -> None:
    """Wait until each node knows of the other."""
    directories = [store._others.directory for store, _ in nodes if store._others is not None]
    await until(lambda: len(directories) == 2 and all(each.others for each in directories))


def test_every_node_hears_who_comes_and_what_is_said(redis_url: str) -> None:
    async def scenario() -> None:
        async with two_nodes(redis_url) as ((first, here), (second, there)):
            await connect(first, 1, ANN)
            await connect(second, 2, BOB)
            joined = await join(first, ANN)
            await there.hears(("membership", ROOM, ANN, True, 1))
            assert dict(second.memberships.members_of(ROOM)) == {ANN: joined.number}
            await join(second, BOB)
            await here.hears(("membership", ROOM, BOB, True, 2))
            result = await publish(first, b"1", ANN)
            assert (result.remote, result.elsewhere) == (1, 1)
            ((message, _),) = [each for each in result.copies if BOB in each[1]]
            await there.hears(("message", message, [BOB]))
            assert here.told == []
            left = await asked(lambda done: second.leave(ROOM, BOB, done))
            assert left == Membership(True, 1)
            await here.hears(("membership", ROOM, BOB, False, 1))

    asyncio.run(scenario())


def test_a_node_hears_of_a_hole_in_a_mailbox_of_its_player(redis_url: str) -> None:
    async def scenario() -> None:
        limits = {"mailbox": Retention(1, 0, 0), "refuse_when_full": True}
        async with two_nodes(redis_url, **limits) as ((first, here), (second, there)):
            await connect(second, 2, BOB)
            await join(second, BOB)
            await here.hears(("membership", ROOM, BOB, True, 1))
            for body in (b"1", b"2"):
                result = await publish(first, body, None)
            assert list(result.full) == [BOB]
            await until(lambda: len(there.told) >= 2)
            assert [each[0] for each in there.told] == ["message", "holes"]

    asyncio.run(scenario())


def test_what_is_stored_nowhere_goes_to_nodes_that_show_members(redis_url: str) -> None:
    async def scenario() -> None:
        async with two_nodes(redis_url) as ((first, _), (second, there)):

            async def published(key: VolatileKey | None = None) -> int:
                told: int = await asked(
                    lambda done: first.nodes.publish_volatile(ROOM, b"[]", key, done)
                )
                return told

            async def shown(store: RedisStore, members: int) -> None:
                store.nodes.show_room(ROOM, members)
                await asyncio.sleep(0)
                # Calls to one partition are answered in order.
                await store.check()

            assert await published() == 0
            await shown(first, 5)
            await shown(second, 3)
            assert await published() == 3
            assert await published((ANN, ROOM, "k")) == 3
            await there.hears(
                ("room_volatile", ROOM, b"[]", None),
                ("room_volatile", ROOM, b"[]", (ANN, ROOM, "k")),
            )
            # What Redis has lost meanwhile is told again.
            await shown(first, 4)
            second._others.rooms.on_restored(frozenset(range(256)))  # type: ignore[union-attr]
            assert await published() == 3
            await shown(second, 0)
            assert await published() == 0

    asyncio.run(scenario())


def test_what_a_player_asks_at_once_is_all_answered(redis_url: str) -> None:
    async def scenario() -> None:
        async with two_nodes(redis_url) as nodes:
            store = nodes[0][0]
            # One more, one fewer, one more: before the last answer the sum is nothing.
            answers = await asyncio.gather(
                asked(lambda done: store.join("a", ANN, done)),
                asked(lambda done: store.leave("b", ANN, done)),
                asked(lambda done: store.join("c", ANN, done)),
            )
            assert [answer.changed for answer in answers] == [True, False, True]
            assert set(store.memberships.rooms_of(ANN)) == {"a", "c"}

    asyncio.run(scenario())


def test_a_node_that_listens_no_more_is_forgotten(redis_url: str) -> None:
    async def scenario() -> None:
        async with two_nodes(redis_url) as ((first, _), (second, _)):
            second.nodes.show_room(ROOM, 3)
            await asyncio.sleep(0)
            await second.check()
            # As if it had died: nobody was told.
            await second._redis.close()
            told = first._others.rooms  # type: ignore[union-attr]
            for _ in range(2):
                assert await asked(lambda done: told.publish(ROOM, b"[]", None, done)) == 0

    asyncio.run(scenario())


def test_nodes_that_died_do_not_pile_up_in_a_room_that_stays(
    redis_url: str, redis_server: RedisServer
) -> None:
    def noted(store: RedisStore) -> set[bytes]:
        prefix = store._redis.prefix(partition_of(ROOM, 256)).decode()
        return set(redis_server.ask("HGETALL", f"{prefix}rn:{ROOM}"))

    async def scenario() -> None:
        async with two_nodes(redis_url) as ((first, _), (second, _)):
            for store in (first, second):
                store.nodes.show_room(ROOM, 3)
                await asyncio.sleep(0)
                await store.check()
            assert noted(first) == {first.nodes.id.encode(), second.nodes.id.encode()}
            # It dies, without a word and with nobody who writes to the room.
            await second._redis.close()
            async with two_nodes(redis_url) as ((third, _), _):
                third.nodes.show_room(ROOM, 1)
                await asyncio.sleep(0)
                await third.check()
                assert noted(first) == {first.nodes.id.encode(), third.nodes.id.encode()}

    asyncio.run(scenario())
