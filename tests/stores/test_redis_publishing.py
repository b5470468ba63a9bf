"""Messages to rooms over several nodes: one order for all, whoever dies on the way."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError, StoreUnavailable
from gateway.mailbox import OVERHEAD, Batch, Draft, Retention, RoomDraft
from gateway.membership import RoomLimitReached, RoomLimits
from gateway.messages import SessionId, TrueId
from gateway.store import Accepted, Copies, MailboxFull, Membership, NotMember, Published
from gateway.store_url import parse_redis_url
from gateway.stores.redis import bus, fanout, publishing
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
    """Nodes on one server. `nodes` is who lives."""

    def __init__(self, server: RedisServer, prefix: str, limits: dict[str, Any]) -> None:
        self._url = f"{server.url}?prefix={prefix}"
        self._limits = replace(LIMITS, **{"dedupe_window": 1000.0, **limits})
        self._numbers = itertools.count(1)
        self._prefix = prefix
        self.server = server
        self.nodes: list[Node] = []

    def key(self, name: str, key: str) -> str:
        """Return a key of the partition of a player or room."""
        return f"{self._prefix}:{{{partition_of(name, PARTITIONS)}}}:{key}"

    def keys(self, pattern: str) -> list[bytes]:
        found: list[bytes] = self.server.ask("KEYS", f"{self._prefix}:*:{pattern}")
        return found

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
async def world(server: RedisServer, count: int, **limits: Any) -> AsyncIterator[World]:
    subject = World(server, f"publishing{next(prefixes)}", limits)
    try:
        for _ in range(count):
            await subject.start()
        yield subject
    finally:
        await subject.close()


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 4 * LONG))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has died is not waited for long here."""
    monkeypatch.setattr(fanout, "_PAUSES", (0.001, 0.002, 0.004, 0.004))
    monkeypatch.setattr(publishing, "_STALE_AFTER", 0)


#: Who publishes through which node, and after how many more calls the node dies, if it does.
deeds = st.tuples(
    st.integers(0, len(PLAYERS) - 1), st.integers(0, 2), st.none() | st.integers(0, 20)
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rounds=st.lists(st.lists(deeds, min_size=1, max_size=8), min_size=1, max_size=5))
def test_everybody_sees_the_same_messages_in_the_same_order(
    redis_server: RedisServer, rounds: list[list[tuple[int, int, int | None]]]
) -> None:
    async def scenario() -> None:
        async with world(redis_server, 3) as subject:
            for true_id in PLAYERS:
                await subject.nodes[0].join(true_id)
            keys = itertools.count()
            acknowledged: list[bytes] = []

            async def publish(sender: TrueId, node: Node) -> None:
                """Publish, and again through another node until it is accepted."""
                key = f"key{next(keys)}"
                while True:
                    result = await node.publish(key.encode(), sender=sender, key=key)
                    if isinstance(result, Published):
                        acknowledged.append(key.encode())
                        return
                    assert isinstance(result, StoreUnavailable)
                    alive = [each for each in subject.nodes if each.redis.left is None]
                    node = alive[0] if alive else await subject.start()

            for deeds_of_round in rounds:
                doomed = []
                for _, place, left in deeds_of_round:
                    node = subject.nodes[place % len(subject.nodes)]
                    if left is not None and node not in doomed:
                        node.redis.left = left
                        doomed.append(node)
                await asyncio.gather(
                    *(
                        publish(PLAYERS[who], subject.nodes[place % len(subject.nodes)])
                        for who, place, _ in deeds_of_round
                    )
                )
                for node in doomed:
                    await subject.bury(node)
                while len(subject.nodes) < 3:
                    await subject.start()
            await settle(subject)
            first, *others = await subject.nodes[0].read_all()
            assert sorted(first) == sorted(acknowledged)
            assert all(each == first for each in others)

    run(scenario())


