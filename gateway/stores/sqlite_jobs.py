"""What the writer does beside appending: sessions, players, revocations, bans, expiry.

Each function is one job of one transaction. What changed before an expected failure
(SessionsFull) was raised stays changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.errors import GatewayError
from gateway.mailbox import Draft
from gateway.messages import SessionId
from gateway.outbox import session_new, session_revoked
from gateway.session import Session
from gateway.store import Accepted, Ban, SessionsFull
from gateway.stores.sqlite_ledger import Ledger
from gateway.stores.sqlite_pending import SessionChange
from gateway.stores.sqlite_players import encode
from gateway.stores.sqlite_rooms import RoomLedger
from gateway.stores.sqlite_schema import escape, unescape

#: What `SessionChange.idle` says of a session that has a connection.
IN_USE: Final = -1

_COUNT: Final = "SELECT json_array(count(*)) FROM sessions"
_OWNERS: Final = """SELECT json_group_array(json_array(id, player)) FROM sessions
    WHERE id IN (SELECT value FROM json_each(?))"""
_LONGEST_UNSEEN_OF: Final = """SELECT json_group_array(json_array(id, player)) FROM
    (SELECT id, player FROM sessions WHERE player = ? AND idle IS NOT NULL
    ORDER BY last_seen, rowid LIMIT 1)"""
_LONGEST_IDLE: Final = """SELECT json_group_array(json_array(id, player)) FROM
    (SELECT id, player FROM sessions WHERE idle IS NOT NULL ORDER BY idle LIMIT ?)"""
_UNSEEN_SINCE: Final = """SELECT json_group_array(json_array(id, player)) FROM
    (SELECT id, player FROM sessions WHERE idle IS NOT NULL AND last_seen < ?
    ORDER BY last_seen LIMIT ?)"""
_EMPTY: Final = """SELECT json_group_array(id) FROM (SELECT id FROM players
    WHERE permanent = 0 AND sessions = 0 AND keys = 0 AND first > head
    AND NOT EXISTS (SELECT 1 FROM members WHERE members.player = players.id)
    AND NOT EXISTS (SELECT 1 FROM bans WHERE bans.true_id = players.true_id) LIMIT ?)"""
_DELETE_PLAYERS: Final = "DELETE FROM players WHERE id IN (SELECT value FROM json_each(?))"
_REVOKE: Final = "INSERT OR REPLACE INTO revocations VALUES (?, ?, ?)"
_EXPIRE_REVOCATIONS: Final = """DELETE FROM revocations WHERE (kind, id) IN
    (SELECT kind, id FROM revocations WHERE at < ? LIMIT ?)"""
_BAN: Final = "INSERT OR REPLACE INTO bans VALUES (?, ?, ?)"
_UNBAN: Final = "DELETE FROM bans WHERE true_id = ?"
_EXPIRE_BANS: Final = "DELETE FROM bans WHERE until <= ?"


class Jobs:
    """The jobs over one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.rooms = RoomLedger(ledger)
        self._players = ledger.players
        self.session_count: int = self._players.select(_COUNT)[0]
        self._owners: dict[str, int] = {}

    def append(self, draft: Draft, now: float) -> Accepted | GatewayError:
        """See Ledger.append."""
        return self.ledger.append(draft, now)

    def prefetch_sessions(self, session_ids: list[str]) -> None:
        """Read at once whose sessions these are."""
        self._owners = {}
        if session_ids:
            text = encode([escape(each) for each in session_ids]).decode()
            self._owners = {
                unescape(key): owner for key, owner in self._players.select(_OWNERS, text)
            }

    def check(self) -> None:
        """Make the transaction write something."""
        self._players.begin()

    # Sessions

    def save(self, changes: Iterable[tuple[str, SessionChange]]) -> None:
        """Keep what has changed of sessions, given with their players' ids."""
        for true_id, change in changes:
            player = self._players.get(true_id)
            if player is not None and change.confirmed is not None:
                self.ledger.confirmed(player, change.confirmed)
            self._players.pending.change_session(change)

    def update_session(self, session_id: str, change: SessionChange) -> bool:
        """Change a session; return whether there is that session."""
        if session_id not in self._owners:
            return False
        self._players.pending.change_session(change)
        return True

    def add_session(self, session: Session, idle: int | None) -> list[SessionId]:
        """Keep a new session; return those that are forgotten for it. Raises SessionsFull.

        `idle` is its place among the sessions without connection, None if it has one.
        """
        players, limits = self._players, self.ledger.limits
        player = players.get(session.true_id)
        gone: list[SessionId] = []
        if session.id in self._owners:
            self._lose(session.id, self._owners[session.id])
            player = players.get(session.true_id)
        if (
            player is not None
            and limits.sessions_per_player
            and player.sessions >= limits.sessions_per_player
        ):
            players.flush()
            found = players.select(_LONGEST_UNSEEN_OF, player.id)
            if not found:
                raise SessionsFull(f"the player has {limits.sessions_per_player} sessions already")
            gone.append(self._lose(unescape(found[0][0]), found[0][1]))
        elif limits.sessions and self.session_count >= limits.sessions:
            players.flush()
            found = players.select(_LONGEST_IDLE, 1)
            if not found:
                raise SessionsFull(f"{limits.sessions} sessions are in use already")
            gone.append(self._lose(unescape(found[0][0]), found[0][1]))
        if player is None:
            player = players.add(session.true_id)
        key = escape(session.id)
        players.pending.new_sessions[key] = (
            key,
            player.id,
            escape(session.name),
            session.method,
            session.pid,
            session.last_seen,
            session.start,
            session.confirmed,
            session.generation,
            session.opened,
            idle,
            session.attributes,
        )
        self._owners[session.id] = player.id
        self.session_count += 1
        player.sessions += 1
        self.ledger.confirmed(player, session.confirmed)
        self.ledger.outbox.add(session_new(session))
        return gone

    def _lose(self, session_id: str, owner: int) -> SessionId:
        self._players.pending.lose_session(escape(session_id))
        self._owners.pop(session_id, None)
        self.session_count -= 1
        player = self._players.by_id(owner)
        player.sessions -= 1
        self.ledger.confirmed(player, 0)
        return SessionId(session_id)

    def revoke(self, kind: str, key: str, now: float, reason: str = "") -> None:
        """Remember a revocation; a session (`kind` "session") goes, for this reason."""
        if kind == "session" and key in self._owners:
            owner = self._players.by_id(self._owners[key]).true_id
            session_id = self._lose(key, self._owners[key])
            self.ledger.outbox.add(session_revoked(session_id, owner, reason, now))
        self._players.begin()
        self._players.connection.execute(_REVOKE, (kind, escape(key), now))

    # Players

    def know(self, true_ids: list[str], permanent: bool) -> None:
        """Make players known for good, or no longer."""
        for true_id in true_ids:
            player = self._players.get(true_id)
            if player is None:
                if not permanent:
                    continue
                player = self._players.add(true_id)
            player.permanent = permanent
            self._players.dirty[player.id] = player

    def set_ban(self, true_id: str, ban: Ban | None) -> None:
        """Keep a ban or, with None, lift it."""
        self._players.begin()
        if ban is None:
            self._players.connection.execute(_UNBAN, (escape(true_id),))
            return
        self._players.get_or_add(true_id)
        self._players.connection.execute(_BAN, (escape(true_id), ban.until, ban.reason))

    # Expiry, in chunks: other jobs come in between

    def expire_sessions(self, now: float, limit: int) -> tuple[list[SessionId], bool]:
        """Forget sessions longest without connection; return them and whether to go on."""
        self._players.flush()
        oldest = now - self.ledger.limits.session_lifetime
        found = self._players.select(_UNSEEN_SINCE, oldest, limit)
        gone = [self._lose(unescape(key), owner) for key, owner in found]
        return gone, len(gone) == limit

    def expire_rest(self, now: float, limit: int) -> bool:
        """Forget revocations, bans, keys, messages, then players; return whether to go on."""
        players = self._players
        players.flush()
        execute = players.connection.execute
        # A token's age is counted in whole seconds, so it may live up to one second longer.
        oldest = now - self.ledger.limits.token_lifetime - 1
        more = execute(_EXPIRE_REVOCATIONS, (oldest, limit)).rowcount == limit
        execute(_EXPIRE_BANS, (now,))
        more |= self.ledger.keys.expire(now, limit)
        more |= self.ledger.expire_messages(now, limit)
        more |= players.shorten_lists(limit)
        if more:
            return True
        players.flush()
        found = players.select(_EMPTY, limit)
        empty = []
        for player in players.by_ids(found):
            if player.first > player.head:
                empty.append(player.id)
                players.remove(player)
            else:
                # The log has messages that the row does not tell of.
                players.moved[player.id] = player
        if empty:
            execute(_DELETE_PLAYERS, (encode(empty).decode(),))
        return len(found) == limit
