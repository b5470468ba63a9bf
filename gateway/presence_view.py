"""How players are, whatever node they are connected to: what watchers and listings see.

Answers come through a `done`, which gets StoreUnavailable when nobody can say. In one process
they come before the call returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from gateway.errors import RequestRefused, StoreUnavailable
from gateway.messages import TrueId
from gateway.presence import Presence

#: A player's presence as PROTOCOL 1.4 has it.
Payload: TypeAlias = dict[str, object]


@dataclass(frozen=True, slots=True)
class Page:
    """Players that are here or away, how many are here in all, and where to go on."""

    players: Sequence[Payload]
    online: int
    cursor: str | None


LookDone = Callable[[dict[TrueId, Payload] | StoreUnavailable], None]
PageDone = Callable[[Page | StoreUnavailable], None]
#: Told who has changed, and when by Unix time.
OnChanged = Callable[[TrueId, float], None]


class PresenceView(Protocol):
    """Presence over all nodes."""

    @property
    def online(self) -> int:
        """How many players have a connection, or had one a moment ago."""

    def on_connected(self, true_id: TrueId, *, changed: bool) -> None:
        """A player has a connection at this node; `changed` says whether presence here has."""

    def on_changed(self, true_id: TrueId, *, left: bool = False) -> None:
        """A player's presence at this node is another one; see Presence.on_disconnected."""

    def get(self, true_id: TrueId) -> Payload:
        """Return the latest that is known of a player who is watched."""

    def look(self, true_ids: Sequence[TrueId], done: LookDone) -> None:
        """Tell `done` how these players are."""

    def watch(self, true_ids: Sequence[TrueId], done: LookDone) -> None:
        """Tell `done` how these players are; from then on hear of their changes."""

    def unwatch(self, true_ids: Iterable[TrueId]) -> None:
        """Nobody here has to hear of these players any more."""

    def stop(self) -> None:
        """The gateway ends."""

    def page(self, cursor: str | None, limit: int, done: PageDone) -> None:
        """Tell `done` a page of players, without a cursor the first.

        Raises RequestRefused for a cursor that is not ours.
        """


class LocalView:
    """This process is all there is. `on_changed` is told of whoever changes."""

    def __init__(
        self, presence: Presence, clock: Callable[[], float], on_changed: OnChanged
    ) -> None:
        self._presence = presence
        self._clock = clock
        self._on_changed = on_changed

    @property
    def online(self) -> int:
        """See PresenceView.online."""
        return self._presence.online

    def on_connected(self, true_id: TrueId, *, changed: bool) -> None:
        """See PresenceView.on_connected."""
        if changed:
            self._on_changed(true_id, self._clock())

    def on_changed(self, true_id: TrueId, *, left: bool = False) -> None:
        """See PresenceView.on_changed."""
        self._on_changed(true_id, self._clock())

    def get(self, true_id: TrueId) -> Payload:
        """See PresenceView.get."""
        return self._presence.get(true_id)

    def look(self, true_ids: Sequence[TrueId], done: LookDone) -> None:
        """See PresenceView.look."""
        done({true_id: self._presence.get(true_id) for true_id in true_ids})

    def watch(self, true_ids: Sequence[TrueId], done: LookDone) -> None:
        """See PresenceView.watch."""
        self.look(true_ids, done)

    def unwatch(self, true_ids: Iterable[TrueId]) -> None:
        """See PresenceView.unwatch."""

    def stop(self) -> None:
        """See PresenceView.stop."""

    def page(self, cursor: str | None, limit: int, done: PageDone) -> None:
        """See PresenceView.page: in the order in which they came."""
        if cursor and not (cursor.isascii() and cursor.isdigit()):
            raise bad_cursor()
        players, following = self._presence.page(int(cursor or 0), limit)
        done(Page(players, self.online, None if following is None else str(following)))


def bad_cursor() -> RequestRefused:
    """Return what is told to who brings a cursor that we gave nobody."""
    return RequestRefused("bad_request", "cursor is not one of ours", "cursor")
