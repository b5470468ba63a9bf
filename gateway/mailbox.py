"""The mailbox: one ordered stream of messages per player.

Sessions are cursors on the stream. A position is (epoch, offset, nonce): offsets are dense
per mailbox, the epoch changes when a store was lost, and the nonce tells two messages apart
that ended up with the same offset.
"""

from __future__ import annotations

import enum
import itertools
import re
import sys
from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from gateway.errors import RequestRefused
from gateway.messages import Receipt, SessionId, TrueId

_POSITION: Final = re.compile(r"([a-z0-9]{1,16})\.(0|[1-9][0-9]{0,17})\.([a-z0-9]{0,16})", re.ASCII)
#: What a stored message costs beside its body: ids, index and bookkeeping.
OVERHEAD: Final = 160


class Position(msgspec.Struct, frozen=True, gc=False):
    """A place in a mailbox; offset 0 is before its first message."""

    epoch: str
    offset: int
    nonce: str

    def __str__(self) -> str:
        """Return the opaque id that clients see."""
        return f"{self.epoch}.{self.offset}.{self.nonce}"

    @staticmethod
    def parse(text: str) -> Position | None:
        """Return the position a client's id stands for, or None if it is not one of ours."""
        match = _POSITION.fullmatch(text)
        return Position(match[1], int(match[2]), match[3]) if match else None


class Origin(Protocol):
    """Who sent a message and wants to know what became of it."""

    def on_receipt(self, receipt: Receipt, ack_id: int) -> None:
        """The store has accepted the message."""

    def on_refused(self, error: RequestRefused, ack_id: int | None, event: str = "message") -> None:
        """Nothing was accepted; `event` is what was asked."""


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A message to append: everything but its place.

    `body` is the payload of the event `message` from behind its `id` on: messages.py. `key`
    is the sender's idempotency key; with `key_owner` it is remembered under that id, whoever
    the sender is. `origin` and `ack_id` are for delivery, not for stores.
    """

    target_id: TrueId
    sender: TrueId | None
    body: bytes
    key: str | None = None
    origin: Origin | None = None
    ack_id: int | None = None
    key_owner: TrueId | None = None

    @property
    def size(self) -> int:
        """Bytes that the message will count against the limits of mailboxes."""
        return len(self.body) + OVERHEAD


class RoomDraft(msgspec.Struct, frozen=True, gc=False):
    """A message to append to the mailbox of each member of a room: see Draft.

    The session `skip`, one of the sender's, does not get it.
    """

    room: str
    sender: TrueId | None
    body: bytes
    key: str | None = None
    skip: SessionId | None = None
    origin: Origin | None = None
    ack_id: int | None = None
    key_owner: TrueId | None = None


class StoredMessage(msgspec.Struct, frozen=True, gc=False):
    """A message in a mailbox: `id` is its position as clients see it, `ts` in Unix seconds.

    The session `skip` passes over it.
    """

    offset: int
    id: bytes
    body: bytes
    ts: float
    skip: SessionId | None = None

    @property
    def size(self) -> int:
        """Bytes that count against the mailbox' limits."""
        return len(self.body) + OVERHEAD


class Hole(msgspec.Struct, frozen=True, gc=False):
    """Messages that were not stored, `lost` many, after the one with the offset `after`.

    The offsets go on as if they had never been sent.
    """

    after: int
    lost: int

    @staticmethod
    def deeper(hole: Hole | None, head: int, confirmed: int) -> Hole:
        """Return the hole when one more is not stored.

        `confirmed` is what every session has: it has been told of a hole before that.
        """
        if hole is None or hole.after < confirmed:
            return Hole(head, 1)
        return Hole(hole.after, hole.lost + 1)


class Batch(msgspec.Struct, frozen=True, gc=False):
    """Messages after a cursor, in order. `head` is the offset of the newest one stored.

    `hole` is where the mailbox has its newest one.
    """

    messages: tuple[StoredMessage, ...]
    head: int
    hole: Hole | None = None


class Located(enum.Enum):
    """What became of a position that a client presents."""

    HERE = "here"
    TRIMMED = "trimmed"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Retention:
    """Limits of one mailbox: messages, bytes, seconds. 0 means no limit."""

    max_messages: int
    max_bytes: int
    retention: float


