"""How much there is in all partitions together, and how much of a limit each may take.

A limit in total holds over all partitions, and a script sees one. So each node asks all of them
every second, and a script is told what the limit leaves when the others have what they had then.
With one partition that is exact.
"""

from __future__ import annotations

import asyncio
import functools
import struct
from typing import Final, Literal

from gateway.errors import StoreUnavailable
from gateway.store import StoreLimits
from gateway.stores.redis.client import Reply
from gateway.stores.redis.partitions import Partitions
from gateway.stores.redis.scripts import load

_TOTALS: Final = load("totals")
#: Between two looks, in seconds.
_PAUSE: Final = 1.0
#: See lua/_limits.lua and lua/append.lua.
_pack_limits: Final = struct.Struct(">7d").pack
_pack_left: Final = struct.Struct(">3d").pack

Kind = Literal[
    "bytes", "messages", "sessions", "rooms", "queued", "dead", "online", "pruned", "listed"
]
_KINDS: Final[tuple[Kind, ...]] = (
    "bytes",
    "messages",
    "sessions",
    "rooms",
    "queued",
    "dead",
    "online",
    "pruned",
    "listed",
)
#: Limits of a mailbox; then the node, and the limits of the outbox: what scripts with a mailbox
#: begin with, the seed of the outbox excepted.
Head = tuple[bytes, bytes, int, int]
#: What a script that appends is told of a partition: its prefix, and what is left there.
Place = tuple[bytes, bytes]


class Totals:
    """What was found at the last look, and what follows from it for each partition.

    `heads` and `places` are arguments of scripts, made beforehand, by partition. `common` is what
    a script that appends begins with.
    """

    def __init__(self, partitions: Partitions, limits: StoreLimits, node: str) -> None:
        self._partitions = partitions
        self._limits = limits
        self._node = node.encode()
        self._found: list[tuple[int, ...]] = [(0,) * len(_KINDS)] * partitions.count
        self._sums = (0,) * len(_KINDS)
        self._left = 0
        self._looked: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.heads: list[Head] = []
        self.places: list[Place] = []
        webhooks = b"1" if limits.outbox.enabled else b""
        self.common = (self._limits_with(-1), self._node, webhooks)
        self._make_heads()

    def of_all(self, kind: Kind) -> int:
        """Return how much all partitions had at the last look."""
        return self._sums[_KINDS.index(kind)]

    def of_partition(self, kind: Kind, partition: int) -> int:
        """Return how much a partition had at the last look."""
        return self._found[partition][_KINDS.index(kind)]

    def left_for(self, kind: Kind, limit: int, partition: int) -> int:
        """Return the most that a partition may have when all may have `limit`; at least 0."""
        place = _KINDS.index(kind)
        return max(0, limit - self._sums[place] + self._found[partition][place])

    def start(self) -> None:
        """Look every second from now on."""
        self._timer = asyncio.get_running_loop().call_later(_PAUSE, self._on_timer)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self.start()
        self._look()

    async def look(self) -> None:
        """Look now; a partition that cannot be asked counts what it had before."""
        # One that is under way may have passed what the caller wants to see.
        if self._looked is not None:
            await self._looked
        await self._look()

    def _look(self) -> asyncio.Future[None]:
        if self._looked is None:
            self._looked = asyncio.get_running_loop().create_future()
            self._left = self._partitions.count
            for partition in range(self._partitions.count):
                done = functools.partial(self._on_found, partition)
                self._partitions.call(partition, _TOTALS, (), done)
        return self._looked

    def _on_found(self, partition: int, reply: Reply | StoreUnavailable) -> None:
        if isinstance(reply, list):
            self._found[partition] = tuple(int(each) for each in reply)  # type: ignore[arg-type]
        self._left -= 1
        looked = self._looked
        if self._left or looked is None:
            return
        self._looked = None
        self._sums = tuple(map(sum, zip(*self._found, strict=True)))
        self._make_heads()
        looked.set_result(None)

    def _limits_with(self, room: int) -> bytes:
        limits, mailbox = self._limits, self._limits.mailbox
        return _pack_limits(
            mailbox.max_messages,
            mailbox.max_bytes,
            mailbox.retention,
            limits.refuse_when_full,
            room,
            limits.dedupe_window,
            limits.dedupe_keys,
        )

    def _make_heads(self) -> None:
        limits, outbox = self._limits, self._limits.outbox
        heads, places = [], []
        for partition in range(self._partitions.count):
            total = limits.total_bytes
            room = self.left_for("bytes", total, partition) if total else -1
            # The newest webhook always has a place.
            most = max(1, self.left_for("queued", outbox.max_queued, partition))
            most_dead = max(1, self.left_for("dead", outbox.max_dead, partition))
            most = most if outbox.max_queued else 0
            most_dead = most_dead if outbox.max_dead else 0
            heads.append((self._limits_with(room), self._node, most, most_dead))
            prefix = self._partitions.redis.prefix(partition)
            places.append((prefix, _pack_left(room, most, most_dead)))
        self.heads, self.places = heads, places
