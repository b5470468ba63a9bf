"""Token buckets: what they let through, and how long they make wait."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.limits import KeyedBuckets, TokenBucket


def test_a_burst_passes_then_the_rate() -> None:
    bucket = TokenBucket(rate=2.0, burst=3.0, now=0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert bucket.take(0.25) == 0.25
    assert bucket.take(0.5) == 0.0
    assert bucket.take(0.5) == 0.5


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    bucket = TokenBucket(rate=1.0, burst=2.0, now=0.0)
    assert [bucket.take(1000.0) for _ in range(3)] == [0.0, 0.0, 1.0]


def test_a_refused_take_costs_nothing() -> None:
    bucket = TokenBucket(rate=1.0, burst=2.0, now=0.0)
    assert bucket.take(0.0, cost=5.0) == 3.0
    assert bucket.take(0.0, cost=2.0) == 0.0


def test_a_peek_takes_nothing() -> None:
    bucket = TokenBucket(rate=1.0, burst=1.0, now=0.0)
    assert [bucket.peek(0.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.take(0.0) == 0.0
    assert bucket.peek(0.0) == 1.0


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_a_rate_of_zero_is_no_limit(rate: float) -> None:
    bucket = TokenBucket(rate, burst=0.0, now=0.0)
    assert [bucket.take(0.0, cost=1000.0) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_a_clock_that_steps_back_does_not_freeze_the_bucket() -> None:
    bucket = TokenBucket(rate=1.0, burst=1.0, now=1000.0)
    assert bucket.take(1000.0) == 0.0
    assert bucket.take(10.0) == 1.0
    assert bucket.take(11.0) == 0.0


steps = st.lists(
    st.tuples(st.floats(0.0, 10.0), st.floats(0.01, 10.0)),
    max_size=40,
)


@given(rate=st.floats(0.1, 100.0), burst=st.floats(1.0, 100.0), steps=steps)
@settings(deadline=None)
def test_no_stretch_of_time_lets_more_through_than_burst_and_rate(
    rate: float, burst: float, steps: list[tuple[float, float]]
) -> None:
    bucket = TokenBucket(rate, burst, now=0.0)
    now = 0.0
    taken: list[tuple[float, float]] = []
    for elapsed, cost in steps:
        now += elapsed
        if bucket.take(now, cost) == 0.0:
            taken.append((now, cost))
    for index, (begin, _) in enumerate(taken):
        total = 0.0
        for end, cost in taken[index:]:
            total += cost
            assert total <= (burst + rate * (end - begin)) * (1 + 1e-9) + 1e-6


@given(rate=st.floats(0.1, 100.0), burst=st.floats(10.0, 100.0), steps=steps)
@settings(deadline=None)
def test_waiting_as_long_as_told_is_enough(
    rate: float, burst: float, steps: list[tuple[float, float]]
) -> None:
    bucket = TokenBucket(rate, burst, now=0.0)
    now = 0.0
    for elapsed, cost in steps:
        now += elapsed
        wait = bucket.peek(now, cost)
        assert wait >= 0.0
        assert (wait == 0.0) == (bucket.peek(now, cost) == 0.0)
        # Rounding may leave a sliver.
        now += wait + 1e-6
        assert bucket.take(now, cost) == 0.0


def test_every_key_has_a_bucket_of_its_own() -> None:
    buckets = KeyedBuckets(rate=1.0, burst=1.0, max_keys=10)
    assert buckets.take("ann", 0.0) == 0.0
    assert buckets.take("bob", 0.0) == 0.0
    assert buckets.take("ann", 0.0) == 1.0
    assert buckets.peek("bob", 0.5) == 0.5


def test_the_key_unused_for_longest_is_forgotten_first() -> None:
    buckets = KeyedBuckets(rate=1.0, burst=1.0, max_keys=2)
    buckets.take("ann", 0.0)
    buckets.take("bob", 0.0)
    assert buckets.take("ann", 0.0) == 1.0  # used again, so bob is the oldest now
    buckets.take("eve", 0.0)
    assert buckets.take("ann", 0.0) == 1.0
    assert buckets.take("bob", 0.0) == 0.0


@given(keys=st.lists(st.integers(0, 9), max_size=60))
@settings(deadline=None)
def test_keyed_buckets_agree_with_single_ones_while_there_is_room(keys: list[int]) -> None:
    buckets = KeyedBuckets(rate=0.5, burst=3.0, max_keys=10)
    single: dict[int, TokenBucket] = {}
    for second, key in enumerate(keys):
        now = float(second)
        bucket = single.setdefault(key, TokenBucket(0.5, 3.0, now))
        assert buckets.peek(key, now) == bucket.peek(now)
        assert buckets.take(key, now) == bucket.take(now)
