"""Timers that all run for the same time: a queue instead of a task or heap entry each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Timer(Generic[T]):
    """One running timer; `cancel` it when it is not wanted any more."""

    __slots__ = ("due", "item")

    def __init__(self, due: float, item: T) -> None:
        self.due = due
        self.item: T | None = item

    def cancel(self) -> None:
        """Never call back for this one."""
        self.item = None


class TimerQueue(Generic[T]):
    """Calls `on_due(item)` `duration` seconds after `start(item)`.

    Equal durations keep the queue in order, so starting and cancelling cost next to nothing
    and one event-loop timer serves thousands of connections.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, duration: float, on_due: Callable[[T], None]
    ) -> None:
        self._loop = loop
        self._duration = duration
        self._on_due = on_due
        self._queue: deque[Timer[T]] = deque()
        self._handle: asyncio.TimerHandle | None = None

    def start(self, item: T) -> Timer[T]:
        """Start a timer for the item."""
        timer = Timer(self._loop.time() + self._duration, item)
        self._queue.append(timer)
        if self._handle is None:
            self._handle = self._loop.call_at(timer.due, self._fire)
        return timer

    def stop(self) -> None:
        """Cancel all timers."""
        self._queue.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        self._handle = None
        now = self._loop.time()
        queue = self._queue
        try:
            while queue and (queue[0].item is None or queue[0].due <= now):
                item = queue.popleft().item
                if item is not None:
                    self._on_due(item)
        finally:
            # Also when one of them failed: the others are due all the same.
            if queue and self._handle is None:
                self._handle = self._loop.call_at(queue[0].due, self._fire)
