"""The sqlite store's log: its rows, in memory and as the file has them; compiled."""

from __future__ import annotations

import sys
from array import array
from typing import Final

from gateway.mailbox import OVERHEAD

#: Numbers that a list of members has for each of them: id, head, first, bytes.
_NUMBERS: Final = 4
#: What a bundle has at most, so that it fits on a page with its list: messages, and bytes of
#: their bodies if it is more than one.
_BUNDLED: Final = 16
_BUNDLED_BYTES: Final = 3000

#: head, first and bytes of a mailbox.
State = tuple[int, int, int]
#: One with a row of its own from now on: player, and what is asked of a message of the log.
Folded = tuple[int, int, int, int, int, int, float]
#: A row of the log as read: number, nonce, time, bytes of the body, list of members, and parts.
ReadRow = tuple[int, int, float, int, bytes, bytes | None]
#: A row of the log to be written: number, nonce, time, body, list of members, parts of a bundle.
NewRow = tuple[int, int, float, bytes, bytes, bytes | None]
#: A message of the log: offset, row, place and length of the body, nonce, time.
Logged = tuple[int, int, int, int, int, float]


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

    __slots__ = ("bodies", "length", "lengths", "nonces", "row", "states", "times")

    def __init__(self, row: Row) -> None:
        self.row = row
        self.bodies: list[bytes] = []
        self.length = 0
        self.times: list[float] = []
        self.nonces: list[int] = []
        self.lengths: list[int] = []
        self.states: list[tuple[int, int, int, int]] = []

    def has_room(self, body: bytes) -> bool:
        """Tell whether another message may be added."""
        return len(self.bodies) < _BUNDLED and self.length + len(body) <= _BUNDLED_BYTES

    def add(self, body: bytes, nonce: int, now: float, state: tuple[int, int, int, int]) -> None:
        """Add a message; `state` is what becomes of its mailbox: player, head, first, bytes."""
        self.bodies.append(body)
        self.length += len(body)
        self.times.append(now)
        self.nonces.append(nonce)
        self.lengths.append(len(body))
        self.states.append(state)

    def packed(self) -> NewRow:
        """Return it as a row to be written."""
        parts = _little("d", self.times) + _little("q", self.nonces) + _little("I", self.lengths)
        members = pack([state[column] for column in range(_NUMBERS) for state in self.states])
        return (self.row.seq, 0, self.row.ts, b"".join(self.bodies), members, parts)


def logged(offset: int, entry: Entry, row: Row) -> Logged:
    """Return what is asked of a message of the log."""
    return (offset, row.seq, entry.place, entry.size - OVERHEAD, entry.nonce, entry.ts)


def pack(numbers: list[int]) -> bytes:
    """Return numbers as little-endian bytes, narrow ones if they fit, behind their type."""
    try:
        return b"I" + _little("I", numbers)
    except OverflowError:
        return b"q" + _little("q", numbers)


def _little(kind: str, numbers: list[int] | list[float]) -> bytes:
    packed = array(kind, numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def entries_of(parts: bytes, row: Row) -> list[Entry]:
    """Return the messages of a bundle; each takes 20 bytes of its parts."""
    count = len(parts) // 20
    columns = []
    start = 0
    for kind, width in (("d", 8), ("q", 8), ("I", 4)):
        numbers = array(kind, parts[start : start + width * count])
        if sys.byteorder == "big":
            numbers.byteswap()
        columns.append(numbers.tolist())
        start += width * count
    entries = []
    place = 1
    for ts, nonce, length in zip(*columns, strict=True):
        entries.append(Entry(length + OVERHEAD, ts, row, nonce, place))
        place += length
    return entries


def unpack(members: bytes) -> tuple[array[int], array[int], array[int], array[int]]:
    """Return ids, heads, firsts and bytes that a list of members has."""
    numbers = array(members[:1].decode())
    numbers.frombytes(members[1:])
    if sys.byteorder == "big":
        numbers.byteswap()
    count = len(numbers) // _NUMBERS
    return (
        numbers[:count],
        numbers[count : 2 * count],
        numbers[2 * count : 3 * count],
        numbers[3 * count :],
    )


def newest(members: bytes, states: dict[int, State]) -> None:
    """Note what a list of members says of mailboxes of which nothing newer was said."""
    ids, heads, firsts, sizes = unpack(members)
    for number, head, first, bytes_ in zip(ids, heads, firsts, sizes, strict=True):
        known = states.get(number)
        if known is None or head + first > known[0] + known[1]:
            states[number] = (head, first, bytes_)
