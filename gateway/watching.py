"""Who watches whose presence, and who is told next: at most once in `interval` seconds.

Changes of a player are coalesced: all its watchers are told together, so one encoding serves
them, and what they are told is the state at that moment. The first change after a quiet
time is due at once. A watcher that could not be told is told once it has caught up, under the
same rule. Where more is due than can be told, players with few watchers and those with many take
turns: a crowd does not keep small parties waiting.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Final, Generic, TypeVar

from gateway.messages import TrueId

W = TypeVar("W")

#: So many watchers are few.
_FEW: Final = 64


class _Watched(Generic[W]):
    """A player who has watchers, or had some a moment ago."""

    __slots__ = ("changed", "changed_at", "not_before", "owed", "queued", "true_id", "watchers")

    def __init__(self, true_id: TrueId) -> None:
        self.true_id = true_id
        self.watchers: set[W] = set()
        #: Watchers who have missed the last telling and can be told again.
        self.owed: set[W] | None = None
        self.changed = False
        self.changed_at = 0.0
        self.not_before = 0.0
        #: Whether it waits in one of the two queues.
        self.queued = False


@dataclass(frozen=True, slots=True)
class Turn(Generic[W]):
    """Tell these watchers how the player is; the last change was at the time `changed_at`."""

    true_id: TrueId
    changed_at: float
    watchers: tuple[W, ...]


class Watching(Generic[W]):
    """Keeps watchers and whose turn it is. `now` is monotonic, `interval` in seconds.

    `on_unwatched` is told of a player who has had no watchers for a moment.
    """

    def __init__(
        self,
        interval: float,
        on_unwatched: Callable[[TrueId], None] = lambda true_id: None,
    ) -> None:
        self._interval = interval
        self._on_unwatched = on_unwatched
        self._players: dict[TrueId, _Watched[W]] = {}
        self._watching: dict[W, set[TrueId]] = {}
        self._missed: dict[W, set[TrueId]] = {}
        #: Players with few watchers and with many, whose turn it is, and which of both is next.
        self._ready: tuple[deque[_Watched[W]], deque[_Watched[W]]] = (deque(), deque())
        self._next = 0
        self._waiting: list[tuple[float, int, _Watched[W]]] = []
        self._numbers = count()

    # Who watches whom

    def watched_by(self, watcher: W) -> frozenset[TrueId]:
        """Return whom this one watches."""
        return frozenset(self._watching.get(watcher, ()))

    def is_watched(self, true_id: TrueId) -> bool:
        """Tell whether a player has watchers, or had some a moment ago: see `on_unwatched`."""
        return true_id in self._players

    def watch(self, watcher: W, true_ids: Iterable[TrueId]) -> None:
        """Let this one hear of these players too."""
        watching = self._watching.setdefault(watcher, set())
        for true_id in true_ids:
            watching.add(true_id)
            player = self._players.get(true_id)
            if player is None:
                player = self._players[true_id] = _Watched(true_id)
            player.watchers.add(watcher)
        if not watching:
            del self._watching[watcher]

    def unwatch(self, watcher: W, true_ids: Iterable[TrueId], now: float) -> None:
        """Stop telling this one of these players."""
        watching = self._watching.get(watcher)
        if watching is None:
            return
        missed = self._missed.get(watcher, set())
        for true_id in true_ids:
            if true_id in watching:
                watching.remove(true_id)
                missed.discard(true_id)
                self._unwatch(self._players[true_id], watcher, now)
        if not watching:
            self.forget(watcher, now)

    def forget(self, watcher: W, now: float) -> None:
        """The watcher is gone."""
        self._missed.pop(watcher, None)
        for true_id in self._watching.pop(watcher, ()):
            self._unwatch(self._players[true_id], watcher, now)

    def _unwatch(self, player: _Watched[W], watcher: W, now: float) -> None:
        player.watchers.discard(watcher)
        if player.owed is not None:
            player.owed.discard(watcher)
        if not player.watchers:
            # It is forgotten when its turn would come: who watches it again does not hear of
            # it sooner than others.
            self._enqueue(player, now)

    # Whose turn it is

    def on_changed(self, true_id: TrueId, changed_at: float, now: float) -> None:
        """A player's presence is another one now; `changed_at` comes back in its Turn."""
        player = self._players.get(true_id)
        if player is not None:
            player.changed = True
            player.changed_at = changed_at
            self._enqueue(player, now)

    def on_missed(self, watcher: W, true_id: TrueId) -> None:
        """The watcher could not be told of this player."""
        self._missed.setdefault(watcher, set()).add(true_id)

    def on_caught_up(self, watcher: W, now: float) -> None:
        """The watcher can be told again: it is owed what it has missed."""
        for true_id in self._missed.pop(watcher, ()):
            player = self._players[true_id]
            if player.owed is None:
                player.owed = set()
            player.owed.add(watcher)
            self._enqueue(player, now)

    def _enqueue(self, player: _Watched[W], now: float) -> None:
        if player.queued:
            return
        player.queued = True
        if player.not_before <= now:
            self._ready[len(player.watchers) > _FEW].append(player)
        else:
            heapq.heappush(self._waiting, (player.not_before, next(self._numbers), player))

    @property
    def next_due(self) -> float | None:
        """When the next turn is, by the monotonic clock: 0 for now, None for never."""
        if any(self._ready):
            return 0.0
        return self._waiting[0][0] if self._waiting else None

    def next_turn(self, now: float) -> Turn[W] | None:
        """Return who has to be told of whom now; None when it is nobody's turn."""
        waiting = self._waiting
        while waiting and waiting[0][0] <= now:
            player = heapq.heappop(waiting)[2]
            self._ready[len(player.watchers) > _FEW].append(player)
        while any(self._ready):
            self._next = 1 - self._next
            player = (self._ready[self._next] or self._ready[1 - self._next]).popleft()
            player.queued = False
            told = player.watchers if player.changed else player.owed
            player.changed, player.owed = False, None
            if told:
                player.not_before = now + self._interval
                return Turn(player.true_id, player.changed_at, tuple(told))
            if not player.watchers:
                del self._players[player.true_id]
                self._on_unwatched(player.true_id)
        return None