async def settle(subject: World) -> None:
    """Wait until nothing is under way any more."""
    node = subject.nodes[0]
    for _ in range(1000):
        await node.store.expire(0.0)
        if not subject.keys("g[lu]*"):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("something stays under way")


class Step(NamedTuple):
    """What a player does through a node."""

    what: str
    player: int
    node: int
    left: int | None


steps = st.builds(
    Step,
    st.sampled_from(["publish", "publish", "join", "leave"]),
    st.integers(0, len(PLAYERS) - 1),
    st.integers(0, 2),
    st.none() | st.none() | st.integers(0, 20),
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rounds=st.lists(st.lists(steps, min_size=1, max_size=10), min_size=1, max_size=6))
def test_members_that_come_and_go_see_one_order(
    redis_server: RedisServer, rounds: list[list[Step]]
) -> None:
    async def scenario() -> None:
        async with world(redis_server, 3) as subject:
            keys = itertools.count()
            #: Who was a member before a message was sent, and did not leave before its end.
            entitled: dict[bytes, set[TrueId]] = {}

            def alive(place: int) -> Node:
                nodes = [each for each in subject.nodes if each.redis.left is None]
                return nodes[place % len(nodes)] if nodes else subject.nodes[-1]

            async def take(step: Step, node: Node, members: set[TrueId]) -> None:
                true_id = PLAYERS[step.player]
                key = f"key{next(keys)}"
                while True:
                    result: object
                    if step.what == "join":
                        result = await node.join(true_id)
                    elif step.what == "leave":
                        result = await node.leave(true_id)
                    else:
                        result = await node.publish(key.encode(), sender=true_id, key=key)
                    if isinstance(result, Published):
                        entitled[key.encode()] = members
                    if not isinstance(result, StoreUnavailable):
                        return
                    if not [each for each in subject.nodes if each.redis.left is None]:
                        await subject.start()
                    node = alive(step.node)

            for steps_of_round in rounds:
                members = set(subject.nodes[0].store.memberships.members_of(ROOM))
                for step in steps_of_round:
                    if step.left is not None:
                        subject.nodes[step.node % len(subject.nodes)].redis.left = step.left
                    if step.what == "leave":
                        members.discard(PLAYERS[step.player])
                doomed = [each for each in subject.nodes if each.redis.left is not None]
                nodes = [*subject.nodes]
                await asyncio.gather(
                    *(take(each, nodes[each.node], members) for each in steps_of_round)
                )
                for node in doomed:
                    await subject.bury(node)
                while len(subject.nodes) < 3:
                    await subject.start()
                await agree(subject)
            await settle(subject)
            for node in subject.nodes:
                assert node.believed == set(node.store.memberships.members_of(ROOM))
            boxes = dict(zip(PLAYERS, await subject.nodes[0].read_all(), strict=True))
            for one, other in itertools.combinations(boxes.values(), 2):
                assert len(set(one)) == len(one)
                common = set(one) & set(other)
                assert [each for each in one if each in common] == [
                    each for each in other if each in common
                ]
            for body, members in entitled.items():
                assert all(body in boxes[each] for each in members)

    run(scenario())


async def agree(subject: World) -> None:
    """Wait until all nodes have heard of all changes: then they know the same members."""
    for _ in range(1000):
        found = redis_members(subject)
        if all(dict(each.store.memberships.members_of(ROOM)) == found for each in subject.nodes):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("a node does not hear of a change")


def redis_members(subject: World) -> dict[TrueId, int]:
    found: list[bytes] = subject.server.ask("HGETALL", subject.key(ROOM, f"g:{ROOM}"))
    pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
    members = sorted((int(number), TrueId(each.decode())) for each, number in pairs)
    return {true_id: number for number, true_id in members}


# One step after the other

A, B, C = PLAYERS[:3]


def published(result: Published | GatewayError) -> Published:
    assert isinstance(result, Published)
    return result


