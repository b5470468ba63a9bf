"""The memory store: everything in this process, for tests and those who want no durability.

A restart starts a new epoch with empty mailboxes; clients are told `store_reset`.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Final

from gateway.errors import GatewayError
from gateway.mailbox import (
    OVERHEAD,
    Batch,
    Draft,
    Hole,
    Located,
    Position,
    RoomDraft,
)
from gateway.membership import Memberships
from gateway.messages import SessionId, TrueId
from gateway.nodes import Alone
from gateway.outbox import message_expired, session_new, session_revoked
from gateway.session import Session
from gateway.store import (
    Accepted,
    AppendDone,
    Ban,
    KeysFull,
    KeyTaken,
    MailboxFull,
    NotMember,
    PublishDone,
    Published,
    ReadDone,
    SessionsFull,
    StoreLimits,
    UnknownTarget,
    View,
)
from gateway.stores.limits import OnLimit, ignore_limit
from gateway.stores.memory_outbox import MemoryOutbox, OutboxCalls
from gateway.stores.memory_player import (
    KEY_BYTES,
    Player,
    Target,
    Trimmed,
    players_of,
    put_copies,
    trim,
)
from gateway.stores.memory_room_calls import RoomCalls
from gateway.stores.revocations import Revocations
from gateway.stores.sampling import OnLatency, Sampler, ignore_latency


class MemoryStore(RoomCalls, OutboxCalls):
    """A whole store in dictionaries.

    `epoch` names this life of the store, `nonces` are fresh random numbers of 40 bits.
    `on_dropped` is told how many messages went before any session had confirmed them, and
    whether they were `expired` or `trimmed`; `on_webhooks` as MemoryOutbox says, `on_latency` as
    Sampler does, `on_limit` as OnLimit.
    """

    available = True
    nodes: Final = Alone()
    presence: Final = None

    def __init__(
        self,
        limits: StoreLimits,
        epoch: str,
        nonces: Iterator[int],
        on_dropped: Callable[[str, int], None],
        on_webhooks: Callable[[int, int], None] = lambda added, given_up: None,
        on_latency: OnLatency = ignore_latency,
        on_limit: OnLimit = ignore_limit,
    ) -> None:
        self.epoch = epoch
        self._epoch = epoch.encode()
        self._limits = limits
        self._nonces = nonces
        self._on_dropped = on_dropped
        self._appends = Sampler("message", on_latency)
        self._publishes = Sampler("publish", on_latency)
        self._players: dict[TrueId, Player] = {}
        self._sessions: dict[SessionId, Session] = {}
        # Sessions without connection, the one longest unseen first.
        self._idle: OrderedDict[SessionId, Session] = OrderedDict()
        self._revoked = Revocations(limits.revocations)
        self._revoked_players = Revocations(limits.revocations)
        self._on_limit = on_limit
        # Players whose sessions may all have confirmed messages that are still here.
        self._reclaimable: OrderedDict[TrueId, None] = OrderedDict()
        self.memberships = Memberships()
        self.outbox = MemoryOutbox(limits.outbox, epoch, nonces, on_webhooks)
        self.bytes = 0

    async def open(self) -> None:
        """See Store.open."""

    async def close(self) -> None:
        """See Store.close."""

    async def check(self) -> None:
        """See Store.check: every call is answered before it returns."""

    # Mailboxes

    def epoch_of(self, true_id: TrueId) -> str:
        """See MailboxStore.epoch_of: it is the same for all players."""
        return self.epoch

    def append(self, draft: Draft, now: float, done: AppendDone) -> None:
        """See MailboxStore.append; answers before it returns."""
        if now >= self._appends.due:
            done = self._appends.watch(now, done)
        target = self._players.get(draft.target_id)
        if target is None:
            done(draft, UnknownTarget(draft.target_id))
            return
        limits = self._limits
        size = needed = len(draft.body) + OVERHEAD
        key = draft.key
        sender = None
        owner = draft.key_owner or draft.sender
        if key is not None and owner is not None and limits.dedupe_window > 0:
            sender = self._players.get(owner) or Player(owner)
            known = self._known_key(sender, key, draft.target_id, now)
            if known is not None:
                answer = known if isinstance(known, GatewayError) else Accepted(known, None)
                done(draft, answer)
                return
            needed += KEY_BYTES
        mailbox = target.mailbox
        if limits.refuse_when_full:
            limit = self._full(target, size, now)
            if limit is not None:
                done(draft, MailboxFull(limit))
                return
        if (
            limits.total_bytes
            and self.bytes + needed > limits.total_bytes
            and not self._reclaim([target], size, needed, now)
        ):
            done(draft, MailboxFull("mailbox.total_bytes"))
            return
        message = mailbox.append(self._epoch, next(self._nonces), draft.body, now)
        self.bytes += needed
        self._trim(target, now)
        if sender is not None and key is not None:
            sender.sent[key] = (now, draft.target_id, message.id)
            self._players[sender.true_id] = sender
        done(draft, Accepted(message.id, message))

    def publish(self, draft: RoomDraft, now: float, done: PublishDone) -> None:
        """See MailboxStore.publish; answers before it returns."""
        if now >= self._publishes.due:
            done = self._publishes.watch(now, done)
        done(draft, self._publish(draft, now))

    def _publish(self, draft: RoomDraft, now: float) -> Published | GatewayError:
        limits = self._limits
        members = self.memberships.members_of(draft.room)
        if draft.sender is not None and draft.sender not in members:
            return NotMember(draft.room)
        key = draft.key
        sender = None
        owner = draft.key_owner or draft.sender
        if key is not None and owner is not None and limits.dedupe_window > 0:
            sender = self._players.setdefault(owner, Player(owner))
            known = self._known_key(sender, key, (draft.room,), now)
            if known is not None:
                if isinstance(known, GatewayError):
                    return known
                return Published(known or None, duplicate=True)
        targets = players_of(self._players, members)
        size = len(draft.body) + OVERHEAD
        limit = ""
        full: list[Player] = []
        if limits.refuse_when_full:
            everybody, targets = targets, []
            for player in everybody:
                if (reached := self._full(player, size, now)) is not None:
                    full.append(player)
                    limit = reached
                else:
                    targets.append(player)
        needed = size * len(targets) + (KEY_BYTES if sender is not None else 0)
        if (
            limits.total_bytes
            and self.bytes + needed > limits.total_bytes
            and not self._reclaim(targets, size, needed, now)
        ):
            return MailboxFull("mailbox.total_bytes")
        for player in full:
            player.hole = Hole.deeper(player.hole, player.mailbox.head, player.read_by_all())
        if full:
            self._on_dropped("refused", len(full))
        copies, own, trimmed = put_copies(
            draft, targets, self._epoch, next(self._nonces), limits.mailbox, now
        )
        self.bytes += needed
        self._on_trimmed(trimmed, now)
        if sender is not None and key is not None:
            sender.sent[key] = (now, (draft.room,), own or b"")
        return Published(own, copies, [player.true_id for player in full], limit)

    def _trim(self, player: Player, now: float) -> None:
        """Keep a mailbox within its limits."""
        self._on_trimmed(trim(player, self._limits.mailbox, now), now)

    def _on_trimmed(self, trimmed: Trimmed, now: float) -> None:
        self.bytes -= trimmed.bytes
        if trimmed.unread:
            self._on_dropped("trimmed", trimmed.unread)
        for true_id, count in trimmed.expired:
            self._on_dropped("expired", count)
            self.outbox.add(message_expired(true_id, count, now))

    def _full(self, target: Player, size: int, now: float) -> str | None:
        """Name the limit that a message would exceed, if its mailbox is not to drop any.

        What is too old and what all sessions have confirmed makes room first.
        """
        limits = self._limits.mailbox
        mailbox = target.mailbox
        self._trim(target, now)
        if mailbox.excess(limits, size):
            self.bytes -= mailbox.drop_through(target.read_by_all())
        if not mailbox.excess(limits, size):
            return None
        if limits.max_messages and len(mailbox) >= limits.max_messages:
            return "mailbox.max_messages"
        return "mailbox.max_bytes"

    def _known_key(
        self, sender: Player, key: str, target: Target, now: float
    ) -> bytes | GatewayError | None:
        """Return the id under a key, or why it may not be used; None if the key is new."""
        self._expire_keys(sender, now)
        entry = sender.sent.get(key)
        if entry is not None:
            _, sent_to, message_id = entry
            return message_id if sent_to == target else KeyTaken("the key has another target")
        limits = self._limits
        if limits.dedupe_keys and len(sender.sent) >= limits.dedupe_keys:
            oldest, _, _ = next(iter(sender.sent.values()))
            return KeysFull(
                f"the sender has {limits.dedupe_keys} keys already",
                oldest + limits.dedupe_window - now,
            )
        return None

    def _expire_keys(self, sender: Player, now: float) -> None:
        sent = sender.sent
        oldest = now - self._limits.dedupe_window
        while sent and next(iter(sent.values()))[0] < oldest:
            sent.popitem(last=False)
            self.bytes -= KEY_BYTES

    def _reclaim(self, targets: list[Player], size: int, needed: int, now: float) -> bool:
        """Make room for `needed` bytes, `size` in each of these mailboxes; False: there is none.

        What the mailboxes themselves will trim for the message counts as room. The rest comes
        from messages that nobody needs any more. Every player is looked at once for each time
        that something was confirmed, so a store that stays full is not searched again and again.
        """
        limits = self._limits
        excess: dict[TrueId, int] = {}
        for target in targets:
            self._trim(target, now)
            excess[target.true_id] = target.mailbox.excess(limits.mailbox, size)
        trimmed = sum(excess.values())
        while self.bytes + needed - trimmed > limits.total_bytes:
            if not self._reclaimable:
                return False
            true_id, _ = self._reclaimable.popitem(last=False)
            player = self._players.get(true_id)
            if player is not None:
                self.bytes -= player.mailbox.drop_through(player.read_by_all())
                if true_id in excess:
                    trimmed -= excess[true_id]
                    excess[true_id] = player.mailbox.excess(limits.mailbox, size)
                    trimmed += excess[true_id]
        return True

    def read(self, true_id: TrueId, after: int, limit: int, max_bytes: int, done: ReadDone) -> None:
        """See MailboxStore.read; answers before it returns."""
        player = self._players.get(true_id) or Player(true_id)
        batch = player.mailbox.read(after, limit, max_bytes)
        done(batch if player.hole is None else Batch(batch.messages, batch.head, player.hole))

    async def view(
        self,
        true_id: TrueId,
        position: Position | None = None,
        session_id: SessionId | None = None,
    ) -> View:
        """See MailboxStore.view."""
        found = self._players.get(true_id)
        player = found or Player(true_id)
        mailbox = player.mailbox
        located = Located.FOREIGN
        if position is not None:
            located = mailbox.locate(position, self.epoch)
        skipped = mailbox.skipped(session_id) if session_id is not None else ()
        return View(
            mailbox.head,
            mailbox.first,
            player.confirmed,
            located,
            found is not None,
            player.hole,
            skipped,
        )

    async def know(self, true_ids: Iterable[TrueId]) -> None:
        """See MailboxStore.know."""
        for true_id in true_ids:
            self._players.setdefault(true_id, Player(true_id)).permanent = True

    async def forget(self, true_ids: Iterable[TrueId]) -> None:
        """See MailboxStore.forget; what is left of the players goes with `expire`."""
        for true_id in true_ids:
            player = self._players.get(true_id)
            if player is not None:
                player.permanent = False

    async def everyone(self, limit: int) -> AsyncIterator[tuple[TrueId, ...]]:
        """See MailboxStore.everyone."""
        here = (
            true_id
            for true_id, player in list(self._players.items())
            if player.permanent or player.sessions
        )
        while page := tuple(itertools.islice(here, limit)):
            yield page

    @property
    def message_count(self) -> int:
        """See Store.message_count; counted when asked."""
        return sum(len(player.mailbox) for player in self._players.values())

    # Sessions

    @property
    def session_count(self) -> int:
        """How many sessions are kept."""
        return len(self._sessions)

    async def session(self, session_id: SessionId, true_id: TrueId) -> Session | None:
        """See SessionStore.session."""
        session = self._sessions.get(session_id)
        return session if session is not None and session.true_id == true_id else None

    async def sessions_of(self, true_id: TrueId) -> tuple[Session, ...]:
        """See SessionStore.sessions_of."""
        player = self._players.get(true_id)
        sessions = player.sessions.values() if player is not None else ()
        return tuple(sorted(sessions, key=lambda session: session.last_seen))

    async def add_session(self, session: Session, issued_at: float = math.inf) -> None:
        """See SessionStore.add_session; `issued_at` is for stores of several nodes."""
        limits = self._limits
        player = self._players.get(session.true_id)
        if (
            player is not None
            and limits.sessions_per_player
            and len(player.sessions) >= limits.sessions_per_player
        ):
            idle = [other for other in player.sessions.values() if other.connection_id is None]
            if not idle:
                raise SessionsFull(f"the player has {limits.sessions_per_player} sessions already")
            self._drop(min(idle, key=lambda other: other.last_seen))
        elif limits.sessions and len(self._sessions) >= limits.sessions:
            if not self._idle:
                raise SessionsFull(f"{limits.sessions} sessions are in use already")
            self._drop(next(iter(self._idle.values())))
        if player is None:
            player = self._players[session.true_id] = Player(session.true_id)
        self._sessions[session.id] = player.sessions[session.id] = session
        self.outbox.add(session_new(session))
        self.save_session(session)

    async def update_session(self, session: Session) -> bool:
        """See SessionStore.update_session."""
        if session.id not in self._sessions:
            return False
        if session.connection_id is not None:
            self._idle.pop(session.id, None)
        return True

    def save_session(self, session: Session) -> None:
        """See SessionStore.save_session."""
        player = self._players.get(session.true_id)
        if player is not None:
            player.confirmed = max(player.confirmed, session.confirmed)
            if len(player.mailbox):
                self._reclaimable[session.true_id] = None
        if session.connection_id is not None:
            self._idle.pop(session.id, None)
        elif self._sessions.get(session.id) is session:
            # A key that is there already keeps its place.
            self._idle[session.id] = session

    async def revoke_session(
        self, session_id: SessionId, true_id: TrueId, now: float, reason: str = "revoked"
    ) -> None:
        """See SessionStore.revoke_session."""
        session = self._sessions.get(session_id)
        if session is not None and session.true_id == true_id:
            self._drop(session)
            self.outbox.add(session_revoked(session_id, true_id, reason, now))
        if self._revoked.add(session_id, now):
            self._on_limit("revocations")

    def _drop(self, session: Session) -> None:
        self._sessions.pop(session.id, None)
        self._idle.pop(session.id, None)
        player = self._players.get(session.true_id)
        if player is not None:
            player.sessions.pop(session.id, None)
        # Last: what the others have all confirmed may be more without it.
        self.save_session(session)

    async def revoke_player(self, true_id: TrueId, now: float) -> None:
        """See SessionStore.revoke_player."""
        if self._revoked_players.add(true_id, now):
            self._on_limit("revocations")

    async def is_revoked(self, session_id: SessionId, true_id: TrueId, issued_at: float) -> bool:
        """See SessionStore.is_revoked."""
        if self._revoked.get(session_id) is not None:
            return True
        not_before = self._revoked_players.get(true_id) or 0.0
        return issued_at <= max(not_before, self._revoked.until, self._revoked_players.until)

    async def set_ban(self, true_id: TrueId, ban: Ban | None) -> None:
        """See SessionStore.set_ban."""
        if ban is not None:
            self._players.setdefault(true_id, Player(true_id)).ban = ban
        elif true_id in self._players:
            self._players[true_id].ban = None

    async def ban_of(self, true_id: TrueId, now: float) -> Ban | None:
        """See SessionStore.ban_of."""
        player = self._players.get(true_id)
        ban = player.ban if player is not None else None
        return ban if ban is not None and (ban.until is None or ban.until > now) else None

    async def expire(self, now: float) -> None:
        """See Store.expire."""
        self._appends.restart()
        self._publishes.restart()
        limits = self._limits
        # A token's age is counted in whole seconds, so it may live up to one second longer.
        oldest = now - limits.token_lifetime - 1
        self._revoked.expire(oldest)
        self._revoked_players.expire(oldest)
        while self._idle:
            session = next(iter(self._idle.values()))
            if session.last_seen >= now - limits.session_lifetime:
                break
            self._drop(session)
        for true_id, player in list(self._players.items()):
            self._trim(player, now)
            self._expire_keys(player, now)
            if player.ban is not None and player.ban.until is not None and player.ban.until <= now:
                player.ban = None
            needed = player.permanent or player.ban or player.sessions or player.sent
            if not needed and not len(player.mailbox) and not self.memberships.rooms_of(true_id):
                del self._players[true_id]
