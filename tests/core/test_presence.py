"""Presence: what is said of a player, to whom, and when they are gone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.messages import ConnectionId, TrueId
from gateway.presence import Changed, Presence

ANN, BOB, EVE = TrueId("ann"), TrueId("bob"), TrueId("eve")
GRACE = 30.0


def number(connection: int) -> ConnectionId:
    return ConnectionId(connection)


def presence(*watchers: int) -> Presence:
    """Nobody is here; these connections watch ann."""
    subject = Presence(GRACE)
    for watcher in watchers:
        subject.watch(number(watcher), [ANN])
    return subject


def told(changes: list[Changed]) -> list[tuple[str, object, object]]:
    """Return who became what since when."""
    return [
        (change.true_id, change.payload["state"], change.payload["since"]) for change in changes
    ]


def test_a_stranger_is_offline() -> None:
    assert presence().get(ANN) == {
        "true_id": "ann",
        "state": "offline",
        "connections": 0,
        "since": None,
    }


def test_a_player_who_connects_is_active_and_watchers_are_told() -> None:
    subject = presence(7, 8)
    (change,) = subject.on_connected(ANN, number(1), "Ann", 100.0)
    assert change.true_id == ANN
    assert sorted(change.watchers) == [7, 8]
    assert change.payload == subject.get(ANN)
    assert change.payload == {
        "true_id": "ann",
        "name": "Ann",
        "state": "active",
        "connections": 1,
        "since": 100.0,
    }


def test_nobody_is_told_of_a_player_whom_nobody_watches() -> None:
    subject = presence()
    assert subject.on_connected(ANN, number(1), "Ann", 100.0) == []
    assert subject.on_disconnected(ANN, number(1), 101.0) == []
    assert subject.expire(1000.0) == []


def test_a_second_connection_changes_nothing_to_tell() -> None:
    subject = presence(7)
    subject.on_connected(ANN, number(1), "Ann", 100.0)
    assert subject.on_connected(ANN, number(2), "Ann", 101.0) == []
    assert subject.on_disconnected(ANN, number(1), 102.0) == []
    assert subject.get(ANN)["connections"] == 1
    assert subject.get(ANN)["since"] == 100.0


def test_a_player_is_hidden_while_all_their_pages_are() -> None:
    subject = presence(7)
    subject.on_connected(ANN, number(1), "Ann", 100.0)
    subject.on_connected(ANN, number(2), "Ann", 100.0)
    assert subject.set_state(ANN, number(1), "hidden", None, 101.0) == []
    assert told(subject.set_state(ANN, number(2), "hidden", None, 102.0)) == [
        ("ann", "hidden", 102.0)
    ]
    assert told(subject.set_state(ANN, number(1), "active", None, 103.0)) == [
        ("ann", "active", 103.0)
    ]
    assert told(subject.on_disconnected(ANN, number(1), 104.0)) == [("ann", "hidden", 104.0)]


def test_a_lost_player_is_away_for_the_grace_then_offline() -> None:
    subject = presence(7)
    subject.on_connected(ANN, number(1), "Ann", 100.0)
    assert told(subject.on_disconnected(ANN, number(1), 101.0)) == [("ann", "away", 101.0)]
    assert subject.expire(101.0 + GRACE - 0.1) == []
    assert told(subject.expire(101.0 + GRACE)) == [("ann", "offline", 131.0)]
    assert subject.get(ANN)["state"] == "offline"
    assert subject.expire(1000.0) == []


def test_a_player_back_in_time_was_never_offline() -> None:
    subject = presence(7)
    subject.on_connected(ANN, number(1), "Ann", 100.0)
    subject.on_disconnected(ANN, number(1), 101.0)
    assert told(subject.on_connected(ANN, number(2), "Ann", 102.0)) == [("ann", "active", 102.0)]
    assert subject.expire(1000.0) == []


def test_the_grace_counts_from_the_last_loss() -> None:
    subject = presence()
    subject.on_connected(ANN, number(1), "Ann", 0.0)
    subject.on_connected(BOB, number(2), "Bob", 0.0)
    subject.on_disconnected(ANN, number(1), 1.0)
    subject.on_disconnected(BOB, number(2), 2.0)
    subject.on_connected(ANN, number(3), "Ann", 3.0)
    subject.on_disconnected(ANN, number(3), 4.0)
    subject.expire(2.0 + GRACE)
    assert (subject.get(ANN)["state"], subject.get(BOB)["state"]) == ("away", "offline")


def test_who_leaves_on_purpose_is_offline_at_once() -> None:
    subject = presence(7)
    subject.on_connected(ANN, number(1), "Ann", 100.0)
    subject.on_connected(ANN, number(2), "Ann", 100.0)
    assert subject.on_disconnected(ANN, number(1), 101.0, left=True) == []
    assert told(subject.on_disconnected(ANN, number(2), 102.0, left=True)) == [
        ("ann", "offline", 102.0)
    ]
    assert subject.online == 0
    assert subject.expire(1000.0) == []


def test_a_status_is_told_kept_and_cleared() -> None:
    subject = presence(7)
    subject.on_connected(ANN, number(1), "Ann", 100.0)
    (change,) = subject.set_state(ANN, number(1), "active", "in battle", 101.0)
    assert change.payload["status"] == "in battle"
    assert change.payload["since"] == 100.0
    assert subject.set_state(ANN, number(1), "active", None, 102.0) == []
    assert subject.set_state(ANN, number(1), "active", "in battle", 102.0) == []
    assert subject.get(ANN)["status"] == "in battle"
    (change,) = subject.set_state(ANN, number(1), "active", "", 103.0)
    assert change.payload["status"] == ""


def test_the_name_of_the_newest_connection_counts() -> None:
    subject = presence()
    subject.on_connected(ANN, number(1), "Ann", 100.0)
    subject.on_connected(ANN, number(2), "Annie", 100.0)
    assert subject.get(ANN)["name"] == "Annie"


def test_a_connection_that_is_gone_says_nothing_any_more() -> None:
    subject = presence(7)
    subject.on_connected(ANN, number(1), "Ann", 100.0)
    subject.on_connected(ANN, number(2), "Ann", 100.0)
    subject.on_disconnected(ANN, number(1), 101.0)
    assert subject.set_state(ANN, number(1), "hidden", "ghost", 102.0) == []
    assert subject.on_disconnected(ANN, number(1), 102.0) == []
    assert subject.on_disconnected(BOB, number(2), 102.0) == []
    assert subject.get(ANN)["connections"] == 1


def test_watching_counts_players_once() -> None:
    subject = presence()
    assert subject.watch(number(7), [ANN, BOB, ANN]) == 2
    assert subject.watch(number(7), [BOB, EVE]) == 3
    assert subject.watched_by(number(7)) == {ANN, BOB, EVE}
    subject.unwatch(number(7), [ANN, TrueId("nobody")])
    assert subject.watched_by(number(7)) == {BOB, EVE}
    assert subject.on_connected(ANN, number(1), "Ann", 100.0) == []
    assert len(subject.on_connected(BOB, number(2), "Bob", 100.0)) == 1


def test_unwatching_by_one_leaves_the_others() -> None:
    subject = presence(7, 8)
    subject.unwatch(number(7), [ANN])
    subject.unwatch(number(9), [ANN])
    (change,) = subject.on_connected(ANN, number(1), "Ann", 100.0)
    assert change.watchers == (8,)


def test_a_connection_that_is_gone_watches_nobody() -> None:
    subject = presence(7)
    subject.on_connected(BOB, number(7), "Bob", 100.0)
    subject.on_disconnected(BOB, number(7), 101.0)
    assert subject.watched_by(number(7)) == frozenset()
    assert subject.on_connected(ANN, number(1), "Ann", 102.0) == []


def test_a_player_may_watch_themselves() -> None:
    subject = presence(1)
    assert len(subject.on_connected(ANN, number(1), "Ann", 100.0)) == 1
    # Gone, it is told nothing.
    assert subject.on_disconnected(ANN, number(1), 101.0) == []


def listing(subject: Presence, limit: int) -> list[object]:
    names: list[object] = []
    cursor: int | None = 0
    while cursor is not None:
        players, cursor = subject.page(cursor, limit)
        assert len(players) <= limit
        names += [player["true_id"] for player in players]
    return names


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 100])
def test_players_are_listed_in_pages_in_the_order_they_came(limit: int) -> None:
    subject = presence()
    for connection in range(6):
        subject.on_connected(TrueId(f"p{connection}"), number(connection), "P", 0.0)
    subject.on_disconnected(TrueId("p2"), number(2), 1.0, left=True)
    subject.on_disconnected(TrueId("p3"), number(3), 1.0)
    assert listing(subject, limit) == ["p0", "p1", "p3", "p4", "p5"]
    assert subject.online == 4


def test_a_player_who_returned_is_listed_once_and_last() -> None:
    subject = presence()
    subject.on_connected(ANN, number(1), "Ann", 0.0)
    subject.on_connected(BOB, number(2), "Bob", 0.0)
    subject.on_disconnected(ANN, number(1), 1.0, left=True)
    subject.on_connected(ANN, number(3), "Ann", 2.0)
    assert listing(subject, 1) == ["bob", "ann"]


def test_the_last_page_of_just_so_many_players_is_the_last() -> None:
    subject = presence()
    assert subject.page(0, 2) == ([], None)
    subject.on_connected(ANN, number(1), "Ann", 0.0)
    subject.on_connected(BOB, number(2), "Bob", 0.0)
    players, cursor = subject.page(0, 2)
    assert (len(players), cursor) == (2, None)
    assert subject.page(10**30, 2) == ([], None)


def test_holes_in_the_listing_are_cleaned_up() -> None:
    subject = presence()
    subject.on_connected(ANN, number(0), "Ann", 0.0)
    for connection in range(1, 500):
        subject.on_connected(BOB, number(connection), "Bob", 0.0)
        subject.on_disconnected(BOB, number(connection), 0.0, left=True)
    subject.expire(1.0)
    subject.on_connected(EVE, number(1000), "Eve", 2.0)
    assert listing(subject, 10) == ["ann", "eve"]
    assert len(subject._order) < 10


@dataclass
class Model:
    """What is known of a player: nothing more than the protocol's text says."""

    connections: dict[int, Literal["active", "hidden"]] = field(default_factory=dict)
    state: str = "offline"
    since: float | None = None
    status: str | None = None
    away_since: float = 0.0

    def settle(self, now: float) -> bool:
        state = "active" if "active" in self.connections.values() else "hidden"
        if not self.connections:
            state = "away"
        changed = state != self.state
        if changed:
            self.state, self.since = state, now
        return changed


