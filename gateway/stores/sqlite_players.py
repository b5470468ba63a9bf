"""The writer's players: what it decides by, read from the file when it is not at hand.

Everything that was decided and not written yet is in here or in Pending, so whoever reads
tables that Pending writes calls `flush` before.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from gateway.mailbox import OVERHEAD, Hole, Retention
from gateway.stores.sqlite_pending import Pending, PlayerRow
from gateway.stores.sqlite_schema import escape, unescape

_COLUMNS: Final = (
    "json_array(id, true_id, permanent, head, first, bytes, keys, sessions, confirmed, reclaim, "
    "hole_after, hole_lost)"
)
_BY_TRUE_ID: Final = (
    f"SELECT json_group_array({_COLUMNS}) FROM players "  # noqa: S608
    "WHERE true_id IN (SELECT value FROM json_each(?))"
)
_BY_ID: Final = (
    f"SELECT json_group_array({_COLUMNS}) FROM players "  # noqa: S608
    "WHERE id IN (SELECT value FROM json_each(?))"
)
_OLDEST: Final = f"""SELECT json_group_array(json_array(
        m.mailbox, m.offset, length(m.body) + {OVERHEAD}, m.ts))
    FROM json_each(?) AS e CROSS JOIN messages AS m
    ON m.mailbox = (e.value ->> 0) AND m.offset BETWEEN (e.value ->> 1) AND (e.value ->> 2)"""  # noqa: S608
WRITES: Final = "SELECT value FROM meta WHERE name = 'writes'"
_WRITTEN: Final = "UPDATE meta SET value = value + 1 WHERE name = 'writes'"
_MAX_ID: Final = "SELECT seq FROM sqlite_sequence WHERE name = 'players'"
_TOTALS: Final = """SELECT coalesce(sum(bytes), 0), coalesce(sum(keys), 0),
    coalesce(sum(head - first + 1), 0) FROM players"""

#: Players kept at hand, each about 2 KiB.
_MAX_CACHED: Final = 16_384
#: Messages whose sizes are read beyond those that are needed, and kept between transactions.
_AHEAD: Final = 8
_MAX_AHEAD: Final = 32
#: What a message is taken for before its size is looked at, in bytes.
_USUAL: Final = 1024
#: How many sizes are read when more are needed than was foreseen.
_CHUNK: Final = 256

decode: Final = msgspec.json.decode
encode: Final = msgspec.json.encode


class Player:
    """A row of the table, and the oldest messages' (size, time) as far as they are known."""

    __slots__ = (
        "bytes",
        "confirmed",
        "first",
        "floor",
        "head",
        "hole",
        "id",
        "keys",
        "oldest",
        "oldest_key",
        "permanent",
        "reclaim",
        "sessions",
        "true_id",
    )

    def __init__(self, number: int, true_id: str) -> None:
        self.id = number
        self.true_id = true_id
        self.permanent = False
        self.head = 0
        self.first = 1
        self.bytes = 0
        self.keys = 0
        self.sessions = 0
        self.confirmed = 0
        #: The order in which full stores look at players for messages that may go.
        self.reclaim: int | None = None
        self.oldest: deque[tuple[int, float]] = deque()
        #: What all sessions have confirmed; None when that is to be read again.
        self.floor: int | None = None
        #: Time of the oldest key; None when that is to be read again.
        self.oldest_key: float | None = None
        self.hole: Hole | None = None

    def row(self) -> PlayerRow:
        """Return what the table keeps."""
        return (
            self.id,
            escape(self.true_id),
            int(self.permanent),
            self.head,
            self.first,
            self.bytes,
            self.keys,
            self.sessions,
            self.confirmed,
            self.reclaim,
            self.hole.after if self.hole is not None else None,
            self.hole.lost if self.hole is not None else None,
        )


