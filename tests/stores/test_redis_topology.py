"""Sentinels and Clusters of real servers: who has the data changes, and the client follows."""

from __future__ import annotations

import asyncio
import subprocess
from typing import Any

import pytest

from gateway.errors import ConfigError, StoreUnavailable
from gateway.stores.redis.client import Redis
from gateway.stores.redis.cluster import Cluster
from gateway.stores.redis.keys import slot_of
from gateway.stores.redis.link import Call
from gateway.stores.redis.moving import Room
from gateway.stores.redis.scripts import script
from tests.gateway_process import program
from tests.redis_servers import RedisServer, RedisServers
from tests.stores.redis_client import PUSH, SAY, Opened, events, listening
from tests.waiting import run, until

LENGTH = script("length", "return redis.call('LLEN', prefix .. 'list')")


async def eventually(redis: Redis, partition: int, *args: Any) -> Any:
    """Push once it works; what fails is not done, or its answer was lost."""
    while True:
        try:
            return await redis.ask(partition, PUSH, args)
        except StoreUnavailable:
            await asyncio.sleep(0.05)


def sentinel_url(sentinels: list[RedisServer]) -> str:
    hosts = ",".join(f"127.0.0.1:{each.port}" for each in sentinels)
    return f"redis+sentinel://{hosts}/games"


def cluster_url(nodes: list[RedisServer]) -> str:
    hosts = ",".join(f"127.0.0.1:{each.port}" for each in nodes[:3])
    return f"redis://{hosts}/?cluster=1"


# Sentinels


@pytest.mark.parametrize("how", ["killed", "silent"])
def test_after_a_failover_by_sentinels_the_new_master_is_asked_and_is_another_server(
    how: str, redis_servers: RedisServers
) -> None:
    master = redis_servers.start()
    replica = redis_servers.replica(master)
    sentinels = redis_servers.sentinels(master, "games")

    async def test() -> None:
        opened = Opened(f"{sentinel_url(sentinels)}?timeout=20&wait=1&wait_timeout=2")
        heard, told = listening(opened.redis), events(opened.redis)
        async with opened as redis:
            for number in range(1, 51):
                assert await redis.ask(1, PUSH, [number]) == number
            if how == "killed":
                master.kill()
                await until(lambda: not redis.available)
            else:
                # The timeout is far longer: only the Sentinels can tell.
                await asyncio.to_thread(master.pause)
            await until(lambda: len(told) == 2)
            assert [(kind, same) for kind, _, same in told] == [
                ("lost", False),
                ("restored", False),
            ]
            # Nothing that was acknowledged with the replica's consent is lost. There is no
            # replica any more to ask.
            assert len(replica.ask("LRANGE", redis.prefix(1) + b"list", 0, -1)) == 50
            replica.ask("CONFIG", "SET", "min-replicas-to-write", 0)
            with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
                await redis.ask(1, PUSH, ["unsafe"])

        without_wait = Opened(sentinel_url(sentinels))
        heard = listening(without_wait.redis)
        async with without_wait as redis:
            assert await eventually(redis, 1, "more") == 52
            assert await redis.ask(2, SAY, ["me", "x", "y"]) == 1
            await until(lambda: heard)

    run(test())


def test_an_unknown_name_is_told_and_a_sentinel_that_is_gone_is_passed_over(
    redis_servers: RedisServers, caplog: pytest.LogCaptureFixture
) -> None:
    master = redis_servers.start()
    sentinels = redis_servers.sentinels(master, "games")

    async def test() -> None:
        sentinels[0].kill()
        async with Opened(sentinel_url(sentinels)) as redis:
            assert await redis.ask(1, PUSH, [1]) == 1
        async with Opened(sentinel_url(sentinels[1:]).replace("/games", "/other")) as redis:
            assert not redis.available

    run(test())
    assert "no Sentinel tells where other is" in caplog.text


# Clusters


def owner(nodes: list[RedisServer], partition: int) -> RedisServer:
    """Return which of the nodes has a partition."""
    slot = slot_of(partition)
    ports = {node.port: node for node in nodes}
    for first, last, (_, port, *_), *_ in nodes[0].ask("CLUSTER", "SLOTS"):
        if first <= slot <= last:
            return ports[port]
    raise AssertionError("nobody has it")


def test_partitions_of_a_cluster_are_asked_and_heard_on_their_masters(
    redis_servers: RedisServers,
) -> None:
    nodes = redis_servers.cluster()

    async def test() -> None:
        # One node is enough to find the others.
        opened = Opened(cluster_url(nodes[:1]), partitions=16)
        heard, told = listening(opened.redis), events(opened.redis)
        async with opened as redis:
            assert redis.available
            for partition in range(16):
                assert await redis.ask(partition, PUSH, ["x"]) == 1
                assert await redis.ask(partition, SAY, ["me", "x", "y"]) == 1
            await until(lambda: len(heard) == 16)
            assert sorted(partition for partition, *_ in heard) == [*range(16)]
            keys = [len(node.ask("KEYS", "*")) for node in nodes]
            assert sum(keys) == 16
            assert all(keys)
            assert told == []

    run(test())


