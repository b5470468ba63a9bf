"""Who is in which room, as this node knows it: a copy of what all partitions say.

Every change in a partition has a number, one more than the one before, and all nodes are told of
it. A number that is missing means that something was missed: then the partition is loaded again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from gateway.membership import Memberships
from gateway.messages import TrueId
from gateway.stores.redis.keys import partition_of

#: A change that somebody else made: room, player, whether they joined, and the members left.
OnMembership = Callable[[str, TrueId, bool, int], None]

#: Rooms whose members are kept sorted by partition; beyond it they are sorted anew.
_MAX_SORTED: Final = 4096


class Change(msgspec.Struct, frozen=True, gc=False):
    """A player came into a room or left it; `by` says who asked for it."""

    epoch: bytes
    version: int
    by: bytes
    joined: bool
    room: str
    true_id: TrueId
    number: int
    members: int


class Snapshot(msgspec.Struct, frozen=True):
    """All rooms of a partition, with their members' numbers; None if nothing has changed."""

    epoch: bytes
    version: int
    rooms: Mapping[str, Mapping[TrueId, int]] | None


class Targets(msgspec.Struct, frozen=True):
    """The members of a room by their partitions; `newest` is the last one's number."""

    newest: int
    players: Mapping[int, tuple[TrueId, ...]]


class _Waiting(NamedTuple):
    """Somebody waits for all to be in here up to a version."""

    version: int
    then: Callable[[], object]


@dataclass(slots=True)
class _Partition:
    epoch: bytes = b""
    version: int = 0
    #: Nothing counts until it has been loaded: changes wait here.
    loading: bool = True
    #: Something was missed that may not be in what is being loaded.
    again: bool = False
    missed: list[Change] = field(default_factory=list)
    #: So many of them were told before the load was asked for.
    known: int = 0
    rooms: set[str] = field(default_factory=set)
    waiting: list[_Waiting] = field(default_factory=list)
    #: Answers that came before something that was changed earlier.
    early: list[Change] = field(default_factory=list)
    #: Epochs that are over: what is still said of them does not count.
    past: set[bytes] = field(default_factory=set)


