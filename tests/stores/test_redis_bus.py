"""What nodes tell each other arrives as it was written, and nothing else is taken for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mailbox import StoredMessage
from gateway.messages import SessionId, TrueId
from gateway.stores.redis import bus
from gateway.stores.redis.mirror import Change


@given(st.lists(st.binary(max_size=300)))
def test_fields_are_any_bytes(fields: list[bytes]) -> None:
    assert bus.decode(bus.encode(b"m", *fields)) == (b"m", fields)


@given(st.lists(st.binary(max_size=9), min_size=1))
def test_what_is_cut_off_is_refused(fields: list[bytes]) -> None:
    whole = bus.encode(b"m", *fields)
    ends = {len(bus.encode(b"m", *fields[:count])) for count in range(len(fields))}
    for end in range(len(whole)):
        if end not in ends:
            with pytest.raises(ValueError, match=r"cut off|no kind"):
                bus.decode(whole[:end])


def test_a_message_is_that_of_the_store() -> None:
    for skip in (None, SessionId("s1")):
        fields = [b"ann", b"e1.12.ff", b"1.5", (skip or "").encode(), b'{"a":1}']
        message = StoredMessage(12, b"e1.12.ff", b'{"a":1}', 1.5, skip)
        assert bus.decode_message(fields) == ("ann", message)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [b"ann", b"e1.1.f", b"1.5", b""],
        [b"ann", b"e1.1", b"1.5", b"", b"{}"],
        [b"ann", b"e1.x.f", b"1.5", b"", b"{}"],
        [b"\xff", b"e1.1.f", b"1.5", b"", b"{}"],
    ],
)
def test_what_is_no_message_is_refused(fields: list[bytes]) -> None:
    with pytest.raises(ValueError, match=r"."):
        bus.decode_message(fields)


def test_copies_at_one_place_are_one_message() -> None:
    fields = [b"e1", b"ff", b"1.5", b"{}", b"ann", b"3", b"bob", b"7", b"eve", b"3"]
    assert bus.decode_copies(fields) == [
        (StoredMessage(3, b"e1.3.ff", b"{}", 1.5), ["ann", "eve"]),
        (StoredMessage(7, b"e1.7.ff", b"{}", 1.5), ["bob"]),
    ]
    for wrong in (fields[:3], fields[:-1], [*fields[:4], b"\xff", b"1"], [*fields, b"x", b"y"]):
        with pytest.raises(ValueError, match=r"."):
            bus.decode_copies(wrong)


def test_a_change_of_members_is_what_was_told() -> None:
    fields = [b"e1", b"4", b"node1.7", b"-", "r\u00fc".encode(), b"ann", b"12", b"3"]
    assert bus.decode_membership(fields) == Change(
        b"e1", 4, b"node1.7", False, "r\u00fc", TrueId("ann"), 12, 3
    )
    for wrong in (fields[:-1], [*fields[:7], b"x"]):
        with pytest.raises(ValueError, match=r"."):
            bus.decode_membership(wrong)


def test_an_event_for_a_room_has_a_key_or_none() -> None:
    assert bus.decode_room_volatile([b"r", b"[]"]) == ("r", b"[]", None)
    assert bus.decode_room_volatile([b"r", b"[]", b"ann", b"k"]) == ("r", b"[]", ("ann", "r", "k"))
    assert bus.decode_room_volatile([b"r", b"[]", b"", b""]) == ("r", b"[]", (None, "r", ""))
    for wrong in ([b"r"], [b"r", b"[]", b"ann"], [b"\xff", b"[]"]):
        with pytest.raises(ValueError, match=r"."):
            bus.decode_room_volatile(wrong)