class Sender:
    """Pushes numbers without waiting for answers, a few each turn; none of them may be refused."""

    def __init__(self, redis: Redis, partition: int) -> None:
        self._redis = redis
        self._partition = partition
        self.sent = 0
        self.answers: list[Any] = []
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            for _ in range(5):
                self.sent += 1
                self._redis.call(self._partition, PUSH, [self.sent], self.answers.append)
            await asyncio.sleep(0.001)

    async def stop(self) -> None:
        """Send no more, and wait until all is answered."""
        self._task.cancel()
        await until(lambda: len(self.answers) == self.sent)


def test_a_slot_that_is_moved_under_load_refuses_loses_doubles_and_turns_round_nothing(
    redis_servers: RedisServers,
) -> None:
    nodes = redis_servers.cluster()
    partition = 7
    source = owner(nodes, partition)
    target = next(node for node in nodes if node is not source)

    async def test() -> None:
        opened = Opened(cluster_url(nodes), partitions=16)
        heard, told = listening(opened.redis), events(opened.redis)
        async with opened as redis:
            sender = Sender(redis, partition)
            await until(lambda: len(sender.answers) > 100)
            await asyncio.to_thread(move, partition, source, target)
            answered = len(sender.answers)
            await until(lambda: len(sender.answers) > answered + 100)
            await sender.stop()
            # Each answer is the length that the list has by then.
            assert sender.answers == [*range(1, sender.sent + 1)]
            kept: Any = target.ask("LRANGE", redis.prefix(partition) + b"list", 0, -1)
            assert [int(each) for each in kept] == [*range(1, sender.sent + 1)]
            await until(lambda: [kind for kind, *_ in told] == ["lost", "restored"])
            assert {tuple(partitions) for _, partitions, _ in told} == {(partition,)}
            assert await redis.ask(partition, SAY, ["me", "x", "y"]) == 1
            await until(lambda: heard)
            assert redis.available

    run(test())


def test_slots_that_were_moved_are_followed_in_order_also_by_who_does_not_ask_for_them(
    redis_servers: RedisServers,
) -> None:
    nodes = redis_servers.cluster()
    source, target, _ = nodes

    async def test() -> None:
        async with Opened(cluster_url(nodes), partitions=32) as redis:
            mine = [each for each in range(32) if owner(nodes, each) is source]
            assert len(mine) > 3
            senders = [Sender(redis, each) for each in mine[:2]]
            await until(lambda: all(sender.answers for sender in senders))
            for partition in mine:
                await asyncio.to_thread(move, partition, source, target)
            # All are of the target now, and the source is left with nothing that is used.
            answers = [sender.sent for sender in senders]
            await until(
                lambda: all(
                    len(sender.answers) > before
                    for sender, before in zip(senders, answers, strict=True)
                )
            )
            for partition in mine[2:]:
                assert await redis.ask(partition, PUSH, [1]) == 1
            for sender in senders:
                await sender.stop()
                assert sender.answers == [*range(1, sender.sent + 1)]
            assert redis.available

    run(test())


def test_a_master_that_hands_over_to_its_replica_is_followed_in_order(
    redis_servers: RedisServers,
) -> None:
    nodes = redis_servers.cluster(replicas=1)
    partition = 7
    source = owner(nodes, partition)
    name = source.ask("CLUSTER", "MYID")
    (told,) = source.ask("CLUSTER", "REPLICAS", name)
    port = int(told.decode().split()[1].partition("@")[0].rpartition(":")[2])
    replica = next(node for node in nodes if node.port == port)

    async def test() -> None:
        async with Opened(cluster_url(nodes), partitions=16) as redis:
            sender = Sender(redis, partition)
            await until(lambda: sender.answers)
            await asyncio.to_thread(replica.ask, "CLUSTER", "FAILOVER")
            await until(lambda: owner(nodes, partition) is replica)
            answered = sender.sent
            await until(lambda: len(sender.answers) > answered + 100)
            await sender.stop()
            assert sender.answers == [*range(1, sender.sent + 1)]

    run(test())


