"""Faults of code that is not ours: the first is logged whole, of more only how many."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

#: Between two lines about the same thing, in seconds.
_PAUSE: Final = 60.0


class FailureLog:
    """`note` is told what failed, out of a bounded number of things.

    So players cannot fill the log.
    """

    def __init__(self, logger: logging.Logger, monotonic: Callable[[], float]) -> None:
        self._logger = logger
        self._monotonic = monotonic
        self._told: dict[str, tuple[float, int]] = {}

    def note(self, what: str, error: BaseException) -> None:
        """Log that `what` failed, at most once a minute."""
        now = self._monotonic()
        since, more = self._told.get(what, (now - _PAUSE, 0))
        if now - since < _PAUSE:
            self._told[what] = (since, more + 1)
            return
        self._told[what] = (now, 0)
        again = f", and {more} times before since this was last logged" if more else ""
        self._logger.error("%s failed%s", what, again, exc_info=error)
