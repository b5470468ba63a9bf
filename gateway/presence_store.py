"""What several nodes keep of players' presence in the store that they share.

Each node says of a player which tabs it has. The store puts together what all of them say, tells
the nodes that watch the player when that is another thing than before, and counts the grace of
those whom no node has any more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from gateway.errors import StoreUnavailable
from gateway.messages import PresenceState, SessionId, TrueId


class Tab(msgspec.Struct, frozen=True, array_like=True):
    """A session of a player, and whether it has a connection or had one a moment ago.

    It is `new` while its page has said nothing: then it is what another node, or the same one
    before, has said of it, else active.
    """

    session_id: SessionId
    state: Literal["active", "hidden", "new"]
    connected: bool


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """What one node says of a player. `named` and `stated` are when name and status were told."""

    name: str
    named: float
    status: str | None
    stated: float
    tabs: Sequence[Tab]


class Seen(msgspec.Struct, frozen=True):
    """What all nodes together say of a player who is not offline; `since` is in Unix seconds."""

    state: PresenceState
    connections: int
    since: float
    name: str
    status: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """What this node says of a player from the time `at` on: with None, that they are not here.

    They have `left` if they are not to come back.
    """

    true_id: TrueId
    entry: Entry | None
    at: float
    left: bool


@dataclass(frozen=True, slots=True)
class Found:
    """How a player is: None for offline. Of two, that with the higher version is newer."""

    version: int
    seen: Seen | None
    #: Tabs that were new to this node and are hidden.
    adopted: Sequence[SessionId] = ()


FoundDone = Callable[[Sequence[TrueId], dict[TrueId, Found] | StoreUnavailable], None]
PlayersDone = Callable[[tuple[Sequence[tuple[TrueId, Seen]], str | None] | StoreUnavailable], None]


class PresenceListener(Protocol):
    """What the store tells of presence. Nothing here blocks or raises."""

    def on_seen(self, true_id: TrueId, found: Found, at: float) -> None:
        """Another node has changed how a player is that this one watches."""

    def on_dropped(self, true_id: TrueId) -> None:
        """The others took this node for dead and dropped what it said of a player."""

    def on_restored(self, concerns: Callable[[TrueId], bool], *, complete: bool) -> None:
        """What was published about these players may have been missed.

        If it is not `complete`, the store may also have lost what it was told last.
        """

    def on_gone(self, true_id: TrueId) -> None:
        """A player is offline, and their memberships are to end: see PresenceStore.ended."""


class PresenceStore(Protocol):
    """Keeps presence for all nodes.

    A `done` is called in a later turn of the event loop, for some of the players that were
    asked about at a time, with StoreUnavailable if that is not known.
    """

    @property
    def online(self) -> int:
        """How many players are here, as of a moment ago."""

    @property
    def share(self) -> Hashable:
        """Names the share of all players that this node sees to at the moment."""

    def sees_to(self, true_id: TrueId) -> bool:
        """Tell whether a player is among them."""

    def attach(self, listener: PresenceListener) -> None:
        """Tell this one, from now on; called once, before all else."""

    def write(self, changes: Collection[Change], done: FoundDone) -> None:
        """Keep what this node says of players; tell `done` how they are then."""

    def watch(self, true_ids: Collection[TrueId], done: FoundDone) -> None:
        """Tell `done` how players are; from then on the listener hears of changes by others."""

    def unwatch(self, true_ids: Collection[TrueId]) -> None:
        """Hear of these players no more; that may fail, and is to be asked again then."""

    def look(self, true_ids: Collection[TrueId], done: FoundDone) -> None:
        """Tell `done` how players are."""

    def page(self, cursor: str | None, limit: int, done: PlayersDone) -> None:
        """Tell `done` players that are here or away, and the next cursor, None on the last page.

        Raises RequestRefused for a cursor that is not ours.
        """

    def expect(self, true_ids: Collection[TrueId], done: FoundDone) -> None:
        """Let those of these players whom no node has be gone after the grace."""

    def ended(self, true_id: TrueId) -> None:
        """The memberships of a player who is gone have ended; until then it is told again."""

    def sweep(self) -> None:
        """Look for who is gone, and clean up after nodes that died; to be called every second.

        A node sees to its share of all players.
        """
