"""Who listens to what."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, Final

_logger: Final = logging.getLogger(__name__)

#: What is handled at once. `message` is not: see GatewayClient.on.
_AT_ONCE: Final = (
    "session",
    "lost",
    "presence",
    "room",
    "rejoined",
    "error",
    "goaway",
    "refused",
    "state",
)


class Handlers:
    """Functions for events, called in the order in which they were added."""

    def __init__(self) -> None:
        self._handlers: dict[str, list[Callable[[Any], object]]] = {}

    def on(self, event: str, handler: Callable[[Any], object]) -> Callable[[], None]:
        """Add a handler; return what removes it: see GatewayClient.on.

        Raises ValueError for an unknown event, and TypeError for a coroutine function where none
        can be.
        """
        if event not in ("message", *_AT_ONCE):
            raise ValueError(f"unknown event {event!r}; known are message, {', '.join(_AT_ONCE)}")
        if event != "message" and inspect.iscoroutinefunction(handler):
            raise TypeError(f"handlers of {event} are plain functions: start a task in one")
        self._handlers.setdefault(event, []).append(handler)

        def off() -> None:
            handlers = self._handlers.get(event, [])
            if handler in handlers:
                handlers.remove(handler)

        return off

    def of(self, event: str) -> tuple[Callable[[Any], object], ...]:
        """Return the handlers of an event as they are now."""
        return tuple(self._handlers.get(event, ()))

    def emit(self, event: str, value: object) -> None:
        """Call the handlers of an event; the fault of one does not keep it from the others."""
        for handler in self.of(event):
            try:
                handler(value)
            except Exception:
                _logger.exception("a handler of %s failed", event)
