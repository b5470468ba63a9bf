"""Tells systemd that the gateway works: its event loop turns and its store answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gateway.errors import StoreUnavailable

logger = logging.getLogger(__name__)


class Watchdog:
    """`seconds` is the time after which systemd restarts a gateway that has not pinged.

    `check` has the store write and read something, `ping` tells systemd. A store that answers
    that it is not available has answered: another process would find the same full or broken
    disk, and cut off players who can still be told to wait.
    """

    def __init__(
        self, seconds: float, check: Callable[[], Awaitable[None]], ping: Callable[[], None]
    ) -> None:
        #: Pause between two beats; with the wait for the store it is shorter than `seconds`.
        self.interval = seconds / 4
        self._patience = seconds / 2
        self._check = check
        self._ping = ping
        self._silent = False

    async def beat(self) -> None:
        """Ping if all is well. To be called on the event loop, every `interval` seconds."""
        try:
            async with asyncio.timeout(self._patience):
                await self._check()
        except StoreUnavailable:
            pass
        except TimeoutError:
            if not self._silent:
                logger.error(
                    "the store has not answered for %.1f s: if it does not soon, systemd "
                    "restarts the gateway",
                    self._patience,
                )
            self._silent = True
            return
        self._silent = False
        self._ping()
