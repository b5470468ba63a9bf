"""Webhooks in the sqlite store: written with what they report, in its transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from gateway.messages import TrueId
from gateway.outbox import (
    FULL,
    DeadWebhook,
    Event,
    OutboxLimits,
    Retried,
    Webhook,
    presence_changed,
    webhook_id,
)
from gateway.stores.sqlite_schema import escape, unescape

_ADD: Final = "INSERT INTO webhooks (nonce, type, true_id, ts, data) VALUES (?, ?, ?, ?, ?)"
_OLDEST: Final = "SELECT min(seq) FROM webhooks"
_BURY: Final = """INSERT INTO dead_webhooks (given_up, reason, seq, nonce, type, true_id, ts, data)
    SELECT ?, ?, seq, nonce, type, true_id, ts, data FROM webhooks WHERE seq = ?"""
_REMOVE: Final = "DELETE FROM webhooks WHERE seq = ?"
_DEAD_NUMBERS: Final = "SELECT number FROM dead_webhooks ORDER BY number"
_DEAD_NUMBER: Final = "SELECT number FROM dead_webhooks WHERE seq = ? AND nonce = ?"
_RETRY: Final = """INSERT INTO webhooks (seq, nonce, type, true_id, ts, data)
    SELECT seq, nonce, type, true_id, ts, data FROM dead_webhooks WHERE number = ?"""
_DELETE_DEAD: Final = "DELETE FROM dead_webhooks WHERE number = ?"
_FORGET_DEAD: Final = """DELETE FROM dead_webhooks WHERE number IN
    (SELECT number FROM dead_webhooks ORDER BY number DESC LIMIT -1 OFFSET ?)"""
_ONLINE: Final = "INSERT OR IGNORE INTO online VALUES (?)"
_OFFLINE: Final = "DELETE FROM online WHERE true_id = ?"
_LIST: Final = """SELECT seq, nonce, type, true_id, ts, data FROM webhooks
    WHERE seq > ? ORDER BY seq LIMIT ?"""
_LIST_DEAD: Final = """SELECT seq, nonce, type, true_id, ts, data, given_up, reason
    FROM dead_webhooks ORDER BY number DESC LIMIT ?"""
_COUNTS: Final = "SELECT (SELECT count(*) FROM webhooks), (SELECT count(*) FROM dead_webhooks)"


class SqliteOutbox:
    """The writer's side. `begin` opens the transaction that everything here is part of."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        limits: OutboxLimits,
        nonces: Iterator[int],
        begin: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._limits = limits
        self._nonces = nonces
        self._begin = begin
        self.queued, self.dead = connection.execute(_COUNTS).fetchone()
        #: Added since the last transaction, and given up for lack of room.
        self.added = 0
        self.full = 0

    def add(self, event: Event) -> None:
        """Keep an event; the oldest one is given up for it when there is no room."""
        limits = self._limits
        if not limits.enabled:
            return
        self._begin()
        row = (next(self._nonces), event.type, escape(event.true_id), event.ts, event.data)
        self._connection.execute(_ADD, row)
        self.queued += 1
        self.added += 1
        if limits.max_queued and self.queued > limits.max_queued:
            (oldest,) = self._connection.execute(_OLDEST).fetchone()
            self.bury(oldest, FULL, event.ts)
            self.full += 1

    def report_presence(self, changes: Mapping[TrueId, bool], now: float) -> None:
        """See OutboxStore.report_presence."""
        self._begin()
        for true_id, online in changes.items():
            change = _ONLINE if online else _OFFLINE
            if self._connection.execute(change, (escape(true_id),)).rowcount:
                self.add(presence_changed(true_id, online, now))

    def remove(self, numbers: Iterable[int]) -> None:
        """See OutboxStore.remove_webhooks."""
        self._begin()
        for number in numbers:
            self.queued -= self._connection.execute(_REMOVE, (number,)).rowcount

    def bury(self, number: int, reason: str, now: float) -> None:
        """See OutboxStore.bury_webhook."""
        self._begin()
        self.dead += self._connection.execute(_BURY, (now, reason, number)).rowcount
        self.remove((number,))
        most = self._limits.max_dead
        if most and self.dead > most:
            self.dead -= self._connection.execute(_FORGET_DEAD, (most,)).rowcount

    def retry_dead(self, which: tuple[int, int] | None) -> Retried:
        """Let those wait again that were given up: a number and a nonce, or None for all."""
        self._begin()
        most = self._limits.max_queued
        retried = 0
        numbers = self._dead_numbers(which)
        for number in numbers:
            if most and self.queued >= most:
                break
            self._connection.execute(_RETRY, (number,))
            self._connection.execute(_DELETE_DEAD, (number,))
            self.queued += 1
            self.dead -= 1
            retried += 1
        self.added += retried
        return Retried(retried, retried < len(numbers))

    def delete_dead(self, which: tuple[int, int] | None) -> int:
        """Forget those that were given up, as `retry_dead`; return how many."""
        self._begin()
        numbers = self._dead_numbers(which)
        for number in numbers:
            self.dead -= self._connection.execute(_DELETE_DEAD, (number,)).rowcount
        return len(numbers)

    def _dead_numbers(self, which: tuple[int, int] | None) -> list[int]:
        cursor = (
            self._connection.execute(_DEAD_NUMBERS)
            if which is None
            else self._connection.execute(_DEAD_NUMBER, which)
        )
        return [number for (number,) in cursor.fetchall()]

    def take_counts(self) -> tuple[int, int]:
        """Return how many were added and how many given up for lack of room, since last asked."""
        counts = self.added, self.full
        self.added = self.full = 0
        return counts


# The reader's side: texts come as bytes.


def list_webhooks(
    connection: sqlite3.Connection, epoch: str, after: int, limit: int
) -> tuple[Webhook, ...]:
    """Return webhooks in order. Raises sqlite3.Error."""
    rows = connection.execute(_LIST, (after, limit)).fetchall()
    return tuple(_webhook(epoch, *row) for row in rows)


def list_dead(connection: sqlite3.Connection, epoch: str, limit: int) -> tuple[DeadWebhook, ...]:
    """Return webhooks that were given up, the last one first. Raises sqlite3.Error."""
    rows = connection.execute(_LIST_DEAD, (limit,)).fetchall()
    return tuple(
        DeadWebhook(_webhook(epoch, *row), given_up, reason.decode())
        for *row, given_up, reason in rows
    )


def list_online(connection: sqlite3.Connection) -> frozenset[TrueId]:
    """Return who was reported online last. Raises sqlite3.Error."""
    rows = connection.execute("SELECT true_id FROM online").fetchall()
    return frozenset(TrueId(unescape(true_id.decode())) for (true_id,) in rows)


def _webhook(
    epoch: str, seq: int, nonce: int, kind: bytes, true_id: bytes, ts: float, data: bytes
) -> Webhook:
    event: Any = Event(kind.decode(), TrueId(unescape(true_id.decode())), ts, data)  # type: ignore[arg-type]
    return Webhook(seq, webhook_id(epoch, seq, nonce), event)
