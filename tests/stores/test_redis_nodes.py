"""Nodes on one Redis: who is alive, who has which partition, what they tell each other."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import StoreUnavailable
from gateway.mailbox import StoredMessage
from gateway.messages import SessionId, TrueId
from gateway.metrics import Counters
from gateway.nodes import Concerns, NodeId, Place
from gateway.session import Session
from gateway.store_url import parse_redis_url
from gateway.stores.redis import bus
from gateway.stores.redis.client import Redis
from gateway.stores.redis.nodes import RedisNodes
from gateway.stores.redis.ownership import owner_of
from gateway.stores.redis.partitions import Partitions
from gateway.stores.redis.resuming import Resuming
from tests.redis_servers import RedisServer
from tests.stores.redis_box import make_box
from tests.stores.redis_client import PUSH
from tests.waiting import run, until

ANN = TrueId("ann")
TAB = SessionId("s1")
PARTITIONS = 8
LEASE = 1.0


class Players:
    """An Inbound that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        #: Whether a probe is answered; None: never.
        self.alive: bool | None = True
        self.places: list[Place] = []

    def on_message(self, message: StoredMessage, true_ids: Sequence[TrueId]) -> None:
        self.told.append(("message", message.offset, *true_ids))

    def on_holes(self, true_ids: Sequence[TrueId]) -> None:
        self.told.append(("holes", *true_ids))

    def on_volatile(self, true_id: TrueId, array: bytes) -> None:
        self.told.append(("volatile", true_id, array))

    def on_fenced(self, true_id: TrueId, session_id: SessionId, version: int) -> None:
        self.told.append(("fenced", true_id, session_id, version))

    def on_ended(self, true_id: TrueId, session_id: SessionId | None, reason: str) -> None:
        self.told.append(("ended", true_id, session_id, reason))

    async def answers(self, true_id: TrueId, session_id: SessionId, timeout: float) -> bool:
        self.told.append(("probe", true_id, session_id, timeout))
        if self.alive is None:
            await asyncio.Event().wait()
        return bool(self.alive)

    def on_doubt(self, concerns: Concerns) -> None:
        self.told.append(("doubt", concerns(ANN)))

    def positions(self, concerns: Concerns) -> list[Place]:
        return [place for place in self.places if concerns(place.true_id)]

    def on_known(self, place: Place, head: int | None) -> None:
        self.told.append(("known", place.connection_id, head))

    def on_session_lost(self, session: Session) -> None:
        self.told.append(("session lost", session.id))

    def on_cut_off(self) -> None:
        self.told.append(("cut off",))

    def on_back(self) -> None:
        self.told.append(("back",))


class NoSessions:
    async def renew_sessions(self, partitions: object) -> list[Session]:
        return []


class Node:
    """A node without a gateway around it."""

    def __init__(self, url: str, name: str, lease: float = LEASE) -> None:
        self.redis = Redis(parse_redis_url(url), PARTITIONS)
        self.heard = Counters("bus", "", "kind")
        self.nodes = RedisNodes(self.redis, NodeId(name), lease, self.heard)
        self.partitions = Partitions(self.redis, lambda replaced: None)
        self.resuming = Resuming(NoSessions(), self.partitions)
        self.nodes.resume_by(self.resuming)
        self.players = Players()
        self.nodes.attach(self.players)
        self.told = self.players.told
        self.owned: set[int] = set()
        self.nodes.ownership.on_won.append(self.owned.add)
        self.nodes.ownership.on_lost.append(self.owned.remove)

    async def open(self) -> None:
        await self.redis.open()
        await self.partitions.open()
        await self.nodes.open()

    async def close(self) -> None:
        await self.nodes.close()
        await self.redis.close()

    async def die(self) -> None:
        """Be gone without a word, as after a SIGKILL."""
        directory = self.nodes.directory
        for timer in (directory._timer, directory._end):
            if timer is not None:
                timer.cancel()
        await self.redis.close()

    def session_at(self, node: str) -> Session:
        return Session(TAB, ANN, "Ann", "guest", "pid", 0.0, 0, 0, node=node)


@asynccontextmanager
async def running(url: str, *names: str, lease: float = LEASE) -> AsyncIterator[list[Node]]:
    nodes = [Node(url, name, lease) for name in names]
    for node in nodes:
        await node.open()
    try:
        yield nodes
    finally:
        for node in nodes:
            await node.close()


def shares(*nodes: Node) -> bool:
    """Whether these nodes have all partitions, each one of them some."""
    owned = [partition for node in nodes for partition in node.owned]
    return all(node.owned for node in nodes) and sorted(owned) == list(range(PARTITIONS))


# Who has what


