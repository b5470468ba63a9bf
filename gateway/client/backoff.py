"""How long to wait before the next try."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

#: Doublings; any more would be beyond every maximum, and one day beyond a float.
_MAX_DOUBLINGS: Final = 30


class Backoff:
    """Waits that double from `delay` to `delay_max` seconds.

    Half of each is random: clients of a gateway that restarted do not come in step. `chance`
    returns a number from 0 up to 1.
    """

    def __init__(
        self, delay: float, delay_max: float, chance: Callable[[], float] = random.random
    ) -> None:
        if not 0 < delay <= delay_max:
            raise ValueError("delay must be above 0 and not above delay_max")
        self._delay = delay
        self._delay_max = delay_max
        self._chance = chance
        self._failures = 0

    def next(self) -> float:
        """Return the next wait in seconds."""
        full = min(self._delay_max, self._delay * 2.0**self._failures)
        self._failures = min(self._failures + 1, _MAX_DOUBLINGS)
        return full / 2 + self._chance() * full / 2

    def reset(self) -> None:
        """Start anew: a connection was good."""
        self._failures = 0

    def spread(self, seconds: float) -> float:
        """Return a little more than the gateway asked for: others were asked, too."""
        return seconds * (1 + self._chance() * 0.2)