def places(result: Published) -> dict[TrueId, int]:
    return {each: message.offset for message, players in result.copies for each in players}


async def half_sent(subject: World, calls: int) -> None:
    """A node dies after so many calls for its message."""
    node = await subject.start()
    node.redis.left = calls
    assert isinstance(await node.publish(b"half", sender=A, key="k"), StoreUnavailable)
    await subject.bury(node)


@pytest.mark.parametrize("calls", range(1, 4))
def test_what_a_dead_node_has_begun_comes_before_the_next_message(
    redis_server: RedisServer, calls: int
) -> None:
    async def scenario() -> None:
        async with world(redis_server, 1) as subject:
            (node,) = subject.nodes
            for true_id in (A, B, C):
                await node.join(true_id)
            await half_sent(subject, calls)
            published(await node.publish(b"next", sender=B))
            assert [await node.read(each) for each in (A, B, C)] == [[b"half", b"next"]] * 3
            # What was stored on the way is told, too.
            assert {each for body, each in node.copies if body == b"half"} >= {C}
            result = published(await node.publish(b"half", sender=A, key="k"))
            assert (result.duplicate, result.copies) == (True, ())
            assert result.message_id is not None
            assert result.message_id.split(b".")[1] == b"1"
            assert subject.keys("g[lu]*") == []

    run(scenario())


@pytest.mark.parametrize("calls", range(1, 5))
def test_a_second_try_finishes_what_the_first_has_begun(
    redis_server: RedisServer, calls: int
) -> None:
    async def scenario() -> None:
        async with world(redis_server, 1) as subject:
            (node,) = subject.nodes
            for true_id in (A, B, C):
                await node.join(true_id)
            if calls < 4:
                await half_sent(subject, calls)
            else:
                published(await node.publish(b"half", sender=A, key="k"))
            for _ in range(2):
                result = published(await node.publish(b"half", sender=A, key="k"))
                assert result.duplicate
                epoch = node.store.epoch_of(A).encode()
                assert result.message_id is not None
                assert result.message_id.startswith(epoch + b".1.")
            assert [await node.read(each) for each in (A, B, C)] == [[b"half"]] * 3

    run(scenario())


def test_what_a_dead_node_has_begun_is_finished_though_nobody_sends(
    redis_server: RedisServer,
) -> None:
    async def scenario() -> None:
        async with world(redis_server, 1) as subject:
            (node,) = subject.nodes
            for true_id in (A, B, C):
                await node.join(true_id)
            await half_sent(subject, 2)
            await settle(subject)
            assert [await node.read(each) for each in (A, B, C)] == [[b"half"]] * 3

    run(scenario())


