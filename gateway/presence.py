"""Presence: who is here, merged over a player's connections, and who watches whom.

A player is `active` while one of its connections is, `hidden` while all its tabs are,
`away` for `grace` seconds after the last connection was lost, then `offline`.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from gateway.messages import ConnectionId, PresenceState, TrueId


@dataclass(slots=True)
class _Player:
    name: str
    order: int
    since: float
    state: PresenceState = "active"
    status: str | None = None
    connections: dict[ConnectionId, Literal["active", "hidden"]] = field(default_factory=dict)

    def merged(self) -> PresenceState:
        if not self.connections:
            return "away"
        return "active" if "active" in self.connections.values() else "hidden"


@dataclass(frozen=True, slots=True)
class Changed:
    """A player's presence changed: tell these connections."""

    true_id: TrueId
    payload: dict[str, object]
    watchers: tuple[ConnectionId, ...]


class Presence:
    """Keeps presence. Methods take the time in Unix seconds and return what changed."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._players: dict[TrueId, _Player] = {}
        self._away: dict[TrueId, float] = {}
        self._watchers: dict[TrueId, set[ConnectionId]] = {}
        self._watching: dict[ConnectionId, set[TrueId]] = {}
        # Players in the order they came, for listing in pages; gone ones leave holes.
        self._order: list[tuple[int, TrueId]] = []
        self._next_order = 1

    @property
    def online(self) -> int:
        """How many players have a connection."""
        return len(self._players) - len(self._away)

    def on_connected(
        self, true_id: TrueId, connection_id: ConnectionId, name: str, now: float
    ) -> list[Changed]:
        """A connection of the player is here."""
        player = self._players.get(true_id)
        if player is None:
            player = self._players[true_id] = _Player(name, self._next_order, now)
            self._order.append((self._next_order, true_id))
            self._next_order += 1
            came = True
        else:
            came = False
        self._away.pop(true_id, None)
        player.name = name
        player.connections[connection_id] = "active"
        return self._settle(true_id, player, now, forced=came)

    def on_disconnected(
        self, true_id: TrueId, connection_id: ConnectionId, now: float, *, left: bool = False
    ) -> list[Changed]:
        """A connection of the player is gone, and with it what it watched.

        A player who `left` on purpose with their last connection is offline at once.
        """
        for watched in self._watching.pop(connection_id, ()):
            self._unwatch(watched, connection_id)
        player = self._players.get(true_id)
        if player is None or connection_id not in player.connections:
            return []
        del player.connections[connection_id]
        if not player.connections:
            if left:
                return self._remove(true_id, now)
            self._away[true_id] = now
        return self._settle(true_id, player, now)

    def set_state(
        self,
        true_id: TrueId,
        connection_id: ConnectionId,
        state: Literal["active", "hidden"],
        status: str | None,
        now: float,
    ) -> list[Changed]:
        """The page behind this connection says what it is; `status` None leaves it as it is."""
        player = self._players.get(true_id)
        if player is None or connection_id not in player.connections:
            return []
        player.connections[connection_id] = state
        new_status = status is not None and status != player.status
        if new_status:
            player.status = status
        return self._settle(true_id, player, now, forced=new_status)

    def watch(self, connection_id: ConnectionId, true_ids: Iterable[TrueId]) -> int:
        """Let this connection hear of these players too; return how many it watches now."""
        watching = self._watching.setdefault(connection_id, set())
        for true_id in true_ids:
            watching.add(true_id)
            self._watchers.setdefault(true_id, set()).add(connection_id)
        return len(watching)

    def unwatch(self, connection_id: ConnectionId, true_ids: Iterable[TrueId]) -> None:
        """Stop telling this connection of these players."""
        watching = self._watching.get(connection_id, set())
        for true_id in true_ids:
            watching.discard(true_id)
            self._unwatch(true_id, connection_id)

    def watched_by(self, connection_id: ConnectionId) -> frozenset[TrueId]:
        """Return whom this connection watches."""
        return frozenset(self._watching.get(connection_id, ()))

    def get(self, true_id: TrueId) -> dict[str, object]:
        """Return the presence of any player, known or not, as PROTOCOL 1.4 has it."""
        player = self._players.get(true_id)
        if player is None:
            return {"true_id": true_id, "state": "offline", "connections": 0, "since": None}
        payload: dict[str, object] = {
            "true_id": true_id,
            "name": player.name,
            "state": player.state,
            "connections": len(player.connections),
            "since": player.since,
        }
        if player.status is not None:
            payload["status"] = player.status
        return payload

    def page(self, cursor: int, limit: int) -> tuple[list[dict[str, object]], int | None]:
        """Return players that are here or away, in the order they came, and the next cursor.

        Start with cursor 0; the next cursor is None on the last page.
        """
        players: list[dict[str, object]] = []
        start = bisect.bisect_right(self._order, cursor, key=lambda entry: entry[0])
        for index in range(start, len(self._order)):
            order, true_id = self._order[index]
            player = self._players.get(true_id)
            if player is None or player.order != order:
                continue
            if len(players) == limit:
                return players, cursor
            players.append(self.get(true_id))
            cursor = order
        return players, None

    def expire(self, now: float) -> list[Changed]:
        """Players away for longer than `grace` are offline."""
        changes: list[Changed] = []
        while self._away:
            true_id, since = next(iter(self._away.items()))
            if since > now - self._grace:
                break
            del self._away[true_id]
            changes += self._remove(true_id, now)
        if len(self._order) > 2 * len(self._players) + 64:
            self._order = [
                (order, true_id)
                for order, true_id in self._order
                if true_id in self._players and self._players[true_id].order == order
            ]
        return changes

    def _remove(self, true_id: TrueId, now: float) -> list[Changed]:
        del self._players[true_id]
        watchers = tuple(self._watchers.get(true_id, ()))
        if not watchers:
            return []
        return [Changed(true_id, {**self.get(true_id), "since": now}, watchers)]

    def _settle(
        self, true_id: TrueId, player: _Player, now: float, *, forced: bool = False
    ) -> list[Changed]:
        state = player.merged()
        if state == player.state and not forced:
            return []
        if state != player.state:
            player.since = now
        player.state = state
        watchers = tuple(self._watchers.get(true_id, ()))
        return [Changed(true_id, self.get(true_id), watchers)] if watchers else []

    def _unwatch(self, true_id: TrueId, connection_id: ConnectionId) -> None:
        watchers = self._watchers.get(true_id)
        if watchers is not None:
            watchers.discard(connection_id)
            if not watchers:
                del self._watchers[true_id]
