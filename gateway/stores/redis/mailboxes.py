"""Mailboxes in Redis: each call is one script in the player's partition.

Messages that are appended in one turn of the event loop are one call: see batch.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final
from zlib import crc32

from gateway.errors import GatewayError, StoreUnavailable
from gateway.mailbox import Batch, Draft, Hole, Located, Position, StoredMessage, locate
from gateway.messages import SessionId, TrueId
from gateway.store import (
    Accepted,
    AppendDone,
    KeysFull,
    KeyTaken,
    MailboxFull,
    ReadDone,
    StoreLimits,
    UnknownTarget,
    View,
)
from gateway.stores.redis.acknowledged import Acknowledged
from gateway.stores.redis.client import Redis
from gateway.stores.redis.partitions import LOST, Partitions
from gateway.stores.redis.reclaiming import Reclaimer
from gateway.stores.redis.scripts import load
from gateway.stores.redis.totals import Totals
from gateway.stores.redis.turns import Turns
from gateway.stores.sampling import Sampler

_APPEND: Final = load("append")
_READ: Final = load("read")
_VIEW: Final = load("view")
_EXPIRE: Final = load("mailbox_expire")
#: Mailboxes, keys and players that one call expires: Redis does nothing else meanwhile.
_EXPIRED: Final = 200
#: The same of messages.
_EXPIRED_MESSAGES: Final = 2000
#: The words of an appended message beside its body, about so many bytes.
_WORDS: Final = 200


class MailboxCalls:
    """The part of RedisStore that is about mailboxes."""

    _limits: StoreLimits
    _node: str
    _redis: Redis
    _partitions: Partitions
    _totals: Totals
    _turns: Turns
    _reclaimer: Reclaimer
    _acknowledged: Acknowledged
    _nonces: Iterator[int]
    _appends: Sampler
    _on_dropped: Callable[[str, int], None]

    def _note_webhooks(self, partition: int, counts: Sequence[int]) -> None:
        raise NotImplementedError

    def epoch_of(self, true_id: TrueId) -> str:
        """See MailboxStore.epoch_of."""
        return self._partitions.epoch_of(true_id)

    # Appending

    def append(self, draft: Draft, now: float, done: AppendDone) -> None:
        """See MailboxStore.append; answers to one sender come in order, whatever others'."""
        if now >= self._appends.due:
            done = self._appends.watch(now, done)
        sender = draft.sender
        if sender is None or (self._redis.ordered and sender not in self._turns):
            self._append(draft, now, done)
        elif not self._turns.take(sender, done, partial(self._append, draft, now)):
            error = StoreUnavailable("too much waits for the store")
            asyncio.get_running_loop().call_soon(done, draft, error)

    def _append(self, draft: Draft, now: float, done: AppendDone) -> None:
        partitions, totals = self._partitions, self._totals
        true_id = draft.target_id.encode()
        partition = crc32(true_id) % partitions.count
        epoch = partitions.epochs[partition]
        nonce = next(self._nonces)
        body = draft.body
        place = totals.places[partition]
        owner: str | None = draft.key_owner or draft.sender
        key = draft.key
        if key is None or owner is None or self._limits.dedupe_window <= 0:
            owner = key = ""
        words = (*place, epoch, true_id, nonce, now, body, owner, key)
        done_with = partial(self._on_appended, draft, now, done, partition, epoch, nonce)
        self._redis.add(partition, _APPEND, totals.common, words, len(body) + _WORDS, done_with)

    def _on_appended(
        self,
        draft: Draft,
        now: float,
        done: AppendDone,
        partition: int,
        epoch: bytes,
        nonce: int,
        reply: Any,
        remote: Any,
    ) -> None:
        if isinstance(reply, list):
            reply, *losses = reply
            self._note_losses(partition, losses)
        if isinstance(reply, int):
            message_id = b"%b.%d.%x" % (epoch, reply, nonce)
            message = StoredMessage(reply, message_id, draft.body, now)
            self._acknowledged.note(draft.target_id, reply, nonce, now)
            done(draft, Accepted(message_id, message, remote))
        else:
            done(draft, self._refusal(draft, now, partition, reply, remote))

    def _refusal(
        self, draft: Draft, now: float, partition: int, reply: Any, remote: int
    ) -> Accepted | GatewayError:
        """Return what an answer means that is no offset."""
        if isinstance(reply, GatewayError):
            self._partitions.note_failure(partition, reply)
            return reply
        if reply == LOST:
            return self._partitions.lost(partition)
        if reply == b"UNKNOWN":
            return UnknownTarget(draft.target_id)
        if reply.startswith(b"!"):
            limit = reply[1:].decode()
            if limit == "mailbox.total_bytes":
                self._reclaimer.want(draft.size)
            return MailboxFull(limit)
        known = self._known_key(reply, now)
        return known if isinstance(known, GatewayError) else Accepted(known, None, remote)

    def _known_key(self, reply: bytes, now: float) -> bytes | GatewayError:
        """Return what `known_key` in lua/_keys.lua says: a message's id, or why not."""
        if reply.startswith(b"="):
            return reply[1:]
        if reply == b"TAKEN":
            return KeyTaken("the key has another target")
        limits = self._limits
        oldest = float(reply.removeprefix(b"KEYS "))
        return KeysFull(
            f"the sender has {limits.dedupe_keys} keys already",
            oldest + limits.dedupe_window - now,
        )

    def _note_losses(self, partition: int, losses: Sequence[Any]) -> None:
        """Tell what `losses` in lua/_mailbox.lua says."""
        if losses:
            trimmed, expired, added, given_up = losses
            if trimmed:
                self._on_dropped("trimmed", trimmed)
            if expired:
                self._on_dropped("expired", expired)
            self._note_webhooks(partition, (added, given_up))

    # Reading

    def read(self, true_id: TrueId, after: int, limit: int, max_bytes: int, done: ReadDone) -> None:
        """See MailboxStore.read."""
        partition = self._partitions.of(true_id)
        answer = partial(self._on_read, self._partitions.epochs[partition], done)
        self._partitions.call(partition, _READ, (true_id, after, limit, max_bytes), answer)

    def _on_read(self, epoch: bytes, done: ReadDone, reply: Any) -> None:
        if isinstance(reply, StoreUnavailable):
            done(reply)
            return
        head, after, lost, *entries = reply
        done(Batch(tuple(_message(epoch, *each) for each in entries), head, _hole(after, lost)))

    async def view(
        self,
        true_id: TrueId,
        position: Position | None = None,
        session_id: SessionId | None = None,
    ) -> View:
        """See MailboxStore.view."""
        partition = self._partitions.of(true_id)
        epoch = self._partitions.epochs[partition].decode()
        offset = position.offset if position is not None else 0
        reply: Any = await self._partitions.ask(
            partition, _VIEW, (true_id, offset, session_id or "", self._node)
        )
        known, head, count, confirmed, nonce, after, lost, remote, *skipped = reply
        first = head - count + 1
        located = Located.FOREIGN
        if position is not None:
            stored = b"%b.%d.%x" % (epoch.encode(), offset, int(nonce)) if nonce else None
            located = locate(position, epoch, first, head, stored)
        hole = _hole(after, lost)
        return View(head, first, confirmed, located, bool(known), hole, tuple(skipped), remote)

    # Expiry

    async def _expire_mailboxes(self, now: float, partition: int) -> None:
        """Forget messages, keys and players whose time is over. Raises StoreUnavailable."""
        more = 1
        while more:
            seed: int | bytes = next(self._nonces) if self._limits.outbox.enabled else b""
            head = self._totals.heads[partition]
            args = (*head, seed, now, _EXPIRED, _EXPIRED_MESSAGES)
            reply: Any = await self._partitions.ask(partition, _EXPIRE, args)
            more, *losses = reply
            self._note_losses(partition, losses)


def _message(epoch: bytes, name: bytes, fields: Sequence[bytes]) -> StoredMessage:
    offset, _, nonce = name.partition(b"-")
    skip = SessionId(fields[5].decode()) if len(fields) > 4 else None
    message_id = b"%b.%b.%x" % (epoch, offset, int(nonce))
    return StoredMessage(int(offset), message_id, fields[1], float(fields[3]), skip)


def _hole(after: bytes, lost: bytes) -> Hole | None:
    return Hole(int(after), int(lost)) if lost else None
