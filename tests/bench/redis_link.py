"""`python -m tests.bench.redis_link`: why the redis store has a link of its own.

One process calls the same Lua script, which appends a message to one of many streams, as often
as it can: through the store's link, and through pipelines of redis-py's asyncio client, whose
parser is hiredis too. Printed are calls a second and the processor time of one call.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import redis.asyncio

from gateway.store_url import parse_redis_url
from gateway.stores.redis.client import Redis
from gateway.stores.redis.scripts import script
from tests.redis_servers import RedisServer, RedisServers

APPEND = script(
    "append",
    "local head = redis.call('HINCRBY', prefix .. 'p:' .. ARGV[1], 'head', 1)\n"
    "redis.call('XADD', prefix .. 'm:' .. ARGV[1], 'MAXLEN', '~', 1000, head .. '-' .. ARGV[2],"
    " 'b', ARGV[3])\n"
    "return head",
)
BODY = b"x" * 200
PLAYERS = [f"player-{number}" for number in range(1000)]
Measured = tuple[float, float]


async def timed(run: Callable[[], Awaitable[int]]) -> Measured:
    """Return calls a second, and microseconds of processor time for each."""
    start, cpu = time.perf_counter(), time.process_time()
    calls = await run()
    return calls / (time.perf_counter() - start), 1e6 * (time.process_time() - cpu) / calls


async def by_link(server: RedisServer, in_flight: int, seconds: float) -> Measured:
    """Keep so many calls in flight; each answer asks the next."""
    client = Redis(parse_redis_url(server.url), 1)
    await client.open()
    calls = waiting = 0
    ended = False

    def ask() -> None:
        nonlocal waiting
        waiting += 1
        client.call(0, APPEND, (PLAYERS[calls % 1000], 7, BODY), done)

    def done(reply: Any) -> None:
        nonlocal calls, waiting
        assert isinstance(reply, int), reply
        calls += 1
        waiting -= 1
        if not ended:
            ask()

    async def run() -> int:
        nonlocal ended
        for _ in range(in_flight):
            ask()
        await asyncio.sleep(seconds)
        ended = True
        while waiting:  # noqa: ASYNC110 - what is in flight is answered in a moment
            await asyncio.sleep(0.001)
        return calls

    try:
        return await timed(run)
    finally:
        await client.close()


async def by_pipelines(server: RedisServer, in_flight: int, seconds: float) -> Measured:
    """Keep so many calls in flight, in pipelines of a hundred, each on a connection."""
    size = min(100, in_flight)
    client = redis.asyncio.Redis(port=server.port)
    await client.script_load(APPEND.source)
    calls = 0

    async def work() -> None:
        nonlocal calls
        while time.perf_counter() < end:
            async with client.pipeline(transaction=False) as pipeline:
                for _ in range(size):
                    calls += 1
                    pipeline.evalsha(
                        APPEND.sha.decode(), 1, "gw:{0}:", PLAYERS[calls % 1000], 7, BODY
                    )
                replies = await pipeline.execute()
            assert all(isinstance(reply, int) for reply in replies)

    async def run() -> int:
        await asyncio.gather(*(work() for _ in range(max(1, in_flight // size))))
        return calls

    end = time.perf_counter() + seconds
    try:
        return await timed(run)
    finally:
        await client.aclose()


def main() -> None:
    """Measure in turn, and print the best of each."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.redis_link")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 100, 1000])
    options = parser.parse_args()
    ways = {"link": by_link, "redis-py's pipelines": by_pipelines}
    with tempfile.TemporaryDirectory() as folder, RedisServers(Path(folder)) as servers:
        server = servers.start(appendonly="everysec")
        for in_flight in options.in_flight:
            best: dict[str, Measured] = {}
            for _ in range(options.rounds):
                for name, way in ways.items():
                    found = asyncio.run(way(server, in_flight, options.seconds))
                    best[name] = max(best.get(name, found), found)
            for name, (rate, cost) in best.items():
                print(f"{in_flight:5} in flight, {name:22} {rate:8.0f} calls/s {cost:6.1f} us")


if __name__ == "__main__":
    main()
