"""Presence: what is said of a player, what others do not get to see, and when they are gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.messages import ConnectionId, SessionId, TrueId
from gateway.presence import Presence

ANN, BOB, EVE = TrueId("ann"), TrueId("bob"), TrueId("eve")
GRACE = 30.0
SETTLE = 2.0
#: What Unix time says when the monotonic clock says 0.
EPOCH = 1_048_576.0


class World:
    """Presence, with a clock; a session is named by a letter, a connection by a number."""

    def __init__(self, grace: float = GRACE, settle: float = SETTLE) -> None:
        self.now = 0.0
        self.presence = Presence(grace, settle, lambda: EPOCH + self.now, lambda: self.now)

    def connect(
        self, connection: int, session: str = "s", true_id: TrueId = ANN, name: str = "Ann"
    ) -> bool:
        return self.presence.on_connected(
            true_id, SessionId(session), ConnectionId(connection), name
        )

    def lose(self, connection: int, true_id: TrueId = ANN, *, left: bool = False) -> bool:
        return self.presence.on_disconnected(true_id, ConnectionId(connection), left=left)

    def say(
        self,
        connection: int,
        state: Literal["active", "hidden"],
        status: str | None = None,
        true_id: TrueId = ANN,
    ) -> bool:
        return self.presence.set_state(true_id, ConnectionId(connection), state, status)

    def wait(self, seconds: float) -> list[TrueId]:
        self.now += seconds
        return self.presence.expire()

    def seen(self, true_id: TrueId = ANN) -> tuple[object, object, float | None]:
        """Return state, connections and since when, by the monotonic clock."""
        payload = self.presence.get(true_id)
        since = payload["since"]
        assert since is None or isinstance(since, float)
        return payload["state"], payload["connections"], None if since is None else since - EPOCH


def test_a_stranger_is_offline() -> None:
    assert World().presence.get(ANN) == {
        "true_id": "ann",
        "state": "offline",
        "connections": 0,
        "since": None,
    }


def test_a_player_who_connects_is_active() -> None:
    world = World()
    assert world.connect(1)
    assert world.presence.get(ANN) == {
        "true_id": "ann",
        "name": "Ann",
        "state": "active",
        "connections": 1,
        "since": EPOCH,
    }


def test_another_tab_changes_the_connections_alone() -> None:
    world = World()
    world.connect(1, "s")
    world.now = 5.0
    assert world.connect(2, "t")
    assert world.seen() == ("active", 2, 0.0)
    assert not world.lose(1)
    assert world.wait(SETTLE) == [ANN]
    assert world.seen() == ("active", 1, 0.0)


def test_a_player_is_hidden_while_all_their_pages_are() -> None:
    world = World()
    world.connect(1, "s")
    world.connect(2, "t")
    assert not world.say(1, "hidden")
    world.now = 1.0
    assert world.say(2, "hidden")
    assert world.seen() == ("hidden", 2, 1.0)
    world.now = 2.0
    assert world.say(1, "active")
    assert world.seen() == ("active", 2, 2.0)
    world.lose(1)
    world.wait(SETTLE)
    assert world.seen() == ("hidden", 1, 4.0)


# Not to be seen


def test_a_lost_player_is_away_after_a_time_to_settle_then_offline_after_the_grace() -> None:
    world = World()
    world.connect(1)
    world.now = 10.0
    assert not world.lose(1)
    assert world.presence.next_due == 10.0 + SETTLE
    assert world.wait(SETTLE - 0.1) == []
    assert (world.seen(), world.presence.online) == (("active", 1, 0.0), 1)
    assert world.wait(0.1) == [ANN]
    assert (world.seen(), world.presence.online) == (("away", 0, 10.0), 0)
    assert world.presence.next_due == 10.0 + GRACE
    assert world.wait(GRACE - SETTLE - 0.1) == []
    assert world.wait(0.1) == [ANN]
    assert world.seen() == ("offline", 0, None)
    assert world.presence.next_due is None


@pytest.mark.parametrize("session", ["s", "another"])
def test_a_reconnect_within_the_time_to_settle_is_not_seen(session: str) -> None:
    world = World()
    world.connect(1)
    for connection in range(2, 5):
        world.now += 5.0
        assert not world.lose(connection - 1)
        world.now += SETTLE - 0.1
        assert not world.connect(connection, session)
    assert world.wait(100.0) == []
    assert world.seen() == ("active", 1, 0.0)


def test_a_takeover_is_not_seen() -> None:
    world = World()
    world.connect(1)
    world.now = 1.0
    assert not world.connect(2)
    assert world.seen() == ("active", 1, 0.0)
    assert not world.lose(1)
    assert not world.say(1, "hidden")
    assert world.wait(100.0) == []
    assert world.seen() == ("active", 1, 0.0)


@pytest.mark.parametrize("lost", [False, True])
def test_a_hidden_page_that_reconnects_has_time_to_say_so(lost: bool) -> None:
    world = World()
    world.connect(1)
    world.say(1, "hidden")
    if lost:
        assert not world.lose(1)
    world.now = 1.0
    assert not world.connect(2)
    assert world.wait(SETTLE - 0.1) == []
    assert not world.say(2, "hidden")
    assert world.wait(100.0) == []
    assert world.seen() == ("hidden", 1, 0.0)


def test_a_hidden_page_that_reconnects_and_says_nothing_is_active() -> None:
    world = World()
    world.connect(1)
    world.say(1, "hidden")
    world.now = 1.0
    assert not world.connect(2)
    assert world.wait(SETTLE) == [ANN]
    assert world.seen() == ("active", 1, 1.0 + SETTLE)


def test_a_hidden_page_that_reconnects_active_says_so_at_once() -> None:
    world = World()
    world.connect(1)
    world.say(1, "hidden")
    world.lose(1)
    world.connect(2)
    world.now = 1.0
    assert world.say(2, "active")
    assert world.seen() == ("active", 1, 1.0)
    assert world.wait(100.0) == []


def test_a_player_back_in_time_was_never_offline() -> None:
    world = World()
    world.connect(1)
    world.lose(1)
    world.wait(SETTLE)
    assert world.connect(2)
    assert world.seen() == ("active", 1, SETTLE)
    assert world.wait(1000.0) == []


def test_the_grace_counts_from_the_last_loss() -> None:
    world = World()
    world.connect(1)
    world.connect(2, true_id=BOB)
    world.lose(1)
    world.lose(2, BOB)
    world.wait(5.0)
    world.connect(3)
    world.lose(3)
    world.wait(SETTLE)
    world.wait(GRACE - SETTLE - 1.0)
    assert (world.seen()[0], world.seen(BOB)[0]) == ("away", "offline")


def test_without_time_to_settle_a_loss_is_seen_at_once() -> None:
    world = World(settle=0.0)
    world.connect(1)
    world.say(1, "hidden")
    world.now = 1.0
    assert world.lose(1)
    assert world.seen() == ("away", 0, 1.0)
    assert world.connect(2)
    assert world.seen() == ("active", 1, 1.0)


@pytest.mark.parametrize("settle", [0.0, SETTLE])
def test_without_grace_a_lost_player_is_offline_at_once(settle: float) -> None:
    world = World(grace=0.0, settle=settle)
    world.connect(1)
    assert world.lose(1)
    assert world.seen() == ("offline", 0, None)
    assert world.presence.next_due is None


def test_a_grace_shorter_than_the_time_to_settle_ends_it() -> None:
    world = World(grace=1.0)
    world.connect(1)
    assert not world.lose(1)
    assert world.wait(1.0) == [ANN]
    assert world.seen() == ("offline", 0, None)


# On purpose


def test_who_leaves_on_purpose_is_offline_at_once() -> None:
    world = World()
    world.connect(1, "s")
    world.connect(2, "t")
    assert world.lose(1, left=True)
    assert world.seen() == ("active", 1, 0.0)
    assert world.lose(2, left=True)
    assert (world.seen(), world.presence.online) == (("offline", 0, None), 0)
    assert world.wait(1000.0) == []


def test_who_leaves_does_not_wait_for_a_tab_that_was_lost() -> None:
    world = World()
    world.connect(1, "s")
    world.connect(2, "t")
    world.lose(1)
    assert world.lose(2, left=True)
    assert world.seen() == ("offline", 0, None)
    assert world.wait(1000.0) == []
    assert world.connect(3, "s")
    assert world.seen()[:2] == ("active", 1)


def test_a_status_is_kept_and_cleared() -> None:
    world = World()
    world.connect(1)
    world.now = 1.0
    assert world.say(1, "active", "in battle")
    assert world.presence.get(ANN)["status"] == "in battle"
    assert world.seen() == ("active", 1, 0.0)
    assert not world.say(1, "active")
    assert not world.say(1, "active", "in battle")
    assert world.presence.get(ANN)["status"] == "in battle"
    assert world.say(1, "active", "")
    assert world.presence.get(ANN)["status"] == ""


def test_the_name_of_the_newest_connection_counts() -> None:
    world = World()
    world.connect(1)
    assert world.connect(2, name="Annie")
    assert world.presence.get(ANN)["name"] == "Annie"


def test_a_connection_that_is_gone_says_nothing_any_more() -> None:
    world = World()
    world.connect(1, "s")
    world.connect(2, "t")
    world.lose(1)
    assert not world.say(1, "hidden", "ghost")
    assert not world.lose(1)
    assert not world.lose(2, BOB)
    world.wait(SETTLE)
    assert world.seen() == ("active", 1, 0.0)


# Listing


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
    world = World()
    for number in range(6):
        world.connect(number, f"s{number}", TrueId(f"p{number}"))
    world.lose(2, TrueId("p2"), left=True)
    world.lose(3, TrueId("p3"))
    world.wait(SETTLE)
    assert listing(world.presence, limit) == ["p0", "p1", "p3", "p4", "p5"]
    assert world.presence.online == 4


def test_a_player_who_returned_is_listed_once_and_last() -> None:
    world = World()
    world.connect(1)
    world.connect(2, true_id=BOB)
    world.lose(1, left=True)
    world.connect(3)
    assert listing(world.presence, 1) == ["bob", "ann"]


def test_the_last_page_of_just_so_many_players_is_the_last() -> None:
    world = World()
    assert world.presence.page(0, 2) == ([], None)
    world.connect(1)
    world.connect(2, true_id=BOB)
    players, cursor = world.presence.page(0, 2)
    assert (len(players), cursor) == (2, None)
    assert world.presence.page(10**30, 2) == ([], None)


def test_holes_in_the_listing_are_cleaned_up() -> None:
    world = World()
    world.connect(0)
    for connection in range(1, 500):
        world.connect(connection, true_id=BOB)
        world.lose(connection, BOB, left=True)
    world.wait(1.0)
    world.connect(1000, true_id=EVE)
    assert listing(world.presence, 10) == ["ann", "eve"]
    assert len(world.presence._order) < 10


# All of it


@dataclass
class Tab:
    """What is true of a connection, whatever others see of it."""

    true_id: TrueId
    session: str
    state: Literal["active", "hidden"] = "active"


class SeenAndTrue(RuleBasedStateMachine):
    """What others see changes only where they are told so, and comes to what is true."""

    players = (ANN, BOB)

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.tabs: dict[int, Tab] = {}
        self.lost_at: dict[TrueId, float] = {}
        self.statuses: dict[TrueId, str] = {}
        self.connections = 0
        self.shown = self.show()

    def show(self) -> dict[TrueId, dict[str, object]]:
        return {true_id: self.world.presence.get(true_id) for true_id in self.players}

    def check(self, changed: set[TrueId]) -> None:
        shown = self.show()
        assert {true_id for true_id in self.players if shown[true_id] != self.shown[true_id]} <= (
            changed
        )
        self.shown = shown

    def only(self, true_id: TrueId, changed: bool) -> None:
        self.check({true_id} if changed else set())

    any_player = st.sampled_from(players)
    any_index = st.integers(0, 5)

    def pick(self, index: int) -> tuple[int, Tab]:
        connection = sorted(self.tabs)[index % len(self.tabs)]
        return connection, self.tabs[connection]

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.75, 2.0, 20.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.check(set(self.world.wait(seconds)))

    @rule(true_id=any_player, session=st.sampled_from("abc"))
    def connect(self, true_id: TrueId, session: str) -> None:
        session = f"{true_id}-{session}"
        taken = [c for c, tab in self.tabs.items() if tab.session == session]
        self.connections += 1
        self.only(true_id, self.world.connect(self.connections, session, true_id))
        self.tabs[self.connections] = Tab(true_id, session)
        for connection in taken:
            self.tabs.pop(connection)
            assert not self.world.lose(connection, true_id)

    @precondition(lambda self: self.tabs)
    @rule(index=any_index)
    def lose(self, index: int) -> None:
        connection, tab = self.pick(index)
        del self.tabs[connection]
        self.lost_at[tab.true_id] = self.world.now
        before = self.shown
        self.only(tab.true_id, self.world.lose(connection, tab.true_id))
        assert self.shown == before

    @precondition(lambda self: self.tabs)
    @rule(index=any_index)
    def leave(self, index: int) -> None:
        connection, tab = self.pick(index)
        del self.tabs[connection]
        self.only(tab.true_id, self.world.lose(connection, tab.true_id, left=True))
        if not any(each.true_id == tab.true_id for each in self.tabs.values()):
            self.lost_at.pop(tab.true_id, None)
            assert self.world.seen(tab.true_id) == ("offline", 0, None)
            self.statuses.pop(tab.true_id, None)

    @precondition(lambda self: self.tabs)
    @rule(
        index=any_index,
        state=st.sampled_from(["active", "hidden"]),
        status=st.sampled_from([None, "", "busy"]),
    )
    def say(self, index: int, state: Literal["active", "hidden"], status: str | None) -> None:
        connection, tab = self.pick(index)
        tab.state = state
        self.only(tab.true_id, self.world.say(connection, state, status, tab.true_id))

    @rule()
    def settle(self) -> None:
        """With nothing new for a while, everybody sees what is true."""
        self.wait(SETTLE)
        for true_id in self.players:
            state, connections, _ = self.world.seen(true_id)
            states = [tab.state for tab in self.tabs.values() if tab.true_id == true_id]
            assert connections == len(states)
            if states:
                assert state == ("active" if "active" in states else "hidden")
            elif true_id in self.lost_at and self.world.now < self.lost_at[true_id] + GRACE:
                assert self.world.seen(true_id) == ("away", 0, self.lost_at[true_id])
            else:
                assert state == "offline"
        assert self.world.presence.online == len({tab.true_id for tab in self.tabs.values()})

    @invariant()
    def the_next_thing_due_is_to_come(self) -> None:
        due = self.world.presence.next_due
        here = {t for t in self.players if self.shown[t]["state"] != "offline"}
        assert due is None or self.world.now <= due <= self.world.now + GRACE
        assert sorted(map(str, listing(self.world.presence, 1))) == sorted(here)


TestSeenAndTrue = SeenAndTrue.TestCase
TestSeenAndTrue.settings = settings(deadline=None, max_examples=200)


# For other nodes


def entry_of(world: World) -> list[tuple[str, str, bool]]:
    entry = world.presence.entry(ANN)
    assert entry is not None
    return [(tab.session_id, tab.state, tab.connected) for tab in entry.tabs]


def test_an_entry_has_what_the_pages_have_said() -> None:
    world = World()
    assert world.presence.entry(ANN) is None
    world.connect(1, "s")
    world.now = 1.0
    world.connect(2, "t")
    world.say(2, "hidden")
    assert entry_of(world) == [("s", "new", True), ("t", "hidden", True)]
    world.lose(1)
    assert entry_of(world) == [("s", "new", False), ("t", "hidden", True)]
    entry = world.presence.entry(ANN)
    assert entry is not None
    assert (entry.name, entry.named, entry.status) == ("Ann", EPOCH + 1.0, None)
    assert world.presence.players() == [ANN]


def test_a_tab_that_comes_back_is_new_as_another_node_may_have_had_it() -> None:
    world = World()
    world.connect(1, "s")
    world.say(1, "hidden")
    world.connect(2, "s")
    assert entry_of(world) == [("s", "new", True)]
    world.say(2, "active")
    assert entry_of(world) == [("s", "active", True)]


def test_an_adopted_tab_is_hidden_while_its_page_has_time_to_say_otherwise() -> None:
    world = World()
    world.connect(1, "s")
    assert world.presence.adopt(ANN, SessionId("s"))
    assert entry_of(world) == [("s", "hidden", True)]
    assert world.seen()[0] == "hidden"
    assert world.presence.next_due == SETTLE
    assert world.wait(SETTLE) == [ANN]
    assert entry_of(world) == [("s", "active", True)]


def test_what_a_page_has_said_and_who_is_lost_is_not_adopted() -> None:
    world = World()
    world.presence.adopt(ANN, SessionId("s"))
    world.connect(1, "s")
    world.connect(2, "t")
    world.say(1, "active")
    world.lose(2)
    # The others are told again what the page has said.
    assert not world.presence.adopt(ANN, SessionId("s"))
    for session in ("t", "u"):
        assert world.presence.adopt(ANN, SessionId(session))
    assert entry_of(world) == [("s", "active", True), ("t", "new", False)]
    assert world.wait(SETTLE) == [ANN]