class Mailbox:
    """One player's stream in memory: append, trim, read."""

    __slots__ = ("_messages", "head", "size")

    def __init__(self) -> None:
        # A deque takes 700 bytes even when empty, and most mailboxes are.
        self._messages: deque[StoredMessage] | tuple[()] = ()
        self.head = 0
        self.size = 0

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def first(self) -> int:
        """Offset of the oldest message still here; one past the head when there is none."""
        return self._messages[0].offset if self._messages else self.head + 1

    def append(self, epoch: bytes, nonce: int, body: bytes, now: float) -> StoredMessage:
        """Give the message the next offset and keep it."""
        head = self.head = self.head + 1
        message = StoredMessage(head, b"%b.%d.%x" % (epoch, head, nonce), body, now)
        if isinstance(self._messages, tuple):
            self._messages = deque()
        self._messages.append(message)
        self.size += len(body) + OVERHEAD
        return message

    def put(
        self, message: StoredMessage, size: int, most: float, most_bytes: float, oldest: float
    ) -> bool:
        """Keep a message that has the next offset already; return whether `trim` has work now.

        `size` is the message's; the limits are those of `trim`, infinite where there is none,
        and `oldest` the time before which messages are too old.
        """
        self.head = message.offset
        messages = self._messages
        if isinstance(messages, tuple):
            messages = self._messages = deque()
        messages.append(message)
        self.size = total = self.size + size
        return len(messages) > most or total > most_bytes or messages[0].ts < oldest

    def trim(self, limits: Retention, now: float) -> tuple[int, int]:
        """Drop the oldest messages beyond the limits.

        Returns how many went because they were too old, and how many to make room.
        """
        messages = self._messages
        expired = trimmed = 0
        if isinstance(messages, tuple):
            return expired, trimmed
        if limits.retention:
            oldest = now - limits.retention
            while messages and messages[0].ts < oldest:
                self.size -= len(messages.popleft().body) + OVERHEAD
                expired += 1
        most = limits.max_messages or sys.maxsize
        bytes_ = limits.max_bytes or sys.maxsize
        while messages and (len(messages) > most or self.size > bytes_):
            self.size -= len(messages.popleft().body) + OVERHEAD
            trimmed += 1
        return expired, trimmed

    def excess(self, limits: Retention, size: int) -> int:
        """Return the bytes that `trim` would free if a message of `size` bytes were appended."""
        freed = 0
        most = (limits.max_messages or sys.maxsize) - 1
        bytes_ = (limits.max_bytes or sys.maxsize) - size
        for index, message in enumerate(self._messages):
            if len(self._messages) - index <= most and self.size - freed <= bytes_:
                break
            freed += message.size
        return freed

    def drop_through(self, offset: int) -> int:
        """Drop the messages up to this offset; return how many bytes that freed."""
        messages = self._messages
        if isinstance(messages, tuple):
            return 0
        before = self.size
        while messages and messages[0].offset <= offset:
            self.size -= messages.popleft().size
        return before - self.size

    def read(self, after: int, limit: int, max_bytes: int) -> Batch:
        """Return messages with offsets above `after`, up to `limit` and `max_bytes`.

        One message always fits; `max_bytes` of 0 means no limit.
        """
        start = max(0, after + 1 - self.first)
        chosen: list[StoredMessage] = []
        size = 0
        for message in itertools.islice(self._messages, start, start + limit):
            size += message.size
            if chosen and max_bytes and size > max_bytes:
                break
            chosen.append(message)
        return Batch(tuple(chosen), self.head)

    def skipped(self, session_id: SessionId) -> tuple[int, ...]:
        """Return the offsets of messages that a session passes over."""
        return tuple(each.offset for each in self._messages if each.skip == session_id)

    def locate(self, position: Position, epoch: str) -> Located:
        """Tell whether replay after `position` would leave a gap."""
        offset, first = position.offset, self.first
        there = self._messages[offset - first].id if first <= offset <= self.head else None
        return locate(position, epoch, first, self.head, there)


def locate(
    position: Position, epoch: str, first: int, head: int, stored_id: bytes | None
) -> Located:
    """Tell whether replay after `position` would leave a gap in a mailbox.

    TRIMMED when messages after it are gone already, FOREIGN when it is no position of this
    mailbox: another epoch, an offset never reached, or another message's nonce. `stored_id`
    is the id of the message that the mailbox has at that offset.
    """
    offset = position.offset
    if position.epoch != epoch or offset > head:
        return Located.FOREIGN
    if offset >= first:
        same = stored_id == str(position).encode()
        return Located.HERE if same else Located.FOREIGN
    return Located.HERE if offset == first - 1 else Located.TRIMMED
