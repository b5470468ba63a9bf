"""Which nodes there are: each says again and again that it is alive.

A node has a lease and renews it long before its end. One that does not is dead for the others, at
the end of the lease and by the clock of the server. It finds that out itself, by its own clock, no
later: then it is cut off, and is not to act for players whom others may have taken over.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Any, Final

from gateway.errors import StoreUnavailable
from gateway.stores.redis.client import Redis, Reply
from gateway.stores.redis.scripts import load

logger = logging.getLogger(__name__)

_BEAT: Final = load("node_beat")
_LEAVE: Final = load("node_leave")
#: Beats in a lease.
_BEATS: Final = 3
#: Where the list of nodes is.
HOME: Final = 0


class Directory:
    """The nodes, this one (`node`) included; `lease` is in seconds.

    `on_beat` is called after each beat that was answered, `on_over` when the lease is over, and
    `on_back` when this node was cut off and is not any more.
    """

    def __init__(
        self,
        redis: Redis,
        node: str,
        lease: float,
        on_beat: Callable[[], None],
        on_over: Callable[[], None],
        on_back: Callable[[], None],
    ) -> None:
        self.lease = lease
        #: Where other nodes reach this one; empty: nowhere.
        self.address = ""
        #: This node has no lease, and there are others.
        self.cut_off = False
        self._redis = redis
        self._node = node
        self._on_beat = on_beat
        self._on_over = on_over
        self._on_back = on_back
        #: Nodes that are alive, and when each was seen to be, by the loop's clock.
        self._seen: dict[str, float] = {}
        self._addresses: dict[str, str] = {}
        self._leaves: set[str] = set()
        self._dead: frozenset[str] = frozenset()
        self._loop: asyncio.AbstractEventLoop
        self._timer: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None
        self._leased_until = 0.0
        #: Until then nobody is dead for this node who was not when it lost its own lease.
        self._patient_until = 0.0
        self._closed = False

    async def open(self) -> None:
        """Enter the list, if the server is in reach, and stay in it from now on."""
        self._loop = asyncio.get_running_loop()
        answered = self._loop.create_future()
        self._beat(answered)
        await answered

    def leave(self) -> None:
        """Say from now on that this node is about to leave: it is to have no duties."""
        self._leaves.add(self._node)

    def close(self) -> None:
        """Leave the list, and beat no more."""
        self._closed = True
        for timer in (self._timer, self._end):
            if timer is not None:
                timer.cancel()
        self._redis.call(HOME, _LEAVE, (self._node,), _ignore)

    # What is known

    @property
    def leased(self) -> bool:
        """Whether this node is alive for the others."""
        return self._loop.time() < self._leased_until

    @property
    def in_touch(self) -> bool:
        """Whether the newest beat was answered.

        When the server is gone, all leases end within a beat of each other: a node that asks
        at the end of its own whether others are better off is told that they are not.
        """
        return self._loop.time() - self.listed < self.lease / 2

    @property
    def live(self) -> frozenset[str] | None:
        """The nodes that are alive, None when that is not known now.

        A node that has not said so lately, and is not known to be dead, is alive.
        """
        return frozenset((*self._seen, self._node)) if self.leased else None

    @property
    def lasting(self) -> frozenset[str]:
        """The nodes that are alive and do not leave: those to share duties."""
        return frozenset((*self._seen, self._node)) - self._leaves

    @property
    def listed(self) -> float:
        """When the newest list of nodes was asked for, by the loop's clock."""
        return self._leased_until - self.lease

    @property
    def others(self) -> frozenset[str]:
        """The other nodes that were alive when that was known last."""
        return frozenset(self._seen) - {self._node}

    @property
    def dead(self) -> int:
        """How many nodes have died lately without leaving."""
        return len(self._dead)

    @property
    def died(self) -> frozenset[str]:
        """The nodes that have died lately without leaving."""
        return self._dead

    def is_live(self, node: str) -> bool:
        """Tell whether a node is alive, as far as is known."""
        return node in self._seen

    def address_of(self, node: str) -> str | None:
        """Return where a node that is alive is reached by others, None if nowhere."""
        return self._addresses.get(node) or None if node in self._seen else None

    def on_joined(self, node: str, address: str) -> None:
        """A node has said itself that it has come."""
        if node not in self._seen:
            logger.info("node %s has come", node)
        self._seen[node] = self._loop.time()
        self._addresses[node] = address
        self._dead -= {node}

    def on_leaving(self, node: str) -> None:
        """A node has said itself that it is about to leave."""
        if node in self._seen:
            self._leaves.add(node)

    def on_left(self, node: str) -> None:
        """A node has said itself that it is gone."""
        if self._seen.pop(node, None) is not None:
            logger.info("node %s has left", node)

    # Beats

    def _beat(self, answered: asyncio.Future[None] | None = None) -> None:
        self._timer = self._loop.call_later(self.lease / _BEATS, self._beat)
        done = functools.partial(self._on_answer, self._loop.time(), answered)
        leaves = int(self._node in self._leaves)
        args = (self._node, self.address, int(self.lease * 1000), leaves)
        self._redis.call(HOME, _BEAT, args, done)

    def _on_lease_over(self) -> None:
        if self.others:
            self.cut_off = True
            logger.warning("this node (%s) could not renew its lease", self._node)
        self._on_over()

    def _on_answer(
        self, sent: float, answered: asyncio.Future[None] | None, reply: Reply | StoreUnavailable
    ) -> None:
        if isinstance(reply, list) and not self._closed:
            was_cut_off, self.cut_off = self.cut_off, False
            self._take(sent, reply)
            self._on_beat()
            if was_cut_off:
                logger.warning("this node (%s) is back among the others", self._node)
                self._on_back()
        if answered is not None and not answered.done():
            answered.set_result(None)

    def _take(self, sent: float, reply: Any) -> None:
        if sent >= self._leased_until:
            # Maybe the server was gone for all, and they could not renew their leases either.
            self._patient_until = sent + self.lease
        self._leased_until = sent + self.lease
        if self._end is not None:
            self._end.cancel()
        self._end = self._loop.call_at(self._leased_until, self._on_lease_over)
        live, dead = ([each.decode() for each in words] for words in reply)
        found = dict(zip(live[::3], live[1::3], strict=True))
        leaves = {node for node, yes in zip(live[::3], live[2::3], strict=True) if yes == "1"}
        for node in found.keys() - self._seen.keys() - {self._node}:
            logger.info("node %s is there", node)
        patient = sent < self._patient_until
        self._dead = frozenset(dead) - (self._seen.keys() if patient else frozenset())
        for node in self._dead & self._seen.keys():
            logger.warning("node %s has died", node)
        # One that is missing has left, or the server has forgotten it: then it will be back.
        self._seen = {
            node: seen
            for node, seen in self._seen.items()
            if node not in self._dead and (patient or seen > sent - self.lease)
        } | dict.fromkeys(found, sent)
        self._addresses.update(found)
        self._leaves = (self._leaves | leaves) & (self._seen.keys() | {self._node})
        for node in self._addresses.keys() - self._seen.keys():
            del self._addresses[node]


def _ignore(reply: object) -> None:
    """Who cannot leave the list is dead after the lease."""
