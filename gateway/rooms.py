"""Rooms: who may join, who is told, and when a membership ends.

A member is a player, not a connection: the membership outlives reconnects and restarts. It
ends when the player leaves or logs out, when the backend says so, or when the player has been
without a connection for `presence.grace`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from gateway.errors import GatewayError, RequestRefused
from gateway.joining import Client, Joining
from gateway.membership import Memberships, RoomLimitReached
from gateway.messages import Join, Leave, ListMembers, TrueId, check_room_name, encode_event
from gateway.metrics import Metrics
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
    """Memberships and their events.

    `connections_of` is the registry's, `presence_of` returns what is told of a player.
    """

    def __init__(
        self,
        store: RoomStore,
        joining: Joining,
        connections_of: Callable[[TrueId], Iterable[Client]],
        presence_of: Callable[[TrueId], dict[str, object]],
        metrics: Metrics,
        monotonic: Callable[[], float],
        settings: RoomSettings,
    ) -> None:
        self._store = store
        self._joining = joining
        self._connections_of = connections_of
        self._presence_of = presence_of
        self._metrics = metrics
        self._monotonic = monotonic
        self._settings = settings
        #: Members without a connection, and since when, longest first.
        self._absent: dict[TrueId, float] = {}
        #: The memberships whose absent members are in there.
        self._seen: Memberships | None = None

    # Events of clients

    def receive(self, request: RoomRequest, client: Client, ack_id: int | None) -> None:
        """Take `join`, `leave` or `members`. Raises RequestRefused, or answers later."""
        match request:
            case Join(room):
                self._join(room, client, ack_id)
            case Leave(room):
                self._leave(room, client, ack_id)
            case ListMembers():
                client.answer(ack_id, self._page(request, client.true_id))

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

    def _page(self, request: ListMembers, true_id: TrueId) -> dict[str, object]:
        if true_id not in self._store.memberships.members_of(request.room):
            raise RequestRefused("not_member", "you are not in this room", "room")
        return {"ok": True, **self.page(request)}

    def page(self, request: ListMembers) -> dict[str, object]:
        """Return a page of who is in a room. Raises RequestRefused for a cursor not of ours."""
        memberships = self._store.memberships
        members = memberships.members_of(request.room)
        cursor = request.cursor or "0"
        if not (cursor.isascii() and cursor.isdigit()):
            raise RequestRefused("bad_request", "cursor is not one of ours", "cursor")
        page, following = memberships.page(request.room, int(cursor), request.limit)
        return {
            "room": request.room,
            "members": len(members),
            "players": [self._entry(each) for each in page],
            "cursor": None if following is None else str(following),
        }

    def _entry(self, true_id: TrueId) -> dict[str, object]:
        known = self._presence_of(true_id)
        # After a restart presence does not know those who are not back yet: they have their grace.
        state = "away" if known["state"] == "offline" else known["state"]
        entry: dict[str, object] = {"true_id": true_id, "state": state}
        if "name" in known:
            entry["name"] = known["name"]
        return entry

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
        answer: asyncio.Future[Membership | GatewayError]
        answer = asyncio.get_running_loop().create_future()

        def done(result: Membership | GatewayError) -> None:
            if not answer.done():
                answer.set_result(result)

        ask(done)
        result = await answer
        if isinstance(result, Membership):
            return result.members
        raise self._refusal(result)

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
                    self._absent.setdefault(true_id, self._monotonic())
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
                self._announce(room, "left", true_id, result.members, tell)

        self._store.leave(room, true_id, done)

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
        self._absent.pop(true_id, None)

    def on_disconnected(self, client: Client) -> None:
        """A player has lost this connection; if presence has them offline already, they left."""
        true_id = client.true_id
        self._joining.on_disconnected(client)
        if not any(self._connections_of(true_id)) and self.rooms_of(true_id):
            self._absent.pop(true_id, None)
            self._absent[true_id] = self._monotonic()
            if self._presence_of(true_id)["state"] == "offline":
                self._end(true_id)

    def expire(self) -> None:
        """End the memberships of players who have been away for the grace; call it often.

        Members that are found in a store that was just opened are away from now on.
        """
        now = self._monotonic()
        memberships = self._store.memberships
        if memberships is not self._seen:
            self._seen = memberships
            for true_id in memberships.players():
                if not any(self._connections_of(true_id)):
                    self._absent.setdefault(true_id, now)
        gone = []
        for true_id, since in self._absent.items():
            if since > now - self._settings.grace:
                break
            gone.append(true_id)
        for true_id in gone:
            self._end(true_id)

    def _end(self, true_id: TrueId) -> None:
        since = self._absent.pop(true_id, None)

        def done(result: Membership | GatewayError) -> None:
            if isinstance(result, GatewayError) and since is not None:
                # The store is away: the next sweep tries again.
                self._absent.setdefault(true_id, since)

        for room in self.rooms_of(true_id):
            self._remove(room, true_id, done, tell=True)

    async def close(self) -> None:
        """Stop what waits for the policy's answer."""
        await self._joining.close()
