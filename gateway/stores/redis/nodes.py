"""The other nodes on the same Redis: who they are, and what nodes tell each other.

A node hears its own channel in each partition. What is about a player is published in the player's
partition, most of it by the script that changes something; so it comes in the order of the changes.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from itertools import count
from typing import Any, Final

from gateway.errors import StoreUnavailable
from gateway.messages import SessionId, TrueId
from gateway.nodes import Inbound, NodeId, NodeState, VolatileKey
from gateway.session import Session
from gateway.store import Copies
from gateway.stores.limits import OnLimit, ignore_limit
from gateway.stores.redis import bus
from gateway.stores.redis.client import Redis, Reply, Word
from gateway.stores.redis.directory import HOME, Directory
from gateway.stores.redis.hearing import tell
from gateway.stores.redis.keys import partition_of
from gateway.stores.redis.ownership import Ownership
from gateway.stores.redis.resuming import Resuming
from gateway.stores.redis.room_routes import RoomRoutes
from gateway.stores.redis.scripts import load
from gateway.stores.redis.settling import Settling

logger = logging.getLogger(__name__)

_VOLATILE: Final = load("volatile")
_DISCONNECT: Final = load("disconnect")
#: Probes for other nodes that are under way at once; beyond it they are not answered.
_MAX_PROBES: Final = 10_000

#: Takes what was published in a partition; raises ValueError for what makes no sense.
Take = Callable[[int, Sequence[bytes]], None]


class RedisNodes:
    """The Nodes of a gateway on Redis. `lease` is in seconds; `heard` counts by kind."""

    alone: Final = False
    resuming: Resuming

    def __init__(
        self,
        redis: Redis,
        node: NodeId,
        lease: float,
        heard: defaultdict[str, int],
        on_limit: OnLimit = ignore_limit,
    ) -> None:
        self.id = node
        self.ownership = Ownership(redis, node, lease)
        self.directory = Directory(
            redis, node, lease, self._on_beat, self._on_lease_over, self._on_back
        )
        self.rooms = RoomRoutes(redis, node)
        self._settling = Settling(redis, self._on_unsettled, on_limit)
        self._redis = redis
        self._heard = heard
        self._on_limit = on_limit
        self._inbound: Inbound
        self._takes: dict[bytes, Take] = {
            bus.COPIES: self._on_copies,
            bus.HOLES: self._on_holes,
            bus.VOLATILE: self._on_volatile,
            bus.ROOM_VOLATILE: self._on_room_volatile,
            bus.FENCE: self._on_fence,
            bus.END: self._on_end,
            bus.PROBE: self._on_probe,
            bus.ANSWER: self._on_answer,
            bus.JOIN: self._on_join,
            bus.LEAVE: self._on_leave,
        }
        self._names = {kind: name for name, kind in bus.KINDS.items()}
        self._asked = count(1)
        self._answers: dict[int, asyncio.Future[bool]] = {}
        self._probes: set[asyncio.Task[None]] = set()
        #: Told of partitions that are not heard, and heard again: see Redis.
        self.on_lost: list[Callable[[frozenset[int]], None]] = []
        self.on_restored: list[Callable[[frozenset[int], bool], None]] = []
        #: Told that this node was cut off, and is not any more.
        self.on_back: list[Callable[[], None]] = []
        redis.on_lost, redis.on_restored = self._on_lost, self._on_restored
        #: Returns how many routes were taken away, as of a moment ago.
        self.pruned: Callable[[], int] = int
        self._announced = self._leaving = False
        own = b"n:" + node.encode()
        partitions = range(redis.partitions)
        redis.listen([(each, own) for each in partitions], self._on_published)

    # Life

    def attach(self, inbound: Inbound) -> None:
        """See Nodes.attach."""
        self._inbound = inbound
        self.resuming.attach(inbound)

    def on(self, kind: bytes, take: Take) -> None:
        """Hand what is published of this kind to `take`."""
        self._takes[kind] = take

    def resume_by(self, resuming: Resuming) -> None:
        """Have what this node missed be seen to."""
        self.resuming = resuming
        self.on_lost.append(resuming.on_lost)
        self.on_restored.append(resuming.on_restored)

    def _on_lost(self, partitions: frozenset[int]) -> None:
        for told in self.on_lost:
            tell(told, partitions)

    def _on_restored(self, partitions: frozenset[int], same_server: bool) -> None:
        for told in self.on_restored:
            tell(told, partitions, same_server)

    async def open(self) -> None:
        """Enter the list of nodes, and take this node's share of the partitions.

        To be called when the channels are heard already.
        """
        await self.directory.open()
        if self.directory.leased:
            await self.ownership.claim(self.directory.lasting)

    def announce(self, address: str) -> None:
        """See Nodes.announce."""
        self.directory.address = address

    def address_of(self, node: NodeId) -> str | None:
        """See Nodes.address_of."""
        return self.directory.address_of(node)

    async def leave(self) -> None:
        """See Nodes.leave."""
        if self._leaving:
            return
        self._leaving = True
        self.directory.leave()
        self.ownership.release()
        self._tell_others(bus.encode(bus.LEAVE, self.id.encode(), b""))

    async def close(self) -> None:
        """Be gone, and end what is under way."""
        await self.leave()
        await self.resuming.close()
        self.directory.close()
        self._tell_others(bus.encode(bus.LEAVE, self.id.encode(), b"gone"))
        for task in self._probes:
            task.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)

    @property
    def state(self) -> NodeState:
        """See Nodes.state."""
        directory = self.directory
        return NodeState(
            len(directory.others) + 1,
            directory.dead,
            len(self.ownership),
            len(self.resuming),
            self.pruned(),
        )

    @property
    def others(self) -> Collection[NodeId]:
        """See Nodes.others."""
        return [NodeId(node) for node in self.directory.others]

    @property
    def in_touch(self) -> bool:
        """See Nodes.in_touch."""
        return self.directory.in_touch

    @property
    def trouble(self) -> str | None:
        """See Nodes.trouble."""
        return "cut off from the other nodes" if self.directory.cut_off else None

    def _on_beat(self) -> None:
        if self._leaving:
            return
        if not self._announced:
            # At once: until they know of this node, the others do not count its sessions as used.
            self._announced = True
            address = self.directory.address.encode()
            self._tell_others(bus.encode(bus.JOIN, self.id.encode(), address))
        self.ownership.renew(self.directory.lasting)

    def _on_lease_over(self) -> None:
        self.ownership.drop()
        if self.directory.cut_off:
            self._announced = False
            self._inbound.on_cut_off()

    def _on_back(self) -> None:
        self._inbound.on_back()
        # Others may have acted for this node, also where it has heard them all the time.
        heard = frozenset(range(self._redis.partitions)) - self.resuming.behind
        self._on_restored(heard, True)
        for told in self.on_back:
            tell(told)

    # What services ask

    def has(self, session: Session) -> bool:
        """See Nodes.has."""
        return (
            session.elsewhere and session.node != self.id and self.directory.is_live(session.node)
        )

    async def answers(self, session: Session, timeout: float) -> bool:
        """See Nodes.answers."""
        number = next(self._asked)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        fields = (session.true_id, session.id, self.id, str(number), f"{timeout:.3f}")
        payload = bus.encode(bus.PROBE, *(each.encode() for each in fields))
        try:
            async with asyncio.timeout(timeout):
                heard = await self._publish(session.true_id, session.node, payload)
                return bool(heard) and await answer
        except TimeoutError:
            return False
        finally:
            del self._answers[number]

    def send_volatile(self, true_id: TrueId, array: bytes, done: Callable[[int], None]) -> None:
        """See Nodes.send_volatile; a store that is out of reach tells nobody."""
        args = (self.id, true_id, array)

        def answered(reply: Reply | StoreUnavailable) -> None:
            done(reply if isinstance(reply, int) else 0)

        self._redis.call(self._partition(true_id), _VOLATILE, args, answered)

    async def disconnect(self, true_id: TrueId, reason: str) -> int:
        """See Nodes.disconnect."""
        args = (self.id, true_id, reason)
        reply = await self._redis.ask(self._partition(true_id), _DISCONNECT, args)
        return reply if isinstance(reply, int) else 0

    def publish_volatile(
        self, room: str, array: bytes, key: VolatileKey | None, done: Callable[[int], None]
    ) -> None:
        """See Nodes.publish_volatile."""
        if self.directory.others:
            self.rooms.publish(room, array, key, done)
        else:
            done(0)

    def show_room(self, room: str, members: int) -> None:
        """See Nodes.show_room."""
        self.rooms.show(room, members)

    def _partition(self, true_id: TrueId) -> int:
        return partition_of(true_id, self._redis.partitions)

    async def _publish(self, true_id: TrueId, node: str, payload: bytes) -> int:
        """Tell a node something about a player; return 0 if it does not hear."""
        told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(reply: Reply | StoreUnavailable) -> None:
            if not told.done():
                told.set_result(reply if isinstance(reply, int) else 0)

        partition = self._partition(true_id)
        self._redis.command(partition, *self._words(partition, node, payload), done=done)
        return int(await told)

    def _tell_others(self, payload: bytes) -> None:
        for node in self.directory.others:
            self._redis.command(HOME, *self._words(HOME, node, payload), done=_ignore)

    def _words(self, partition: int, node: str, payload: bytes) -> tuple[Word, ...]:
        channel = self._redis.prefix(partition) + b"n:" + node.encode()
        return (b"SPUBLISH", channel, payload)

    # What other nodes tell

    def _on_published(self, partition: int, channel: bytes, payload: bytes) -> None:
        try:
            if payload.startswith(bus.MESSAGE):
                self._on_messages(payload)
                return
            kind, fields = bus.decode(payload)
            take = self._takes.get(kind)
            if take is None:
                # A newer release may tell more.
                self._heard["unknown"] += 1
                return
            self._heard[self._names.get(kind, "other")] += 1
            take(partition, fields)
        except ValueError as error:
            self._heard["malformed"] += 1
            logger.warning("what a node has published makes no sense: %s", error)

    def _on_messages(self, payload: bytes) -> None:
        messages = bus.decode_messages(payload)
        self._heard["message"] += len(messages)
        on_message = self._inbound.on_message
        if not self._redis.waits:
            for true_id, message in messages:
                on_message(message, (true_id,))
            return
        for true_id, message in messages:
            then = functools.partial(on_message, message, (true_id,))
            self._settling.take(self._partition(true_id), then)

    def _on_copies(self, partition: int, fields: Sequence[bytes]) -> None:
        copies = bus.decode_copies(fields)
        self._settling.take(partition, lambda: self.on_copies(copies, ()))

    def on_copies(self, copies: Sequence[Copies], full: Sequence[TrueId]) -> None:
        """A message to a room was stored for these players, and for `full` it was not."""
        for message, true_ids in copies:
            self._inbound.on_message(message, true_ids)
        if full:
            self._inbound.on_holes(full)

    def _on_holes(self, partition: int, fields: Sequence[bytes]) -> None:
        true_ids = bus.decode_players(fields)
        self._settling.take(partition, lambda: self._inbound.on_holes(true_ids))

    def _on_unsettled(self, partition: int) -> None:
        self.resuming.on_unanswered(partition)

    def on_membership(self, room: str, true_id: TrueId, joined: bool, members: int) -> None:
        """See Inbound.on_membership."""
        self._inbound.on_membership(room, true_id, joined, members)

    def _on_room_volatile(self, partition: int, fields: Sequence[bytes]) -> None:
        room, array, key = bus.decode_room_volatile(fields)
        self._settling.follow(partition, lambda: self._inbound.on_room_volatile(room, array, key))

    def _on_volatile(self, partition: int, fields: Sequence[bytes]) -> None:
        true_id, array = fields
        player = TrueId(true_id.decode())
        self._settling.follow(partition, lambda: self._inbound.on_volatile(player, array))

    def _on_fence(self, partition: int, fields: Sequence[bytes]) -> None:
        true_id, session_id, version, _ = fields
        self._inbound.on_fenced(
            TrueId(true_id.decode()), SessionId(session_id.decode()), int(version)
        )

    def _on_end(self, partition: int, fields: Sequence[bytes]) -> None:
        true_id, session_id, reason = (each.decode() for each in fields)
        self._inbound.on_ended(TrueId(true_id), SessionId(session_id) or None, reason)

    def _on_probe(self, partition: int, fields: Sequence[bytes]) -> None:
        true_id, session_id, node, number, timeout = (each.decode() for each in fields)
        if len(self._probes) >= _MAX_PROBES:
            self._on_limit("store.probes")
            return
        task = asyncio.get_running_loop().create_task(
            self._probe(TrueId(true_id), SessionId(session_id), node, number, float(timeout)),
            name=f"probe-{session_id}",
        )
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def _probe(
        self, true_id: TrueId, session_id: SessionId, node: str, number: str, timeout: float
    ) -> None:
        try:
            answers = await self._inbound.answers(true_id, session_id, timeout)
            payload = bus.encode(bus.ANSWER, number.encode(), b"1" if answers else b"0")
            await self._publish(true_id, node, payload)
        except Exception:
            logger.exception("a probe of another node could not be answered")

    def _on_answer(self, partition: int, fields: Sequence[bytes]) -> None:
        number, answers = fields
        waiting = self._answers.get(int(number))
        if waiting is not None and not waiting.done():
            waiting.set_result(answers == b"1")

    def _on_join(self, partition: int, fields: Sequence[bytes]) -> None:
        node, address = (each.decode() for each in fields)
        self.directory.on_joined(node, address)
        self._on_beat()

    def _on_leave(self, partition: int, fields: Sequence[bytes]) -> None:
        node, gone = (each.decode() for each in fields)
        if gone:
            self.directory.on_left(node)
        else:
            self.directory.on_leaving(node)
        self._on_beat()


def _ignore(reply: object) -> None:
    """Who does not hear of it sees it in the list."""
