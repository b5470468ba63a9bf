"""Idempotency keys in the sqlite store, as the writer decides by them."""

from __future__ import annotations

from typing import Final

from gateway.errors import GatewayError
from gateway.store import KeysFull, KeyTaken, StoreLimits
from gateway.stores.sqlite_player import Player
from gateway.stores.sqlite_players import Players, encode
from gateway.stores.sqlite_schema import escape, unescape

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

#: Old keys of a sender that one message takes away.
_OLD_KEYS_CHUNK: Final = 256

#: A key that is remembered: its time, target (escaped), offset (0: none) and nonce.
Key = tuple[float, str, int, int]


class Keys:
    """What senders' messages were remembered by. A ledger has it."""

    def __init__(self, players: Players, limits: StoreLimits, epoch: bytes) -> None:
        self._players = players
        self._limits = limits
        self._epoch = epoch
        self.count = players.keys
        self._keys: dict[tuple[int, str], Key | None] = {}

    def prefetch(self, wanted: dict[tuple[int, str], int]) -> None:
        """Read keys at once, given with how many their senders have."""
        self._keys = dict.fromkeys(wanted)
        # A sender without any keys has not this one either.
        self._load([key for key, others in wanted.items() if others])

    def _load(self, wanted: list[tuple[int, str]]) -> None:
        if wanted:
            text = encode([(sender, escape(key)) for sender, key in wanted]).decode()
            for sender, key, *entry in self._players.select(_KEYS, text):
                ts, target, offset, nonce = entry
                self._keys[sender, unescape(key)] = (ts, target, offset, nonce)

    def remember(self, sender: Player, key: str, entry: Key) -> None:
        """Keep the key of a message that was just stored."""
        text = escape(key)
        self.count += 1
        self._players.pending.new_keys[sender.id, text] = (sender.id, text, *entry)
        self._keys[sender.id, key] = entry
        sender.keys += 1
        self._players.dirty[sender.id] = sender

    def look_up(self, sender: Player, key: str) -> None:
        """Read one key, if nothing of this transaction is known of it."""
        if (sender.id, key) not in self._keys:
            self._keys[sender.id, key] = None
            if sender.keys:
                self._load([(sender.id, key)])

    def known(
        self, sender: Player, key: str, target: str, now: float
    ) -> bytes | GatewayError | None:
        """Return the id under a key, or why it may not be used; None if the key is new.

        `target` is as the file has it. The id is empty for a message that the sender has no
        copy of.
        """
        limits = self._limits
        entry = self._keys.get((sender.id, key))
        if entry is not None:
            ts, sent_to, offset, nonce = entry
            if ts >= now - limits.dedupe_window:
                if sent_to != target:
                    return KeyTaken("the key has another target")
                return b"%b.%d.%x" % (self._epoch, offset, nonce) if offset else b""
            self._players.flush()
            self._lose([(sender.id, escape(key))])
        if limits.dedupe_keys and sender.keys >= limits.dedupe_keys:
            self.expire_of(sender, now)
            if sender.keys >= limits.dedupe_keys:
                oldest = self._oldest(sender)
                return KeysFull(
                    f"the sender has {limits.dedupe_keys} keys already",
                    oldest + limits.dedupe_window - now,
                )
        return None

    def _oldest(self, sender: Player) -> float:
        if sender.oldest_key is None:
            self._players.flush()
            sender.oldest_key = self._players.select(_OLDEST_KEY, sender.id)[0]
        return sender.oldest_key or 0.0

    def expire_of(self, sender: Player, now: float) -> bool:
        """Forget some of a sender's oldest keys if too old; return whether there may be more."""
        oldest = now - self._limits.dedupe_window
        if not sender.keys or self._oldest(sender) >= oldest:
            return False
        self._players.flush()
        gone = self._players.select(_OLD_KEYS_OF, sender.id, oldest, _OLD_KEYS_CHUNK)
        self._lose(gone)
        return len(gone) == _OLD_KEYS_CHUNK

    def expire(self, now: float, limit: int) -> bool:
        """Forget keys that have outlived the window; return whether there may be more."""
        self._players.flush()
        gone = self._players.select(_OLD_KEYS, now - self._limits.dedupe_window, limit)
        self._lose(gone)
        return len(gone) == limit

    def _lose(self, gone: list[tuple[int, str]]) -> None:
        self._players.by_ids({number for number, _ in gone})
        for number, text in gone:
            sender = self._players.by_id(number)
            sender.keys -= 1
            sender.oldest_key = None
            self._players.dirty[number] = sender
            self._keys[number, unescape(text)] = None
        self._players.pending.lost_keys.extend(gone)
        self.count -= len(gone)