@given(st.sets(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=6))
def test_all_agree_on_an_owner_and_few_partitions_move_when_one_goes(nodes: set[str]) -> None:
    before = {partition: owner_of(partition, nodes) for partition in range(64)}
    assert before == {partition: owner_of(partition, sorted(nodes)) for partition in range(64)}
    gone = min(nodes)
    if left := nodes - {gone}:
        for partition, owner in before.items():
            assert owner == gone or owner_of(partition, left) == owner


def test_partitions_are_spread_over_the_nodes() -> None:
    nodes = [f"node{number}" for number in range(4)]
    owners = [owner_of(partition, nodes) for partition in range(256)]
    assert all(32 <= owners.count(node) <= 96 for node in nodes)


def test_a_node_alone_has_all_partitions_and_is_not_disturbed(redis_url: str) -> None:
    async def scenario() -> None:
        async with running(redis_url, "one") as (one,):
            assert shares(one)
            assert one.nodes.directory.live == {"one"}
            assert one.nodes.trouble is None
            assert one.told == []

    run(scenario())


def test_nodes_share_the_partitions_and_take_over_those_of_one_that_leaves(redis_url: str) -> None:
    async def scenario() -> None:
        async with running(redis_url, "one", "two") as (one, two):
            await until(lambda: shares(one, two))
            assert one.nodes.directory.live == two.nodes.directory.live == {"one", "two"}
            await two.nodes.leave()
            assert two.owned == set()
            await until(lambda: shares(one))
            # It may still have players.
            assert one.nodes.directory.is_live("two")
            await two.nodes.close()
            await until(lambda: not one.nodes.directory.is_live("two"))
            assert one.nodes.directory.dead == 0

    run(scenario())


def test_a_node_that_dies_is_dead_after_its_lease_and_its_partitions_are_taken(
    redis_url: str,
) -> None:
    async def scenario() -> None:
        async with running(redis_url, "one") as (one,):
            two = Node(redis_url, "two")
            await two.open()
            await until(lambda: shares(one, two))
            session = one.session_at("two")
            assert one.nodes.has(session)
            await two.die()
            await until(lambda: shares(one))
            await until(lambda: one.nodes.directory.dead == 1)
            assert one.nodes.directory.live == {"one"}
            assert not one.nodes.has(session)
            assert not await one.nodes.answers(session, 30.0)

    run(scenario())


def test_nobody_owns_a_partition_twice_while_nodes_come_and_go(redis_url: str) -> None:
    async def scenario() -> None:
        doubled: list[tuple[str, int]] = []
        nodes: dict[str, Node] = {}
        numbers = itertools.count()

        async def start() -> None:
            name = f"node{next(numbers)}"
            node = nodes[name] = Node(redis_url, name)

            def won(partition: int) -> None:
                for other, each in nodes.items():
                    if other != name and each.nodes.ownership.owns(partition):
                        doubled.append((name, partition))

            node.nodes.ownership.on_won.append(won)
            await node.open()

        for _ in range(3):
            await start()
        for name in ("node0", "node1"):
            await start()
            await nodes.pop(name).close()
        await until(lambda: shares(*nodes.values()))
        for node in nodes.values():
            await node.close()
        assert doubled == []

    run(scenario())


def test_where_a_node_is_reached_is_told_to_the_others(redis_url: str) -> None:
    async def scenario() -> None:
        first, second = Node(redis_url, "one"), Node(redis_url, "two")
        first.nodes.announce("10.0.0.1:7000")
        second.nodes.announce("10.0.0.2:7000")
        await first.open()
        await second.open()
        assert second.nodes.address_of(NodeId("one")) == "10.0.0.1:7000"
        await until(lambda: first.nodes.address_of(NodeId("two")) == "10.0.0.2:7000")
        assert first.nodes.address_of(NodeId("nobody")) is None
        await first.close()
        await second.close()

    run(scenario())


# What they tell each other


def test_a_client_at_another_node_is_probed_there(redis_url: str) -> None:
    async def scenario() -> None:
        async with running(redis_url, "one", "two") as (one, two):
            await until(lambda: one.nodes.directory.is_live("two"))
            session = one.session_at("two")
            assert await one.nodes.answers(session, 30.0)
            assert two.told == [("probe", ANN, TAB, 30.0)]
            two.players.alive = False
            assert not await one.nodes.answers(session, 30.0)
            two.players.alive = None
            assert not await one.nodes.answers(session, 0.05)
            assert one.told == []
            assert not one.nodes._answers

    run(scenario())


