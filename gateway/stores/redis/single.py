"""One master for all partitions: at a fixed address, or where Sentinels say."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from gateway.errors import StoreUnavailable
from gateway.failure_log import FailureLog
from gateway.stores.redis.handshake import Access, Address, LinkFailed, connect
from gateway.stores.redis.hearing import Hearing
from gateway.stores.redis.link import Call, Link, Refused
from gateway.stores.redis.master import Master, Parts

logger = logging.getLogger(__name__)

#: Between two questions to the Sentinels, in seconds.
_PAUSE: Final = 1.0


class Single:
    """See Topology."""

    def __init__(
        self, locate: Callable[[], Awaitable[Address]], parts: Parts, hearing: Hearing
    ) -> None:
        self.master = Master(locate, range(len(parts.prefixes)), parts, self)
        self.owners = [self.master] * len(parts.prefixes)
        self._hearing = hearing

    @property
    def available(self) -> bool:
        """See Topology."""
        return self.master.writable

    async def open(self) -> None:
        """See Topology."""
        await self.master.open()

    async def close(self) -> None:
        """See Topology."""
        await self.master.close()

    def on_up(self, master: Master) -> None:
        """See Watcher."""
        if master.server is not None:
            self._hearing.restored(master.partitions, master.server)

    def on_down(self, master: Master) -> None:
        """See Watcher."""
        self._hearing.lost(master.partitions)

    def take_back(self, master: Master, call: Call, refused: Refused) -> bool:
        """See Watcher: there is no other."""
        return False

    def on_elsewhere(self, master: Master, partition: int) -> None:
        """See Watcher: there is no other."""

    def on_unheard(self, master: Master, partition: int) -> None:
        """See Watcher."""
        master.reconnect("it has ended a subscription")


def fixed(address: Address) -> Callable[[], Awaitable[Address]]:
    """Return what always finds this address."""

    async def locate() -> Address:
        return address

    return locate


class Sentinels:
    """Asks Sentinels where the master is that they know as `service`.

    They may differ while one is cut off or a master is being replaced: the latest decision
    counts, which has the highest epoch.
    https://redis.io/docs/latest/develop/reference/sentinel-clients/
    """

    def __init__(self, hosts: tuple[Address, ...], service: str, access: Access) -> None:
        self._service = service
        self._access = access
        self._links: dict[Address, Link | None] = dict.fromkeys(hosts)
        self._follower: asyncio.Task[None] | None = None
        self._failures = FailureLog(logger, time.monotonic)

    async def locate(self) -> Address:
        """Return the master's address. Raises LinkFailed if no Sentinel knows it."""
        answers = await asyncio.gather(
            *(self._ask(address) for address in self._links), return_exceptions=True
        )
        known = []
        reason = ""
        for answer in answers:
            if isinstance(answer, tuple):
                known.append(answer)
            elif isinstance(answer, LinkFailed | StoreUnavailable):
                reason = str(answer)
            else:
                raise answer
        if not known:
            raise LinkFailed(f"no Sentinel tells where {self._service} is: {reason}")
        return max(known)[1]

    async def _ask(self, address: Address) -> tuple[int, Address]:
        link = self._links[address]
        if link is None or not link.open:
            link = self._links[address] = await self._connect(address)
        reply = await link.ask("SENTINEL", "MASTER", self._service)
        if not isinstance(reply, list):
            raise LinkFailed("a Sentinel gave an answer that makes no sense")
        words = [each.decode() if isinstance(each, bytes) else "" for each in reply]
        about = dict(zip(words[::2], words[1::2], strict=False))
        try:
            return int(about["config-epoch"]), (about["ip"], int(about["port"]))
        except (KeyError, ValueError):
            raise LinkFailed("a Sentinel gave an answer that makes no sense") from None

    async def _connect(self, address: Address) -> Link:
        # Sentinels have databases and passwords of their own: mostly none.
        access = replace(self._access, database=0, password="")
        try:
            return (await connect(address, access, self._new_link))[0]
        except LinkFailed:
            if not self._access.password:
                raise
        return (await connect(address, replace(self._access, database=0), self._new_link))[0]

    def _new_link(self) -> Link:
        return Link(self._access.timeout, refuse)

    def follow(self, master: Master) -> None:
        """Send the master elsewhere when the Sentinels have made another one it."""
        self._follower = asyncio.create_task(self._follow(master), name="redis sentinels")

    async def _follow(self, master: Master) -> None:
        while True:
            await asyncio.sleep(_PAUSE)
            try:
                address = await self.locate()
            except LinkFailed as failed:
                logger.debug("%s", failed)
            except Exception as error:
                self._failures.note("asking the Sentinels", error)
            else:
                if master.server is not None and address != master.address:
                    master.reconnect("{}:{} is the master now".format(*address))

    async def close(self) -> None:
        """End the links."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        for link in self._links.values():
            if link is not None:
                link.close("the gateway stops")
        await asyncio.sleep(0)


class Followed(Single):
    """A master that Sentinels name."""

    def __init__(self, sentinels: Sentinels, parts: Parts, hearing: Hearing) -> None:
        super().__init__(sentinels.locate, parts, hearing)
        self._sentinels = sentinels

    async def open(self) -> None:
        """See Topology."""
        await super().open()
        self._sentinels.follow(self.master)

    async def close(self) -> None:
        """See Topology."""
        await self._sentinels.close()
        await super().close()


def refuse(call: Call, refused: Refused) -> None:
    """Tell who asked, and do nothing else about it."""
    call[1](refused)
