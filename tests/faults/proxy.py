"""A TCP proxy that breaks its connections, each in a way that chance chose for it."""

from __future__ import annotations

import asyncio
import enum
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import Final

_CHUNK: Final = 65536
#: How long a connection is left in peace before each of its faults. Seconds.
_PEACE: Final = (0.1, 1.2)
_DELAY: Final = (0.0, 0.05)
#: Longer or shorter than the tests' ping timeouts. Seconds.
_STALL: Final = (0.2, 2.0)
_PIECES: Final = (1, 1, 1, 2, 3, 7)
#: What is left of a chunk after so many pieces goes out at once.
_MAX_PIECES: Final = 64
_RESET: Final = struct.pack("ii", 1, 0)


class Fault(enum.Enum):
    """What befalls a connection."""

    DROP = "both sides see it end (FIN)"
    RESET = "both sides see it reset (RST)"
    HOLE_BOTH = "what either side writes vanishes"
    HOLE_UP = "what the client writes vanishes"
    HOLE_DOWN = "what the gateway writes vanishes"
    DELAY = "every chunk waits for a random time"
    SPLIT = "bytes come alone or in small pieces"
    STALL = "nothing passes for a while, then all of it"


_SWALLOWS_UP: Final = frozenset({Fault.HOLE_BOTH, Fault.HOLE_UP})
_SWALLOWS_DOWN: Final = frozenset({Fault.HOLE_BOTH, Fault.HOLE_DOWN})
_HOLES: Final = _SWALLOWS_UP | _SWALLOWS_DOWN
#: Nothing can follow: the stream has ended, or has a hole that must stay.
_ENDS: Final = _HOLES | {Fault.DROP, Fault.RESET}


class _Pipe:
    """One connection: a socket to each side, and a task for each direction."""

    def __init__(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        gateway: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        chance: random.Random,
    ) -> None:
        self._client, self._gateway = client, gateway
        self._chance = chance
        self.fault: Fault | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def run(self, choose: Callable[[], Fault | None]) -> None:
        """Forward until it ends; after a while in peace a fault strikes, and so on."""
        tasks = [
            asyncio.create_task(self._forward(self._client[0], self._gateway[1], _SWALLOWS_UP)),
            asyncio.create_task(self._forward(self._gateway[0], self._client[1], _SWALLOWS_DOWN)),
        ]
        striker = asyncio.create_task(self._strike(choose))
        try:
            # A hole outlives its client: the gateway's side stays open, as behind a dead router.
            await asyncio.gather(*tasks)
        finally:
            for task in (*tasks, striker):
                task.cancel()
            await asyncio.gather(*tasks, striker, return_exceptions=True)
            self.cut()

    async def _strike(self, choose: Callable[[], Fault | None]) -> None:
        while True:
            await asyncio.sleep(self._chance.uniform(*_PEACE))
            self.fault = choose()
            if self.fault is Fault.DROP:
                self.cut()
            elif self.fault is Fault.RESET:
                self.reset()
            elif self.fault is Fault.STALL:
                self._flowing.clear()
                await asyncio.sleep(self._chance.uniform(*_STALL))
                self._flowing.set()
            if self.fault in _ENDS:
                return

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        swallowed_by: frozenset[Fault],
    ) -> None:
        try:
            while chunk := await reader.read(_CHUNK):
                await self._flowing.wait()
                if self.fault in swallowed_by:
                    continue
                await self._write(chunk, writer)
            await self._flowing.wait()
        except OSError:
            pass
        if self.fault not in _HOLES:
            writer.close()

    async def _write(self, chunk: bytes, writer: asyncio.StreamWriter) -> None:
        if self.fault is Fault.DELAY:
            await asyncio.sleep(self._chance.uniform(*_DELAY))
        elif self.fault is Fault.SPLIT:
            for _ in range(_MAX_PIECES):
                if writer.is_closing():
                    raise ConnectionResetError
                size = self._chance.choice(_PIECES)
                writer.write(chunk[:size])
                chunk = chunk[size:]
                # Another turn of the loop is another segment: Nagle's algorithm is off.
                await asyncio.sleep(0)
        writer.write(chunk)
        await writer.drain()

    def cut(self) -> None:
        """End both sides."""
        for _, writer in (self._client, self._gateway):
            writer.close()

    def reset(self) -> None:
        """Reset both sides."""
        for _, writer in (self._client, self._gateway):
            if not writer.is_closing():
                connection = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()

    def heal(self) -> None:
        """Go on without fault; a hole cannot be mended, so its connection ends."""
        if self.fault in _HOLES:
            self.cut()
        self.fault = None
        self._flowing.set()


class Proxy:
    """Listens on `port` of 127.0.0.1 while it is open; `upstream` is the gateway's port there.

    It breaks nothing unless `faulty` is set.
    """

    def __init__(self, upstream: int, chance: random.Random) -> None:
        self.port = 0
        self.faulty = False
        #: Faults that struck so far.
        self.faults: Counter[Fault] = Counter()
        self._upstream = upstream
        self._chance = chance
        self._bag: list[Fault] = []
        self._vanished = False
        self._server: asyncio.Server | None = None
        self._pipes: dict[_Pipe, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        tasks = [*self._pipes.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._vanished:
            writer.close()
            return
        try:
            gateway = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.close()
            return
        pipe = _Pipe((reader, writer), gateway, random.Random(self._chance.random()))
        task = asyncio.create_task(pipe.run(self._choose), name="pipe")
        self._pipes[pipe] = task
        task.add_done_callback(lambda _: self._pipes.pop(pipe))

    def _choose(self) -> Fault | None:
        if self._vanished:
            return Fault.HOLE_BOTH
        if not self.faulty:
            return None
        # A shuffled bag: no kind is left out.
        if not self._bag:
            self._bag = self._chance.sample(list(Fault), len(Fault))
        fault = self._bag.pop()
        self.faults[fault] += 1
        return fault

    def cut_all(self) -> None:
        """End every connection there is."""
        for pipe in self._pipes:
            pipe.cut()

    def vanish(self) -> None:
        """Until `heal`, what either side writes is lost, and new connections are refused."""
        self._vanished = True
        for pipe in self._pipes:
            pipe.fault = Fault.HOLE_BOTH

    def heal(self) -> None:
        """Break nothing from now on, and mend what can be."""
        self.faulty = self._vanished = False
        for pipe in self._pipes:
            pipe.heal()
