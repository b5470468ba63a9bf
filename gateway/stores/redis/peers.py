"""The nodes, as far as those have to know them that clean up after others."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from gateway.stores.redis.nodes import RedisNodes


class Peers(Protocol):
    """What presence has to know of the nodes."""

    @property
    def live(self) -> frozenset[str] | None:
        """The nodes that are alive, None when that is not known now."""

    @property
    def listed(self) -> float:
        """When the newest list of them was asked for, by the event loop's clock."""

    @property
    def owned(self) -> Collection[int]:
        """The partitions that this node sees to."""


class NoPeers:
    """A store that knows of no other nodes, and sees to `owned`."""

    listed = 0.0

    def __init__(self, node: str, owned: Collection[int]) -> None:
        self.live = frozenset((node,))
        self.owned = owned


class OfNodes:
    """Peers as RedisNodes know them."""

    def __init__(self, nodes: RedisNodes) -> None:
        self._directory = nodes.directory
        self._ownership = nodes.ownership

    @property
    def live(self) -> frozenset[str] | None:
        """See Peers.live."""
        return self._directory.live

    @property
    def listed(self) -> float:
        """See Peers.listed."""
        return self._directory.listed

    @property
    def owned(self) -> Collection[int]:
        """See Peers.owned."""
        return self._ownership.owned
