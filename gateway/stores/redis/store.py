"""The redis store: mailboxes, sessions and rooms that several gateway nodes share.

Each call is one script in the partition of the player or room that it is about; messages that are
appended at once are one call. Calls to one server are answered in the order in which they were
asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial

from gateway.errors import ConfigError, StoreUnavailable
from gateway.mailbox import RoomDraft
from gateway.membership import Memberships
from gateway.messages import TrueId
from gateway.nodes import Alone, Nodes
from gateway.store import Copies, MembershipDone, PublishDone, StoreLimits
from gateway.stores.limits import OnLimit, ignore_limit
from gateway.stores.redis.acknowledged import Acknowledged
from gateway.stores.redis.client import Redis
from gateway.stores.redis.dead_nodes import DeadNodes, NodeList, OneNode
from gateway.stores.redis.local_outbox import LocalOutbox
from gateway.stores.redis.local_sessions import LocalSessions
from gateway.stores.redis.mailboxes import MailboxCalls
from gateway.stores.redis.mirror import OnMembership
from gateway.stores.redis.nodes import RedisNodes
from gateway.stores.redis.outbox import OutboxCalls
from gateway.stores.redis.partitions import Partitions
from gateway.stores.redis.peers import NoPeers, OfNodes
from gateway.stores.redis.players import PlayerCalls
from gateway.stores.redis.presence import RedisPresence
from gateway.stores.redis.publishing import OnCopies, Outlets, Publishing
from gateway.stores.redis.reclaiming import Reclaimer
from gateway.stores.redis.resuming import Resuming
from gateway.stores.redis.rooms import RoomCalls
from gateway.stores.redis.scripts import load
from gateway.stores.redis.sessions import SessionCalls
from gateway.stores.redis.totals import Totals
from gateway.stores.redis.turns import Turns
from gateway.stores.sampling import OnLatency, Sampler, ignore_latency

logger = logging.getLogger(__name__)

_CHECK = load("check")
#: In so many calls of `expire` all partitions are looked at.
_ROUND = 4


class RedisStore(OutboxCalls, MailboxCalls, PlayerCalls, SessionCalls):
    """A whole store behind `redis`, as the node `node` sees it.

    `nonces` are fresh random numbers of 40 bits. `on_dropped` is told how many messages went
    before any session had confirmed them, and whether they were `expired` or `trimmed`.
    `on_replaced` is called when some of a running gateway's players turned out to be in a part
    of the store that has lost its data: it takes a function that tells whether it is about a
    player. `on_webhooks` is told how many webhooks are new, and how many were given up for lack
    of room, `on_latency` as Sampler says. Totals are those of the last second.

    `node_list` says which nodes are alive: sessions of dead ones count as idle. `owned` are the
    partitions whose duties this node has at first, all of them without it: `expire` is about
    those, and so is what is asked of webhooks. `on_webhooks_lost` is told the numbers of webhooks
    that this node is not to send any more. Without `nodes` others are neither heard nor told.
    `presence_grace` is in seconds. `on_limit` is as OnLimit says.
    """

    def __init__(
        self,
        redis: Redis,
        limits: StoreLimits,
        node: str,
        nonces: Iterator[int],
        on_dropped: Callable[[str, int], None],
        on_replaced: Callable[[Callable[[TrueId], bool]], None] = lambda concerns: None,
        on_webhooks: Callable[[int, int], None] = lambda added, given_up: None,
        on_latency: OnLatency = ignore_latency,
        node_list: NodeList | None = None,
        owned: Iterable[int] | None = None,
        on_webhooks_lost: Callable[[Sequence[int]], None] = lambda numbers: None,
        nodes: RedisNodes | None = None,
        presence_grace: float = 0.0,
        on_limit: OnLimit = ignore_limit,
    ) -> None:
        self.nodes: Nodes = Alone() if nodes is None else nodes
        self._others = nodes
        self._redis = redis
        self._limits = limits
        self._on_limit = on_limit
        self._node = node
        self._nonces = nonces
        self._on_dropped = on_dropped
        self.on_replaced = on_replaced
        self._on_webhooks = on_webhooks
        self._appends = Sampler("message", on_latency)
        self._publishes = Sampler("publish", on_latency)
        self._partitions = Partitions(redis, self._on_partitions_replaced)
        self._totals = Totals(self._partitions, limits, node)
        self._turns = Turns()
        self._reclaimer = Reclaimer(self._partitions, self._totals, limits.total_bytes)
        self._acknowledged = Acknowledged(self._partitions, node, self._on_lacking, on_limit)
        self._sessions = LocalSessions(node, self._send_save, self._is_doubted)
        self._dead_nodes = DeadNodes(node_list or OneNode(node))
        self.on_webhooks_lost = on_webhooks_lost
        self._outbox = LocalOutbox(range(redis.partitions) if owned is None else owned)
        self._outbox_lock = asyncio.Lock()
        self._crowd = asyncio.Lock()
        self._buried = OrderedDict()
        #: Is told who came into a room or left it through another node: see OnMembership.
        self.on_membership: OnMembership = lambda room, true_id, joined, members: None
        #: Is told of messages that came into mailboxes otherwise than by the answer to a sender.
        self.on_copies: OnCopies = lambda copies, full: None
        self._rooms = RoomCalls(
            self._partitions,
            self._totals,
            node,
            limits.rooms,
            self._tell_membership,
        )
        self._publishing = Publishing(
            self._partitions,
            self._totals,
            self._rooms.mirror,
            limits,
            nonces,
            Outlets(
                self._tell_copies,
                on_dropped,
                self._note_losses,
                self._known_key,
                self._acknowledged.note_copies,
                on_limit,
            ),
        )
        self.presence = RedisPresence(
            self._partitions,
            self._totals,
            NoPeers(node, self._outbox.partitions) if nodes is None else OfNodes(nodes),
            node,
            presence_grace,
            self._outbox_args,
            self._note_webhooks,
        )
        self._open = False
        self._looked_at = 0
        self._resuming: Resuming | None = None
        if nodes is None:
            redis.on_lost = self._acknowledged.on_lost
            redis.on_restored = self._on_restored
        else:
            nodes.on_lost.append(self._acknowledged.on_lost)
            resuming = self._resuming = Resuming(self, self._partitions)
            self._partitions.on_unanswered = resuming.on_unanswered
            nodes.pruned = lambda: self._totals.of_all("pruned")
            nodes.resume_by(resuming)
            nodes.on_restored.append(self._on_restored)
            nodes.on_back.append(self._on_back)
            self.on_copies = nodes.on_copies
            self.on_membership = nodes.on_membership

    async def open(self) -> None:
        """See Store.open."""
        await self._redis.open()
        try:
            await self._partitions.open()
        except ConfigError:
            await self._redis.close()
            raise
        await self._totals.look()
        self._totals.start()
        await self._rooms.open()
        if self._others is not None:
            await self._others.open()
        self._open = True

    async def close(self) -> None:
        """See Store.close: what was asked before is answered first, as far as Redis answers."""
        self._open = False
        self._totals.stop()
        await self._reclaimer.close()
        await self._acknowledged.close()
        if self._others is not None:
            await self._others.close()
        self._sessions.close()
        with suppress(StoreUnavailable):
            await self.check()
            while self._publishing.busy:
                await self.check()
        self._rooms.close()
        await self._redis.close()

    @property
    def available(self) -> bool:
        """See Store.available."""
        return self._open and self._partitions.available

    async def check(self) -> None:
        """See Store.check: every partition answers, after what it was asked before."""
        await self._partitions.ask_all(_CHECK, ("1",))

    # Rooms

    @property
    def memberships(self) -> Memberships:
        """See RoomStore.memberships: changes of other nodes are in there as they are told."""
        return self._rooms.mirror.memberships

    def join(self, room: str, true_id: TrueId, done: MembershipDone) -> None:
        """See RoomStore.join."""
        self._rooms.join(room, true_id, done)

    def leave(self, room: str, true_id: TrueId, done: MembershipDone) -> None:
        """See RoomStore.leave."""
        self._rooms.leave(room, true_id, done)

    def publish(self, draft: RoomDraft, now: float, done: PublishDone) -> None:
        """See MailboxStore.publish; what its sender asks next waits for its answer."""
        if now >= self._publishes.due:
            done = self._publishes.watch(now, done)
        start = partial(self._publishing.publish, draft, now)
        if draft.sender is None:
            start(done)
        elif not self._turns.take(draft.sender, done, start, blocks=True):
            self._on_limit("store.turns")
            error = StoreUnavailable("too much waits for the store")
            asyncio.get_running_loop().call_soon(done, draft, error)

    def _tell_membership(self, room: str, true_id: TrueId, joined: bool, members: int) -> None:
        self.on_membership(room, true_id, joined, members)

    def _tell_copies(self, copies: Sequence[Copies], full: Sequence[TrueId]) -> None:
        self.on_copies(copies, full)

    def _on_lacking(self, true_ids: Sequence[TrueId], messages: int) -> None:
        """Messages that were acknowledged to their senders are lost."""
        self._on_dropped("lost", messages)
        self._tell_copies((), true_ids)

    def _is_doubted(self, true_id: TrueId) -> bool:
        resuming = self._resuming
        return resuming is not None and resuming.is_behind(self._partitions.of(true_id))

    def _on_restored(self, partitions: frozenset[int], same_server: bool) -> None:
        if not same_server:
            self._sessions.forget_confirmed()
            self._read_webhooks_anew(partitions)
        self._acknowledged.on_restored(partitions, same_server)
        self._rooms.on_restored(partitions, same_server)
        self.presence.on_restored(partitions, complete=same_server)
        if self._others is not None:
            self._others.rooms.on_restored(partitions)

    def _on_back(self) -> None:
        # Others may have taken this node's players for gone.
        self.presence.on_restored(range(self._partitions.count), complete=False)

    def _on_partitions_replaced(self, replaced: frozenset[int]) -> None:
        self._rooms.on_replaced(replaced)
        self.presence.on_restored(replaced, complete=False)
        if self._others is not None:
            self._others.rooms.on_restored(replaced)
        logger.error(
            "%d of %d partitions of the store have lost their data: their players' clients are "
            "told when they connect again",
            len(replaced),
            self._partitions.count,
        )
        partitions = self._partitions
        self._read_webhooks_anew(replaced)

        def concerns(true_id: TrueId) -> bool:
            return partitions.of(true_id) in replaced

        try:
            self.on_replaced(concerns)
        except Exception:
            logger.exception("on_replaced failed")

    # Totals

    @property
    def bytes(self) -> int:
        """See Store.bytes."""
        return self._totals.of_all("bytes")

    @property
    def message_count(self) -> int:
        """See Store.message_count."""
        return self._totals.of_all("messages")

    @property
    def session_count(self) -> int:
        """See Store.session_count."""
        return self._totals.of_all("sessions")

    async def look(self) -> None:
        """Learn the totals as they are now. They may be a second old else."""
        await self._totals.look()

    # Expiry

    async def expire(self, now: float) -> None:
        """See Store.expire; in small calls, so that appends come in between.

        Partitions that are out of reach keep none of the others waiting.
        """
        self._appends.restart()
        self._publishes.restart()
        failure: StoreUnavailable | None = None
        for partition in self._outbox.partitions:
            try:
                newest = await self._expire_sessions(now, partition)
                await self._expire_mailboxes(now, partition)
                await self._publishing.finish_stale(partition)
            except StoreUnavailable as error:
                failure = error
            else:
                self._look_for_webhooks(partition, newest)
        if failure is not None:
            raise failure
        await self._look_around()

    async def _look_around(self) -> None:
        """Find, in some partitions at a time, what went wrong although nobody noticed."""
        count = self._partitions.count
        number = -(-count // _ROUND)
        partitions = [(self._looked_at + each) % count for each in range(number)]
        self._looked_at = (self._looked_at + number) % count
        await self.release_strays(partitions)
        if self._others is not None:
            self._others.resuming.look(partitions)
