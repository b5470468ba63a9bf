"""A Cluster: which master has which partition, as it changes.

While a slot moves from one master to another its keys are in two places. A script needs all of
them, so the calls of its partition wait meanwhile: see moving.py. They are refused before they have
begun, because KEYS[1], the partition's prefix, is no key that could have moved first.
https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#client-and-server-roles
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, Protocol, cast

from gateway.errors import StoreUnavailable
from gateway.failure_log import FailureLog
from gateway.stores.redis.handshake import Address, LinkFailed, connect
from gateway.stores.redis.hearing import Hearing
from gateway.stores.redis.keys import slot_of
from gateway.stores.redis.link import Call, Link, Refused, Reply
from gateway.stores.redis.master import Master, Parts
from gateway.stores.redis.moving import Moving, Room
from gateway.stores.redis.single import fixed, refuse

logger = logging.getLogger(__name__)

#: Between two looks at the slots: if nothing seems wrong, and at least. Seconds.
_PERIOD: Final = 10.0
_PAUSE: Final = 0.2
#: What may wait for partitions that are being moved: calls, and bytes of them.
_MAX_CALLS: Final = 50_000
_MAX_BYTES: Final = 64 * 1024 * 1024
#: How many nodes are remembered to ask, should all masters be gone.
_MOST_SEEDS: Final = 100
_EPOCH: Final = re.compile(rb"cluster_my_epoch:(\d+)")


class Owner(Protocol):
    """Takes calls for a partition."""

    def send(self, call: Call) -> None:
        """Ask, or answer StoreUnavailable."""


class Nobody:
    """A partition that no master is known to have."""

    def send(self, call: Call) -> None:
        """See Owner."""
        error = StoreUnavailable("no server of the Cluster has this partition")
        asyncio.get_running_loop().call_soon(call[1], error)


class View:
    """What one node says: its own epoch, and which addresses have which slots."""

    def __init__(self, node: Address, epoch: int, slots: list[tuple[int, int, Address]]) -> None:
        self.node = node
        self.epoch = epoch
        self._slots = slots

    def owner(self, slot: int) -> Address | None:
        """Return who has a slot."""
        for first, last, address in self._slots:
            if first <= slot <= last:
                return address
        return None

    def addresses(self) -> set[Address]:
        """Return all masters."""
        return {address for _, _, address in self._slots}


class Cluster:
    """See Topology. `seeds` are any nodes."""

    def __init__(self, seeds: Iterable[Address], parts: Parts, hearing: Hearing) -> None:
        self._seeds = [*seeds]
        self._parts = parts
        self._hearing = hearing
        self._slots = [slot_of(number) for number in range(len(parts.prefixes))]
        self._masters: dict[Address, Master] = {}
        self._nobody = Nobody()
        self.owners: list[Owner] = [self._nobody] * len(parts.prefixes)
        self._movings: set[Moving] = set()
        self._failures = FailureLog(logger, time.monotonic)
        self._room = Room(_MAX_CALLS, _MAX_BYTES, lambda: parts.on_limit("store.moving"))
        #: Partitions whose owner has ended their subscriptions.
        self._unheard: set[int] = set()
        self._stale = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None

    @property
    def available(self) -> bool:
        """See Topology."""
        masters = self._masters.values()
        return self._nobody not in self.owners and all(master.writable for master in masters)

    async def open(self) -> None:
        """See Topology."""
        try:
            await self._refresh()
        except LinkFailed as failed:
            if failed.lasting:
                raise
            logger.warning("no node of the store's Cluster can be asked: %s", failed)
            self._stale.set()
        self._follower = asyncio.create_task(self._follow(), name="redis cluster")

    async def close(self) -> None:
        """See Topology."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        for moving in tuple(self._movings):
            moving.give_up()
        await asyncio.gather(*(master.close() for master in self._masters.values()))

    # What masters tell

    def on_up(self, master: Master) -> None:
        """See Watcher."""
        if master.server is not None:
            self._unheard -= master.partitions
            self._hearing.restored(master.partitions, master.server)
        for moving in tuple(self._movings):
            moving.try_to_end()

    def on_down(self, master: Master) -> None:
        """See Watcher."""
        self._hearing.lost(master.partitions)
        self._stale.set()

    def take_back(self, master: Master, call: Call, refused: Refused) -> bool:
        """See Watcher: what is refused waits until it is clear who has its partition."""
        partition = call[2]
        owner = self.owners[partition]
        if owner is master:
            owner = self._move(partition, master)
            self._stale.set()
        # With another owner later calls may have been run there.
        return isinstance(owner, Moving) and (
            owner.origin is master and owner.take_back(call, refused)
        )

    def on_elsewhere(self, master: Master, partition: int) -> None:
        """See Watcher."""
        if partition in master.partitions:
            self._stale.set()

    def on_unheard(self, master: Master, partition: int) -> None:
        """See Watcher."""
        if partition in master.partitions:
            self._unheard.add(partition)
            self._hearing.lost([partition])
            self._stale.set()

    # What the nodes tell

    async def _follow(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_PERIOD):
                    await self._stale.wait()
            except TimeoutError:
                pass
            self._stale.clear()
            try:
                await self._refresh()
            except (LinkFailed, StoreUnavailable) as failed:
                logger.debug("the Cluster's slots are not known: %s", failed)
                self._stale.set()
            except Exception as error:
                self._failures.note("following the Cluster's slots", error)
                self._stale.set()
            await asyncio.sleep(_PAUSE)

    async def _refresh(self) -> None:
        views = await self._views()
        owners = [self._decide(views, slot) for slot in self._slots]
        # First all changes of who has what, then what takes time.
        opened = [self._add(address) for address in {*owners} - {None, *self._masters}]
        moved: dict[Master, list[int]] = {}
        for partition, address in enumerate(owners):
            master = None if address is None else self._masters[address]
            if master is None:
                self._take_away(partition)
                if isinstance(self.owners[partition], Master):
                    self.owners[partition] = self._nobody
            elif partition not in master.partitions:
                self._take_away(partition)
                master.partitions.add(partition)
                self._give(partition, master)
                moved.setdefault(master, []).append(partition)
            elif partition in self._unheard:
                moved.setdefault(master, []).append(partition)
        in_use = {moving.origin for moving in self._movings}
        for address, master in [*self._masters.items()]:
            if not master.partitions and master not in in_use:
                del self._masters[address]
                await master.close()
        for master in opened:
            moved.pop(master, None)
        await asyncio.gather(*(master.open() for master in opened))
        for master, partitions in moved.items():
            await self._hear(master, partitions)
        if self._unheard or not all(map(self._is_up, self.owners)):
            self._stale.set()

    @staticmethod
    def _is_up(owner: Owner) -> bool:
        return isinstance(owner, Master) and owner.up

    def _add(self, address: Address | None) -> Master:
        assert address is not None  # noqa: S101 - the caller has taken None out
        master = Master(fixed(address), (), self._parts, self)
        self._masters[address] = master
        return master

    def _take_away(self, partition: int) -> None:
        holder = self._holder(partition)
        if holder is not None:
            holder.partitions.discard(partition)
            self._hearing.lost([partition])

    def _holder(self, partition: int) -> Master | None:
        masters = self._masters.values()
        return next((each for each in masters if partition in each.partitions), None)

    def _give(self, partition: int, master: Master) -> None:
        """Have a master take the calls of a partition, after those under way to another one."""
        owner = self.owners[partition]
        if isinstance(owner, Master) and owner is not master and owner.up:
            owner = self._move(partition, owner)
        if isinstance(owner, Moving):
            owner.target = master
            owner.try_to_end()
        else:
            self.owners[partition] = master

    def _move(self, partition: int, origin: Master) -> Moving:
        """Have the calls of a partition wait until nothing is under way to `origin`."""
        key, timeout = self._parts.prefixes[partition], self._parts.access.timeout
        moving = Moving(origin, partition, key, self._room, timeout, self._on_moved)
        self._movings.add(moving)
        self.owners[partition] = moving
        moving.start()
        return moving

    def _on_moved(self, moving: Moving, owner: Master | None) -> None:
        self._movings.discard(moving)
        owner = owner or self._holder(moving.partition)
        self.owners[moving.partition] = owner or self._nobody

    async def _hear(self, master: Master, partitions: list[int]) -> None:
        """Hear partitions that came to a master; one that is not up does it when it is."""
        self._unheard.update(partitions)
        server = master.server
        if not master.up or server is None:
            return
        try:
            await master.hear(partitions)
        except StoreUnavailable as error:
            logger.debug("channels are not heard: %s", error)
            return
        still = [each for each in partitions if each in master.partitions]
        self._unheard.difference_update(still)
        self._hearing.restored(still, server)

    def _decide(self, views: list[View], slot: int) -> Address | None:
        """Return who has a slot.

        A node knows best what it has itself; of two who say that they have it, the one of the
        higher epoch has: the other was cut off when it was replaced.
        """
        claims = [(view.epoch, view.node) for view in views if view.owner(slot) == view.node]
        if claims:
            return max(claims)[1]
        told = [(view.epoch, owner) for view in views if (owner := view.owner(slot)) is not None]
        return max(told)[1] if told else None

    async def _views(self) -> list[View]:
        """Ask all masters, old and new. Raises LinkFailed if no node can be asked."""
        up = {address: master for address, master in self._masters.items() if master.up}
        views = await _all(self._ask(address, master.ask) for address, master in up.items())
        if not views:
            views = [await self._first_view()]
        # One that others take for a master knows better what it has.
        known = set().union(*(view.addresses() for view in views))
        views += await _all(self._visit(address) for address in known - {*self._masters})
        self._seeds = [*dict.fromkeys((*known, *self._seeds))][:_MOST_SEEDS]
        return views

    async def _first_view(self) -> View:
        failed = LinkFailed("it has no nodes")
        for address in self._seeds:
            try:
                return await self._visit(address)
            except LinkFailed as error:
                failed = error
                if error.lasting:
                    break
            except StoreUnavailable as error:
                failed = LinkFailed(str(error))
        raise failed

    async def _visit(self, address: Address) -> View:
        access = self._parts.access
        link, server = await connect(address, access, lambda: Link(access.timeout, refuse))
        try:
            if not server.cluster:
                raise LinkFailed("it is no node of a Cluster; leave out cluster=1", lasting=True)
            return await self._ask(address, link.ask)
        finally:
            link.close()

    @staticmethod
    async def _ask(address: Address, ask: Callable[..., Awaitable[Reply]]) -> View:
        return view_of(address, await ask("CLUSTER", "INFO"), await ask("CLUSTER", "SLOTS"))


async def _all(asked: Iterable[Coroutine[Any, Any, View]]) -> list[View]:
    answers = await asyncio.gather(*asked, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(
            answer, LinkFailed | StoreUnavailable
        ):
            raise answer
    return [answer for answer in answers if isinstance(answer, View)]


def view_of(node: Address, info: Reply, slots: Reply) -> View:
    """Return what a node says by CLUSTER INFO and CLUSTER SLOTS.

    It leaves out its own host if it does not know it. Raises LinkFailed if it makes no sense.
    """
    try:
        epoch = _EPOCH.search(cast("bytes", info))
        ranges = []
        for entry in cast("list[Any]", slots):
            first, last, (host, port, *_) = entry[:3]
            ranges.append((first, last, (host.decode() if host else node[0], port)))
        return View(node, int(epoch[1]) if epoch else 0, ranges)
    except (TypeError, ValueError, AttributeError, IndexError):
        raise LinkFailed("a node of the Cluster gave an answer that makes no sense") from None
