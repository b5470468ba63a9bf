"""A node's copy of the memberships: what was missed is noticed, and loaded."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.messages import TrueId
from gateway.stores.redis.mirror import Change, Mirror, Snapshot

ROOMS = ["red", "blue"]
PLAYERS = [TrueId("ann"), TrueId("bob"), TrueId("eve")]
rooms = st.sampled_from(ROOMS)
players = st.sampled_from(PLAYERS)
Told = tuple[str, TrueId, bool, int]


class Truth:
    """What one partition has."""

    def __init__(self) -> None:
        self.epochs = 1
        self.version = 0
        self.clock = 0
        self.rooms: dict[str, dict[TrueId, int]] = {}

    @property
    def epoch(self) -> bytes:
        return b"e%d" % self.epochs

    def change(self, room: str, true_id: TrueId, joined: bool, by: bytes) -> Change | None:
        members = self.rooms.get(room, {})
        if (true_id in members) == joined:
            return None
        self.version += 1
        self.clock += 1
        number = self.clock
        if joined:
            self.rooms.setdefault(room, members)[true_id] = number
        else:
            del members[true_id]
            if not members:
                del self.rooms[room]
        return Change(self.epoch, self.version, by, joined, room, true_id, number, len(members))

    def snapshot(self) -> Snapshot:
        copy = {room: dict(members) for room, members in self.rooms.items()}
        return Snapshot(self.epoch, self.version, copy)


class Copies(RuleBasedStateMachine):
    """A partition, and the copy of a node that is told of its changes late, or never.

    What the node asks is answered in the order in which it was asked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.truth = Truth()
        self.on_the_way: list[Change] = []
        self.answers: list[Change | Snapshot] = []
        self.asked = 0
        self.ours: set[bytes] = set()
        #: Who is in which room, by what the node was told and answered.
        self.believed: set[tuple[str, TrueId]] = set()
        self.mirror = Mirror(1, self.load, self.answer, self.on_change)
        self.mirror.on_loaded(0, self.truth.snapshot())

    def load(self, partition: int) -> None:
        self.answers.append(self.truth.snapshot())

    def answer(self, change: Change) -> bool:
        if change.by not in self.ours:
            return False
        members = self.mirror.memberships.members_of(change.room)
        assert (change.true_id in members) == change.joined
        self.ours.discard(change.by)
        self.on_change(change.room, change.true_id, change.joined, change.members)
        return True

    def on_change(self, room: str, true_id: TrueId, joined: bool, members: int) -> None:
        if joined:
            self.believed.add((room, true_id))
        else:
            self.believed.discard((room, true_id))

    @rule(room=rooms, true_id=players, joined=st.booleans())
    def another_node_changes(self, room: str, true_id: TrueId, joined: bool) -> None:
        change = self.truth.change(room, true_id, joined, b"other")
        if change is not None:
            self.on_the_way.append(change)

    @rule(room=rooms, true_id=players, joined=st.booleans())
    def this_node_changes(self, room: str, true_id: TrueId, joined: bool) -> None:
        self.asked += 1
        by = b"mine%d" % self.asked
        change = self.truth.change(room, true_id, joined, by)
        if change is not None:
            self.ours.add(by)
            self.on_the_way.append(change)
            self.answers.append(change)

    @rule()
    def the_next_is_told(self) -> None:
        if self.on_the_way:
            self.mirror.on_told(0, self.on_the_way.pop(0))

    @rule()
    def the_next_is_missed(self) -> None:
        if self.on_the_way:
            self.on_the_way.pop(0)

    @rule()
    def the_next_is_answered(self) -> None:
        if not self.answers:
            return
        answer = self.answers.pop(0)
        if isinstance(answer, Snapshot):
            self.mirror.on_loaded(0, answer, self.on_change)
        elif answer.by in self.ours:
            self.mirror.on_answered(0, answer)

    @rule()
    def what_waits_has_waited_long(self) -> None:
        self.mirror.reload_if_waiting(0, self.truth.version)

    @rule()
    def all_is_lost(self) -> None:
        self.truth.epochs += 1
        self.truth.version = 0
        self.truth.rooms = {}
        self.mirror.reload(0)

    @rule()
    def channels_are_heard_again(self) -> None:
        self.on_the_way.clear()
        self.mirror.reload(0)

    @invariant()
    def members_are_sorted_by_partition(self) -> None:
        for room in ROOMS:
            members = self.mirror.memberships.members_of(room)
            targets = self.mirror.targets(room)
            assert targets.players == ({0: tuple(members)} if members else {})
            assert targets.newest == max(members.values(), default=0)

    def teardown(self) -> None:
        """In the end all is heard and answered: the copy is the truth."""
        self.channels_are_heard_again()
        for _ in range(100):
            self.the_next_is_answered()
        assert not self.answers
        assert not self.ours
        copy = {room: dict(self.mirror.memberships.members_of(room)) for room in ROOMS}
        assert {room: members for room, members in copy.items() if members} == self.truth.rooms
        for members in copy.values():
            assert list(members.values()) == sorted(members.values())
        assert self.believed == {(room, each) for room in ROOMS for each in copy[room]}


