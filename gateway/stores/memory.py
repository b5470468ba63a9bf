"""The memory store: everything in this process, for tests and those who want no durability.

A restart starts a new epoch with empty mailboxes; clients are told `store_reset`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from gateway.errors import GatewayError
from gateway.mailbox import (
    Accepted,
    AppendDone,
    Batch,
    Draft,
    KeysFull,
    KeyTaken,
    Located,
    Mailbox,
    MailboxFull,
    Position,
    Retention,
    UnknownTarget,
)
from gateway.messages import SessionId, TrueId
from gateway.session import Session, SessionsFull

#: Beyond this many, tokens older than the oldest revocation dropped count as revoked.
_MAX_REVOCATIONS = 100_000
#: What a remembered idempotency key counts in the store's bytes.
KEY_BYTES = 128

_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """Bounds of the store; 0 means no limit. Lifetimes and windows are in seconds."""

    mailbox: Retention
    total_bytes: int
    dedupe_window: float
    dedupe_keys: int
    sessions: int
    sessions_per_player: int
    session_lifetime: float
    token_lifetime: float


@dataclass(slots=True)
class _Player:
    mailbox: Mailbox = field(default_factory=Mailbox)
    sessions: dict[SessionId, Session] = field(default_factory=dict)
    # Idempotency keys of the messages this player sent: key -> (time, target, message id).
    sent: OrderedDict[str, tuple[float, TrueId, str]] = field(default_factory=OrderedDict)
    confirmed: int = 0
    permanent: bool = False

    def read_by_all(self) -> int:
        """Return the offset up to which no session needs a message any more."""
        return min((each.confirmed for each in self.sessions.values()), default=self.confirmed)


class _Revocations(Generic[_Key]):
    """When what was revoked, in the order of it; beyond a bound only up to when."""

    __slots__ = ("_times", "until")

    def __init__(self) -> None:
        self._times: OrderedDict[_Key, float] = OrderedDict()
        #: Whatever was issued up to then may have been revoked.
        self.until = 0.0

    def add(self, key: _Key, now: float) -> None:
        self._times[key] = now
        self._times.move_to_end(key)
        if len(self._times) > _MAX_REVOCATIONS:
            self.until = max(self.until, self._times.popitem(last=False)[1])

    def get(self, key: _Key) -> float | None:
        return self._times.get(key)

    def expire(self, oldest: float) -> None:
        while self._times and next(iter(self._times.values())) < oldest:
            self._times.popitem(last=False)


class MemoryStore:
    """MailboxStore and SessionStore in dictionaries.

    `epoch` names this life of the store, `new_nonce` returns a fresh random nonce.
    """

    def __init__(self, limits: MemoryLimits, epoch: str, new_nonce: Callable[[], str]) -> None:
        self.epoch = epoch
        self._limits = limits
        self._new_nonce = new_nonce
        self._players: dict[TrueId, _Player] = {}
        self._sessions: dict[SessionId, Session] = {}
        # Sessions without connection, the one longest unseen first.
        self._idle: OrderedDict[SessionId, Session] = OrderedDict()
        self._revoked: _Revocations[SessionId] = _Revocations()
        self._revoked_players: _Revocations[TrueId] = _Revocations()
        # Players whose sessions may all have confirmed messages that are still here.
        self._reclaimable: OrderedDict[TrueId, None] = OrderedDict()
        self.bytes = 0

    # Mailboxes

    def append(self, draft: Draft, now: float, done: AppendDone) -> None:
        """See MailboxStore.append; answers before it returns."""
        target = self._players.get(draft.target_id)
        if target is None:
            done(UnknownTarget(draft.target_id))
            return
        limits = self._limits
        size = needed = draft.size
        key = draft.key
        sender = None
        if key is not None and draft.sender is not None and limits.dedupe_window > 0:
            sender = self._players.get(draft.sender)
            if sender is not None:
                known = self._known_key(sender, key, draft.target_id, now)
                if known is not None:
                    done(known)
                    return
                needed += KEY_BYTES
        if (
            limits.total_bytes
            and self.bytes + needed > limits.total_bytes
            and not self._reclaim(target.mailbox, size, needed, now)
        ):
            done(MailboxFull("all mailboxes together are full"))
            return
        mailbox = target.mailbox
        message = mailbox.append(draft, self.epoch, self._new_nonce(), now)
        self.bytes += needed - mailbox.trim(limits.mailbox, now)
        message_id = str(message.position)
        if sender is not None and key is not None:
            sender.sent[key] = (now, draft.target_id, message_id)
        done(Accepted(message_id, message, False))

    def _known_key(
        self, sender: _Player, key: str, target_id: TrueId, now: float
    ) -> Accepted | GatewayError | None:
        """Return how the store answers without storing anything; None if the key is new."""
        self._expire_keys(sender, now)
        entry = sender.sent.get(key)
        if entry is not None:
            _, sent_to, message_id = entry
            if sent_to != target_id:
                return KeyTaken("the key was used for a message to another player")
            return Accepted(message_id, None, True)
        limits = self._limits
        if limits.dedupe_keys and len(sender.sent) >= limits.dedupe_keys:
            oldest, _, _ = next(iter(sender.sent.values()))
            return KeysFull(
                f"the sender has {limits.dedupe_keys} keys already",
                oldest + limits.dedupe_window - now,
            )
        return None

    def _expire_keys(self, sender: _Player, now: float) -> None:
        sent = sender.sent
        oldest = now - self._limits.dedupe_window
        while sent and next(iter(sent.values()))[0] < oldest:
            sent.popitem(last=False)
            self.bytes -= KEY_BYTES

    def _reclaim(self, mailbox: Mailbox, size: int, needed: int, now: float) -> bool:
        """Make room for `needed` bytes, of which `size` go to this mailbox; False: there is none.

        What the mailbox itself will trim for the message counts as room. The rest comes from
        messages that nobody needs any more. Every player is looked at once for each time that
        something was confirmed, so a store that stays full is not searched again and again.
        """
        limits = self._limits
        self.bytes -= mailbox.trim(limits.mailbox, now)
        while self.bytes + needed - mailbox.excess(limits.mailbox, size) > limits.total_bytes:
            if not self._reclaimable:
                return False
            true_id, _ = self._reclaimable.popitem(last=False)
            player = self._players.get(true_id)
            if player is not None:
                self.bytes -= player.mailbox.drop_through(player.read_by_all())
        return True

    def read(
        self,
        true_id: TrueId,
        after: int,
        limit: int,
        max_bytes: int,
        done: Callable[[Batch], None],
    ) -> None:
        """See MailboxStore.read; answers before it returns."""
        done(self._mailbox(true_id).read(after, limit, max_bytes))

    def locate(self, true_id: TrueId, position: Position) -> Located:
        """See MailboxStore.locate."""
        return self._mailbox(true_id).locate(position, self.epoch)

    def head(self, true_id: TrueId) -> int:
        """See MailboxStore.head."""
        return self._mailbox(true_id).head

    def first(self, true_id: TrueId) -> int:
        """See MailboxStore.first."""
        return self._mailbox(true_id).first

    def know(self, true_ids: Iterable[TrueId]) -> None:
        """See MailboxStore.know."""
        for true_id in true_ids:
            self._players.setdefault(true_id, _Player()).permanent = True

    def forget(self, true_ids: Iterable[TrueId]) -> None:
        """See MailboxStore.forget; what is left of the players goes with `expire`."""
        for true_id in true_ids:
            player = self._players.get(true_id)
            if player is not None:
                player.permanent = False

    def _mailbox(self, true_id: TrueId) -> Mailbox:
        player = self._players.get(true_id)
        return player.mailbox if player is not None else Mailbox()

    # Sessions

    @property
    def session_count(self) -> int:
        """How many sessions are kept."""
        return len(self._sessions)

    async def session(self, session_id: SessionId) -> Session | None:
        """See SessionStore.session."""
        return self._sessions.get(session_id)

    async def sessions_of(self, true_id: TrueId) -> tuple[Session, ...]:
        """See SessionStore.sessions_of."""
        player = self._players.get(true_id)
        sessions = player.sessions.values() if player is not None else ()
        return tuple(sorted(sessions, key=lambda session: session.last_seen))

    async def add_session(self, session: Session) -> None:
        """See SessionStore.add_session."""
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
            player = self._players[session.true_id] = _Player()
        self._sessions[session.id] = player.sessions[session.id] = session
        self.save_session(session)

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

    async def revoke_session(self, session_id: SessionId, now: float) -> None:
        """See SessionStore.revoke_session."""
        session = self._sessions.get(session_id)
        if session is not None:
            self._drop(session)
        self._revoked.add(session_id, now)

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
        self._revoked_players.add(true_id, now)

    async def is_revoked(self, session_id: SessionId, true_id: TrueId, issued_at: float) -> bool:
        """See SessionStore.is_revoked."""
        if self._revoked.get(session_id) is not None:
            return True
        not_before = self._revoked_players.get(true_id) or 0.0
        return issued_at <= max(not_before, self._revoked.until, self._revoked_players.until)

    async def confirmed_of(self, true_id: TrueId) -> int:
        """See SessionStore.confirmed_of."""
        player = self._players.get(true_id)
        return player.confirmed if player is not None else 0

    def expire(self, now: float) -> None:
        """Forget what has outlived its time: sessions, revocations, messages, keys, players.

        Called every few seconds at most; `now` is in Unix seconds. A player goes when nothing
        is left: a message that was accepted for them waits for as long as any other.
        """
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
            self.bytes -= player.mailbox.trim(limits.mailbox, now)
            self._expire_keys(player, now)
            needed = player.permanent or player.sessions or player.sent
            if not needed and not len(player.mailbox):
                del self._players[true_id]
