"""What this node has acknowledged lately: is it still there after a failover or a restart?

A client that has a lost message notices, by its nonce. One that was away when it came cannot: its
mailbox is simply shorter. So each node remembers the newest message of each player that it has
acknowledged, and looks for it when another server answers than the one that had it. A mailbox that
lacks it gets a hole, which its player is told of like any other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from gateway.errors import StoreUnavailable
from gateway.messages import TrueId
from gateway.store import Copies
from gateway.stores.limits import OnLimit, ignore_limit
from gateway.stores.redis.client import Word
from gateway.stores.redis.partitions import Partitions
from gateway.stores.redis.scripts import load

logger = logging.getLogger(__name__)

_DEFICIT: Final = load("deficit")
#: Players of one call.
_CHUNK: Final = 200
#: What is remembered goes after so long, at the earliest; twice as long at most. Seconds: a disk is
#: synced each second, and a replica that lags further is none.
_WINDOW: Final = 10.0
#: So many players are remembered at least; more would take too much memory.
_MOST: Final = 100_000
#: Between two tries while Redis does not answer, in seconds.
_RETRY: Final = 0.2

#: Takes players who lack messages, and how many these are.
OnLost = Callable[[Sequence[TrueId], int], None]
Place = tuple[str, int, int]


class Acknowledged:
    """Remembers for the node `node`; `on_lost` is told of players who lack something."""

    def __init__(
        self,
        partitions: Partitions,
        node: str,
        on_lost: OnLost,
        on_limit: OnLimit = ignore_limit,
    ) -> None:
        self._partitions = partitions
        self._node = node
        self._on_lost = on_lost
        self._on_limit = on_limit
        self._new: dict[str, tuple[int, int]] = {}
        self._old: dict[str, tuple[int, int]] = {}
        self._turn = 0.0
        #: Partitions that do not answer: what was acknowledged there is not to be forgotten.
        self._away: set[int] = set()
        #: To be looked for, by partition.
        self._doubted: dict[int, list[Place]] = {}
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    @property
    def looking(self) -> bool:
        """Whether something is still to be looked for."""
        return bool(self._doubted)

    def note(self, true_id: str, offset: int, nonce: int, now: float) -> None:
        """A message of a player was acknowledged."""
        if now >= self._turn or len(self._new) >= _MOST:
            self._turn_over(now)
        self._new[true_id] = (offset, nonce)

    def note_copies(self, copies: Sequence[Copies], nonce: int, now: float) -> None:
        """A message to a room was."""
        for message, true_ids in copies:
            for true_id in true_ids:
                self.note(true_id, message.offset, nonce, now)

    def _turn_over(self, now: float) -> None:
        if len(self._new) >= _MOST:
            self._on_limit("store.acknowledged")
        elif self._away:
            return
        self._old, self._new = self._new, {}
        self._turn = now + _WINDOW

    # What becomes of servers

    def on_lost(self, partitions: frozenset[int]) -> None:
        """These are out of reach."""
        self._away |= partitions

    def on_restored(self, partitions: frozenset[int], same_server: bool) -> None:
        """These are back."""
        self._away -= partitions
        if same_server:
            return
        of = self._partitions.of
        for memory in (self._old, self._new):
            for true_id in [each for each in memory if of(each) in partitions]:
                place = (true_id, *memory.pop(true_id))
                self._doubted.setdefault(of(true_id), []).append(place)
        if self._doubted and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._look(), name="redis-acknowledged")

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self) -> None:
        players = messages = 0
        while self._doubted:
            for partition in [*self._doubted]:
                places = self._doubted[partition][:_CHUNK]
                try:
                    lacking = await self._ask(partition, places)
                except StoreUnavailable as error:
                    logger.debug("what was acknowledged is not looked for yet: %s", error)
                    await asyncio.sleep(_RETRY)
                    break
                except Exception:
                    logger.exception("some of what was acknowledged cannot be looked for")
                    lacking = {}
                # It may have grown meanwhile.
                left = self._doubted[partition][len(places) :]
                if left:
                    self._doubted[partition] = left
                else:
                    del self._doubted[partition]
                if lacking:
                    missing = sum(lacking.values())
                    players += len(lacking)
                    messages += missing
                    try:
                        self._on_lost([*lacking], missing)
                    except Exception:
                        logger.exception("players could not be told of what they lack")
        if players:
            logger.error(
                "the store has lost about %d messages that were acknowledged; %d players are told",
                messages,
                players,
            )

    async def _ask(self, partition: int, places: Sequence[Place]) -> dict[TrueId, int]:
        args: list[Word] = [self._node]
        for place in places:
            args += place
        reply: Any = await self._partitions.ask(partition, _DEFICIT, args)
        pairs = zip(reply[::2], reply[1::2], strict=True)
        return {TrueId(true_id.decode()): missing for true_id, missing in pairs}
