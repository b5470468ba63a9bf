from __future__ import annotations

from gateway.messages import TrueId
from gateway.rooms_here import RoomsHere

ANN, BOB = TrueId("ann"), TrueId("bob")


def test_a_room_is_shown_whenever_its_number_of_members_here_changes() -> None:
    shown: list[tuple[str, int]] = []
    subject = RoomsHere(lambda *each: shown.append(each))
    for room, true_id in (("a", ANN), ("a", ANN), ("a", BOB), ("b", ANN)):
        subject.add(room, true_id)
    assert shown == [("a", 1), ("a", 2), ("b", 1)]
    for room, true_id in (("a", ANN), ("a", ANN), ("c", ANN), ("a", BOB)):
        subject.discard(room, true_id)
    assert shown[3:] == [("a", 1), ("a", 0)]
    subject.add("a", BOB)
    assert shown[5:] == [("a", 1)]
