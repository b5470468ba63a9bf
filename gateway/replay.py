"""A connection's cursor on its player's mailbox: history and live messages, one order.

Offsets are dense, so the seam needs no buffer: a live message is written only when it is the
very next one; otherwise the cursor reads from the store until it has caught up with the
head. The same path serves replay after a reconnect and a slow reader that drains again.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

from gateway.mailbox import Batch, Hole, StoredMessage


class CursorState(enum.Enum):
    """What the cursor waits for."""

    IDLE = enum.auto()  # the client has not been greeted yet
    READING = enum.auto()  # a read is under way
    LIVE = enum.auto()  # everything stored has been written
    CONGESTED = enum.auto()  # the transport's send buffer is full
    DOUBTFUL = enum.auto()  # the store may have gone back to an older state of itself


#: Looked up for each live message.
_LIVE: Final = CursorState.LIVE


@dataclass(frozen=True, slots=True)
class Read:
    """Read from the store after this offset and hand the batch to `on_batch`, with `head`.

    `head` is the newest offset that is known.
    """

    after: int
    head: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Write:
    """Write these messages to the transport, in order."""

    messages: tuple[StoredMessage, ...]


@dataclass(frozen=True, slots=True)
class Lost:
    """Messages are not there any more, or never were: end the connection.

    The client resumes and is told by `outcome` and `gap` what it lost.
    """

    count: int


Command = Read | Write | Lost


class Cursor:
    """Position of one connection in the mailbox. Methods take events and return commands.

    `told` is the hole that the greeting speaks of.
    """

    __slots__ = ("_told", "head", "position", "state")

    def __init__(self, position: int, told: Hole | None = None) -> None:
        self.position = position
        self.head = position
        #: The hole that the client has been told of.
        self._told = told
        self.state = CursorState.IDLE

    def on_started(self) -> list[Command]:
        """The client has been greeted: replay may begin."""
        self.state = CursorState.READING
        return [Read(self.position, self.head)]

    def on_live(self, offset: int) -> bool:
        """Take a message that was just stored; return True to write it now.

        False means that it stays in the store and the cursor will read it from there.
        """
        # A call to max() costs more than all the rest.
        if offset > self.head:  # noqa: PLR1730
            self.head = offset
        if self.state is _LIVE and offset == self.position + 1:
            self.position = offset
            return True
        return False

    def on_behind(self) -> list[Command]:
        """Look again after `on_live` said False: read if nothing else will."""
        if self.state is CursorState.LIVE and self.head > self.position:
            self.state = CursorState.READING
            return [Read(self.position, self.head)]
        return []

    def on_batch(self, after: int, batch: Batch, known: int = 0) -> list[Command]:
        """Take what Read(after, known) returned; a batch that was overtaken is ignored."""
        if self.state is not CursorState.READING or after != self.position:
            return []
        if batch.head < known:
            # The store had more: it has gone back to an older state of itself.
            return [Lost(known - batch.head)]
        self.head = max(self.head, batch.head)
        hole = batch.hole
        if hole is not None and hole.after >= after and hole != self._told:
            # It opened while the client was on its way in.
            return [Lost(hole.lost)]
        first = batch.messages[0].offset if batch.messages else batch.head + 1
        if first > self.position + 1:
            return [Lost(first - self.position - 1)]
        if not batch.messages:
            return self._caught_up()
        self.position = batch.messages[-1].offset
        return [Write(batch.messages), *self._caught_up()]

    def _caught_up(self) -> list[Command]:
        if self.position < self.head:
            return [Read(self.position, self.head)]
        self.state = CursorState.LIVE
        return []

    def on_congested(self) -> None:
        """The send buffer is full: write nothing more until it has drained."""
        if self.state not in (CursorState.IDLE, CursorState.DOUBTFUL):
            self.state = CursorState.CONGESTED

    def on_doubt(self) -> None:
        """The store may be another one: write nothing until `on_known`."""
        if self.state is not CursorState.IDLE:
            self.state = CursorState.DOUBTFUL

    def on_known(self, head: int) -> list[Command]:
        """The store has what was written, and this head: catch up with it."""
        if self.state is CursorState.DOUBTFUL:
            self.head = head
            self.state = CursorState.READING
            return [Read(self.position, head)]
        self.head = max(self.head, head)
        return self.on_behind()

    def on_drained(self) -> list[Command]:
        """The send buffer has room again: catch up from the store."""
        if self.state is not CursorState.CONGESTED:
            return []
        self.state = CursorState.READING
        return [Read(self.position, self.head)]
