"""The calls of the HTTP API, in one table: routes, checks and documents are made from it.

A call cannot be added without saying which scope it needs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from gateway.api_keys import Scope
from gateway.api_types import (
    BanRequest,
    BanState,
    DeadWebhooks,
    ListDeadWebhooks,
    ListRoom,
    MembershipInfo,
    Minted,
    MintRequest,
    PlayerInfo,
    PlayersPage,
    Revoked,
    RoomInfo,
    SendAnswer,
    SendRequest,
    WebhooksDone,
)
from gateway.backend import Backend
from gateway.messages import ListPlayers, SessionId, TrueId

PREFIX: Final = "/api/v1"
#: Largest body of a call that carries no message, in bytes.
SMALL_BODY: Final = 16 * 1024

#: The HTTP status of each code; the codes of REQUEST_CODES and some of HTTP's own.
STATUSES: Final[Mapping[str, int]] = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "unknown_target": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "not_member": 409,
    "too_large": 413,
    "unsupported_media_type": 415,
    "rate_limited": 429,
    "internal": 500,
    "unavailable": 503,
    "mailbox_full": 507,
}
#: What any call may be refused with.
COMMON: Final = ("bad_request", "unauthorized", "forbidden", "rate_limited", "internal")


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a call is made with: the key's name, path, decoded query and body."""

    caller: str
    path: Mapping[str, str]
    query: Any = None
    body: Any = None

    @property
    def true_id(self) -> TrueId:
        """The player in the path."""
        return TrueId(self.path["true_id"])


@dataclass(frozen=True, slots=True)
class Call:
    """A method of a path below PREFIX, whose variable parts are in braces.

    `name` is its operationId; `query` and `body` are the types of what it takes, `answer` of
    what it answers; without `body_required` no body is an empty object. `refusals` are codes
    beyond COMMON.
    """

    name: str
    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    scope: Scope
    summary: str
    answer: Any
    run: Callable[[Backend, Arguments], Awaitable[object]] = field(repr=False)
    query: type | None = None
    body: type | None = None
    body_required: bool = True
    refusals: tuple[str, ...] = ()


async def _send(backend: Backend, given: Arguments) -> object:
    return await backend.send(given.caller, given.body)


async def _mint(backend: Backend, given: Arguments) -> object:
    return await backend.mint(given.body)


async def _player(backend: Backend, given: Arguments) -> object:
    return await backend.player(given.true_id)


async def _players(backend: Backend, given: Arguments) -> object:
    return await backend.players(given.query)


async def _revoke(backend: Backend, given: Arguments) -> object:
    return await backend.revoke(given.true_id)


async def _revoke_session(backend: Backend, given: Arguments) -> object:
    return await backend.revoke_session(given.true_id, SessionId(given.path["session_id"]))


async def _room(backend: Backend, given: Arguments) -> object:
    return await backend.room(given.path["room"], given.query)


async def _add_member(backend: Backend, given: Arguments) -> object:
    return await backend.add_member(given.path["room"], given.true_id)


async def _remove_member(backend: Backend, given: Arguments) -> object:
    return await backend.remove_member(given.path["room"], given.true_id)


async def _ban(backend: Backend, given: Arguments) -> object:
    return await backend.ban(given.true_id, given.body)


async def _lift_ban(backend: Backend, given: Arguments) -> object:
    return await backend.lift_ban(given.true_id)


async def _dead_webhooks(backend: Backend, given: Arguments) -> object:
    return await backend.dead_webhooks(given.query)


async def _retry_webhooks(backend: Backend, given: Arguments) -> object:
    return await backend.retry_webhooks(given.path.get("webhook_id"))


async def _delete_webhooks(backend: Backend, given: Arguments) -> object:
    return await backend.delete_webhooks(given.path.get("webhook_id"))


