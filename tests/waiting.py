"""Waiting in tests: for what no event tells of, and never for longer than a guard against hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: Seconds.
SOON: Final = 60.0
_POLL: Final = 0.005


async def until(holds: Callable[[], object], seconds: float = SOON) -> None:
    """Wait until this is true. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what it looks at has no event
            await asyncio.sleep(_POLL)


def run(scenario: Coroutine[Any, Any, T], seconds: float = 4 * SOON) -> T:
    """Run a test that needs an event loop of its own. Raises TimeoutError."""
    return asyncio.run(asyncio.wait_for(scenario, seconds))
