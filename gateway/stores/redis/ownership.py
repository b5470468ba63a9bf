"""Who sees to what in a partition: expiry, webhooks, cleaning up after nodes that died.

All nodes that know of the same nodes agree on who is to have a partition: the one with the highest
weight for it (https://en.wikipedia.org/wiki/Rendezvous_hashing), so that few of them move when a
node comes or goes. A lease in the partition itself keeps two from having it at once while they
do not know of the same nodes.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import math
from collections.abc import Callable, Iterable
from typing import Any, Final

from gateway.stores.redis.client import Redis
from gateway.stores.redis.scripts import load

logger = logging.getLogger(__name__)

_OWN: Final = load("own")

OnChange = Callable[[int], None]


def owner_of(partition: int, nodes: Iterable[str]) -> str:
    """Return which of these nodes, one at least, is to have a partition."""
    return max(nodes, key=lambda node: (_weight(partition, node), node))


def _weight(partition: int, node: str) -> bytes:
    return hashlib.blake2b(f"{node} {partition}".encode(), digest_size=8).digest()


class Ownership:
    """What this node has; `lease` is in seconds. `on_won` and `on_lost` are told of changes."""

    def __init__(self, redis: Redis, node: str, lease: float) -> None:
        self.on_won: list[OnChange] = []
        self.on_lost: list[OnChange] = []
        self._redis = redis
        self._node = node
        self._lease = lease
        self._nodes: frozenset[str] = frozenset()
        self._wanted: frozenset[int] = frozenset()
        #: Until when this node has a partition, by the loop's clock.
        self._until: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def owns(self, partition: int) -> bool:
        """Tell whether this node has a partition now."""
        until = self._until.get(partition, -math.inf)
        return asyncio.get_running_loop().time() < until

    @property
    def owned(self) -> list[int]:
        """The partitions that this node has now."""
        return [partition for partition in sorted(self._until) if self.owns(partition)]

    async def claim(self, nodes: frozenset[str]) -> None:
        """Take, renew and give up what is to be this node's among these nodes."""
        self._aim(nodes)
        waiting = [asyncio.get_running_loop().create_future() for _ in self._wanted]
        for partition, answered in zip(self._wanted, waiting, strict=True):
            self._ask(partition, functools.partial(answered.set_result, None))
        await asyncio.gather(*waiting)

    def renew(self, nodes: frozenset[str]) -> None:
        """Do as `claim`, and do not wait for it."""
        self._aim(nodes)
        for partition in self._wanted:
            self._ask(partition)

    def _aim(self, nodes: frozenset[str]) -> None:
        if nodes != self._nodes:
            self._nodes = nodes
            partitions = range(self._redis.partitions)
            self._wanted = frozenset(
                each for each in partitions if owner_of(each, nodes) == self._node
            )
        self.check()
        for partition in self._until.keys() - self._wanted:
            self._lose(partition)
            self._redis.call(partition, _OWN, (self._node, 0), _ignore)

    def check(self) -> None:
        """Lose what could not be renewed in time."""
        for partition in [*self._until]:
            if not self.owns(partition):
                self._lose(partition)

    def drop(self) -> None:
        """Have nothing from now on, though the others may not know that yet."""
        for partition in [*self._until]:
            self._lose(partition)

    def release(self) -> None:
        """Give up everything, for good."""
        held = [*self._until]
        self.drop()
        self._wanted = frozenset()
        self._nodes = frozenset()
        for partition in held:
            self._redis.call(partition, _OWN, (self._node, 0), _ignore)

    def _ask(self, partition: int, then: Callable[[], None] = lambda: None) -> None:
        sent = asyncio.get_running_loop().time()
        args = (self._node, int(self._lease * 1000))
        self._redis.call(
            partition, _OWN, args, functools.partial(self._on_answer, partition, sent, then)
        )

    def _on_answer(self, partition: int, sent: float, then: Callable[[], None], reply: Any) -> None:
        if partition not in self._wanted:
            pass  # Given up meanwhile: it ends by itself.
        elif reply == 1:
            new = partition not in self._until
            self._until[partition] = sent + self._lease
            if new:
                _tell(self.on_won, partition)
        elif reply == 0 and partition in self._until:
            self._lose(partition)
        then()

    def _lose(self, partition: int) -> None:
        del self._until[partition]
        _tell(self.on_lost, partition)


def _tell(told: list[OnChange], partition: int) -> None:
    for each in told:
        try:
            each(partition)
        except Exception:
            logger.exception("a change of partition %d could not be handled", partition)


def _ignore(reply: object) -> None:
    """What could not be given up ends by itself."""
