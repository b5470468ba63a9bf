"""The reading thread of the sqlite store: answers what is queued by one statement a kind.

Each statement gives one row, whatever it answers: see sqlite_pending on why.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from gateway.errors import StoreUnavailable
from gateway.mailbox import OVERHEAD, Batch, Hole, Position, StoredMessage
from gateway.messages import SessionId, TrueId
from gateway.session import Session
from gateway.stores import sqlite_schema as schema
from gateway.stores.sqlite_log import Logged
from gateway.stores.sqlite_players import Players, decode, encode
from gateway.stores.sqlite_schema import connect_reader, escape, unescape
from gateway.stores.sqlite_turns import Turns

logger = logging.getLogger(__name__)

#: Asked: true_id, after, limit, max_bytes, and what the writer knows: head, first, and messages
#: of the log (see Logged). The bodies come as one text, in the order of rows.
_READ: Final = f"""WITH asked AS MATERIALIZED (
        SELECT e.key AS number, p.id AS mailbox, coalesce(e.value ->> 4, p.head) AS head,
            p.hole_after, p.hole_lost,
            max(coalesce(e.value ->> 5, p.first), (e.value ->> 1) + 1) AS start,
            e.value ->> 2 AS most, e.value ->> 3 AS max_bytes, e.value -> 6 AS copies
        FROM json_each(?) AS e CROSS JOIN players AS p ON p.true_id = (e.value ->> 0)),
    there AS (
        SELECT number, start, max_bytes, offset, m.seq AS own, NULL AS log, 1 AS place,
            length(body) AS size, nonce, ts
            FROM asked CROSS JOIN messages AS m
            ON m.mailbox = asked.mailbox AND offset BETWEEN start AND start + most - 1
        UNION ALL
        SELECT number, start, max_bytes, c.value ->> 0, NULL, c.value ->> 1, c.value ->> 2,
            c.value ->> 3, c.value ->> 4, c.value ->> 5
            FROM asked CROSS JOIN json_each(asked.copies) AS c
            CROSS JOIN log AS r ON r.seq = (c.value ->> 1)),
    found AS (
        SELECT *, sum(size + {OVERHEAD}) OVER (PARTITION BY number ORDER BY offset) AS total
        FROM there)
    SELECT (SELECT json_group_array(json_array(number, head, hole_after, hole_lost)) FROM asked),
        json_group_array(json_array(number, found.offset, found.nonce, found.ts, size, m.skip)),
        group_concat(CAST(coalesce(m.body, substr(r.body, place, size), x'') AS TEXT), '')
    FROM found LEFT JOIN messages AS m ON m.seq = own LEFT JOIN log AS r ON r.seq = log
    WHERE max_bytes = 0 OR total <= max_bytes OR found.offset = start"""  # noqa: S608
#: Asked: rows of the log, and place and length of a body in each.
_BODIES: Final = """SELECT
    group_concat(CAST(substr(r.body, e.value ->> 1, e.value ->> 2) AS TEXT), '')
    FROM json_each(?) AS e CROSS JOIN log AS r ON r.seq = (e.value ->> 0)"""
#: Asked: true_id, offset, session, and what the writer knows: head, first, the offset's nonce.
_VIEW: Final = """SELECT json_group_array(json_array(e.key, coalesce(e.value ->> 3, p.head),
        coalesce(e.value ->> 4, p.first), p.confirmed, coalesce(m.nonce, e.value ->> 5),
        p.hole_after, p.hole_lost, json((SELECT json_group_array(s.offset) FROM messages AS s
            WHERE s.mailbox = p.id AND s.skip = (e.value ->> 2) AND s.skip IS NOT NULL))))
    FROM json_each(?) AS e CROSS JOIN players AS p ON p.true_id = (e.value ->> 0)
    LEFT JOIN messages AS m ON m.mailbox = p.id AND m.offset = (e.value ->> 1)"""
#: The first read of a transaction: from then on it is a snapshot.
_SNAPSHOT: Final = "SELECT count(*) FROM meta"
_SESSION: Final = (
    "json_array(e.key, s.id, p.true_id, s.name, s.method, s.pid, s.last_seen, s.start, "
    "s.confirmed, s.generation, s.opened, s.attributes)"
)
_SESSIONS: Final = f"""SELECT json_group_array({_SESSION}) FROM json_each(?) AS e
    CROSS JOIN sessions AS s ON s.id = e.value JOIN players AS p ON p.id = s.player"""  # noqa: S608
_SESSIONS_OF: Final = f"""SELECT json_group_array({_SESSION}) FROM json_each(?) AS e
    CROSS JOIN players AS p ON p.true_id = e.value JOIN sessions AS s ON s.player = p.id"""  # noqa: S608
#: Asked: the number of the last player before, how many.
_PLAYERS: Final = """SELECT json_group_array(json_array(id, true_id)) FROM (SELECT id, true_id
    FROM players WHERE id > ? AND (permanent OR sessions > 0) ORDER BY id LIMIT ?)"""

Done = Callable[[Any], None]
#: What kind, of what, and who hears of it.
_Asked = tuple[str, Any, Done]
#: What the reads answered together may ask for, and what one of no limit counts, in bytes.
_MAX_BATCH_BYTES: Final = 16 * 1024 * 1024
_NO_LIMIT: Final = 1024 * 1024
#: head, first, confirmed, the nonce of the message asked about, if it is there, the hole's two
#: numbers, and the offsets that the session asked about passes over.
ViewRow = tuple[int, int, int, int | None, int | None, int | None, Sequence[int]]
NO_VIEW: Final[ViewRow] = (0, 1, 0, None, None, None, ())
_UNAVAILABLE: Final = StoreUnavailable("the store cannot be read")


class Reader:
    """Owns the connection that reads. `deliver` and `on_error` are called in its thread.

    `players` returns what the writer knows, None while there is no telling; it is called with
    the writer's turn.
    """

    def __init__(
        self,
        path: Path,
        epoch: Callable[[], str],
        deliver: Callable[[list[tuple[Done, Any]]], None],
        on_error: Callable[[BaseException], None],
        turns: Turns,
        players: Callable[[], Players | None],
    ) -> None:
        self._path = path
        self._epoch = epoch
        self._deliver = deliver
        self._on_error = on_error
        self._turns = turns
        self._known = players
        self._queue: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._connection: sqlite3.Connection | None = None
        self._reopen = False
        self._thread = threading.Thread(target=self._run, name="sqlite-reader", daemon=True)

    def start(self) -> None:
        """Begin; the file is opened for the first read."""
        self._thread.start()

    def stop(self) -> None:
        """Answer what is queued and end the thread; blocks."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def reopen(self) -> None:
        """Use a new connection from the next read on: the file may be another one."""
        self._reopen = True

    def read(self, true_id: TrueId, after: int, limit: int, max_bytes: int, done: Done) -> None:
        """Call `done` with a Batch."""
        self._queue.put(("read", (true_id, after, limit, max_bytes), done))

    def view(
        self, true_id: TrueId, position: Position | None, session_id: SessionId | None, done: Done
    ) -> None:
        """Call `done` with a ViewRow."""
        offset = position.offset if position is not None else 0
        session = escape(session_id) if session_id is not None else None
        self._queue.put(("view", (true_id, offset, session), done))

    def session(self, session_id: SessionId, done: Done) -> None:
        """Call `done` with a list of the session, if it is there."""
        self._queue.put(("sessions", escape(session_id), done))

    def sessions_of(self, true_id: TrueId, done: Done) -> None:
        """Call `done` with a list of the player's sessions."""
        self._queue.put(("sessions_of", escape(true_id), done))

    def players(self, after: int, limit: int, done: Done) -> None:
        """Call `done` with numbers and ids of players whose numbers follow `after`."""
        self._queue.put(("players", (after, limit), done))

    def call(self, run: Callable[[sqlite3.Connection], Any], done: Done) -> None:
        """Call `done` with what `run` returns."""
        self._queue.put(("call", run, done))

    # The thread

    def _run(self) -> None:
        running = True
        # Reads wait for everything else: who logs in does not wait for others' replays.
        reads: deque[_Asked] = deque()
        while running or reads:
            batch: list[_Asked] = []
            while not self._queue.empty() or not (reads or batch or not running):
                asked = self._queue.get()
                if asked is None:
                    running = False
                elif asked[0] == "read":
                    reads.append(asked)
                else:
                    batch.append(asked)
            if batch:
                self._deliver(self._answer(batch))
            elif reads:
                self._deliver(self._answer(_take(reads)))
        self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as error:
                logger.warning("%s: %s", self._path, error)

    def _answer(self, batch: list[_Asked]) -> list[tuple[Done, Any]]:
        results: list[Any] = [_UNAVAILABLE] * len(batch)
        try:
            if self._reopen:
                self._reopen = False
                self._close()
            connection = self._connection
            if connection is None:
                connection = self._connection = connect_reader(self._path)
            batch = self._begin(connection, batch)
            for kind, answer in (
                ("read", self._read),
                ("view", self._view),
                ("sessions", self._sessions),
                ("sessions_of", self._sessions_of),
                ("players", self._players),
                ("call", self._call),
            ):
                places = [place for place, each in enumerate(batch) if each[0] == kind]
                if places:
                    found = answer(connection, [batch[place][1] for place in places])
                    for place, result in zip(places, found, strict=True):
                        results[place] = result
            if connection.in_transaction:
                connection.execute("COMMIT")
        except StoreUnavailable:
            pass
        except Exception as error:
            self._close()
            if schema.is_fault(error):
                self._on_error(error)
            else:
                logger.exception("%s: a read failed", self._path)
        return [(each[2], result) for each, result in zip(batch, results, strict=True)]

    def _begin(self, connection: sqlite3.Connection, batch: list[_Asked]) -> list[_Asked]:
        """Add what the writer knows, and begin to read the file as it is then.

        Raises StoreUnavailable when the writer has lost the file.
        """
        if not any(kind in _OF_MAILBOXES for kind, _, _ in batch):
            return batch
        with self._turns:
            players = self._known()
            if players is None:
                raise _UNAVAILABLE
            connection.execute("BEGIN")
            connection.execute(_SNAPSHOT).fetchone()
            return [
                (kind, _OF_MAILBOXES[kind](players, *about), done)
                if kind in _OF_MAILBOXES
                else (kind, about, done)
                for kind, about, done in batch
            ]

    def _read(self, connection: sqlite3.Connection, asked: list[Any]) -> list[Any]:
        whole = [each for each in asked if isinstance(each, _AllLogged)]
        others = [each for each in asked if not isinstance(each, _AllLogged)]
        of_whole = iter(self._read_log(connection, whole) if whole else ())
        of_others = iter(self._read_both(connection, others) if others else ())
        return [next(of_whole if isinstance(each, _AllLogged) else of_others) for each in asked]

    def _read_log(self, connection: sqlite3.Connection, asked: list[_AllLogged]) -> list[Batch]:
        places = [each[1:4] for one in asked for each in one.messages]
        bodies = b""
        if places:
            bodies = connection.execute(_BODIES, (encode(places).decode(),)).fetchone()[0] or b""
        epoch = self._epoch().encode()
        position = 0
        batches = []
        for one in asked:
            messages = []
            for offset, _, _, size, nonce, ts in one.messages:
                body = bodies[position : position + size]
                position += size
                message_id = b"%b.%d.%x" % (epoch, offset, nonce)
                messages.append(StoredMessage(offset, message_id, body, ts))
            batches.append(Batch(tuple(messages), one.head, one.hole))
        if position != len(bodies):
            raise LookupError("the log is not as the writer knows it")
        return batches

    def _read_both(self, connection: sqlite3.Connection, asked: list[Any]) -> list[Batch]:
        heads, rows, bodies = connection.execute(_READ, (encode(asked).decode(),)).fetchone()
        found: list[list[StoredMessage]] = [[] for _ in asked]
        epoch = self._epoch().encode()
        position = 0
        for number, offset, nonce, ts, size, skip in decode(rows):
            body = bodies[position : position + size]
            position += size
            session_id = SessionId(unescape(skip)) if skip is not None else None
            found[number].append(
                StoredMessage(offset, b"%b.%d.%x" % (epoch, offset, nonce), body, ts, session_id)
            )
        state_of = {number: (head, hole(*row)) for number, head, *row in decode(heads)}
        return [
            Batch(tuple(sorted(messages, key=_offset)), *state_of.get(number, (0, None)))
            for number, messages in enumerate(found)
        ]

    def _view(self, connection: sqlite3.Connection, asked: list[Any]) -> list[Any]:
        (text,) = connection.execute(_VIEW, (encode(asked).decode(),)).fetchone()
        found = {number: tuple(row) for number, *row in decode(text)}
        return [found.get(number, NO_VIEW) for number in range(len(asked))]

    def _sessions(self, connection: sqlite3.Connection, asked: list[Any]) -> list[Any]:
        return _sessions(connection, _SESSIONS, asked)

    def _sessions_of(self, connection: sqlite3.Connection, asked: list[Any]) -> list[Any]:
        return _sessions(connection, _SESSIONS_OF, asked)

    def _players(self, connection: sqlite3.Connection, asked: list[Any]) -> list[Any]:
        answers = []
        for after, limit in asked:
            (text,) = connection.execute(_PLAYERS, (after, limit)).fetchone()
            rows = decode(text)
            true_ids = tuple(TrueId(unescape(true_id)) for _, true_id in rows)
            answers.append(([number for number, _ in rows], true_ids))
        return answers

    def _call(self, connection: sqlite3.Connection, asked: list[Any]) -> list[Any]:
        return [run(connection) for run in asked]