class PresenceAgainstModel(RuleBasedStateMachine):
    """Three players, and connections numbered from 0; player n owns n, n + 3, n + 6."""

    players = (ANN, BOB, EVE)

    def __init__(self) -> None:
        super().__init__()
        self.presence = Presence(GRACE)
        self.models = {true_id: Model() for true_id in self.players}
        self.watching: dict[int, set[TrueId]] = {}
        self.now = 0.0

    def check(self, true_id: TrueId, changes: list[Changed], expected: bool) -> None:
        watchers = {c for c, watched in self.watching.items() if true_id in watched}
        if not expected or not watchers:
            assert changes == []
            return
        (change,) = changes
        assert (change.true_id, set(change.watchers)) == (true_id, watchers)
        assert len(change.watchers) == len(watchers)
        model = self.models[true_id]
        assert change.payload["state"] == model.state
        if model.state == "offline":
            assert change.payload["since"] == self.now
        else:
            assert change.payload == self.presence.get(true_id)

    connections = st.integers(0, 8)

    @rule(seconds=st.sampled_from([0.0, 1.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(connection=connections)
    def connect(self, connection: int) -> None:
        true_id = self.players[connection % 3]
        model = self.models[true_id]
        came = model.state == "offline"
        model.connections[connection] = "active"
        changes = self.presence.on_connected(true_id, number(connection), "P", self.now)
        self.check(true_id, changes, model.settle(self.now) or came)

    @rule(connection=connections, left=st.booleans())
    def disconnect(self, connection: int, left: bool) -> None:
        true_id = self.players[connection % 3]
        model = self.models[true_id]
        self.watching.pop(connection, None)
        known = model.connections.pop(connection, None) is not None
        changes = self.presence.on_disconnected(true_id, number(connection), self.now, left=left)
        expected = False
        if known and left and not model.connections:
            self.models[true_id] = Model()
            expected = True
        elif known:
            model.away_since = self.now
            expected = model.settle(self.now)
        self.check(true_id, changes, expected)

    @rule(
        connection=connections,
        state=st.sampled_from(["active", "hidden"]),
        status=st.sampled_from([None, "", "busy"]),
    )
    def set_state(
        self, connection: int, state: Literal["active", "hidden"], status: str | None
    ) -> None:
        true_id = self.players[connection % 3]
        model = self.models[true_id]
        changes = self.presence.set_state(true_id, number(connection), state, status, self.now)
        expected = False
        if connection in model.connections:
            model.connections[connection] = state
            expected = status is not None and status != model.status
            if expected:
                model.status = status
            expected |= model.settle(self.now)
        self.check(true_id, changes, expected)

    @rule(connection=connections, true_ids=st.lists(st.sampled_from(players)))
    def watch(self, connection: int, true_ids: list[TrueId]) -> None:
        watching = self.watching.setdefault(connection, set())
        watching.update(true_ids)
        assert self.presence.watch(number(connection), true_ids) == len(watching)

    @rule(connection=connections, true_ids=st.lists(st.sampled_from(players)))
    def unwatch(self, connection: int, true_ids: list[TrueId]) -> None:
        self.watching.get(connection, set()).difference_update(true_ids)
        self.presence.unwatch(number(connection), true_ids)

    @rule()
    def expire(self) -> None:
        changes = {change.true_id: change for change in self.presence.expire(self.now)}
        for true_id, model in self.models.items():
            gone = model.state == "away" and model.away_since <= self.now - GRACE
            if gone:
                self.models[true_id] = Model()
            self.check(true_id, [changes[true_id]] if true_id in changes else [], gone)

    @invariant()
    def everybody_is_who_they_should_be(self) -> None:
        for true_id, model in self.models.items():
            payload = self.presence.get(true_id)
            assert payload["state"] == model.state
            assert payload["since"] == model.since
            assert payload["connections"] == len(model.connections)
            assert payload.get("status") == model.status
        here = {true_id for true_id, model in self.models.items() if model.state != "offline"}
        listed = listing(self.presence, 2)
        assert len(listed) == len(here)
        assert set(listed) == here
        assert self.presence.online == sum(bool(m.connections) for m in self.models.values())
        for connection, watched in self.watching.items():
            assert self.presence.watched_by(number(connection)) == watched


TestPresenceAgainstModel = PresenceAgainstModel.TestCase
TestPresenceAgainstModel.settings = settings(deadline=None, max_examples=80)
