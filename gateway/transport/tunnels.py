"""Websockets of clients whose session another node has: bytes are passed on, both ways."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Final

from tornado.iostream import IOStream, StreamClosedError

from gateway.draining import places

_CHUNK: Final = 65_536


class Tunnels:
    """All tunnels of this node."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def run(
        self, client: IOStream, node: IOStream, head: bytes, on_closed: Callable[[], None]
    ) -> None:
        """Write `head` to the client, then pass bytes both ways until either side closes."""
        task = asyncio.get_running_loop().create_task(_pass(client, node, head), name="tunnel")
        self._tasks.add(task)

        def on_done(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            on_closed()

        task.add_done_callback(on_done)

    async def drain(self, per_second: float, grace: float) -> None:
        """Close all within `grace` seconds, in the pace in which clients are to come back."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        tasks = list(self._tasks)
        random.SystemRandom().shuffle(tasks)
        for place, task in zip(places(len(tasks), per_second, grace), tasks, strict=True):
            if not task.done():
                await asyncio.sleep(max(0.0, started + place.close_in - loop.time()))
                task.cancel()

    async def close(self) -> None:
        """Close all at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _pass(client: IOStream, node: IOStream, head: bytes) -> None:
    client.set_nodelay(True)
    node.set_nodelay(True)
    try:
        with contextlib.suppress(StreamClosedError):
            await client.write(head)
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(client, node))
                group.create_task(_copy(node, client))
    finally:
        client.close()
        node.close()


async def _copy(source: IOStream, sink: IOStream) -> None:
    """Pass on what comes, no faster than it is taken; close the other side after the last."""
    try:
        while True:
            await sink.write(await source.read_bytes(_CHUNK, partial=True))
    except StreamClosedError:
        sink.close()
