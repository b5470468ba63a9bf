"""One connection to a Redis server: calls go out in order, and are answered in order.

What is asked in one turn of the event loop is one write. redis-py does the same with pipelines
at several times the cost for each call: tests/bench/redis_link.py measures both.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

import hiredis

from gateway.errors import StoreUnavailable
from gateway.stores.redis.scripts import Script

logger = logging.getLogger(__name__)

Reply: TypeAlias = "int | bytes | list[Reply] | None"
Word: TypeAlias = bytes | str | int | float
Done: TypeAlias = "Callable[[Reply | StoreUnavailable], None]"
#: What is written, who is told the answer, whose partition it is about, and the script, if any.
Call: TypeAlias = tuple[bytes, Done, int, Script | None]

#: Calls that may wait for an answer, and the bytes of them; beyond it they are refused.
_MAX_CALLS: Final = 50_000
_MAX_BYTES: Final = 256 * 1024 * 1024
#: How often in its timeout a link looks whether the server still answers.
_LOOKS: Final = 4
_NOTHING: Final = object()
#: Of a call that is about the link or its server.
NO_PARTITION: Final = -1

# hiredis' own types have a tuple of one word.
pack: Callable[[tuple[Word, ...]], bytes] = cast("Any", hiredis.pack_command)


class Refused(StoreUnavailable):
    """The server refused a command; `text` is its answer, `code` the first word of it."""

    def __init__(self, text: str) -> None:
        super().__init__(f"the store refused: {text}")
        self.text = text
        self.code = text.partition(" ")[0]


class Link(asyncio.Protocol):
    """A connection; handshake.connect makes it.

    `on_refused` gets what the server refused, and has to call `done` for it. `ended` says why
    the link has ended, after all that waited have been told StoreUnavailable. A call that has
    no answer after `timeout` seconds ends the link: behind a dead router no end is ever seen.
    """

    def __init__(self, timeout: float, on_refused: Callable[[Call, Refused], None]) -> None:
        self.open = False
        self._timeout = timeout
        self._on_refused = on_refused
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._reader: Any = hiredis.Reader(notEnoughData=_NOTHING)
        self._waiting: deque[Call] = deque()
        self._out: list[bytes] = []
        self._scheduled = False
        self._bytes = 0
        # Counts of calls: asked, and answered; and what was asked by when, the oldest first.
        self._asked = self._answered = 0
        self._asked_by: deque[tuple[int, float]] = deque()
        self._late = False
        self._watch: asyncio.TimerHandle | None = None

    # What is asked

    def send(self, call: Call) -> None:
        """Ask the server; `done` is called in a later turn of the loop."""
        if not self.open or self._asked - self._answered >= _MAX_CALLS or self._bytes > _MAX_BYTES:
            reason = "too much waits for the store" if self.open else "the store is out of reach"
            self._loop.call_soon(call[1], StoreUnavailable(reason))
            return
        self._waiting.append(call)
        self._out.append(call[0])
        self._bytes += len(call[0])
        self._asked += 1
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def ask(self, *words: Word) -> asyncio.Future[Reply]:
        """Ask for a plain command's answer; the future may raise Refused or StoreUnavailable."""
        answer: asyncio.Future[Reply] = self._loop.create_future()
        self.send((pack(words), settle(answer), NO_PARTITION, None))
        return answer

    def close(self, reason: str = "it was closed") -> None:
        """End the link at once; what waits is told StoreUnavailable."""
        self._end(reason)

    def _flush(self) -> None:
        self._scheduled = False
        if not self.open or self._transport is None:
            return
        out, self._out = self._out, []
        self._asked_by.append((self._asked, self._loop.time()))
        self._transport.write(b"".join(out))

    # What comes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)
        self.open = True
        self._watch = self._loop.call_later(self._timeout / _LOOKS, self._look)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        reader, waiting = self._reader, self._waiting
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not _NOTHING:
                call = waiting.popleft()
                self._answered += 1
                self._bytes -= len(call[0])
                self._answer(call, reply)
        except (hiredis.ProtocolError, IndexError):
            # IndexError: an answer to nothing, or a `done` has ended the link.
            self._end("it does not speak Redis' protocol")
        asked_by = self._asked_by
        while asked_by and asked_by[0][0] <= self._answered:
            asked_by.popleft()
            self._late = False

    def _answer(self, call: Call, reply: Any) -> None:
        try:
            if type(reply) is hiredis.ReplyError:
                refused = Refused(str(reply))
                if call[2] == NO_PARTITION:
                    call[1](refused)
                else:
                    self._on_refused(call, refused)
            else:
                call[1](reply)
        except Exception:
            logger.exception("an answer of the store could not be handled")

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._end(str(exc) if exc is not None else "the server ended it")

    def _look(self) -> None:
        """End the link when the oldest question is overdue at two looks.

        At the first one this process itself may have been stopped, with the answer not read yet.
        """
        self._watch = self._loop.call_later(self._timeout / _LOOKS, self._look)
        overdue = bool(self._asked_by) and (
            self._loop.time() - self._asked_by[0][1] >= self._timeout
        )
        if overdue and self._late:
            self._end(f"it did not answer for {self._timeout:g} seconds")
        self._late = overdue

    def _end(self, reason: str) -> None:
        if not self.open:
            return
        self.open = False
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._out.clear()
        while self._waiting:
            error = StoreUnavailable(f"the link to the store has ended: {reason}")
            self._answer(self._waiting.popleft(), error)
        # A task that waits for it may have been cancelled.
        if not self.ended.done():
            self.ended.set_result(reason)


def settle(answer: asyncio.Future[Reply]) -> Done:
    """Return a `done` that gives a future its result, unless nobody waits for it any more."""

    def done(reply: Reply | StoreUnavailable) -> None:
        if answer.done():
            return
        if isinstance(reply, StoreUnavailable):
            answer.set_exception(reply)
        else:
            answer.set_result(reply)

    return done
