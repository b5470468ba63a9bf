"""Room in a store that is full, from partitions that were not asked for it.

A script makes room in its own partition. When there is none, others may still have messages that
nobody needs: some of those go then, so that there is room at the next try.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from gateway.errors import StoreUnavailable
from gateway.stores.redis.partitions import Partitions
from gateway.stores.redis.scripts import load
from gateway.stores.redis.totals import Totals

logger = logging.getLogger(__name__)

_RECLAIM: Final = load("reclaim")
#: What goes at least, as a part of the limit: one message would soon be followed by others.
_PART: Final = 1024


class Reclaimer:
    """Makes room for what was refused because all mailboxes together are too large."""

    def __init__(self, partitions: Partitions, totals: Totals, total_bytes: int) -> None:
        self._partitions = partitions
        self._totals = totals
        self._least = total_bytes // _PART
        self._next = 0
        self._task: asyncio.Task[None] | None = None

    def want(self, size: int) -> None:
        """Make room for so many bytes soon, unless that is under way or no other has any."""
        if self._partitions.count > 1 and self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                self._reclaim(max(size, self._least)), name="redis reclaim"
            )

    async def close(self) -> None:
        """End what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _reclaim(self, wanted: int) -> None:
        try:
            # Each time another partition is the first.
            for _ in range(self._partitions.count):
                self._next = partition = (self._next + 1) % self._partitions.count
                arguments = (*self._totals.heads[partition], b"", wanted)
                freed: Any = await self._partitions.ask(partition, _RECLAIM, arguments)
                wanted -= freed
                if wanted <= 0:
                    break
            await self._totals.look()
        except StoreUnavailable as error:
            logger.warning("no room was made in the store: %s", error)
        except Exception:
            logger.exception("no room was made in the store")
        finally:
            self._task = None
