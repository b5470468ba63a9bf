"""A player's session: one client instance over all its reconnects.

Holds the rules of PROTOCOL 1.2 that need no IO: which generation of a resume token is good,
and where in the mailbox replay starts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from gateway.errors import ConnectRefused
from gateway.mailbox import Hole, Located, Position
from gateway.messages import ConnectionId, SessionId, TrueId

#: A JSON object without any.
NO_ATTRIBUTES: Final = "{}"
Outcome = Literal["new", "resumed", "expired", "trimmed", "store_reset"]


@dataclass(slots=True)
class Session:
    """State of one session. Offsets are of the player's mailbox, times in Unix seconds.

    `start` is where the present client instance (one page load) began; `confirmed` is the
    newest offset known to have arrived, by a heartbeat or because the client presented it.
    `method` is how the player logged in, `opened` the generation under which the session was
    opened: 1, or more when a token brought back one that the store no longer had. A generation
    of 0 is that of a session whose first token was minted for a backend and not used yet.
    `attributes` is what the backend says of the player, a JSON object. `node` is the gateway
    node that has its connection, "" for none or where there is only one node; `version` is what
    a store that several nodes share counts its updates by.
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
    attributes: str = NO_ATTRIBUTES
    connection_id: ConnectionId | None = field(default=None)
    node: str = field(default="", compare=False)
    version: int = field(default=0, compare=False)

    @property
    def elsewhere(self) -> bool:
        """Whether another gateway node has its connection."""
        return self.connection_id is None and self.node != ""

    @property
    def about(self) -> dict[str, str]:
        """What log lines about this session carry."""
        return {"true_id": self.true_id, "session_id": self.id}

    def present(self, generation: int) -> int:
        """Return the generation to issue to who presents a resume token of this generation.

        The newest token rotates. The one before it stays good until then, because the reply
        that carried the newest may have been lost: that one is issued again. Raises
        ConnectRefused (`token_reused`) for an older one: somebody copied it.
        """
        if generation == self.generation:
            return self.generation + 1
        if generation == self.generation - 1:
            return self.generation
        raise ConnectRefused(
            "token_reused",
            "an old resume token was presented, so its session is revoked: log in again",
        )

    def first(self, start: ReplayStart) -> ReplayStart:
        """Return where replay starts: for a session never used, as for a new one."""
        if self.generation:
            return start
        return ReplayStart(start.after, "new", start.gap)

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
    """Replay messages with offsets above `after`; tell the client `outcome` and `gap`.

    `arrived` is the offset that the client has shown to have reached, 0 if it has not.
    """

    after: int
    outcome: Outcome
    gap: Gap | None
    arrived: int = 0


def replay_start(
    *,
    presented: Position | None,
    presented_text: str | None,
    located: Located,
    wanted: int,
    first: int,
    hole: Hole | None = None,
) -> ReplayStart:
    """Decide where replay starts for a client that comes back to its session.

    `presented` is the offset the client sent, `presented_text` as it sent it, `located` what
    the store says of it. Without one, replay starts after the offset `wanted`: the
    session's start for a pid, the last confirmed offset for a token. `first` is the oldest
    offset the store still has, `hole` where messages are missing that it never had.
    """
    oldest = first - 1
    arrived = 0
    if presented_text is not None:
        if presented is None or located is Located.FOREIGN:
            return ReplayStart(oldest, "store_reset", Gap(presented_text, None))
        wanted = arrived = presented.offset
    never = missing_after(wanted, hole)
    if wanted < oldest:
        gap = Gap(presented_text, oldest - wanted + (never.lost or 0 if never else 0))
        return ReplayStart(oldest, "trimmed", gap, arrived)
    if never is None:
        return ReplayStart(wanted, "resumed", None, arrived)
    return ReplayStart(wanted, "trimmed", never, arrived)


def missing_after(offset: int, hole: Hole | None) -> Gap | None:
    """Return the gap that a hole is for a client that has everything up to this offset."""
    return Gap(None, hole.lost) if hole is not None and hole.after >= offset else None
