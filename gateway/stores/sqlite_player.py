"""A player as the sqlite store's writer has them in memory; compiled, with sqlite_copies."""

from __future__ import annotations

from collections import deque
from typing import Final

from gateway.mailbox import Hole
from gateway.messages import TrueId
from gateway.stores.sqlite_log import Entry, Logged, Row, logged

#: Messages with rows of their own whose sizes are kept between transactions.
MAX_AHEAD: Final = 32

#: Of a player for whom nothing else has changed: id, head, first, bytes.
MoveRow = tuple[int, int, int, int]


class Player:
    """A player's row, and the oldest messages as far as they are known.

    `entries` begins with the first message. None is one whose row was not looked at; all that
    are in the log are there.
    """

    __slots__ = (
        "bytes",
        "confirmed",
        "copies",
        "entries",
        "first",
        "floor",
        "folded",
        "head",
        "hole",
        "id",
        "keys",
        "logged",
        "oldest_key",
        "padding",
        "permanent",
        "recent",
        "reclaim",
        "sessions",
        "stale",
        "true_id",
    )

    def __init__(self, number: int, true_id: TrueId) -> None:
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
        #: Up to here all messages have rows of their own.
        self.folded = 0
        self.entries: deque[Entry | None] = deque()
        #: How many of them are in the log.
        self.copies = 0
        #: How many are counted as None, at most: what is known of the oldest is not taken off.
        self.padding = 0
        #: Whether Players counts this one among those with copies.
        self.logged = False
        #: Whether a copy has come since Players looked.
        self.recent = False
        #: Whether the log says something newer than the row.
        self.stale = False
        #: What all sessions have confirmed; None when that is to be read again.
        self.floor: int | None = None
        #: Time of the oldest key; None when that is to be read again.
        self.oldest_key: float | None = None
        self.hole: Hole | None = None

    def learn(self, offset: int, entry: Entry) -> None:
        """Take what a row says of one of the oldest messages."""
        index = offset - self.first
        if index == len(self.entries):
            self.entries.append(entry)
        elif 0 <= index < len(self.entries) and self.entries[index] is None:
            self.entries[index] = entry

    def shorten(self) -> None:
        """Forget what is known of more messages than may be needed soon."""
        while not self.copies and len(self.entries) > MAX_AHEAD:
            self.entries.pop()

    def logged_between(self, start: int, end: int) -> list[Logged]:
        """Return those in the log with offsets from `start` up to before `end`."""
        if not self.copies:
            return []
        found: list[Logged] = []
        first = self.first
        entries = self.entries
        for offset in range(max(start, first), min(end, first + len(entries))):
            entry = entries[offset - first]
            if entry is not None and entry.row is not None:
                found.append(logged(offset, entry, entry.row))
        return found

    def entry_in(self, row: Row, offset: int) -> Entry | None:
        """Return a message by its offset, if this row of the log has it."""
        entry = self.entry_at(offset)
        return entry if entry is not None and entry.row is row else None

    def entry_at(self, offset: int) -> Entry | None:
        """Return a message by its offset; None for what is not in the log."""
        index = offset - self.first
        if 0 <= index < len(self.entries):
            entry = self.entries[index]
            if entry is not None and entry.row is not None:
                return entry
        return None


def part(players: list[Player], true_id: str) -> tuple[Player | None, list[Player]]:
    """Return a player from among others, if there, and the others."""
    found = None
    others = []
    for player in players:
        if player.true_id == true_id:
            found = player
        else:
            others.append(player)
    return found, others


def moves(moved: dict[int, Player], dirty: dict[int, Player]) -> list[MoveRow]:
    """Return what is to be written of players who moved and are not dirty."""
    return [
        (number, player.head, player.first, player.bytes)
        for number, player in moved.items()
        if number not in dirty
    ]


def written(players: dict[int, Player]) -> None:
    """Note that their rows are written."""
    for player in players.values():
        player.stale = False
        player.shorten()