class Mirror:
    """The copy. `load` is asked to load a partition; what it finds goes into `on_loaded`.

    Each change is told `answer`, which returns False if it was not asked for here: then
    `on_change` is told. So all is told in the order in which it was changed.
    """

    def __init__(
        self,
        partitions: int,
        load: Callable[[int], None],
        answer: Callable[[Change], bool],
        on_change: OnMembership,
    ) -> None:
        self.memberships = Memberships()
        self._load = load
        self._answer = answer
        self._on_change = on_change
        self._partitions = [_Partition() for _ in range(partitions)]
        self._targets: dict[str, Targets] = {}

    def epoch(self, partition: int) -> bytes:
        """Return the epoch of what is in here of a partition."""
        return self._partitions[partition].epoch

    def version(self, partition: int) -> int:
        """Return the number of the last change in a partition that is in here."""
        return self._partitions[partition].version

    def targets(self, room: str) -> Targets:
        """Return the members of a room by their partitions."""
        targets = self._targets.get(room)
        if targets is None:
            if len(self._targets) >= _MAX_SORTED:
                self._targets.clear()
            members = self.memberships.members_of(room)
            targets = self._targets[room] = sort(members, len(self._partitions))
        return targets

    # What is told

    def on_told(self, partition: int, change: Change) -> None:
        """Take a change as all nodes are told of it, in order."""
        state = self._partitions[partition]
        if change.epoch in state.past:
            return
        if state.loading:
            state.missed.append(change)
        elif change.epoch != state.epoch or change.version > state.version + 1:
            state.missed.append(change)
            self.reload(partition)
        elif change.version == state.version + 1:
            self._apply(state, change)

    def on_answered(self, partition: int, change: Change) -> bool:
        """Take a change from the answer to whoever asked for it.

        Returns False if something that was changed earlier has not been told yet.
        """
        state = self._partitions[partition]
        if not state.loading and change.epoch == state.epoch:
            if change.version == state.version + 1:
                self._apply(state, change)
            if change.version <= state.version:
                return True
        state.early.append(change)
        return False

    def on_seen(self, partition: int, version: int, then: Callable[[], object]) -> bool:
        """Call `then` when all is in here up to this change; return False if that is later."""
        state = self._partitions[partition]
        if not state.loading and version <= state.version:
            then()
            return True
        state.waiting.append(_Waiting(version, then))
        return False

    def _apply(self, state: _Partition, change: Change) -> None:
        state.version = change.version
        self._change(state, change)
        self._settle(state)

    def _change(self, state: _Partition, change: Change) -> None:
        room, true_id = change.room, change.true_id
        self._targets.pop(room, None)
        # A member may be in there with another number, if the partition came back from the past.
        self.memberships.remove(room, true_id)
        if change.joined:
            self.memberships.add(room, true_id, change.number)
            state.rooms.add(room)
        elif not self.memberships.members_of(room):
            state.rooms.discard(room)
        if not self._answer(change):
            self._on_change(room, true_id, change.joined, change.members)

    def _settle(self, state: _Partition) -> None:
        """Go on with what has waited for the change that was just made."""
        if state.early:
            state.early = [each for each in state.early if each.version > state.version]
        if state.waiting:
            ready = [each for each in state.waiting if each.version <= state.version]
            state.waiting = [each for each in state.waiting if each.version > state.version]
            for each in ready:
                each.then()

    # Loading

    def reload(self, partition: int) -> None:
        """Load a partition again: something of it was missed, or may have been."""
        state = self._partitions[partition]
        if state.loading:
            state.again = True
        else:
            state.loading = True
            state.known = len(state.missed)
            self._load(partition)

    def reload_if_waiting(self, partition: int, version: int) -> None:
        """Load a partition again if this change has still not come."""
        state = self._partitions[partition]
        waiting = [each.version for each in state.waiting] + [each.version for each in state.early]
        if any(each <= version for each in waiting):
            self.reload(partition)

    def on_loaded(
        self, partition: int, snapshot: Snapshot, tell: OnMembership | None = None
    ) -> None:
        """Take all of a partition; `tell` is told what is new in it."""
        state = self._partitions[partition]
        state.loading = False
        early, state.early = state.early, []
        for each in early:
            # What was answered has been so: others may have undone it since.
            self._change(state, each)
        if snapshot.epoch != state.epoch:
            state.past.add(state.epoch)
        state.epoch, state.version = snapshot.epoch, snapshot.version
        if snapshot.rooms is not None:
            news = self._replace(state, snapshot.rooms)
            if tell is not None:
                for one in news:
                    tell(*one)
        missed, state.missed = state.missed, []
        for place, change in enumerate(missed):
            # An epoch that was told of before the load, and is not the one loaded, is over.
            if change.epoch == state.epoch or place >= state.known:
                self.on_told(partition, change)
        waiting, state.waiting = state.waiting, []
        for waiter in waiting:
            waiter.then()
        if state.again:
            state.again = False
            self.reload(partition)

    def _replace(
        self, state: _Partition, rooms: Mapping[str, Mapping[TrueId, int]]
    ) -> list[tuple[str, TrueId, bool, int]]:
        """Let a partition have these rooms, and return what has changed: see OnMembership."""
        changes: list[tuple[str, TrueId, bool, int]] = []
        for room in state.rooms | rooms.keys():
            before = dict(self.memberships.members_of(room))
            after = rooms.get(room, {})
            if before == after:
                continue
            self._targets.pop(room, None)
            self.memberships.replace(room, after)
            count = len(after)
            changes += ((room, each, False, count) for each in before.keys() - after.keys())
            changes += ((room, each, True, count) for each in after.keys() - before.keys())
        state.rooms = set(rooms)
        return changes

    def renew(self) -> None:
        """Make `memberships` another object, with the same in it."""
        fresh = Memberships()
        for state in self._partitions:
            for room in state.rooms:
                fresh.replace(room, self.memberships.members_of(room))
        self.memberships = fresh


def sort(members: Mapping[TrueId, int], partitions: int) -> Targets:
    """Return members with their numbers by their partitions."""
    players: dict[int, list[TrueId]] = {}
    for true_id in members:
        players.setdefault(partition_of(true_id, partitions), []).append(true_id)
    return Targets(
        max(members.values(), default=0),
        {partition: tuple(true_ids) for partition, true_ids in players.items()},
    )
