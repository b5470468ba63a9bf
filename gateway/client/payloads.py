"""What the gateway says, typed: see "Protocol in short" in the README.

Keys that are not known here are ignored: the gateway may be newer. Times are Unix seconds,
durations seconds.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

#: Where a client is. `away` was live and will be again by itself; `closed` is the end.
State: TypeAlias = Literal["connecting", "live", "away", "closed"]


class Gap(msgspec.Struct, frozen=True):
    """Messages after the id `after` are gone, `lost` many; None is unknown."""

    after: str | None
    lost: int | None


class Session(msgspec.Struct, frozen=True):
    """First after every connect. The token is not here: nobody but the client needs it."""

    true_id: str
    session_id: str
    resumed: bool
    #: `new`, `resumed`, `expired`, `trimmed` or `store_reset`.
    outcome: str
    name: str = ""
    #: How many messages follow that came meanwhile.
    missed: int = 0
    gap: Gap | None = None
    connections: int = 1
    token_expires_in: float | None = None
    limits: dict[str, Any] = {}
    #: What the game's backend says of the player.
    attributes: dict[str, Any] = {}


class Greeting(Session, frozen=True, kw_only=True):
    """The event `session` as it comes."""

    token: str

    def __repr__(self) -> str:
        return f"<Greeting {self.true_id} {self.outcome}>"

    def session(self) -> Session:
        """Return it without the token."""
        return Session(**{name: getattr(self, name) for name in Session.__struct_fields__})


class Lost(msgspec.Struct, frozen=True):
    """Messages are gone: load the game's state from its own server."""

    outcome: str
    gap: Gap


class Message(msgspec.Struct, frozen=True):
    """The event `message`. `sender` is its key `from`; None is the game itself."""

    data: Any
    ts: float
    sender: str | None = msgspec.field(name="from", default=None)
    #: None of volatile ones.
    id: str | None = None
    room: str | None = None
    type: str | None = None


class Presence(msgspec.Struct, frozen=True):
    """Where a player is: `active`, `hidden`, `away` or `offline`."""

    true_id: str
    state: str
    connections: int = 0
    since: float | None = None
    name: str | None = None
    status: str | None = None


class RoomChange(msgspec.Struct, frozen=True):
    """A player joined or left a room; `members` is how many it has now."""

    room: str
    joined: str | None = None
    left: str | None = None
    members: int | None = None


class Rejoined(msgspec.Struct, frozen=True):
    """This player's membership had ended, and has begun anew with so many members.

    They were away for longer than the gateway's `presence.grace`, or it lost its store. What the
    room was told meanwhile is missed: load the game's state from its own server, or ask a member.
    """

    room: str
    members: int | None = None


class Goaway(msgspec.Struct, frozen=True):
    """The gateway stops; the client leaves, and is back when it was asked to."""

    reason: str = ""
    reconnect_in: float | None = None


class Fault(msgspec.Struct, frozen=True):
    """The event `error`: something that nobody waits for was refused, or `auth` raised."""

    code: str
    message: str = ""
    event: str = ""


class Refusal(msgspec.Struct, frozen=True):
    """A connect was refused. `final`: the client is closed; else it tries again."""

    code: str
    message: str
    reconnect: bool
    retry_after: float | None
    final: bool


class StateChange(msgspec.Struct, frozen=True):
    """The client is in another state, and why."""

    state: State
    reason: str


class Receipt(msgspec.Struct, frozen=True):
    """The gateway has accepted a message: it is stored, or was volatile."""

    #: `delivered`: the target has connections; `queued`: not now; `dropped`: volatile ones.
    status: str
    #: None of volatile ones.
    id: str | None = None
    connections: int = 0
    #: It had been accepted before, under the same idempotency key.
    duplicate: bool = False


class Players(msgspec.Struct, frozen=True):
    """One page of who is online; `cursor` is for the next, None after the last."""

    players: list[Presence]
    online: int
    cursor: str | None = None


class Membership(msgspec.Struct, frozen=True):
    """How many members a room has, after `join` or `leave`."""

    members: int | None = None


class Members(msgspec.Struct, frozen=True):
    """One page of a room's members; `members` is how many there are, `cursor` for the next page."""

    room: str
    members: int
    players: list[Presence]
    cursor: str | None = None
