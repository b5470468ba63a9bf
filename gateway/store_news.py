"""What a store says by itself, and who is to know: it is built before all who are told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from gateway.accounts import Accounts
from gateway.connection import Connection
from gateway.messages import TrueId
from gateway.nodes import Alone, Nodes
from gateway.reporting import Reporting

logger = logging.getLogger(__name__)


class StoreNews:
    """Hands on what the store says; without `accounts` or `reporting` nobody need know.

    A store of several `nodes` says by itself which webhooks are gone.
    """

    def __init__(self, connections: Iterable[Connection]) -> None:
        self._connections = connections
        self.accounts: Accounts | None = None
        self.reporting: Reporting | None = None
        self.nodes: Nodes = Alone()

    def on_replaced(self, concerns: Callable[[TrueId], bool]) -> None:
        """Send players away: they come back and are told what became of their messages."""
        logger.warning("the store has become another one: its players' connections are closed")
        if self.accounts is not None:
            self.accounts.start_anew()
        if self.reporting is not None and self.nodes.alone:
            self.reporting.start_anew()
        for connection in self._connections:
            if concerns(connection.true_id):
                connection.close("store_replaced", reconnect=True)

    def on_webhooks(self, added: int, given_up: int) -> None:
        """See Reporting.on_webhooks."""
        if self.reporting is not None:
            self.reporting.on_webhooks(added, given_up)

    def on_webhooks_lost(self, numbers: Sequence[int]) -> None:
        """See Reporting.on_webhooks_lost."""
        if self.reporting is not None:
            self.reporting.on_webhooks_lost(numbers)

    def on_here(self, true_id: TrueId) -> None:
        """See Reporting.on_here."""
        if self.reporting is not None:
            self.reporting.on_here(true_id)
