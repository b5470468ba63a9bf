"""Rooms that have members at several nodes: what is stored nowhere goes straight to these nodes."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Final

from gateway.errors import StoreUnavailable
from gateway.nodes import VolatileKey
from gateway.stores.redis.client import Redis, Reply, Word
from gateway.stores.redis.keys import partition_of
from gateway.stores.redis.scripts import load

_SHOW: Final = load("room_show")
_VOLATILE: Final = load("room_volatile")


class RoomRoutes:
    """What a node shows of its rooms, and what it hands to those of the others."""

    def __init__(self, redis: Redis, node: str) -> None:
        self._redis = redis
        self._node = node
        self._shown: dict[str, int] = {}
        #: Rooms whose count is to be told when this turn of the loop is over.
        self._changed: set[str] = set()

    def show(self, room: str, members: int) -> None:
        """See Nodes.show_room."""
        if members:
            self._shown[room] = members
        else:
            self._shown.pop(room, None)
        if not self._changed:
            asyncio.get_running_loop().call_soon(self._tell_changed)
        self._changed.add(room)

    def _tell_changed(self) -> None:
        changed, self._changed = self._changed, set()
        for room in changed:
            self._tell(room)

    def _tell(self, room: str) -> None:
        arguments = (room, self._node, self._shown.get(room, 0))
        # If this comes to nothing the link has ended, and on_restored tells it again.
        self._redis.call(self._partition(room), _SHOW, arguments, _ignore)

    def on_restored(self, partitions: frozenset[int]) -> None:
        """What was told of these partitions may be lost."""
        for room in self._shown:
            if self._partition(room) in partitions:
                self._tell(room)

    def publish(
        self, room: str, array: bytes, key: VolatileKey | None, done: Callable[[int], None]
    ) -> None:
        """See Nodes.publish_volatile; a store that is out of reach tells nobody."""
        arguments: tuple[Word, ...] = (self._node, room, array)
        if key is not None:
            sender, _, name = key
            arguments = (*arguments, sender or "", name)
        answered = functools.partial(_answer, done)
        self._redis.call(self._partition(room), _VOLATILE, arguments, answered)

    def _partition(self, room: str) -> int:
        return partition_of(room, self._redis.partitions)


def _answer(done: Callable[[int], None], reply: Reply | StoreUnavailable) -> None:
    done(reply if isinstance(reply, int) else 0)


def _ignore(reply: object) -> None:
    """Nobody waits for it."""
