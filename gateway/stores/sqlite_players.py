"""The writer's players: what it decides by, read from the file when it is not at hand.

Everything that was decided and not written yet is in here or in Pending, so whoever reads
tables that Pending writes calls `flush` before.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from gateway.mailbox import OVERHEAD, Hole, Retention
from gateway.messages import TrueId
from gateway.stores.sqlite_copies import Mailboxes
from gateway.stores.sqlite_log import Entry, Folded, Row, State, newest, states_of
from gateway.stores.sqlite_pending import Pending, PlayerRow
from gateway.stores.sqlite_player import Player, moves, written
from gateway.stores.sqlite_schema import escape, unescape

_COLUMNS: Final = (
    "json_array(id, true_id, permanent, head, first, bytes, keys, sessions, confirmed, reclaim, "
    "hole_after, hole_lost, folded)"
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
_LOG: Final = "SELECT seq, nonce, ts, length(body), members FROM log ORDER BY seq"
_MEMBERS: Final = "SELECT members FROM log WHERE seq = ?"
_BUNDLES: Final = """SELECT json_group_array(json_array(seq, hex(members))) FROM log
    WHERE seq IN (SELECT value FROM json_each(?))"""
_SHORTEN: Final = "UPDATE log SET members = ? WHERE seq = ?"
#: See Folded.
_FOLD: Final = """INSERT INTO messages (mailbox, offset, nonce, ts, body, folded)
    SELECT e.value ->> 0, e.value ->> 1, e.value ->> 5, e.value ->> 6,
        coalesce(substr(r.body, e.value ->> 3, e.value ->> 4), x''), 1
    FROM json_each(?) AS e CROSS JOIN log AS r ON r.seq = (e.value ->> 2)"""

#: Players kept at hand, each about 2 KiB, beside those with messages in the log.
_MAX_CACHED: Final = 16_384
#: Players with such messages, each about 1 KiB, and what those take, as references of 8 bytes.
_MAX_LOGGED: Final = 65_536
_MAX_REFERENCES: Final = 8 * 1024 * 1024
#: So near to it, as a part of it, messages to one player do without the log: a transaction's have
#: room there.
_MARGIN: Final = 64
#: For so many that do without the log one in it makes room, when it comes to so many of these.
_EVICTION: Final = 8
_LEAST_EVICTED: Final = 64
#: Messages to which one transaction gives rows of their own, about.
_MAX_FOLDED: Final = 16_384
#: Players that are read at once at the start.
_MAX_LOAD: Final = 1000
#: Messages whose sizes are read beyond those that are needed.
_AHEAD: Final = 8
#: How many sizes are read when more are needed than was foreseen.
_CHUNK: Final = 256

decode: Final = msgspec.json.decode
encode: Final = msgspec.json.encode


class Players:
    """Players by id. One transaction's changes of them are `dirty` until `flush`.

    Those for whom only messages came and went are `moved`: three columns of a row cost a third
    of what all do. For messages in the log no row is written: see sqlite_copies.
    """

    def __init__(self, connection: sqlite3.Connection, limits: Retention) -> None:
        self.connection = connection
        self.pending = Pending()
        self.dirty: dict[int, Player] = {}
        self.moved: dict[int, Player] = {}
        #: How often the file was written, as it counts that itself.
        self.writes: int = connection.execute(WRITES).fetchone()[0]
        self.mailboxes = Mailboxes(limits, self._load_from)
        #: Whether copies got rows of their own because there were too many in memory.
        self.folded = False
        #: It changes when a player who was returned may be another object the next time.
        self.version = 0
        self._by_true_id: dict[str, Player] = {}
        self._by_id: dict[int, Player] = {}
        #: Those with copies, longest without another one about first, and the others, longest
        #: unused first.
        self._logged: OrderedDict[int, Player] = OrderedDict()
        self._others: OrderedDict[int, None] = OrderedDict()
        # Looked for in this transaction, and not there.
        self._strangers: set[str] = set()
        found = connection.execute(_MAX_ID).fetchone()
        self._next_id = 1 + (found[0] if found is not None else 0)
        bytes_, keys, count = connection.execute(_TOTALS).fetchone()
        self.mailboxes.bytes, self.mailboxes.count = bytes_, count
        #: Idempotency keys in the file, as it was opened.
        self.keys: int = keys
        self._restore()

    def _restore(self) -> None:
        """Take copies, and what is newer than players' rows, from the log."""
        states: dict[int, State] = {}
        for (members,) in self.connection.execute("SELECT members FROM log"):
            newest(members, states)
        numbers = iter(states)
        while chunk := list(itertools.islice(numbers, _MAX_LOAD)):
            self._load(_BY_ID, chunk)
        mailboxes = self.mailboxes
        for number, player in self._by_id.items():
            mailboxes.overtake(player, states[number])
        for row in self.connection.execute(_LOG):
            mailboxes.restore(row, self._by_id)
        for player in self._by_id.values():
            if player.copies:
                player.logged = True
                mailboxes.fresh.append(player)
            elif player.stale:
                mailboxes.moved.append(player)

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
        self._count()
        self._fold()
        self._forget()
        self._write()
        if self.connection.in_transaction:
            self.connection.execute(_WRITTEN)
            self.writes += 1
            self.connection.execute("COMMIT")
        self._strangers.clear()

    def _write(self) -> None:
        dirty, moved, mailboxes = self.dirty, self.moved, self.mailboxes
        mailboxes.close()
        for player in mailboxes.moved:
            moved[player.id] = player
        for player, first, last in mailboxes.rows:
            self.pending.trim(player.id, first, last)
        for row in mailboxes.added:
            self.pending.add_to_log(*row)
        self.pending.lost_log.extend(mailboxes.lost)
        for collected in (mailboxes.moved, mailboxes.rows, mailboxes.added, mailboxes.lost):
            collected.clear()
        rows = [_row(player) for player in dirty.values()]
        self.writes += self.pending.write(self.connection, rows, moves(moved, dirty))
        for changed in (dirty, moved):
            written(changed)
            changed.clear()

    def select(self, statement: str, *arguments: object) -> Any:
        """Return what a statement of one row of one JSON text says."""
        return decode(self.connection.execute(statement, arguments).fetchone()[0])

    # What is kept at hand

    def _count(self) -> None:
        """Count those who got their first copy among those with copies."""
        for player in self.mailboxes.fresh:
            if player.id in self._by_id:
                self._logged[player.id] = player
                self._others.pop(player.id, None)
        self.mailboxes.fresh.clear()

    def _fold(self) -> None:
        """Give messages rows of their own when the log takes too much memory.

        Not too many at once: a store that was opened with more comes to its bounds by and by.
        """
        mailboxes = self.mailboxes
        mailboxes.crowded = mailboxes.references > _MAX_REFERENCES - _MAX_REFERENCES // _MARGIN
        if mailboxes.crowded_out >= _EVICTION * _LEAST_EVICTED:
            self.flush()
            self._scatter(mailboxes.oldest_bundles(mailboxes.crowded_out // _EVICTION))
            mailboxes.crowded_out = 0
        self.folded |= mailboxes.crowded
        rows: list[Folded] = []
        while len(rows) < _MAX_FOLDED and self._too_much():
            number, player = self._logged.popitem(last=False)
            if player.recent and player.copies:
                # A second chance: it costs less than to keep them in the order of their copies.
                player.recent = False
                self._logged[number] = player
                continue
            player.logged = False
            self._others[number] = None
            if player.copies:
                if not rows:
                    self.flush()
                rows += mailboxes.fold(player)
                self.dirty[number] = player
            mailboxes.forget(player)
        if rows:
            self.connection.execute(_FOLD, (encode(rows).decode(),))
            self.folded = True

    def _too_much(self) -> bool:
        known = len(self._logged)
        return known > _MAX_LOGGED or (known > 0 and self.mailboxes.references > _MAX_REFERENCES)

    def _scatter(self, bundles: list[Row]) -> None:
        """Give messages of these bundles rows of their own."""
        if bundles:
            by_seq = {row.seq: row for row in bundles}
            rows: list[Folded] = []
            for seq, members in self.select(_BUNDLES, encode(list(by_seq)).decode()):
                list_ = bytes.fromhex(members)
                rows += self.mailboxes.scatter(by_seq[seq], list_, self._by_id)
            self.connection.execute(_FOLD, (encode(rows).decode(),))

    def _forget(self) -> None:
        """Let those go who were not used for longest."""
        while len(self._others) > _MAX_CACHED:
            number, _ = self._others.popitem(last=False)
            player = self._by_id.pop(number)
            del self._by_true_id[player.true_id]
            if player.stale:
                self.moved[number] = player
            self.version += 1

    # Looking up

    def prefetch(self, true_ids: Iterable[str], appends: dict[str, int]) -> None:
        """Read players at once, and sizes of messages that this many appends may trim."""
        known = self._by_true_id
        missing = {true_id for true_id in true_ids if true_id not in known}
        if missing:
            self._load(_BY_TRUE_ID, [escape(true_id) for true_id in missing])
            self._strangers |= {true_id for true_id in missing if true_id not in known}
        wanted = self.mailboxes.needed(known, appends)
        self._load_oldest(
            [(number, start, start + needed + _AHEAD) for number, start, needed in wanted]
        )

    def prefetch_oldest(self, players: list[Player]) -> None:
        """Read sizes of messages that one more for each of them may trim."""
        wanted = self.mailboxes.unknown(players)
        if wanted:
            self.flush()
            self._load_oldest([(*each, each[1] + _AHEAD) for each in wanted])

    def _load(self, statement: str, keys: list[Any]) -> None:
        for row in self.select(statement, encode(keys).decode()):
            player = Player(row[0], TrueId(unescape(row[1])))
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
            player.folded = row[12]
            if player.id not in self._by_id:
                self._keep(player)

    def _keep(self, player: Player) -> None:
        self._by_true_id[player.true_id] = self._by_id[player.id] = player
        self._others[player.id] = None

    def _load_oldest(self, wanted: list[tuple[int, int, int]]) -> None:
        if wanted:
            rows = self.select(_OLDEST, encode(wanted).decode())
            for mailbox, offset, size, ts in sorted(rows):
                self._by_id[mailbox].learn(offset, Entry(size, ts))

    def _load_from(self, player: Player, index: int) -> None:
        """Make the index-th oldest message of a mailbox known, and some more."""
        self.flush()
        start = player.first + min(index, len(player.entries))
        self._load_oldest([(player.id, start, player.first + index + _CHUNK)])

    def peek(self, true_id: str) -> Player | None:
        """Return a player if at hand."""
        return self._by_true_id.get(true_id)

    def get(self, true_id: str) -> Player | None:
        """Return a player, if there is one by that id."""
        player = self._by_true_id.get(true_id)
        if player is not None:
            if player.id in self._others:
                self._others.move_to_end(player.id)
            return player
        if true_id not in self._strangers:
            self._load(_BY_TRUE_ID, [escape(true_id)])
            player = self._by_true_id.get(true_id)
            if player is None:
                self._strangers.add(true_id)
        return player

    def all_of(self, true_ids: Iterable[str]) -> list[Player]:
        """Return players by their ids, new ones where there were none."""
        true_ids = tuple(true_ids)
        known = self._by_true_id
        missing = [true_id for true_id in true_ids if true_id not in known]
        if missing:
            self._load(_BY_TRUE_ID, [escape(true_id) for true_id in missing])
        return [known.get(true_id) or self.add(true_id) for true_id in true_ids]

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

    def members_of(self, seq: int) -> list[Player]:
        """Return the players who have copies of a message of the log, and maybe others."""
        self.flush()
        (members,) = self.connection.execute(_MEMBERS, (seq,)).fetchone()
        by_id = self._by_id
        return [by_id[number] for number, *_ in states_of(members) if number in by_id]

    def shorten_lists(self, limit: int) -> bool:
        """Drop members without copies from long lists; return whether there may be more.

        What is left of a bundle gets rows of its own. `limit` is about how many members are
        looked at.
        """
        self.flush()
        mailboxes, by_id = self.mailboxes, self._by_id
        sparse = mailboxes.sparse
        bundles = []
        while sparse and limit > 0:
            seq, row = sparse.popitem()
            limit -= row.listed
            if row.bundle:
                bundles.append(row)
            else:
                (members,) = self.connection.execute(_MEMBERS, (seq,)).fetchone()
                shorter = mailboxes.shorten(row, members, by_id)
                self.connection.execute(_SHORTEN, (shorter, seq))
        self._scatter(bundles)
        return bool(sparse)

    def add(self, true_id: str) -> Player:
        """Return a new player."""
        player = Player(self._next_id, TrueId(true_id))
        self._next_id += 1
        self._keep(player)
        self.dirty[player.id] = player
        return player

    def get_or_add(self, true_id: str) -> Player:
        """Return the player with an id, a new one if there was none."""
        return self.get(true_id) or self.add(true_id)

    def remove(self, player: Player) -> None:
        """Forget a player whose row is deleted, and who has no messages."""
        self.mailboxes.forget(player)
        self._by_true_id.pop(player.true_id, None)
        for kept in (self._by_id, self._logged, self._others, self.dirty, self.moved):
            kept.pop(player.id, None)
        self.version += 1


def _row(player: Player) -> PlayerRow:
    """Return what the table keeps."""
    hole = player.hole
    return (
        player.id,
        escape(player.true_id),
        int(player.permanent),
        player.head,
        player.first,
        player.bytes,
        player.keys,
        player.sessions,
        player.confirmed,
        player.reclaim,
        hole.after if hole is not None else None,
        hole.lost if hole is not None else None,
        player.folded,
    )
