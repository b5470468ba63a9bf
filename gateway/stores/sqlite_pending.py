"""What a transaction of the sqlite store has decided and not yet written, and its writing.

sqlite3 gives up the interpreter's lock for each step of a statement, and a busy event loop
gives it back only after sys.getswitchinterval(). So everything is written by one statement
however much it is: an insert into a view, whose trigger unpacks JSON. Without an explicit
transaction that statement is also the commit.
"""

from __future__ import annotations

import sqlite3
from typing import Final

import msgspec

from gateway.stores.sqlite_player import MoveRow

#: Columns: messages and bodies, trims, rows of the log and those gone, players and those that
#: moved, keys gone and new, sessions gone, new, changed.
SETUP: Final = (
    """CREATE TEMP VIEW pending AS SELECT NULL AS messages, NULL AS bodies, NULL AS trims,
        NULL AS log, NULL AS lost_log, NULL AS players, NULL AS moves,
        NULL AS lost_keys, NULL AS new_keys, NULL AS lost_sessions, NULL AS new_sessions,
        NULL AS changed_sessions""",
    """CREATE TEMP TRIGGER write_pending INSTEAD OF INSERT ON pending BEGIN
    INSERT INTO messages (mailbox, offset, nonce, ts, body, skip)
        SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3,
            coalesce(substr(NEW.bodies, value ->> 4, value ->> 5), x''), value ->> 6
        FROM json_each(NEW.messages);
    DELETE FROM messages WHERE seq IN (
        SELECT m.seq FROM json_each(NEW.trims) AS t CROSS JOIN messages AS m
        ON m.mailbox = (t.value ->> 0)
            AND m.offset BETWEEN (t.value ->> 1) AND (t.value ->> 2));
    INSERT INTO log (seq, nonce, ts, body, members)
        SELECT value ->> 0, value ->> 1, value ->> 2,
            coalesce(substr(NEW.bodies, value ->> 3, value ->> 4), x''),
            substr(NEW.bodies, value ->> 5, value ->> 6)
        FROM json_each(NEW.log);
    DELETE FROM log WHERE seq IN (SELECT value FROM json_each(NEW.lost_log));
    INSERT INTO players (id, true_id, permanent, head, first, bytes, keys, sessions, confirmed,
            reclaim, hole_after, hole_lost, folded)
        SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5,
            value ->> 6, value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11,
            value ->> 12
        FROM json_each(NEW.players) WHERE true
        ON CONFLICT (id) DO UPDATE SET permanent = excluded.permanent, head = excluded.head,
            first = excluded.first, bytes = excluded.bytes, keys = excluded.keys,
            sessions = excluded.sessions, confirmed = excluded.confirmed,
            reclaim = excluded.reclaim, hole_after = excluded.hole_after,
            hole_lost = excluded.hole_lost, folded = excluded.folded;
    UPDATE players SET head = m.value ->> 1, first = m.value ->> 2, bytes = m.value ->> 3
        FROM json_each(NEW.moves) AS m WHERE players.id = (m.value ->> 0);
    DELETE FROM keys WHERE rowid IN (
        SELECT k.rowid FROM json_each(NEW.lost_keys) AS e CROSS JOIN keys AS k
        ON k.sender = (e.value ->> 0) AND k.key = (e.value ->> 1));
    INSERT OR REPLACE INTO keys (sender, key, ts, target, offset, nonce)
        SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5
        FROM json_each(NEW.new_keys);
    DELETE FROM sessions WHERE id IN (SELECT value FROM json_each(NEW.lost_sessions));
    INSERT INTO sessions (id, player, name, method, pid, last_seen, start, confirmed, generation,
            opened, idle, attributes)
        SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5,
            value ->> 6, value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11
        FROM json_each(NEW.new_sessions);
    UPDATE sessions SET
            confirmed = max(confirmed, coalesce(c.value ->> 1, 0)),
            last_seen = coalesce(c.value ->> 2, last_seen),
            idle = CASE c.value ->> 3 WHEN -1 THEN NULL ELSE coalesce(c.value ->> 3, idle) END,
            generation = coalesce(c.value ->> 4, generation),
            pid = coalesce(c.value ->> 5, pid),
            start = coalesce(c.value ->> 6, start)
        FROM json_each(NEW.changed_sessions) AS c WHERE sessions.id = (c.value ->> 0);
    UPDATE meta SET value = value + 1 WHERE name = 'writes';
    END""",
)
_WRITE: Final = "INSERT INTO temp.pending VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

