"""What runs to tell the game's backend of players: attendance, and the sending of webhooks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from gateway.attendance import Attendance
from gateway.messages import TrueId
from gateway.metrics import Metrics
from gateway.outbox import OutboxStore
from gateway.webhooks import Webhooks


class Reporting:
    """Owns the tasks. `close` gives up what is under way in the end.

    There is no `attendance` where the store reports who comes and goes.
    """

    def __init__(
        self,
        store: OutboxStore,
        attendance: Attendance | None,
        webhooks: Webhooks,
        metrics: Metrics,
        close: Callable[[], None],
    ) -> None:
        self._attendance = attendance
        self._webhooks = webhooks
        self._metrics = metrics
        self._close = close
        self._tasks: list[asyncio.Task[None]] = []
        gauge = metrics.gauge
        gauge("webhooks_queued", "Webhooks that wait", lambda: store.queued_webhooks)
        gauge("webhooks_dead", "Webhooks given up that are kept", lambda: store.dead_webhooks)
        gauge("webhooks_lag_seconds", "Age of the oldest webhook", lambda: webhooks.lag)
        gauge(
            "webhooks_circuit_open",
            "1 while the backend is left alone because it does not answer",
            lambda: webhooks.circuit_open,
        )

    def start(self) -> None:
        """Begin."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._webhooks.run(), name="webhooks")]
        if self._attendance is not None:
            self._tasks.append(loop.create_task(self._attendance.run(), name="attendance"))

    def on_here(self, true_id: TrueId) -> None:
        """A player has come, or is offline."""
        if self._attendance is not None:
            self._attendance.touch(true_id)

    def on_webhooks(self, added: int, given_up: int) -> None:
        """The store has so many new webhooks, and has given up some for lack of room."""
        for _ in range(given_up):
            self._metrics.limit_hit("webhooks.max_queued")
            self._metrics.webhook("dead")
        self._webhooks.wake()

    def look_again(self) -> None:
        """Webhooks that were given up wait again."""
        self._webhooks.look_again()

    def on_webhooks_lost(self, numbers: Iterable[int]) -> None:
        """Another gateway sends the webhooks with these numbers from now on."""
        self._webhooks.drop(numbers)

    def reconfigure(self, secrets: Sequence[str]) -> None:
        """Sign webhooks by other secrets from now on."""
        self._webhooks.reconfigure(secrets)

    def start_anew(self) -> None:
        """The store has become another one."""
        if self._attendance is not None:
            self._attendance.start_anew()
        self._webhooks.start_anew()

    async def stop(self) -> None:
        """End; what was not sent is sent by the next gateway."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._close()
