"""What the gateway asks of a store: mailboxes, rooms, sessions, revocations and bans.

The implementations are in gateway/stores; one suite of tests runs over all of them.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from gateway.errors import ConnectRefused, GatewayError, StoreUnavailable
from gateway.mailbox import (
    Batch,
    Draft,
    Hole,
    Located,
    Position,
    Retention,
    RoomDraft,
    StoredMessage,
)
from gateway.membership import Memberships, RoomLimits
from gateway.messages import SessionId, TrueId
from gateway.nodes import Nodes
from gateway.outbox import NO_OUTBOX, OutboxLimits, OutboxStore
from gateway.presence_store import PresenceStore
from gateway.session import Session


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """Bounds of a store; 0 means no limit. Lifetimes and windows are in seconds.

    With `refuse_when_full` a mailbox at its limits takes no message until its player has
    confirmed some; without it, the oldest go.
    """

    mailbox: Retention
    refuse_when_full: bool
    total_bytes: int
    dedupe_window: float
    dedupe_keys: int
    sessions: int
    sessions_per_player: int
    session_lifetime: float
    token_lifetime: float
    rooms: RoomLimits
    outbox: OutboxLimits = NO_OUTBOX
    #: Revocations of sessions, and as many of players.
    revocations: int = 0
    #: Messages to a room that are on their way to its members.
    pending_messages: int = 0


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """The store has the message; `message` is None when it already had it under the same key.

    `remote` is how many connections of the player at other gateway nodes were told of it.
    """

    message_id: bytes
    message: StoredMessage | None
    remote: int = 0


#: A message, and the players who have it at its offset.
Copies = tuple[StoredMessage, list[TrueId]]


class Published(msgspec.Struct, frozen=True, gc=False):
    """The store has a message to a room, in the mailbox of every member but the `full` ones.

    `copies` are for the players whose mailboxes stood at one place each; a `duplicate` was
    stored before, under the same key, and has none. `message_id` is that of the sender's own
    copy, None if there is none; `limit` what the full mailboxes have reached. `remote` is how
    many connections at other gateway nodes were told of it, `elsewhere` how many of the players
    with copies have connections at such nodes only.
    """

    message_id: bytes | None
    copies: Sequence[Copies] = ()
    full: Sequence[TrueId] = ()
    limit: str = ""
    duplicate: bool = False
    remote: int = 0
    elsewhere: int = 0


class Membership(msgspec.Struct, frozen=True, gc=False):
    """What a join or leave came to: whether it `changed` anything, and how many members.

    `number` is the member's place: see Memberships.
    """

    changed: bool
    members: int
    number: int = 0


class View(msgspec.Struct, frozen=True, gc=False):
    """A mailbox at one moment.

    `head` is the offset of its newest message, 0 if there was none ever; `first` of the
    oldest one kept, head + 1 if there is none; `confirmed` the newest that any session of the
    player has confirmed; `located` what became of the position that was asked about; `known`
    whether there is such a player; `hole` where messages are missing; `skipped` what the
    session that was asked about passes over; `remote` how many connections the player has at
    other nodes.
    """

    head: int
    first: int
    confirmed: int
    located: Located
    known: bool = True
    hole: Hole | None = None
    skipped: tuple[int, ...] = ()
    remote: int = 0


class Ban(msgspec.Struct, frozen=True):
    """A player may not connect until `until` (Unix seconds; None: for good)."""

    until: float | None
    reason: str

    def refusal(self, now: float) -> ConnectRefused:
        """Return what the player is told."""
        reason = f": {self.reason}" if self.reason else ""
        wait = None if self.until is None else max(0.0, round(self.until - now, 3))
        return ConnectRefused("banned", f"you may not play here now{reason}", wait)


class MailboxFull(GatewayError):
    """The message was not stored: a limit is reached; `limit` is its key in the YAML file."""

    def __init__(self, limit: str) -> None:
        super().__init__(f"{limit} is reached")
        self.limit = limit


class UnknownTarget(GatewayError):
    """The message was not stored: there is no such player."""


class KeyTaken(GatewayError):
    """The message was not stored: its sender used the key for a message to another player."""


class KeysFull(GatewayError):
    """The message was not stored: the store cannot remember one more key of this sender.

    `retry_after` is in seconds: then the sender's oldest key will be forgotten.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotMember(GatewayError):
    """Nothing was stored: the player is not in the room."""


