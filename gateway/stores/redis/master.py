"""A server that is written to: links that are made anew when they end, and whether it may write."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.circuit import Backoff
from gateway.errors import StoreUnavailable
from gateway.failure_log import FailureLog
from gateway.stores.limits import OnLimit
from gateway.stores.redis import subscriber
from gateway.stores.redis.handshake import (
    Access,
    Address,
    LinkFailed,
    Server,
    connect,
    is_lasting,
)
from gateway.stores.redis.link import (
    NO_PARTITION,
    Call,
    Link,
    Refused,
    ReplicatedLink,
    Reply,
    Word,
    pack,
)
from gateway.stores.redis.scripts import load_all
from gateway.stores.redis.subscriber import Channels, SubscriberLink

logger = logging.getLogger(__name__)

#: The first try again, and the longest pause between two. Seconds.
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
#: Between two looks whether a server takes writes, in seconds: who asks little finds out, too.
_PROBE_PAUSE: Final = 1.0
#: A server that answers so takes no writes for now: memory is full (OOM), the disk is (MISCONF),
#: too few replicas have it (NOREPLICAS), it is no master any more (READONLY, MASTERDOWN), it
#: starts (LOADING) or is at something else (BUSY, TRYAGAIN), its Cluster is not whole.
_NO_WRITES: Final = frozenset(
    {
        *("OOM", "MISCONF", "NOREPLICAS", "READONLY", "MASTERDOWN", "LOADING", "BUSY"),
        *("TRYAGAIN", "CLUSTERDOWN"),
    }
)
#: It has not got the partition, or not all of it: a Cluster moves it.
_ELSEWHERE: Final = frozenset({"MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN"})
_REDIRECTED: Final = frozenset({"MOVED", "ASK"})


class Watcher(Protocol):
    """Is told what becomes of a master."""

    def on_up(self, master: Master) -> None:
        """It can be asked, and all channels of its partitions are heard."""

    def on_down(self, master: Master) -> None:
        """Neither holds any more."""

    def take_back(self, master: Master, call: Call, refused: Refused) -> bool:
        """It has not got the partition of this call: return whether the call is seen to."""

    def on_elsewhere(self, master: Master, partition: int) -> None:
        """It has not got this partition, which it was thought to have."""

    def on_unheard(self, master: Master, partition: int) -> None:
        """It has ended the subscription of a channel of this partition."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What all masters of a store have in common. `random` returns numbers from 0 to 1.

    `wait` replicas must have what was written, within `wait_timeout` seconds.
    """

    access: Access
    cluster: bool
    wait: int
    wait_timeout: float
    prefixes: tuple[bytes, ...]
    channels: Channels
    random: Callable[[], float]
    on_limit: OnLimit


class Master:
    """Keeps a link to the server that `locate` finds, and one that hears its channels.

    They go together: when one ends, so does the other. `send` asks the server, whatever its
    state. `partitions` are those that are here; what they are is up to the owner.
    """

    def __init__(
        self,
        locate: Callable[[], Awaitable[Address]],
        partitions: Iterable[int],
        parts: Parts,
        watcher: Watcher,
    ) -> None:
        self.send: Callable[[Call], None] = self._refuse
        #: The server takes writes, as far as is known.
        self.writable = False
        self.partitions = set(partitions)
        #: What the server said of itself at the last connect.
        self.server: Server | None = None
        self.address: Address | None = None
        self._locate = locate
        self._parts = parts
        self._watcher = watcher
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, parts.random)
        self._failures = FailureLog(logger, time.monotonic)
        self._link: Link | None = None
        self._subscriber: SubscriberLink | None = None
        self._probe: asyncio.TimerHandle | None = None
        self._told = ""
        self._task: asyncio.Task[None] | None = None
        self._returned: list[Call] = []
        self._held: list[Call] = []

    async def open(self) -> None:
        """Connect, and stay so from now on.

        A server that is out of reach is tried again, and no error. Raises LinkFailed if that is
        of no use; it is tried all the same.
        """
        try:
            await self._connect()
        except LinkFailed as failed:
            self._tell(str(failed))
            if failed.lasting:
                raise
        finally:
            self._task = asyncio.create_task(self._keep(), name="redis link")

    async def close(self) -> None:
        """End the links; what waits is told StoreUnavailable."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._disconnect("it is not used any more")
        # The transports close their sockets in the next turn.
        await asyncio.sleep(0)

    def reconnect(self, reason: str) -> None:
        """End the links; new ones go where `locate` says then."""
        if self._link is not None:
            self._link.close(reason)

    @property
    def up(self) -> bool:
        """It can be asked."""
        return self._link is not None

    async def ask(self, *words: Word) -> Reply:
        """Return the answer of a plain command about the server. Raises StoreUnavailable."""
        if self._link is None:
            raise StoreUnavailable("the store is out of reach")
        return await self._link.ask(*words)

    async def hear(self, partitions: Iterable[int]) -> None:
        """Hear the channels of partitions that have come here. Raises StoreUnavailable."""
        if self._subscriber is None:
            raise StoreUnavailable("the store is out of reach")
        await self._subscriber.subscribe(self._parts.channels.names(partitions))

    # The links

    async def _keep(self) -> None:
        failures = 0
        while True:
            if self._link is not None and self._subscriber is not None:
                failures = 0
                ends = [self._link.ended, self._subscriber.ended]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                reason = next(end.result() for end in ends if end.done())
                self._tell(reason)
                self._disconnect(reason)
            failures += 1
            await asyncio.sleep(self._backoff.pause(failures))
            try:
                await self._connect()
            except LinkFailed as failed:
                self._tell(str(failed))
            except Exception as error:
                self._failures.note("connecting to the store", error)

    async def _connect(self) -> None:
        self.address = await self._locate()
        access, parts = self._parts.access, self._parts
        link, server = await connect(self.address, access, self._new_link)
        hearing = None
        try:
            self._check(server)
            await asyncio.gather(
                *(link.ask("SCRIPT", "LOAD", script.source) for script in load_all())
            )
            hearing, same = await connect(
                self.address,
                access,
                lambda: SubscriberLink(access.timeout, parts.channels.hear, self._on_unsubscribed),
                subscriber.PROTOCOL,
            )
            await hearing.subscribe(parts.channels.names(self.partitions))
            if (same.run_id, same.history) != (server.run_id, server.history):
                raise LinkFailed("it was replaced just now")
        except BaseException as error:
            link.close()
            if hearing is not None:
                hearing.close()
            if isinstance(error, StoreUnavailable):
                lasting = isinstance(error, Refused) and is_lasting(error)
                raise LinkFailed(str(error), lasting=lasting) from None
            raise
        self._up(link, hearing, server)

    def _check(self, server: Server) -> None:
        if server.cluster != self._parts.cluster:
            what = "a node of a Cluster" if server.cluster else "no node of a Cluster"
            hint = "add ?cluster=1" if server.cluster else "leave out cluster=1"
            raise LinkFailed(f"it is {what}; {hint}", lasting=True)
        if not server.master:
            raise LinkFailed("it is a replica, and takes no writes")
        if server.evicts:
            raise LinkFailed(
                "it forgets keys when its memory is full; set maxmemory-policy to noeviction",
                lasting=True,
            )

    def _new_link(self) -> Link:
        timeout, parts = self._parts.access.timeout, self._parts
        link = (
            ReplicatedLink(timeout, self._on_refused, parts.wait, parts.wait_timeout, self._a_write)
            if parts.wait
            else Link(timeout, self._on_refused)
        )
        link.on_full = functools.partial(parts.on_limit, "store.calls")
        return link

    def _a_write(self) -> bytes:
        """Return a command that writes something, where this server has anything."""
        prefix = self._parts.prefixes[next(iter(self.partitions), 0)]
        return pack(("SET", prefix + b"probe", "1", "PX", 1000))

    def _up(self, link: Link, hearing: SubscriberLink, server: Server) -> None:
        self._link, self._subscriber, self.server = link, hearing, server
        self.send = link.send
        self.writable = link.open and hearing.open
        self._probe_later()
        if self._told:
            self._told = ""
            logger.info("the store at %s is back", self._where)
        self._watcher.on_up(self)

    def _disconnect(self, reason: str) -> None:
        link, hearing = self._link, self._subscriber
        if link is None or hearing is None:
            return
        self.writable = False
        self.send = self._refuse
        self._link = self._subscriber = None
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        link.close(reason)
        hearing.close(reason)
        returned, self._returned = self._returned, []
        held, self._held = self._held, []
        for call in (*returned, *held):
            self._refuse(call)
        self._watcher.on_down(self)

    def _refuse(self, call: Call) -> None:
        error = StoreUnavailable("the store is out of reach")
        asyncio.get_running_loop().call_soon(call[1], error)

    @property
    def _where(self) -> str:
        return "?" if self.address is None else "{}:{}".format(*self.address)

    def _tell(self, reason: str) -> None:
        # Once for each reason in a row: it is tried many times a minute.
        if reason != self._told:
            self._told = reason
            logger.warning("the store at %s is out of reach: %s", self._where, reason)

    def _on_unsubscribed(self, name: bytes) -> None:
        partition = self._parts.channels.partition(name)
        if partition is not None:
            self._watcher.on_unheard(self, partition)

    # What the server refuses

    def _on_refused(self, call: Call, refused: Refused) -> None:
        link = self._link
        if refused.code == "NOSCRIPT" and link is not None:
            self._load_again(link, call)
            return
        if refused.code in _REDIRECTED and self._watcher.take_back(self, call, refused):
            return
        call[1](refused)
        if refused.code in _NO_WRITES:
            self._stop_writes(refused)
        elif refused.code not in _ELSEWHERE:
            what = "a command of the store" if call[3] is None else f"the script {call[3].name}"
            self._failures.note(what, refused)
        if refused.code in _ELSEWHERE:
            self._watcher.on_elsewhere(self, call[2])

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
            if isinstance(reply, StoreUnavailable):
                return
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
        if refused.code == "READONLY":
            self.reconnect("it has become a replica")
        else:
            self._probe_later()

    def _probe_later(self) -> None:
        if self._probe is None:
            loop = asyncio.get_running_loop()
            self._probe = loop.call_later(_PROBE_PAUSE, self._try_write)

    def _try_write(self) -> None:
        link, partition = self._link, min(self.partitions, default=None)
        self._probe = None
        if link is None:
            return
        if partition is None:
            self._probe_later()
            return

        def tried(reply: object) -> None:
            if link is not self._link:
                return
            self._probe_later()
            if not self.writable and not isinstance(reply, StoreUnavailable):
                self.writable = True
                logger.info("the store at %s takes writes again", self._where)

        key = self._parts.prefixes[partition] + b"probe"
        link.send((pack(("SET", key, "1", "PX", 1000)), tried, partition, None))
