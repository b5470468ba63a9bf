"""The memory store's webhooks: until they are sent or the process ends."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import msgspec

from gateway.messages import TrueId
from gateway.outbox import (
    FULL,
    DeadWebhook,
    Event,
    OutboxLimits,
    Retried,
    Webhook,
    presence_changed,
    webhook_id,
)


class MemoryOutbox:
    """Webhooks in order, and those given up.

    `on_webhooks` is told how many are new, and how many were given up for lack of room.
    """

    def __init__(
        self,
        limits: OutboxLimits,
        epoch: str,
        nonces: Iterator[int],
        on_webhooks: Callable[[int, int], None],
    ) -> None:
        self._limits = limits
        self._epoch = epoch
        self._nonces = nonces
        self._on_webhooks = on_webhooks
        self._webhooks: OrderedDict[int, Webhook] = OrderedDict()
        self._dead: deque[DeadWebhook] = deque(maxlen=limits.max_dead or None)
        self._seq = 0
        self.online: set[TrueId] = set()

    def __len__(self) -> int:
        return len(self._webhooks)

    @property
    def dead(self) -> int:
        """How many that were given up are kept."""
        return len(self._dead)

    def add(self, event: Event) -> None:
        """Keep an event; the oldest one is given up for it when there is no room."""
        limits = self._limits
        if not limits.enabled:
            return
        self._seq += 1
        name = webhook_id(self._epoch, self._seq, next(self._nonces))
        self._webhooks[self._seq] = Webhook(self._seq, name, event)
        if limits.max_queued and len(self._webhooks) > limits.max_queued:
            self.bury(next(iter(self._webhooks)), FULL, event.ts)
            self._on_webhooks(1, 1)
        else:
            self._on_webhooks(1, 0)

    def report_presence(self, changes: Mapping[TrueId, bool], now: float) -> None:
        """See OutboxStore.report_presence."""
        for true_id, online in changes.items():
            if online != (true_id in self.online):
                (self.online.add if online else self.online.discard)(true_id)
                self.add(presence_changed(true_id, online, now))

    def list(self, after: int, limit: int) -> tuple[Webhook, ...]:
        """See OutboxStore.webhooks."""
        waiting = (each for seq, each in self._webhooks.items() if seq > after)
        return tuple(islice(waiting, limit))

    def remove(self, numbers: Iterable[int]) -> None:
        """See OutboxStore.remove_webhooks."""
        for number in numbers:
            self._webhooks.pop(number, None)

    def bury(self, number: int, reason: str, now: float) -> None:
        """See OutboxStore.bury_webhook."""
        webhook = self._webhooks.pop(number, None)
        if webhook is not None:
            self._dead.append(DeadWebhook(webhook, now, reason))

    def retry_dead(self, webhook_id: str | None) -> Retried:
        """See OutboxStore.retry_dead_webhooks: they get new numbers."""
        most = self._limits.max_queued
        retried = 0
        full = False
        for each in self._take_dead(webhook_id):
            if most and len(self._webhooks) >= most:
                full = True
                self._dead.append(each)
                continue
            self._seq += 1
            self._webhooks[self._seq] = msgspec.structs.replace(each.webhook, seq=self._seq)
            retried += 1
        if retried:
            self._on_webhooks(retried, 0)
        return Retried(retried, full)

    def delete_dead(self, webhook_id: str | None) -> int:
        """See OutboxStore.delete_dead_webhooks."""
        return len(self._take_dead(webhook_id))

    def _take_dead(self, webhook_id: str | None) -> Sequence[DeadWebhook]:
        taken = [each for each in self._dead if webhook_id in (None, each.webhook.id)]
        kept = [each for each in self._dead if webhook_id not in (None, each.webhook.id)]
        self._dead = deque(kept, maxlen=self._dead.maxlen)
        return taken

    def list_dead(self, limit: int) -> tuple[DeadWebhook, ...]:
        """See OutboxStore.list_dead_webhooks."""
        return tuple(islice(reversed(self._dead), limit))


class OutboxCalls:
    """The part of MemoryStore that is about webhooks."""

    outbox: MemoryOutbox

    @property
    def queued_webhooks(self) -> int:
        """See OutboxStore.queued_webhooks."""
        return len(self.outbox)

    @property
    def dead_webhooks(self) -> int:
        """See OutboxStore.dead_webhooks."""
        return self.outbox.dead

    async def report_presence(self, changes: Mapping[TrueId, bool], now: float) -> None:
        """See OutboxStore.report_presence."""
        self.outbox.report_presence(changes, now)

    async def reported_online(self) -> frozenset[TrueId]:
        """See OutboxStore.reported_online."""
        return frozenset(self.outbox.online)

    async def webhooks(self, after: int, limit: int) -> tuple[Webhook, ...]:
        """See OutboxStore.webhooks."""
        return self.outbox.list(after, limit)

    async def remove_webhooks(self, numbers: Sequence[int]) -> None:
        """See OutboxStore.remove_webhooks."""
        self.outbox.remove(numbers)

    async def bury_webhook(self, number: int, reason: str, now: float) -> None:
        """See OutboxStore.bury_webhook."""
        self.outbox.bury(number, reason, now)

    async def list_dead_webhooks(self, limit: int) -> tuple[DeadWebhook, ...]:
        """See OutboxStore.list_dead_webhooks."""
        return self.outbox.list_dead(limit)

    async def retry_dead_webhooks(self, webhook_id: str | None) -> Retried:
        """See OutboxStore.retry_dead_webhooks."""
        return self.outbox.retry_dead(webhook_id)

    async def delete_dead_webhooks(self, webhook_id: str | None) -> int:
        """See OutboxStore.delete_dead_webhooks."""
        return self.outbox.delete_dead(webhook_id)
