"""What all tests share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from tests.redis_servers import RedisServer, RedisServers

_numbers = count()


@pytest.fixture
def io_loop() -> Iterator[IOLoop]:
    """Stand in for pytest-tornado's own, which leaves an event loop unclosed.

    Tornado asks which loop was current before; asyncio makes one to answer unless told that
    there is none.
    """
    asyncio.set_event_loop(None)
    loop = IOLoop(make_current=True)
    yield loop
    loop.close(all_fds=True)
    asyncio.set_event_loop(None)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis-server that all tests share: each takes a `redis_prefix` of its own."""
    with RedisServers(tmp_path_factory.mktemp("redis")) as servers:
        yield servers.start()


@pytest.fixture
def redis_prefix() -> str:
    """What the keys of one test begin with on the shared server."""
    return f"t{next(_numbers)}"


@pytest.fixture
def redis_url(redis_server: RedisServer, redis_prefix: str) -> str:
    """The URL of a store on the shared server that nobody else uses."""
    return f"{redis_server.url}?prefix={redis_prefix}"


@pytest.fixture
def redis_servers(tmp_path: Path) -> Iterator[RedisServers]:
    """Start servers for one test, to be stopped, paused, killed and restarted."""
    with RedisServers(tmp_path) as servers:
        yield servers