class SessionChanged(GatewayError):
    """Nothing was stored: another gateway node has changed the session. Read it again."""


class SessionsFull(GatewayError):
    """The limit on sessions is reached; nothing was stored."""


AppendDone = Callable[[Draft, Accepted | GatewayError], None]
PublishDone = Callable[[RoomDraft, Published | GatewayError], None]
ReadDone = Callable[[Batch | StoreUnavailable], None]
MembershipDone = Callable[[Membership | GatewayError], None]


class MailboxStore(Protocol):
    """Keeps mailboxes.

    Calls with a `done` come back through it, in the order in which they were asked: before
    they return if the store is in memory, else in a later turn of the event loop. Only
    StoreUnavailable may overtake other answers. Appends are answered
    after their commit: what was accepted survives whatever the store survives. What was
    answered StoreUnavailable may have been kept all the same: its key tells.
    """

    def epoch_of(self, true_id: TrueId) -> str:
        """Return the epoch of the player's mailbox: the one of new positions in it."""

    def append(self, draft: Draft, now: float, done: AppendDone) -> None:
        """Store the message once per (sender, key), then call `done`.

        `done` gets Accepted, or UnknownTarget, MailboxFull, KeyTaken, KeysFull or
        StoreUnavailable when nothing was stored. To make room, messages may go that every
        session of their player has confirmed.
        """

    def publish(self, draft: RoomDraft, now: float, done: PublishDone) -> None:
        """Store the message once per (sender, key) for each member, then call `done`.

        All messages to a room are stored for its members in the same order. `done` gets
        Published, or NotMember, MailboxFull (`mailbox.total_bytes`), KeyTaken, KeysFull or
        StoreUnavailable when nothing was stored. A mailbox that is full and may drop nothing
        does not get it: it has a hole there.
        """

    def read(self, true_id: TrueId, after: int, limit: int, max_bytes: int, done: ReadDone) -> None:
        """Call `done` with messages after the offset `after`: see Mailbox.read."""

    async def view(
        self,
        true_id: TrueId,
        position: Position | None = None,
        session_id: SessionId | None = None,
    ) -> View:
        """Return the state of a mailbox, and what became of a position in it.

        Without a position `located` is FOREIGN, without a session `skipped` is empty. Raises
        StoreUnavailable.
        """

    async def know(self, true_ids: Iterable[TrueId]) -> None:
        """Make these players known for good: messages to them are accepted from now on.

        Raises StoreUnavailable.
        """

    def everyone(self, limit: int) -> AsyncIterator[tuple[TrueId, ...]]:
        """Yield all players that may come back, at most `limit` at a time.

        They are known for good or have a session. Who comes or goes meanwhile may be left out.
        Raises StoreUnavailable.
        """

    async def forget(self, true_ids: Iterable[TrueId]) -> None:
        """Undo `know`: without sessions, messages and keys these players are unknown again.

        Raises StoreUnavailable.
        """


