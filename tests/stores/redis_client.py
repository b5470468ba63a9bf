"""A client of Redis for tests, and small scripts to try it with."""

from __future__ import annotations

import asyncio

from gateway.store_url import parse_redis_url
from gateway.stores.redis.client import Redis, Reply
from gateway.stores.redis.scripts import Script, script

GUARD = 30.0
ECHO = script("echo", "return {KEYS[1], ARGV[1], ARGV[2]}")
PUSH = script("push", "return redis.call('RPUSH', prefix .. 'list', ARGV[1])")
SAY = script("say", "return tell(ARGV[1], payload('m', ARGV[2], ARGV[3]))")


class Opened:
    """A client that is open inside `async with`."""

    def __init__(self, url: str, partitions: int = 4) -> None:
        self.redis = Redis(parse_redis_url(url), partitions)

    async def __aenter__(self) -> Redis:
        await self.redis.open()
        return self.redis

    async def __aexit__(self, *_: object) -> None:
        await self.redis.close()


def pushes(redis: Redis, numbers: range, which: Script = PUSH) -> list[asyncio.Future[Reply]]:
    """Ask for one push each; the futures have the answers."""
    return [asyncio.ensure_future(redis.ask(1, which, [number])) for number in numbers]


def listening(redis: Redis) -> list[tuple[int, bytes, bytes]]:
    """Listen to the channel n:me of all partitions; what comes is put into the list."""
    heard: list[tuple[int, bytes, bytes]] = []
    channels = [(partition, b"n:me") for partition in range(redis.partitions)]
    redis.listen(channels, lambda *message: heard.append(message))
    return heard


def events(redis: Redis) -> list[tuple[str, frozenset[int], bool]]:
    """Return a list into which goes what on_lost and on_restored are told."""
    told: list[tuple[str, frozenset[int], bool]] = []
    redis.on_lost = lambda partitions: told.append(("lost", partitions, False))
    redis.on_restored = lambda partitions, same: told.append(("restored", partitions, same))
    return told
