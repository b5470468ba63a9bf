"""What only the redis store promises: several partitions, several nodes, parts that are lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from gateway.errors import ConfigError, StoreUnavailable
from gateway.mailbox import OVERHEAD, Draft, Retention
from gateway.messages import TrueId
from gateway.store import MailboxFull, Membership, Published, UnknownTarget
from gateway.stores.redis import bus, mailboxes
from tests.redis_servers import RedisServer, RedisServers, wait_until
from tests.stores.conftest import ANN, BOB, Listing, NewStore, RedisDriver, redis_store
from tests.stores.redis_box import read_box
from tests.stores.test_store import accepted, confirm, is_duplicate, position_of, session

PLAYERS = [TrueId(f"p{number}") for number in range(40)]


def keys_of(server: RedisServer, store: RedisDriver, partition: int) -> list[bytes]:
    pattern = store.store._redis.prefix(partition) + b"*"
    found: list[bytes] = server.ask("KEYS", pattern)
    return found


def test_players_of_all_partitions_have_mailboxes(nodes: NewStore) -> None:
    store = nodes(partitions=16)
    store.know(PLAYERS)
    for number, true_id in enumerate(PLAYERS):
        for _ in range(2):
            accepted(store.append(b"%d" % number, target=true_id))
    assert [store.read(each) for each in PLAYERS] == [
        [b"%d" % number] * 2 for number in range(len(PLAYERS))
    ]
    assert store.message_count == 2 * len(PLAYERS)
    pages = store.everyone(7)
    assert sorted(each for page in pages for each in page) == sorted(PLAYERS)
    assert [len(page) for page in pages] == [7, 7, 7, 7, 7, 5]
    store.forget(PLAYERS)
    store.expire(0.0)
    assert store.everyone() == []


def test_nodes_see_each_others_messages(nodes: NewStore) -> None:
    first, second = nodes(node="node1"), nodes(node="node2")
    first.know([ANN])
    sent = accepted(first.append(b"1", key="k"))
    assert is_duplicate(second.append(b"1", key="k"))
    assert second.batch().messages == (sent.message,)
    assert first.epoch_of(ANN) == second.epoch_of(ANN) == position_of(sent).epoch


def test_data_of_another_format_is_refused_and_left_as_it_is(
    nodes: NewStore, redis_server: RedisServer, redis_url: str
) -> None:
    store = nodes(partitions=2)
    store.know([ANN])
    accepted(store.append())
    with pytest.raises(ConfigError, match=r"store.url: .* its format is '2 2', .* '2 4'"):
        redis_store(redis_url, partitions=4)
    assert store.read() == [b"1"]
    redis_server.ask("SET", store.store._redis.prefix(1) + b"format", "1 2")
    with pytest.raises(ConfigError, match="is of another release"):
        redis_store(redis_url, partitions=2)


def test_a_limit_in_total_holds_over_all_partitions_and_nodes(nodes: NewStore) -> None:
    stores = [nodes(partitions=16, node=f"node{n}", total_bytes=10 * OVERHEAD) for n in (1, 2)]
    stores[0].know(PLAYERS)
    taken = 0
    for number, true_id in enumerate(PLAYERS):
        store = stores[number % 2]
        # What the others took since the last look may be too much.
        store.looked()
        result = store.append(b"", target=true_id)
        taken += not isinstance(result, MailboxFull)
    assert taken == 10
    assert stores[0].bytes == stores[1].bytes == 10 * OVERHEAD


def begun(store: RedisDriver) -> None:
    """Wait until the node knows the epoch that a lost part has begun."""
    with suppress(StoreUnavailable):
        store.check()


def test_a_part_that_has_lost_its_data_is_told_and_begins_anew(
    nodes: NewStore, redis_server: RedisServer
) -> None:
    stores = [nodes(partitions=2, node=f"node{n}") for n in (1, 2)]
    told: list[list[TrueId]] = [[], []]
    for store, players in zip(stores, told, strict=True):

        def on_replaced(concerns: Any, players: list[TrueId] = players) -> None:
            players.extend(each for each in PLAYERS if concerns(each))

        store.store.on_replaced = on_replaced
    store = stores[0]
    lost = store.store._partitions.of(ANN)
    here, gone = ([each for each in PLAYERS if store._partitions.of(each) == n] for n in (0, 1))
    if lost == 0:
        here, gone = gone, here
    store.know([ANN, *PLAYERS])
    before = [accepted(store.append(target=each)) for each in (ANN, *here)]
    # Those that began together share their epoch.
    assert len({each.epoch_of(true_id) for each in stores for true_id in PLAYERS}) == 1
    redis_server.ask("DEL", *keys_of(redis_server, store, lost))

    assert isinstance(store.append(), StoreUnavailable)
    begun(store)
    assert isinstance(store.append(), UnknownTarget)
    assert told == [gone, []]
    store.know([ANN])
    after = position_of(store.append())
    assert (after.epoch != position_of(before[0]).epoch, after.offset) == (True, 1)
    # The other node finds out, and believes in the same epoch.
    with pytest.raises(StoreUnavailable):
        stores[1].look(ANN)
    begun(stores[1])
    assert stores[1].read() == [b"1"]
    assert told == [gone, gone]
    assert stores[1].epoch_of(ANN) == after.epoch
    # Nothing else has changed.
    assert [store.head(each) for each in here] == [1] * len(here)
    assert position_of(store.append(target=here[0])).epoch == position_of(before[1]).epoch


def test_a_message_is_published_to_the_other_nodes_of_its_player(
    nodes: NewStore, redis_server: RedisServer
) -> None:
    store = nodes(node="node1")
    store.know([ANN])
    prefix = store.store._redis.prefix(0)
    routes = {"node1": 1, "node2": 2, "dead": 4}
    for node, number in routes.items():
        redis_server.ask("HSET", prefix + b"r:ann", node, number)
    with redis_server.client() as client, client.pubsub() as listener:
        listener.ssubscribe(prefix + b"n:node2", prefix + b"n:node1")
        for _ in range(2):
            assert listener.get_sharded_message(timeout=20.0) is not None
        sent = accepted(store.append(b"[1]", now=5.5))
        assert sent.remote == 2
        heard: Any = listener.get_sharded_message(timeout=20.0)
    assert heard["channel"] == prefix + b"n:node2"
    assert heard["data"].startswith(bus.MESSAGE)
    assert bus.decode_messages(heard["data"]) == [(ANN, sent.message)]
    # Nobody listened there.
    assert redis_server.ask("HKEYS", prefix + b"r:ann") == [b"node1", b"node2"]
    assert accepted(store.append(target=ANN)).remote == 0
    assert redis_server.ask("HKEYS", prefix + b"r:ann") == [b"node1"]


def test_a_repeated_message_is_at_the_other_nodes_of_its_player(
    nodes: NewStore, redis_server: RedisServer
) -> None:
    store = nodes(node="node1")
    store.know([ANN])
    store.append(key="k")
    prefix = store.store._redis.prefix(0)
    redis_server.ask("HSET", prefix + b"r:ann", "node1", 1, "node2", 2, "dead", 4)
    with redis_server.client() as client, client.pubsub() as listener:
        listener.ssubscribe(prefix + b"n:node2")
        assert listener.get_sharded_message(timeout=20.0) is not None
        again = accepted(store.append(key="k"))
        assert (again.message, again.remote) == (None, 2)
        assert store.look(ANN).remote == 2
    redis_server.ask("DEL", prefix + b"r:ann")
    assert store.look(ANN).remote == 0


def test_a_message_that_too_few_replicas_have_is_looked_for(redis_servers: RedisServers) -> None:
    server = redis_servers.start()
    with redis_store(server.url, partitions=4) as store:
        store.know([ANN])
    with redis_store(f"{server.url}?wait=1&wait_timeout=0.01", partitions=4) as store:
        noted: list[int] = []
        store.store._partitions.epochs = [
            server.ask("HGET", store.store._redis.prefix(each) + b"n", "epoch") for each in range(4)
        ]
        store.store._partitions.on_unanswered = noted.append
        assert isinstance(store.append(), StoreUnavailable)
        mine = store._partitions.of(ANN)
        assert noted == [mine]
        key = store.store._redis.prefix(mine) + b"p:ann"
        assert read_box(server.ask("HGET", key, "box"))[0] == 1
        # What was not sent was not stored.
        server.kill()
        assert isinstance(store.append(), StoreUnavailable)
        assert noted == [mine]


def test_nothing_is_left_of_players_who_are_gone(
    nodes: NewStore, redis_server: RedisServer
) -> None:
    store = nodes(mailbox=Retention(0, 0, 10.0), dedupe_window=10.0)
    store.know([ANN, BOB])
    for number in range(3):
        store.append(key=str(number))
    store.forget([ANN, BOB])
    store.expire(5.0)
    assert store.head(ANN) == 3
    store.expire(11.0)
    prefix = store.store._redis.prefix(0)
    left = {key.removeprefix(prefix) for key in keys_of(redis_server, store, 0)}
    assert left <= {b"format", b"n"}
    assert (store.bytes, store.message_count) == (0, 0)


@pytest.mark.parametrize(
    "name", ["b\0b", "\0", "b\nb", "b:b", " ", "{b}", "}{", "%z=", "0", "\U0001f600" * 128]
)
@pytest.mark.parametrize("partitions", [1, 16])
def test_any_name_will_do_and_nothing_is_left_of_it(
    nodes: NewStore, redis_server: RedisServer, name: str, partitions: int
) -> None:
    odd, once = TrueId(name), Retention(0, 0, 10.0)
    limits: Any = {"mailbox": once, "dedupe_window": 10.0, "session_lifetime": 10.0}
    listing = Listing("node1", "node2")
    first = nodes(node="node1", listing=listing, partitions=partitions, **limits)
    subject = session(1, odd, connected=True)
    first.add_session(subject)
    accepted(first.append(target=odd, sender=odd, key=name))
    assert is_duplicate(first.append(target=odd, sender=odd, key=name))
    # The other node cleans up after it, and goes on with what it has left.
    listing = Listing("node2", died=["node1"])
    second = nodes(node="node2", listing=listing, partitions=partitions, **limits)
    second.expire(1.0)
    left = second.session(subject.id, odd)
    assert left is not None
    assert (left.true_id, left.node) == (odd, "")
    joined = second.join(odd, name)
    assert isinstance(joined, Membership)
    assert joined.members == 1
    ids = []
    for _ in range(2):
        sent = second.publish(b"2", room=name, sender=odd, key=f"{name} again")
        assert isinstance(sent, Published)
        ids.append(sent.message_id)
    assert ids[0] == ids[1] is not None
    assert second.read(odd) == [b"1", b"2"]
    third = nodes(node="node3", partitions=partitions, **limits)
    assert third.members(name) == [odd]
    second.leave(odd, name)
    second.expire(100.0)
    second.expire(100.0)
    assert not second.look(odd).known
    keys = {
        key.removeprefix(second.store._redis.prefix(partition))
        for partition in range(partitions)
        for key in keys_of(redis_server, second, partition)
    }
    # What a room had is remembered for an hour.
    assert keys <= {b"format", b"n", b"sn", b"rv", b"q:" + name.encode()}


def test_expiry_makes_room_in_a_server_that_is_full(redis_servers: RedisServers) -> None:
    server = redis_servers.start()
    limits: Any = {"mailbox": Retention(0, 0, 10.0), "dedupe_window": 10.0}
    with redis_store(server.url, session_lifetime=10.0, **limits) as store:
        store.know([ANN])
        store.add_session(session(1, BOB))
        accepted(store.append(b"x" * 1000, key="1"))
        server.ask("CONFIG", "SET", "maxmemory", 1)
        assert isinstance(store.append(), StoreUnavailable)
        store.expire(11.5)
        assert (store.message_count, store.session_count, store.bytes) == (0, 0, 0)
        server.ask("CONFIG", "SET", "maxmemory", 0)
        accepted(store.append(now=12.0))


def test_what_is_out_of_reach_keeps_no_other_part_from_expiry(
    nodes: NewStore, redis_server: RedisServer
) -> None:
    store = nodes(partitions=4, mailbox=Retention(0, 0, 10.0))
    store.know(PLAYERS)
    for true_id in PLAYERS:
        accepted(store.append(target=true_id))
    # A fault in one part, as of a server that does not answer.
    faulty = store.store._redis.prefix(1) + b"old"
    redis_server.ask("DEL", faulty)
    redis_server.ask("SET", faulty, "")
    with pytest.raises(StoreUnavailable):
        store.expire(11.0)
    left = {store.store._partitions.of(each) for each in PLAYERS if store.read(each)}
    assert left == {1}


def test_expiry_goes_in_small_calls(nodes: NewStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailboxes, "_EXPIRED", 2)
    monkeypatch.setattr(mailboxes, "_EXPIRED_MESSAGES", 3)
    store = nodes(mailbox=Retention(0, 0, 10.0), dedupe_window=10.0)
    store.know(PLAYERS[:5])
    for true_id in PLAYERS[:5]:
        for number in range(5):
            store.append(target=true_id, key=f"{true_id}{number}", sender=true_id)
    store.append(target=PLAYERS[0], now=5.0)
    store.expire(11.0)
    assert (store.message_count, store.bytes) == (1, OVERHEAD + 1)
    assert sum(number for _, number in store.dropped) == 25
    assert store.read(PLAYERS[0]) == [b"1"]
    store.forget(PLAYERS[:5])
    store.expire(15.5)
    assert [store.look(each).known for each in PLAYERS[:5]] == [False] * 5


def test_what_nobody_needs_goes_in_other_parts_too(nodes: NewStore) -> None:
    store = nodes(partitions=16, total_bytes=10 * OVERHEAD)
    subject = session()
    store.add_session(subject)
    for _ in range(10):
        accepted(store.append(b""))
    confirm(store, subject, 10)
    mine = store._partitions.of(ANN)
    other = next(each for each in PLAYERS if store._partitions.of(each) != mine)
    store.know([other])
    store.looked()
    for _ in range(2):
        assert isinstance(store.append(b"", target=other), MailboxFull)
    for _ in range(5):
        store.run(asyncio.wait_for(reclaimed(store), 30.0))
        accepted(store.append(b"", target=other))
    assert store.bytes <= 10 * OVERHEAD
    assert store.first(ANN) > 1


async def reclaimed(store: RedisDriver) -> None:
    """Wait until the room that was wanted is there."""
    task = store.store._reclaimer._task
    if task is not None:
        await task


def test_answers_to_a_sender_come_in_order_from_several_servers(
    redis_servers: RedisServers,
) -> None:
    servers = redis_servers.cluster()
    with redis_store(f"{servers[0].url}?cluster=1", partitions=16) as store:
        store.know(PLAYERS)
        slow = servers[0]
        owners = {each: owner_of(servers, store, each) for each in PLAYERS}
        first = next(each for each in PLAYERS if owners[each] is slow)
        last = next(each for each in PLAYERS if owners[each] is not slow)
        answers: list[TrueId] = []

        def arrived() -> bool:
            store.run(asyncio.sleep(0.01))
            key = store.store._redis.prefix(store._partitions.of(last)) + b"p:" + last.encode()
            return read_box(owners[last].ask("HGET", key, "box"))[0] > 0

        with slow.paused():

            async def ask() -> None:
                for target in (first, last):
                    draft = Draft(target, BOB, b"1")
                    store.store.append(draft, 0.0, lambda draft, _: answers.append(draft.target_id))

            store.run(ask())
            wait_until(arrived, "the other server has its message")
            assert answers == []
        wait_until(lambda: store.run(asyncio.sleep(0.01)) or len(answers) == 2, "both answers")
        assert answers == [first, last]


def owner_of(servers: list[RedisServer], store: RedisDriver, true_id: TrueId) -> RedisServer:
    partition = store._partitions.of(true_id)
    return next(each for each in servers if keys_of(each, store, partition))
