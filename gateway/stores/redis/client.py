"""What the store asks of Redis: calls of scripts and commands, each for one partition."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from gateway.errors import ConfigError, StoreUnavailable
from gateway.store_url import RedisUrl
from gateway.stores.limits import OnLimit, ignore_limit
from gateway.stores.redis.batch import Batch, PartDone
from gateway.stores.redis.cluster import Cluster, Owner
from gateway.stores.redis.handshake import LinkFailed, access_of
from gateway.stores.redis.hearing import Hearing
from gateway.stores.redis.keys import PARTITIONS, prefix_of
from gateway.stores.redis.link import Done, Reply, Word, pack, settle
from gateway.stores.redis.master import Parts
from gateway.stores.redis.scripts import Script
from gateway.stores.redis.single import Followed, Sentinels, Single, fixed
from gateway.stores.redis.subscriber import Channels, OnMessage

__all__ = ["Done", "OnMessage", "Redis", "Reply", "Word"]

#: Parts of batches that may wait for an answer; beyond it they are refused.
_MAX_PARTS: Final = 50_000


class Topology(Protocol):
    """Who has which partition."""

    @property
    def owners(self) -> Sequence[Owner]:
        """Who takes the calls, by partition; always the same object."""

    @property
    def available(self) -> bool:
        """Whether all partitions can be written, as far as is known."""

    async def open(self) -> None:
        """Connect. Raises LinkFailed if trying again is of no use."""

    async def close(self) -> None:
        """End all links."""


class Redis:
    """The servers behind a URL.

    A player or room belongs to one of `partitions`; tests take fewer. `on_lost` is told of
    partitions whose channels are not heard any more; `on_restored` that they are again, and
    whether by the same server: if not, the last that was acknowledged may be lost. Both are
    called on the loop, and so is `on_limit`, see OnLimit. Raises ConfigError for files of TLS that
    cannot be used.
    """

    def __init__(
        self, url: RedisUrl, partitions: int = PARTITIONS, on_limit: OnLimit = ignore_limit
    ) -> None:
        self.partitions = partitions
        self.on_lost: Callable[[frozenset[int]], None] = _ignore_lost
        self.on_restored: Callable[[frozenset[int], bool], None] = _ignore_restored
        self._hearing = Hearing(self)
        self._prefixes = tuple(prefix_of(url.prefix, number) for number in range(partitions))
        self._channels = Channels(self._prefixes)
        self._topology = _topology(url, self._prefixes, self._channels, self._hearing, on_limit)
        self._owners = self._topology.owners
        #: Whether all calls are answered in order, not only those to one partition.
        self.ordered = url.mode != "cluster"
        #: Whether answers count only when replicas have what was written before.
        self.waits = bool(url.wait)
        self._on_limit = on_limit
        self._batch: Batch | None = None
        self._parts = 0

    @property
    def available(self) -> bool:
        """Whether every partition can be read and written, as far as is known."""
        return self._topology.available

    async def open(self) -> None:
        """Connect; a server that is out of reach is tried again from then on.

        `on_restored` is not told of what is heard by the end of this. Raises ConfigError when
        trying again is of no use: a wrong password, an old version.
        """
        try:
            await self._topology.open()
        except LinkFailed as failed:
            await self._topology.close()
            raise ConfigError(f"store.url: the server cannot be used: {failed}") from None
        self._hearing.opened()

    async def close(self) -> None:
        """End all links; what waits is told StoreUnavailable."""
        await self._topology.close()

    def prefix(self, partition: int) -> bytes:
        """Return what the keys of a partition begin with."""
        return self._prefixes[partition]

    def call(self, partition: int, script: Script, args: Sequence[Word], done: Done) -> None:
        """Run a script on a partition, then call `done`, in a later turn of the loop.

        KEYS[1] is the partition's prefix. Calls to a partition are run and answered in order.
        `done` gets StoreUnavailable if the call was not sent, was refused, or has no answer
        within the timeout: in the last case it may have been run.
        """
        self._flush()
        words = (b"EVALSHA", script.sha, b"1", self._prefixes[partition], *args)
        self._owners[partition].send((pack(words), done, partition, script))

    def add(
        self,
        partition: int,
        script: Script,
        head: Sequence[Word],
        words: Sequence[Word],
        size: int,
        done: PartDone,
    ) -> None:
        """Run a script that takes the arguments of many such calls at once, its parts.

        It returns a list with two answers for each. `done` takes them, or StoreUnavailable and 0;
        otherwise as `call`. `head` is an object that all parts share; `words` follow, of about
        `size` bytes together. KEYS[1] is the prefix of the first part. A server of a Cluster gets
        parts of one partition at once.
        """
        batch = self._batch
        group = 0 if self.ordered else partition
        if batch is None or batch.group != group or batch.head is not head:
            if self._parts >= _MAX_PARTS:
                self._on_limit("store.calls")
                error = StoreUnavailable("too much waits for the store")
                asyncio.get_running_loop().call_soon(done, error, 0)
                return
            self._flush()
            asyncio.get_running_loop().call_soon(self._flush)
            batch = self._batch = Batch(script, head, group, partition, self._prefixes[partition])
        batch.add(words, size, done)
        if batch.full:
            self._flush()

    def _flush(self) -> None:
        """Ask what has been put into a batch: at the end of the turn, or before what comes next."""
        batch, self._batch = self._batch, None
        if batch is None:
            return
        self._parts += len(batch)

        def done(reply: Reply | StoreUnavailable) -> None:
            self._parts -= len(batch)
            batch.done(reply)

        call = (pack(tuple(batch.words)), done, batch.partition, batch.script)
        self._owners[batch.partition].send(call)

    async def ask(self, partition: int, script: Script, args: Sequence[Word] = ()) -> Reply:
        """Run a script as `call` does, and return its answer. Raises StoreUnavailable."""
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.call(partition, script, args, settle(answer))
        return await answer

    def command(self, partition: int, *words: Word, done: Done) -> None:
        """Run a plain command, whose keys are all of the partition; otherwise as `call`."""
        self._flush()
        self._owners[partition].send((pack(words), done, partition, None))

    def listen(
        self, partition_channels: Iterable[tuple[int, bytes]], on_message: OnMessage
    ) -> None:
        """Hear what is published on these channels of partitions; to be called before `open`.

        They are heard when `open` returns, if the servers are in reach, and whenever
        `on_restored` says so.
        """
        self._channels.add(partition_channels, on_message)


def _topology(
    url: RedisUrl,
    prefixes: tuple[bytes, ...],
    channels: Channels,
    hearing: Hearing,
    on_limit: OnLimit,
) -> Topology:
    try:
        access = access_of(url)
    except OSError as error:
        raise ConfigError(f"store.url: a file for TLS cannot be used: {error}") from None
    chance = random.Random().random  # noqa: S311 - it spreads tries, and keeps no secret
    cluster = url.mode == "cluster"
    parts = Parts(access, cluster, url.wait, url.wait_timeout, prefixes, channels, chance, on_limit)
    if cluster:
        return Cluster(url.hosts, parts, hearing)
    if url.mode == "sentinel":
        return Followed(Sentinels(url.hosts, url.service, access), parts, hearing)
    return Single(fixed(url.hosts[0]), parts, hearing)


def _ignore_lost(partitions: frozenset[int]) -> None:
    """Nobody wants to know."""


def _ignore_restored(partitions: frozenset[int], same_server: bool) -> None:
    """Nobody wants to know."""
