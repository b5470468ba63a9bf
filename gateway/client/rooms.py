"""Rooms that this client joined.

To be a member is the player's, not the connection's: it outlives reconnects. So a room is joined
again only when that may have ended: the session was not kept, the player was away for longer
than the gateway keeps members, or the gateway says `not_member`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from gateway.client.errors import ClientError, RequestRefused
from gateway.client.payloads import Fault, Members, Membership, RoomChange, Session
from gateway.client.watching import convert

Request = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]

#: Outcomes of a session whose memberships were kept.
_KEPT: Final = frozenset({"resumed", "trimmed"})
#: Of a gateway that does not say for how long it keeps the members who are away. Seconds.
_GRACE_SECONDS: Final = 10.0


class Rooms:
    """`request` asks the gateway, `emit` tells handlers."""

    def __init__(self, request: Request, emit: Callable[[str, object], None]) -> None:
        self._request = request
        self._emit = emit
        self._joined: dict[str, None] = {}
        self._true_id = ""

    async def join(self, room: str) -> Membership:
        """Become a member."""
        answer = convert(await self._request("join", {"room": room}), Membership)
        self._joined[room] = None
        return answer

    async def leave(self, room: str) -> Membership:
        """Be no member any more."""
        self._joined.pop(room, None)
        return convert(await self._request("leave", {"room": room}), Membership)

    async def members(self, page: Mapping[str, Any]) -> Members:
        """Return a page of a room's members."""
        return convert(await self._request("members", page), Members)

    def on_session(self, session: Session, silence: float) -> bool:
        """A session begins, and the player may have been away for `silence` seconds.

        Returns whether `restore` has to join again. Another player is a member of nothing.
        """
        before, self._true_id = self._true_id, session.true_id
        if before and before != session.true_id:
            for room in tuple(self._joined):
                self._lose(room, before, Fault("player_changed", "", "join"))
            return False
        grace = session.limits.get("presence_grace")
        if not isinstance(grace, int | float):
            grace = _GRACE_SECONDS
        # The gateway may have missed the player before the client missed the gateway.
        return session.outcome not in _KEPT or silence > grace / 2

    def on_change(self, change: RoomChange) -> None:
        """Somebody joined or left; if it is this player, the room is no longer theirs."""
        if change.left is not None and change.left == self._true_id:
            self._joined.pop(change.room, None)

    async def restore(self) -> None:
        """Join again what was joined."""
        for room in tuple(self._joined):
            await self.cure(room)

    async def cure(self, room: str) -> bool:
        """Join again, if it was joined here; tell whether this player is a member now."""
        if room not in self._joined:
            return False
        try:
            await self._request("join", {"room": room})
        except RequestRefused as refused:
            if room in self._joined:
                self._lose(room, self._true_id, Fault(refused.code, refused.message, "join"))
            return False
        except ClientError:
            # No answer: over the next connection it is tried again.
            return False
        return True

    def _lose(self, room: str, true_id: str, why: Fault) -> None:
        self._joined.pop(room, None)
        self._emit("error", why)
        self._emit("room", RoomChange(room, left=true_id))
