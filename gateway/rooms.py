"""Rooms: who may join, who is told, and when a membership ends.

A member is a player, not a connection: the membership outlives reconnects and restarts. It
ends when the player leaves or logs out, when the backend says so, or when the player has been
without a connection for `presence.grace`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from gateway.absence import Absence, LocalAbsence, SharedAbsence
from gateway.answers import answer_of
from gateway.errors import GatewayError, RequestRefused, StoreUnavailable
from gateway.joining import Client, Joining
from gateway.membership import RoomLimitReached
from gateway.messages import Join, Leave, ListMembers, TrueId, check_room_name, encode_event
from gateway.metrics import Metrics
from gateway.nodes import Nodes
from gateway.presence_service import PresenceService
from gateway.presence_view import Payload, bad_cursor
from gateway.rooms_here import RoomsHere
from gateway.store import Membership, RoomStore

RoomRequest = Join | Leave | ListMembers
#: How long a client is asked to wait when there is no room for another one, in seconds.
_RETRY_AFTER: Final = 5.0


@dataclass(frozen=True, slots=True)
class RoomSettings:
    """`grace` in seconds is that of presence; `announce` is a number of members, 0 for any."""

    grace: float
    announce: int


class Rooms:
    """Memberships and their events. `connections_of` is the registry's."""

    def __init__(
        self,
        store: RoomStore,
        joining: Joining,
        connections_of: Callable[[TrueId], Iterable[Client]],
        presence: PresenceService,
        metrics: Metrics,
        monotonic: Callable[[], float],
        settings: RoomSettings,
        nodes: Nodes,
    ) -> None:
        self._store = store
        self._joining = joining
        self._connections_of = connections_of
        self._look = presence.look
        self._metrics = metrics
        self._settings = settings
        self._here = None if nodes.alone else RoomsHere(nodes.show_room)
        self._seen = store.memberships
        self._absence: Absence

        def is_connected(true_id: TrueId) -> bool:
            return any(connections_of(true_id))

        if presence.store is None:
            grace = settings.grace
            self._absence = LocalAbsence(
                store, is_connected, presence.is_here, self._end, monotonic, grace
            )
        else:
            absence = SharedAbsence(store, presence.store, is_connected, self._end)
            self._absence, presence.on_gone = absence, absence.on_gone

    # Events of clients

    def receive(self, request: RoomRequest, client: Client, ack_id: int | None) -> None:
        """Take `join`, `leave` or `members`. Raises RequestRefused, or answers later."""
        match request:
            case Join(room):
                self._join(room, client, ack_id)
            case Leave(room):
                self._leave(room, client, ack_id)
            case ListMembers():
                self._page(request, client, ack_id)

    def _join(self, room: str, client: Client, ack_id: int | None) -> None:
        true_id = client.true_id

        def done(result: Membership | GatewayError) -> None:
            if isinstance(result, Membership):
                client.answer(ack_id, {"ok": True, "members": result.members})
            else:
                client.refuse(self._refusal(result), ack_id, "join")

        if true_id in self._store.memberships.members_of(room):
            # Asked all the same: a `leave` may be under way.
            self._add(room, true_id, done)
            return
        check_room_name(room)
        if self._joining.open:
            # At once: a `publish` right behind the `join` comes from a member.
            self._add(room, true_id, done)
        else:
            self._joining.ask(client, room, ack_id, lambda: self._add(room, true_id, done))

    def _leave(self, room: str, client: Client, ack_id: int | None) -> None:
        withdrawn = self._joining.withdraw(client, room)

        def done(result: Membership | GatewayError) -> None:
            if not isinstance(result, Membership):
                client.refuse(self._refusal(result), ack_id, "leave")
            elif not (result.changed or withdrawn):
                error = RequestRefused("not_member", "you are not in this room", "room")
                client.refuse(error, ack_id, "leave")
            else:
                client.answer(ack_id, {"ok": True, "members": result.members})

        self._remove(room, client.true_id, done)

    def _page(self, request: ListMembers, client: Client, ack_id: int | None) -> None:
        if client.true_id not in self._store.memberships.members_of(request.room):
            raise RequestRefused("not_member", "you are not in this room", "room")

        def done(page: dict[str, object] | StoreUnavailable) -> None:
            if isinstance(page, StoreUnavailable):
                client.refuse(_unknown(), ack_id, "members")
            else:
                client.answer(ack_id, {"ok": True, **page})

        self._find_page(request, done)

    async def page(self, request: ListMembers) -> dict[str, object]:
        """Return a page of who is in a room.

        Raises RequestRefused for a cursor not of ours, and StoreUnavailable.
        """
        page: dict[str, object] = await answer_of(lambda done: self._find_page(request, done))
        return page

    def _find_page(
        self, request: ListMembers, done: Callable[[dict[str, object] | StoreUnavailable], None]
    ) -> None:
        memberships = self._store.memberships
        members = len(memberships.members_of(request.room))
        cursor = request.cursor or "0"
        if not (cursor.isascii() and cursor.isdigit()):
            raise bad_cursor()
        found, following = memberships.page(request.room, int(cursor), request.limit)

        def on_known(known: dict[TrueId, Payload] | StoreUnavailable) -> None:
            if isinstance(known, StoreUnavailable):
                done(known)
                return
            page: dict[str, object] = {
                "room": request.room,
                "members": members,
                "players": [_entry(true_id, known[true_id]) for true_id in found],
                "cursor": None if following is None else str(following),
            }
            done(page)

        self._look(found, on_known)

    # The backend

    async def add(self, room: str, true_id: TrueId) -> int:
        """Put a player into a room, whatever the policy says; return how many members it has.

        Raises RequestRefused: `bad_request`, `too_large`, `rate_limited` or `unavailable`.
        """
        check_room_name(room)
        return await self._ask(lambda done: self._add(room, true_id, done, tell=True))

    async def remove(self, room: str, true_id: TrueId) -> int:
        """Take a player out of a room, if they are in it; return how many members are left.

        Raises RequestRefused (`unavailable`).
        """
        return await self._ask(lambda done: self._remove(room, true_id, done, tell=True))

    def members(self, room: str) -> tuple[TrueId, ...]:
        """Return the members of a room, the one who joined first at the front."""
        return tuple(self._store.memberships.members_of(room))

    def __len__(self) -> int:
        return len(self._store.memberships)

    def largest(self, count: int) -> list[tuple[str, int]]:
        """Return so many rooms with the number of their members, the largest first."""
        return self._store.memberships.largest(count)

    def rooms_of(self, true_id: TrueId) -> tuple[str, ...]:
        """Return the rooms that a player is in, the one joined first at the front."""
        return self._store.memberships.rooms_of(true_id)

    async def _ask(self, ask: Callable[[Callable[[Membership | GatewayError], None]], None]) -> int:
        try:
            result: Membership = await answer_of(ask)
        except GatewayError as error:
            raise self._refusal(error) from None
        return result.members

    # Changes

    def _add(
        self,
        room: str,
        true_id: TrueId,
        then: Callable[[Membership | GatewayError], None],
        *,
        tell: bool = False,
    ) -> None:
        def done(result: Membership | GatewayError) -> None:
            then(result)
            if isinstance(result, Membership) and result.changed:
                if not any(self._connections_of(true_id)):
                    self._absence.on_added(true_id)
                self._on_joined(room, true_id)
                self._announce(room, "joined", true_id, result.members, tell)

        self._store.join(room, true_id, done)

    def _remove(
        self,
        room: str,
        true_id: TrueId,
        then: Callable[[Membership | GatewayError], None],
        *,
        tell: bool = False,
    ) -> None:
        def done(result: Membership | GatewayError) -> None:
            then(result)
            if isinstance(result, Membership) and result.changed:
                self._on_left(room, true_id)
                self._announce(room, "left", true_id, result.members, tell)

        self._store.leave(room, true_id, done)

    def on_changed(self, room: str, true_id: TrueId, joined: bool, members: int) -> None:
        """A player came into a room or left it through another node; so many are in it now.

        Their connections here are told, however large the room: it was not these that asked.
        """
        if joined:
            self._on_joined(room, true_id)
        else:
            self._on_left(room, true_id)
        self._announce(room, "joined" if joined else "left", true_id, members, tell=True)

    def _on_joined(self, room: str, true_id: TrueId) -> None:
        if self._here is not None and any(self._connections_of(true_id)):
            self._here.add(room, true_id)

    def _on_left(self, room: str, true_id: TrueId) -> None:
        if self._here is not None:
            self._here.discard(room, true_id)

    def _announce(self, room: str, what: str, true_id: TrueId, members: int, tell: bool) -> None:
        """Tell the members of a room that is not too large, and the player concerned.

        In a larger one the player is told only (`tell`) when it was not their own doing.
        """
        payload = {"room": room, what: true_id, "members": members}
        if not self._settings.announce or members <= self._settings.announce:
            told = dict.fromkeys((*self._store.memberships.members_of(room), true_id))
        elif tell:
            told = {true_id: None}
        else:
            return
        array = encode_event("room", payload)
        for each in told:
            for connection in self._connections_of(each):
                connection.send_event(array)

    def _refusal(self, error: GatewayError) -> RequestRefused:
        if isinstance(error, RoomLimitReached):
            self._metrics.limit_hit(error.limit)
            if error.limit == "rooms.rooms":
                return RequestRefused(
                    "rate_limited", "there are too many rooms now", "room", _RETRY_AFTER
                )
            return RequestRefused("too_large", f"{error.limit} is reached", "room")
        return RequestRefused("unavailable", "not stored: try again", None, 1.0)

    # Who is away

    def on_connected(self, true_id: TrueId) -> None:
        """The player has a connection."""
        self._absence.on_connected(true_id)
        if self._here is not None:
            for room in self.rooms_of(true_id):
                self._here.add(room, true_id)

    def on_disconnected(self, client: Client) -> None:
        """A player has lost this connection."""
        self._joining.on_disconnected(client)
        true_id = client.true_id
        if any(self._connections_of(true_id)):
            return
        for room in self.rooms_of(true_id) if self._here is not None else ():
            self._on_left(room, true_id)
        self._absence.on_disconnected(true_id)

    def expire(self) -> None:
        """End the memberships of players who have been away for the grace; call it often."""
        self._absence.expire()
        memberships = self._store.memberships
        if self._here is not None and memberships is not self._seen:
            # What could not be loaded at the start has been loaded.
            self._seen = memberships
            for true_id in memberships.players():
                if any(self._connections_of(true_id)):
                    self.on_connected(true_id)

    def _end(self, true_id: TrueId, then: Callable[[bool], None]) -> None:
        """Take a player out of all rooms; tell `then` whether that was done."""
        rooms = self.rooms_of(true_id)
        missing, failed = len(rooms), False
        if not missing:
            then(True)

        def done(result: Membership | GatewayError) -> None:
            nonlocal missing, failed
            missing -= 1
            failed = failed or isinstance(result, GatewayError)
            if not missing:
                then(not failed)

        for room in rooms:
            self._remove(room, true_id, done, tell=True)

    async def close(self) -> None:
        """Stop what waits for the policy's answer."""
        await self._joining.close()


def _entry(true_id: TrueId, known: Payload) -> dict[str, object]:
    # After a restart presence does not know those who are not back yet: they have their grace.
    state = "away" if known["state"] == "offline" else known["state"]
    entry: dict[str, object] = {"true_id": true_id, "state": state}
    if "name" in known:
        entry["name"] = known["name"]
    return entry


def _unknown() -> RequestRefused:
    return RequestRefused("unavailable", "nobody can say now: try again", None, 1.0)
