"""A player's session: one client instance over all its reconnects.

Holds the rules of PROTOCOL 1.2 that need no IO: which generation of a resume token is good,
and where in the mailbox replay starts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from gateway.errors import ConnectRefused, GatewayError
from gateway.mailbox import Located, Position
from gateway.messages import ConnectionId, SessionId, TrueId

Outcome = Literal["new", "resumed", "expired", "trimmed", "store_reset"]


@dataclass(slots=True)
class Session:
    """State of one session. Offsets are of the player's mailbox, times in Unix seconds.

    `start` is where the present client instance (one page load) began; `confirmed` is the
    newest offset known to have arrived, by a heartbeat or because the client presented it.
    `method` is how the player logged in, `opened` the generation under which the session was
    opened: 1, or more when a token brought back one that the store no longer had.
    """

    id: SessionId
    true_id: TrueId
    name: str
    method: str
    pid: str
    last_seen: float
    start: int
    confirmed: int
    generation: int = 1
    opened: int = 1
    connection_id: ConnectionId | None = field(default=None)

    def present(self, generation: int) -> None:
        """Take a resume token of this generation; afterwards `generation` is the one to issue.

        The newest token rotates. The one before it stays good until then, because the reply
        that carried the newest may have been lost: that one is issued again. Raises
        ConnectRefused (`token_reused`) for an older one: somebody copied it.
        """
        if generation == self.generation:
            self.generation += 1
        elif generation != self.generation - 1:
            raise ConnectRefused(
                "token_reused",
                "an old resume token was presented, so its session is revoked: log in again",
            )

    def confirm(self, offset: int) -> None:
        """Note that everything up to this offset has arrived."""
        self.confirmed = max(self.confirmed, offset)


@dataclass(frozen=True, slots=True)
class Gap:
    """What a client lost: everything after the id `after`, `lost` messages if that is known."""

    after: str | None
    lost: int | None


@dataclass(frozen=True, slots=True)
class ReplayStart:
    """Replay messages with offsets above `after`; tell the client `outcome` and `gap`."""

    after: int
    outcome: Outcome
    gap: Gap | None


def replay_start(
    *,
    presented: Position | None,
    presented_text: str | None,
    located: Located,
    wanted: int,
    first: int,
) -> ReplayStart:
    """Decide where replay starts for a client that comes back to its session.

    `presented` is the offset the client sent, `presented_text` as it sent it, `located` what
    the store says of it. Without one, replay starts after the offset `wanted`: the
    session's start for a pid, the last confirmed offset for a token. `first` is the oldest
    offset the store still has.
    """
    oldest = first - 1
    if presented_text is not None:
        if presented is None or located is Located.FOREIGN:
            return ReplayStart(oldest, "store_reset", Gap(presented_text, None))
        wanted = presented.offset
    if wanted >= oldest:
        return ReplayStart(wanted, "resumed", None)
    return ReplayStart(oldest, "trimmed", Gap(presented_text, oldest - wanted))


class SessionsFull(GatewayError):
    """The limit on sessions is reached; nothing was stored."""


class SessionStore(Protocol):
    """Keeps sessions and what was revoked of them. Methods raise StoreUnavailable."""

    async def session(self, session_id: SessionId) -> Session | None:
        """Return the session, or None if it never was, has expired or was revoked."""

    async def sessions_of(self, true_id: TrueId) -> tuple[Session, ...]:
        """Return the player's sessions, the one longest unseen first."""

    async def add_session(self, session: Session) -> None:
        """Keep a new session and make its player known.

        At a limit the session longest unseen that has no connection is forgotten for it: one
        of the player's at the player's own limit, which comes first, else anybody's. Raises
        SessionsFull when all of them have connections.
        """

    def save_session(self, session: Session) -> None:
        """Keep what has changed of a session.

        To be called whenever `confirmed` has moved, and each time the session has got a
        connection or lost its last one.
        """

    async def revoke_session(self, session_id: SessionId, now: float) -> None:
        """Forget a session, and remember that it was revoked until its tokens expire."""

    async def revoke_player(self, true_id: TrueId, now: float) -> None:
        """Remember that every token of the player issued up to now is worth nothing.

        The sessions that the store has stay: they are revoked one by one.
        """

    async def is_revoked(self, session_id: SessionId, true_id: TrueId, issued_at: float) -> bool:
        """Tell whether the session was revoked, alone or with its player, or may have been.

        `issued_at` is when its token was signed: a bounded memory of revocations answers
        True for every token older than what it still remembers.
        """

    async def confirmed_of(self, true_id: TrueId) -> int:
        """Return the newest offset that any session of the player has confirmed."""
