"""Pauses between tries, and the circuit breaker: clock and randomness are given."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.circuit import Backoff, Circuit


def backoff(most: float = 60.0, random: float = 1.0) -> Backoff:
    return Backoff(1.0, most, lambda: random)


def test_pauses_double_up_to_a_most() -> None:
    assert [backoff(10.0).pause(failures) for failures in range(1, 7)] == [1, 2, 4, 8, 10, 10]


@given(st.integers(1, 10**9), st.floats(0, 1))
def test_half_of_a_pause_is_random(failures: int, random: float) -> None:
    whole = backoff().pause(failures)
    assert whole / 2 <= backoff(random=random).pause(failures) <= whole <= 60


def test_a_circuit_opens_after_failures_in_a_row() -> None:
    circuit = Circuit(3, backoff())
    for _ in range(2):
        circuit.on_failure(0.0)
    circuit.on_success()
    for _ in range(2):
        circuit.on_failure(0.0)
    assert (circuit.wait(0.0), circuit.is_open) == (0.0, False)
    circuit.on_failure(0.0)
    assert (circuit.wait(0.0), circuit.is_open) == (1.0, True)


def test_one_probe_finds_out_whether_the_peer_is_back() -> None:
    circuit = Circuit(1, backoff())
    circuit.on_failure(0.0)
    assert circuit.wait(0.5) == 0.5
    assert circuit.wait(1.0) == 0.0
    circuit.on_call()
    assert circuit.wait(2.0) is None
    circuit.on_failure(2.0)
    assert circuit.wait(2.0) == 2.0
    circuit.on_call()
    circuit.on_success()
    assert (circuit.wait(4.0), circuit.is_open) == (0.0, False)


def test_a_peer_that_asks_for_rest_gets_it() -> None:
    circuit = Circuit(5, backoff())
    circuit.on_failure(0.0, 30.0)
    assert circuit.wait(10.0) == 20.0


class Circuits(RuleBasedStateMachine):
    """Whatever happens: calls that are out when it opens, late answers, clock jumps."""

    def __init__(self) -> None:
        super().__init__()
        self.circuit = Circuit(3, backoff())
        self.now = 0.0
        self.out = 0

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.circuit.wait(self.now) == 0.0)
    @rule()
    def call(self) -> None:
        self.circuit.on_call()
        self.out += 1

    @precondition(lambda self: self.out)
    @rule()
    def succeed(self) -> None:
        self.out -= 1
        self.circuit.on_success()
        assert self.circuit.wait(self.now) == 0.0

    @precondition(lambda self: self.out)
    @rule(retry_after=st.sampled_from([0.0, 5.0]))
    def fail(self, retry_after: float) -> None:
        self.out -= 1
        self.circuit.on_failure(self.now, retry_after)

    @invariant()
    def it_never_waits_for_good(self) -> None:
        wait = self.circuit.wait(self.now)
        if wait is None:
            assert self.out
        else:
            # It is the difference of two times, which are rounded.
            assert 0.0 <= wait <= 60.0 + 1e-6


TestCircuits = Circuits.TestCase
