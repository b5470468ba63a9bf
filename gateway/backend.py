"""What a game's backend may ask of the gateway; the HTTP API is a thin layer over it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import UNSET

from gateway.answers import answer_of
from gateway.api_types import (
    BanInfo,
    BanRequest,
    BanState,
    Broadcast,
    DeadWebhookInfo,
    DeadWebhooks,
    ListDeadWebhooks,
    ListRoom,
    MailboxInfo,
    MembershipInfo,
    Minted,
    MintRequest,
    PlayerInfo,
    PlayersPage,
    PresenceInfo,
    Revoked,
    RoomInfo,
    SendAnswer,
    SendRequest,
    SessionInfo,
    WebhooksDone,
)
from gateway.connection import Services
from gateway.errors import RequestRefused
from gateway.messages import (
    ListMembers,
    ListPlayers,
    Publish,
    Receipt,
    SendMessage,
    SessionId,
    TrueId,
    check_room_name,
)
from gateway.minting import Minting
from gateway.presence_view import Page, Payload
from gateway.store import Ban, Store
from gateway.texts import clean_text

#: Players who get a message to all in one turn of the event loop.
_CHUNK: Final = 200
_RETRY_AFTER: Final = 1.0
_REASON_BYTES: Final = 256
#: Refusals of one of many that all others would get, too.
_FOR_ALL: Final = frozenset({"too_large", "unavailable"})


@dataclass(frozen=True, slots=True)
class BackendLimits:
    """See `api` in the YAML file; 0 means no limit."""

    broadcasts: int


class _Answer:
    """The Origin of one message: whoever waits for its receipt."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()

    def on_receipt(self, receipt: Receipt, ack_id: int) -> None:
        """See Origin.on_receipt."""
        if not self.future.done():
            self.future.set_result(receipt)

    def on_refused(self, error: RequestRefused, ack_id: int | None, event: str = "message") -> None:
        """See Origin.on_refused."""
        if not self.future.done():
            self.future.set_exception(error)


class _Tally:
    """The Origin of a message to many: counts what became of it."""

    def __init__(self) -> None:
        self.players = self.connections = self.delivered = self.duplicates = self.refused = 0
        #: Players who have it in their mailbox or, when it is volatile, on a connection.
        self.reached = 0
        self.failure: RequestRefused | None = None
        self._missing = 0
        self._all_told = asyncio.Event()

    def expect(self, count: int) -> None:
        """So many answers will come."""
        self._missing = count
        self._all_told.clear()

    async def told(self) -> None:
        """Wait for them. Raises RequestRefused when it makes no sense to go on."""
        if self._missing:
            await self._all_told.wait()
        if self.failure is not None:
            raise self.failure

    def on_receipt(self, receipt: Receipt, ack_id: int) -> None:
        """See Origin.on_receipt."""
        self.players += 1
        self.connections += receipt.connections
        self.delivered += receipt.status == "delivered"
        self.reached += receipt.status != "dropped"
        self.duplicates += receipt.duplicate
        self._one_less()

    def on_refused(self, error: RequestRefused, ack_id: int | None, event: str = "message") -> None:
        """See Origin.on_refused."""
        self.refused += 1
        if error.code in _FOR_ALL:
            self.failure = error
        self._one_less()

    def _one_less(self) -> None:
        self._missing -= 1
        if self._missing <= 0:
            self._all_told.set()


