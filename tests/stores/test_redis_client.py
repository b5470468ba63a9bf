"""The client of Redis, against real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gateway.errors import ConfigError, StoreUnavailable
from gateway.store_url import parse_redis_url
from gateway.stores.redis.client import Redis, Reply
from gateway.stores.redis.scripts import Script, script
from tests.redis_servers import RedisServer, RedisServers

GUARD = 30.0
ECHO = script("echo", "return {KEYS[1], ARGV[1], ARGV[2]}")
PUSH = script("push", "return redis.call('RPUSH', prefix .. 'list', ARGV[1])")
FAULTY = script("faulty", "return redis.call('HGET', prefix .. 'list', 'x')")


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(GUARD):
        while not holds():  # noqa: ASYNC110 - what it looks at has no event
            await asyncio.sleep(0.01)


class Opened:
    """A client that is open inside `async with`."""

    def __init__(self, url: str, partitions: int = 4) -> None:
        self.redis = Redis(parse_redis_url(url), partitions)

    async def __aenter__(self) -> Redis:
        await self.redis.open()
        return self.redis

    async def __aexit__(self, *_: object) -> None:
        await self.redis.close()


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, GUARD * 2))


def pushes(redis: Redis, numbers: range, which: Script = PUSH) -> list[asyncio.Future[Reply]]:
    """Ask for one push each; the futures have the answers."""
    return [asyncio.ensure_future(redis.ask(1, which, [number])) for number in numbers]


def test_a_script_gets_the_prefix_of_its_partition_and_its_arguments(redis_url: str) -> None:
    async def test() -> None:
        async with Opened(redis_url) as redis:
            assert await redis.ask(3, ECHO, ["é", 1.5]) == [
                redis.prefix(3),
                "é".encode(),
                b"1.5",
            ]
            assert redis.prefix(3).endswith(b":{3}:")
            assert redis.available

    run(test())


def test_calls_run_and_are_answered_in_order(redis_url: str) -> None:
    async def test() -> None:
        answers: list[Any] = []
        async with Opened(redis_url) as redis:
            for number in range(1000):
                redis.call(1, PUSH, [number], answers.append)
            await until(lambda: len(answers) == 1000)
            assert answers == [*range(1, 1001)]
            await asyncio.sleep(0)
            kept: Any = None

            def done(reply: Any) -> None:
                nonlocal kept
                kept = reply

            redis.command(1, "LRANGE", redis.prefix(1) + b"list", 0, -1, done=done)
            await until(lambda: kept is not None)
            assert kept == [b"%d" % number for number in range(1000)]

    run(test())


def test_scripts_that_the_server_forgot_are_loaded_and_calls_keep_their_order(
    redis_url: str, redis_server: RedisServer
) -> None:
    async def test() -> None:
        async with Opened(redis_url) as redis:
            await redis.ask(1, PUSH, [0])
            first = pushes(redis, range(1, 100))
            await asyncio.sleep(0)
            redis.command(1, "SCRIPT", "FLUSH", done=lambda reply: None)
            rest = pushes(redis, range(100, 200))
            answers = await asyncio.gather(*first)
            # More is asked while the server is told of the script.
            more = pushes(redis, range(200, 300))
            answers += await asyncio.gather(*rest, *more)
            assert answers == [*range(2, 301)]

    run(test())


def test_a_fault_of_a_script_is_logged_and_told_as_unavailable(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with Opened(redis_url) as redis:
            await redis.ask(1, PUSH, [0])
            with pytest.raises(StoreUnavailable):
                await redis.ask(1, FAULTY)
            assert await redis.ask(1, PUSH, [1]) == 2
            assert redis.available

    run(test())
    assert "the script faulty failed" in caplog.text


def test_a_server_that_is_killed_and_started_again_is_found_again(
    redis_servers: RedisServers, caplog: pytest.LogCaptureFixture
) -> None:
    server = redis_servers.start(appendonly="always")

    async def test() -> None:
        async with Opened(server.url) as redis:
            assert await redis.ask(1, PUSH, [0]) == 1
            server.kill()
            with pytest.raises(StoreUnavailable):
                await redis.ask(1, PUSH, [1])
            await until(lambda: not redis.available)
            with pytest.raises(StoreUnavailable):
                await redis.ask(1, PUSH, [2])
            server.restart()
            await until(lambda: redis.available)
            assert await redis.ask(1, PUSH, [3]) == 2

    run(test())
    assert caplog.text.count("is back") == 1


def test_a_server_that_is_out_of_reach_is_no_error_at_the_start(
    redis_servers: RedisServers,
) -> None:
    server = redis_servers.start()
    server.kill()

    async def test() -> None:
        async with Opened(server.url) as redis:
            assert not redis.available
            with pytest.raises(StoreUnavailable):
                await redis.ask(0, PUSH, [0])
            server.restart()
            await until(lambda: redis.available)
            assert await redis.ask(0, PUSH, [0]) == 1

    run(test())


def test_a_server_that_evicts_keys_is_refused(redis_servers: RedisServers) -> None:
    server = redis_servers.start("--maxmemory-policy", "allkeys-lru", maxmemory="100mb")

    async def test() -> None:
        with pytest.raises(ConfigError, match="set maxmemory-policy to noeviction"):
            await Redis(parse_redis_url(server.url)).open()

    run(test())
