"""Requests from node to node: what is taken, and what is not."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.internal_requests import WINDOW, InternalRequests, InvalidRequest

KEY, OTHER_KEY = "k" * 32, "o" * 32
TARGET = "/socket.io/?sid=bbbbbbbb.x"


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def pair(clock: Clock | None = None) -> tuple[InternalRequests, InternalRequests]:
    clock = clock or Clock()
    return InternalRequests("aaaaaaaa", [KEY], clock), InternalRequests("bbbbbbbb", [KEY], clock)


def take(
    node: InternalRequests,
    headers: Mapping[str, str],
    method: str = "POST",
    target: str = TARGET,
    body: bytes = b"4x",
) -> None:
    node.check(method, target, headers)
    node.check_body(headers, body)


def test_what_a_node_signs_is_taken() -> None:
    ann, bob = pair()
    for _ in range(3):
        take(bob, ann.sign("bbbbbbbb", "POST", TARGET, b"4x"))


@pytest.mark.parametrize(
    "changed",
    [{"method": "GET"}, {"target": TARGET + "y"}, {"body": b"4y"}],
    ids=lambda changed: next(iter(changed)),
)
def test_another_request_than_was_signed_is_refused(changed: dict[str, str]) -> None:
    ann, bob = pair()
    headers = ann.sign("bbbbbbbb", "POST", TARGET, b"4x")
    with pytest.raises(InvalidRequest):
        take(bob, headers, **changed)  # type: ignore[arg-type]


@given(st.sampled_from(sorted(pair()[0].sign("b", "GET", "/", b""))), st.text(max_size=80))
def test_a_header_that_was_changed_is_refused(name: str, value: str) -> None:
    ann, bob = pair()
    headers = ann.sign("bbbbbbbb", "POST", TARGET, b"4x")
    if headers[name] != value:
        with pytest.raises(InvalidRequest):
            take(bob, {**headers, name: value})
    del headers[name]
    with pytest.raises(InvalidRequest):
        take(bob, headers)


def test_a_request_is_taken_once() -> None:
    ann, bob = pair()
    headers = ann.sign("bbbbbbbb", "POST", TARGET, b"4x")
    take(bob, headers)
    with pytest.raises(InvalidRequest, match="has come before"):
        take(bob, headers)


@given(st.lists(st.integers(0, 59), max_size=200))
def test_each_of_many_is_taken_once_in_any_order(order: list[int]) -> None:
    ann, bob = pair()
    requests = [ann.sign("bbbbbbbb", "POST", TARGET, b"4x") for _ in range(60)]
    seen: set[int] = set()
    for index in order:
        if index in seen:
            with pytest.raises(InvalidRequest):
                take(bob, requests[index])
        else:
            take(bob, requests[index])
        seen.add(index)


def test_one_that_thousands_have_overtaken_is_refused() -> None:
    ann, bob = pair()
    early = ann.sign("bbbbbbbb", "POST", TARGET, b"4x")
    for _ in range(5000):
        late = ann.sign("bbbbbbbb", "POST", TARGET, b"4x")
    take(bob, late)
    with pytest.raises(InvalidRequest):
        take(bob, early)


def test_a_request_for_another_node_is_refused() -> None:
    ann, bob = pair()
    with pytest.raises(InvalidRequest, match="another node"):
        take(bob, ann.sign("cccccccc", "POST", TARGET, b"4x"))


@pytest.mark.parametrize("late", [WINDOW + 2, -WINDOW - 2])
def test_a_request_of_another_time_is_refused(late: float) -> None:
    clock, other = Clock(), Clock()
    ann = InternalRequests("aaaaaaaa", [KEY], clock)
    bob = InternalRequests("bbbbbbbb", [KEY], other)
    headers = ann.sign("bbbbbbbb", "POST", TARGET, b"4x")
    other.now += late
    with pytest.raises(InvalidRequest, match="clocks"):
        take(bob, headers)


def test_a_sender_that_was_forgotten_cannot_be_repeated() -> None:
    clock = Clock()
    ann, bob = pair(clock)
    headers = ann.sign("bbbbbbbb", "POST", TARGET, b"4x")
    take(bob, headers)
    clock.now += 3 * WINDOW
    # A new sender has the old ones forgotten.
    take(bob, InternalRequests("cccccccc", [KEY], clock).sign("bbbbbbbb", "POST", TARGET, b"4x"))
    with pytest.raises(InvalidRequest):
        take(bob, headers)
    take(bob, ann.sign("bbbbbbbb", "POST", TARGET, b"4x"))


def test_keys_can_be_replaced_one_after_the_other() -> None:
    ann, bob = pair()
    bob.reconfigure([KEY, OTHER_KEY])
    take(bob, ann.sign("bbbbbbbb", "POST", TARGET, b"4x"))
    ann.reconfigure([OTHER_KEY, KEY])
    take(bob, ann.sign("bbbbbbbb", "POST", TARGET, b"4x"))
    bob.reconfigure([KEY])
    with pytest.raises(InvalidRequest, match="not signed"):
        take(bob, ann.sign("bbbbbbbb", "POST", TARGET, b"4x"))


def test_the_key_that_signs_tokens_signs_no_requests() -> None:
    ann, bob = pair()
    headers = ann.sign("bbbbbbbb", "POST", TARGET, b"4x")
    bob._keys = [KEY.encode()]
    with pytest.raises(InvalidRequest):
        take(bob, headers)
