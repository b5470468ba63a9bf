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
NOTHING: Final = object()
#: Of a call that is about the link or its server.
NO_PARTITION: Final = -1
_PING: Final = b"*1\r\n$4\r\nPING\r\n"

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
        #: Is told of each call that is refused because too many wait.
        self.on_full: Callable[[], None] = lambda: None
        self._timeout = timeout
        self._on_refused = on_refused
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._reader: Any = hiredis.Reader(notEnoughData=NOTHING)
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
        """Ask the server; `done` is called in a later turn of the loop.

        What is about the link itself is few and small, and asked however much waits.
        """
        if not self.open or (
            (self._asked - self._answered >= _MAX_CALLS or self._bytes > _MAX_BYTES)
            and call[2] != NO_PARTITION
        ):
            reason = "too much waits for the store" if self.open else "the store is out of reach"
            if self.open:
                self.on_full()
            self._loop.call_soon(call[1], StoreUnavailable(reason))
            return
        self._put(call)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _put(self, call: Call) -> None:
        self._waiting.append(call)
        self._out.append(call[0])
        self._bytes += len(call[0])
        self._asked += 1

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
        gets, take = self._reader.gets, self._take
        self._reader.feed(data)
        try:
            while (reply := gets()) is not NOTHING:
                take(reply)
        except (hiredis.ProtocolError, IndexError):
            # IndexError: an answer to nothing, or a `done` has ended the link.
            self._end("it does not speak Redis' protocol")
        asked_by = self._asked_by
        while asked_by and asked_by[0][0] <= self._answered:
            asked_by.popleft()

    def _take(self, reply: Any) -> None:
        call = self._waiting.popleft()
        self._answered += 1
        self._bytes -= len(call[0])
        self._answer(call, reply)

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
        With nothing to wait for, the server is asked for a sign of life.
        """
        self._watch = self._loop.call_later(self._timeout / _LOOKS, self._look)
        overdue = bool(self._asked_by) and (
            self._loop.time() - self._asked_by[0][1] >= self._timeout
        )
        if overdue and self._late:
            self._end(f"it did not answer for {self._timeout:g} seconds")
        elif not self._waiting:
            self.send((_PING, _ignore, NO_PARTITION, None))
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
        self._give_up(StoreUnavailable(f"the link to the store has ended: {reason}"))
        # A task that waits for it may have been cancelled.
        if not self.ended.done():
            self.ended.set_result(reason)

    def _give_up(self, error: StoreUnavailable) -> None:
        while self._waiting:
            self._answer(self._waiting.popleft(), error)


class ReplicatedLink(Link):
    """A link whose answers count when `replicas` have what was written, within `within` seconds.

    Those of fleeting scripts count at once.

    They are asked for at once for all that was written at once; what is asked meanwhile is
    written after that, so a busy link asks no more often than an idle one. `write` returns a
    command that writes something.
    """

    def __init__(
        self,
        timeout: float,
        on_refused: Callable[[Call, Refused], None],
        replicas: int,
        within: float,
        write: Callable[[], bytes],
    ) -> None:
        super().__init__(timeout + within, on_refused)
        self._replicas = replicas
        self._write = write
        self._wait: Call = (
            pack(("WAIT", replicas, max(1, round(within * 1000)))),
            self._on_replicated,
            NO_PARTITION,
            None,
        )
        self._answers: list[tuple[Call, Any]] = []
        self._held = False

    def _flush(self) -> None:
        if self._held or not self._out:
            self._scheduled = False
            return
        if any(call[2] != NO_PARTITION for call in self._waiting):
            self._held = True
            # They are asked about what this link has written last: what it has read may be others'.
            self._put((self._write(), _ignore, NO_PARTITION, None))
            self._put(self._wait)
        super()._flush()

    def _answer(self, call: Call, reply: Any) -> None:
        script = call[3]
        if call[2] == NO_PARTITION or not self.open or (script is not None and script.fleeting):
            super()._answer(call, reply)
        else:
            self._answers.append((call, reply))

    def _on_replicated(self, reply: Reply | StoreUnavailable) -> None:
        answers, self._answers = self._answers, []
        enough = isinstance(reply, int) and reply >= self._replicas
        for call, answer in answers:
            if enough or type(answer) is hiredis.ReplyError:
                super()._answer(call, answer)
            else:
                super()._answer(call, hiredis.ReplyError(self._too_few(reply)))
        self._held = False
        self._flush()

    def _too_few(self, reply: object) -> str:
        return f"NOREPLICAS {reply} of {self._replicas} replicas have it"

    def _give_up(self, error: StoreUnavailable) -> None:
        answers, self._answers = self._answers, []
        for call, _ in answers:
            self._answer(call, error)
        super()._give_up(error)


def _ignore(reply: object) -> None:
    """That there is an answer is all that matters."""


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