def test_an_event_reaches_the_other_nodes_of_its_player_only(
    redis_url: str, redis_server: RedisServer
) -> None:
    async def scenario() -> None:
        async with running(redis_url, "one", "two", "three") as (one, two, three):
            key = one.redis.prefix(one.partitions.of(ANN)) + b"r:ann"
            redis_server.ask("HSET", key, "one", 1, "two", 3, "gone", 2)
            told: list[int] = []
            one.nodes.send_volatile(ANN, b'["message",1]', told.append)
            await until(lambda: told)
            assert told == [3]
            await until(lambda: two.told)
            assert two.told == [("volatile", ANN, b'["message",1]')]
            assert one.told == three.told == []
            assert two.heard["volatile"] == 1
            # Who does not listen is not tried again.
            assert redis_server.ask("HKEYS", key) == [b"one", b"two"]
            totals = one.redis.prefix(one.partitions.of(ANN)) + b"n"
            assert redis_server.ask("HGET", totals, "pruned") == b"1"

    run(scenario())


def test_a_player_is_disconnected_at_the_other_nodes(
    redis_url: str, redis_server: RedisServer
) -> None:
    async def scenario() -> None:
        async with running(redis_url, "one", "two", "three") as (one, two, three):
            key = one.redis.prefix(one.partitions.of(ANN)) + b"r:ann"
            redis_server.ask("HSET", key, "one", 1, "two", 3)
            assert await one.nodes.disconnect(ANN, "kicked") == 3
            await until(lambda: two.told)
            assert two.told == [("ended", ANN, None, "kicked")]
            assert one.told == three.told == []

    run(scenario())


