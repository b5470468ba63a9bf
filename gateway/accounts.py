"""Accounts that come and go, in the password file or the database, while the gateway runs.

New ones become known, so that messages may wait for them before their first log-in. Removed
ones lose their sessions and connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor

from gateway.messages import TrueId
from gateway.revocation import Revocation
from gateway.store import MailboxStore

logger = logging.getLogger(__name__)


class Accounts:
    """Follows what `read` returns, the ids of all accounts. The first check takes all of them.

    It may block: it is called in `executor`.
    """

    def __init__(
        self,
        read: Callable[[], frozenset[TrueId]],
        executor: Executor,
        store: MailboxStore,
        revocation: Revocation,
    ) -> None:
        self._read = read
        self._executor = executor
        self._store = store
        self._revocation = revocation
        self._known: frozenset[TrueId] = frozenset()
        self._missing: frozenset[TrueId] = frozenset()

    def follow(self, read: Callable[[], frozenset[TrueId]]) -> None:
        """Follow another file: accounts that it does not have are gone."""
        self._read = read

    def start_anew(self) -> None:
        """Make the next check take all accounts: the store is another one."""
        self._known = self._missing = frozenset()

    async def check(self) -> None:
        """Look once. Raises StoreUnavailable; the next call then tries again.

        Only an account that is missing twice in a row is taken for removed: editors replace a
        file in two steps.
        """
        loop = asyncio.get_running_loop()
        present = await loop.run_in_executor(self._executor, self._read)
        await self._store.know(present - self._known)
        self._known |= present
        missing = self._known - present
        removed = missing & self._missing
        self._missing = missing
        await self._store.forget(removed)
        for true_id in removed:
            logger.info("the account of player %s is gone", true_id, extra={"true_id": true_id})
            await self._revocation.revoke_player(true_id, "account_removed")
            self._known -= {true_id}