_encode: Final = msgspec.json.Encoder().encode
#: Without a session that passes over the message, the last element is left out.
MessageRow = tuple[int, int, int, float, int, int] | tuple[int, int, int, float, int, int, str]
PlayerRow = tuple[
    int, str, int, int, int, int, int, int, int, int | None, int | None, int | None, int
]
#: Its number, nonce, time, and the places of its body and of its list of members.
LogRow = tuple[int, int, float, int, int, int, int]
KeyRow = tuple[int, str, float, str, int, int]
SessionRow = tuple[str, int, str, str, str, float, int, int, int, int, int | None, str]


class SessionChange(msgspec.Struct, array_like=True, gc=False):
    """New values of a session's columns; None keeps the old. An `idle` of -1 is in use."""

    id: str
    confirmed: int | None = None
    last_seen: float | None = None
    idle: int | None = None
    generation: int | None = None
    pid: str | None = None
    start: int | None = None

    def update(self, newer: SessionChange) -> None:
        """Take over what the newer change sets."""
        for name in ("confirmed", "last_seen", "idle", "generation", "pid", "start"):
            value = getattr(newer, name)
            if value is not None:
                setattr(self, name, value)


class Pending:
    """Rows to write. Texts in them are escaped. The ledger fills it."""

    __slots__ = (
        "bodies",
        "changed_sessions",
        "log",
        "lost_keys",
        "lost_log",
        "lost_sessions",
        "messages",
        "new_keys",
        "new_sessions",
        "position",
        "trims",
    )

    def __init__(self) -> None:
        self.messages: list[MessageRow] = []
        self.bodies: list[bytes] = []
        #: Where the next body will begin in all of them together; SQLite counts from 1.
        self.position = 1
        self.trims: dict[int, tuple[int, int, int]] = {}
        self.log: list[LogRow] = []
        self.lost_log: list[int] = []
        self.lost_keys: list[tuple[int, str]] = []
        self.new_keys: dict[tuple[int, str], KeyRow] = {}
        self.lost_sessions: list[str] = []
        self.new_sessions: dict[str, SessionRow] = {}
        self.changed_sessions: dict[str, SessionChange] = {}

    def add_body(self, body: bytes) -> tuple[int, int]:
        """Return the place of a body, or of what else is written as it is."""
        place = (self.position, len(body))
        self.bodies.append(body)
        self.position += len(body)
        return place

    def add_message(
        self,
        mailbox: int,
        offset: int,
        nonce: int,
        ts: float,
        place: tuple[int, int],
        skip: str | None = None,
    ) -> None:
        """Write a message; `skip` is the session that passes over it."""
        row = (mailbox, offset, nonce, ts, *place)
        self.messages.append(row if skip is None else (*row, skip))

    def add_to_log(self, seq: int, nonce: int, ts: float, body: bytes, members: bytes) -> None:
        """Write a row of the log."""
        self.log.append((seq, nonce, ts, *self.add_body(body), *self.add_body(members)))

    def trim(self, mailbox: int, first: int, last: int) -> None:
        """Delete messages by their offsets; `first` continues what was trimmed before."""
        earlier = self.trims.get(mailbox)
        self.trims[mailbox] = (mailbox, first if earlier is None else earlier[1], last)

    def change_session(self, change: SessionChange) -> None:
        """Change a session's columns, if there is that session."""
        earlier = self.changed_sessions.get(change.id)
        if earlier is None:
            self.changed_sessions[change.id] = change
        else:
            earlier.update(change)

    def lose_session(self, session_id: str) -> None:
        """Delete a session."""
        self.new_sessions.pop(session_id, None)
        self.changed_sessions.pop(session_id, None)
        self.lost_sessions.append(session_id)

    def write(
        self, connection: sqlite3.Connection, players: list[PlayerRow], moves: list[MoveRow]
    ) -> bool:
        """Write all of it, with these players; return whether there was anything.

        Raises sqlite3.Error.
        """
        columns = (
            self.messages,
            self.trims,
            self.log,
            self.lost_log,
            players,
            moves,
            self.lost_keys,
            self.new_keys,
            self.lost_sessions,
            self.new_sessions,
            self.changed_sessions,
        )
        if not any(columns):
            return False
        texts = [_json(column) for column in columns]
        connection.execute(_WRITE, (texts[0], b"".join(self.bodies), *texts[1:]))
        self.__init__()  # type: ignore[misc]
        return True


def _json(rows: list[object] | dict[object, object] | object) -> str | None:
    if not rows:
        return None
    return _encode(list(rows.values()) if isinstance(rows, dict) else rows).decode()
