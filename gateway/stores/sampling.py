"""How long a store takes for a message, looked at now and then: each look costs."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Final, TypeVar

D = TypeVar("D")
R = TypeVar("R")

#: Takes `message` or `publish`, and seconds.
OnLatency = Callable[[str, float], None]

#: Between two looks, in seconds.
_PAUSE: Final = 0.01


class Sampler:
    """Times one call of a store at most each hundredth of a second.

    A call whose `now` has come to `due` is to be watched. `on_latency` is told its `kind`.
    """

    __slots__ = ("_kind", "_on_latency", "due")

    def __init__(self, kind: str, on_latency: OnLatency) -> None:
        self._kind = kind
        self._on_latency = on_latency
        self.due = 0.0

    def watch(self, now: float, done: Callable[[D, R], None]) -> Callable[[D, R], None]:
        """Return a `done` in place of the one given, that notes when it is called."""
        self.due = now + _PAUSE
        start = perf_counter()

        def watched(draft: D, result: R) -> None:
            self._on_latency(self._kind, perf_counter() - start)
            done(draft, result)

        return watched

    def restart(self) -> None:
        """Look at the next call: a clock that was set back would not come to `due` for long."""
        self.due = 0.0


def ignore_latency(kind: str, seconds: float) -> None:
    """Nobody wants to know."""
