"""Presence that several nodes share: what this one says is written, what others say is watched.

How a player is comes back with what is written, or is published to the nodes that watch the
player. Versions tell which of two is newer, as they come on different ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from gateway.errors import StoreUnavailable
from gateway.messages import TrueId
from gateway.presence import Presence
from gateway.presence_store import Change, Found, PresenceStore, Seen
from gateway.presence_view import LookDone, OnChanged, Page, PageDone, Payload
from gateway.presence_writing import CallLater, PresenceWriter, Timer

#: How long it takes until what failed is tried again, in seconds.
_RETRY: Final = 1.0


class _Request:
    """A question about several players that waits for some of them."""

    __slots__ = ("done", "error", "missing", "watched")

    def __init__(self, done: LookDone) -> None:
        self.watched: dict[TrueId, _Watched] = {}
        self.done = done
        self.missing = 0
        self.error: StoreUnavailable | None = None


class _Watched:
    """A player who is watched here, or may be once so many `requests` are answered."""

    __slots__ = ("requests", "seen", "version", "waiting")

    def __init__(self) -> None:
        self.version = -1
        self.seen: Seen | None = None
        self.requests = 0
        #: Who waits to hear how the player is; None once that is known.
        self.waiting: list[_Request] | None = []


class SharedView:
    """Presence of all nodes: a PresenceView, and the store's PresenceListener.

    `presence` is of this node; `grace` and `settle` are as in PresenceWriter.
    `on_changed` is told of watched players, `on_gone` of whoever is offline; `is_watched` tells
    whether anybody here watches a player. `rearm` is called when `presence` has another next_due.
    """

    def __init__(
        self,
        presence: Presence,
        store: PresenceStore,
        grace: float,
        settle: float,
        clock: Callable[[], float],
        call_later: CallLater,
        on_changed: OnChanged,
        is_watched: Callable[[TrueId], bool],
        on_gone: Callable[[TrueId], None],
        rearm: Callable[[], None],
    ) -> None:
        self._presence = presence
        self._store = store
        self._writer = PresenceWriter(
            presence, store, grace, settle, clock, call_later, self._on_written
        )
        self._clock = clock
        self._call_later = call_later
        self._on_changed = on_changed
        self._is_watched = is_watched
        self._on_gone = on_gone
        self._rearm = rearm
        self._watched: dict[TrueId, _Watched] = {}
        #: Watched players about whom something may have been missed.
        self._stale: set[TrueId] = set()
        self._refreshing: Timer | None = None
        self._stopped = False
        store.attach(self)

    @property
    def online(self) -> int:
        """See PresenceView.online."""
        return self._store.online

    def stop(self) -> None:
        """Write nothing any more: others see to those who were here."""
        self._stopped = True
        self._writer.stop()
        if self._refreshing is not None:
            self._refreshing.cancel()

    # What this node says

    def on_connected(self, true_id: TrueId, *, changed: bool) -> None:
        """See PresenceView.on_connected: what others said of the tab meanwhile ends by that."""
        self._writer.say(true_id)

    def on_changed(self, true_id: TrueId, *, left: bool = False) -> None:
        """See PresenceView.on_changed."""
        self._writer.say(true_id, left=left)

    def _on_written(self, changes: dict[TrueId, Change], found: dict[TrueId, Found]) -> None:
        for true_id, each in found.items():
            for session_id in each.adopted:
                if not self._presence.adopt(true_id, session_id):
                    self._writer.say(true_id)
            self._learn(true_id, each, changes[true_id].at)
            if each.seen is None and changes[true_id].left:
                self._on_gone(true_id)
        self._rearm()

    # What all say

    def get(self, true_id: TrueId) -> Payload:
        """See PresenceView.get."""
        watched = self._watched.get(true_id)
        return _payload(true_id, None if watched is None else watched.seen)

    def look(self, true_ids: Sequence[TrueId], done: LookDone) -> None:
        """See PresenceView.look."""
        known: dict[TrueId, Payload] = {}
        missing = set(true_ids)
        failed = False

        def on_found(some: Sequence[TrueId], found: dict[TrueId, Found] | StoreUnavailable) -> None:
            nonlocal failed
            missing.difference_update(some)
            if failed:
                return
            if isinstance(found, StoreUnavailable):
                failed = True
                done(found)
                return
            known.update((each, _payload(each, found[each].seen)) for each in some)
            if not missing:
                done(known)

        if missing:
            self._store.look(tuple(missing), on_found)
        else:
            done(known)

    def page(self, cursor: str | None, limit: int, done: PageDone) -> None:
        """See PresenceView.page."""

        def on_page(
            page: tuple[Sequence[tuple[TrueId, Seen]], str | None] | StoreUnavailable,
        ) -> None:
            if isinstance(page, StoreUnavailable):
                done(page)
                return
            players, following = page
            done(Page([_payload(*each) for each in players], self.online, following))

        self._store.page(cursor, limit, on_page)

    # Watching

    def watch(self, true_ids: Sequence[TrueId], done: LookDone) -> None:
        """See PresenceView.watch."""
        request = _Request(done)
        unknown = []
        for true_id in dict.fromkeys(true_ids):
            watched = self._watched.get(true_id)
            if watched is None:
                watched = self._watched[true_id] = _Watched()
                unknown.append(true_id)
            request.watched[true_id] = watched
            watched.requests += 1
            if watched.waiting is not None:
                watched.waiting.append(request)
                request.missing += 1
        if unknown:
            self._store.watch(unknown, self._on_found)
        if not request.missing:
            self._answer(request)

    def _on_found(
        self, true_ids: Sequence[TrueId], found: dict[TrueId, Found] | StoreUnavailable
    ) -> None:
        answered = []
        for true_id in true_ids:
            watched = self._watched[true_id]
            waiting, watched.waiting = watched.waiting or (), None
            if isinstance(found, StoreUnavailable):
                del self._watched[true_id]
            else:
                self._take(watched, found[true_id])
            for request in waiting:
                request.missing -= 1
                if isinstance(found, StoreUnavailable):
                    request.error = found
                if not request.missing:
                    answered.append(request)
        for request in answered:
            self._answer(request)

    def _answer(self, request: _Request) -> None:
        if request.error is None:
            request.done({each: _payload(each, of.seen) for each, of in request.watched.items()})
        else:
            request.done(request.error)
        for watched in request.watched.values():
            watched.requests -= 1
        self.unwatch(request.watched)

    def unwatch(self, true_ids: Iterable[TrueId]) -> None:
        """See PresenceView.unwatch: those are left out who are watched all the same."""
        unwatched = []
        for true_id in true_ids:
            watched = self._watched.get(true_id)
            if watched is not None and not watched.requests and not self._is_watched(true_id):
                del self._watched[true_id]
                self._stale.discard(true_id)
                unwatched.append(true_id)
        if unwatched and not self._stopped:
            self._store.unwatch(unwatched)

    def _take(self, watched: _Watched, found: Found) -> bool:
        """Take what is newer; tell whether it is another thing."""
        if found.version < watched.version:
            return False
        changed = watched.seen != found.seen
        watched.version, watched.seen = found.version, found.seen
        return changed

    def _learn(self, true_id: TrueId, found: Found, at: float) -> None:
        watched = self._watched.get(true_id)
        if watched is not None and self._take(watched, found) and watched.waiting is None:
            self._on_changed(true_id, at)

    # PresenceListener

    def on_seen(self, true_id: TrueId, found: Found, at: float) -> None:
        """See PresenceListener.on_seen."""
        if true_id in self._watched:
            self._learn(true_id, found, at)
        else:
            # It was told of no more, and that was lost.
            self._store.unwatch((true_id,))

    def on_dropped(self, true_id: TrueId) -> None:
        """See PresenceListener.on_dropped."""
        if self._presence.is_here(true_id):
            self._writer.say(true_id)

    def on_gone(self, true_id: TrueId) -> None:
        """See PresenceListener.on_gone."""
        self._on_gone(true_id)

    def on_restored(self, concerns: Callable[[TrueId], bool], *, complete: bool) -> None:
        """See PresenceListener.on_restored."""
        for true_id, watched in self._watched.items():
            if concerns(true_id):
                self._stale.add(true_id)
                if not complete:
                    watched.version = -1
        if not complete:
            self._writer.say_all(filter(concerns, self._presence.players()))
        self._refresh()

    def _refresh(self) -> None:
        self._refreshing = None
        stale = [each for each in self._stale if self._watched[each].waiting is None]
        if stale and not self._stopped:
            self._stale.difference_update(stale)
            self._store.watch(stale, self._on_refreshed)

    def _on_refreshed(
        self, true_ids: Sequence[TrueId], found: dict[TrueId, Found] | StoreUnavailable
    ) -> None:
        if isinstance(found, StoreUnavailable):
            self._stale.update(each for each in true_ids if each in self._watched)
            if self._refreshing is None and not self._stopped:
                self._refreshing = self._call_later(_RETRY, self._refresh)
            return
        for true_id in true_ids:
            self._learn(true_id, found[true_id], self._clock())


def _payload(true_id: TrueId, seen: Seen | None) -> Payload:
    if seen is None:
        return {"true_id": true_id, "state": "offline", "connections": 0, "since": None}
    payload: Payload = {
        "true_id": true_id,
        "name": seen.name,
        "state": seen.state,
        "connections": seen.connections,
        "since": seen.since,
    }
    if seen.status is not None:
        payload["status"] = seen.status
    return payload
