"""What calls of the HTTP API take and answer: PROTOCOL 2. The OpenAPI document is made of it."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from gateway.errors import RequestRefused
from gateway.messages import (
    MAX_ROOM_NAME,
    Id,
    PlayerId,
    PresenceState,
    Receipt,
    ShortText,
    check_shape,
    offending_field,
)

#: Attributes ride in resume tokens, which have a longest length.
MAX_ATTRIBUTES_BYTES: Final = 512
#: The last moment of the year 9999, in Unix seconds.
MAX_TIME: Final = 253_402_300_799
#: Ids that a backend may give to players: visible ASCII, fit for URLs and logs.
GivenId = Annotated[str, Meta(pattern="^[!-~]{1,128}$", min_length=1, max_length=128)]
Time = Annotated[float, Meta(ge=0, le=MAX_TIME, description="Unix seconds")]
RoomName = Annotated[str, Meta(min_length=1, max_length=MAX_ROOM_NAME)]
Only = Annotated[bool, Meta(extra_json_schema={"const": True})]

T = TypeVar("T")


class SendRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message to one player, the members of a room, or all. `id` is an idempotency key."""

    data: Annotated[Raw, Meta(description="Any JSON", extra_json_schema={})]
    target_id: PlayerId | UnsetType = UNSET
    room: RoomName | UnsetType = UNSET
    all: Only | UnsetType = UNSET
    type: ShortText | None = None
    id: Id | None = None
    volatile: bool = False


class Broadcast(msgspec.Struct, frozen=True):
    """The receipt of a message to many players.

    `players` took it, `refused` did not, for their mailboxes are full. `connections` are those
    of all that took it. `duplicate` says that all of them had it already.
    """

    ok: Literal[True]
    id: None
    status: Literal["delivered", "queued", "dropped"]
    connections: int
    duplicate: bool
    players: int
    refused: int


class MintRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ask for a resume token of a player that the backend knows.

    `attributes` are told to the player's client in the event `session`; the attribute `name` is
    the player's display name.
    """

    true_id: GivenId
    attributes: dict[str, Any] = {}


class Minted(msgspec.Struct, frozen=True):
    """A new session, not connected yet: its client connects with `token`."""

    true_id: str
    session_id: str
    token: str
    token_expires_in: Annotated[float, Meta(description="Seconds")]


class BanRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keep a player out until `until`, or for good. The player is told `reason`."""

    until: Time | None = None
    reason: Annotated[str, Meta(max_length=256)] = ""


class BanState(msgspec.Struct, frozen=True):
    """Whether a player is banned, until when (null: for good) and why."""

    true_id: str
    banned: bool
    until: float | None = None
    reason: str = ""


class Revoked(msgspec.Struct, frozen=True):
    """So many sessions of the player were ended; `ok` is true also when there were none."""

    ok: Literal[True]
    true_id: str
    sessions: int


class PresenceInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who is here, as the event `presence` tells it; `since` is in Unix seconds."""

    true_id: str
    state: PresenceState
    connections: int
    since: float | None
    name: str | UnsetType = UNSET
    status: str | UnsetType = UNSET


class SessionInfo(msgspec.Struct, frozen=True):
    """A session of a player; `last_seen` is in Unix seconds."""

    session_id: str
    connected: bool
    last_seen: float
    name: str
    attributes: dict[str, Any]


class MailboxInfo(msgspec.Struct, frozen=True):
    """Messages that the player's mailbox keeps; `unread` are those no session has confirmed."""

    messages: int
    unread: int


class BanInfo(msgspec.Struct, frozen=True):
    """A ban that holds now."""

    until: float | None
    reason: str


class PlayerInfo(PresenceInfo, frozen=True, kw_only=True, omit_defaults=False):
    """A player: presence, rooms, sessions, mailbox and ban."""

    rooms: tuple[str, ...]
    sessions: tuple[SessionInfo, ...]
    mailbox: MailboxInfo
    ban: BanInfo | None


class ListRoom(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Query of `GET /rooms/{room}`."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 100
    cursor: Annotated[str, Meta(max_length=32)] | None = None


class PlayersPage(msgspec.Struct, frozen=True):
    """One page of who is online; `cursor` is null on the last one."""

    players: tuple[PresenceInfo, ...]
    online: int
    cursor: str | None


class MemberInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A member of a room; one who is not connected is `away`."""

    true_id: str
    state: Literal["active", "hidden", "away"]
    name: str | UnsetType = UNSET


class RoomInfo(msgspec.Struct, frozen=True):
    """A room: how many members it has, and one page of them; `cursor` is null on the last one."""

    room: str
    members: int
    players: tuple[MemberInfo, ...]
    cursor: str | None


class MembershipInfo(msgspec.Struct, frozen=True):
    """A player is in the room now, or is not any more; it has so many `members`."""

    ok: Literal[True]
    room: str
    true_id: str
    members: int


class ListDeadWebhooks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Query of `GET /webhooks/dead`."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class DeadWebhookInfo(msgspec.Struct, frozen=True):
    """A webhook that was given up: what would have been sent, when that was (Unix seconds), why."""

    id: str
    type: str
    ts: float
    true_id: str
    data: dict[str, Any]
    given_up: float
    reason: str


class DeadWebhooks(msgspec.Struct, frozen=True):
    """Those given up last, the last one first; `dead` is how many are kept, as of a moment ago."""

    webhooks: tuple[DeadWebhookInfo, ...]
    dead: int


class WebhooksDone(msgspec.Struct, frozen=True):
    """So many webhooks that were given up wait again, or were forgotten."""

    ok: Literal[True]
    webhooks: int


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a call was refused: a problem document (RFC 9457), with a code for programs.

    `field` names the offending key of the request, `retry_after` is in seconds.
    """

    type: Literal["about:blank"]
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None
    retry_after: float | None = None


def decode_body(body: bytes, kind: type[T]) -> T:
    """Return the body of a call. Raises RequestRefused that names the offending field."""
    check_shape(body)
    try:
        return msgspec.json.decode(body, type=kind)
    except RecursionError:
        raise RequestRefused("bad_request", "the JSON is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise _refusal(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        text = f"the body is not JSON: {str(error)[:200]}"
        raise RequestRefused("bad_request", text) from None


def convert_query(query: dict[str, str], kind: type[T]) -> T:
    """Return the parameters of a call's query. Raises RequestRefused that names the wrong one."""
    try:
        return msgspec.convert(query, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: msgspec.ValidationError) -> RequestRefused:
    return RequestRefused("bad_request", str(error)[:200], offending_field(error))


#: What `POST /messages` answers.
SendAnswer = Receipt | Broadcast
