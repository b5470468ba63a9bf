"""Rooms that have members with a connection to this node: what other nodes are to know of them."""

from __future__ import annotations

from collections.abc import Callable

from gateway.messages import TrueId


class RoomsHere:
    """Counts members with a connection here; `show` is told a room and its new count."""

    def __init__(self, show: Callable[[str, int], None]) -> None:
        self._show = show
        self._rooms: dict[str, set[TrueId]] = {}

    def add(self, room: str, true_id: TrueId) -> None:
        """A member has a connection here, perhaps not the first one."""
        members = self._rooms.setdefault(room, set())
        if true_id not in members:
            members.add(true_id)
            self._show(room, len(members))

    def discard(self, room: str, true_id: TrueId) -> None:
        """A player has no connection here any more, or is no member: if they ever were."""
        members = self._rooms.get(room, set())
        if true_id in members:
            members.discard(true_id)
            self._show(room, len(members))
            if not members:
                del self._rooms[room]
