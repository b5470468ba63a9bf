"""Answers that were handed to another node, which has not said yet that its client has them.

Proxies and browsers send a request again when the connection is lost before there is an answer.
With one node the session is lost along with it. With several the node in between may die with an
answer, and the request come again by another one: the packets of the answer would be missing,
and nobody would know. So an answer is open until the node in between has written it, and who
asks again before that waits, or loses the session; the client then resumes a new one.
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.transport.timers import Timer, TimerQueue

#: How long the next request waits for word of the answer before it, in seconds.
PATIENCE: Final = 2.0


class _Exchange:
    __slots__ = ("confirmed", "name", "timer")

    def __init__(self, name: str) -> None:
        self.name = name
        self.confirmed = asyncio.Event()
        self.timer: Timer[tuple[str, str]]


class Exchanges:
    """Open answers, one for each session and method. `lifetime`, in seconds, is a session's.

    A session that is asked for nothing for so long has ended by its heartbeat.
    """

    def __init__(self, lifetime: float, loop: asyncio.AbstractEventLoop) -> None:
        self._open: dict[tuple[str, str], _Exchange] = {}
        self._timers: TimerQueue[tuple[str, str]] = TimerQueue(loop, lifetime, self._forget)
        self._number = 0

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, sid: str, method: str) -> str:
        """Take note of an answer; return the name by which it is confirmed."""
        self._number += 1
        exchange = _Exchange(str(self._number))
        exchange.timer = self._timers.start((sid, method))
        self._open[sid, method] = exchange
        return exchange.name

    def confirm(self, sid: str, method: str, name: str) -> None:
        """The client has the answer, or part of it, which it cannot take for none."""
        exchange = self._open.get((sid, method))
        if exchange is not None and exchange.name == name:
            exchange.confirmed.set()
            exchange.timer.cancel()
            del self._open[sid, method]

    async def settled(self, sid: str, method: str) -> bool:
        """Wait for word of the session's answer before; False: it was lost, perhaps."""
        exchange = self._open.get((sid, method))
        if exchange is None:
            return True
        try:
            async with asyncio.timeout(PATIENCE):
                await exchange.confirmed.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Wait for nothing any more."""
        self._timers.stop()
        self._open.clear()

    def _forget(self, key: tuple[str, str]) -> None:
        self._open.pop(key, None)