def hole(after: int | None, lost: int | None) -> Hole | None:
    """Return the hole that two columns say."""
    return Hole(after, lost) if after is not None and lost is not None else None


class _AllLogged(NamedTuple):
    """A read of which the log has every message: those, and the mailbox' head and hole."""

    messages: list[Logged]
    head: int
    hole: Hole | None


def _known_to_read(
    players: Players, true_id: str, after: int, limit: int, max_bytes: int
) -> _AllLogged | tuple[Any, ...]:
    player = players.peek(true_id)
    if player is None:
        return escape(true_id), after, limit, max_bytes, None, None, ()
    start = max(player.first, after + 1)
    end = min(player.head + 1, start + limit)
    copies = player.logged_between(start, end)
    if len(copies) == max(0, end - start):
        return _AllLogged(_within(copies, max_bytes), player.head, player.hole)
    return escape(true_id), after, limit, max_bytes, player.head, player.first, copies


def _within(messages: list[Logged], max_bytes: int) -> list[Logged]:
    """Return the first messages, as many as have so many bytes together; at least one."""
    if max_bytes:
        total = 0
        for index, (_, _, _, length, _, _) in enumerate(messages):
            total += length + OVERHEAD
            if total > max_bytes and index:
                return messages[:index]
    return messages


def _known_to_view(
    players: Players, true_id: str, offset: int, session: str | None
) -> tuple[Any, ...]:
    player = players.peek(true_id)
    if player is None:
        return escape(true_id), offset, session, None, None, None
    entry = player.entry_at(offset)
    nonce = entry.nonce if entry is not None else None
    return escape(true_id), offset, session, player.head, player.first, nonce


#: What is asked of mailboxes, with how to add what the writer knows.
_OF_MAILBOXES: Final[dict[str, Callable[..., tuple[Any, ...]]]] = {
    "read": _known_to_read,
    "view": _known_to_view,
}


def _take(reads: deque[_Asked]) -> list[_Asked]:
    """Take the first reads, as many as ask for so much together; at least one."""
    size = 0
    batch: list[_Asked] = []
    while reads:
        size += reads[0][1][3] or _NO_LIMIT
        if batch and size > _MAX_BATCH_BYTES:
            break
        batch.append(reads.popleft())
    return batch


def _sessions(connection: sqlite3.Connection, statement: str, asked: list[Any]) -> list[Any]:
    (text,) = connection.execute(statement, (encode(asked).decode(),)).fetchone()
    found: list[list[Session]] = [[] for _ in asked]
    for number, session_id, true_id, name, *rest in decode(text):
        found[number].append(
            Session(
                SessionId(unescape(session_id)), TrueId(unescape(true_id)), unescape(name), *rest
            )
        )
    return found


def _offset(message: StoredMessage) -> int:
    return message.offset
