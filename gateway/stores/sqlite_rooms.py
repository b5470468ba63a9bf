"""Rooms in the sqlite store: its table, and what the writer does with it.

The writer decides by memberships of its own: they are as far as its transaction, those of the
event loop as far as what was answered.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Final

from gateway.errors import GatewayError
from gateway.mailbox import RoomDraft
from gateway.membership import Memberships
from gateway.messages import TrueId
from gateway.store import Membership, NotMember, Published
from gateway.stores.sqlite_ledger import Ledger
from gateway.stores.sqlite_player import Player
from gateway.stores.sqlite_schema import escape, unescape

_ALL: Final = """SELECT m.number, m.room, p.true_id FROM members AS m
    JOIN players AS p ON p.id = m.player ORDER BY m.number"""
_JOIN: Final = "INSERT INTO members (number, room, player) VALUES (?, ?, ?)"
_LEAVE: Final = "DELETE FROM members WHERE room = ? AND player = ?"


def load_memberships(connection: sqlite3.Connection) -> Memberships:
    """Read who is in which room. Raises sqlite3.Error."""
    memberships = Memberships()
    for number, room, true_id in connection.execute(_ALL).fetchall():
        memberships.add(unescape(room), TrueId(unescape(true_id)), number)
    return memberships


class RoomLedger:
    """Rooms over one ledger: each method is a job of one transaction."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._memberships = load_memberships(ledger.players.connection)
        #: Rooms' members as the ledger has them, and the version of Players that is from.
        self._players: dict[str, list[Player]] = {}
        self._version = 0

    def join(self, room: str, true_id: TrueId) -> Membership:
        """See RoomStore.join. Raises RoomLimitReached."""
        members = self._memberships.members_of(room)
        if true_id in members:
            return Membership(False, len(members), members[true_id])
        self._memberships.check(room, true_id, self._ledger.limits.rooms)
        players = self._ledger.players
        player = players.get_or_add(true_id)
        players.begin()
        number = self._memberships.add(room, true_id)
        self._players.pop(room, None)
        players.connection.execute(_JOIN, (number, escape(room), player.id))
        return Membership(True, len(self._memberships.members_of(room)), number)

    def leave(self, room: str, true_id: TrueId) -> Membership:
        """See RoomStore.leave."""
        changed = self._memberships.remove(room, true_id)
        if changed:
            self._players.pop(room, None)
            players = self._ledger.players
            player = players.get_or_add(true_id)
            players.begin()
            players.connection.execute(_LEAVE, (escape(room), player.id))
        return Membership(changed, len(self._memberships.members_of(room)))

    def publish(self, draft: RoomDraft, now: float) -> Published | GatewayError:
        """See MailboxStore.publish."""
        members = self._memberships.members_of(draft.room)
        if draft.sender is not None and draft.sender not in members:
            return NotMember(draft.room)
        return self._ledger.publish(draft, self._players_of(draft.room, members), now)

    def _players_of(self, room: str, members: Mapping[TrueId, int]) -> list[Player]:
        players = self._ledger.players
        if players.version != self._version:
            self._version = players.version
            self._players.clear()
        found = self._players.get(room)
        if found is None:
            found = self._players[room] = players.all_of(members)
        return found
