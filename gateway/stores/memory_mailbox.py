"""A mailbox in memory: compiled, for it takes every message."""

from __future__ import annotations

import itertools
import math
import sys
from collections import deque
from typing import Final

from gateway.mailbox import OVERHEAD, Batch, Located, Position, Retention, StoredMessage, locate
from gateway.messages import SessionId

#: Looked up once: each message needs it.
_append: Final = deque[StoredMessage].append


class Bounds:
    """Limits of mailboxes at one moment, infinite where there are none: see Retention."""

    __slots__ = ("bytes", "messages", "oldest")

    def __init__(self, limits: Retention, now: float) -> None:
        self.messages: float = limits.max_messages or math.inf
        self.bytes: float = limits.max_bytes or math.inf
        #: Messages from before this time are too old.
        self.oldest: float = now - limits.retention if limits.retention else -math.inf


_NO_BOUNDS: Final = Bounds(Retention(0, 0, 0.0), 0.0)


class Mailbox:
    """One player's stream in memory: append, trim, read."""

    __slots__ = ("_messages", "_oldest", "head", "size")

    def __init__(self) -> None:
        # A deque takes 700 bytes even when empty, and most mailboxes are.
        self._messages: deque[StoredMessage] | tuple[()] = ()
        #: Time of the oldest message: asked for at each append.
        self._oldest = math.inf
        self.head = 0
        self.size = 0

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def first(self) -> int:
        """Offset of the oldest message still here; one past the head when there is none."""
        return self.head + 1 - len(self._messages)

    def append(self, epoch: bytes, nonce: int, body: bytes, now: float) -> StoredMessage:
        """Give the message the next offset and keep it."""
        head = self.head + 1
        message = StoredMessage(head, b"%b.%d.%x" % (epoch, head, nonce), body, now)
        self.put(message, head, len(body) + OVERHEAD, _NO_BOUNDS)
        return message

    def put(self, message: StoredMessage, offset: int, size: int, bounds: Bounds) -> bool:
        """Keep a message that has the next offset already; return whether `trim` has work now.

        `offset` and `size` are the message's.
        """
        self.head = offset
        messages = self._messages
        if isinstance(messages, tuple):
            messages = self._messages = deque()
        if not self.size:
            self._oldest = message.ts
        _append(messages, message)
        self.size = total = self.size + size
        return (
            len(messages) > bounds.messages or total > bounds.bytes or self._oldest < bounds.oldest
        )

    def trim(self, bounds: Bounds) -> tuple[int, int]:
        """Drop the oldest messages beyond the bounds.

        Returns how many went because they were too old, and how many to make room.
        """
        messages = self._messages
        expired = trimmed = 0
        if isinstance(messages, tuple):
            return expired, trimmed
        while self._oldest < bounds.oldest:
            self._drop(messages)
            expired += 1
        while self.size and (len(messages) > bounds.messages or self.size > bounds.bytes):
            self._drop(messages)
            trimmed += 1
        return expired, trimmed

    def _drop(self, messages: deque[StoredMessage]) -> None:
        """Drop the oldest message."""
        self.size -= len(messages.popleft().body) + OVERHEAD
        self._oldest = messages[0].ts if self.size else math.inf

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
        while self.size and messages[0].offset <= offset:
            self._drop(messages)
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
