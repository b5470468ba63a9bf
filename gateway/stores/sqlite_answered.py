"""What the sqlite store's writer has answered, and the event loop has not called back yet."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from typing import Final

from gateway.stores.sqlite_writer import Answer, Job

logger = logging.getLogger(__name__)

#: Members of a room to whom a message is work enough for one turn of the event loop.
_MANY: Final = 256


class Answered:
    """Answers in their order; a turn of the event loop has one message to many members at most.

    A transaction may have thirty of them: together they would hold up everything else, and the
    frames of the first one would wait for those of the last one.
    """

    def __init__(self) -> None:
        self._answers: deque[Answer] = deque()

    def extend(self, answers: Iterable[Answer], loop: asyncio.AbstractEventLoop) -> None:
        """Call these back after all that came before, at once if nothing waits."""
        waiting = bool(self._answers)
        self._answers.extend(answers)
        if not waiting:
            self._go_on(loop)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._answers:
            many = self._call_next()
            if many and self._answers:
                loop.call_soon(self._go_on, loop)
                return

    def call_all(self) -> None:
        """Call back all that waits, now."""
        while self._answers:
            self._call_next()

    def _call_next(self) -> bool:
        """Call back the next one; return whether it was a message to many."""
        item, result = self._answers.popleft()
        try:
            if isinstance(item, Job):
                item.done(result)
            else:
                item[2](item[0], result)
        except Exception:
            logger.exception("an answer of the store was not taken")
        return isinstance(item, Job) and item.copies >= _MANY
