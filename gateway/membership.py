"""Who is in which room: the state alone, and its limits.

A room is there while it has members. A store keeps what is here, the way it keeps mailboxes.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from gateway.errors import GatewayError
from gateway.messages import TrueId

_NOBODY: Final[Mapping[TrueId, int]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RoomLimits:
    """Bounds of rooms: members of one, rooms of one player, rooms in all. 0 means no limit."""

    max_members: int = 0
    per_player: int = 0
    rooms: int = 0


class RoomLimitReached(GatewayError):
    """The player was not added: a limit is reached; `limit` is its key in the YAML file."""

    def __init__(self, limit: str) -> None:
        super().__init__(f"{limit} is reached")
        self.limit = limit


class Memberships:
    """Members of each room in the order in which they joined, and rooms of each player."""

    def __init__(self) -> None:
        # Members have numbers that rise: a page goes on where the last one ended.
        self._rooms: dict[str, dict[TrueId, int]] = {}
        self._players: dict[TrueId, dict[str, None]] = {}
        self._next = 1
        #: How many memberships there are: a player counts once for each room.
        self.count = 0

    def __len__(self) -> int:
        return len(self._rooms)

    def largest(self, count: int) -> list[tuple[str, int]]:
        """Return so many rooms with the number of their members, the largest first."""
        sizes = ((room, len(members)) for room, members in self._rooms.items())
        return heapq.nsmallest(count, sizes, key=lambda entry: (-entry[1], entry[0]))

    def players(self) -> Iterator[TrueId]:
        """Yield every player who is in a room."""
        return iter(self._players)

    def members_of(self, room: str) -> Mapping[TrueId, int]:
        """Return the room's members with their numbers; empty when there is no such room."""
        return self._rooms.get(room, _NOBODY)

    def rooms_of(self, true_id: TrueId) -> tuple[str, ...]:
        """Return the rooms that a player is in, the one joined first at the front."""
        rooms = self._players.get(true_id)
        if rooms is None:
            return ()
        # Nearly always they are in order: only what `replace` has put in may not be.
        return tuple(sorted(rooms, key=lambda room: self._rooms[room][true_id]))

    def check(self, room: str, true_id: TrueId, limits: RoomLimits) -> None:
        """Raise RoomLimitReached if the player, who is not in the room, may not be added."""
        if len(self._players.get(true_id, ())) >= (limits.per_player or sys.maxsize):
            raise RoomLimitReached("rooms.per_player")
        members = self._rooms.get(room)
        if members is None:
            if len(self._rooms) >= (limits.rooms or sys.maxsize):
                raise RoomLimitReached("rooms.rooms")
        elif len(members) >= (limits.max_members or sys.maxsize):
            raise RoomLimitReached("rooms.max_members")

    def add(self, room: str, true_id: TrueId, number: int | None = None) -> int:
        """Add a player who is not in the room, as the last one; return the member's number.

        `number` is one that was given before, by these memberships or those they are read from.
        """
        number = self._next if number is None else number
        self._next = max(self._next, number + 1)
        self._rooms.setdefault(room, {})[true_id] = number
        self._players.setdefault(true_id, {})[room] = None
        self.count += 1
        return number

    def remove(self, room: str, true_id: TrueId) -> bool:
        """Remove a player; return False if they were not in the room."""
        members = self._rooms.get(room)
        if members is None or members.pop(true_id, None) is None:
            return False
        if not members:
            del self._rooms[room]
        rooms = self._players[true_id]
        del rooms[room]
        if not rooms:
            del self._players[true_id]
        self.count -= 1
        return True

    def replace(self, room: str, members: Mapping[TrueId, int]) -> None:
        """Let a room have these members with their numbers, whoever was in it before."""
        for true_id in tuple(self.members_of(room)):
            self.remove(room, true_id)
        for true_id, number in sorted(members.items(), key=lambda entry: entry[1]):
            self.add(room, true_id, number)

    def page(self, room: str, cursor: int, limit: int) -> tuple[list[TrueId], int | None]:
        """Return members in the order in which they joined, and the next cursor.

        Start with cursor 0; the next cursor is None on the last page.
        """
        page: list[TrueId] = []
        last = cursor
        for true_id, number in self.members_of(room).items():
            if number <= cursor:
                continue
            if len(page) == limit:
                return page, last
            page.append(true_id)
            last = number
        return page, None