CALLS: Final[tuple[Call, ...]] = (
    Call(
        "send_message",
        "POST",
        "/messages",
        "send",
        "Send a message to a player, the members of a room, or all; `from` is null in it",
        SendAnswer,
        _send,
        body=SendRequest,
        refusals=("unknown_target", "too_large", "mailbox_full"),
    ),
    Call(
        "mint_session",
        "POST",
        "/sessions",
        "sessions",
        "Open a session for a player; its client connects with the token",
        Minted,
        _mint,
        body=MintRequest,
        refusals=("too_large",),
    ),
    Call(
        "list_players",
        "GET",
        "/players",
        "read",
        "Who is online, in pages: pass `cursor` on until it is null",
        PlayersPage,
        _players,
        query=ListPlayers,
    ),
    Call(
        "get_player",
        "GET",
        "/players/{true_id}",
        "read",
        "A player's presence, rooms, sessions, mailbox and ban",
        PlayerInfo,
        _player,
        refusals=("unknown_target",),
    ),
    Call(
        "revoke_sessions",
        "DELETE",
        "/players/{true_id}/sessions",
        "sessions",
        "End all sessions of a player and disconnect them; none of the tokens is good any more",
        Revoked,
        _revoke,
    ),
    Call(
        "revoke_session",
        "DELETE",
        "/players/{true_id}/sessions/{session_id}",
        "sessions",
        "End one session of a player and disconnect it",
        Revoked,
        _revoke_session,
        refusals=("unknown_target",),
    ),
    Call(
        "ban_player",
        "PUT",
        "/players/{true_id}/ban",
        "admin",
        "Keep a player out and disconnect them; a ban that is there is replaced",
        BanState,
        _ban,
        body=BanRequest,
        body_required=False,
    ),
    Call(
        "lift_ban",
        "DELETE",
        "/players/{true_id}/ban",
        "admin",
        "Let a player in again, banned or not",
        BanState,
        _lift_ban,
    ),
    Call(
        "get_room",
        "GET",
        "/rooms/{room}",
        "read",
        "Who is in a room, in pages: pass `cursor` on until it is null",
        RoomInfo,
        _room,
        query=ListRoom,
    ),
    Call(
        "add_member",
        "PUT",
        "/rooms/{room}/members/{true_id}",
        "sessions",
        "Put a player into a room, which is made if need be",
        MembershipInfo,
        _add_member,
        refusals=("too_large",),
    ),
    Call(
        "remove_member",
        "DELETE",
        "/rooms/{room}/members/{true_id}",
        "sessions",
        "Take a player out of a room",
        MembershipInfo,
        _remove_member,
    ),
    Call(
        "list_dead_webhooks",
        "GET",
        "/webhooks/dead",
        "admin",
        "Webhooks that were given up, the last one first, and why",
        DeadWebhooks,
        _dead_webhooks,
        query=ListDeadWebhooks,
    ),
    Call(
        "retry_dead_webhooks",
        "POST",
        "/webhooks/dead/retry",
        "admin",
        "Send all webhooks that were given up after all, under their ids, as many as have room",
        WebhooksDone,
        _retry_webhooks,
    ),
    Call(
        "retry_dead_webhook",
        "POST",
        "/webhooks/dead/{webhook_id}/retry",
        "admin",
        "Send one of them; there may be none with this id",
        WebhooksDone,
        _retry_webhooks,
    ),
    Call(
        "delete_dead_webhooks",
        "DELETE",
        "/webhooks/dead",
        "admin",
        "Forget all webhooks that were given up",
        WebhooksDone,
        _delete_webhooks,
    ),
    Call(
        "delete_dead_webhook",
        "DELETE",
        "/webhooks/dead/{webhook_id}",
        "admin",
        "Forget one of them; there may be none with this id",
        WebhooksDone,
        _delete_webhooks,
    ),
)


def body_limit(call: Call, message_bytes: int) -> int:
    """Return how many bytes the body of a call may have; `message_bytes` 0 is no limit."""
    if call.body is not SendRequest:
        return SMALL_BODY
    return (message_bytes or 2**30) + 4096
