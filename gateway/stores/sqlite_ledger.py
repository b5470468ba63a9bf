"""The writer's decisions about messages: what the memory store decides, over a file.

A ledger belongs to one connection. After a failure it is dropped with it: what it knows may
be more than the file has.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Final

from gateway.errors import GatewayError
from gateway.mailbox import OVERHEAD, Draft, Hole, RoomDraft, StoredMessage
from gateway.outbox import message_expired
from gateway.store import (
    Accepted,
    Copies,
    MailboxFull,
    Published,
    StoreLimits,
    UnknownTarget,
)
from gateway.stores.memory_player import KEY_BYTES
from gateway.stores.sqlite_keys import Keys
from gateway.stores.sqlite_outbox import SqliteOutbox
from gateway.stores.sqlite_player import Player, part
from gateway.stores.sqlite_players import Players
from gateway.stores.sqlite_schema import escape, room_target

_OLD_MESSAGES: Final = """SELECT json_group_array(json_array(mailbox, ts))
    FROM (SELECT mailbox, ts FROM messages ORDER BY seq LIMIT ?)"""
_OLD_FOLDED: Final = """SELECT json_group_array(mailbox) FROM
    (SELECT mailbox FROM messages WHERE folded IS NOT NULL AND ts < ? ORDER BY ts LIMIT ?)"""
_SIZE_THROUGH: Final = f"""SELECT json_array(coalesce(sum(length(body) + {OVERHEAD}), 0))
    FROM messages WHERE mailbox = ? AND offset <= ?"""  # noqa: S608
_FLOOR: Final = "SELECT json_array(min(confirmed)) FROM sessions WHERE player = ?"
_RECLAIMABLE: Final = """SELECT json_group_array(id) FROM
    (SELECT id FROM players WHERE reclaim IS NOT NULL ORDER BY reclaim LIMIT 1)"""
_MAX_RECLAIM: Final = "SELECT json_array(coalesce(max(reclaim), 0)) FROM players"


class Ledger:
    """Mailboxes and idempotency keys; `dropped` collects what on_dropped is told later."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        limits: StoreLimits,
        epoch: str,
        nonces: Iterator[int],
    ) -> None:
        self.players = Players(connection, limits.mailbox)
        self.limits = limits
        self.outbox = SqliteOutbox(connection, limits.outbox, nonces, self.players.begin)
        self._epoch = epoch.encode()
        self._nonces = nonces
        self._mailboxes = self.players.mailboxes
        self.keys = Keys(self.players, limits, self._epoch)
        self.dropped: list[tuple[str, int]] = []
        self._reclaims: int = self.players.select(_MAX_RECLAIM)[0]
        self._may_reclaim = True

    @property
    def total_bytes(self) -> int:
        """What mailboxes and keys count."""
        return self._mailboxes.bytes + self.keys.count * KEY_BYTES

    @property
    def message_count(self) -> int:
        """Messages in all mailboxes."""
        return self._mailboxes.count

    def prefetch(
        self, appends: Iterable[tuple[Draft, float, object]], others: Iterable[str]
    ) -> None:
        """Read at once what these messages, and a look at others, will need."""
        targets: dict[str, int] = {}
        true_ids: set[str] = set(others)
        keyed = []
        remember = self.limits.dedupe_window > 0
        for draft, _, _ in appends:
            target_id = draft.target_id
            targets[target_id] = targets.get(target_id, 0) + 1
            owner = draft.key_owner or draft.sender
            if remember and draft.key is not None and owner is not None:
                true_ids.add(owner)
                keyed.append(draft)
        true_ids.update(targets)
        self.players.prefetch(true_ids, targets)
        wanted = {}
        for draft in keyed:
            sender = self.players.get(draft.key_owner or draft.sender or "")
            if sender is not None and draft.key is not None:
                wanted[sender.id, draft.key] = sender.keys
        self.keys.prefetch(wanted)

    def append(self, draft: Draft, now: float) -> Accepted | GatewayError:
        """Decide on a message: see MailboxStore.append."""
        players = self.players
        target = players.get(draft.target_id)
        if target is None:
            return UnknownTarget(draft.target_id)
        limits = self.limits
        body = draft.body
        size = needed = len(body) + OVERHEAD
        key = draft.key
        sender = None
        owner = draft.key_owner or draft.sender
        if key is not None and owner is not None and limits.dedupe_window > 0:
            sender = players.get(owner)
            if sender is not None:
                known = self.keys.known(sender, key, escape(draft.target_id), now)
                if known is not None:
                    return known if isinstance(known, GatewayError) else Accepted(known, None)
            needed += KEY_BYTES
        else:
            key = owner = None
        if limits.refuse_when_full:
            limit = self._full(target, size, now)
            if limit is not None:
                return MailboxFull(limit)
        if (
            limits.total_bytes
            and self.total_bytes + needed > limits.total_bytes
            and not self._reclaim([target], sender, size, needed, now)
        ):
            return MailboxFull("mailbox.total_bytes")
        nonce = next(self._nonces)
        mailboxes = self._mailboxes
        if mailboxes.crowded:
            mailboxes.crowded_out += 1
            self._put(target, body, nonce, now)
        else:
            mailboxes.bundle(target, body, nonce, now)
            self._tell()
        head = target.head
        if key is not None and owner is not None:
            entry = (now, escape(draft.target_id), head, nonce)
            self.keys.remember(sender or players.get_or_add(owner), key, entry)
        message_id = b"%b.%d.%x" % (self._epoch, head, nonce)
        return Accepted(message_id, StoredMessage(head, message_id, body, now))

    def _put(
        self, player: Player, body: bytes, nonce: int, now: float, skip: str | None = None
    ) -> None:
        """Append a message with a row of its own; `skip` is the session that passes over it."""
        pending = self.players.pending
        place = pending.add_body(body)
        pending.add_message(player.id, player.head + 1, nonce, now, place, skip)
        self._mailboxes.append(player, len(body) + OVERHEAD, now)
        self.players.moved[player.id] = player
        self._trim(player, now)

    def publish(
        self, draft: RoomDraft, members: list[Player], now: float
    ) -> Published | GatewayError:
        """Decide on a message to these members of a room: see MailboxStore.publish."""
        players, limits = self.players, self.limits
        key = draft.key
        sender = None
        owner = draft.key_owner or draft.sender
        if key is not None and owner is not None and limits.dedupe_window > 0:
            sender = players.get_or_add(owner)
            self.keys.look_up(sender, key)
            known = self.keys.known(sender, key, room_target(draft.room), now)
            if known is not None:
                if isinstance(known, GatewayError):
                    return known
                return Published(known or None, duplicate=True)
        players.prefetch_oldest(members)
        size = len(draft.body) + OVERHEAD
        limit = ""
        targets = members
        full: list[Player] = []
        if limits.refuse_when_full:
            targets = []
            for target in members:
                if (reached := self._full(target, size, now)) is not None:
                    full.append(target)
                    limit = reached
                else:
                    targets.append(target)
        needed = size * len(targets) + (KEY_BYTES if sender is not None else 0)
        if (
            limits.total_bytes
            and self.total_bytes + needed > limits.total_bytes
            and not self._reclaim(targets, sender, size, needed, now)
        ):
            return MailboxFull("mailbox.total_bytes")
        for player in full:
            player.hole = Hole.deeper(player.hole, player.head, self._floor(player))
            players.dirty[player.id] = player
        if full:
            self.dropped.append(("refused", len(full)))
        nonce = next(self._nonces)
        copies, own = self._copies(draft, targets, nonce, now)
        if sender is not None and key is not None:
            offset = own.offset if own is not None else 0
            self.keys.remember(sender, key, (now, room_target(draft.room), offset, nonce))
        return Published(
            own.id if own is not None else None,
            copies,
            [each.true_id for each in full],
            limit,
        )

    def _copies(
        self, draft: RoomDraft, targets: list[Player], nonce: int, now: float
    ) -> tuple[list[Copies], StoredMessage | None]:
        """Put the message into these mailboxes: see memory_player.put_copies."""
        own: Copies | None = None
        if draft.skip is not None and draft.sender is not None:
            # What a session passes over is asked by an index of rows.
            passing, targets = part(targets, draft.sender)
            if passing is not None:
                self._put(passing, draft.body, nonce, now, escape(draft.skip))
                message_id = b"%b.%d.%x" % (self._epoch, passing.head, nonce)
                message = StoredMessage(passing.head, message_id, draft.body, now, draft.skip)
                own = (message, [draft.sender])
        copies: list[Copies] = []
        if targets:
            sender = self.players.peek(draft.sender) if draft.sender is not None else None
            mine, copies = self._mailboxes.publish(draft, nonce, now, targets, sender, self._epoch)
            self._tell()
            own = own or mine
        return (copies, None) if own is None else ([own, *copies], own[0])

    # Room

    def _trim(self, player: Player, now: float) -> bool:
        """Keep a mailbox within its limits, see Mailbox.trim; return whether anything went."""
        if not self._mailboxes.trim(player, now):
            return False
        self.players.moved[player.id] = player
        self._tell()
        return True

    def _tell(self) -> None:
        """Count what has gone unread."""
        mailboxes = self._mailboxes
        if mailboxes.trimmed:
            self.dropped.append(("trimmed", mailboxes.trimmed))
            mailboxes.trimmed = 0
        if mailboxes.expired:
            for player, count, now in mailboxes.expired:
                self.dropped.append(("expired", count))
                self.outbox.add(message_expired(player.true_id, count, now))
            mailboxes.expired.clear()

    def _full(self, player: Player, size: int, now: float) -> str | None:
        """Name the limit that a message would exceed: see MemoryStore._full."""
        limits = self.limits.mailbox
        self._trim(player, now)
        if self._mailboxes.excess(player, size):
            self._drop_read(player)
        if not self._mailboxes.excess(player, size):
            return None
        if limits.max_messages and player.head - player.first + 1 >= limits.max_messages:
            return "mailbox.max_messages"
        return "mailbox.max_bytes"

    def _floor(self, player: Player) -> int:
        """Return what all sessions of the player have confirmed."""
        if player.floor is None:
            self.players.flush()
            found = self.players.select(_FLOOR, player.id)[0] if player.sessions else None
            player.floor = player.confirmed if found is None else found
        return player.floor

    def _drop_read(self, player: Player) -> None:
        """Drop what all sessions of the player have confirmed."""
        through = min(self._floor(player), player.head)
        if through < player.first:
            return
        self.players.flush()
        size = self.players.select(_SIZE_THROUGH, player.id, through)[0]
        self._mailboxes.drop_through(player, through, size)
        self.players.moved[player.id] = player

    def confirmed(self, player: Player, offset: int) -> None:
        """Note that a session has confirmed up to an offset, or is gone."""
        player.confirmed = max(player.confirmed, offset)
        player.floor = None
        if player.head >= player.first and player.reclaim is None:
            self._reclaims += 1
            player.reclaim = self._reclaims
            self._may_reclaim = True
        self.players.dirty[player.id] = player

    def _reclaim(
        self, targets: list[Player], sender: Player | None, size: int, needed: int, now: float
    ) -> bool:
        """Make room for a message in a store that is full: see MemoryStore._reclaim."""
        limits = self.limits
        while sender is not None and self.keys.expire_of(sender, now):
            pass
        excess: dict[int, int] = {}
        for target in targets:
            self._trim(target, now)
            excess[target.id] = self._mailboxes.excess(target, size)
        trimmed = sum(excess.values())
        while self.total_bytes + needed - trimmed > limits.total_bytes:
            if not self._may_reclaim:
                return False
            self.players.flush()
            found = self.players.select(_RECLAIMABLE)
            if not found:
                self._may_reclaim = False
                return False
            player = self.players.by_id(found[0])
            player.reclaim = None
            self.players.dirty[player.id] = player
            self._drop_read(player)
            if player.id in excess:
                trimmed -= excess[player.id]
                excess[player.id] = self._mailboxes.excess(player, size)
                trimmed += excess[player.id]
        return True

    def expire_messages(self, now: float, limit: int) -> bool:
        """Drop messages that are too old; return whether there may be more."""
        retention = self.limits.mailbox.retention
        if not retention:
            return False
        players = self.players
        players.flush()
        oldest = now - retention
        rows = players.select(_OLD_MESSAGES, limit)
        old = [mailbox for mailbox, _ in itertools.takewhile(lambda row: row[1] < oldest, rows)]
        folded = players.select(_OLD_FOLDED, oldest, limit)
        count = self.message_count
        owners = players.by_ids(dict.fromkeys([*old, *folded]))
        players.prefetch_oldest(owners)
        for player in owners:
            self._trim(player, now)
        more = limit in (len(old), len(folded))
        # Of the log it is the oldest row's members, who lose what is old in the next rows too.
        while not more and (row := self._mailboxes.oldest_row()) is not None and row.ts < oldest:
            owners = players.members_of(row.seq)
            players.prefetch_oldest(owners)
            for player in owners:
                self._trim(player, now)
            more = row.copies > 0 or count - self.message_count >= limit
        # A clock that was set back has put old messages behind younger ones: they wait for those.
        return more and self.message_count < count
