"""Revocations and bans at hand: asked at every CONNECT, read from the file at its opening."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from typing import Final

from gateway.messages import TrueId
from gateway.store import Ban
from gateway.stores.sqlite_schema import unescape

#: Beyond this many, tokens older than the oldest revocation dropped count as revoked.
MAX_REVOCATIONS: Final = 100_000

_NEWEST: Final = "SELECT id, at FROM revocations WHERE kind = ? ORDER BY at DESC LIMIT ?"
_BANS: Final = "SELECT true_id, until, reason FROM bans"


class Revocations:
    """When sessions or players were revoked, in that order; beyond a bound only up to when."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._times: OrderedDict[str, float] = OrderedDict()
        #: Whatever was issued up to then may have been revoked.
        self.until = 0.0

    def load(self, connection: sqlite3.Connection, kind: str) -> None:
        """Read the newest of one kind. Raises sqlite3.Error."""
        rows = connection.execute(_NEWEST, (kind, self._bound + 1)).fetchall()
        for key, at in reversed(rows):
            self.add(unescape(key), at)

    def add(self, key: str, now: float) -> None:
        """Remember a revocation."""
        self._times[key] = now
        self._times.move_to_end(key)
        if len(self._times) > self._bound:
            self.until = max(self.until, self._times.popitem(last=False)[1])

    def get(self, key: str) -> float | None:
        """Return when the key was revoked, None if it was not or that is forgotten."""
        return self._times.get(key)

    def expire(self, oldest: float) -> None:
        """Forget what was revoked before `oldest`."""
        while self._times and next(iter(self._times.values())) < oldest:
            self._times.popitem(last=False)


def load_bans(connection: sqlite3.Connection) -> dict[TrueId, Ban]:
    """Read all bans. Raises sqlite3.Error."""
    return {
        TrueId(unescape(true_id)): Ban(until, reason)
        for true_id, until, reason in connection.execute(_BANS).fetchall()
    }
