"""Latest values: of each key only the newest is sent, when the way is free.

Nothing is stored and nothing sent twice, but the last value of a key goes out, also after a
reconnect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.client.backoff import Backoff
from gateway.client.errors import LATER, ClientError, QueueFull, RequestRefused
from gateway.client.outbox import receipt_of, settle, too_large
from gateway.client.payloads import Receipt

Slot = tuple[str, str]

_ACK_SECONDS: Final = 10.0
#: Packets on their way out: with more, a newer value had better replace this one.
_MAX_BACKLOG: Final = 16
#: How long to wait for these to go. Seconds.
_CROWDED_SECONDS: Final = 0.02
_PAUSE_SECONDS: Final = 1.0
#: What becomes of a volatile message that a newer one has replaced, or that cannot go now.
DROPPED: Final = Receipt("dropped")


@dataclass(eq=False, slots=True)
class _Value:
    slot: Slot
    payload: Mapping[str, Any]
    size: int
    receipt: asyncio.Future[Receipt]
    flight: asyncio.Task[None] | None = None
    cured: bool = False


class Latest:
    """Values by room and key; `limit` bounds how many keys wait.

    `ask` sends an event over the connection there is and returns the answer, `backlog` tells how
    many packets wait there. `cure` is tried once for a value that was refused with `not_member`:
    see Outbox.
    """

    def __init__(
        self,
        ask: Callable[[str, Mapping[str, Any]], Awaitable[object]],
        cure: Callable[[str], Awaitable[bool]],
        backlog: Callable[[], int],
        limit: int,
        backoff: Backoff,
    ) -> None:
        self._ask = ask
        self._cure = cure
        self._backlog = backlog
        self._limit = limit
        self._backoff = backoff
        self._values: dict[Slot, _Value] = {}
        self._flights: set[asyncio.Task[None]] = set()
        self._live = False
        self._max_bytes = 0
        self._pause: asyncio.TimerHandle | None = None

    def set(self, slot: Slot, payload: Mapping[str, Any], size: int) -> asyncio.Future[Receipt]:
        """Send this instead of what waits in the slot; return its receipt to come.

        `size` counts bytes of its data. Raises QueueFull.
        """
        older = self._values.get(slot)
        if older is None and len(self._values) >= self._limit:
            raise QueueFull(self._limit)
        if older is not None and older.flight is None:
            self._settle(older, DROPPED)
        receipt: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        # Nobody has to look at it.
        receipt.add_done_callback(lambda done: done.cancelled() or done.exception())
        value = self._values[slot] = _Value(slot, payload, size, receipt)
        # Who waited for it may have cancelled it.
        receipt.add_done_callback(lambda _: self._forget(value))
        self._pump()
        return receipt

    def start(self, max_bytes: int) -> None:
        """The connection is live. Data of more than `max_bytes` is not sent; 0 is no limit."""
        self._live = True
        self._max_bytes = max_bytes
        self._pump()

    def stop(self) -> None:
        """The connection is gone: what was on its way goes again if it is the newest still."""
        self._live = False
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        for value in self._values.values():
            value.flight = None
        for flight in self._flights:
            flight.cancel()

    def reject(self, error: ClientError) -> None:
        """Give up everything."""
        for value in [*self._values.values()]:
            self._settle(value, error)

    async def close(self) -> None:
        """Wait for what was cancelled to end."""
        flights = self._flights - {asyncio.current_task()}
        for flight in flights:
            flight.cancel()
        if flights:
            await asyncio.wait(flights)

    def _pump(self) -> None:
        for value in [*self._values.values()]:
            if not self._live or self._pause is not None:
                return
            if value.flight is not None:
                continue
            if self._backlog() > _MAX_BACKLOG:
                self._rest(_CROWDED_SECONDS)
                return
            if self._max_bytes and value.size > self._max_bytes:
                self._settle(value, too_large(value.size, self._max_bytes))
                continue
            flight = asyncio.get_running_loop().create_task(
                self._send(value), name="gateway-latest"
            )
            value.flight = flight
            self._flights.add(flight)
            flight.add_done_callback(self._flights.discard)

    async def _send(self, value: _Value) -> None:
        try:
            outcome = await self._outcome(value)
        except asyncio.CancelledError:
            if self._values.get(value.slot) is not value:
                self._settle(value, DROPPED)
            raise
        value.flight = None
        if outcome is not None and not _is_for_now(outcome):
            self._settle(value, outcome)
        elif self._values.get(value.slot) is not value:
            self._settle(value, DROPPED)
        else:
            wait = outcome.retry_after if isinstance(outcome, RequestRefused) else None
            self._rest(self._backoff.spread(_PAUSE_SECONDS if wait is None else wait))

    async def _outcome(self, value: _Value) -> Receipt | RequestRefused | None:
        """Send a value, and again after a cure; None: nobody knows what became of it."""
        while True:
            try:
                async with asyncio.timeout(_ACK_SECONDS):
                    outcome = receipt_of(await self._ask("publish", value.payload))
            except (ClientError, TimeoutError):
                return None
            if isinstance(outcome, Receipt) or outcome.code != "not_member" or value.cured:
                return outcome
            value.cured = True
            if not await self._cure(value.slot[0]):
                return outcome

    def _rest(self, seconds: float) -> None:
        if self._live and self._pause is None:
            self._pause = asyncio.get_running_loop().call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._pump()

    def _settle(self, value: _Value, outcome: Receipt | ClientError) -> None:
        self._forget(value)
        settle(value.receipt, outcome)

    def _forget(self, value: _Value) -> None:
        if self._values.get(value.slot) is value:
            del self._values[value.slot]


def _is_for_now(outcome: Receipt | RequestRefused) -> bool:
    return isinstance(outcome, RequestRefused) and outcome.code in LATER
