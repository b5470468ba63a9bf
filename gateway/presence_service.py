"""Tells watchers of presence, and answers what players ask about it.

Telling has a pace. Everything that is due is told in slices, and after each the event loop is
left alone for longer than the slice took: however many watch however many, messages come
first, and presence comes as often as there is time for, always the latest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.errors import RequestRefused
from gateway.messages import (
    ConnectionId,
    ListPlayers,
    PresenceSet,
    SessionId,
    TrueId,
    encode_event,
)
from gateway.metrics import Metrics
from gateway.presence import Presence
from gateway.texts import clean_text
from gateway.watching import Turn, Watching

_STATUS_BYTES: Final = 128
#: How long watchers are told without a pause, in seconds.
_SLICE: Final = 0.01
#: The pause after a slice, as a multiple of the time that it took until all was written.
_PAUSE: Final = 3.0


class Watcher(Protocol):
    """A connection as presence sees it."""

    @property
    def id(self) -> ConnectionId:
        """Its own id."""

    @property
    def true_id(self) -> TrueId:
        """The player it belongs to."""

    def on_presence(self, array: bytes) -> bool:
        """Write the event; return False if it cannot be written before `on_drained`."""


class Timer(Protocol):
    """A callback to come."""

    def cancel(self) -> None:
        """Do not call back."""


@dataclass(frozen=True, slots=True)
class PresenceSettings:
    """Section `presence` of the YAML file; durations in seconds."""

    grace: float
    settle: float
    interval: float
    max_watched: int
    listing: bool


class PresenceService:
    """Presence with its watchers. `call_later(seconds, callback)` is the event loop's.

    `on_here` is told of who comes and who is offline.
    """

    def __init__(
        self,
        settings: PresenceSettings,
        metrics: Metrics,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], Timer],
        on_here: Callable[[TrueId], None] = lambda true_id: None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._monotonic = monotonic
        self._call_later = call_later
        self._presence = Presence(settings.grace, settings.settle, clock, monotonic, on_here)
        self._watching: Watching[Watcher] = Watching(settings.interval)
        self._timer: Timer | None = None
        self._timer_due = 0.0
        self._slice_began = 0.0
        self._not_before = 0.0
        self._telling = False
        self._stopped = False

    # What happens

    def on_connected(self, connection: Watcher, session_id: SessionId, name: str) -> None:
        """A connection of a player is here."""
        true_id = connection.true_id
        if self._presence.on_connected(true_id, session_id, connection.id, name):
            self._on_changed(true_id)
        self._arm()

    def on_disconnected(self, connection: Watcher, *, left: bool) -> None:
        """A connection is gone, and with it what it watched; see Presence.on_disconnected."""
        self._watching.forget(connection, self._monotonic())
        if self._presence.on_disconnected(connection.true_id, connection.id, left=left):
            self._on_changed(connection.true_id)
        self._arm()

    def on_drained(self, connection: Watcher) -> None:
        """The connection can be told again."""
        self._watching.on_caught_up(connection, self._monotonic())
        self._arm()

    def _on_changed(self, true_id: TrueId) -> None:
        self._watching.on_changed(true_id, self._clock(), self._monotonic())

    # What players ask

    def set_state(self, connection: Watcher, request: PresenceSet) -> None:
        """Take `presence_set`. Raises RequestRefused (`bad_request`) for the status."""
        status = request.status
        if status:
            try:
                status = clean_text(status, "status", _STATUS_BYTES)
            except ValueError as error:
                raise RequestRefused("bad_request", str(error), "status") from None
        if self._presence.set_state(connection.true_id, connection.id, request.state, status):
            self._on_changed(connection.true_id)
        self._arm()

    def watch(self, connection: Watcher, true_ids: Sequence[TrueId]) -> dict[str, object]:
        """Take `presence_watch`; return how these players are.

        Raises RequestRefused (`too_large`) when it would be more than `presence.max_watched`.
        """
        limit = self._settings.max_watched
        if limit and len(self._watching.watched_by(connection).union(true_ids)) > limit:
            self._metrics.limit_hit("presence.max_watched")
            raise RequestRefused("too_large", f"a connection watches {limit} at most", "true_ids")
        self._watching.watch(connection, true_ids)
        return {true_id: self._presence.get(true_id) for true_id in true_ids}

    def unwatch(self, connection: Watcher, true_ids: Sequence[TrueId]) -> None:
        """Take `presence_unwatch`."""
        self._watching.unwatch(connection, true_ids, self._monotonic())
        self._arm()

    def watched_by(self, connection: Watcher) -> frozenset[TrueId]:
        """Return whom a connection watches."""
        return self._watching.watched_by(connection)

    def list_players(self, request: ListPlayers) -> dict[str, object]:
        """Take `players`. Raises RequestRefused when the cursor or the whole event is not ours."""
        if not self._settings.listing:
            raise RequestRefused("forbidden", "listing players is switched off on this gateway")
        cursor = request.cursor or "0"
        if not (cursor.isascii() and cursor.isdigit()):
            raise RequestRefused("bad_request", "cursor is not one of ours", "cursor")
        players, following = self._presence.page(int(cursor), request.limit)
        return {
            "players": players,
            "online": self._presence.online,
            "cursor": None if following is None else str(following),
        }

    def is_here(self, true_id: TrueId) -> bool:
        """See Presence.is_here."""
        return self._presence.is_here(true_id)

    def get(self, true_id: TrueId) -> dict[str, object]:
        """See Presence.get."""
        return self._presence.get(true_id)

    def page(self, cursor: int, limit: int) -> tuple[list[dict[str, object]], int | None]:
        """See Presence.page."""
        return self._presence.page(cursor, limit)

    @property
    def online(self) -> int:
        """See Presence.online."""
        return self._presence.online

    # Telling

    def stop(self) -> None:
        """Tell nobody anything any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        """See to it that what is due is told, no sooner than the pace allows."""
        dues = [
            due for due in (self._presence.next_due, self._watching.next_due) if due is not None
        ]
        if not dues or self._telling or self._stopped:
            return
        due = max(min(dues), self._not_before)
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._call_later(max(0.0, due - self._monotonic()), self._tell)

    def _tell(self) -> None:
        began = self._slice_began = self._monotonic()
        self._timer = None
        self._telling = True
        try:
            for true_id in self._presence.expire():
                self._on_changed(true_id)
            now = began
            while now - began <= _SLICE and (turn := self._watching.next_turn(now)):
                self._take(turn)
                now = self._monotonic()
        finally:
            self._telling = False
            # What was written leaves at the end of the loop's turn: that is part of the cost.
            self._timer_due = -math.inf
            self._timer = self._call_later(0.0, self._on_written)

    def _take(self, turn: Turn[Watcher]) -> None:
        presence = self._presence.get(turn.true_id)
        if presence["since"] is None:
            presence["since"] = turn.changed_at
        array = encode_event("presence", presence)
        for watcher in turn.watchers:
            if not watcher.on_presence(array):
                self._watching.on_missed(watcher, turn.true_id)

    def _on_written(self) -> None:
        self._timer = None
        now = self._monotonic()
        self._not_before = now + _PAUSE * (now - self._slice_began)
        self._arm()
