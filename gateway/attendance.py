"""Attendance: the webhooks `player.online` and `player.offline`.

The store remembers whom it was last said to be online. What is here and what the store
remembers are made equal, again and again: so nothing is missed when the store was away, and
who was online when the gateway died is offline after their grace. A store that several gateways
share does this itself, with what it keeps of presence.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from gateway.errors import StoreUnavailable
from gateway.failure_log import FailureLog
from gateway.messages import TrueId
from gateway.outbox import OutboxStore

logger = logging.getLogger(__name__)

#: Changes written together.
_BATCH: Final = 500
_RETRY: Final = 1.0


class Attendance:
    """Reports who comes and goes. `is_here` is True until a player is offline, grace included.

    `grace` is in seconds, `clock` Unix time, `monotonic` what durations go by.
    """

    def __init__(
        self,
        store: OutboxStore,
        is_here: Callable[[TrueId], bool],
        grace: float,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._store = store
        self._is_here = is_here
        self._grace = grace
        self._clock = clock
        self._monotonic = monotonic
        self._reported: set[TrueId] = set()
        self._changed: dict[TrueId, None] = {}
        #: Who was online in an earlier life, and until when they may come back.
        self._expected: OrderedDict[TrueId, float] = OrderedDict()
        self._known = False
        self._wake = asyncio.Event()
        self._failures = FailureLog(logger, monotonic)

    def touch(self, true_id: TrueId) -> None:
        """A player has come or gone: look."""
        self._changed[true_id] = None
        self._wake.set()

    def start_anew(self) -> None:
        """The store has become another one: ask it again whom it knows to be online."""
        self._changed.update(dict.fromkeys(self._reported))
        self._known = False
        self._wake.set()

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            try:
                if not self._known:
                    await self._ask()
                await self._report()
            except StoreUnavailable as error:
                logger.debug("attendance waits for the store: %s", error)
                await asyncio.sleep(_RETRY)
                continue
            except Exception as error:
                self._failures.note("reporting who comes and goes", error)
                await asyncio.sleep(_RETRY)
                continue
            await self._pause()

    async def _ask(self) -> None:
        # Before the wait: the store may become another one meanwhile.
        self._known = True
        try:
            reported = await self._store.reported_online()
        except BaseException:
            self._known = False
            raise
        self._reported = set(reported)
        due = self._monotonic() + self._grace
        for true_id in reported:
            self._expected[true_id] = due
            self._changed[true_id] = None

    async def _report(self) -> None:
        now = self._monotonic()
        while self._expected and next(iter(self._expected.values())) <= now:
            true_id, _ = self._expected.popitem(last=False)
            self._changed[true_id] = None
        while self._changed:
            looked = [*self._changed][:_BATCH]
            changes = {}
            for true_id in looked:
                here = self._is_here(true_id)
                if here:
                    self._expected.pop(true_id, None)
                if here != (true_id in self._reported) and true_id not in self._expected:
                    changes[true_id] = here
                # Whoever comes or goes while this is written is looked at again.
                del self._changed[true_id]
            if not changes:
                continue
            try:
                await self._store.report_presence(changes, self._clock())
            except BaseException:
                self._changed.update(dict.fromkeys(changes))
                raise
            for true_id, here in changes.items():
                (self._reported.add if here else self._reported.discard)(true_id)

    async def _pause(self) -> None:
        """Wait until somebody comes or goes, or is not expected any longer."""
        timeout = None
        if self._expected:
            timeout = max(0.0, next(iter(self._expected.values())) - self._monotonic())
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()
