"""What this node has missed of some partitions, and whether they are what they were.

While the channels of a partition are not heard, nobody says what happens there. As soon as they are
heard again the node says anew which sessions it has, asks where the mailboxes of its players stand,
and reads what is new. Until then it writes nothing from them: the server may be another one, and
have lost the last that it had acknowledged. A number alone does not show that, the nonce does.

What too few replicas have is stored all the same. Other nodes were told of it, this one was not: it
looks, too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, Protocol

from gateway.errors import StoreUnavailable
from gateway.failure_log import FailureLog
from gateway.mailbox import Position
from gateway.nodes import Inbound, Place
from gateway.session import Session
from gateway.stores.redis.link import Word
from gateway.stores.redis.partitions import Partitions
from gateway.stores.redis.scripts import load

logger = logging.getLogger(__name__)

_VERIFY: Final = load("verify")
#: Places in one call.
_CHUNK: Final = 200
#: Between two tries while Redis does not answer, and before the first, in seconds.
_RETRY: Final = 0.2
#: An offset that no mailbox reaches.
_NOWHERE: Final = 2**53


class Sessions(Protocol):
    """The store's sessions, as far as they are renewed."""

    async def renew_sessions(self, partitions: Collection[int]) -> list[Session]:
        """Say which sessions are here; return those that are not any more."""


class Resuming:
    """Catches up with partitions."""

    def __init__(self, sessions: Sessions, partitions: Partitions) -> None:
        self._sessions = sessions
        self._partitions = partitions
        self._inbound: Inbound
        #: Partitions that are not caught up with, and the task that sees to each.
        self._behind: dict[int, asyncio.Task[None] | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures = FailureLog(logger, time.monotonic)
        self._unanswered: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def attach(self, inbound: Inbound) -> None:
        """Catch up with what these players have missed."""
        self._inbound = inbound

    def __len__(self) -> int:
        return len(self._behind)

    @property
    def behind(self) -> frozenset[int]:
        """The partitions that are not heard, or not caught up with."""
        return frozenset(self._behind)

    def is_behind(self, partition: int) -> bool:
        """Tell whether what this node knows of a partition may not hold any more."""
        return partition in self._behind

    def on_lost(self, partitions: frozenset[int]) -> None:
        """These are not heard."""
        self._behind.update(dict.fromkeys(partitions))
        of = self._partitions.of
        self._inbound.on_doubt(lambda true_id: of(true_id) in partitions)

    def on_restored(self, partitions: frozenset[int], same_server: bool) -> None:
        """These are heard again; who answers may be the same server as before, or not."""
        if not same_server:
            logger.warning(
                "%d partitions of the store are on another server, or it was started again: what "
                "clients have is compared",
                len(partitions),
            )
        self._start(partitions)

    def on_unanswered(self, partition: int) -> None:
        """A message may have been stored there, and nothing said of it: look soon."""
        self._unanswered.add(partition)
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(_RETRY, self._look_for_unanswered)

    def look(self, partitions: Iterable[int]) -> None:
        """Look at partitions although nothing is known to be missed: if it was, that ends here."""
        self._start(frozenset(partitions) - self._behind.keys())

    def _look_for_unanswered(self) -> None:
        self._timer = None
        unanswered, self._unanswered = self._unanswered, set()
        # What is not heard is looked at when it is heard again.
        lost = {each for each, task in self._behind.items() if task is None}
        self._start(frozenset(unanswered - lost))

    def _start(self, partitions: frozenset[int]) -> None:
        # A task has a partition until it is caught up with, or lost again.
        task = asyncio.get_running_loop().create_task(
            self._catch_up(partitions), name="redis-resuming"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._behind.update(dict.fromkeys(partitions, task))

    async def close(self) -> None:
        """Stop."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _catch_up(self, partitions: frozenset[int]) -> None:
        task = asyncio.current_task()

        def left() -> frozenset[int]:
            return frozenset(each for each in partitions if self._behind.get(each) is task)

        while mine := left():
            try:
                for session in await self._sessions.renew_sessions(mine):
                    self._inbound.on_session_lost(session)
                caught_up = await self._look(mine, left)
            except StoreUnavailable as error:
                logger.debug("missed messages are not read yet: %s", error)
                await asyncio.sleep(_RETRY)
                continue
            except Exception as error:
                # Nothing is written from these partitions until it has worked.
                self._failures.note("catching up with the store", error)
                await asyncio.sleep(_RETRY)
                continue
            for partition in caught_up:
                del self._behind[partition]

    async def _look(
        self, partitions: frozenset[int], left: Callable[[], frozenset[int]]
    ) -> frozenset[int]:
        """Compare all places in these partitions; return those that were not lost meanwhile."""
        of = self._partitions.of
        groups: dict[int, list[Place]] = {}
        for place in self._inbound.positions(lambda true_id: of(true_id) in partitions):
            groups.setdefault(of(place.true_id), []).append(place)
        chunks = [
            (partition, places[start : start + _CHUNK])
            for partition, places in groups.items()
            for start in range(0, len(places), _CHUNK)
        ]
        answers = await asyncio.gather(*(self._heads(*chunk) for chunk in chunks))
        heard = left()
        for (partition, places), heads in zip(chunks, answers, strict=True):
            if partition in heard:
                for place, head in zip(places, heads, strict=True):
                    self._inbound.on_known(place, None if head < 0 else head)
        return heard

    async def _heads(self, partition: int, places: Sequence[Place]) -> list[int]:
        """Return the heads of mailboxes, -1 where the place is gone. Raises StoreUnavailable."""
        args: list[Word] = []
        epoch = self._partitions.epochs[partition].decode()
        for place in places:
            position = Position.parse(place.message_id.decode())
            if position is None:
                args += (place.true_id, place.offset, "")
            elif position.epoch == epoch:
                args += (place.true_id, place.offset, _nonce(position))
            else:
                # It was another mailbox, of which nothing is left.
                args += (place.true_id, _NOWHERE, "")
        heads: Any = await self._partitions.ask(partition, _VERIFY, args)
        return [int(head) for head in heads]


def _nonce(position: Position) -> Word:
    """Return the nonce as Redis has it, "" if it is none.

    Of the place before the first message nobody has compared what the client presented.
    """
    try:
        return int(position.nonce, 16)
    except ValueError:
        return ""
