"""Draining: a gateway that stops, or has lost its store, sends its players away one by one.

Every connection gets a place in a random order. By it clients are told when to come back
(event `goaway`), and those that are still here then are closed, so that stock clients, which
do not know `goaway`, come back in the same order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from gateway.connection import Connection
from gateway.errors import StoreUnavailable
from gateway.registry import Registry

#: The first come back after so many seconds: a gateway that restarts is there again by then.
FIRST: Final = 1.0
_TICK: Final = 0.05
#: How long a store may take to finish what was sent before its sender is closed, in seconds.
_PATIENCE: Final = 1.0
#: How long a stop waits for connects that are under way, in seconds.
_LATE: Final = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """When a client is asked to be back, and when it is closed; seconds from now."""

    reconnect_in: float
    close_in: float


def places(count: int, per_second: float, grace: float) -> list[Place]:
    """Return the places of so many connections.

    So many per second come back (0: all at once); all are closed within `grace` seconds, closer
    together if need be.
    """
    spread = count / per_second if per_second else 0.0
    shrink = min(1.0, max(0.0, grace - FIRST) / spread) if spread else 1.0
    steps = [spread * number / count for number in range(1, count + 1)]
    return [Place(round(FIRST + step, 3), min(grace, FIRST + step * shrink)) for step in steps]


class Draining:
    """One drain. `check` returns when the store has answered all it was asked before.

    `late` counts connects that are under way; `report` is called whenever some may have gone.
    `reason` is what clients are told.
    """

    def __init__(
        self,
        registry: Registry[Connection],
        check: Callable[[], Awaitable[None]],
        late: Callable[[], int],
        report: Callable[[], None],
        chance: Random,
        reason: str = "draining",
    ) -> None:
        self._registry = registry
        self._check = check
        self._late = late
        self._report = report
        self._chance = chance
        self._reason = reason

    async def run(self, per_second: float, grace: float) -> None:
        """Send everybody away; return when all have gone, or after `grace` seconds."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        connections = list(self._registry)
        self._chance.shuffle(connections)
        queue = list(zip(places(len(connections), per_second, grace), connections, strict=True))
        for place, connection in queue:
            goaway = {"reason": self._reason, "reconnect_in": place.reconnect_in}
            connection.send("goaway", goaway)
        closed = 0
        while (passed := loop.time() - started) < grace:
            self._report()
            due = closed
            while due < len(queue) and queue[due][0].close_in <= passed:
                due += 1
            await self._close([connection for _, connection in queue[closed:due]])
            closed = due
            if not len(self._registry):
                break
            if closed == len(queue):
                # Who was let in while the rest was sent away.
                await self._close(list(self._registry))
            await asyncio.sleep(_TICK)
        await self._wait_for_late(min(started + grace, loop.time() + _LATE))

    async def _close(self, connections: Sequence[Connection]) -> None:
        """Close connections once they have the receipts for what they have sent so far."""
        here = [connection for connection in connections if not connection.closed]
        if not here:
            return
        for connection in here:
            connection.deaf = True
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._check()
        except (StoreUnavailable, TimeoutError):
            pass  # They send again what they have no receipt for.
        for connection in here:
            connection.close(self._reason, reconnect=True)

    async def _wait_for_late(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        while (self._late() or len(self._registry)) and loop.time() < deadline:
            await self._close(list(self._registry))
            await asyncio.sleep(_TICK)
