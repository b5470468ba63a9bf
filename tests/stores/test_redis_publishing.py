"""Messages to rooms over several nodes: one order for all, whoever dies on the way."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError, StoreUnavailable
from gateway.mailbox import OVERHEAD, Draft, Retention, RoomDraft
from gateway.membership import RoomLimitReached, RoomLimits
from gateway.messages import SessionId, TrueId
from gateway.store import Accepted, MailboxFull, Membership, NotMember, Published
from gateway.stores.redis import bus, fanout, publishing
from gateway.stores.redis.keys import partition_of
from tests.redis_servers import RedisServer
from tests.stores.publishers import (
    LONG,
    PARTITIONS,
    PLAYERS,
    ROOM,
    Node,
    World,
    agree,
    settle,
    world,
)
from tests.waiting import run


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


def test_too_many_messages_under_way_to_a_room_are_refused_until_they_have_arrived(
    redis_server: RedisServer,
) -> None:
    async def scenario() -> None:
        async with world(redis_server, 1, pending_messages=2) as subject:
            (node,) = subject.nodes
            for true_id in (A, B, C):
                await node.join(true_id)
            for body in (b"1", b"2"):
                dying = await subject.start()
                # Its message has a number then, and is with no member.
                dying.redis.left = 1
                assert isinstance(await dying.publish(body, sender=A), StoreUnavailable)
                await subject.bury(dying)
            refused = await node.publish(b"3", sender=B)
            assert isinstance(refused, StoreUnavailable)
            assert "rooms.pending_messages" in str(refused)
            assert subject.limits_hit == ["rooms.pending_messages"]
            await settle(subject)
            published(await node.publish(b"4", sender=B))
            assert await node.read(C) == [b"1", b"2", b"4"]

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
            told: list[bytes] = []
            with redis_server.client() as client:
                listener = client.pubsub()
                for true_id in (A, B):
                    listener.ssubscribe(subject.key(true_id, "n:node9"))
                    assert listener.get_message(timeout=LONG)["type"] == "ssubscribe"
                await node.publish(b"0", sender=A, skip=SessionId("s1"))
                result = published(await node.publish(b"1", sender=A))
                told = [listener.get_message(timeout=LONG)["data"] for _ in range(4)]
                listener.close()
            assert set(result.full) == {A, B}
            assert node.dropped == [("refused", 2)]
            assert sorted(each[:1] for each in told) == [
                *(bus.COPIES, bus.HOLES, bus.HOLES, bus.MESSAGE)
            ]
            heard = [bus.decode(each) for each in told if not each.startswith(bus.MESSAGE)]
            holes = [bus.decode_players(fields) for kind, fields in heard if kind == bus.HOLES]
            assert sorted(holes) == [[A], [B]]
            (skipped,) = (each for each in told if each.startswith(bus.MESSAGE))
            ((true_id, message),) = bus.decode_messages(skipped)
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
