"""What the store asks of Redis: calls of scripts and commands, each for one partition."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from gateway.errors import ConfigError
from gateway.store_url import RedisUrl
from gateway.stores.redis.handshake import LinkFailed, access_of
from gateway.stores.redis.keys import PARTITIONS, prefix_of
from gateway.stores.redis.link import Done, Reply, Word, pack, settle
from gateway.stores.redis.master import Master
from gateway.stores.redis.scripts import Script

__all__ = ["Done", "OnMessage", "Redis", "Reply", "Word"]

#: Takes a partition, a channel (without the partition's prefix) and what was published there.
OnMessage: TypeAlias = Callable[[int, bytes, bytes], None]


class Redis:
    """The servers behind a URL.

    A player or room belongs to one of `partitions`; tests take fewer. `on_lost` is told of
    partitions whose channels are not heard any more; `on_restored` that they are again, and
    whether by the same server: if not, the last that was acknowledged may be lost. Both are
    called on the loop.
    """

    def __init__(self, url: RedisUrl, partitions: int = PARTITIONS) -> None:
        self.partitions = partitions
        self.on_lost: Callable[[frozenset[int]], None] = _ignore_lost
        self.on_restored: Callable[[frozenset[int], bool], None] = _ignore_restored
        self._prefixes = [prefix_of(url.prefix, number) for number in range(partitions)]
        try:
            access = access_of(url)
        except OSError as error:
            raise ConfigError(f"store.url: a file for TLS cannot be used: {error}") from None
        probe_key = self._prefixes[0] + b"probe"
        chance = random.Random().random  # noqa: S311 - it spreads tries, and keeps no secret
        self._master = Master(url.hosts[0], access, probe_key, chance)
        self._masters = [self._master] * partitions

    @property
    def available(self) -> bool:
        """Whether every partition can be read and written, as far as is known."""
        return self._master.writable

    async def open(self) -> None:
        """Connect; a server that is out of reach is tried again from then on.

        Raises ConfigError when trying again is of no use: a wrong password, an old version.
        """
        try:
            await self._master.open()
        except LinkFailed as failed:
            raise ConfigError(f"store.url: the server cannot be used: {failed}") from None

    async def close(self) -> None:
        """End all links; what waits is told StoreUnavailable."""
        await self._master.close()

    def prefix(self, partition: int) -> bytes:
        """Return what the keys of a partition begin with."""
        return self._prefixes[partition]

    def call(self, partition: int, script: Script, args: Sequence[Word], done: Done) -> None:
        """Run a script on a partition, then call `done`, in a later turn of the loop.

        KEYS[1] is the partition's prefix. Calls to a partition are run and answered in order.
        `done` gets StoreUnavailable if the call was not sent, was refused, or has no answer
        within the timeout: in the last case it may have been run.
        """
        words = (b"EVALSHA", script.sha, b"1", self._prefixes[partition], *args)
        self._masters[partition].send((pack(words), done, partition, script))

    async def ask(self, partition: int, script: Script, args: Sequence[Word] = ()) -> Reply:
        """Run a script as `call` does, and return its answer. Raises StoreUnavailable."""
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.call(partition, script, args, settle(answer))
        return await answer

    def command(self, partition: int, *words: Word, done: Done) -> None:
        """Run a plain command, whose keys are all of the partition; otherwise as `call`."""
        self._masters[partition].send((pack(words), done, partition, None))

    def listen(
        self, partition_channels: Iterable[tuple[int, bytes]], on_message: OnMessage
    ) -> None:
        """Hear what is published on these channels of partitions, from `open` on."""
        self._channels = [*partition_channels]
        self._on_message = on_message


def _ignore_lost(partitions: frozenset[int]) -> None:
    """Nobody wants to know."""


def _ignore_restored(partitions: frozenset[int], same_server: bool) -> None:
    """Nobody wants to know."""
