"""Presence: who is here, merged over a player's tabs.

A player is `active` while one of its tabs is, `hidden` while all its tabs are, `away` for
`grace` seconds after the last connection was lost, then `offline`.

Nobody is to see a tab flap that reconnects. A lost tab therefore stays as it was for a short
time to settle, and a tab that comes back as hidden counts as hidden until its page had that
time to say what it is. A takeover only exchanges the connection behind a tab.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gateway.messages import ConnectionId, PresenceState, SessionId, TrueId
from gateway.presence_store import Entry, Tab

TabState = Literal["active", "hidden"]


@dataclass(slots=True, eq=False)
class _Tab:
    """One session of a player; without a connection it was lost at the Unix time `lost`.

    It is `fresh` while its page has said nothing, and another node may know it to be hidden.
    """

    session_id: SessionId
    connection_id: ConnectionId | None
    state: TabState = "active"
    lost: float = 0.0
    fresh: bool = True


@dataclass(slots=True)
class _Player:
    name: str
    order: int
    since: float
    #: Most players have one: a list of one is smaller than a dictionary.
    tabs: list[_Tab]
    #: When they last connected, and said what they do.
    named: float
    state: PresenceState = "active"
    status: str | None = None
    stated: float = 0.0

    def tab(self, connection_id: ConnectionId) -> _Tab | None:
        for tab in self.tabs:
            if tab.connection_id == connection_id:
                return tab
        return None

    def merge(self, since: float) -> bool:
        """Take the state over from the tabs; tell whether it is another one now."""
        state: PresenceState = "away"
        if self.tabs:
            state = "active" if any(tab.state == "active" for tab in self.tabs) else "hidden"
        if state == self.state:
            return False
        self.state, self.since = state, since
        return True


class Presence:
    """Keeps presence. What changes something returns whether others see a difference.

    `grace` and `settle` are in seconds. `clock` is Unix time and told to clients; what is due
    goes by `monotonic`, which nobody steps. `on_here` is told of who comes and who is offline.
    """

    def __init__(
        self,
        grace: float,
        settle: float,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        on_here: Callable[[TrueId], None] = lambda true_id: None,
    ) -> None:
        self._grace = grace
        self._on_here = on_here
        # Who is offline by then is not away before.
        self._settle = min(settle, grace)
        self._clock = clock
        self._monotonic = monotonic
        self._players: dict[TrueId, _Player] = {}
        # Both in the order in which they are due.
        self._settling: OrderedDict[_Tab, tuple[float, TrueId]] = OrderedDict()
        self._away: OrderedDict[TrueId, float] = OrderedDict()
        # Players in the order they came, for listing in pages; gone ones leave holes.
        self._order: list[tuple[int, TrueId]] = []
        self._next_order = 1

    @property
    def online(self) -> int:
        """How many players have a connection, or had one a moment ago."""
        return len(self._players) - len(self._away)

    def on_connected(
        self, true_id: TrueId, session_id: SessionId, connection_id: ConnectionId, name: str
    ) -> bool:
        """A connection of the player is here, for this session."""
        now = self._clock()
        player = self._players.get(true_id)
        if player is None:
            tab = _Tab(session_id, connection_id)
            self._players[true_id] = _Player(name, self._next_order, now, [tab], now)
            self._order.append((self._next_order, true_id))
            self._next_order += 1
            self._on_here(true_id)
            return True
        self._away.pop(true_id, None)
        changed = name != player.name
        player.name, player.named = name, now
        back = _returning(player.tabs, session_id)
        if back is None:
            player.tabs.append(_Tab(session_id, connection_id))
            changed = True
        else:
            back.session_id, back.connection_id, back.fresh = session_id, connection_id, True
            self._settling.pop(back, None)
            if back.state == "hidden" and self._settle:
                self._settling[back] = (self._monotonic() + self._settle, true_id)
            else:
                back.state = "active"
        return player.merge(now) or changed

    def on_disconnected(
        self, true_id: TrueId, connection_id: ConnectionId, *, left: bool = False
    ) -> bool:
        """A connection of the player is gone.

        It has `left` if it is not to come back: logged out or thrown out. A player whose last
        connection has is offline at once.
        """
        player = self._players.get(true_id)
        tab = None if player is None else player.tab(connection_id)
        if player is None or tab is None:
            return False
        self._settling.pop(tab, None)
        tab.connection_id, tab.lost = None, self._clock()
        due = self._monotonic() + self._settle
        if left and all(each.connection_id is None for each in player.tabs):
            self._remove(true_id, player)
            return True
        if left or not self._settle:
            self._drop(true_id, player, tab, due)
            return True
        self._settling[tab] = (due, true_id)
        return False

    def set_state(
        self, true_id: TrueId, connection_id: ConnectionId, state: TabState, status: str | None
    ) -> bool:
        """The page behind this connection says what it is; `status` None leaves it as it is."""
        player = self._players.get(true_id)
        tab = None if player is None else player.tab(connection_id)
        if player is None or tab is None:
            return False
        self._settling.pop(tab, None)
        tab.state, tab.fresh = state, False
        now = self._clock()
        changed = status is not None and status != player.status
        if changed:
            player.status, player.stated = status, now
        return player.merge(now) or changed

    def adopt(self, true_id: TrueId, session_id: SessionId) -> bool:
        """Others know this tab as hidden: it stays so while its page has time to say more.

        Return False if it has said already that it is not.
        """
        player = self._players.get(true_id)
        if player is None:
            return True
        for tab in player.tabs:
            if tab.session_id != session_id:
                continue
            if not tab.fresh:
                return tab.state == "hidden"
            if tab.connection_id is not None:
                tab.state, tab.fresh = "hidden", False
                self._settling.pop(tab, None)
                self._settling[tab] = (self._monotonic() + self._settle, true_id)
                player.merge(self._clock())
        return True

    def entry(self, true_id: TrueId) -> Entry | None:
        """Return what this node tells the others of a player; None when they are not here."""
        player = self._players.get(true_id)
        if player is None:
            return None
        tabs = [
            Tab(
                tab.session_id,
                "new" if tab.fresh else tab.state,
                tab.connection_id is not None,
            )
            for tab in player.tabs
        ]
        return Entry(player.name, player.named, player.status, player.stated, tabs)

    def players(self) -> list[TrueId]:
        """Return all who are here."""
        return list(self._players)

    def is_here(self, true_id: TrueId) -> bool:
        """Tell whether a player is here or away, and not offline."""
        return true_id in self._players

    def get(self, true_id: TrueId) -> dict[str, object]:
        """Return the presence of any player, known or not, as PROTOCOL 1.4 has it."""
        player = self._players.get(true_id)
        if player is None:
            return {"true_id": true_id, "state": "offline", "connections": 0, "since": None}
        payload: dict[str, object] = {
            "true_id": true_id,
            "name": player.name,
            "state": player.state,
            "connections": len(player.tabs),
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

    @property
    def next_due(self) -> float | None:
        """When `expire` has something to do next, by the monotonic clock; None for never."""
        settling = next(iter(self._settling.values()), None)
        away = next(iter(self._away.values()), None)
        if settling is None:
            return away
        return settling[0] if away is None else min(settling[0], away)

    def expire(self) -> list[TrueId]:
        """Let tabs settle and players who were away for `grace` go; return who has changed."""
        now = self._monotonic()
        changed: list[TrueId] = []
        while self._settling:
            tab, (due, true_id) = next(iter(self._settling.items()))
            if due > now:
                break
            del self._settling[tab]
            player = self._players[true_id]
            if tab.connection_id is None:
                self._drop(true_id, player, tab, due)
            else:
                # Its page had time to say that it is hidden, and has not.
                tab.state = "active"
                player.merge(self._clock())
            changed.append(true_id)
        while self._away:
            true_id, due = next(iter(self._away.items()))
            if due > now:
                break
            self._remove(true_id, self._players[true_id])
            changed.append(true_id)
        if len(self._order) > 2 * len(self._players) + 64:
            self._order = [
                (order, true_id)
                for order, true_id in self._order
                if true_id in self._players and self._players[true_id].order == order
            ]
        return changed

    def _drop(self, true_id: TrueId, player: _Player, tab: _Tab, settled: float) -> None:
        """Forget a lost tab that had until `settled` to come back."""
        player.tabs.remove(tab)
        if player.tabs:
            player.merge(self._clock())
        elif self._grace <= self._settle:
            self._remove(true_id, player)
        else:
            self._away[true_id] = settled - self._settle + self._grace
            player.merge(tab.lost)

    def _remove(self, true_id: TrueId, player: _Player) -> None:
        for tab in player.tabs:
            self._settling.pop(tab, None)
        self._away.pop(true_id, None)
        del self._players[true_id]
        self._on_here(true_id)


def _returning(tabs: list[_Tab], session_id: SessionId) -> _Tab | None:
    """Return the tab that a newcomer of this session is taken for: its own, else a lost one."""
    lost = None
    for tab in tabs:
        if tab.session_id == session_id:
            return tab
        if lost is None and tab.connection_id is None:
            lost = tab
    return lost
