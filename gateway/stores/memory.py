"""The memory store: everything in this process, for tests and those who want no durability.

A restart starts a new epoch with empty mailboxes; clients are told `store_reset`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gateway.mailbox import (
    Accepted,
    AppendDone,
    Batch,
    Draft,
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
    # Idempotency keys of the messages this player sent: key -> (time, message id).
    sent: OrderedDict[str, tuple[float, str]] = field(default_factory=OrderedDict)
    confirmed: int = 0
    permanent: bool = False


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
        self._revoked: OrderedDict[SessionId, float] = OrderedDict()
        self._revoked_until = 0.0
        self.bytes = 0

    # Mailboxes

    def append(self, draft: Draft, now: float, done: AppendDone) -> None:
        """See MailboxStore.append; answers before it returns."""
        target = self._players.get(draft.target_id)
        if target is None:
            done(UnknownTarget(draft.target_id))
            return
        limits = self._limits
        key = draft.key
        sender = None
        if key is not None and draft.sender is not None:
            sender = self._players.get(draft.sender)
            known = self._known_key(sender, key, now) if sender is not None else None
            if known is not None:
                done(Accepted(known, None, True))
                return
        size = draft.size
        if limits.total_bytes and self.bytes + size > limits.total_bytes:
            done(MailboxFull("all mailboxes together are full"))
            return
        mailbox = target.mailbox
        message = mailbox.append(draft, self.epoch, self._new_nonce(), now)
        self.bytes += size - mailbox.trim(limits.mailbox, now)
        message_id = str(message.position)
        if sender is not None and key is not None and limits.dedupe_window > 0:
            sender.sent[key] = (now, message_id)
            if limits.dedupe_keys and len(sender.sent) > limits.dedupe_keys:
                sender.sent.popitem(last=False)
        done(Accepted(message_id, message, False))

    def _known_key(self, sender: _Player, key: str, now: float) -> str | None:
        while sender.sent:
            oldest = next(iter(sender.sent))
            if sender.sent[oldest][0] >= now - self._limits.dedupe_window:
                break
            del sender.sent[oldest]
        entry = sender.sent.get(key)
        return entry[1] if entry else None

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
        """See SessionStore.add_session.

        A player at its own limit loses the session longest unseen that has no connection.
        """
        limits = self._limits
        if limits.sessions and len(self._sessions) >= limits.sessions:
            raise SessionsFull(f"{limits.sessions} sessions are kept already")
        player = self._players.get(session.true_id)
        if player is None:
            player = self._players[session.true_id] = _Player()
        if limits.sessions_per_player and len(player.sessions) >= limits.sessions_per_player:
            idle = [other for other in player.sessions.values() if other.connection_id is None]
            if not idle:
                raise SessionsFull(f"the player has {limits.sessions_per_player} sessions already")
            self._drop(min(idle, key=lambda other: other.last_seen))
        self._sessions[session.id] = player.sessions[session.id] = session

    def save_session(self, session: Session) -> None:
        """See SessionStore.save_session."""
        player = self._players.get(session.true_id)
        if player is not None:
            player.confirmed = max(player.confirmed, session.confirmed)

    async def revoke_session(self, session_id: SessionId, now: float) -> None:
        """See SessionStore.revoke_session."""
        session = self._sessions.get(session_id)
        if session is not None:
            self._drop(session)
        self._revoked[session_id] = now
        if len(self._revoked) > _MAX_REVOCATIONS:
            _, self._revoked_until = self._revoked.popitem(last=False)

    def _drop(self, session: Session) -> None:
        self.save_session(session)
        self._sessions.pop(session.id, None)
        player = self._players.get(session.true_id)
        if player is not None:
            player.sessions.pop(session.id, None)

    async def is_revoked(self, session_id: SessionId, issued_at: float) -> bool:
        """See SessionStore.is_revoked."""
        return session_id in self._revoked or issued_at <= self._revoked_until

    async def confirmed_of(self, true_id: TrueId) -> int:
        """See SessionStore.confirmed_of."""
        player = self._players.get(true_id)
        return player.confirmed if player is not None else 0

    def expire(self, now: float) -> None:
        """Forget what has outlived its time: sessions, revocations, messages, players.

        Called every few seconds at most; `now` is in Unix seconds.
        """
        limits = self._limits
        # A token's age is counted in whole seconds, so it may live up to one second longer.
        oldest = now - limits.token_lifetime - 1
        while self._revoked and next(iter(self._revoked.values())) < oldest:
            self._revoked.popitem(last=False)
        for session in list(self._sessions.values()):
            if session.connection_id is None and session.last_seen < now - limits.session_lifetime:
                self._drop(session)
        for true_id, player in list(self._players.items()):
            self.bytes -= player.mailbox.trim(limits.mailbox, now)
            if not player.sessions and not player.permanent:
                self.bytes -= player.mailbox.size
                del self._players[true_id]
