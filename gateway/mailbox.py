"""The mailbox: one ordered stream of messages per player, and the protocol of its store.

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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from gateway.errors import GatewayError
from gateway.messages import TrueId

_POSITION: Final = re.compile(r"([a-z0-9]{1,16})\.(0|[1-9][0-9]{0,17})\.([a-z0-9]{0,16})", re.ASCII)
#: What a stored message costs beside its data: ids, sender, type, room and bookkeeping.
_OVERHEAD: Final = 200


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


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A message to append: everything but its place. `key` is the sender's idempotency key."""

    target_id: TrueId
    sender: TrueId | None
    data: bytes
    type: str | None = None
    room: str | None = None
    key: str | None = None

    @property
    def size(self) -> int:
        """Bytes that the message will count against the limits of mailboxes."""
        return len(self.data) + _OVERHEAD


class StoredMessage(msgspec.Struct, frozen=True, gc=False):
    """A message in a mailbox. `ts` is in Unix seconds."""

    position: Position
    draft: Draft
    ts: float

    @property
    def size(self) -> int:
        """Bytes that count against the mailbox' limits."""
        return self.draft.size


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """The store has the message; `duplicate` when it already had it under the same key."""

    message_id: str
    message: StoredMessage | None
    duplicate: bool


class Batch(msgspec.Struct, frozen=True, gc=False):
    """Messages after a cursor, in order. `head` is the offset of the newest one stored."""

    messages: tuple[StoredMessage, ...]
    head: int


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
        return self._messages[0].position.offset if self._messages else self.head + 1

    def append(self, draft: Draft, epoch: str, nonce: str, now: float) -> StoredMessage:
        """Give the message the next offset and keep it."""
        self.head += 1
        message = StoredMessage(Position(epoch, self.head, nonce), draft, now)
        if isinstance(self._messages, tuple):
            self._messages = deque()
        self._messages.append(message)
        self.size += draft.size
        return message

    def trim(self, limits: Retention, now: float) -> int:
        """Drop the oldest messages beyond the limits; return how many bytes that freed."""
        messages = self._messages
        if isinstance(messages, tuple):
            return 0
        before = self.size
        most, bytes_, oldest = limits.max_messages, limits.max_bytes, now - limits.retention
        while messages and (
            (most and len(messages) > most)
            or (bytes_ and self.size > bytes_)
            or (messages[0].ts < oldest and limits.retention)
        ):
            self.size -= messages.popleft().size
        return before - self.size

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
        while messages and messages[0].position.offset <= offset:
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

    def locate(self, position: Position, epoch: str) -> Located:
        """Tell whether replay after `position` would leave a gap.

        TRIMMED when messages after it are gone already, FOREIGN when it is no position of
        this mailbox: another epoch, an offset never reached, or another message's nonce.
        """
        offset = position.offset
        if position.epoch != epoch or offset > self.head:
            return Located.FOREIGN
        if offset >= self.first:
            same = self._messages[offset - self.first].position.nonce == position.nonce
            return Located.HERE if same else Located.FOREIGN
        return Located.HERE if offset == self.first - 1 else Located.TRIMMED


class MailboxFull(GatewayError):
    """The message was not stored: a limit on all mailboxes together is reached."""


class UnknownTarget(GatewayError):
    """The message was not stored: there is no such player."""


class KeyTaken(GatewayError):
    """The message was not stored: its sender used the key for a message to another player."""


class KeysFull(GatewayError):
    """The message was not stored: the store cannot remember one more key of this sender.

    `retry_after` is in seconds: then the sender's oldest key will be forgotten.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


AppendDone = Callable[[Accepted | GatewayError], None]


class MailboxStore(Protocol):
    """Keeps all mailboxes.

    `append` and `read` take a callback, not a future: the memory store answers at once
    without a task, others answer in the order they were asked, after their commit.
    """

    epoch: str

    def append(self, draft: Draft, now: float, done: AppendDone) -> None:
        """Store the message once per (sender, key), then call `done`.

        `done` gets Accepted, or UnknownTarget, MailboxFull, KeyTaken, KeysFull or
        StoreUnavailable when nothing was stored. To make room, messages may go that every
        session of their player has confirmed.
        """

    def read(
        self,
        true_id: TrueId,
        after: int,
        limit: int,
        max_bytes: int,
        done: Callable[[Batch], None],
    ) -> None:
        """Call `done` with messages after the offset `after`: see Mailbox.read."""

    def locate(self, true_id: TrueId, position: Position) -> Located:
        """Tell whether replay after `position` would leave a gap: see Mailbox.locate."""

    def head(self, true_id: TrueId) -> int:
        """Return the offset of the player's newest message, 0 if there was none ever."""

    def first(self, true_id: TrueId) -> int:
        """Return the offset of the oldest message kept, head + 1 if there is none."""

    def know(self, true_ids: Iterable[TrueId]) -> None:
        """Make these players known for good: messages to them are accepted from now on."""

    def forget(self, true_ids: Iterable[TrueId]) -> None:
        """Undo `know`: without sessions, messages and keys these players are unknown again."""
