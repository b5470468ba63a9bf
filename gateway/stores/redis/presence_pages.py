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
    """A page that is being put together from the partitions `asked`."""

    def __init__(
        self, partitions: Partitions, asked: Sequence[int], limit: int, done: PlayersDone
    ) -> None:
        self._partitions = partitions
        self._asked = asked
        self._limit = limit
        self._done = done
        self._players: list[tuple[TrueId, Seen]] = []
        self._cursor = ""

    def start(self, place: int) -> None:
        """Put it together, from those after this place of the first partition on."""
        self._ask(0, _FIRST, place)

    def _ask(self, begin: int, count: int, place: int = 0) -> None:
        """Ask so many partitions, the first one for those after a place."""
        asked = self._asked[begin : begin + count]
        replies: dict[int, Any] = {}

        def on_reply(partition: int, reply: Reply | StoreUnavailable) -> None:
            replies[partition] = reply
            if len(replies) == len(asked) and self._take(asked, replies):
                self._ask(begin + count, 2 * count)

        if not asked:
            self._done((self._players, None))
        missing = self._limit - len(self._players)
        for partition in asked:
            answer = functools.partial(on_reply, partition)
            self._partitions.call(partition, _PAGE, (place, missing + 1), answer)
            place = 0

    def _take(self, asked: Sequence[int], replies: dict[int, Any]) -> bool:
        """Take players; tell whether there is room for more."""
        for partition in asked:
            reply = replies[partition]
            if isinstance(reply, StoreUnavailable):
                self._done(reply)
                return False
            for true_id, place, packed in reply:
                if len(self._players) == self._limit:
                    self._done((self._players, self._cursor))
                    return False
                self._cursor = f"{partition}.{int(place)}"
                seen = unpack_seen(packed)
                if seen is not None:
                    self._players.append((TrueId(true_id.decode()), seen))
        return True


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
