"""The sqlite store's log: its rows, in memory and as the file has them; compiled."""

from __future__ import annotations

import struct
import sys
from array import array
from typing import Final

from gateway.mailbox import OVERHEAD

#: Numbers that a list of members has for each of them: id, head, first, bytes.
_NUMBERS: Final = 4
#: What a bundle has for each message: the same, and its time, nonce and length.
_PART: Final = struct.Struct("<qqqqdqI")
#: How the list of a bundle begins; others begin with the type of their numbers.
_BUNDLE: Final = b"b"
#: What a bundle has at most, so that it fits on a page with its list: messages, and bytes of
#: their bodies if it is more than one.
_BUNDLED: Final = 16
_BUNDLED_BYTES: Final = 3000

#: What a list says of a mailbox: player, head, first, bytes.
State = tuple[int, int, int, int]
#: A row of the log as read: number, nonce, time, bytes of the body, and list.
ReadRow = tuple[int, int, float, int, bytes]
#: A row of the log to be written: number, nonce, time, body, and list.
NewRow = tuple[int, int, float, bytes, bytes]
#: A message of the log: offset, row, place and length of the body, nonce, time.
Logged = tuple[int, int, int, int, int, float]
#: One with a row of its own from now on: player, and what is asked of a message of the log.
Folded = tuple[int, int, int, int, int, int, float]


class Row:
    """A row of the log: one message to many mailboxes, or a bundle of messages to one each."""

    __slots__ = ("bundle", "copies", "listed", "seq", "ts")

    def __init__(self, seq: int, ts: float, bundle: bool) -> None:
        self.seq = seq
        #: When its newest message came.
        self.ts = ts
        self.bundle = bundle
        #: Messages in mailboxes that are in this row.
        self.copies = 0
        #: How many its list has.
        self.listed = 0


class Entry:
    """A message in one mailbox or many: `row` of the log has it, None if it has its own.

    `place` is where its body begins in that row's, counted from 1.
    """

    __slots__ = ("nonce", "place", "row", "size", "ts")

    def __init__(
        self, size: int, ts: float, row: Row | None = None, nonce: int = 0, place: int = 1
    ) -> None:
        self.size = size
        self.ts = ts
        self.row = row
        self.nonce = nonce
        self.place = place


class Bundle:
    """Messages to one mailbox each, of which a row of the log is made."""

    __slots__ = ("bodies", "length", "parts", "row")

    def __init__(self, row: Row) -> None:
        self.row = row
        self.bodies: list[bytes] = []
        #: Of the bodies together.
        self.length = 0
        self.parts: list[bytes] = [_BUNDLE]

    def has_room(self, body: bytes) -> bool:
        """Tell whether another message may be added."""
        return len(self.bodies) < _BUNDLED and self.length + len(body) <= _BUNDLED_BYTES

    def add(self, body: bytes, nonce: int, now: float, state: State) -> None:
        """Add a message; `state` is what becomes of its mailbox."""
        length = len(body)
        self.bodies.append(body)
        self.length += length
        self.parts.append(_PART.pack(*state, now, nonce, length))

    def packed(self) -> NewRow:
        """Return it as a row to be written."""
        return (self.row.seq, 0, self.row.ts, b"".join(self.bodies), b"".join(self.parts))


def logged(offset: int, entry: Entry, row: Row) -> Logged:
    """Return what is asked of a message of the log."""
    return (offset, row.seq, entry.place, entry.size - OVERHEAD, entry.nonce, entry.ts)


def pack(numbers: list[int]) -> bytes:
    """Return a list of members: ids, heads, firsts and bytes, narrow numbers if they fit."""
    try:
        return b"I" + _little("I", numbers)
    except OverflowError:
        return b"q" + _little("q", numbers)


def _little(kind: str, numbers: list[int]) -> bytes:
    packed = array(kind, numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def is_bundle(members: bytes) -> bool:
    """Tell whether it is the list of a bundle, and not of a message to a room."""
    return members.startswith(_BUNDLE)


def entries_of(members: bytes, row: Row) -> list[Entry]:
    """Return the messages of a bundle, by its list."""
    entries = []
    place = 1
    for *_, ts, nonce, length in _PART.iter_unpack(members[1:]):
        entries.append(Entry(length + OVERHEAD, ts, row, nonce, place))
        place += length
    return entries


def states_of(members: bytes) -> list[State]:
    """Return what a list says of mailboxes."""
    if is_bundle(members):
        return [part[:_NUMBERS] for part in _PART.iter_unpack(members[1:])]
    numbers = array(members[:1].decode())
    numbers.frombytes(members[1:])
    if sys.byteorder == "big":
        numbers.byteswap()
    count = len(numbers) // _NUMBERS
    columns = [numbers[start : start + count] for start in range(0, len(numbers), count)]
    return list(zip(*columns, strict=True))


def newest(members: bytes, states: dict[int, State]) -> None:
    """Note what a list says of mailboxes of which nothing newer was said."""
    for state in states_of(members):
        number, head, first, _ = state
        known = states.get(number)
        if known is None or head + first > known[1] + known[2]:
            states[number] = state
