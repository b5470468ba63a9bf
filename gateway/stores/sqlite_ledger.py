"""The writer's decisions about messages: what the memory store decides, over a file.

A ledger belongs to one connection. After a failure it is dropped with it: what it knows may
be more than the file has.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Final

from gateway.errors import GatewayError
from gateway.mailbox import OVERHEAD, Draft, Hole, RoomDraft, StoredMessage
from gateway.messages import TrueId
from gateway.outbox import message_expired
from gateway.store import (
    Accepted,
    Copies,
    KeysFull,
    KeyTaken,
    MailboxFull,
    Published,
    StoreLimits,
    UnknownTarget,
)
from gateway.stores.memory_player import KEY_BYTES
from gateway.stores.sqlite_outbox import SqliteOutbox
from gateway.stores.sqlite_players import Player, Players, encode
from gateway.stores.sqlite_schema import escape, room_target, unescape

_KEYS: Final = """SELECT json_group_array(json_array(k.sender, k.key, k.ts, k.target, k.offset,
        k.nonce))
    FROM json_each(?) AS e CROSS JOIN keys AS k
    ON k.sender = (e.value ->> 0) AND k.key = (e.value ->> 1)"""
_OLDEST_KEY: Final = "SELECT json_array((SELECT ts FROM keys WHERE sender = ? ORDER BY ts LIMIT 1))"
_OLD_KEYS_OF: Final = (
    "SELECT json_group_array(json_array(sender, key)) FROM "
    "(SELECT sender, key FROM keys WHERE sender = ? AND ts < ? ORDER BY ts LIMIT ?)"
)
_OLD_KEYS: Final = """SELECT json_group_array(json_array(sender, key))
    FROM (SELECT sender, key FROM keys WHERE ts < ? ORDER BY ts LIMIT ?)"""
_OLD_MESSAGES: Final = f"""SELECT json_group_array(json_array(mailbox, offset, size, ts))
    FROM (SELECT mailbox, offset, length(body) + {OVERHEAD} AS size, ts
        FROM messages ORDER BY seq LIMIT ?)"""  # noqa: S608
_SIZE_THROUGH: Final = f"""SELECT json_array(coalesce(sum(length(body) + {OVERHEAD}), 0))
    FROM messages WHERE mailbox = ? AND offset <= ?"""  # noqa: S608
_FLOOR: Final = "SELECT json_array(min(confirmed)) FROM sessions WHERE player = ?"
_RECLAIMABLE: Final = """SELECT json_group_array(id) FROM
    (SELECT id FROM players WHERE reclaim IS NOT NULL ORDER BY reclaim LIMIT 1)"""
_MAX_RECLAIM: Final = "SELECT json_array(coalesce(max(reclaim), 0)) FROM players"

#: Old keys of a sender that one message takes away.
_OLD_KEYS_CHUNK: Final = 256

#: A key that is remembered: its time, target (escaped), offset (0: none) and nonce.
_Key = tuple[float, str, int, int]


class Ledger:
    """Mailboxes and idempotency keys; `dropped` collects what on_dropped is told later."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        limits: StoreLimits,
        epoch: str,
        nonces: Iterator[int],
    ) -> None:
        self.players = Players(connection)
        self.limits = limits
        self.outbox = SqliteOutbox(connection, limits.outbox, nonces, self.players.begin)
        self._epoch = epoch.encode()
        self._nonces = nonces
        mailboxes, keys, self.message_count = self.players.totals()
        self.bytes = mailboxes + keys * KEY_BYTES
        self.dropped: list[tuple[str, int]] = []
        self._keys: dict[tuple[int, str], _Key | None] = {}
        self._reclaims: int = self.players.select(_MAX_RECLAIM)[0]
        self._may_reclaim = True

    def prefetch(
        self,
        appends: Iterable[tuple[Draft, float, object]],
        others: Iterable[str],
        members: Iterable[str],
    ) -> None:
        """Read at once what these messages, those to members, and a look at others will need."""
        targets: dict[str, int] = {}
        for true_id in members:
            targets[true_id] = targets.get(true_id, 0) + 1
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
        self.players.prefetch(true_ids, targets, self.limits.mailbox)
        wanted = {}
        for draft in keyed:
            sender = self.players.get(draft.key_owner or draft.sender or "")
            # A sender without any keys has not this one either.
            if sender is not None and draft.key is not None:
                wanted[sender.id, draft.key] = sender.keys
        self._keys = dict.fromkeys(wanted)
        self._load_keys([key for key, others_ in wanted.items() if others_])

    def _load_keys(self, wanted: list[tuple[int, str]]) -> None:
        if wanted:
            text = encode([(sender, escape(key)) for sender, key in wanted]).decode()
            for sender, key, *entry in self.players.select(_KEYS, text):
                ts, target, offset, nonce = entry
                self._keys[sender, unescape(key)] = (ts, target, offset, nonce)

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
                known = self._known_key(sender, key, escape(draft.target_id), now)
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
            and self.bytes + needed > limits.total_bytes
            and not self._reclaim([target], sender, size, needed, now)
        ):
            return MailboxFull("mailbox.total_bytes")
        pending = players.pending
        head = target.head + 1
        nonce = next(self._nonces)
        pending.add_message(target.id, head, nonce, now, pending.add_body(body))
        # Sizes are at hand from the oldest on: the newest joins when there is no gap.
        if len(target.oldest) == head - target.first:
            target.oldest.append((size, now))
        target.head = head
        target.bytes += size
        self.bytes += needed
        self.message_count += 1
        players.moved[target.id] = target
        self._trim(target, now)
        if key is not None and owner is not None:
            entry = (now, escape(draft.target_id), head, nonce)
            self._remember(sender or players.get_or_add(owner), key, entry)
        message_id = b"%b.%d.%x" % (self._epoch, head, nonce)
        return Accepted(message_id, StoredMessage(head, message_id, body, now))

    def publish(
        self, draft: RoomDraft, members: Iterable[TrueId], now: float
    ) -> Published | GatewayError:
        """Decide on a message to these members of a room: see MailboxStore.publish."""
        players, limits = self.players, self.limits
        key = draft.key
        sender = None
        owner = draft.key_owner or draft.sender
        if key is not None and owner is not None and limits.dedupe_window > 0:
            sender = players.get_or_add(owner)
            self._look_up(sender, key)
            known = self._known_key(sender, key, room_target(draft.room), now)
            if known is not None:
                if isinstance(known, GatewayError):
                    return known
                return Published(known or None, duplicate=True)
        targets = [(true_id, players.get_or_add(true_id)) for true_id in members]
        size = len(draft.body) + OVERHEAD
        limit = ""
        full: list[tuple[TrueId, Player]] = []
        if limits.refuse_when_full:
            room = []
            for target in targets:
                if (reached := self._full(target[1], size, now)) is not None:
                    full.append(target)
                    limit = reached
                else:
                    room.append(target)
            targets = room
        needed = size * len(targets) + (KEY_BYTES if sender is not None else 0)
        if (
            limits.total_bytes
            and self.bytes + needed > limits.total_bytes
            and not self._reclaim([each for _, each in targets], sender, size, needed, now)
        ):
            return MailboxFull("mailbox.total_bytes")
        for _, player in full:
            player.hole = Hole.deeper(player.hole, player.head, self._floor(player))
            players.dirty[player.id] = player
        if full:
            self.dropped.append(("refused", len(full)))
        nonce = next(self._nonces)
        copies, own = self._copies(draft, targets, nonce, now)
        self.bytes += needed
        self.message_count += len(targets)
        if sender is not None and key is not None:
            offset = own.offset if own is not None else 0
            self._remember(sender, key, (now, room_target(draft.room), offset, nonce))
        return Published(
            own.id if own is not None else None, copies, [each for each, _ in full], limit
        )

    def _copies(
        self, draft: RoomDraft, targets: Iterable[tuple[TrueId, Player]], nonce: int, now: float
    ) -> tuple[list[Copies], StoredMessage | None]:
        """Put the message into these mailboxes: see memory_player.put_copies."""
        body = draft.body
        size = len(body) + OVERHEAD
        pending, moved = self.players.pending, self.players.moved
        place = pending.add_body(body)
        tail = b".%x" % nonce
        places: dict[int, Copies] = {}
        own: list[Copies] = []
        for true_id, player in targets:
            head = player.head + 1
            copies = places.get(head)
            skip = draft.skip if true_id == draft.sender else None
            if copies is None or true_id == draft.sender:
                message_id = b"%b.%d%b" % (self._epoch, head, tail)
                copies = (StoredMessage(head, message_id, body, now, skip), [])
                if true_id == draft.sender:
                    own.append(copies)
                else:
                    places[head] = copies
            copies[1].append(true_id)
            passing = escape(skip) if skip is not None else None
            pending.add_message(player.id, head, nonce, now, place, passing)
            if len(player.oldest) == head - player.first:
                player.oldest.append((size, now))
            player.head = head
            player.bytes += size
            moved[player.id] = player
            self._trim(player, now)
            if self.players.pending.position == 1:
                # Trimming has written what was pending, the body with it.
                place = pending.add_body(body)
        return [*own, *places.values()], own[0][0] if own else None

    # Keys

    def _remember(self, sender: Player, key: str, entry: _Key) -> None:
        """Keep the key of a message that was just stored."""
        text = escape(key)
        self.players.pending.new_keys[sender.id, text] = (sender.id, text, *entry)
        self._keys[sender.id, key] = entry
        sender.keys += 1
        self.players.dirty[sender.id] = sender

    def _look_up(self, sender: Player, key: str) -> None:
        """Read one key, if nothing of this transaction is known of it."""
        if (sender.id, key) not in self._keys:
            self._keys[sender.id, key] = None
            if sender.keys:
                self._load_keys([(sender.id, key)])

    def _known_key(
        self, sender: Player, key: str, target: str, now: float
    ) -> bytes | GatewayError | None:
        """Return the id under a key, or why it may not be used; None if the key is new.

        `target` is as the file has it. The id is empty for a message that the sender has no
        copy of.
        """
        limits = self.limits
        entry = self._keys.get((sender.id, key))
        if entry is not None:
            ts, sent_to, offset, nonce = entry
            if ts >= now - limits.dedupe_window:
                if sent_to != target:
                    return KeyTaken("the key has another target")
                return b"%b.%d.%x" % (self._epoch, offset, nonce) if offset else b""
            self.players.flush()
            self._lose_keys([(sender.id, escape(key))])
        if limits.dedupe_keys and sender.keys >= limits.dedupe_keys:
            self._expire_keys_of(sender, now)
            if sender.keys >= limits.dedupe_keys:
                oldest = self._oldest_key(sender)
                return KeysFull(
                    f"the sender has {limits.dedupe_keys} keys already",
                    oldest + limits.dedupe_window - now,
                )
        return None

    def _oldest_key(self, sender: Player) -> float:
        if sender.oldest_key is None:
            self.players.flush()
            sender.oldest_key = self.players.select(_OLDEST_KEY, sender.id)[0]
        return sender.oldest_key or 0.0

    def _expire_keys_of(self, sender: Player, now: float) -> bool:
        """Forget some of a sender's oldest keys if too old; return whether there may be more."""
        oldest = now - self.limits.dedupe_window
        if not sender.keys or self._oldest_key(sender) >= oldest:
            return False
        self.players.flush()
        gone = self.players.select(_OLD_KEYS_OF, sender.id, oldest, _OLD_KEYS_CHUNK)
        self._lose_keys(gone)
        return len(gone) == _OLD_KEYS_CHUNK

    def expire_keys(self, now: float, limit: int) -> bool:
        """Forget keys that have outlived the window; return whether there may be more."""
        self.players.flush()
        gone = self.players.select(_OLD_KEYS, now - self.limits.dedupe_window, limit)
        self._lose_keys(gone)
        return len(gone) == limit

    def _lose_keys(self, gone: list[tuple[int, str]]) -> None:
        self.players.by_ids({number for number, _ in gone})
        for number, text in gone:
            sender = self.players.by_id(number)
            sender.keys -= 1
            sender.oldest_key = None
            self.players.dirty[number] = sender
            self._keys[number, unescape(text)] = None
        self.players.pending.lost_keys.extend(gone)
        self.bytes -= len(gone) * KEY_BYTES

    # Room

    def _trim(self, player: Player, now: float) -> None:
        """Keep a mailbox within its limits: see Mailbox.trim."""
        limits = self.limits.mailbox
        expired = trimmed = 0
        if limits.retention:
            oldest = now - limits.retention
            while player.first <= player.head and self.players.oldest(player, 0)[1] < oldest:
                self._drop_oldest(player)
                expired += 1
        most, bytes_ = limits.max_messages, limits.max_bytes
        while player.first <= player.head and (
            (most and player.head - player.first >= most) or (bytes_ and player.bytes > bytes_)
        ):
            self.players.oldest(player, 0)
            self._drop_oldest(player)
            trimmed += 1
        if expired or trimmed:
            self._dropped(player, expired, trimmed, now)

    def _drop_oldest(self, player: Player) -> None:
        size, _ = player.oldest.popleft()
        player.first += 1
        player.bytes -= size
        self.bytes -= size
        self.message_count -= 1

    def _dropped(self, player: Player, expired: int, trimmed: int, now: float) -> None:
        """Delete what has just gone from a mailbox' beginning, and count what was unread."""
        self.players.moved[player.id] = player
        self.players.pending.trim(player.id, player.first - expired - trimmed, player.first - 1)
        # The oldest went first; of what went, the newest ones may be unread.
        unread = player.first - 1 - player.confirmed
        if (count := min(trimmed, unread)) > 0:
            self.dropped.append(("trimmed", count))
        if (count := min(expired, unread - trimmed)) > 0:
            self.dropped.append(("expired", count))
            self.outbox.add(message_expired(player.true_id, count, now))

    def _excess(self, player: Player, size: int) -> int:
        """Return the bytes that go if a message of `size` bytes is appended: Mailbox.excess."""
        limits = self.limits.mailbox
        count = player.head - player.first + 1
        freed = 0
        for index in range(count):
            if not (limits.max_messages and count - index > limits.max_messages - 1) and not (
                limits.max_bytes and player.bytes - freed > limits.max_bytes - size
            ):
                break
            freed += self.players.oldest(player, index)[0]
        return freed

    def _full(self, player: Player, size: int, now: float) -> str | None:
        """Name the limit that a message would exceed: see MemoryStore._full."""
        limits = self.limits.mailbox
        self._trim(player, now)
        if self._excess(player, size):
            self._drop_read(player)
        if not self._excess(player, size):
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
        self.players.pending.trim(player.id, player.first, through)
        count = through - player.first + 1
        for _ in range(min(len(player.oldest), count)):
            player.oldest.popleft()
        self.message_count -= count
        player.first = through + 1
        player.bytes -= size
        self.bytes -= size
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
        while sender is not None and self._expire_keys_of(sender, now):
            pass
        excess: dict[int, int] = {}
        for target in targets:
            self._trim(target, now)
            excess[target.id] = self._excess(target, size)
        trimmed = sum(excess.values())
        while self.bytes + needed - trimmed > limits.total_bytes:
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
                excess[player.id] = self._excess(player, size)
                trimmed += excess[player.id]
        return True

    def expire_messages(self, now: float, limit: int) -> bool:
        """Drop messages that are too old; return whether there may be more."""
        retention = self.limits.mailbox.retention
        if not retention:
            return False
        self.players.flush()
        rows = self.players.select(_OLD_MESSAGES, limit)
        gone: dict[int, list[int]] = {}
        more = len(rows) == limit
        for mailbox, _, size, ts in rows:
            if ts >= now - retention:
                more = False
                break
            gone.setdefault(mailbox, []).append(size)
        for player in self.players.by_ids(gone):
            sizes = gone[player.id]
            for _ in range(min(len(player.oldest), len(sizes))):
                player.oldest.popleft()
            player.first += len(sizes)
            player.bytes -= sum(sizes)
            self.bytes -= sum(sizes)
            self.message_count -= len(sizes)
            self._dropped(player, len(sizes), 0, now)
        return more
