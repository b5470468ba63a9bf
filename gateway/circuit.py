"""When to try again: growing pauses with jitter, and a circuit breaker over one peer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

#: Doubling more often than this changes nothing.
_MAX_DOUBLINGS: Final = 30


class Backoff:
    """Pauses of `base` seconds that double up to `most`; half of each is random.

    `random` returns numbers from 0 to 1: many who failed together do not try again together.
    """

    __slots__ = ("_base", "_most", "_random")

    def __init__(self, base: float, most: float, random: Callable[[], float]) -> None:
        self._base = base
        self._most = most
        self._random = random

    def pause(self, failures: int) -> float:
        """Return the seconds to wait after so many failures in a row, at least one."""
        doublings = min(failures - 1, _MAX_DOUBLINGS)
        whole: float = min(self._most, self._base * 2**doublings)
        return whole * (0.5 + 0.5 * self._random())


class Circuit:
    """Lets calls through until `threshold` in a row have failed, then one now and then.

    After the pause one call is let through as a probe. Times are of one monotonic clock.
    """

    def __init__(self, threshold: int, backoff: Backoff) -> None:
        self._threshold = threshold
        self._backoff = backoff
        self._failures = 0
        self._open_until: float | None = None
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether calls are held back."""
        return self._open_until is not None

    def wait(self, now: float) -> float | None:
        """Return the seconds until a call may be made, 0 for now, None while a probe is out."""
        if self._open_until is None:
            return 0.0
        if self._probing:
            return None
        return max(0.0, self._open_until - now)

    def on_call(self) -> None:
        """A call is made; `wait` has returned 0."""
        self._probing = self._open_until is not None

    def on_success(self) -> None:
        """A call got through."""
        self._failures = 0
        self._open_until = None
        self._probing = False

    def on_failure(self, now: float, retry_after: float = 0.0) -> None:
        """A call failed; with `retry_after` the peer has said for how long to leave it alone."""
        self._failures += 1
        self._probing = False
        if self._failures >= self._threshold or retry_after:
            beyond = max(1, self._failures - self._threshold + 1)
            pause = max(retry_after, self._backoff.pause(beyond))
            self._open_until = max(self._open_until or 0.0, now + pause)
