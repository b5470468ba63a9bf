"""Messages on their way: each keeps its idempotency key until a receipt settles it.

So it may be sent again after a timeout or a reconnect, and still arrives once. Messages to one
target form a lane: what follows waits, so that nothing overtakes a message which the gateway
asked to send again later.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from gateway.client.backoff import Backoff
from gateway.client.errors import LATER, ClientError, QueueFull, RequestRefused, TimedOut
from gateway.client.payloads import Receipt

Ask = Callable[[str, Mapping[str, Any]], Awaitable[object]]
Cure = Callable[[str], Awaitable[bool]]

_ACK_SECONDS: Final = 10.0
#: Messages on their way at once, in all lanes together.
_MAX_WINDOW: Final = 256
_PAUSE_SECONDS: Final = 1.0


def snapshot(data: object) -> tuple[Any, int]:
    """Return a copy of what is to be sent, and its size in bytes.

    The caller may change theirs before it goes. Raises TypeError for what is not JSON, such as
    bytes, and ValueError for what no JSON can say: NaN, or a structure in itself.
    """
    try:
        text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
        return json.loads(text), len(text.encode())
    except TypeError as error:
        raise TypeError(f"data has to be JSON (bytes: base64 text): {error}") from None
    except RecursionError:
        raise ValueError("data is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("data has a text with half of a surrogate pair") from None
    except ValueError as error:
        raise ValueError(f"data has to be JSON: {error}") from None


def too_large(size: int, allowed: int) -> RequestRefused:
    """Return the refusal of data that the gateway would close the connection over."""
    return RequestRefused("too_large", f"data has {size} bytes, {allowed} are allowed", "data")


def receipt_of(answer: object) -> Receipt | RequestRefused:
    """Read the answer to a message."""
    if isinstance(answer, dict) and answer.get("ok") is True:
        try:
            return msgspec.convert(answer, Receipt)
        except msgspec.ValidationError as error:
            return RequestRefused("unknown", f"the gateway's receipt is none: {error}")
    return RequestRefused.of(answer.get("error") if isinstance(answer, dict) else None)


def settle(receipt: asyncio.Future[Receipt], outcome: Receipt | ClientError) -> None:
    """Tell who waits for a receipt, unless nobody does any more."""
    if receipt.done():
        return
    if isinstance(outcome, ClientError):
        receipt.set_exception(outcome)
    else:
        receipt.set_result(outcome)


@dataclass(eq=False, slots=True)
class _Entry:
    event: str
    lane: tuple[str, str]
    payload: Mapping[str, Any]
    size: int
    receipt: asyncio.Future[Receipt]
    flight: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    cured: bool = False
    sent_at: float | None = None


@dataclass(slots=True)
class _Air:
    """What is on its way. `window` shrinks when the gateway says "later"."""

    flights: set[asyncio.Task[None]] = field(default_factory=set)
    flying: int = 0
    window: int = _MAX_WINDOW
    pumping: bool = False
    wanted: bool = False


class Outbox:
    """The queue. `ask` sends an event over the connection there is and returns the answer.

    `limit` bounds the messages that wait, `pipeline` those to one target that may be on their
    way at once: 1 keeps their order whatever happens, more lets a message be overtaken that the
    gateway refused for the moment. `cure` is tried once for a message that was refused with
    `not_member`; it takes the room, and returns whether sending again makes sense. `clock`
    returns Unix seconds: for how long a machine slept counts, too.
    """

    def __init__(
        self,
        ask: Ask,
        cure: Cure,
        limit: int,
        pipeline: int,
        backoff: Backoff,
        clock: Callable[[], float],
    ) -> None:
        if limit < 1 or pipeline < 1:
            raise ValueError("queue and pipeline must be at least 1")
        self._ask = ask
        self._cure = cure
        self._limit = limit
        self._pipeline = pipeline
        self._backoff = backoff
        self._clock = clock
        self._lanes: dict[tuple[str, str], list[_Entry]] = {}
        self._air = _Air()
        self._waiting = 0
        self._live = False
        self._pause: asyncio.TimerHandle | None = None
        self._max_bytes = 0
        self._memory = 0.0
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        """How many messages have no receipt yet."""
        return self._waiting

    async def drained(self) -> None:
        """Wait until no message is without a receipt."""
        await self._empty.wait()

    def add(
        self,
        event: str,
        target: str,
        payload: Mapping[str, Any],
        size: int,
        timeout: float | None,
    ) -> asyncio.Future[Receipt]:
        """Queue a message; return its receipt to come. Cancelling that withdraws the message.

        `size` counts bytes of its data, `timeout` seconds until it is given up. Raises QueueFull.
        """
        if self._waiting >= self._limit:
            raise QueueFull(self._limit)
        loop = asyncio.get_running_loop()
        lane = (event, target)
        entry = _Entry(event, lane, payload, size, loop.create_future())
        if timeout is not None:
            entry.timer = loop.call_later(timeout, self._settle, entry, TimedOut(event))
        entry.receipt.add_done_callback(lambda _: self._remove(entry))
        self._lanes.setdefault(lane, []).append(entry)
        self._waiting += 1
        self._empty.clear()
        self._pump()
        return entry.receipt

    def start(self, max_bytes: int, memory: float) -> None:
        """The connection is live: all that has no receipt goes out, in order.

        Data of more than `max_bytes` is not even sent; 0 is no limit. The gateway knows
        idempotency keys for `memory` seconds, 0 if that is not known.
        """
        self._live = True
        self._max_bytes = max_bytes
        self._memory = memory
        self._pump()

    def stop(self) -> None:
        """The connection is gone: whether anything on its way arrived is not known."""
        self._live = False
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        for lane in self._lanes.values():
            for entry in lane:
                self._land(entry)

    def reject(self, error: ClientError) -> None:
        """Give up everything. It is no fault then that nobody waits for a receipt."""
        for entry in [entry for lane in self._lanes.values() for entry in lane]:
            self._settle(entry, error)
            if not entry.receipt.cancelled():
                entry.receipt.exception()

    async def close(self) -> None:
        """Wait for what was cancelled to end."""
        flights = self._air.flights - {asyncio.current_task()}
        if flights:
            await asyncio.wait(flights)

    def _pump(self) -> None:
        # What settles at once asks for the next: a loop, for recursion has no room for them all.
        self._air.wanted = True
        if self._air.pumping:
            return
        self._air.pumping = True
        try:
            while self._air.wanted:
                self._air.wanted = False
                self._fill()
        finally:
            self._air.pumping = False

    def _fill(self) -> None:
        if not self._live or self._pause is not None:
            return
        for lane in list(self._lanes.values()):
            for entry in lane[: self._pipeline]:
                if self._air.flying >= self._air.window:
                    return
                if entry.flight is None:
                    self._fly(entry)

    def _fly(self, entry: _Entry) -> None:
        if self._max_bytes and entry.size > self._max_bytes:
            self._settle(entry, too_large(entry.size, self._max_bytes))
            return
        now = self._clock()
        if entry.sent_at is None:
            entry.sent_at = now
        elif self._memory and now - entry.sent_at > self._memory:
            # The gateway no longer knows its key: if it arrived, it would arrive twice.
            self._settle(entry, TimedOut(entry.event))
            return
        flight = asyncio.get_running_loop().create_task(self._send(entry), name="gateway-send")
        entry.flight = flight
        self._air.flying += 1
        self._air.flights.add(flight)
        flight.add_done_callback(self._air.flights.discard)

    def _land(self, entry: _Entry) -> None:
        """Forget a flight that is under way."""
        flight, entry.flight = entry.flight, None
        if flight is not None:
            self._air.flying -= 1
            if flight is not asyncio.current_task():
                flight.cancel()

    async def _send(self, entry: _Entry) -> None:
        answer: object = None
        try:
            async with asyncio.timeout(_ACK_SECONDS):
                answer = await self._ask(entry.event, entry.payload)
        except (ClientError, TimeoutError):
            # No answer says nothing about arrival; the same key makes asking again safe.
            pass
        outcome = receipt_of(answer) if answer is not None else None
        cured = isinstance(outcome, RequestRefused) and await self._cures(entry, outcome)
        # Settled by something else, or sent again over a newer connection.
        if entry.flight is not asyncio.current_task():
            return
        self._land(entry)
        if cured:
            self._pump()
        elif isinstance(outcome, Receipt):
            self._air.window = min(_MAX_WINDOW, self._air.window + 1)
            self._settle(entry, outcome)
        elif outcome is not None and outcome.code not in LATER:
            self._settle(entry, outcome)
        else:
            wait = _PAUSE_SECONDS
            if outcome is not None and outcome.retry_after is not None:
                wait = outcome.retry_after
            self._rest(wait)

    async def _cures(self, entry: _Entry, refused: RequestRefused) -> bool:
        """Do what a refusal asks for, once; tell whether the message may be sent again."""
        if refused.code != "not_member" or entry.cured:
            return False
        entry.cured = True
        return await self._cure(entry.lane[1])

    def _rest(self, seconds: float) -> None:
        """What the gateway refused for now is a matter of the connection or its store: all wait."""
        self._air.window = 1
        if self._live and self._pause is None:
            loop = asyncio.get_running_loop()
            self._pause = loop.call_later(self._backoff.spread(seconds), self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._pump()

    def _settle(self, entry: _Entry, outcome: Receipt | ClientError) -> None:
        self._remove(entry)
        settle(entry.receipt, outcome)

    def _remove(self, entry: _Entry) -> None:
        """Take an entry out, if it is still there: settled, or cancelled by who waited for it."""
        lane = self._lanes.get(entry.lane, [])
        if entry not in lane:
            return
        lane.remove(entry)
        # Behind the others, or a busy lane would keep them waiting while the window is small.
        del self._lanes[entry.lane]
        if lane:
            self._lanes[entry.lane] = lane
        self._waiting -= 1
        if not self._waiting:
            self._empty.set()
        self._land(entry)
        if entry.timer is not None:
            entry.timer.cancel()
        self._pump()
