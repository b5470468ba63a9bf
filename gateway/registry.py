"""The registry: `true_id <-> connections`, many to one, both ways.

A connection's entry is removed only by its own id, so the late close of a connection that
was taken over changes nothing for the newcomer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from gateway.messages import ConnectionId, TrueId


class Registered(Protocol):
    """What the registry needs to know of a connection."""

    @property
    def id(self) -> ConnectionId:
        """This connection's own id, never reused."""

    @property
    def true_id(self) -> TrueId:
        """The player it belongs to."""


C = TypeVar("C", bound=Registered)


class Registry(Generic[C]):
    """Two-way multi-value map of players and their connections."""

    def __init__(self) -> None:
        # Tuples: whoever walks one may add and remove meanwhile.
        self._players: dict[TrueId, tuple[C, ...]] = {}
        self._connections: dict[ConnectionId, C] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[C]:
        return iter(tuple(self._connections.values()))

    @property
    def players(self) -> int:
        """How many players have at least one connection."""
        return len(self._players)

    def add(self, connection: C) -> None:
        """Enter a connection under its player. Raises ValueError when it is in already."""
        if connection.id in self._connections:
            raise ValueError(f"connection {connection.id} is registered already")
        self._connections[connection.id] = connection
        self._players[connection.true_id] = (*self.connections_of(connection.true_id), connection)

    def remove(self, connection_id: ConnectionId) -> bool:
        """Remove a connection; return False when it was not there (any more)."""
        connection = self._connections.pop(connection_id, None)
        if connection is None:
            return False
        siblings = self._players[connection.true_id]
        others = tuple(each for each in siblings if each is not connection)
        if others:
            self._players[connection.true_id] = others
        else:
            del self._players[connection.true_id]
        return True

    def connection(self, connection_id: ConnectionId) -> C | None:
        """Return the connection with this id, if it is still here."""
        return self._connections.get(connection_id)

    def connections_of(self, true_id: TrueId) -> tuple[C, ...]:
        """Return the player's connections, oldest first; empty when there is none."""
        return self._players.get(true_id, ())
