"""Webhooks in Redis: whichever node has a partition's duties sends those in it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from gateway.errors import StoreUnavailable
from gateway.messages import TrueId
from gateway.outbox import OutboxLimits, Webhook
from gateway.stores.redis import outbox
from tests.redis_servers import RedisServer
from tests.stores.conftest import ANN, BOB, NewStore, RedisDriver
from tests.stores.test_redis_sessions import listening

ON = OutboxLimits(enabled=True)
PLAYERS = [TrueId(f"p{number}") for number in range(20)]


@pytest.fixture
def pair(nodes: NewStore) -> tuple[RedisDriver, RedisDriver]:
    """A node that has all duties, and one that has none."""
    first = nodes(node="node1", partitions=4, outbox=ON)
    second = nodes(node="node2", partitions=4, outbox=ON, owned=())
    assert isinstance(first, RedisDriver)
    assert isinstance(second, RedisDriver)
    return first, second


def webhooks(store: RedisDriver, after: int = 0, limit: int = 100) -> list[Webhook]:
    found: tuple[Webhook, ...] = store.webhooks(after, limit)
    return list(found)


def players(found: list[Webhook]) -> list[str]:
    return sorted(each.event.true_id for each in found)


def move(first: RedisDriver, second: RedisDriver, partitions: set[int]) -> list[int]:
    """Move the duties of partitions; return the numbers that are good no more."""
    lost: list[int] = []
    first.store.on_webhooks_lost = lost.extend
    first.store.disown_partitions(partitions)
    second.store.own_partitions(partitions)
    return lost


def test_a_node_sends_what_any_node_has_written(pair: tuple[RedisDriver, RedisDriver]) -> None:
    first, second = pair
    for number, true_id in enumerate(PLAYERS):
        pair[number % 2].report_presence({true_id: True}, float(number))
    found = webhooks(first)
    assert players(found) == sorted(PLAYERS)
    assert webhooks(second) == []
    assert [each.seq for each in found] == list(range(1, 21))
    assert len({each.id for each in found}) == 20
    # In pages, too, and whatever was read before.
    assert webhooks(first, 0, 7) + webhooks(first, 7, 7) + webhooks(first, 14, 7) == found
    first.remove_webhooks([each.seq for each in found[:5]])
    assert webhooks(first) == found[5:]
    assert (first.queued_webhooks, second.queued_webhooks) == (15, 15)


def test_duties_move_with_the_webhooks_that_wait(pair: tuple[RedisDriver, RedisDriver]) -> None:
    first, second = pair
    first.report_presence(dict.fromkeys(PLAYERS, True), 1.0)
    before = webhooks(first)
    moved = [each for each in before if first.store._partitions.of(each.event.true_id) in {0, 1}]
    first.remove_webhooks([moved[0].seq])
    assert sorted(move(first, second, {0, 1})) == [each.seq for each in moved[1:]]
    taken = webhooks(second)
    # The same ids, so that a receiver can drop what comes twice.
    assert sorted(each.id for each in taken) == sorted(each.id for each in moved[1:])
    assert webhooks(first) == [each for each in before if each not in moved]
    # What the first had under way is the second's now.
    first.remove_webhooks([each.seq for each in moved])
    first.bury_webhook(moved[1].seq, "late", 2.0)
    assert (webhooks(second), second.dead_webhooks) == (taken, 0)
    second.remove_webhooks([each.seq for each in taken])
    assert first.queued_webhooks == len(before) - len(moved)
    # Back again, there is nothing left; each node sends what is new in its own.
    move(second, first, {0})
    second.report_presence(dict.fromkeys(PLAYERS, False), 2.0)
    first.expire(2.0)
    news = [webhooks(first, before[-1].seq), webhooks(second, taken[-1].seq)]
    assert players(news[0] + news[1]) == sorted(PLAYERS)
    assert {second.store._partitions.of(each.event.true_id) for each in news[1]} == {1}


def test_webhooks_that_move_while_they_are_read_are_the_other_nodes(
    pair: tuple[RedisDriver, RedisDriver],
) -> None:
    first, second = pair
    first.report_presence(dict.fromkeys(PLAYERS, True), 1.0)

    async def read() -> list[Webhook]:
        reading = asyncio.ensure_future(first.store.webhooks(0, 100))
        await first.store.check()
        first.store.disown_partitions({0, 1, 2, 3})
        return list(await reading)

    assert first.run(read()) == webhooks(first) == []
    second.store.own_partitions({0, 1, 2, 3})
    assert players(webhooks(second)) == sorted(PLAYERS)


def test_the_order_of_a_player_outlives_a_move(pair: tuple[RedisDriver, RedisDriver]) -> None:
    first, second = pair
    for number in range(9):
        pair[number % 2].report_presence({ANN: number % 2 == 0}, float(number))
    assert [each.event.ts for each in webhooks(first, 0, 4)] == [0.0, 1.0, 2.0, 3.0]
    move(first, second, {0, 1, 2, 3})
    assert [each.event.ts for each in webhooks(second)] == [float(number) for number in range(9)]


def test_the_node_that_sends_is_told_of_new_ones(
    nodes: NewStore, redis_server: RedisServer
) -> None:
    first = nodes(node="node1", outbox=ON)
    second = nodes(node="node2", outbox=ON, owned=())
    woken: list[tuple[int, int]] = []
    first.store._on_webhooks = lambda *counts: woken.append(counts)
    redis_server.ask("SET", first.store._redis.prefix(0) + b"own", "node1")
    with listening(redis_server, first, "node1") as listener:
        second.report_presence({ANN: True}, 1.0)
        assert listener.heard() == (b"o", [])
        first.store.on_outbox_written(0)
        assert (woken, players(webhooks(first))) == ([(0, 0)], ["ann"])
        # Itself it need not be told.
        first.report_presence({BOB: True}, 1.0)
        assert listener.heard_nothing()
    # And nobody who does not send them is woken.
    second.store._on_webhooks = lambda *counts: woken.append(counts)
    second.store.on_outbox_written(0)
    assert woken == [(0, 0), (1, 0)]


def test_new_ones_are_found_though_nobody_told(pair: tuple[RedisDriver, RedisDriver]) -> None:
    first, second = pair
    assert webhooks(first) == []
    woken: list[tuple[int, int]] = []
    first.store._on_webhooks = lambda *counts: woken.append(counts)
    second.report_presence({ANN: True}, 1.0)
    assert webhooks(first) == []
    second.expire(2.0)
    assert woken == []
    first.expire(2.0)
    first.expire(2.0)
    assert woken == [(0, 0)]
    found = webhooks(first)
    assert players(found) == ["ann"]
    first.remove_webhooks([found[0].seq])
    first.expire(2.0)
    assert woken == [(0, 0)]


def test_what_is_given_up_is_shown_by_all_nodes(pair: tuple[RedisDriver, RedisDriver]) -> None:
    first, second = pair
    first.report_presence(dict.fromkeys(PLAYERS, True), 1.0)
    found = webhooks(first)
    for number, webhook in enumerate(found[:3]):
        first.bury_webhook(webhook.seq, f"reason {number}", 10.0 + number)
    mine, theirs = (store.list_dead_webhooks(2) for store in pair)
    assert [each.webhook for each in mine] == [found[2], found[1]]
    assert [(each.webhook.id, each.webhook.seq, each.given_up, each.reason) for each in theirs] == [
        (found[2].id, 0, 12.0, "reason 2"),
        (found[1].id, 0, 11.0, "reason 1"),
    ]
    assert second.dead_webhooks == 3


def test_any_node_can_have_what_was_given_up_sent_by_the_one_that_sends(
    pair: tuple[RedisDriver, RedisDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    # In many small calls.
    monkeypatch.setattr(outbox, "_CHUNK", 2)
    first, second = pair
    first.report_presence(dict.fromkeys(PLAYERS, True), 1.0)
    found = webhooks(first)
    for webhook in found:
        first.bury_webhook(webhook.seq, "refused", 10.0)
    assert webhooks(first) == []
    assert second.retry_dead_webhooks(found[7].id) == (1, False)
    for partition in range(4):
        first.store.on_outbox_written(partition)
    (again,) = webhooks(first)
    assert (again.id, again.event) == (found[7].id, found[7].event)
    assert again.seq > found[-1].seq
    assert second.delete_dead_webhooks(found[8].id) == 1
    assert second.retry_dead_webhooks(None) == (18, False)
    for partition in range(4):
        first.store.on_outbox_written(partition)
    assert players(webhooks(first)) == sorted({*PLAYERS} - {found[8].event.true_id})
    assert (first.dead_webhooks, second.queued_webhooks) == (0, 19)


def test_the_limits_hold_over_all_partitions(nodes: NewStore) -> None:
    limits = OutboxLimits(enabled=True, max_queued=6, max_dead=4)
    store = nodes(partitions=4, outbox=limits)
    for true_id in PLAYERS:
        store.looked()
        store.report_presence({true_id: True}, 1.0)
    # Each partition has a place for its newest whatever the others have.
    assert 6 <= store.queued_webhooks <= 6 + 3
    assert 4 <= store.dead_webhooks <= 4 + 3
    assert PLAYERS[-1] in players(webhooks(store))


def test_presence_that_two_nodes_see_is_reported_once(
    pair: tuple[RedisDriver, RedisDriver],
) -> None:
    for online in (True, False):
        for store in pair:
            store.report_presence(dict.fromkeys(PLAYERS, online), 1.0)
    assert pair[0].queued_webhooks == 2 * len(PLAYERS)


def test_who_was_online_is_said_by_the_node_that_has_the_duties(
    pair: tuple[RedisDriver, RedisDriver],
) -> None:
    first, second = pair
    second.report_presence(dict.fromkeys(PLAYERS, True), 1.0)
    assert (first.reported_online(), second.reported_online()) == (set(PLAYERS), set())
    move(first, second, {2})
    assert first.reported_online() | second.reported_online() == set(PLAYERS)
    assert {second.store._partitions.of(each) for each in second.reported_online()} == {2}


def test_webhooks_of_a_part_that_was_lost_are_sent_all_the_same(
    nodes: NewStore, redis_server: RedisServer
) -> None:
    store = nodes(outbox=ON)
    store.report_presence({ANN: True}, 1.0)
    (gone,) = webhooks(store)
    keys = redis_server.ask("KEYS", store.store._redis.prefix(0) + b"*")
    redis_server.ask("DEL", *keys)
    with pytest.raises(StoreUnavailable):
        store.report_presence({BOB: True}, 1.0)
    with suppress(StoreUnavailable):
        # It has the answer to what came before, which is the new epoch.
        store.check()
    store.report_presence({BOB: True}, 1.0)
    known, webhook = webhooks(store)
    assert (known, webhook.event.true_id, webhook.seq > gone.seq) == (gone, "bob", True)
    assert webhook.id.startswith(f"{store.epoch_of(BOB)}.0-1.")
    assert not webhook.id.startswith(f"{gone.id.split('.')[0]}.")
    # In its place is another one now, which stays.
    store.remove_webhooks([gone.seq])
    assert (webhooks(store), store.queued_webhooks) == ([webhook], 1)


@pytest.mark.parametrize("end", ["remove", "bury"])
def test_a_server_that_has_lost_the_newest_webhooks_gives_their_places_to_others(
    nodes: NewStore, redis_server: RedisServer, end: str
) -> None:
    store = nodes(outbox=ON)
    prefix = store.store._redis.prefix(0)
    store.report_presence({PLAYERS[0]: True}, 1.0)
    before = redis_server.ask("DUMP", prefix + b"o")
    store.report_presence({PLAYERS[1]: True}, 1.0)
    kept, lost = webhooks(store)
    redis_server.ask("RESTORE", prefix + b"o", 0, before, "REPLACE")
    for name in ("webhook", "queued"):
        redis_server.ask("HSET", prefix + b"n", name, 1)
    store.report_presence({PLAYERS[2]: True}, 1.0)
    # It has the place of one that was read already.
    assert webhooks(store) == [kept, lost]
    store.store._on_restored(frozenset({0}), True)
    assert webhooks(store) == [kept, lost]
    store.store._on_restored(frozenset({0}), False)
    found = webhooks(store)
    assert found[:2] == [kept, lost]
    assert [each.event.true_id for each in found[2:]] == [PLAYERS[2]]
    if end == "remove":
        store.remove_webhooks([lost.seq, kept.seq])
    else:
        for webhook in (lost, kept):
            store.bury_webhook(webhook.seq, "refused", 2.0)
        assert [each.webhook for each in store.list_dead_webhooks(9)] == [kept]
    assert (webhooks(store), store.queued_webhooks) == (found[2:], 1)