def test_a_fault_while_the_slots_are_looked_at_does_not_end_the_looking(
    redis_servers: RedisServers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = redis_servers.cluster()
    partition = 7
    source = owner(nodes, partition)
    target = next(node for node in nodes if node is not source)
    decide = Cluster._decide

    def faulty(*arguments: Any) -> Any:
        monkeypatch.setattr(Cluster, "_decide", decide)
        raise RuntimeError("a fault")

    async def test() -> None:
        async with Opened(cluster_url(nodes), partitions=16) as redis:
            assert await redis.ask(partition, PUSH, [0]) == 1
            monkeypatch.setattr(Cluster, "_decide", faulty)
            await asyncio.to_thread(move, partition, source, target)
            assert await redis.ask(partition, PUSH, [1]) == 2

    run(test())
    assert "following the Cluster's slots failed" in caplog.text


def test_a_slot_that_stays_after_all_is_asked_in_order(redis_servers: RedisServers) -> None:
    nodes = redis_servers.cluster()
    partition = 7
    source = owner(nodes, partition)
    target = next(node for node in nodes if node is not source)
    slot = slot_of(partition)

    async def test() -> None:
        async with Opened(cluster_url(nodes), partitions=16) as redis:
            sender = Sender(redis, partition)
            await until(lambda: sender.answers)
            begin_move(slot, source, target)
            before = sender.sent
            await until(lambda: sender.sent > before + 100)
            for node in (source, target):
                node.ask("CLUSTER", "SETSLOT", slot, "STABLE")
            await until(lambda: len(sender.answers) > before + 100)
            await sender.stop()
            assert sender.answers == [*range(1, sender.sent + 1)]

    run(test())


def test_a_slot_that_takes_too_long_to_move_is_unavailable_meanwhile(
    redis_servers: RedisServers,
) -> None:
    nodes = redis_servers.cluster()
    partition = 7
    source = owner(nodes, partition)
    target = next(node for node in nodes if node is not source)
    slot = slot_of(partition)

    async def test() -> None:
        async with Opened(f"{cluster_url(nodes)}&timeout=1", partitions=16) as redis:
            assert await redis.ask(partition, PUSH, [0]) == 1
            target_id = begin_move(slot, source, target)
            with pytest.raises(StoreUnavailable, match="is being moved"):
                await redis.ask(partition, PUSH, [1])
            others = [each for each in range(16) if each != partition]
            assert all([await redis.ask(each, PUSH, [1]) for each in others])
            beside = next(each for each in others if owner(nodes, each) is source)
            await asyncio.to_thread(move, partition, source, target)
            assert await redis.ask(partition, PUSH, [2]) == 2
            # What still waits at the close is answered, too.
            source.ask("CLUSTER", "SETSLOT", slot_of(beside), "MIGRATING", target_id)
            waiting = asyncio.ensure_future(redis.ask(beside, PUSH, [1]))
            await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable):
            await waiting

    run(test())


def test_what_waits_for_a_slot_that_moves_is_bounded(redis_servers: RedisServers) -> None:
    refused = []
    room = Room(2, 100, lambda: refused.append(1))

    def call(size: int) -> Call:
        return (b"x" * size, lambda reply: None, 0, None)

    assert not room.take(call(101))
    assert room.take(call(60))
    assert not room.take(call(60))
    assert room.take(call(40))
    assert not room.take(call(0))
    assert len(refused) == 3
    room.give_back(call(60))
    assert room.take(call(60))


def begin_move(slot: int, source: RedisServer, target: RedisServer) -> str:
    """Have both know that a slot is about to move; return the id of who is to have it."""
    source_id, target_id = (node.ask("CLUSTER", "MYID").decode() for node in (source, target))
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    return str(target_id)


def move(partition: int, source: RedisServer, target: RedisServer) -> None:
    """Move a partition's slot as redis-cli does, key by key."""
    slot = slot_of(partition)
    target_id = begin_move(slot, source, target)
    while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1):
        source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    for node in (target, source):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)


def test_a_master_of_a_cluster_that_dies_is_replaced_by_its_replica(
    redis_servers: RedisServers,
) -> None:
    nodes = redis_servers.cluster(replicas=1)
    victim = owner(nodes, 5)

    async def test() -> None:
        opened = Opened(cluster_url(nodes), partitions=16)
        heard, told = listening(opened.redis), events(opened.redis)
        async with opened as redis:
            for partition in range(16):
                assert await redis.ask(partition, PUSH, ["x"]) == 1
            lost = frozenset(each for each in range(16) if owner(nodes, each) is victim)
            assert 0 < len(lost) < 16
            victim.kill()
            await until(lambda: told)
            assert told == [("lost", lost, False)]
            assert not redis.available
            for partition in set(range(16)) - lost:
                # The others are asked as before, until the Cluster says that it is down.
                await eventually(redis, partition, "y")
            await until(lambda: redis.available)
            assert [each for each in told if each[0] == "restored"] == [("restored", lost, False)]
            for partition in lost:
                assert await redis.ask(partition, PUSH, ["y"]) in {1, 2}
                assert await redis.ask(partition, SAY, ["me", "x", "y"]) == 1
            await until(lambda: len(heard) == len(lost))

    run(test())


def test_a_cluster_and_a_single_server_are_not_taken_for_each_other(
    redis_servers: RedisServers, redis_server: RedisServer
) -> None:
    nodes = redis_servers.cluster()

    async def test() -> None:
        with pytest.raises(ConfigError, match=r"it is a node of a Cluster; add \?cluster=1"):
            await Opened(nodes[0].url).redis.open()
        with pytest.raises(ConfigError, match="it is no node of a Cluster; leave out cluster=1"):
            await Opened(f"{redis_server.url}?cluster=1").redis.open()

    run(test())


def test_redis_cli_finds_the_same_owner(redis_servers: RedisServers) -> None:
    nodes = redis_servers.cluster()
    for partition in (0, 7, 255):
        command = [
            *(program("redis-cli"), "-p", str(nodes[0].port)),
            *("CLUSTER", "KEYSLOT", f"gw:{{{partition}}}:"),
        ]
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        assert int(said.stdout) == slot_of(partition)
