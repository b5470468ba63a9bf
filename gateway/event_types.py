"""What the gateway sends over Socket.IO, as types: PROTOCOL 1.2 to 1.4.

The AsyncAPI document is made of them. The gateway itself writes these payloads without them,
where speed counts; tests hold what it writes against them.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from gateway.api_types import MemberInfo, PresenceInfo
from gateway.messages import Receipt
from gateway.session import Outcome

Json = Annotated[Raw, Meta(description="Any JSON", extra_json_schema={})]


class MessageEvent(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}
):
    """A message. A second argument repeats the `id`, unless the client connected without
    `recovery`. A volatile one has neither. `from` is null when the game's backend sent it.
    """

    from_: str | None
    data: Json
    ts: Annotated[float, Meta(description="Unix seconds")]
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    room: str | UnsetType = UNSET


class RoomEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A player has `joined` or `left` a room, which has so many `members` now."""

    room: str
    members: int
    joined: str | UnsetType = UNSET
    left: str | UnsetType = UNSET


class GapInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was lost: messages after the id `after`, `lost` many; null is unknown."""

    after: str | None
    lost: int | None


class SessionEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """First after every connect: who the client is, and what it missed."""

    true_id: str
    session_id: str
    name: str
    attributes: dict[str, Any]
    token: str
    token_expires_in: Annotated[float, Meta(description="Seconds")]
    resumed: bool
    outcome: Outcome
    missed: int
    gap: GapInfo | None
    connections: int
    limits: dict[str, Any]


class ErrorInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why an event was refused; `retry_after` is in seconds."""

    code: str
    message: str
    field: str | UnsetType = UNSET
    retry_after: float | UnsetType = UNSET


class ErrorEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An event without ack was refused; `event` is its name."""

    code: str
    message: str
    event: str
    field: str | UnsetType = UNSET
    retry_after: float | UnsetType = UNSET


class GoawayEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The gateway stops, or has lost its store: disconnect, and be back after so many seconds."""

    reason: str
    reconnect_in: Annotated[float, Meta(description="Seconds")]


class Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ack of an event that was refused."""

    ok: Literal[False]
    error: ErrorInfo


class Done(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ack of an event that asks for nothing more."""

    ok: Literal[True]


class PlayersAck(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ack of `players`: one page; `cursor` is null on the last one."""

    ok: Literal[True]
    players: tuple[PresenceInfo, ...]
    online: int
    cursor: str | None


class RoomAck(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ack of `join` and `leave`: how many members the room has now."""

    ok: Literal[True]
    members: int


class MembersAck(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ack of `members`: how many there are, and one page of them; see PlayersAck."""

    ok: Literal[True]
    room: str
    members: int
    players: tuple[MemberInfo, ...]
    cursor: str | None


class PresenceAck(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ack of `presence_watch` and `presence_unwatch`: presence by `true_id`."""

    ok: Literal[True]
    presence: dict[str, PresenceInfo]


#: Payloads of the events that the gateway sends.
SERVER_EVENTS: Final[dict[str, type[msgspec.Struct]]] = {
    "session": SessionEvent,
    "message": MessageEvent,
    "room": RoomEvent,
    "presence": PresenceInfo,
    "error": ErrorEvent,
    "goaway": GoawayEvent,
}
#: Acks of the events that clients send; each may also be a Refusal.
ACKS: Final[dict[str, type[msgspec.Struct]]] = {
    "message": Receipt,
    "publish": Receipt,
    "join": RoomAck,
    "leave": RoomAck,
    "members": MembersAck,
    "players": PlayersAck,
    "presence_set": Done,
    "presence_watch": PresenceAck,
    "presence_unwatch": PresenceAck,
    "logout": Done,
}
