"""What this node says of its players to the other nodes: the latest of each, written together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from gateway.errors import StoreUnavailable
from gateway.messages import TrueId
from gateway.presence import Presence
from gateway.presence_store import Change, Found, PresenceStore

#: How long changes are collected, and how long it takes until what failed is tried again, in
#: seconds.
_COLLECT: Final = 0.02
_RETRY: Final = 1.0
#: Players that are being written at a time.
_WRITING: Final = 1000


class Timer(Protocol):
    """A callback to come."""

    def cancel(self) -> None:
        """Do not call back."""


CallLater = Callable[[float, Callable[[], None]], Timer]


class PresenceWriter:
    """Writes what `presence` has of players who have changed.

    `settle` is how long that keeps a tab which was lost, `grace` how long a player is away then,
    both in seconds. `on_written` is told what was written, and how these players are.
    """

    def __init__(
        self,
        presence: Presence,
        store: PresenceStore,
        grace: float,
        settle: float,
        clock: Callable[[], float],
        call_later: CallLater,
        on_written: Callable[[dict[TrueId, Change], dict[TrueId, Found]], None],
    ) -> None:
        self._presence = presence
        self._store = store
        self._settle = settle
        self._no_grace = grace <= settle
        self._clock = clock
        self._call_later = call_later
        self._on_written = on_written
        #: What is to be written: since when, and whether they have left.
        self._dirty: dict[TrueId, tuple[float, bool]] = {}
        self._writing: set[TrueId] = set()
        self._timer: Timer | None = None
        self._stopped = False

    @property
    def busy(self) -> bool:
        """Whether anything is yet to be written."""
        return bool(self._dirty or self._writing)

    def stop(self) -> None:
        """Write nothing any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def say(self, true_id: TrueId, *, left: bool = False) -> None:
        """Write how a player is now; if they are not here any more, they may have `left`."""
        now = self._clock()
        if self._presence.is_here(true_id):
            self._dirty[true_id] = (now, False)
        elif left:
            self._dirty[true_id] = (now, True)
        else:
            # Since they were lost they had the time to settle.
            self._dirty[true_id] = (now - self._settle, self._no_grace)
        self._arm(_COLLECT)

    def say_all(self, true_ids: Iterable[TrueId]) -> None:
        """Write again how these players are, all of whom are here."""
        now = self._clock()
        for true_id in true_ids:
            self._dirty.setdefault(true_id, (now, False))
        self._arm(_COLLECT)

    def _arm(self, seconds: float) -> None:
        if self._timer is None and not self._stopped:
            self._timer = self._call_later(seconds, self._write)

    def _write(self) -> None:
        self._timer = None
        changes: dict[TrueId, Change] = {}
        for true_id, (at, left) in self._dirty.items():
            if len(self._writing) >= _WRITING:
                break
            # One at a time of a player: an answer may be lost, and the next one is then newer.
            if true_id not in self._writing:
                self._writing.add(true_id)
                changes[true_id] = Change(true_id, self._presence.entry(true_id), at, left)
        for true_id in changes:
            del self._dirty[true_id]

        def done(true_ids: Sequence[TrueId], found: dict[TrueId, Found] | StoreUnavailable) -> None:
            self._writing.difference_update(true_ids)
            if isinstance(found, StoreUnavailable):
                for true_id in true_ids:
                    change = changes[true_id]
                    self._dirty.setdefault(true_id, (change.at, change.left))
                self._arm(_RETRY)
                return
            self._on_written(changes, found)
            if self._dirty:
                self._arm(_COLLECT)

        if changes:
            self._store.write(tuple(changes.values()), done)
