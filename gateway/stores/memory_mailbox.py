"""A mailbox in memory: compiled, for it takes every message."""

from __future__ import annotations

import itertools
import math
import sys
from collections import deque

from gateway.mailbox import OVERHEAD, Batch, Located, Position, Retention, StoredMessage, locate
from gateway.messages import SessionId


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
        return self._messages[0].offset if self._messages else self.head + 1

    def append(self, epoch: bytes, nonce: int, body: bytes, now: float) -> StoredMessage:
        """Give the message the next offset and keep it."""
        head = self.head + 1
        message = StoredMessage(head, b"%b.%d.%x" % (epoch, head, nonce), body, now)
        self.put(message, len(body) + OVERHEAD, math.inf, math.inf, -math.inf)
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
        if not messages:
            self._oldest = message.ts
        messages.append(message)
        self.size = total = self.size + size
        return len(messages) > most or total > most_bytes or self._oldest < oldest

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
        if expired or trimmed:
            self._look()
        return expired, trimmed

    def _look(self) -> None:
        """Note the time of the oldest message, for some have gone."""
        self._oldest = self._messages[0].ts if self._messages else math.inf

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
        self._look()
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
