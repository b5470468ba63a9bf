"""Webhooks in Redis: a stream in each partition, sent by the node that has its duties."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from gateway.messages import TrueId
from gateway.outbox import DeadWebhook, Retried, Webhook
from gateway.store import StoreLimits
from gateway.stores.redis.client import Word
from gateway.stores.redis.local_outbox import (
    LocalOutbox,
    Place,
    decode_fields,
    decode_webhook,
)
from gateway.stores.redis.partitions import Partitions
from gateway.stores.redis.scripts import load
from gateway.stores.redis.totals import Totals

_BURY: Final = load("outbox_bury")
_DEAD: Final = load("outbox_dead")
_ONLINE: Final = load("outbox_online")
_PRESENCE: Final = load("outbox_presence")
_READ: Final = load("outbox_read")
_REMOVE: Final = load("outbox_remove")
_REVIVE: Final = load("outbox_revive")
#: The partition in an id that lua/_outbox.lua has made.
_PARTITION: Final = re.compile(r"[0-9a-z]+\.([0-9]{1,9})-[0-9]+\.[0-9a-f]+")
#: Webhooks, or changes of presence, in one call.
_CHUNK: Final = 500
#: Numbers that are remembered of webhooks given up here.
_BURIED: Final = 1000


class OutboxCalls:
    """The part of RedisStore that is about webhooks.

    Any node may write one; `outbox` has those of this node's partitions, which it sends.
    """

    _limits: StoreLimits
    _partitions: Partitions
    _totals: Totals
    _nonces: Iterator[int]
    _on_webhooks: Callable[[int, int], None]
    #: Told the numbers of webhooks that are another node's now.
    on_webhooks_lost: Callable[[Sequence[int]], None]
    _outbox: LocalOutbox
    _outbox_lock: asyncio.Lock
    #: Of webhooks that were given up: id -> number.
    _buried: OrderedDict[str, int]

    @property
    def queued_webhooks(self) -> int:
        """See OutboxStore.queued_webhooks."""
        return self._totals.of_all("queued")

    @property
    def dead_webhooks(self) -> int:
        """See OutboxStore.dead_webhooks."""
        return self._totals.of_all("dead")

    def _outbox_args(self, partition: int) -> tuple[Word, ...]:
        """Return what lua/_outbox.lua opens the outbox with."""
        seed: Word = next(self._nonces) if self._limits.outbox.enabled else b""
        return (*self._totals.heads[partition][1:], seed)

    def _note_webhooks(self, partition: int, counts: Sequence[int]) -> None:
        """Tell what `close_outbox` in lua/_outbox.lua says."""
        added, given_up = counts
        if added:
            self._outbox.touch(partition)
            self._on_webhooks(added, given_up)

    # Whose they are

    def own_partitions(self, partitions: Iterable[int]) -> None:
        """Send the webhooks of these partitions, and let them expire what has outlived its time."""
        self._outbox.own(partitions)
        self._on_webhooks(0, 0)

    def disown_partitions(self, partitions: Iterable[int]) -> None:
        """Leave these partitions to the node that has their duties now."""
        numbers = self._outbox.disown(partitions)
        if numbers:
            self.on_webhooks_lost(numbers)

    def _read_webhooks_anew(self, partitions: Iterable[int]) -> None:
        """The server may have lost the last that it had."""
        self._outbox.read_anew(partitions)
        self._on_webhooks(0, 0)

    def on_outbox_written(self, partition: int) -> None:
        """Another node has written webhooks that this one sends."""
        if self._outbox.touch(partition):
            self._on_webhooks(0, 0)

    def _look_for_webhooks(self, partition: int, newest: int) -> None:
        """Notice what was written although nobody said so."""
        if self._outbox.notice(partition, newest):
            self.on_outbox_written(partition)

    # Sending

    async def webhooks(self, after: int, limit: int) -> tuple[Webhook, ...]:
        """See OutboxStore.webhooks: those of this node's partitions."""
        async with self._outbox_lock:
            found = self._outbox.after(after, limit)
            while len(found) < limit and (unread := self._outbox.take_unread()) is not None:
                partition, read = unread
                wanted = limit - len(found)
                try:
                    reply: Any = await self._partitions.ask(partition, _READ, (read, wanted))
                except BaseException:
                    self._outbox.touch(partition)
                    raise
                added = self._outbox.add(partition, read, reply)
                if len(reply) == wanted:
                    self._outbox.touch(partition)
                found += added
            # What was given up meanwhile is another node's.
            return tuple(each for each in found if self._outbox.place(each.seq) is not None)

    async def remove_webhooks(self, numbers: Sequence[int]) -> None:
        """See OutboxStore.remove_webhooks."""
        groups: dict[int, list[tuple[int, Place]]] = {}
        for number in numbers:
            place = self._outbox.place(number)
            if place is not None:
                groups.setdefault(place.partition, []).append((number, place))
        for partition, placed in groups.items():
            for start in range(0, len(placed), _CHUNK):
                chunk = placed[start : start + _CHUNK]
                args = [word for _, place in chunk for word in (place.entry, place.id)]
                await self._partitions.ask(partition, _REMOVE, args)
                self._outbox.forget(number for number, _ in chunk)

    async def bury_webhook(self, number: int, reason: str, now: float) -> None:
        """See OutboxStore.bury_webhook."""
        place = self._outbox.place(number)
        if place is None:
            return
        partition = place.partition
        args = (*self._outbox_args(partition), place.entry, place.id, reason, now)
        await self._partitions.ask(partition, _BURY, args)
        self._outbox.forget((number,))
        self._buried[place.id] = number
        if len(self._buried) > _BURIED:
            self._buried.popitem(last=False)

    async def list_dead_webhooks(self, limit: int) -> tuple[DeadWebhook, ...]:
        """See OutboxStore.list_dead_webhooks; those that other nodes gave up have the number 0."""
        found = []
        for reply in await self._partitions.ask_all(_DEAD, (limit,)):
            entries: Any = reply
            for entry, fields in entries:
                said = decode_fields(fields)
                number = self._buried.get(said[b"id"].decode(), 0)
                webhook = decode_webhook(number, fields)
                given_up = float(said[b"given_up"])
                dead = DeadWebhook(webhook, given_up, said[b"reason"].decode())
                time, _, place = entry.partition(b"-")
                found.append((given_up, int(time), int(place), dead))
        found.sort(key=lambda each: each[:3], reverse=True)
        return tuple(dead for *_, dead in found[:limit])

    async def retry_dead_webhooks(self, webhook_id: str | None) -> Retried:
        """See OutboxStore.retry_dead_webhooks: they get new numbers at whoever sends them."""
        return await self._revive("retry", webhook_id)

    async def delete_dead_webhooks(self, webhook_id: str | None) -> int:
        """See OutboxStore.delete_dead_webhooks."""
        return (await self._revive("delete", webhook_id)).webhooks

    async def _revive(self, action: str, webhook_id: str | None) -> Retried:
        done = full = 0
        for partition in self._partitions_of(webhook_id):
            last: bytes = b"0-0"
            while last:
                args = (*self._outbox_args(partition), action, last, _CHUNK, webhook_id or "")
                reply: Any = await self._partitions.ask(partition, _REVIVE, args)
                count, no_room, last, *counts = reply
                self._note_webhooks(partition, counts)
                done += count
                full |= no_room
                if no_room or (webhook_id is not None and count):
                    break
        return Retried(done, bool(full))

    def _partitions_of(self, webhook_id: str | None) -> Collection[int]:
        """Return the partitions that may have webhooks with this id, all for None."""
        if webhook_id is None:
            return range(self._partitions.count)
        match = _PARTITION.fullmatch(webhook_id)
        partition = -1 if match is None else int(match[1])
        return (partition,) if 0 <= partition < self._partitions.count else ()

    # Presence

    async def report_presence(self, changes: Mapping[TrueId, bool], now: float) -> None:
        """See OutboxStore.report_presence; what another node has said already is not written."""
        for partition, true_ids in self._partitions.grouped(changes).items():
            for start in range(0, len(true_ids), _CHUNK):
                args: list[Word] = [*self._outbox_args(partition), now]
                for true_id in true_ids[start : start + _CHUNK]:
                    args += (true_id, int(changes[true_id]))
                reply: Any = await self._partitions.ask(partition, _PRESENCE, args)
                self._note_webhooks(partition, reply)

    async def reported_online(self) -> frozenset[TrueId]:
        """See OutboxStore.reported_online: those of this node's partitions."""
        partitions: Collection[int] = self._outbox.partitions
        replies: list[Any] = await asyncio.gather(
            *(self._partitions.ask(partition, _ONLINE) for partition in partitions)
        )
        return frozenset(TrueId(each.decode()) for reply in replies for each in reply)
