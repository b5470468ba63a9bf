"""Revocations and bans at hand: asked at every CONNECT, read from the file at its opening."""

from __future__ import annotations

import sqlite3
from typing import Final

from gateway.messages import TrueId
from gateway.store import Ban
from gateway.stores.revocations import Revocations
from gateway.stores.sqlite_schema import unescape

#: Beyond this many, tokens older than the oldest revocation dropped count as revoked.
MAX_REVOCATIONS: Final = 100_000

_NEWEST: Final = "SELECT id, at FROM revocations WHERE kind = ? ORDER BY at DESC LIMIT ?"
_BANS: Final = "SELECT true_id, until, reason FROM bans"


def load_revocations(connection: sqlite3.Connection, kind: str) -> Revocations:
    """Read the newest of one kind. Raises sqlite3.Error."""
    revocations = Revocations(MAX_REVOCATIONS)
    rows = connection.execute(_NEWEST, (kind, MAX_REVOCATIONS + 1)).fetchall()
    for key, at in reversed(rows):
        revocations.add(unescape(key), at)
    return revocations


def load_bans(connection: sqlite3.Connection) -> dict[TrueId, Ban]:
    """Read all bans. Raises sqlite3.Error."""
    return {
        TrueId(unescape(true_id)): Ban(until, reason)
        for true_id, until, reason in connection.execute(_BANS).fetchall()
    }
