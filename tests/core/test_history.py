from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.history import COLUMNS, History
from gateway.metrics import Metrics


class World:
    """A history whose clocks and lag are set by hand."""

    def __init__(self, capacity: int = 4) -> None:
        self.metrics = Metrics()
        self.now = 100.0
        self.lag = 0.0
        self.connections = 0
        self.metrics.gauge("connections", "x", lambda: self.connections)
        self.history = History(
            self.metrics, lambda: self.lag, lambda: self.now + 1000, lambda: self.now, capacity
        )

    def take(self, after: float = 5.0) -> None:
        self.now += after
        self.history.take()


def test_gauges_are_kept_as_they_are_and_counters_by_the_second() -> None:
    world = World()
    world.connections = 7
    world.metrics.messages.message["delivered"] += 10
    world.metrics.messages.publish["queued"] += 5
    world.metrics.resume("new", 0)
    world.metrics.resume("resumed", 3)
    world.metrics.refused_connect("banned")
    world.lag = 0.25
    world.take()
    world.metrics.messages.volatile["delivered"] += 1
    world.lag = 0.0
    world.take(2.0)
    samples = world.history.since(0)
    assert samples.time == [1105.0, 1107.0]
    assert set(samples.columns) == set(COLUMNS)
    shown = {name: values for name, values in samples.columns.items() if any(values)}
    assert shown == {
        "connections": [7, 7],
        "delivered": [2.0, 0.5],
        "queued": [1.0, 0.0],
        "connects": [0.4, 0.0],
        "refused_connects": [0.2, 0.0],
        "event_loop_lag_seconds": [0.25, 0.0],
    }


def test_what_was_counted_before_the_start_is_in_no_sample() -> None:
    metrics = Metrics()
    metrics.messages.message["delivered"] += 1000
    now = iter((1.0, 2.0))
    history = History(metrics, lambda: 0.0, lambda: 0.0, lambda: next(now))
    history.take()
    assert history.since(0).columns["delivered"] == [0.0]


def test_a_clock_that_stands_still_makes_no_sample() -> None:
    world = World()
    world.take(0.0)
    assert (world.history.since(0).seq, world.history.since(0).time) == (0, [])


@pytest.mark.parametrize(
    ("after", "first", "connections"),
    [
        (0, 3, [3, 4, 5, 6]),  # what is older is gone
        (4, 5, [5, 6]),
        (6, 7, []),
        (7, 3, [3, 4, 5, 6]),  # of another run of the gateway
    ],
)
def test_only_new_samples_are_told(after: int, first: int, connections: list[int]) -> None:
    world = World()
    for number in range(1, 7):
        world.connections = number
        world.take()
    samples = world.history.since(after)
    assert (samples.seq, samples.first) == (6, first)
    assert samples.columns["connections"] == connections


@given(st.integers(1, 9), st.lists(st.integers(0, 30), max_size=30))
def test_who_asks_again_and_again_gets_every_sample_once(capacity: int, asks: list[int]) -> None:
    world = World(capacity)
    seen: list[float] = []
    missed = taken = seq = 0
    for count in asks:
        for _ in range(count):
            taken += 1
            world.connections = taken
            world.take()
        samples = world.history.since(seq)
        missed += samples.first - 1 - seq
        seen += samples.columns["connections"]
        assert len(samples.time) == len(samples.columns["connections"]) <= capacity
        seq = samples.seq
    assert len(seen) + missed == taken
    assert seen == sorted(set(seen))
