"""Revocations and bans at hand: asked at every CONNECT, read from the file at its opening."""

from __future__ import annotations

import sqlite3
from typing import Final

from gateway.messages import TrueId
from gateway.store import Ban
from gateway.stores.revocations import Revocations
from gateway.stores.sqlite_schema import unescape

_NEWEST: Final = "SELECT id, at FROM revocations WHERE kind = ? ORDER BY at DESC LIMIT ?"
_BANS: Final = "SELECT true_id, until, reason FROM bans"


def load_revocations(connection: sqlite3.Connection, kind: str, bound: int) -> Revocations:
    """Read the newest of one kind, so many, 0 for all. Raises sqlite3.Error."""
    revocations = Revocations(bound)
    rows = connection.execute(_NEWEST, (kind, bound + 1 if bound else -1)).fetchall()
    for key, at in reversed(rows):
        revocations.add(unescape(key), at)
    return revocations


def load_bans(connection: sqlite3.Connection) -> dict[TrueId, Ban]:
    """Read all bans. Raises sqlite3.Error."""
    return {
        TrueId(unescape(true_id)): Ban(until, reason)
        for true_id, until, reason in connection.execute(_BANS).fetchall()
    }
