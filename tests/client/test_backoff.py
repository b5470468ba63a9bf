"""Waits between tries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.backoff import Backoff

FRACTIONS = st.floats(0, 1, exclude_max=True)


@given(st.floats(0.001, 10), st.floats(1, 1000), st.lists(FRACTIONS, min_size=1, max_size=2000))
def test_waits_double_up_to_the_maximum_and_half_of_each_is_chance(
    delay: float, times: float, chances: list[float]
) -> None:
    upcoming = iter(chances)
    backoff = Backoff(delay, delay * times, lambda: next(upcoming))
    full = delay
    for chance in chances:
        expected = full / 2 + chance * full / 2
        assert backoff.next() == pytest.approx(expected)
        full = min(full * 2, delay * times)


def test_a_good_connection_is_a_new_start() -> None:
    backoff = Backoff(1, 60, lambda: 0.0)
    assert [backoff.next() for _ in range(3)] == [0.5, 1, 2]
    backoff.reset()
    assert backoff.next() == 0.5


@given(st.floats(0, 1e6), FRACTIONS)
def test_what_the_gateway_asks_for_is_never_cut_short(seconds: float, chance: float) -> None:
    assert seconds <= Backoff(1, 2, lambda: chance).spread(seconds) <= seconds * 1.2


@pytest.mark.parametrize(("delay", "delay_max"), [(0, 1), (-1, 1), (2, 1)])
def test_impossible_waits_are_refused(delay: float, delay_max: float) -> None:
    with pytest.raises(ValueError, match="delay"):
        Backoff(delay, delay_max)