class Players:
    """Players by id. One transaction's changes of them are `dirty` until `flush`.

    Those for whom only messages came and went are `moved`: three columns of a row cost a third
    of what all do, and a message to a room moves many.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.pending = Pending()
        self.dirty: dict[int, Player] = {}
        self.moved: dict[int, Player] = {}
        #: How often the file was written, as it counts that itself.
        self.writes: int = connection.execute(WRITES).fetchone()[0]
        self._by_true_id: OrderedDict[str, Player] = OrderedDict()
        self._by_id: dict[int, Player] = {}
        # Looked for in this transaction, and not there.
        self._strangers: set[str] = set()
        found = connection.execute(_MAX_ID).fetchone()
        self._next_id = 1 + (found[0] if found is not None else 0)

    def totals(self) -> tuple[int, int, int]:
        """Return the bytes of all mailboxes, and how many keys and messages there are."""
        bytes_, keys, messages = self.connection.execute(_TOTALS).fetchone()
        return bytes_, keys, messages

    def begin(self) -> None:
        """Begin a transaction of more than one statement."""
        if not self.connection.in_transaction:
            self.connection.execute("BEGIN IMMEDIATE")

    def flush(self) -> None:
        """Write what is pending, inside the transaction."""
        self.begin()
        self._write()

    def commit(self) -> None:
        """Write what is pending and commit."""
        self._write()
        if self.connection.in_transaction:
            self.connection.execute(_WRITTEN)
            self.writes += 1
            self.connection.execute("COMMIT")
        self._strangers.clear()
        while len(self._by_true_id) > _MAX_CACHED:
            _, player = self._by_true_id.popitem(last=False)
            del self._by_id[player.id]

    def _write(self) -> None:
        dirty, moved = self.dirty, self.moved
        rows = [player.row() for player in dirty.values()]
        moves = [
            (number, player.head, player.first, player.bytes)
            for number, player in moved.items()
            if number not in dirty
        ]
        self.writes += self.pending.write(self.connection, rows, moves)
        for changed in (dirty, moved):
            for player in changed.values():
                while len(player.oldest) > _MAX_AHEAD:
                    player.oldest.pop()
            changed.clear()

    def select(self, statement: str, *arguments: object) -> Any:
        """Return what a statement of one row of one JSON text says."""
        return decode(self.connection.execute(statement, arguments).fetchone()[0])

    # Looking up

    def prefetch(self, true_ids: Iterable[str], appends: dict[str, int], limits: Retention) -> None:
        """Read players at once, and sizes of messages that this many appends may trim."""
        known = self._by_true_id
        missing = {true_id for true_id in true_ids if true_id not in known}
        if missing:
            self._load(_BY_TRUE_ID, [escape(true_id) for true_id in missing])
            self._strangers |= {true_id for true_id in missing if true_id not in known}
        wanted = []
        for true_id, count in appends.items():
            player = known.get(true_id)
            if player is None:
                continue
            needed = 1
            if limits.max_messages:
                needed = max(1, player.head - player.first + 1 + count - limits.max_messages)
            if limits.max_bytes and player.bytes + count * _USUAL > limits.max_bytes:
                needed = max(needed, count)
            start = player.first + len(player.oldest)
            if start <= player.head and len(player.oldest) < needed:
                wanted.append((player.id, start, start + needed + _AHEAD))
        if wanted:
            self._load_oldest(wanted)

    def _load(self, statement: str, keys: list[Any]) -> None:
        for row in self.select(statement, encode(keys).decode()):
            player = Player(row[0], unescape(row[1]))
            player.permanent = bool(row[2])
            (
                player.head,
                player.first,
                player.bytes,
                player.keys,
                player.sessions,
                player.confirmed,
                player.reclaim,
            ) = row[3:10]
            if row[10] is not None:
                player.hole = Hole(row[10], row[11])
            if player.id not in self._by_id:
                self._by_true_id[player.true_id] = self._by_id[player.id] = player

    def _load_oldest(self, wanted: list[tuple[int, int, int]]) -> None:
        rows = self.select(_OLDEST, encode(wanted).decode())
        for mailbox, _, size, ts in sorted(rows):
            self._by_id[mailbox].oldest.append((size, ts))

    def get(self, true_id: str) -> Player | None:
        """Return a player, if there is one by that id."""
        player = self._by_true_id.get(true_id)
        if player is not None:
            self._by_true_id.move_to_end(true_id)
            return player
        if true_id not in self._strangers:
            self._load(_BY_TRUE_ID, [escape(true_id)])
            player = self._by_true_id.get(true_id)
            if player is None:
                self._strangers.add(true_id)
        return player

    def by_id(self, number: int) -> Player:
        """Return the player with a number; there is one."""
        if number not in self._by_id:
            self.by_ids([number])
        return self._by_id[number]

    def by_ids(self, numbers: Iterable[int]) -> list[Player]:
        """Return players by their numbers, those that there are."""
        numbers = list(numbers)
        missing = [number for number in numbers if number not in self._by_id]
        if missing:
            self._load(_BY_ID, missing)
        return [self._by_id[number] for number in numbers if number in self._by_id]

    def add(self, true_id: str) -> Player:
        """Return a new player."""
        player = Player(self._next_id, true_id)
        self._next_id += 1
        self._by_true_id[true_id] = self._by_id[player.id] = player
        self.dirty[player.id] = player
        return player

    def get_or_add(self, true_id: str) -> Player:
        """Return the player with an id, a new one if there was none."""
        return self.get(true_id) or self.add(true_id)

    def remove(self, player: Player) -> None:
        """Forget a player whose row is deleted."""
        self._by_true_id.pop(player.true_id, None)
        self._by_id.pop(player.id, None)
        self.dirty.pop(player.id, None)
        self.moved.pop(player.id, None)

    def oldest(self, player: Player, index: int) -> tuple[int, float]:
        """Return size and time of the index-th oldest message of a mailbox; it is there."""
        oldest = player.oldest
        if index >= len(oldest):
            self.flush()
            start = player.first + len(oldest)
            self._load_oldest([(player.id, start, start + max(_CHUNK, index - len(oldest)))])
        return oldest[index]
