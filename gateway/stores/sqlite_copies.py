"""Mailboxes as the sqlite store's writer has them in memory; compiled, for it takes every message.

A row of its own for each message in a mailbox would make each dirty a page of an index. So
messages are rows of a log: a message to a room is one, its body once and a list of the members
with what became of their mailboxes; messages to one player each are bundled, as many as a page
has room for. Where a mailbox has a message is only in memory, as a reference to that row.

- What the list says of a mailbox (head, first, bytes) counts until something else changes it
  and writes the player's row. Head and first only grow, so the larger ones are the newer.
- A row of the log goes in the transaction that drops its last copy. What its list said of a
  mailbox has been said again by then: a copy is dropped by a change of its mailbox.
- At start the log is read from its beginning, and copies that are gone are passed over.
- A list most of whose members have lost their copies is written again, shorter, and what is
  left of a bundle gets rows of its own: no player who is away for long keeps the lists of large
  rooms, or others' messages.
- Only so many players may have copies in memory, and only so many copies. Of the others, who
  got none for longest, they are folded: they become rows of their own, up to an offset that the
  player's row keeps.
- Before that comes to pass new messages to one player get rows of their own at once, which costs
  less than later. The oldest bundles make room by and by: who writes most should be in the log.
"""

from __future__ import annotations

import math
import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from gateway.mailbox import OVERHEAD, Retention, RoomDraft, StoredMessage
from gateway.messages import TrueId
from gateway.store import Copies
from gateway.stores.sqlite_log import (
    Bundle,
    Entry,
    Folded,
    NewRow,
    ReadRow,
    Row,
    State,
    entries_of,
    is_bundle,
    logged,
    pack,
    states_of,
)
from gateway.stores.sqlite_player import MAX_AHEAD, Player

