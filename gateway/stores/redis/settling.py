"""With `wait` in the URL: what other nodes publish counts when so many replicas have what it says.

A script publishes a message before any replica has it. Should the master die just then, its sender
is told to send it again, and a player who had seen it would have seen what never was. So a node
asks for a sign of life after what it has heard, which is answered as all calls are: when so many
replicas have what was written before. Until then what was heard waits, in its order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from gateway.errors import StoreUnavailable
from gateway.stores.limits import OnLimit, ignore_limit
from gateway.stores.redis.client import Redis, Reply

logger = logging.getLogger(__name__)

#: What may wait; beyond it what is heard is looked for in the store.
_MAX_HEARD: Final = 50_000
#: Where all partitions are on one server it does not matter which one is asked.
_ONE: Final = 0


class _Heard(NamedTuple):
    """What was heard of a partition, and whether it is stored there: else it goes on anyway."""

    partition: int
    then: Callable[[], None]
    stored: bool


class Settling:
    """`on_failed` is told of partitions of which something was heard that may not last.

    `on_limit` is as OnLimit says.
    """

    def __init__(
        self, redis: Redis, on_failed: Callable[[int], None], on_limit: OnLimit = ignore_limit
    ) -> None:
        self._redis = redis
        self._on_failed = on_failed
        self._on_limit = on_limit
        self._waiting = 0
        #: What waits, by servers as far as these are known to be different.
        self._new: dict[int, list[_Heard]] = {}
        self._asked: dict[int, int] = {}

    def take(self, partition: int, then: Callable[[], None]) -> None:
        """Call `then` when what was heard of a partition lasts; not at all if it may not."""
        if not self._redis.waits:
            then()
        elif self._waiting >= _MAX_HEARD:
            self._on_limit("store.heard")
            self._on_failed(partition)
        else:
            self._put(_Heard(partition, then, stored=True))

    def follow(self, partition: int, then: Callable[[], None]) -> None:
        """Call `then` behind all that waits: what it is about is stored nowhere."""
        where = self._where(partition)
        if where not in self._new and where not in self._asked:
            then()
        elif self._waiting < _MAX_HEARD:
            self._put(_Heard(partition, then, stored=False))
        else:
            self._on_limit("store.heard")

    def _where(self, partition: int) -> int:
        return _ONE if self._redis.ordered else partition

    def _put(self, heard: _Heard) -> None:
        where = self._where(heard.partition)
        if where not in self._new:
            self._new[where] = []
            # Once for all that comes in a turn of the loop.
            asyncio.get_running_loop().call_soon(self._ask, where)
        self._new[where].append(heard)
        self._waiting += 1

    def _ask(self, where: int) -> None:
        heard = self._new.pop(where)
        self._asked[where] = self._asked.get(where, 0) + 1
        partition = heard[0].partition
        key = self._redis.prefix(partition)
        answer = partial(self._on_answer, where, heard)
        self._redis.command(partition, b"EXISTS", key, done=answer)

    def _on_answer(self, where: int, heard: list[_Heard], reply: Reply | StoreUnavailable) -> None:
        self._asked[where] -= 1
        if not self._asked[where]:
            del self._asked[where]
        self._waiting -= len(heard)
        failed = isinstance(reply, StoreUnavailable)
        for partition, then, stored in heard:
            if failed and stored:
                # It is looked for there, and read once it lasts.
                self._on_failed(partition)
                continue
            try:
                then()
            except Exception:
                logger.exception("what another node published could not be handled")