def test_what_makes_no_sense_is_counted_and_changes_nothing(
    redis_url: str, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with running(redis_url, "one") as (one,):
            channel = one.redis.prefix(3) + b"n:one"
            for payload in (
                b"",
                b"m",
                b"v\0\0\0\x09ann",
                b"m" + b"\0\3ann",
                bus.encode(bus.FENCE, b"ann", b"s1", b"five", b""),
                bus.encode(bus.VOLATILE, b"\xff", b"x"),
                bus.encode(bus.ANSWER, b"", b"1"),
                bus.encode(b"?", b"of a newer release"),
                bus.encode(bus.END, b"ann", b"", b"banned"),
            ):
                assert redis_server.ask("SPUBLISH", channel, payload) == 1
            await until(lambda: one.told)
            assert one.told == [("ended", ANN, None, "banned")]
            assert one.heard["malformed"] == 7
            assert one.heard["unknown"] == 1

    run(scenario())
    assert {record.levelname for record in caplog.records} <= {"INFO", "WARNING"}


def test_nodes_keep_leases_and_duties_when_too_few_replicas_are_there(redis_url: str) -> None:
    async def scenario() -> None:
        url = f"{redis_url}&wait=1&wait_timeout=0.01"
        async with running(url, "one", "two") as (one, two):
            await until(lambda: shares(one, two))
            later = one.nodes.directory.listed + 2 * LEASE
            await until(lambda: one.nodes.directory.listed > later)
            assert shares(one, two)
            assert one.told == two.told == []
            with pytest.raises(StoreUnavailable, match="NOREPLICAS"):
                await one.redis.ask(1, PUSH, [0])

    run(scenario())


# What was missed


def test_places_are_compared_when_channels_are_heard_again(
    redis_url: str, redis_server: RedisServer
) -> None:
    async def scenario() -> None:
        async with running(redis_url, "one") as (one,):
            partition = one.partitions.of(ANN)
            prefix, epoch = one.redis.prefix(partition), one.partitions.epochs[partition]
            redis_server.ask("HSET", prefix + b"p:ann", "box", make_box(3))
            for offset in (2, 3):
                redis_server.ask("XADD", prefix + b"m:ann", f"{offset}-77", "b", "x", "t", "1")

            def at(number: int, offset: int, text: bytes) -> Place:
                return Place(ANN, number, offset, text)  # type: ignore[arg-type]

            one.players.places = [
                at(1, 3, b"%b.3.4d" % epoch),
                at(2, 2, b"%b.2.4d" % epoch),
                at(3, 2, b"%b.2.4e" % epoch),
                at(4, 4, b"%b.4.4d" % epoch),
                at(5, 1, b"%b.1.99" % epoch),
                at(6, 3, b""),
                at(7, 4, b""),
                at(8, 2, b"other.2.4d"),
                at(9, 0, b"%b.0.zz" % epoch),
                at(10, 0, b"%b.0." % epoch),
            ]
            everything = frozenset(range(PARTITIONS))
            one.resuming.on_lost(everything)
            assert len(one.resuming) == PARTITIONS
            one.resuming.on_restored(everything, True)
            await until(lambda: not len(one.resuming))
            assert one.told[0] == ("doubt", True)
            # The same, behind, another message, lost, trimmed, not known, lost, another mailbox;
            # and two that a client has made up.
            heads = dict(enumerate([3, 3, None, None, 3, 3, None, None, 3, 3], 1))
            assert [(number, head) for _, number, head in one.told[1:]] == [*heads.items()]

    run(scenario())


def test_what_a_call_without_an_answer_may_have_stored_is_looked_for(
    redis_url: str, redis_server: RedisServer
) -> None:
    async def scenario() -> None:
        async with running(redis_url, "one") as (one,):
            partition = one.partitions.of(ANN)
            redis_server.ask("HSET", one.redis.prefix(partition) + b"p:ann", "box", make_box(3))
            one.players.places = [Place(ANN, 1, 0, b"")]  # type: ignore[arg-type]
            one.resuming.on_unanswered(partition)
            one.resuming.on_unanswered(partition)
            await until(lambda: one.told)
            assert one.told == [("known", 1, 3)]
            # And so it is now and then, though nobody knows of anything.
            one.told.clear()
            await until(lambda: not len(one.resuming))
            one.resuming.look((partition,))
            await until(lambda: one.told)
            assert one.told == [("known", 1, 3)]
            # Where nothing is heard it is looked when something is heard again.
            one.resuming.on_lost(frozenset((partition,)))
            one.resuming.on_unanswered(partition)
            one.resuming.on_unanswered(partition + 1)
            one.resuming.look((partition,))
            await until(lambda: len(one.resuming) == 1 and one.resuming._timer is None)
            assert one.told[1:] == [("doubt", True)]
            one.resuming.on_restored(frozenset((partition,)), True)
            await until(lambda: one.told[-1] == ("known", 1, 3))

    run(scenario())


def test_a_fault_while_catching_up_is_logged_and_it_is_tried_again(
    redis_url: str, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with running(redis_url, "one") as (one,):
            partition = one.partitions.of(ANN)
            one.players.places = [Place(ANN, 1, 0, b"")]  # type: ignore[arg-type]
            known, one.players.on_known = one.players.on_known, faulty  # type: ignore[method-assign]
            one.resuming.look((partition,))
            await until(lambda: "catching up with the store failed" in caplog.text)
            assert one.resuming.is_behind(partition)
            one.players.on_known = known  # type: ignore[method-assign]
            await until(lambda: one.told)
            assert one.told == [("known", 1, 0)]
            await until(lambda: not len(one.resuming))
            # What one of those makes of it who are told keeps nothing from the others.
            told: list[frozenset[int]] = []
            one.nodes.on_lost[:] = [faulty, told.append]
            one.redis.on_lost(frozenset((partition,)))
            assert told == [{partition}]

    def faulty(*arguments: object) -> None:
        raise RuntimeError("a fault")

    run(scenario())


def test_a_node_that_redis_does_not_hear_is_cut_off_until_it_does(
    redis_url: str, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with running(redis_url, "one", "two") as (one, two):
            await until(lambda: shares(one, two))
            assert one.nodes.in_touch
            one.players.places = [Place(ANN, 1, 0, b"")]  # type: ignore[arg-type]
            # Its calls are lost, as by a network that swallows them.
            call, one.redis.call = one.redis.call, lambda *arguments: None  # type: ignore
            try:
                await until(lambda: one.told)
                assert one.told == [("cut off",)]
                assert not one.nodes.in_touch
                assert one.nodes.others == ["two"]
                assert one.nodes.trouble == "cut off from the other nodes"
                assert one.nodes.directory.live is None
                assert one.owned == set()
                await until(lambda: shares(two))
            finally:
                one.redis.call = call  # type: ignore
            await until(lambda: one.nodes.trouble is None)
            assert ("back",) in one.told
            # Whatever others have done meanwhile: what it has is looked at.
            await until(lambda: one.told[-1][:2] == ("known", 1))
            await until(lambda: shares(one, two))

    run(scenario())
    assert "could not renew its lease" in caplog.text


def test_a_node_that_comes_back_first_takes_no_other_for_dead(
    redis_url: str, redis_server: RedisServer
) -> None:
    async def scenario() -> None:
        async with running(redis_url, "one", "two") as (one, two):
            await until(lambda: shares(one, two))
            # Redis is away for both, as far as they can tell.
            calls = [node.redis.call for node in (one, two)]
            for node in (one, two):
                node.redis.call = lambda *arguments: None  # type: ignore
            try:
                await until(lambda: one.nodes.trouble and two.nodes.trouble)
                now = asyncio.get_running_loop().time()
                one.redis.call = calls[0]  # type: ignore
                await until(lambda: one.nodes.trouble is None)
                assert one.nodes.directory.live == {"one", "two"}
                assert one.nodes.directory.died == frozenset()
                # For as long as the other one may need.
                await until(lambda: one.nodes.directory.live == {"one"})
                assert asyncio.get_running_loop().time() > now + LEASE
                assert one.nodes.directory.died == {"two"}
            finally:
                for node, call in zip((one, two), calls, strict=True):
                    node.redis.call = call  # type: ignore
            await until(lambda: shares(one, two))

    run(scenario())
