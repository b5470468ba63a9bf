"""Whether there is room for one more connection of a player, or one more session."""

from __future__ import annotations

import math
from typing import Final

from gateway.connection import Services
from gateway.errors import ConnectRefused
from gateway.limits import KeyedBuckets
from gateway.network import network_of
from gateway.session import Session

#: How long a client that has too many connections is asked to wait, in seconds.
_RETRY_AFTER: Final = 5.0
#: Networks whose new sessions are counted; beyond it those least active are forgotten.
_MAX_NETWORKS: Final = 16_384


class Headroom:
    """Holds `limits.connections_per_player` and `limits.new_sessions_per_minute`; 0 is no limit."""

    def __init__(
        self, services: Services, connections_per_player: int, new_sessions_per_minute: int
    ) -> None:
        self._services = services
        self.reconfigure(connections_per_player, new_sessions_per_minute)

    def reconfigure(self, connections_per_player: int, new_sessions_per_minute: int) -> None:
        """Take other limits; new sessions are counted anew."""
        self._connections = connections_per_player
        self._new_sessions = KeyedBuckets(
            new_sessions_per_minute / 60, new_sessions_per_minute, _MAX_NETWORKS
        )

    def check_connections(self, session: Session, remote: int) -> None:
        """Raise ConnectRefused (`rate_limited`) if the session's player has too many others.

        `remote` is how many there are at other nodes.
        """
        others = [
            connection
            for connection in self._services.registry.connections_of(session.true_id)
            if connection.session.id != session.id
        ]
        nodes = self._services.store.nodes
        there = remote - (session.elsewhere and session.node != nodes.id)
        if self._connections and len(others) + there >= self._connections:
            self._services.metrics.limit_hit("connections_per_player")
            raise ConnectRefused(
                "rate_limited",
                f"a player has {self._connections} connections at most",
                _RETRY_AFTER,
            )

    def check_new_sessions(self, address: str) -> None:
        """Raise ConnectRefused (`rate_limited`) if the network has had too many of late."""
        wait = self._new_sessions.take(network_of(address), self._services.monotonic())
        if wait > 0:
            self._services.metrics.limit_hit("new_sessions_per_minute")
            raise ConnectRefused(
                "rate_limited", "too many new players from your network", float(math.ceil(wait))
            )
