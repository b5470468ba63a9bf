"""What other nodes publish waits until replicas have it: in order, and within bounds."""

from __future__ import annotations

import pytest

from gateway.store_url import parse_redis_url
from gateway.stores.redis.client import Redis
from gateway.stores.redis.settling import Settling
from tests.redis_servers import RedisServer, RedisServers
from tests.waiting import run, until


def test_what_is_heard_goes_on_in_order_when_a_replica_has_it_and_is_looked_for_else(
    redis_servers: RedisServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.stores.redis.settling._MAX_HEARD", 4)
    master = redis_servers.start()
    replica = redis_servers.replica(master)
    done: list[str] = []
    failed: list[int] = []
    limits: list[str] = []

    async def scenario() -> None:
        redis = Redis(parse_redis_url(f"{master.url}?wait=1&wait_timeout=0.3"), 4)
        await redis.open()
        settling = Settling(redis, failed.append, limits.append)

        def hear() -> None:
            settling.take(1, lambda: done.append("a"))
            settling.follow(2, lambda: done.append("volatile"))
            settling.take(3, lambda: done.append("b"))

        # Nothing waits: what is stored nowhere goes on at once.
        settling.follow(2, lambda: done.append("first"))
        assert done == ["first"]
        hear()
        assert done == ["first"]
        await until(lambda: len(done) == 4)
        assert done == ["first", "a", "volatile", "b"]
        assert failed == limits == []
        done.clear()
        with replica.paused():
            hear()
            for partition in (0, 2):
                settling.take(partition, lambda: done.append("more"))
            settling.follow(2, lambda: done.append("dropped"))
            # There was room for one of the two.
            assert (failed, limits) == ([2], ["store.heard"] * 2)
            await until(lambda: len(failed) == 4)
        assert (failed, done) == ([2, 1, 3, 0], ["volatile"])
        await until(lambda: master.replicas_in_step() == 1)
        hear()
        await until(lambda: done[1:] == ["a", "volatile", "b"])
        await redis.close()

    run(scenario())


def test_without_wait_nothing_waits(redis_server: RedisServer) -> None:
    redis = Redis(parse_redis_url(redis_server.url), 4)
    done: list[str] = []
    Settling(redis, lambda partition: None).take(1, lambda: done.append("a"))
    assert done == ["a"]
