"""Who is in which room: changes are made in the room's partition, and every node has a copy."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from gateway.errors import GatewayError, StoreUnavailable
from gateway.membership import RoomLimitReached, RoomLimits
from gateway.messages import TrueId
from gateway.store import Membership, MembershipDone
from gateway.stores.redis import bus
from gateway.stores.redis.client import Word
from gateway.stores.redis.mirror import Change, Mirror, OnMembership, Snapshot
from gateway.stores.redis.partitions import Partitions
from gateway.stores.redis.scripts import UNLIMITED, load
from gateway.stores.redis.totals import Totals

logger = logging.getLogger(__name__)

_JOIN: Final = load("join")
_LEAVE: Final = load("leave")
_MEMBER: Final = load("member")
_LOAD: Final = load("memberships")
#: How long a change that was answered may take to be told, in seconds.
_PATIENCE: Final = 0.25
#: After how long a partition that could not be loaded is asked for again, in seconds.
_RETRY: Final = 0.5


class _Request(NamedTuple):
    """A join (1) or leave (-1) under way."""

    room: str
    true_id: TrueId
    change: int
    done: MembershipDone


class RoomCalls:
    """The part of the store that is about memberships.

    `on_change` is told of each change that another node has made.
    """

    def __init__(
        self,
        partitions: Partitions,
        totals: Totals,
        node: str,
        limits: RoomLimits,
        on_change: OnMembership,
    ) -> None:
        self._partitions = partitions
        self._totals = totals
        self._node = node
        self._limits = limits
        self._on_change = on_change
        self._loop: asyncio.AbstractEventLoop
        self._requests: dict[bytes, _Request] = {}
        self._asked = 0
        #: What the requests under way will change in the number of a player's rooms.
        self._expected: dict[TrueId, int] = {}
        #: Players with whom is not noted yet whether they are in a room.
        self._unnoted: set[TrueId] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._closed = False
        #: Not loaded yet, not asked for yet, and those of which not even the number is trusted.
        self._unloaded = set(range(partitions.count))
        self._unasked = set(self._unloaded)
        self._doubted = set(self._unloaded)
        self._opened: asyncio.Event
        self.mirror = Mirror(partitions.count, self._load, self._answer, on_change)
        channels = [(each, b"all") for each in range(partitions.count)]
        partitions.redis.listen(channels, self._on_published)

    # From opening to close

    async def open(self) -> None:
        """Load all memberships, later what cannot be loaded now. Changes are heard already."""
        self._loop = asyncio.get_running_loop()
        self._opened = asyncio.Event()
        for partition in range(self._partitions.count):
            self._load(partition)
        await self._opened.wait()

    def close(self) -> None:
        """Stop what waits for its time, and answer what waits for a change to be told."""
        self._closed = True
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        for by in tuple(self._requests):
            self._finish(by, StoreUnavailable("the store is closed"))

    def on_restored(self, partitions: frozenset[int], same_server: bool) -> None:
        """The changes of these partitions are heard again: some may have been missed.

        Another server may number them anew, and has perhaps lost some.
        """
        for partition in partitions:
            if not same_server:
                self._doubted.add(partition)
            self.mirror.reload(partition)

    # Requests

    def join(self, room: str, true_id: TrueId, done: MembershipDone) -> None:
        """See RoomStore.join."""
        memberships = self.mirror.memberships
        rooms = len(memberships.rooms_of(true_id))
        member = true_id in memberships.members_of(room)
        limits = self._limits
        most = limits.per_player
        if most and not member and rooms + self._expected.get(true_id, 0) >= most:
            self._loop.call_soon(done, RoomLimitReached("rooms.per_player"))
            return
        partition = self._partitions.of(room)
        home = self._partitions.of(true_id)
        by = self._ask(room, true_id, 1, done)
        if not rooms:
            # Whoever is in a room is kept.
            self._note(true_id)
        most_rooms = UNLIMITED
        if limits.rooms:
            most_rooms = self._totals.left_for("rooms", limits.rooms, partition)
        arguments = (room, true_id, home, limits.max_members or UNLIMITED, most_rooms, by)
        self._partitions.call(
            partition, _JOIN, arguments, functools.partial(self._on_reply, partition, by)
        )

    def leave(self, room: str, true_id: TrueId, done: MembershipDone) -> None:
        """See RoomStore.leave."""
        partition = self._partitions.of(room)
        home = self._partitions.of(true_id)
        by = self._ask(room, true_id, -1, done)
        self._partitions.call(
            partition,
            _LEAVE,
            (room, true_id, home, by),
            functools.partial(self._on_reply, partition, by),
        )

    def _ask(self, room: str, true_id: TrueId, change: int, done: MembershipDone) -> bytes:
        self._asked += 1
        by = f"{self._node}.{self._asked}".encode()
        self._requests[by] = _Request(room, true_id, change, done)
        self._expected[true_id] = self._expected.get(true_id, 0) + change
        return by

    def _on_reply(self, partition: int, by: bytes, reply: Any) -> None:
        request = self._requests.get(by)
        if request is None:
            # All nodes were told of the change before: see _answer.
            return
        room, true_id = request.room, request.true_id
        if not isinstance(reply, list):
            refused = isinstance(reply, GatewayError)
            self._finish(by, reply if refused else RoomLimitReached(reply.decode()))
            return
        changed, version, members, number = reply
        joined = request.change > 0
        if changed:
            epoch = self._partitions.epochs[partition]
            change = Change(epoch, version, by, joined, room, true_id, int(number), members)
            told = self.mirror.on_answered(partition, change)
        else:
            result = Membership(False, members, int(number) if joined else 0)
            then = functools.partial(self._finish, by, result)
            told = self.mirror.on_seen(partition, version, then)
        if not told:
            self._later(_PATIENCE, self.mirror.reload_if_waiting, partition, version)

    def _answer(self, change: Change) -> bool:
        """Answer to whoever asked for a change here; return False if it was another node's."""
        number = change.number if change.joined else 0
        if self._finish(change.by, Membership(True, change.members, number)):
            return True
        if change.by.startswith(self._node.encode() + b"."):
            # It was asked for here, and then given up.
            self._note(change.true_id)
        return False

    def _finish(self, by: bytes, result: Membership | GatewayError) -> bool:
        request = self._requests.pop(by, None)
        if request is None:
            return False
        true_id = request.true_id
        # Those of more requests may be none in sum: then there is nothing.
        expected = self._expected.pop(true_id, 0) - request.change
        if expected:
            self._expected[true_id] = expected
        if not self.mirror.memberships.rooms_of(true_id):
            # They have left, or did not come after all.
            self._note(true_id)
        request.done(result)
        return True

    def _note(self, true_id: TrueId) -> None:
        """Note with a player whether they are in a room, or about to be: then they are kept."""
        kept = bool(self.mirror.memberships.rooms_of(true_id)) or self._expected.get(true_id, 0) > 0
        home = self._partitions.of(true_id)
        noted = functools.partial(self._on_noted, true_id)
        self._partitions.call(home, _MEMBER, (true_id, int(kept)), noted)

    def _on_noted(self, true_id: TrueId, reply: Any) -> None:
        if isinstance(reply, GatewayError):
            if not self._unnoted:
                self._later(_RETRY, self._note_again)
            self._unnoted.add(true_id)

    def _note_again(self) -> None:
        unnoted, self._unnoted = self._unnoted, set()
        for true_id in unnoted:
            self._note(true_id)

    # What other nodes change

    def _on_published(self, partition: int, channel: bytes, payload: bytes) -> None:
        try:
            kind, fields = bus.decode(payload)
            if kind == bus.MEMBERSHIP:
                self.mirror.on_told(partition, bus.decode_membership(fields))
        except ValueError as error:
            logger.warning("what a node has published makes no sense: %s", error)

    def on_replaced(self, partitions: frozenset[int]) -> None:
        """These partitions have lost their data."""
        for partition in partitions:
            self.mirror.reload(partition)

    # Loading

    def _load(self, partition: int) -> None:
        mirror = self.mirror
        doubted = partition in self._doubted
        self._doubted.discard(partition)
        known: Word = b""
        if not doubted and self._partitions.epochs[partition] == mirror.epoch(partition):
            known = mirror.version(partition)
        answer = functools.partial(self._on_loaded, partition, doubted)
        self._partitions.call(partition, _LOAD, (known,), answer)

    def _on_loaded(self, partition: int, doubted: bool, reply: Any) -> None:
        if isinstance(reply, GatewayError):
            if doubted:
                self._doubted.add(partition)
            self._later(_RETRY, self._load, partition)
        elif partition in self._unloaded:
            self.mirror.on_loaded(partition, self._snapshot(partition, reply))
            self._unloaded.discard(partition)
            if not self._unloaded and self._opened.is_set():
                # Whoever saw an incomplete one is to look at all of it.
                self.mirror.renew()
        else:
            self.mirror.on_loaded(partition, self._snapshot(partition, reply), self._on_change)
        self._unasked.discard(partition)
        if not self._unasked:
            self._opened.set()

    def _later(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        def run() -> None:
            self._timers.discard(timer)
            call(*arguments)

        if not self._closed:
            timer = self._loop.call_later(seconds, run)
            self._timers.add(timer)

    def _snapshot(self, partition: int, reply: Any) -> Snapshot:
        version, *found = reply
        rooms = None
        if found:
            names, members = found[0][::2], found[0][1::2]
            rooms = {
                room.decode(): {
                    TrueId(true_id.decode()): int(number)
                    for true_id, number in zip(each[::2], each[1::2], strict=True)
                }
                for room, each in zip(names, members, strict=True)
            }
        return Snapshot(self._partitions.epochs[partition], int(version), rooms)
