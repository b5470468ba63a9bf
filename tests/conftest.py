"""What all tests share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tornado.ioloop import IOLoop


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