class SessionStore(Protocol):
    """Keeps sessions, what was revoked of them, and bans. Methods raise StoreUnavailable.

    What a method has changed is durable when it returns, `save_session` excepted.
    """

    async def session(self, session_id: SessionId, true_id: TrueId) -> Session | None:
        """Return the player's session, or None if it never was, has expired or was revoked.

        While a session has a connection here, it is one and the same object for all.
        """

    async def sessions_of(self, true_id: TrueId) -> tuple[Session, ...]:
        """Return the player's sessions, the one longest unseen first."""

    async def add_session(self, session: Session, issued_at: float = math.inf) -> None:
        """Keep a new session and make its player known.

        At a limit the session longest unseen that has no connection is forgotten for it: one
        of the player's at the player's own limit, which comes first, else anybody's. Raises
        SessionsFull when all of them have connections. Raises SessionChanged when another node
        has opened the session meanwhile; and, of one that has a connection, when it has revoked
        the token, signed at `issued_at`, that the session comes from, or banned the player.
        """

    async def update_session(self, session: Session) -> bool:
        """Keep the session's generation, pid and start; take it into use if it has a connection.

        In use it is not forgotten, to make room or by age, until it is saved without one.
        Its `version` becomes the new one. Returns False, and keeps nothing, when the store no
        longer has the session. Raises SessionChanged when it has another version, or when
        another node has banned the player for longer than until `last_seen`, which is now.
        """

    def save_session(self, session: Session) -> None:
        """Keep soon what a crash may forget: `confirmed`, `last_seen`, and whether it is in use.

        To be called whenever `confirmed` has moved, and each time the session has got a
        connection or lost its last one.
        """

    async def revoke_session(
        self, session_id: SessionId, true_id: TrueId, now: float, reason: str = "revoked"
    ) -> None:
        """Forget a session, and remember that it was revoked until its tokens expire.

        `reason` goes into the webhook, if the store had the session.
        """

    async def revoke_player(self, true_id: TrueId, now: float) -> None:
        """Remember that every token of the player issued up to now is worth nothing.

        The sessions that the store has stay: they are revoked one by one.
        """

    async def is_revoked(self, session_id: SessionId, true_id: TrueId, issued_at: float) -> bool:
        """Tell whether the session was revoked, alone or with its player, or may have been.

        `issued_at` is when its token was signed: a bounded memory of revocations answers
        True for every token older than what it still remembers.
        """

    async def set_ban(self, true_id: TrueId, ban: Ban | None) -> None:
        """Ban a player, or with None lift the ban."""

    async def ban_of(self, true_id: TrueId, now: float) -> Ban | None:
        """Return the ban that holds now, if any."""


class RoomStore(Protocol):
    """Keeps who is in which room. `done` as in MailboxStore."""

    @property
    def memberships(self) -> Memberships:
        """What has been answered so far, to be read only; another object after a new start."""

    def join(self, room: str, true_id: TrueId, done: MembershipDone) -> None:
        """Put a player into a room, known and kept from now on, then call `done`.

        `done` gets Membership, also when they were in it, RoomLimitReached or
        StoreUnavailable.
        """

    def leave(self, room: str, true_id: TrueId, done: MembershipDone) -> None:
        """Take a player out of a room, then call `done` with Membership or StoreUnavailable."""


class Store(MailboxStore, SessionStore, RoomStore, OutboxStore, Protocol):
    """A whole store, from its opening to its close."""

    @property
    def nodes(self) -> Nodes:
        """The other gateways that use this store at the same time."""

    @property
    def presence(self) -> PresenceStore | None:
        """What they tell each other of players' presence; None for a store of one gateway."""

    @property
    def available(self) -> bool:
        """False while the store cannot be written: it answers StoreUnavailable meanwhile."""

    @property
    def bytes(self) -> int:
        """Size of all mailboxes and idempotency keys, as `mailbox.total_bytes` counts it."""

    @property
    def message_count(self) -> int:
        """How many messages are in all mailboxes."""

    @property
    def session_count(self) -> int:
        """How many sessions are kept."""

    async def open(self) -> None:
        """Make the store ready. Raises ConfigError for one that this release cannot use.

        A store that is damaged or out of reach opens all the same, and is not available.
        """

    async def check(self) -> None:
        """Write and read something small: what was asked before has been answered by then.

        Raises StoreUnavailable. However busy the store is, it is not refused.
        """

    async def expire(self, now: float) -> None:
        """Forget what has outlived its time: sessions, revocations, bans, messages, keys.

        To be called every few seconds; `now` is in Unix seconds. A player goes when nothing
        is left: a message that was accepted for them waits for as long as any other.
        """

    async def close(self) -> None:
        """Finish what is under way and release everything."""
