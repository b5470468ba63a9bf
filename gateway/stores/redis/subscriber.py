"""Channels: what other nodes publish comes by a link of its own.

Sharded pub/sub: a channel belongs to a partition as a key does, and is heard on its master.
https://redis.io/docs/latest/develop/interact/pubsub/#sharded-pubsub
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

import hiredis

from gateway.stores.redis.link import NO_PARTITION, Call, Link, Refused, pack, settle

logger = logging.getLogger(__name__)

#: Takes a partition, a channel (without the partition's prefix) and what was published there.
OnMessage: TypeAlias = Callable[[int, bytes, bytes], None]

#: The version of Redis' protocol in which what is published is told from answers.
PROTOCOL: Final = 3


class Channels:
    """What is to be heard, by partition; `hear` is told of it."""

    def __init__(self, prefixes: Sequence[bytes]) -> None:
        self._prefixes = prefixes
        self._places: dict[bytes, tuple[int, bytes, OnMessage]] = {}
        self._names: dict[int, list[bytes]] = {}

    def add(self, channels: Iterable[tuple[int, bytes]], on_message: OnMessage) -> None:
        """Add channels of partitions; what is published there goes to `on_message`."""
        for partition, channel in channels:
            name = self._prefixes[partition] + channel
            if name not in self._places:
                self._places[name] = (partition, channel, on_message)
                self._names.setdefault(partition, []).append(name)

    def names(self, partitions: Iterable[int]) -> list[bytes]:
        """Return the full names of the channels of partitions."""
        return [name for each in partitions for name in self._names.get(each, ())]

    def partition(self, name: bytes) -> int | None:
        """Return whose channel it is, None if it is none of these."""
        place = self._places.get(name)
        return None if place is None else place[0]

    def hear(self, name: bytes, payload: bytes) -> None:
        """Take what was published."""
        place = self._places.get(name)
        if place is not None:
            partition, channel, on_message = place
            on_message(partition, channel, payload)


class SubscriberLink(Link):
    """A link that hears channels. `on_ended` is told when the server ends a subscription.

    It does so when a Cluster has moved the channel's slot to another server.
    """

    def __init__(
        self,
        timeout: float,
        hear: Callable[[bytes, bytes], None],
        on_ended: Callable[[bytes], None],
    ) -> None:
        super().__init__(timeout, _settle_refused)
        self._hear = hear
        self._on_ended = on_ended

    async def subscribe(self, names: Iterable[bytes]) -> None:
        """Hear these channels, before it returns. Raises Refused or StoreUnavailable."""
        loop = asyncio.get_running_loop()
        answers = []
        for name in names:
            answer = loop.create_future()
            # One by one: those of different slots cannot be in one command.
            self.send((pack(("SSUBSCRIBE", name)), settle(answer), NO_PARTITION, None))
            answers.append(answer)
        results = await asyncio.gather(*answers, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _take(self, reply: Any) -> None:
        if type(reply) is not hiredis.PushNotification:
            super()._take(reply)
            return
        kind, name, content = reply
        if kind == b"ssubscribe":
            # It comes in place of an answer.
            super()._take(None)
            return
        try:
            if kind == b"smessage":
                self._hear(name, content)
            elif kind == b"sunsubscribe":
                self._on_ended(name)
        except Exception:
            logger.exception("what another node published could not be handled")


def _settle_refused(call: Call, refused: Refused) -> None:
    call[1](refused)
