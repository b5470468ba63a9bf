"""Which nodes have no connections any more although Redis says that they have."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from typing import Final, Protocol

#: How long a node is kept in mind that is in no list, in seconds.
_KEPT: Final = 60.0


class NodeList(Protocol):
    """The nodes as Directory has them."""

    @property
    def live(self) -> frozenset[str] | None:
        """The nodes that are alive, None when that is not known now."""

    @property
    def died(self) -> frozenset[str]:
        """The nodes that have died lately."""

    @property
    def listed(self) -> float:
        """When the newest list of nodes was asked for, by the event loop's clock."""


class OneNode:
    """There is one node at a time: all others are of earlier lives."""

    died: Final[frozenset[str]] = frozenset()
    listed: Final = float("inf")

    def __init__(self, node: str) -> None:
        self.live = frozenset((node,))


class DeadNodes:
    """What scripts are told of the nodes in `listing`: names with a space before and after each.

    A node enters the list before it does anything else. So one that was met in the store and is
    in no list that was asked for after that is dead, whether anybody saw it die or not.
    """

    def __init__(self, listing: NodeList) -> None:
        self.listing = listing
        #: Nodes that were in no list, and when they were met, by the event loop's clock.
        self._met: dict[str, float] = {}

    @property
    def live(self) -> str:
        """The nodes that are alive, `*` if that may be any."""
        live = self.listing.live
        return "*" if live is None else _joined(live)

    @property
    def dead(self) -> str:
        """The nodes that are dead for sure."""
        listing = self.listing
        if (live := listing.live) is None:
            return _joined(())
        met = (node for node, time in self._met.items() if time < listing.listed)
        return _joined({*listing.died, *met} - live)

    def meet(self, nodes: Iterable[str]) -> None:
        """These have sessions in the store, and were not in the list."""
        now = asyncio.get_running_loop().time()
        for node in nodes:
            self._met.setdefault(node, now)
        for node in [node for node, time in self._met.items() if time < now - _KEPT]:
            del self._met[node]


def _joined(nodes: Collection[str]) -> str:
    return f" {' '.join(nodes)} "
