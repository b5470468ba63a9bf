"""How late the event loop is: everything that the gateway does waits at least so long."""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.metrics import Metrics

#: Between two looks, in seconds.
_PAUSE: Final = 0.1
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class LoopLag:
    """Measures by how much a timer comes late, as `gateway_event_loop_lag_seconds`."""

    def __init__(self, metrics: Metrics) -> None:
        self._observe = metrics.histogram(
            "event_loop_lag_seconds", "How late timers of the event loop come", _BUCKETS
        )
        self._worst = 0.0

    def take_worst(self) -> float:
        """Return the largest lag since the last call, in seconds."""
        worst, self._worst = self._worst, 0.0
        return worst

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _PAUSE
            await asyncio.sleep(_PAUSE)
            lag = max(0.0, loop.time() - due)
            self._observe(lag)
            self._worst = max(self._worst, lag)
