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

from gateway.errors import RequestRefused, StoreUnavailable
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
from gateway.presence_sharing import SharedView
from gateway.presence_store import PresenceStore
from gateway.presence_view import LocalView, LookDone, Page, PageDone, Payload
from gateway.presence_writing import CallLater, Timer
from gateway.texts import clean_text
from gateway.watching import Turn, Watching

_STATUS_BYTES: Final = 128
#: How long a client is asked to wait when nobody can say how players are, in seconds.
_RETRY_AFTER: Final = 1.0
#: How long watchers are told without a pause, in seconds.
_SLICE: Final = 0.01
#: The pause after a slice, as a multiple of the time that it took until all was written.
_PAUSE: Final = 3.0


#: Takes what an event is answered, or why it is refused.
AnswerDone = Callable[[dict[str, object] | RequestRefused], None]


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


@dataclass(frozen=True, slots=True)
class PresenceSettings:
    """Section `presence` of the YAML file; durations in seconds."""

    grace: float
    settle: float
    interval: float
    max_watched: int
    listing: bool


class _Asked:
    """A `presence_watch` that waits for its answer."""

    __slots__ = ("true_ids",)

    def __init__(self, true_ids: Sequence[TrueId]) -> None:
        self.true_ids = set(true_ids)


class PresenceService:
    """Presence with its watchers. `call_later(seconds, callback)` is the event loop's.

    `on_here` is told of who comes and who is offline. With a `store` several nodes share presence:
    then it reports these, and `on_gone` is called with players whose memberships are to end.
    """

    def __init__(
        self,
        settings: PresenceSettings,
        metrics: Metrics,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        call_later: CallLater,
        on_here: Callable[[TrueId], None] = lambda true_id: None,
        store: PresenceStore | None = None,
    ) -> None:
        self.store = store
        self.on_gone: Callable[[TrueId], None] = _ignore
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._monotonic = monotonic
        self._call_later = call_later
        self._watching: Watching[Watcher] = Watching(settings.interval, self._on_unwatched)
        self._presence: Presence
        self._view: LocalView | SharedView
        if store is None:
            self._presence = Presence(settings.grace, settings.settle, clock, monotonic, on_here)
            self._view = LocalView(self._presence, clock, self._on_changed)
        else:
            self._share(store)
        self._asking: dict[Watcher, list[_Asked]] = {}
        self._timer: Timer | None = None
        self._timer_due = 0.0
        self._slice_began = 0.0
        self._not_before = 0.0
        self._telling = False
        self._stopped = False

    def _share(self, store: PresenceStore) -> None:
        settings = self._settings
        settle = min(settings.settle, settings.grace)
        # The grace begins when no node has a player any more: the store counts it.
        self._presence = Presence(settle, settle, self._clock, self._monotonic)
        self._view = SharedView(
            self._presence,
            store,
            settings.grace,
            settle,
            self._clock,
            self._call_later,
            self._on_seen,
            self._watching.is_watched,
            self._on_gone,
            self._arm,
        )

    # What happens

    def on_connected(self, connection: Watcher, session_id: SessionId, name: str) -> None:
        """A connection of a player is here."""
        true_id = connection.true_id
        changed = self._presence.on_connected(true_id, session_id, connection.id, name)
        self._view.on_connected(true_id, changed=changed)
        self._arm()

    def on_disconnected(self, connection: Watcher, *, left: bool) -> None:
        """A connection is gone, and with it what it watched; see Presence.on_disconnected."""
        self._asking.pop(connection, None)
        self._watching.forget(connection, self._monotonic())
        if self._presence.on_disconnected(connection.true_id, connection.id, left=left):
            self._view.on_changed(connection.true_id, left=left)
        self._arm()

    def on_drained(self, connection: Watcher) -> None:
        """The connection can be told again."""
        self._watching.on_caught_up(connection, self._monotonic())
        self._arm()

    def _on_changed(self, true_id: TrueId, changed_at: float) -> None:
        self._watching.on_changed(true_id, changed_at, self._monotonic())

    def _on_seen(self, true_id: TrueId, changed_at: float) -> None:
        self._on_changed(true_id, changed_at)
        self._arm()

    def _on_gone(self, true_id: TrueId) -> None:
        self.on_gone(true_id)

    def _on_unwatched(self, true_id: TrueId) -> None:
        self._view.unwatch((true_id,))

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
            self._view.on_changed(connection.true_id)
        self._arm()

    def watch(
        self,
        connection: Watcher,
        true_ids: Sequence[TrueId],
        done: AnswerDone,
    ) -> None:
        """Take `presence_watch`; tell `done` how these players are, or `unavailable`.

        The connection is told of what changes after that. Raises RequestRefused (`too_large`)
        when it would be more than `presence.max_watched`.
        """
        limit = self._settings.max_watched
        if limit and len(self.watched_by(connection).union(true_ids)) > limit:
            self._metrics.limit_hit("presence.max_watched")
            raise RequestRefused("too_large", f"a connection watches {limit} at most", "true_ids")
        asked = _Asked(true_ids)
        self._asking.setdefault(connection, []).append(asked)

        def on_known(known: dict[TrueId, Payload] | StoreUnavailable) -> None:
            wanted = self._stop_asking(connection, asked)
            if isinstance(known, StoreUnavailable):
                done(_unavailable())
                return
            self._watching.watch(connection, wanted)
            done({"presence": known})

        self._view.watch(true_ids, on_known)

    def _stop_asking(self, connection: Watcher, asked: _Asked) -> set[TrueId]:
        """Return whom a connection still wants to watch: nobody once it is closed."""
        asking = self._asking.get(connection, [])
        if asked not in asking:
            return set()
        asking.remove(asked)
        if not asking:
            del self._asking[connection]
        return asked.true_ids

    def unwatch(self, connection: Watcher, true_ids: Sequence[TrueId]) -> None:
        """Take `presence_unwatch`."""
        for asked in self._asking.get(connection, ()):
            asked.true_ids.difference_update(true_ids)
        self._watching.unwatch(connection, true_ids, self._monotonic())
        self._arm()

    def watched_by(self, connection: Watcher) -> frozenset[TrueId]:
        """Return whom a connection watches, or has asked to."""
        watched = self._watching.watched_by(connection)
        return watched.union(*(asked.true_ids for asked in self._asking.get(connection, ())))

    def list_players(self, request: ListPlayers, done: AnswerDone) -> None:
        """Take `players`; tell `done` a page, or `unavailable`.

        Raises RequestRefused when the cursor or the whole event is not ours.
        """
        if not self._settings.listing:
            raise RequestRefused("forbidden", "listing players is switched off on this gateway")

        def on_page(page: Page | StoreUnavailable) -> None:
            if isinstance(page, StoreUnavailable):
                done(_unavailable())
                return
            done({"players": page.players, "online": page.online, "cursor": page.cursor})

        self._view.page(request.cursor, request.limit, on_page)

    # What others ask

    def is_here(self, true_id: TrueId) -> bool:
        """See Presence.is_here: at this node."""
        return self._presence.is_here(true_id)

    def look(self, true_ids: Sequence[TrueId], done: LookDone) -> None:
        """See PresenceView.look."""
        self._view.look(true_ids, done)

    def page(self, cursor: str | None, limit: int, done: PageDone) -> None:
        """See PresenceView.page."""
        self._view.page(cursor, limit, done)

    # Telling

    def stop(self) -> None:
        """Tell nobody anything any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._view.stop()

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
                self._view.on_changed(true_id)
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
        presence = self._view.get(turn.true_id)
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


def _unavailable() -> RequestRefused:
    return RequestRefused("unavailable", "nobody can say now: try again", None, _RETRY_AFTER)


def _ignore(true_id: TrueId) -> None:
    """Nobody wants to know."""
