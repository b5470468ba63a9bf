"""A server that is written to: a link that is made anew when it ends, and whether it may write."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from gateway.circuit import Backoff
from gateway.errors import StoreUnavailable
from gateway.failure_log import FailureLog
from gateway.stores.redis.handshake import Access, Address, LinkFailed, Server, connect
from gateway.stores.redis.link import NO_PARTITION, Call, Link, Refused, pack
from gateway.stores.redis.scripts import load_all

logger = logging.getLogger(__name__)

#: The first try again, and the longest pause between two. Seconds.
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
#: Between two looks whether a server that refused writes takes them again, in seconds.
_PROBE_PAUSE: Final = 1.0
#: A server that answers so takes no writes for now: memory is full (OOM), the disk is (MISCONF),
#: too few replicas (NOREPLICAS), it is no master any more (READONLY, MASTERDOWN), it starts
#: (LOADING), or is not alone responsible (the others).
_NO_WRITES: Final = frozenset(
    {
        *("OOM", "MISCONF", "NOREPLICAS", "READONLY", "MASTERDOWN", "LOADING", "BUSY"),
        *("CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN"),
    }
)


class Master:
    """Keeps a link to the server at `address`. `send` asks it, whatever its state.

    `probe_key` may be written to find out whether the server takes writes. `random` returns
    numbers from 0 to 1.
    """

    def __init__(
        self, address: Address, access: Access, probe_key: bytes, random: Callable[[], float]
    ) -> None:
        self.address = address
        self.send: Callable[[Call], None] = self._refuse
        #: The server takes writes, as far as is known.
        self.writable = False
        self._access = access
        self._probe_key = probe_key
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, random)
        self._failures = FailureLog(logger, time.monotonic)
        self._link: Link | None = None
        self._probe: asyncio.TimerHandle | None = None
        self._told = ""
        self._task: asyncio.Task[None] | None = None
        self._returned: list[Call] = []
        self._held: list[Call] = []

    async def open(self) -> None:
        """Connect, and stay so from now on. Raises LinkFailed if that will never do.

        A server that is out of reach is tried again, and no error.
        """
        try:
            await self._connect()
        except LinkFailed as failed:
            if failed.lasting:
                raise
            self._tell(str(failed))
        self._task = asyncio.create_task(self._keep(), name=f"redis {self._where}")

    async def close(self) -> None:
        """End the link; what waits is told StoreUnavailable."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._link is not None:
            self._link.close("the gateway stops")
        self._down()
        # The transport closes its socket in the next turn.
        await asyncio.sleep(0)

    @property
    def _where(self) -> str:
        host, port = self.address
        return f"{host}:{port}"

    # The link

    async def _keep(self) -> None:
        failures = 0
        while True:
            if self._link is not None:
                failures = 0
                self._tell(await self._link.ended)
                self._down()
            failures += 1
            await asyncio.sleep(self._backoff.pause(failures))
            try:
                await self._connect()
            except LinkFailed as failed:
                self._tell(str(failed))

    async def _connect(self) -> None:
        link, server = await connect(
            self.address,
            self._access,
            lambda: Link(self._access.timeout, self._on_refused),
        )
        try:
            self._check(server)
            loads = [link.ask("SCRIPT", "LOAD", script.source) for script in load_all()]
            await asyncio.gather(*loads)
        except LinkFailed:
            link.close()
            raise
        except StoreUnavailable as error:
            link.close()
            raise LinkFailed(str(error), lasting=isinstance(error, Refused)) from None
        self._up(link)

    def _check(self, server: Server) -> None:
        if not server.master:
            raise LinkFailed("it is a replica, and takes no writes")
        if server.evicts:
            raise LinkFailed(
                "it forgets keys when its memory is full; set maxmemory-policy to noeviction",
                lasting=True,
            )

    def _up(self, link: Link) -> None:
        self._link = link
        self.send = link.send
        self.writable = link.open
        if self._told:
            self._told = ""
            logger.info("the store at %s is back", self._where)

    def _down(self) -> None:
        self.writable = False
        self.send = self._refuse
        self._link = None
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        returned, self._returned = self._returned, []
        held, self._held = self._held, []
        for call in (*returned, *held):
            self._refuse(call)

    def _refuse(self, call: Call) -> None:
        error = StoreUnavailable("the store is out of reach")
        asyncio.get_running_loop().call_soon(call[1], error)

    def _tell(self, reason: str) -> None:
        # Once for each reason in a row: it is tried many times a minute.
        if reason != self._told:
            self._told = reason
            logger.warning("the store at %s is out of reach: %s", self._where, reason)

    # What the server refuses

    def _on_refused(self, call: Call, refused: Refused) -> None:
        link = self._link
        if refused.code == "NOSCRIPT" and link is not None:
            self._load_again(link, call)
            return
        call[1](refused)
        if refused.code in _NO_WRITES:
            self._stop_writes(refused)
        else:
            what = "a command of the store" if call[3] is None else f"the script {call[3].name}"
            self._failures.note(what, refused)

    def _load_again(self, link: Link, call: Call) -> None:
        """Load a script that the server has forgotten, and repeat what needs it.

        All that is under way on the link is answered before the script is there. What is asked
        meanwhile waits behind what is repeated.
        """
        first = not self._returned
        self._returned.append(call)
        if not first:
            return
        self.send = self._held.append

        def loaded(reply: object) -> None:
            if isinstance(reply, StoreUnavailable):
                link.close(f"it did not load a script: {reply}")

        def again(reply: object) -> None:
            returned, self._returned = self._returned, []
            held, self._held = self._held, []
            self.send = link.send
            for source in dict.fromkeys(each[3].source for each in returned if each[3]):
                link.send((pack(("SCRIPT", "LOAD", source)), loaded, NO_PARTITION, None))
            for each in (*returned, *held):
                link.send(each)

        link.send((pack(("PING",)), again, NO_PARTITION, None))

    def _stop_writes(self, refused: Refused) -> None:
        if self.writable:
            self.writable = False
            logger.warning("the store at %s takes no writes: %s", self._where, refused.text)
        if refused.code == "READONLY" and self._link is not None:
            self._link.close("it has become a replica")
        elif self._probe is None:
            loop = asyncio.get_running_loop()
            self._probe = loop.call_later(_PROBE_PAUSE, self._try_write)

    def _try_write(self) -> None:
        link = self._link
        self._probe = None
        if link is None:
            return

        def tried(reply: object) -> None:
            if link is not self._link:
                return
            if isinstance(reply, StoreUnavailable):
                self._probe = asyncio.get_running_loop().call_later(_PROBE_PAUSE, self._try_write)
            else:
                self.writable = True
                logger.info("the store at %s takes writes again", self._where)

        words = pack(("SET", self._probe_key, "1", "PX", 1000))
        link.send((words, tried, NO_PARTITION, None))
