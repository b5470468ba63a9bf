"""Mailboxes as the sqlite store's writer has them in memory; compiled, for it takes every copy.

A row of its own for each member would make a message to a room dirty a page of the index for
each of them. So it is one row of a log: its body once, and a list of the members with what
became of their mailboxes. Each member's copy is only in memory, as a reference to that row.

- What the list says of a mailbox (head, first, bytes) counts until something else changes it
  and writes the player's row. Head and first only grow, so the larger ones are the newer.
- A row of the log goes in the transaction that drops its last copy. What its list said of a
  mailbox has been said again by then: a copy is dropped by a change of its mailbox.
- At start the log is read from its beginning, and copies that are gone are passed over.
- A list most of whose members have lost their copies is written again, shorter: no player who
  is away for long keeps the lists of large rooms.
- Only so many players may have copies in memory. Of the others, who got none for longest, they
  are folded: they become rows of their own, up to an offset that the player's row keeps.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from gateway.mailbox import Retention, RoomDraft, StoredMessage
from gateway.messages import TrueId
from gateway.store import Copies
from gateway.stores.sqlite_player import MAX_AHEAD, Entry, Player

#: What a message is taken for before its size is looked at, in bytes.
_USUAL: Final = 1024
#: Numbers that a list of members has for each of them: id, head, first, bytes.
_NUMBERS: Final = 4
#: A list is too long when it has so many times the members who still have copies,
_SPARSE: Final = 4
#: but a shorter one than this never is.
_SHORT: Final = 64

#: head, first and bytes of a mailbox.
State = tuple[int, int, int]


class Mailboxes:
    """Appends and trims; what follows from it for the file is collected.

    `load` makes the index-th oldest message of a mailbox known.
    """

    def __init__(self, limits: Retention, load: Callable[[Player, int], None]) -> None:
        self._most: int = limits.max_messages or sys.maxsize
        self._most_bytes: int = limits.max_bytes or sys.maxsize
        self._retention = limits.retention
        self._load = load
        #: Of all mailboxes: what their messages count, and how many there are.
        self.bytes = 0
        self.count = 0
        #: The log's rows with copies, oldest first, and those to delete.
        self.log: OrderedDict[int, Entry] = OrderedDict()
        self.lost: list[int] = []
        #: Those whose list of members is too long.
        self.sparse: dict[int, Entry] = {}
        #: Of all mailboxes: how many messages are in the log.
        self.copies = 0
        #: Players who were not counted among those with copies.
        self.fresh: list[Player] = []
        #: Players whose copy did not stay: the list of members does not count for them.
        self.moved: list[Player] = []
        #: Rows of mailboxes to delete: player, first and last offset.
        self.rows: list[tuple[Player, int, int]] = []
        #: Messages that no session had confirmed: those too old by player and the time when they
        #: went, and how many others.
        self.expired: list[tuple[Player, int, float]] = []
        self.trimmed = 0

    def append(self, player: Player, size: int, ts: float) -> None:
        """Give a message with a row of its own the next offset."""
        entries = player.entries
        known = len(entries)
        # The newest one joins when there is no gap.
        if known == player.head + 1 - player.first:
            if known < MAX_AHEAD:
                entries.append(Entry(size, ts))
            elif player.copies:
                entries.append(None)
        player.head += 1
        player.bytes += size
        self.bytes += size
        self.count += 1

    def publish(
        self,
        draft: RoomDraft,
        entry: Entry,
        players: list[Player],
        sender: Player | None,
        epoch: bytes,
    ) -> tuple[Copies | None, list[Copies], bytes]:
        """Put a message of the log into these mailboxes, and trim them.

        Where mailboxes stand at one offset it is one object; the sender's is always its own.
        Returns what the sender got, what the other members did, and the list of members.
        """
        body = draft.body
        size, now = entry.size, entry.ts
        tail = b".%x" % entry.nonce
        most, most_bytes = self._most, self._most_bytes
        retained = now - self._retention if self._retention else -math.inf
        places: dict[int, Copies] = {}
        own: Copies | None = None
        ids: list[int] = []
        heads: list[int] = []
        firsts: list[int] = []
        sizes: list[int] = []
        last_head = 0
        true_ids: list[TrueId] = []
        entry.copies = entry.listed = len(players)
        self.copies += len(players)
        self.log[entry.seq] = entry
        self.bytes += size * len(players)
        self.count += len(players)
        for player in players:
            first = player.first
            head = player.head + 1
            entries = player.entries
            missing = head - first - len(entries)
            if missing > 0:
                entries.extend([None] * missing)
            entries.append(entry)
            player.head = head
            player.bytes += size
            player.copies += 1
            if player is sender:
                message_id = b"%b.%d%b" % (epoch, head, tail)
                own = (StoredMessage(head, message_id, body, now), [player.true_id])
            else:
                if head != last_head:
                    last_head = head
                    copies = places.get(head)
                    if copies is None:
                        message_id = b"%b.%d%b" % (epoch, head, tail)
                        copies = (StoredMessage(head, message_id, body, now), [])
                        places[head] = copies
                    true_ids = copies[1]
                true_ids.append(player.true_id)
            oldest = entries[0]
            if (
                head - first >= most
                or player.bytes > most_bytes
                or oldest is None
                or oldest.ts < retained
            ):
                self.trim(player, now)
                first = player.first
                if first > head:
                    self.moved.append(player)
            player.stale = player.recent = True
            if not player.logged:
                player.logged = True
                self.fresh.append(player)
            ids.append(player.id)
            heads.append(head)
            firsts.append(first)
            sizes.append(player.bytes)
        return own, list(places.values()), _pack(ids + heads + firsts + sizes)

    def trim(self, player: Player, now: float) -> bool:
        """Keep a mailbox within its limits: see Mailbox.trim. Return whether anything went."""
        first = player.first
        expired = trimmed = rows = 0
        if self._retention:
            retained = now - self._retention
            while player.first <= player.head:
                oldest = self.oldest(player, 0)
                if oldest.ts >= retained:
                    break
                rows += self._drop_oldest(player, oldest)
                expired += 1
        while player.first <= player.head and (
            player.head - player.first >= self._most or player.bytes > self._most_bytes
        ):
            rows += self._drop_oldest(player, self.oldest(player, 0))
            trimmed += 1
        if player.first == first:
            return False
        if rows:
            self.rows.append((player, first, player.first - 1))
        # The oldest went first; of what went, the newest ones may be unread.
        unread = player.first - 1 - player.confirmed
        self.trimmed += max(0, min(trimmed, unread))
        if (count := min(expired, unread - trimmed)) > 0:
            self.expired.append((player, count, now))
        return True

    def oldest(self, player: Player, index: int) -> Entry:
        """Return the index-th oldest message of a mailbox; it is there."""
        entries = player.entries
        entry = entries[index] if index < len(entries) else None
        if entry is None:
            self._load(player, index)
            entry = entries[index]
            if entry is None:
                raise LookupError(f"{player.true_id!r} has no message {player.first + index}")
        return entry

    def _drop_oldest(self, player: Player, entry: Entry) -> int:
        """Drop the oldest message; return 1 if it had a row of its own."""
        player.entries.popleft()
        player.first += 1
        player.bytes -= entry.size
        self.bytes -= entry.size
        self.count -= 1
        if not entry.seq:
            return 1
        self.release(player, entry)
        return 0

    def release(self, player: Player, entry: Entry) -> None:
        """One mailbox has a message of the log no longer, or has it as a row of its own."""
        player.copies -= 1
        self.copies -= 1
        entry.copies -= 1
        self._look(entry)

    def _look(self, entry: Entry) -> None:
        """Note what is to be done about a message of the log that has fewer copies than before."""
        if not entry.copies:
            del self.log[entry.seq]
            self.sparse.pop(entry.seq, None)
            self.lost.append(entry.seq)
        elif entry.listed > _SHORT and entry.copies * _SPARSE <= entry.listed:
            self.sparse[entry.seq] = entry

    def shorten(self, entry: Entry, members: bytes, players: dict[int, Player]) -> bytes:
        """Return a list of members with only those who still have the message."""
        kept: tuple[list[int], ...] = ([], [], [], [])
        for numbers in zip(*unpack(members), strict=True):
            player = players.get(numbers[0])
            if player is not None and player.entry_at(numbers[1]) is entry:
                for numbers_, number in zip(kept, numbers, strict=True):
                    numbers_.append(number)
        entry.listed = len(kept[0])
        return _pack(kept[0] + kept[1] + kept[2] + kept[3])

    def fold(self, player: Player) -> list[tuple[int, int, int]]:
        """Give copies rows of their own; return those: player, offset, row of the log."""
        found = player.logged_between(player.first, player.head + 1)
        first, entries = player.first, player.entries
        for offset, _ in found:
            entry = entries[offset - first]
            if entry is not None:
                entries[offset - first] = None
                self.release(player, entry)
        player.folded = player.head
        return [(player.id, offset, seq) for offset, seq in found]

    def overtake(self, player: Player, state: State) -> None:
        """Take what the log says of a mailbox, if it is newer than its row."""
        head, first, bytes_ = state
        if head + first > player.head + player.first:
            self.bytes += bytes_ - player.bytes
            self.count += (head - first) - (player.head - player.first)
            player.head, player.first, player.bytes = head, first, bytes_
            player.stale = True

    def restore(self, entry: Entry, members: bytes, players: dict[int, Player]) -> None:
        """Take copies from the log, but for those that are gone or folded; the oldest row first."""
        ids, heads, _, _ = unpack(members)
        self.log[entry.seq] = entry
        for number, offset in zip(ids, heads, strict=True):
            player = players.get(number)
            if player is None or offset < player.first or offset <= player.folded:
                continue
            missing = offset - player.first - len(player.entries)
            if missing > 0:
                player.entries.extend([None] * missing)
            player.entries.append(entry)
            player.copies += 1
            self.copies += 1
            entry.copies += 1
        entry.listed = len(ids)
        self._look(entry)

    def needed(
        self, players: dict[str, Player], appends: dict[str, int]
    ) -> list[tuple[int, int, int]]:
        """Return the oldest messages that so many more may trim, if they were not looked at.

        Each is a player, the first offset and how many.
        """
        wanted = []
        for true_id, count in appends.items():
            player = players.get(true_id)
            if player is None:
                continue
            known = len(player.entries)
            start = player.first + known
            if start > player.head:
                continue
            needed = max(1, player.head - player.first + 1 + count - self._most)
            if player.bytes + count * _USUAL > self._most_bytes:
                needed = max(needed, count)
            if known < needed:
                wanted.append((player.id, start, needed))
        return wanted

    def unknown(self, players: list[Player]) -> list[tuple[int, int]]:
        """Return the oldest messages that were not looked at yet: player and offset."""
        return [
            (player.id, player.first)
            for player in players
            if player.first <= player.head and (not player.entries or player.entries[0] is None)
        ]

    def drop_through(self, player: Player, through: int, size: int) -> None:
        """Drop messages up to an offset; `size` is that of those with rows of their own."""
        count = through - player.first + 1
        entries = player.entries
        for _ in range(min(len(entries), count)):
            entry = entries.popleft()
            if entry is not None and entry.seq:
                size += entry.size
                self.release(player, entry)
        self.rows.append((player, player.first, through))
        player.first = through + 1
        player.bytes -= size
        self.bytes -= size
        self.count -= count

    def excess(self, player: Player, size: int) -> int:
        """Return the bytes that go if a message of `size` bytes is appended: Mailbox.excess."""
        count = player.head - player.first + 1
        freed = 0
        for index in range(count):
            if count - index <= self._most - 1 and player.bytes - freed <= self._most_bytes - size:
                break
            freed += self.oldest(player, index).size
        return freed


def _pack(numbers: list[int]) -> bytes:
    """Return numbers as little-endian bytes, narrow ones if they fit, behind their type."""
    try:
        kind = "I"
        packed = array(kind, numbers)
    except OverflowError:
        kind = "q"
        packed = array(kind, numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return kind.encode() + packed.tobytes()


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
    """Note what a list of members says of mailboxes of which no newer one has said anything."""
    ids, heads, firsts, sizes = unpack(members)
    for index, number in enumerate(ids):
        if number not in states:
            states[number] = (heads[index], firsts[index], sizes[index])