#: What a message is taken for before its size is looked at, in bytes.
_USUAL: Final = 1024
#: A list is too long when it has so many times the members who still have copies,
_SPARSE: Final = 4
#: but a shorter one than this, of a message to a room, never is.
_SHORT: Final = 64
#: What a message of a bundle counts for, and a row of the log, in references of 8 bytes: they take
#: about half of it, and more of the time to start than references do.
_MESSAGE: Final = 24
_ROW: Final = 64


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
        #: The log's rows with copies, oldest first: messages to rooms, and bundles.
        self.rooms: OrderedDict[int, Row] = OrderedDict()
        self.bundles: OrderedDict[int, Row] = OrderedDict()
        #: Those to write, and those to delete.
        self.added: list[NewRow] = []
        self.lost: list[int] = []
        #: Those whose list of members is too long.
        self.sparse: dict[int, Row] = {}
        #: Of all mailboxes: messages to rooms, messages in bundles, and Nones in the place of those
        #: with rows of their own.
        self.copies = 0
        self.bundled = 0
        self.padding = 0
        #: Whether messages to one player do without the log, and how many have.
        self.crowded = False
        self.crowded_out = 0
        self._bundle: Bundle | None = None
        self._next_seq = 1
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
                self._pad(player, 1)
        player.head += 1
        player.bytes += size
        self.bytes += size
        self.count += 1

    def _take(self, player: Player, entry: Entry, retained: float) -> None:
        """Put a message of the log into a mailbox, and trim that."""
        head = player.head + 1
        entries = player.entries
        missing = head - player.first - len(entries)
        if missing > 0:
            self._pad(player, missing)
        entries.append(entry)
        player.head = head
        player.bytes += entry.size
        player.copies += 1
        oldest = entries[0]
        if (
            head - player.first >= self._most
            or player.bytes > self._most_bytes
            or oldest is None
            or oldest.ts < retained
        ):
            self.trim(player, entry.ts)
            if player.first > head:
                self.moved.append(player)
        player.stale = player.recent = True
        if not player.logged:
            player.logged = True
            self.fresh.append(player)

    def _pad(self, player: Player, count: int) -> None:
        """Keep places of messages with rows of their own, as long as others are in the log."""
        player.entries.extend([None] * count)
        player.padding += count
        self.padding += count

    def _unpad(self, player: Player, count: int) -> None:
        """So many of the oldest messages have gone, or all that is known of them."""
        count = min(count, player.padding)
        player.padding -= count
        self.padding -= count

    def forget(self, player: Player) -> None:
        """Forget what is known of more messages than may be needed soon: none is in the log."""
        self._unpad(player, player.padding)
        player.shorten()

    def _retained(self, now: float) -> float:
        return now - self._retention if self._retention else -math.inf

    def _new_row(self, now: float, bundle: bool) -> Row:
        row = Row(self._next_seq, now, bundle)
        self._next_seq += 1
        self._rows_like(row)[row.seq] = row
        return row

    def _rows_like(self, row: Row) -> OrderedDict[int, Row]:
        return self.bundles if row.bundle else self.rooms

    @property
    def references(self) -> int:
        """What the log takes in memory, as references of 8 bytes."""
        rows = len(self.rooms) + len(self.bundles)
        return self.copies + self.padding + _MESSAGE * self.bundled + _ROW * rows

    def oldest_row(self) -> Row | None:
        """Return the log's oldest row, None if it has none."""
        firsts = [next(iter(rows.values())) for rows in (self.rooms, self.bundles) if rows]
        return min(firsts, key=_seq) if firsts else None

    def oldest_bundles(self, messages: int) -> list[Row]:
        """Return the oldest bundles, which have so many messages at most."""
        found = []
        for row in self.bundles.values():
            messages -= row.copies
            if messages < 0:
                break
            found.append(row)
        return found

    def bundle(self, player: Player, body: bytes, nonce: int, now: float) -> None:
        """Put a message to one mailbox into it, and into the log."""
        bundle = self._bundle
        if bundle is not None and not bundle.has_room(body):
            self.close()
            bundle = None
        if bundle is None:
            bundle = Bundle(self._new_row(now, bundle=True))
            # So that it is not taken for one without copies before it is closed.
            bundle.row.copies = 1
        # Trimming may read the file, for which all that is closed is written.
        self._bundle = None
        row = bundle.row
        row.ts = now
        row.copies += 1
        row.listed += 1
        size = len(body) + OVERHEAD
        self.bundled += 1
        self.bytes += size
        self.count += 1
        self._take(player, Entry(size, now, row, nonce, bundle.length + 1), self._retained(now))
        bundle.add(body, nonce, now, (player.id, player.head, player.first, player.bytes))
        self._bundle = bundle

    def close(self) -> None:
        """Let the next message begin another bundle."""
        bundle, self._bundle = self._bundle, None
        if bundle is not None:
            self.added.append(bundle.packed())
            bundle.row.copies -= 1
            self._look(bundle.row)

    def publish(
        self,
        draft: RoomDraft,
        nonce: int,
        now: float,
        players: list[Player],
        sender: Player | None,
        epoch: bytes,
    ) -> tuple[Copies | None, list[Copies]]:
        """Put a message of the log into these mailboxes, and trim them.

        Where mailboxes stand at one offset it is one object; the sender's is always its own.
        Returns what the sender got, and what the other members did.
        """
        # What a later row says of a mailbox is newer, and has to be.
        self.close()
        body = draft.body
        row = self._new_row(now, bundle=False)
        entry = Entry(len(body) + OVERHEAD, now, row, nonce)
        tail = b".%x" % nonce
        retained = self._retained(now)
        places: dict[int, Copies] = {}
        own: Copies | None = None
        ids: list[int] = []
        heads: list[int] = []
        firsts: list[int] = []
        sizes: list[int] = []
        last_head = 0
        true_ids: list[TrueId] = []
        row.copies = row.listed = len(players)
        self.copies += len(players)
        self.bytes += entry.size * len(players)
        self.count += len(players)
        for player in players:
            self._take(player, entry, retained)
            head = player.head
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
            ids.append(player.id)
            heads.append(head)
            firsts.append(player.first)
            sizes.append(player.bytes)
        members = pack(ids + heads + firsts + sizes)
        self.added.append((row.seq, nonce, now, body, members))
        return own, list(places.values())

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
        if entry.row is None:
            self._unpad(player, 1)
            return 1
        self.release(player, entry.row)
        return 0

    def release(self, player: Player, row: Row) -> None:
        """One mailbox has a message of the log no longer, or has it as a row of its own."""
        player.copies -= 1
        if row.bundle:
            self.bundled -= 1
        else:
            self.copies -= 1
        row.copies -= 1
        self._look(row)

    def _look(self, row: Row) -> None:
        """Note what is to be done about a row of the log that has fewer copies than before."""
        if not row.copies:
            del self._rows_like(row)[row.seq]
            self.sparse.pop(row.seq, None)
            self.lost.append(row.seq)
        elif row.copies * _SPARSE <= row.listed and (row.bundle or row.listed > _SHORT):
            self.sparse[row.seq] = row

    def shorten(self, row: Row, members: bytes, players: dict[int, Player]) -> bytes:
        """Return a list of members with only those who still have the message."""
        kept = []
        for state in states_of(members):
            player = players.get(state[0])
            if player is not None and player.entry_in(row, state[1]) is not None:
                kept.append(state)
        row.listed = len(kept)
        return pack([number for column in zip(*kept, strict=True) for number in column])

    def scatter(self, row: Row, members: bytes, players: dict[int, Player]) -> list[Folded]:
        """Give what is left of a bundle rows of its own; return those."""
        found: list[Folded] = []
        for number, offset, _, _ in states_of(members):
            player = players.get(number)
            entry = player.entry_in(row, offset) if player is not None else None
            if player is not None and entry is not None:
                found.append((number, *logged(offset, entry, row)))
                player.entries[offset - player.first] = None
                player.padding += 1
                self.padding += 1
                self.release(player, row)
                # The list that is lost may have been the last to say how the mailbox stands.
                self.moved.append(player)
        return found

    def fold(self, player: Player) -> list[Folded]:
        """Give all that a mailbox has in the log rows of its own; return those."""
        found: list[Folded] = []
        entries: deque[Entry | None] = deque()
        for offset, entry in enumerate(player.entries, player.first):
            row = entry.row if entry is not None else None
            if entry is not None and row is not None:
                found.append((player.id, *logged(offset, entry, row)))
                self.release(player, row)
                entries.append(None)
            else:
                entries.append(entry)
        player.entries = entries
        player.folded = player.head
        return found

    def overtake(self, player: Player, state: State) -> None:
        """Take what the log says of a mailbox, if it is newer than its row."""
        _, head, first, bytes_ = state
        if head + first > player.head + player.first:
            self.bytes += bytes_ - player.bytes
            self.count += (head - first) - (player.head - player.first)
            player.head, player.first, player.bytes = head, first, bytes_
            player.stale = True

    def restore(self, read: ReadRow, players: dict[int, Player]) -> None:
        """Take a row of the log, but for copies that are gone or folded; the oldest row first."""
        seq, nonce, ts, size, members = read
        self._next_seq = seq + 1
        row = Row(seq, ts, is_bundle(members))
        self._rows_like(row)[seq] = row
        states = states_of(members)
        if row.bundle:
            entries = entries_of(members, row)
        else:
            entries = [Entry(size + OVERHEAD, ts, row, nonce)] * len(states)
        for (number, offset, _, _), entry in zip(states, entries, strict=True):
            player = players.get(number)
            if player is None or offset < player.first or offset <= player.folded:
                continue
            missing = offset - player.first - len(player.entries)
            if missing > 0:
                self._pad(player, missing)
            player.entries.append(entry)
            player.copies += 1
            row.copies += 1
        if row.bundle:
            self.bundled += row.copies
        else:
            self.copies += row.copies
        row.listed = len(states)
        self._look(row)

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
            entries = player.entries
            # Those behind which others are in the log are looked at again.
            known = len(entries) if entries and entries[0] is not None else 0
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
            if entry is not None and entry.row is not None:
                size += entry.size
                self.release(player, entry.row)
            else:
                self._unpad(player, 1)
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


def _seq(row: Row) -> int:
    return row.seq
