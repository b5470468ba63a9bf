"""Conflation: what is kept of volatile values, in which order, within which bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.conflation import Conflation


def drained(subject: Conflation) -> list[bytes]:
    values = []
    while (value := subject.pop()) is not None:
        values.append(value)
    return values


def test_the_latest_of_each_key_is_kept_in_the_order_of_the_last_update() -> None:
    subject = Conflation(0, 0)
    assert [subject.put(key, value) for key, value in (("a", b"1"), ("b", b"2"), ("a", b"3"))] == [
        False,
        False,
        True,
    ]
    assert (len(subject), subject.size) == (2, 2)
    assert drained(subject) == [b"2", b"3"]
    assert (len(subject), subject.size) == (0, 0)


def test_an_empty_value_is_a_value() -> None:
    subject = Conflation(0, 0)
    subject.put("a", b"")
    assert subject.put("a", b"")
    assert drained(subject) == [b""]


@pytest.mark.parametrize(
    ("max_keys", "max_bytes", "limit"), [(2, 0, "state_keys"), (0, 5, "state_bytes")]
)
def test_the_limit_that_is_exceeded_is_named(max_keys: int, max_bytes: int, limit: str) -> None:
    subject = Conflation(max_keys, max_bytes)
    subject.put("a", b"11")
    subject.put("b", b"22")
    assert subject.over() is None
    subject.put("c", b"33")
    assert subject.over() == limit
    assert subject.pop() == b"11"
    assert subject.over() is None


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 12))),
    st.integers(0, 4),
    st.integers(0, 30),
)
def test_conflation_is_the_newest_values_that_fit(
    updates: list[tuple[str, int]], max_keys: int, max_bytes: int
) -> None:
    subject = Conflation(max_keys, max_bytes)
    model: list[tuple[str, bytes]] = []
    for number, (key, size) in enumerate(updates):
        value = bytes([number % 256]) * size
        assert subject.put(key, value) == any(key == kept for kept, _ in model)
        model = [*(entry for entry in model if entry[0] != key), (key, value)]
        popped = []
        while subject.over():
            popped.append(subject.pop())
        expected = []
        while (max_keys and len(model) > max_keys) or (
            max_bytes and sum(len(value) for _, value in model) > max_bytes
        ):
            expected.append(model.pop(0)[1])
        assert popped == expected
        assert (len(subject), subject.size) == (len(model), sum(len(value) for _, value in model))
    assert drained(subject) == [value for _, value in model]
