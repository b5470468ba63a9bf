"""The event loop's lag is measured as long as it lasts."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress

from gateway.loop_lag import LoopLag
from gateway.metrics import Metrics


def value(metrics: Metrics, name: str) -> float:
    """Return the value of a line of the metrics."""
    match = re.search(rf"^{re.escape(name)} (\S+)$", metrics.render().decode(), re.MULTILINE)
    assert match, name
    return float(match[1])


def test_a_loop_that_is_blocked_shows() -> None:
    metrics = Metrics()
    name = "gateway_event_loop_lag_seconds"

    subject = LoopLag(metrics)

    async def run() -> None:
        lag = asyncio.ensure_future(subject.run())
        await asyncio.sleep(0)
        time.sleep(0.7)  # noqa: ASYNC251
        while not value(metrics, f"{name}_count"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        lag.cancel()
        with suppress(asyncio.CancelledError):
            await lag

    asyncio.run(asyncio.wait_for(run(), 30))
    assert value(metrics, f"{name}_sum") >= 0.6
    assert value(metrics, f'{name}_bucket{{le="0.5"}}') == 0
    # The worst is told once.
    assert subject.take_worst() >= 0.5
    assert subject.take_worst() == 0
