"""The registry against a model: players and their connections, both ways."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.messages import ConnectionId, TrueId
from gateway.registry import Registry

ANN, BOB = TrueId("ann"), TrueId("bob")


@dataclass(frozen=True)
class Entry:
    id: ConnectionId
    true_id: TrueId


def entry(number: int, true_id: TrueId = ANN) -> Entry:
    return Entry(ConnectionId(number), true_id)


def test_a_player_has_many_connections_oldest_first() -> None:
    registry: Registry[Entry] = Registry()
    for number in (3, 1, 2):
        registry.add(entry(number))
    assert [each.id for each in registry.connections_of(ANN)] == [3, 1, 2]
    assert registry.connection(ConnectionId(1)) == entry(1)
    assert (len(registry), registry.players) == (3, 1)


def test_a_connection_is_entered_once() -> None:
    registry: Registry[Entry] = Registry()
    registry.add(entry(1))
    with pytest.raises(ValueError, match="1 is registered already"):
        registry.add(entry(1, BOB))
    assert not registry.connections_of(BOB)


def test_the_late_close_of_an_old_connection_leaves_the_newcomer_alone() -> None:
    registry: Registry[Entry] = Registry()
    registry.add(entry(1))
    registry.add(entry(2))
    assert registry.remove(ConnectionId(1))
    assert not registry.remove(ConnectionId(1))
    assert list(registry.connections_of(ANN)) == [entry(2)]


def test_nobody_has_no_connections() -> None:
    registry: Registry[Entry] = Registry()
    assert not registry.connections_of(ANN)
    assert registry.connection(ConnectionId(1)) is None
    assert (len(registry), registry.players, list(registry)) == (0, 0, [])


def test_connections_may_go_while_all_are_gone_through() -> None:
    registry: Registry[Entry] = Registry()
    for number in range(3):
        registry.add(entry(number))
    for each in registry:
        registry.remove(each.id)
    assert len(registry) == 0


class RegistryAgainstModel(RuleBasedStateMachine):
    """The model is the list of entries in the order in which they came."""

    def __init__(self) -> None:
        super().__init__()
        self.registry: Registry[Entry] = Registry()
        self.entries: list[Entry] = []

    @rule(number=st.integers(0, 9), true_id=st.sampled_from([ANN, BOB, TrueId("eve")]))
    def add(self, number: int, true_id: TrueId) -> None:
        new = entry(number, true_id)
        if any(each.id == new.id for each in self.entries):
            with pytest.raises(ValueError, match="registered already"):
                self.registry.add(new)
        else:
            self.registry.add(new)
            self.entries.append(new)

    @rule(number=st.integers(0, 9))
    def remove(self, number: int) -> None:
        known = [each for each in self.entries if each.id == number]
        assert self.registry.remove(ConnectionId(number)) == bool(known)
        for each in known:
            self.entries.remove(each)

    @invariant()
    def both_ways_agree(self) -> None:
        assert list(self.registry) == self.entries
        assert len(self.registry) == len(self.entries)
        assert self.registry.players == len({each.true_id for each in self.entries})
        for true_id in (ANN, BOB, TrueId("eve"), TrueId("nobody")):
            assert list(self.registry.connections_of(true_id)) == [
                each for each in self.entries if each.true_id == true_id
            ]
        for number in range(10):
            found = self.registry.connection(ConnectionId(number))
            assert found == next((each for each in self.entries if each.id == number), None)


TestRegistryAgainstModel = RegistryAgainstModel.TestCase
TestRegistryAgainstModel.settings = settings(deadline=None, max_examples=50)
