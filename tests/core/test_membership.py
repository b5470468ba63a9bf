from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.membership import Memberships, RoomLimitReached, RoomLimits
from gateway.messages import TrueId

ANN, BOB, EVE = TrueId("ann"), TrueId("bob"), TrueId("eve")


def test_members_and_rooms_keep_the_order_of_joining() -> None:
    subject = Memberships()
    for room, true_id in (("b", EVE), ("a", ANN), ("b", ANN), ("b", BOB)):
        subject.add(room, true_id)
    assert list(subject.members_of("b")) == [EVE, ANN, BOB]
    assert subject.rooms_of(ANN) == ("a", "b")
    assert (len(subject), subject.count) == (2, 4)
    assert list(subject.players()) == [EVE, ANN, BOB]


def test_the_largest_rooms_come_first_and_of_equal_ones_the_first_by_name() -> None:
    subject = Memberships()
    for room, true_id in (("d", ANN), ("b", ANN), ("b", BOB), ("a", ANN), ("c", BOB), ("c", ANN)):
        subject.add(room, true_id)
    assert subject.largest(3) == [("b", 2), ("c", 2), ("a", 1)]
    assert subject.largest(9) == [*subject.largest(3), ("d", 1)]
    assert subject.largest(0) == []


def test_a_room_without_members_is_none() -> None:
    subject = Memberships()
    assert dict(subject.members_of("a")) == {}
    assert subject.rooms_of(ANN) == ()
    assert not subject.remove("a", ANN)
    subject.add("a", ANN)
    assert not subject.remove("a", BOB)
    assert subject.remove("a", ANN)
    assert (len(subject), subject.count, list(subject.players())) == (0, 0, [])


def test_pages_go_on_where_the_last_one_ended() -> None:
    subject = Memberships()
    for true_id in (ANN, BOB, EVE):
        subject.add("a", true_id)
    page, cursor = subject.page("a", 0, 2)
    assert page == [ANN, BOB]
    assert cursor is not None
    subject.remove("a", ANN)
    subject.add("a", ANN)
    assert subject.page("a", cursor, 2) == ([EVE, ANN], None)
    assert subject.page("b", 0, 2) == ([], None)


def test_limits_are_named() -> None:
    subject = Memberships()
    limits = RoomLimits(max_members=1, per_player=2, rooms=2)
    for room in ("a", "b"):
        subject.check(room, ANN, limits)
        subject.add(room, ANN)
    for room, true_id, limit in (
        ("c", ANN, "rooms.per_player"),
        ("a", BOB, "rooms.max_members"),
        ("c", BOB, "rooms.rooms"),
    ):
        with pytest.raises(RoomLimitReached) as caught:
            subject.check(room, true_id, limits)
        assert caught.value.limit == limit
        subject.check(room, true_id, RoomLimits())


steps = st.tuples(st.booleans(), st.sampled_from("abc"), st.sampled_from([ANN, BOB, EVE]))


@given(st.lists(steps), st.integers(1, 3))
@settings(deadline=None)
def test_both_ways_and_all_pages_say_the_same(
    changes: list[tuple[bool, str, TrueId]], limit: int
) -> None:
    subject = Memberships()
    model: dict[str, list[TrueId]] = {room: [] for room in "abc"}
    for joins, room, true_id in changes:
        if not joins:
            assert subject.remove(room, true_id) == (true_id in model[room])
            model[room] = [each for each in model[room] if each != true_id]
        elif true_id not in model[room]:
            subject.add(room, true_id)
            model[room].append(true_id)
        copy = Memberships()
        for name, members in model.items():
            assert list(subject.members_of(name)) == members
            for each, number in subject.members_of(name).items():
                copy.add(name, each, number)
            found: list[TrueId] = []
            cursor: int | None = 0
            while cursor is not None:
                page, cursor = copy.page(name, cursor, limit)
                assert 0 < len(page) <= limit or not members
                found += page
            assert found == members
        for each in (ANN, BOB, EVE):
            assert set(subject.rooms_of(each)) == {name for name in model if each in model[name]}
    assert subject.count == sum(map(len, model.values()))
    assert len(subject) == sum(map(bool, model.values()))


def test_replaced_members_are_in_the_order_of_their_numbers() -> None:
    subject = Memberships()
    for room, true_id in (("a", ANN), ("b", ANN), ("a", BOB)):
        subject.add(room, true_id)
    numbers = {EVE: 9, ANN: 1, TrueId("dan"): 4}
    subject.replace("a", numbers)
    assert list(subject.members_of("a").items()) == [(ANN, 1), ("dan", 4), (EVE, 9)]
    assert (subject.rooms_of(ANN), subject.rooms_of(BOB)) == (("a", "b"), ())
    assert subject.count == 4
    assert subject.add("b", BOB) == 10
    subject.replace("a", {})
    assert (len(subject), subject.rooms_of(EVE), subject.count) == (1, (), 2)
