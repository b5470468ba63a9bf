"""What nodes tell each other arrives as it was written, and nothing else is taken for it."""

from __future__ import annotations

import math
import struct

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


def text_of(true_id: bytes, message: StoredMessage) -> bytes:
    """Return what lua/_message.lua writes: test_redis_store.py compares it with a real one."""
    epoch, offset, nonce = message.id.split(b".")
    skip = (message.skip or "").encode()
    sizes = (len(true_id), len(epoch), len(skip), len(message.body))
    numbers = struct.pack(">3HI3d", *sizes, int(offset), int(nonce, 16), message.ts)
    return numbers + true_id + epoch + skip + message.body


MESSAGES = [
    (TrueId("ann"), StoredMessage(12, b"e1.12.ff", b'{"a":1}', 1.5, SessionId("s1"))),
    (TrueId("b\u00f6b"), StoredMessage(2**52, b"e2.%d.0" % 2**52, b"[]", 1.25)),
]
WHOLE = bus.MESSAGE + b"".join(text_of(name.encode(), message) for name, message in MESSAGES)


def test_messages_are_those_of_the_store() -> None:
    assert bus.decode_messages(WHOLE) == MESSAGES


def test_messages_that_are_cut_off_are_refused() -> None:
    whole = len(bus.MESSAGE + text_of(b"ann", MESSAGES[0][1]))
    for end in range(len(WHOLE)):
        if end != whole:
            with pytest.raises(ValueError, match=r"cut off|no message"):
                bus.decode_messages(WHOLE[:end])


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_what_is_no_message_is_refused(number: float) -> None:
    for numbers in ((number, 1.0, 1.0), (1.0, number, 1.0)):
        with pytest.raises(ValueError, match=r"."):
            bus.decode_messages(b"m" + struct.pack(">3HI3d", 0, 0, 0, 0, *numbers))
    with pytest.raises(ValueError, match=r"."):
        bus.decode_messages(b"m" + text_of(b"\xff", MESSAGES[0][1]))


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