class Backend:
    """The calls of game backends. `caller` is the name of the API key that makes one.

    `look_again` is called when webhooks that were given up wait again. All raise RequestRefused,
    and StoreUnavailable.
    """

    def __init__(
        self,
        services: Services,
        store: Store,
        minting: Minting,
        limits: BackendLimits,
        look_again: Callable[[], None] = lambda: None,
    ) -> None:
        self._services = services
        self._store = store
        self._minting = minting
        self._limits = limits
        self._look_again = look_again
        self._broadcasts = 0

    # Messages

    async def send(self, caller: str, request: SendRequest) -> SendAnswer:
        """Send a message, once for each caller and `id`."""
        targets = (request.target_id, request.room, request.all)
        if sum(target is not UNSET for target in targets) != 1:
            text = "give one of target_id, room and all"
            raise RequestRefused("bad_request", text, "target_id")
        if request.target_id is not UNSET:
            return await self._send_to(caller, request, request.target_id)
        if request.room is not UNSET:
            return await self._publish(caller, request, request.room)
        if request.all is not True:
            raise RequestRefused("bad_request", "all must be true; else leave it out", "all")
        limit = self._limits.broadcasts
        if limit and self._broadcasts >= limit:
            self._services.metrics.limit_hit("api.broadcasts")
            raise RequestRefused(
                "rate_limited", f"{limit} messages to all are under way", None, _RETRY_AFTER
            )
        self._broadcasts += 1
        try:
            return await self._send_to_all(caller, request)
        finally:
            self._broadcasts -= 1

    async def _send_to(self, caller: str, request: SendRequest, target_id: TrueId) -> Receipt:
        answer = _Answer()
        message = _message(request, target_id, request.id)
        # No client can write to that id, or use it for its own: it is longer than theirs may be.
        owner = TrueId(_name_of(caller))
        self._services.delivery.send(None, message, answer, 0, owner)
        return await answer.future

    async def _publish(self, caller: str, request: SendRequest, room: str) -> Receipt:
        check_room_name(room)
        answer = _Answer()
        message = Publish(room, request.data, request.type, request.id, request.volatile)
        owner = TrueId(_name_of(caller))
        self._services.delivery.publish(None, message, None, answer, 0, owner)
        return await answer.future

    async def _send_to_all(self, caller: str, request: SendRequest) -> Broadcast:
        tally = _Tally()
        # Each player keeps the key of what was sent to all: a repetition reaches those that
        # were left out, and nobody twice. No client can choose it: it is too long for theirs.
        key = None if request.id is None else _name_of(caller, request.id)
        send = self._services.delivery.send
        async for true_ids in self._everyone(request.volatile):
            tally.expect(len(true_ids))
            for true_id in true_ids:
                send(None, _message(request, true_id, key), tally, 0, true_id)
            await tally.told()
            await asyncio.sleep(0)
        status: Final = (
            "delivered" if tally.delivered else ("dropped" if request.volatile else "queued")
        )
        return Broadcast(
            True,
            None,
            status,
            tally.connections,
            0 < tally.players == tally.duplicates,
            tally.reached,
            tally.refused,
        )

    async def _everyone(self, volatile: bool) -> AsyncIterator[tuple[TrueId, ...]]:
        # Who is at another node is not known here.
        if not volatile or not self._store.nodes.alone:
            async for true_ids in self._store.everyone(_CHUNK):
                yield true_ids
            return
        here = tuple({connection.true_id for connection in self._services.registry})
        for start in range(0, len(here), _CHUNK):
            yield here[start : start + _CHUNK]

    # Players

    async def mint(self, request: MintRequest) -> Minted:
        """Open a session for a player: see Minting.mint."""
        return await self._minting.mint(request)

    async def player(self, true_id: TrueId) -> PlayerInfo:
        """Return what the gateway knows of a player."""
        view = await self._store.view(true_id)
        if not view.known:
            raise RequestRefused("unknown_target", "there is no such player", "true_id")
        now = self._services.clock()
        sessions = await self._store.sessions_of(true_id)
        ban = await self._store.ban_of(true_id, now)
        unread = view.head - max(view.confirmed, view.first - 1)
        return PlayerInfo(
            **await self._presence_of(true_id),  # type: ignore[arg-type]
            rooms=self._services.rooms.rooms_of(true_id),
            sessions=tuple(
                SessionInfo(
                    session.id,
                    session.connection_id is not None or session.elsewhere,
                    session.last_seen,
                    session.name,
                    msgspec.json.decode(session.attributes),
                )
                for session in sessions
            ),
            mailbox=MailboxInfo(view.head - view.first + 1, max(0, unread)),
            ban=None if ban is None else BanInfo(ban.until, ban.reason),
        )

    async def players(self, request: ListPlayers) -> PlayersPage:
        """Return one page of who is here or away."""
        presence = self._services.presence
        page: Page = await answer_of(
            lambda done: presence.page(request.cursor, request.limit, done)
        )
        return PlayersPage(
            msgspec.convert(page.players, tuple[PresenceInfo, ...]), page.online, page.cursor
        )

    async def _presence_of(self, true_id: TrueId) -> Payload:
        known: dict[TrueId, Payload] = await answer_of(
            lambda done: self._services.presence.look((true_id,), done)
        )
        return known[true_id]

    # Rooms

    async def room(self, room: str, request: ListRoom) -> RoomInfo:
        """Return one page of who is in a room; one that nobody is in has no members."""
        check_room_name(room)
        found = await self._services.rooms.page(ListMembers(room, request.limit, request.cursor))
        return msgspec.convert(found, RoomInfo)

    async def add_member(self, room: str, true_id: TrueId) -> MembershipInfo:
        """Put a player into a room, whatever its policy says; they are known from then on."""
        members = await self._services.rooms.add(room, true_id)
        return MembershipInfo(True, room, true_id, members)

    async def remove_member(self, room: str, true_id: TrueId) -> MembershipInfo:
        """Take a player out of a room, if they are in it."""
        check_room_name(room)
        members = await self._services.rooms.remove(room, true_id)
        return MembershipInfo(True, room, true_id, members)

    # Sessions and bans

    async def revoke(self, true_id: TrueId) -> Revoked:
        """End all sessions of a player, with all tokens."""
        sessions = await self._store.sessions_of(true_id)
        await self._services.revocation.revoke_player(true_id, "revoked")
        return Revoked(True, true_id, len(sessions))

    async def revoke_session(self, true_id: TrueId, session_id: SessionId) -> Revoked:
        """End one session of a player."""
        session = await self._store.session(session_id, true_id)
        if session is None:
            raise RequestRefused("unknown_target", "the player has no such session", "session_id")
        await self._services.revocation.revoke(session, "revoked")
        return Revoked(True, true_id, 1)

    async def kick(self, true_id: TrueId) -> int:
        """Close a player's connections, at all nodes; return how many. Their sessions stay."""
        connections = self._services.registry.connections_of(true_id)
        for connection in connections:
            connection.close("kicked", reconnect=False)
        return len(connections) + await self._store.nodes.disconnect(true_id, "kicked")

    async def ban(self, true_id: TrueId, request: BanRequest) -> BanState:
        """Keep a player out, and close what they have open."""
        until, reason = request.until, request.reason
        if until is not None and until <= self._services.clock():
            raise RequestRefused("bad_request", "until is in the past", "until")
        if reason:
            try:
                reason = clean_text(reason, "reason", _REASON_BYTES)
            except ValueError as error:
                raise RequestRefused("bad_request", str(error), "reason") from None
        await self._services.revocation.ban(true_id, Ban(until, reason))
        return BanState(true_id, True, until, reason)

    async def lift_ban(self, true_id: TrueId) -> BanState:
        """Let a player in again."""
        await self._services.revocation.lift_ban(true_id)
        return BanState(true_id, False)

    # Webhooks

    async def dead_webhooks(self, request: ListDeadWebhooks) -> DeadWebhooks:
        """Return webhooks that were given up, the last one first."""
        found = await self._store.list_dead_webhooks(request.limit)
        return DeadWebhooks(
            tuple(
                DeadWebhookInfo(
                    dead.webhook.id,
                    event.type,
                    event.ts,
                    event.true_id,
                    msgspec.json.decode(event.data),
                    dead.given_up,
                    dead.reason,
                )
                for dead in found
                for event in (dead.webhook.event,)
            ),
            self._store.dead_webhooks,
        )

    async def retry_webhooks(self, webhook_id: str | None) -> WebhooksDone:
        """Have a webhook sent after all that was given up, None: all of them."""
        retried = await self._store.retry_dead_webhooks(webhook_id)
        if retried.webhooks:
            self._look_again()
        if retried.full:
            self._services.metrics.limit_hit("webhooks.max_queued")
            if not retried.webhooks:
                text = "webhooks.max_queued wait already"
                raise RequestRefused("unavailable", text, None, _RETRY_AFTER)
        return WebhooksDone(True, retried.webhooks)

    async def delete_webhooks(self, webhook_id: str | None) -> WebhooksDone:
        """Forget a webhook that was given up, None: all of them."""
        return WebhooksDone(True, await self._store.delete_dead_webhooks(webhook_id))


def _message(request: SendRequest, target_id: TrueId, key: str | None) -> SendMessage:
    return SendMessage(target_id, request.data, request.type, key, request.volatile)


def _name_of(*parts: str) -> str:
    """Return a name of 132 characters: ids of clients have 128 at most (messages.Id)."""
    text = msgspec.json.encode(parts)
    return f"api:{hashlib.sha512(text).hexdigest()}"