TestCopies = Copies.TestCase


def change(
    version: int, *, joined: bool = True, by: bytes = b"other", epoch: bytes = b"e"
) -> Change:
    return Change(epoch, version, by, joined, "r", TrueId("ann"), version, int(joined))


def test_an_answer_that_comes_before_an_earlier_change_waits_for_it() -> None:
    loads: list[int] = []
    told: list[object] = []

    def answer(change: Change) -> bool:
        if change.by == b"me":
            told.append(change.version)
        return change.by == b"me"

    mirror = Mirror(1, loads.append, answer, lambda *each: told.append(each))
    mirror.on_loaded(0, Snapshot(b"e", 0, {}))
    assert not mirror.on_answered(0, change(2, joined=False, by=b"me"))
    assert not mirror.on_seen(0, 2, lambda: told.append("seen"))
    assert told == []
    mirror.on_told(0, change(1))
    assert told == [("r", "ann", True, 1)]
    mirror.on_told(0, change(2, joined=False, by=b"me"))
    assert told == [("r", "ann", True, 1), 2, "seen"]
    assert mirror.on_answered(0, change(3, by=b"me"))
    mirror.on_told(0, change(3, by=b"me"))
    assert (told[3:], loads) == ([3], [])
    assert mirror.on_seen(0, 3, lambda: told.append("at once"))
    assert told[4:] == ["at once"]


def test_a_missing_number_makes_the_partition_be_loaded() -> None:
    loads: list[int] = []
    told: list[Told] = []
    mirror = Mirror(2, loads.append, lambda change: False, lambda *each: told.append(each))
    for partition in (0, 1):
        mirror.on_loaded(partition, Snapshot(b"e", 0, {}))
    mirror.on_told(1, change(2, joined=False))
    mirror.on_told(1, change(3))
    assert (loads, told) == ([1], [])
    mirror.on_loaded(1, Snapshot(b"e", 2, {}))
    assert (loads, told, mirror.version(1)) == ([1], [("r", "ann", True, 1)], 3)


def test_what_is_still_said_of_an_epoch_that_is_over_does_not_count() -> None:
    loads: list[int] = []
    mirror = Mirror(1, loads.append, lambda change: False, lambda *each: None)
    mirror.on_loaded(0, Snapshot(b"e", 0, {}))
    mirror.on_told(0, change(1, epoch=b"f"))
    mirror.on_told(0, change(1))
    assert loads == [0]
    mirror.on_loaded(0, Snapshot(b"f", 1, {"r": {TrueId("ann"): 1}}))
    mirror.on_told(0, change(2))
    assert (loads, list(mirror.memberships.members_of("r"))) == ([0], ["ann"])


def test_renewed_memberships_are_another_object_with_the_same_in_it() -> None:
    mirror = Mirror(1, lambda partition: None, lambda change: False, lambda *each: None)
    before = mirror.memberships
    mirror.on_loaded(0, Snapshot(b"e", 1, {"r": {TrueId("ann"): 2, TrueId("bob"): 1}}))
    mirror.renew()
    assert mirror.memberships is not before
    assert dict(mirror.memberships.members_of("r")) == {"bob": 1, "ann": 2}
