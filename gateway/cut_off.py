"""A node that lost the store, while other nodes may have it: what becomes of its players.

If another node has the store, players are better off there: they are sent away as at a stop, in a
random order. If none has, nobody could take them over and there is no better place: they stay, and
go on where they are when the store is back. Which of the two it is only the others can say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from random import Random
from typing import Final

from gateway.connection import Connection
from gateway.draining import Draining
from gateway.nodes import NodeId
from gateway.registry import Registry

logger = logging.getLogger(__name__)

#: Why connections are closed then, and what `goaway` says.
REASON: Final = "cut_off"
#: Between two rounds of questions to the others, in seconds.
_PAUSE: Final = 0.5
#: For so long another node must have had the store: when it is back for all, some are there first.
#: Seconds, the longest pause between two tries to reach it.
PATIENCE: Final = 2.0


class CutOff:
    """`others` are the nodes to ask, `serves` asks one whether it has the store, or may have it.

    `pace` returns how many players are to come back in a second, and within how many seconds all
    are to have gone. `patience` is in seconds.
    """

    def __init__(
        self,
        registry: Registry[Connection],
        others: Callable[[], Collection[NodeId]],
        serves: Callable[[NodeId], Awaitable[bool]],
        pace: Callable[[], tuple[float, float]],
        chance: Random,
        patience: float = PATIENCE,
    ) -> None:
        self._registry = registry
        self._others = others
        self._serves = serves
        self._pace = pace
        self._chance = chance
        self._patience = patience
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def begin(self) -> None:
        """The store is out of reach, and has been for so long that others may act for this node."""
        if self._task is None and not self._stopped:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="cut-off")

    def end(self) -> None:
        """It is in reach again: who is still here stays."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def stop(self) -> None:
        """Send nobody away any more: the gateway stops."""
        self._stopped = True
        task = self._task
        self.end()
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            await self._wait_for_others()
            logger.warning(
                "other nodes have the store, this one does not: its players are sent away"
            )
            await self._send_away()
        except Exception:
            logger.exception("players could not be sent to the other nodes")

    async def _wait_for_others(self) -> None:
        """Return when another node has had the store for a while, and this one has not."""
        loop = asyncio.get_running_loop()
        since: float | None = None
        told = False
        while since is None or loop.time() < since + self._patience:
            answers = await asyncio.gather(*(self._serves(node) for node in self._others()))
            if any(answers):
                since = loop.time() if since is None else since
            else:
                since = None
                if not told:
                    told = True
                    logger.warning("no other node has the store either: players stay here")
            await asyncio.sleep(min(_PAUSE, self._patience))

    async def _send_away(self) -> None:
        draining = Draining(self._registry, _nothing, lambda: 0, lambda: None, self._chance, REASON)
        await draining.run(*self._pace())
        for connection in self._registry:
            connection.close(REASON, reconnect=True)


async def _nothing() -> None:
    """The store has no answers to wait for."""
