"""Members who are not here, and when they have been away for so long that they are no members.

What is due is told to `end`, which takes a player out of all rooms and calls back with whether
that was done; if not, it is asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol, TypeAlias

from gateway.errors import StoreUnavailable
from gateway.membership import Memberships
from gateway.messages import TrueId
from gateway.presence_store import Found, PresenceStore
from gateway.store import RoomStore

End: TypeAlias = Callable[[TrueId, Callable[[bool], None]], None]


class Absence(Protocol):
    """Ends the memberships of players who have been without a connection for the grace."""

    def on_connected(self, true_id: TrueId) -> None:
        """The player has a connection."""

    def on_disconnected(self, true_id: TrueId) -> None:
        """The player has lost the last connection here."""

    def on_added(self, true_id: TrueId) -> None:
        """A player without a connection here was put into a room."""

    def expire(self) -> None:
        """See to what is due; called often. Members found in a store have the grace from now on."""


class LocalAbsence:
    """This process has all connections. `is_here` is as in Presence, `grace` in seconds."""

    def __init__(
        self,
        store: RoomStore,
        is_connected: Callable[[TrueId], bool],
        is_here: Callable[[TrueId], bool],
        end: End,
        monotonic: Callable[[], float],
        grace: float,
    ) -> None:
        self._store = store
        self._is_connected = is_connected
        self._is_here = is_here
        self._end = end
        self._monotonic = monotonic
        self._grace = grace
        #: Members without a connection, and since when, longest first.
        self._absent: dict[TrueId, float] = {}
        #: The memberships whose absent members are in there.
        self._seen: Memberships | None = None

    def on_connected(self, true_id: TrueId) -> None:
        """See Absence.on_connected."""
        self._absent.pop(true_id, None)

    def on_disconnected(self, true_id: TrueId) -> None:
        """See Absence.on_disconnected; if presence has them offline already, they left."""
        if self._store.memberships.rooms_of(true_id):
            self._absent.pop(true_id, None)
            self._absent[true_id] = self._monotonic()
            if not self._is_here(true_id):
                self._finish(true_id)

    def on_added(self, true_id: TrueId) -> None:
        """See Absence.on_added."""
        self._absent.setdefault(true_id, self._monotonic())

    def expire(self) -> None:
        """See Absence.expire."""
        now = self._monotonic()
        memberships = self._store.memberships
        if memberships is not self._seen:
            self._seen = memberships
            for true_id in memberships.players():
                if not self._is_connected(true_id):
                    self._absent.setdefault(true_id, now)
        gone = []
        for true_id, since in self._absent.items():
            if since > now - self._grace:
                break
            gone.append(true_id)
        for true_id in gone:
            self._finish(true_id)

    def _finish(self, true_id: TrueId) -> None:
        since = self._absent.pop(true_id)

        def done(ended: bool) -> None:
            if not ended and not self._is_connected(true_id):
                # The store is away: the next sweep tries again.
                self._absent.setdefault(true_id, since)

        self._end(true_id, done)


class SharedAbsence:
    """Other nodes have connections, too: `presence` counts the grace, and knows who is gone.

    Each node sees to a share of the players. Members who were found in the store, or are put into
    a room while they are nowhere, are made known to `presence`.
    """

    def __init__(
        self,
        store: RoomStore,
        presence: PresenceStore,
        is_connected: Callable[[TrueId], bool],
        end: End,
    ) -> None:
        self._store = store
        self._presence = presence
        self._is_connected = is_connected
        self._end = end
        #: Whose memberships are being ended.
        self._ending: set[TrueId] = set()
        #: Members who are not known to be expected.
        self._unexpected: set[TrueId] = set()
        self._seen: Memberships | None = None
        self._share: Hashable = None

    def on_connected(self, true_id: TrueId) -> None:
        """See Absence.on_connected: presence knows."""

    def on_disconnected(self, true_id: TrueId) -> None:
        """See Absence.on_disconnected: presence knows."""

    def on_added(self, true_id: TrueId) -> None:
        """See Absence.on_added."""
        self._unexpected.add(true_id)
        self._expect()

    def expire(self) -> None:
        """See Absence.expire."""
        self._presence.sweep()
        memberships = self._store.memberships
        if memberships is not self._seen or self._presence.share != self._share:
            self._seen, self._share = memberships, self._presence.share
            self._unexpected.update(
                true_id
                for true_id in memberships.players()
                if self._presence.sees_to(true_id) and not self._is_connected(true_id)
            )
        self._expect()

    def _expect(self) -> None:
        unexpected, self._unexpected = self._unexpected, set()

        def done(true_ids: Sequence[TrueId], found: dict[TrueId, Found] | StoreUnavailable) -> None:
            if isinstance(found, StoreUnavailable):
                self._unexpected.update(true_ids)

        if unexpected:
            self._presence.expect(unexpected, done)

    def on_gone(self, true_id: TrueId) -> None:
        """A player is offline, on all nodes."""
        if true_id in self._ending or self._is_connected(true_id):
            return
        self._ending.add(true_id)

        def done(ended: bool) -> None:
            self._ending.discard(true_id)
            if ended:
                self._presence.ended(true_id)

        self._end(true_id, done)
