"""The network between browsers and the gateway, which a test can take away."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable

from tests.faults.proxy import Proxy

_SECONDS = 15.0


class Network:
    """A proxy in front of the gateway's port, in a thread of its own."""

    def __init__(self, upstream: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._proxy = Proxy(upstream, random.Random(0))
        self._thread = threading.Thread(target=self._loop.run_forever, name="network")
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._proxy.__aenter__(), self._loop).result(_SECONDS)
        self.url = f"http://127.0.0.1:{self._proxy.port}/"

    def take_away(self) -> None:
        """What either side writes vanishes, and nobody new gets through."""
        self._call(self._proxy.vanish)

    def give_back(self) -> None:
        """Let new connections through; those from before are lost, and both sides hear of it."""
        self._call(self._proxy.heal)

    def close(self) -> None:
        """End all connections, and the thread."""
        asyncio.run_coroutine_threadsafe(self._proxy.__aexit__(), self._loop).result(_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, function: Callable[[], None]) -> None:
        async def call() -> None:
            function()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result(_SECONDS)
