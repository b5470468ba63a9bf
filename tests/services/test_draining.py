"""Draining: the order of the returns. How connections are closed is in test_server.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.draining import FIRST, places


def test_so_many_are_asked_to_come_back_per_second() -> None:
    found = places(2000, per_second=500, grace=10)
    returns = sorted(place.reconnect_in for place in found)
    assert returns[0] == pytest.approx(FIRST + 1 / 500)
    assert returns[-1] == pytest.approx(FIRST + 2000 / 500)
    for second in range(1, 5):
        assert sum(second < each <= second + 1 for each in returns) == pytest.approx(500, abs=1)


def test_who_stays_is_closed_when_they_should_be_back() -> None:
    for place in places(100, per_second=50, grace=10):
        assert place.close_in == pytest.approx(place.reconnect_in, abs=0.001)


def test_more_than_the_grace_has_room_for_are_closed_faster_and_come_back_as_slowly() -> None:
    found = places(20_000, per_second=500, grace=10)
    assert found[-1].reconnect_in == FIRST + 40
    assert found[-1].close_in == 10
    assert found[9_999].close_in == pytest.approx(FIRST + 4.5)


def test_without_a_rate_all_come_back_at_once() -> None:
    assert {place.reconnect_in for place in places(5, per_second=0, grace=10)} == {FIRST}


def test_nobody_is_nobody() -> None:
    assert places(0, per_second=500, grace=10) == []


@given(
    count=st.integers(0, 500),
    per_second=st.floats(0.001, 1e6) | st.just(0.0),
    grace=st.floats(0.001, 1e5),
)
def test_all_are_closed_in_order_and_within_the_grace(
    count: int, per_second: float, grace: float
) -> None:
    found = places(count, per_second, grace)
    assert len(found) == count
    closes = [place.close_in for place in found]
    returns = [place.reconnect_in for place in found]
    assert closes == sorted(closes)
    assert returns == sorted(returns)
    assert all(0 <= each <= grace for each in closes)
    assert all(each >= FIRST for each in returns)
