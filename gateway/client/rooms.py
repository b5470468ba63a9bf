"""Rooms that this client joined.

To be a member is the player's, not the connection's: it outlives reconnects. So a room is joined
again only when that has ended: the gateway says `not_member`. It is asked after each reconnect: a
process that was stopped cannot tell for how long the gateway has missed it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from gateway.client.errors import LATER, ClientError, RequestRefused
from gateway.client.payloads import Fault, Members, Membership, Rejoined, RoomChange, Session
from gateway.client.watching import convert

Request = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]

#: When a refusal says "later" and not when. Seconds.
_PAUSE_SECONDS: Final = 1.0


class Rooms:
    """`request` asks the gateway, `emit` tells handlers."""

    def __init__(self, request: Request, emit: Callable[[str, object], None]) -> None:
        self._request = request
        self._emit = emit
        #: Each with what keeps it from being joined again twice at once.
        self._joined: dict[str, asyncio.Lock] = {}
        self._true_id = ""

    async def join(self, room: str) -> Membership:
        """Become a member."""
        answer = convert(await self._request("join", {"room": room}), Membership)
        self._joined.setdefault(room, asyncio.Lock())
        return answer

    async def leave(self, room: str) -> Membership:
        """Be no member any more."""
        self._joined.pop(room, None)
        return convert(await self._request("leave", {"room": room}), Membership)

    async def members(self, page: Mapping[str, Any]) -> Members:
        """Return a page of a room's members."""
        return convert(await self._request("members", page), Members)

    def on_session(self, session: Session) -> None:
        """A session begins: `restore` is next. Another player is a member of nothing."""
        before, self._true_id = self._true_id, session.true_id
        if before and before != session.true_id:
            for room in tuple(self._joined):
                self._lose(room, before, Fault("player_changed", "", "join"))

    def on_change(self, change: RoomChange) -> None:
        """Somebody joined or left; if it is this player, the room is no longer theirs."""
        if change.left is not None and change.left == self._true_id:
            self._joined.pop(change.room, None)

    async def restore(self) -> None:
        """Join again what was joined, where the membership has ended."""
        await asyncio.gather(*(self.cure(room) for room in self._joined))

    async def cure(self, room: str) -> bool:
        """Join again, if it was joined here; tell whether this player is a member now."""
        lock = self._joined.get(room)
        if lock is None:
            return False
        async with lock:
            try:
                if not await self._is_member(room):
                    await self._join_again(room)
            except RequestRefused as refused:
                if room in self._joined:
                    fault = Fault(refused.code, refused.message, "join")
                    self._lose(room, self._true_id, fault)
                return False
            except ClientError:
                # No answer: over the next connection it is asked again.
                return False
        return room in self._joined

    async def _is_member(self, room: str) -> bool:
        try:
            await self._insist("members", {"room": room, "limit": 1})
        except RequestRefused as refused:
            if refused.code != "not_member":
                raise
            return False
        return True

    async def _join_again(self, room: str) -> None:
        # The game may have left it just now.
        if room in self._joined:
            answer = convert(await self._insist("join", {"room": room}), Membership)
            self._emit("rejoined", Rejoined(room, answer.members))

    async def _insist(self, event: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Ask until the gateway no longer says "later": for now is no reason to lose a room."""
        while True:
            try:
                return await self._request(event, payload)
            except RequestRefused as refused:
                if refused.code not in LATER or payload["room"] not in self._joined:
                    raise
                pause = refused.retry_after
                await asyncio.sleep(_PAUSE_SECONDS if pause is None else pause)

    def _lose(self, room: str, true_id: str, why: Fault) -> None:
        self._joined.pop(room, None)
        self._emit("error", why)
        self._emit("room", RoomChange(room, left=true_id))
