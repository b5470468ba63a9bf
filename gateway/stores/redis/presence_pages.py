"""Who is not offline, in pages: partition by partition, in each in the order of coming."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from gateway.errors import RequestRefused, StoreUnavailable
from gateway.messages import PresenceState, TrueId
from gateway.presence_store import PlayersDone, Seen
from gateway.stores.redis.client import Reply
from gateway.stores.redis.partitions import Partitions
from gateway.stores.redis.scripts import load

_PAGE: Final = load("presence_page")
#: Partitions that are asked for a page at first; each further time it is twice as many.
_FIRST: Final = 4


class _Seen(msgspec.Struct, frozen=True, array_like=True):
    """`seen` in lua/_presence.lua."""

    state: PresenceState
    connections: int
    since: float
    name: str
    status: str | bool


_decode: Final = msgspec.msgpack.Decoder(_Seen).decode


class Page:
    """A page that is being put together."""

    def __init__(self, partitions: Partitions, limit: int, done: PlayersDone) -> None:
        self._partitions = partitions
        self._limit = limit
        self._done = done
        self._players: list[tuple[TrueId, Seen]] = []
        self._cursor = ""

    def start(self, partition: int, place: int) -> None:
        """Put it together from those after this place."""
        self._ask(partition, place, _FIRST)

    def _ask(self, partition: int, place: int, count: int) -> None:
        """Ask so many partitions, the first one for those after a place."""
        end = min(partition + count, self._partitions.count)
        replies: dict[int, Any] = {}

        def on_reply(each: int, reply: Reply | StoreUnavailable) -> None:
            replies[each] = reply
            if len(replies) == end - partition:
                self._on_replies([replies[each] for each in range(partition, end)], end, count)

        missing = self._limit - len(self._players)
        for each in range(partition, end):
            after = place if each == partition else 0
            answer = functools.partial(on_reply, each)
            self._partitions.call(each, _PAGE, (after, missing + 1), answer)

    def _on_replies(self, replies: Sequence[Any], end: int, count: int) -> None:
        for partition, reply in enumerate(replies, end - len(replies)):
            if isinstance(reply, StoreUnavailable):
                self._done(reply)
                return
            for true_id, place, packed in reply:
                if len(self._players) == self._limit:
                    self._done((self._players, self._cursor))
                    return
                self._cursor = f"{partition}.{int(place)}"
                seen = unpack_seen(packed)
                if seen is not None:
                    self._players.append((TrueId(true_id.decode()), seen))
        if end == self._partitions.count:
            self._done((self._players, None))
        else:
            self._ask(end, 0, 2 * count)


def parse_cursor(cursor: str | None, partitions: int) -> tuple[int, int]:
    """Return the partition and place to go on after. Raises RequestRefused for one not of ours."""
    partition, dot, place = (cursor or "0.0").partition(".")
    digits = (partition + place).isascii() and partition.isdigit() and place.isdigit()
    if not (dot and digits) or int(partition) >= partitions:
        raise RequestRefused("bad_request", "cursor is not one of ours", "cursor")
    return int(partition), int(place)


def unpack_seen(packed: bytes) -> Seen | None:
    """Return what a script has packed, None for nothing: offline. Raises ValueError."""
    if not packed:
        return None
    try:
        found = _decode(packed)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    status = found.status if isinstance(found.status, str) else None
    return Seen(found.state, found.connections, found.since, found.name, status)