def test_who_has_left_meanwhile_holds_nothing_up(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with world(redis_server, 1) as subject:
            (node,) = subject.nodes
            for true_id in (A, B, C):
                await node.join(true_id)
            await half_sent(subject, 1)
            await node.leave(C)
            await node.leave(B)
            await node.join(B)
            published(await node.publish(b"next", sender=B))
            assert await node.read(A) == [b"half", b"next"]
            # They came back after it was sent.
            assert (await node.read(B), await node.read(C)) == ([b"next"], [])

    run(scenario())


def test_a_partition_that_has_forgotten_the_room_takes_the_next_message(
    redis_server: RedisServer,
) -> None:
    async def scenario() -> None:
        async with world(redis_server, 1) as subject:
            (node,) = subject.nodes
            for true_id in (A, B):
                await node.join(true_id)
            published(await node.publish(b"1", sender=A))
            assert redis_server.ask("DEL", subject.key(B, f"q:{ROOM}")) == 1
            published(await node.publish(b"2", sender=A))
            assert [await node.read(each) for each in (A, B)] == [[b"1", b"2"]] * 2

    run(scenario())


def test_nodes_with_connections_of_members_are_told(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with world(redis_server, 1) as subject:
            (node,) = subject.nodes
            here, there = neighbours()
            for true_id in (here, *there):
                await node.join(true_id)
            redis_server.ask("HSET", subject.key(here, f"r:{here}"), "node1", 1, "node9", 1)
            for true_id in there:
                redis_server.ask("HSET", subject.key(here, f"r:{true_id}"), "node9", 2, "gone", 1)
            with redis_server.client() as client:
                listener = client.pubsub()
                listener.ssubscribe(subject.key(here, "n:node9"))
                assert listener.get_message(timeout=LONG)["type"] == "ssubscribe"
                result = published(await node.publish(b"1", sender=here))
                kind, fields = bus.decode(listener.get_message(timeout=LONG)["data"])
                listener.close()
            assert kind == bus.COPIES
            told = {
                each: message for message, players in bus.decode_copies(fields) for each in players
            }
            assert told == {each: message for message, players in result.copies for each in players}
            assert (result.remote, result.elsewhere) == (1 + 3 * len(there), len(there))
            # Nobody listened there.
            for true_id in there:
                assert redis_server.ask("HKEYS", subject.key(here, f"r:{true_id}")) == [b"node9"]

    run(scenario())


def neighbours() -> tuple[TrueId, list[TrueId]]:
    """Return players of one partition."""
    partition = partition_of(PLAYERS[0], PARTITIONS)
    names = (TrueId(f"neighbour{number}") for number in itertools.count())
    found = (each for each in names if partition_of(each, PARTITIONS) == partition)
    return PLAYERS[0], [next(found) for _ in range(3)]


def test_nodes_are_told_of_holes_and_of_whom_a_session_passes_over(
    redis_server: RedisServer,
) -> None:
    async def scenario() -> None:
        limits = {"mailbox": Retention(1, 0, 0), "refuse_when_full": True}
        async with world(redis_server, 1, **limits) as subject:
            (node,) = subject.nodes
            for true_id in (A, B):
                await node.join(true_id)
                redis_server.ask("HSET", subject.key(true_id, f"r:{true_id}"), "node9", 1)
            heard: list[tuple[bytes, list[bytes]]] = []
            with redis_server.client() as client:
                listener = client.pubsub()
                for true_id in (A, B):
                    listener.ssubscribe(subject.key(true_id, "n:node9"))
                    assert listener.get_message(timeout=LONG)["type"] == "ssubscribe"
                await node.publish(b"0", sender=A, skip=SessionId("s1"))
                result = published(await node.publish(b"1", sender=A))
                heard = [bus.decode(listener.get_message(timeout=LONG)["data"]) for _ in range(4)]
                listener.close()
            assert set(result.full) == {A, B}
            assert node.dropped == [("refused", 2)]
            kinds = sorted(kind for kind, _ in heard)
            assert kinds == [bus.COPIES, bus.HOLES, bus.HOLES, bus.MESSAGE]
            holes = [bus.decode_players(fields) for kind, fields in heard if kind == bus.HOLES]
            assert sorted(holes) == [[A], [B]]
            (skipped,) = (fields for kind, fields in heard if kind == bus.MESSAGE)
            true_id, message = bus.decode_message(skipped)
            assert (true_id, message.body, message.skip) == (A, b"0", "s1")

    run(scenario())


def test_a_node_that_has_not_heard_of_a_member_sends_to_them_all_the_same(
    redis_server: RedisServer,
) -> None:
    async def scenario() -> None:
        async with world(redis_server, 2) as subject:
            first, second = subject.nodes
            await first.join(A)
            # The channel of changes is slower than this.
            second.store._rooms.mirror.reload(partition_of(ROOM, PARTITIONS))
            await first.join(B)
            assert set(places(published(await second.publish(b"1", sender=B)))) == {A, B}
            await first.leave(A)
            assert set(places(published(await second.publish(b"2", sender=B)))) == {B}
            assert isinstance(await second.publish(b"3", sender=A), NotMember)

    run(scenario())


def test_a_sender_s_messages_keep_their_order(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with world(redis_server, 1) as subject:
            (node,) = subject.nodes
            for true_id in PLAYERS:
                await node.join(true_id)
            answers: list[int] = []
            done = asyncio.Event()

            def answered(number: int) -> Callable[..., None]:
                def call(draft: object, result: Accepted | Published | GatewayError) -> None:
                    assert not isinstance(result, GatewayError)
                    answers.append(number)
                    if len(answers) == 40:
                        done.set()

                return call

            for number in range(40):
                body = b"%d" % number
                if number % 3:
                    node.store.publish(RoomDraft(ROOM, A, body), 0.0, answered(number))
                else:
                    node.store.append(Draft(B, A, body), 0.0, answered(number))
            await asyncio.wait_for(done.wait(), LONG)
            assert answers == list(range(40))
            assert await node.read(B) == [b"%d" % number for number in range(40)]

    run(scenario())


def test_limits_in_total_hold_over_all_partitions(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        limits = {"total_bytes": 20 * OVERHEAD, "rooms": RoomLimits(rooms=3)}
        async with world(redis_server, 1, **limits) as subject:
            (node,) = subject.nodes
            for true_id in PLAYERS[:8]:
                await node.join(true_id)
            for number in range(5):
                await node.store.look()
                result = await node.publish(b"", sender=A)
                assert isinstance(result, Published if number < 2 else MailboxFull)
            await node.store.look()
            assert node.store.bytes == 16 * OVERHEAD
            assert {len(await node.read(each)) for each in PLAYERS[:8]} == {2}
            for number in range(5):
                await node.store.look()
                joined = await node.join(A, f"room{number}")
                assert isinstance(joined, Membership if number < 2 else RoomLimitReached)

    run(scenario())


def test_a_room_that_was_left_by_all_leaves_nothing(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with world(redis_server, 1) as subject:
            (node,) = subject.nodes
            for true_id in (A, B):
                await node.join(true_id)
            published(await node.publish(b"1", sender=A))
            for true_id in (A, B):
                await node.leave(true_id)
            assert subject.keys(f"g*:{ROOM}") == []
            assert subject.keys("rooms") == []
            # It begins anew, behind what was there before.
            await node.join(A)
            published(await node.publish(b"2", sender=A))
            assert await node.read(A) == [b"1", b"2"]

    run(scenario())


# Links that break


def test_links_that_break_lose_and_double_nothing(redis_server: RedisServer) -> None:
    """What a broken link was asked may have been done or not: the keys tell."""

    async def scenario() -> None:
        async with world(redis_server, 3) as subject:
            for true_id in PLAYERS:
                await subject.nodes[0].join(true_id)
            await agree(subject)
            acknowledged: list[bytes] = []
            unavailable = 0

            async def publish(place: int) -> None:
                nonlocal unavailable
                node = subject.nodes[place % 3]
                for number in range(40):
                    body = b"%d.%d" % (place, number)
                    while not isinstance(
                        await node.publish(body, sender=PLAYERS[place], key=body.decode()),
                        Published,
                    ):
                        unavailable += 1
                        await asyncio.sleep(0.01)
                    acknowledged.append(body)

            async def break_links() -> None:
                while len(acknowledged) < 40 * len(PLAYERS):
                    await asyncio.to_thread(kill_links, redis_server)
                    await asyncio.sleep(0.2)

            await asyncio.gather(break_links(), *(publish(place) for place in range(len(PLAYERS))))
            assert unavailable
            await settle(subject)
            first, *others = await subject.nodes[0].read_all()
            assert sorted(first) == sorted(acknowledged)
            assert len(set(first)) == len(first)
            assert all(each == first for each in others)

    run(scenario())


def kill_links(server: RedisServer) -> None:
    with server.client() as client:
        for kind in ("normal", "pubsub"):
            client.client_kill_filter(_type=kind, skipme=True)
