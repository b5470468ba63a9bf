"""Webhooks in the sqlite store, the event loop's side."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.messages import TrueId
from gateway.outbox import DeadWebhook, Retried, Webhook, parse_webhook_id
from gateway.stores.sqlite_jobs import Jobs
from gateway.stores.sqlite_outbox import list_dead, list_online, list_webhooks
from gateway.stores.sqlite_reader import Done, Reader


class OutboxCalls:
    """The part of SqliteStore that is about webhooks."""

    epoch: str
    _reader: Reader
    #: How many wait, and how many that were given up are kept: of the last transaction.
    queued_webhooks: int = 0
    dead_webhooks: int = 0

    async def _do(self, run: Callable[[Jobs], Any]) -> Any:
        raise NotImplementedError

    async def _ask(self, ask: Callable[[Done], None]) -> Any:
        raise NotImplementedError

    async def _select(self, run: Callable[[sqlite3.Connection], Any]) -> Any:
        return await self._ask(functools.partial(self._reader.call, run))

    async def report_presence(self, changes: Mapping[TrueId, bool], now: float) -> None:
        """See OutboxStore.report_presence."""
        await self._do(lambda jobs: jobs.ledger.outbox.report_presence(changes, now))

    async def reported_online(self) -> frozenset[TrueId]:
        """See OutboxStore.reported_online."""
        found: frozenset[TrueId] = await self._select(list_online)
        return found

    async def webhooks(self, after: int, limit: int) -> tuple[Webhook, ...]:
        """See OutboxStore.webhooks."""
        found: tuple[Webhook, ...] = await self._select(
            lambda connection: list_webhooks(connection, self.epoch, after, limit)
        )
        return found

    async def remove_webhooks(self, numbers: Sequence[int]) -> None:
        """See OutboxStore.remove_webhooks."""
        await self._do(lambda jobs: jobs.ledger.outbox.remove(numbers))

    async def bury_webhook(self, number: int, reason: str, now: float) -> None:
        """See OutboxStore.bury_webhook."""
        await self._do(lambda jobs: jobs.ledger.outbox.bury(number, reason, now))

    async def list_dead_webhooks(self, limit: int) -> tuple[DeadWebhook, ...]:
        """See OutboxStore.list_dead_webhooks."""
        found: tuple[DeadWebhook, ...] = await self._select(
            lambda connection: list_dead(connection, self.epoch, limit)
        )
        return found

    async def retry_dead_webhooks(self, webhook_id: str | None) -> Retried:
        """See OutboxStore.retry_dead_webhooks: they keep their numbers."""
        which = self._place_of(webhook_id)
        if which is None and webhook_id is not None:
            return Retried(0, False)
        retried: Retried = await self._do(lambda jobs: jobs.ledger.outbox.retry_dead(which))
        return retried

    async def delete_dead_webhooks(self, webhook_id: str | None) -> int:
        """See OutboxStore.delete_dead_webhooks."""
        which = self._place_of(webhook_id)
        if which is None and webhook_id is not None:
            return 0
        deleted: int = await self._do(lambda jobs: jobs.ledger.outbox.delete_dead(which))
        return deleted

    def _place_of(self, webhook_id: str | None) -> tuple[int, int] | None:
        """Return number and nonce of a webhook; None if this store has not made the id."""
        parsed = parse_webhook_id(webhook_id or "")
        return None if parsed is None or parsed[0] != self.epoch else parsed[1:]
