"""What a node has acknowledged is looked for when another server answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.mailbox import Hole, Retention
from gateway.messages import TrueId
from tests.redis_servers import RedisServer
from tests.stores.conftest import ANN, BOB, Driver, NewStore
from tests.stores.redis_box import make_box, read_box

Raw = Callable[[TrueId, int], None]


@pytest.fixture
def roll_back(redis_server: RedisServer, redis_prefix: str) -> Any:
    """Make a mailbox what it was before its last messages, as a failover does."""
    with redis_server.client() as client:

        def roll_back(true_id: TrueId, number: int) -> None:
            (key,) = client.scan_iter(f"{redis_prefix}:*:p:{true_id}")
            stream = key.replace(b":p:", b":m:")
            newest: Any = client.xrevrange(stream, count=number)
            client.xdel(stream, *(entry for entry, _ in newest))
            head, count, size, oldest = read_box(client.hget(key, "box"))
            client.hset(key, "box", make_box(head - number, count - number, size, oldest))

        yield roll_back


def known(driver: Driver) -> Driver:
    """Make the players known."""
    driver.know([ANN, BOB])
    return driver


def restored(driver: Driver, *, same_server: bool) -> None:
    """Tell the store that its server is back, and wait until nothing is looked for."""

    async def tell() -> None:
        every = frozenset(range(driver.store._redis.partitions))
        driver.store._redis.on_lost(every)
        driver.store._redis.on_restored(every, same_server)
        acknowledged = driver.store._acknowledged
        while acknowledged.looking:  # noqa: ASYNC110 - it is a task's end that nobody tells
            await asyncio.sleep(0.01)

    driver.run(tell())


def test_a_mailbox_that_lacks_what_was_acknowledged_gets_a_hole(
    nodes: NewStore, roll_back: Raw
) -> None:
    node = known(nodes())
    for _ in range(5):
        node.append(target=ANN)
    node.append(target=BOB)
    roll_back(ANN, 3)
    told: list[TrueId] = []
    node.store.on_copies = lambda copies, full: told.extend(full)
    restored(node, same_server=False)
    assert node.look(ANN).hole == Hole(2, 3)
    assert node.look(BOB).hole is None
    assert told == [ANN]
    assert node.dropped == [("lost", 3)]
    # What is lost is told once.
    restored(node, same_server=False)
    assert node.look(ANN).hole == Hole(2, 3)


def test_two_nodes_that_miss_the_same_make_one_hole(nodes: NewStore, roll_back: Raw) -> None:
    first, second = known(nodes()), nodes()
    first.append(target=ANN)
    second.append(target=ANN)
    first.append(target=ANN)
    roll_back(ANN, 2)
    for node in (second, first):
        restored(node, same_server=False)
    assert first.look(ANN).hole == Hole(1, 2)


def test_an_offset_that_another_message_has_by_now_is_noticed_by_its_nonce(
    nodes: NewStore, roll_back: Raw
) -> None:
    first, second = known(nodes()), nodes()
    for _ in range(3):
        first.append(target=ANN)
    roll_back(ANN, 2)
    for _ in range(4):
        second.append(target=ANN)
    restored(first, same_server=False)
    restored(second, same_server=False)
    hole = first.look(ANN).hole
    assert hole is not None
    assert hole.lost >= 1


def test_copies_of_a_message_to_a_room_are_looked_for(nodes: NewStore, roll_back: Raw) -> None:
    node = nodes()
    for player in (ANN, BOB):
        node.join(player)
    node.publish(sender=BOB)
    node.publish(sender=BOB)
    roll_back(ANN, 1)
    restored(node, same_server=False)
    assert node.look(ANN).hole == Hole(1, 1)
    assert node.look(BOB).hole is None


def test_the_same_server_is_believed(nodes: NewStore, roll_back: Raw) -> None:
    node = known(nodes())
    node.append(target=ANN)
    node.append(target=ANN)
    roll_back(ANN, 1)
    restored(node, same_server=True)
    assert node.look(ANN).hole is None
    assert node.dropped == []


def test_what_was_trimmed_since_is_no_loss(nodes: NewStore) -> None:
    first = known(nodes())
    first.append(target=ANN)
    second = nodes(mailbox=Retention(1, 0, 0))
    second.append(target=ANN)
    second.append(target=ANN)
    restored(first, same_server=False)
    assert first.look(ANN).hole is None


def test_memory_of_it_is_bounded_in_time_and_number(
    nodes: NewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledged = nodes().store._acknowledged
    for now in (0.0, 1.0, 11.0, 22.0):
        acknowledged.note(f"p{now}", 1, 1, now)
    assert len(acknowledged) == 2
    monkeypatch.setattr("gateway.stores.redis.acknowledged._MOST", 3)
    for number in range(100):
        acknowledged.note(f"q{number}", 1, 1, 22.0)
    assert 3 <= len(acknowledged) <= 6


def test_nothing_is_forgotten_while_the_server_is_away(nodes: NewStore) -> None:
    node = nodes()
    acknowledged = node.store._acknowledged
    acknowledged.note("early", 1, 1, 0.0)
    acknowledged.on_lost(frozenset({0}))
    for now in (11.0, 22.0, 33.0):
        acknowledged.note("late", 1, 1, now)
    assert len(acknowledged) == 2
