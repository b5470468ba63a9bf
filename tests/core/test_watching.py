"""Watching: who is told of whom, how often, and that the last word is the truth."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.messages import TrueId
from gateway.watching import Turn, Watching

ANN, BOB, EVE = TrueId("ann"), TrueId("bob"), TrueId("eve")
INTERVAL = 0.25


def turns(subject: Watching[str], now: float) -> list[Turn[str]]:
    found = []
    while (turn := subject.next_turn(now)) is not None:
        found.append(turn)
    return found


def told(subject: Watching[str], now: float) -> list[tuple[str, set[str]]]:
    return [(turn.true_id, set(turn.watchers)) for turn in turns(subject, now)]


def test_the_first_change_is_told_at_once_to_all_watchers() -> None:
    subject: Watching[str] = Watching(INTERVAL)
    subject.watch("x", [ANN, BOB])
    subject.watch("y", [ANN])
    assert subject.next_due is None
    subject.on_changed(ANN, 1000.0, 5.0)
    assert subject.next_due == 0.0
    (turn,) = turns(subject, 5.0)
    assert (turn.true_id, turn.changed_at, set(turn.watchers)) == (ANN, 1000.0, {"x", "y"})
    assert len(turn.watchers) == 2
    assert subject.next_due is None


def test_changes_within_the_interval_are_told_once_at_its_end() -> None:
    subject: Watching[str] = Watching(INTERVAL)
    subject.watch("x", [ANN])
    subject.on_changed(ANN, 0.0, 5.0)
    assert told(subject, 5.0) == [(ANN, {"x"})]
    for number in range(3):
        subject.on_changed(ANN, float(number), 5.0 + number / 100)
    assert subject.next_due == 5.0 + INTERVAL
    assert told(subject, 5.24) == []
    (turn,) = turns(subject, 5.25)
    assert turn.changed_at == 2.0
    assert told(subject, 10.0) == []


def test_changes_before_anybody_was_told_are_one() -> None:
    subject: Watching[str] = Watching(INTERVAL)
    subject.watch("x", [ANN])
    subject.on_changed(ANN, 0.0, 5.0)
    subject.on_changed(ANN, 0.0, 5.0)
    assert told(subject, 5.0) == [(ANN, {"x"})]


def test_players_whom_nobody_watches_are_nobodys_turn() -> None:
    subject: Watching[str] = Watching(INTERVAL)
    subject.on_changed(ANN, 0.0, 5.0)
    subject.watch("x", [ANN])
    subject.unwatch("x", [ANN, BOB], 5.0)
    subject.on_changed(ANN, 0.0, 5.0)
    assert told(subject, 9.0) == []
    assert subject.next_due is None


def test_who_missed_it_is_told_alone_once_caught_up() -> None:
    subject: Watching[str] = Watching(INTERVAL)
    for watcher in ("x", "y"):
        subject.watch(watcher, [ANN])
    subject.on_changed(ANN, 0.0, 5.0)
    assert told(subject, 5.0) == [(ANN, {"x", "y"})]
    subject.on_missed("y", ANN)
    assert told(subject, 6.0) == []
    subject.on_caught_up("y", 6.0)
    assert told(subject, 6.0) == [(ANN, {"y"})]
    subject.on_caught_up("y", 7.0)
    assert told(subject, 7.0) == []


def test_what_was_missed_comes_with_the_next_change_and_not_twice() -> None:
    subject: Watching[str] = Watching(INTERVAL)
    for watcher in ("x", "y"):
        subject.watch(watcher, [ANN])
    subject.on_changed(ANN, 0.0, 5.0)
    turns(subject, 5.0)
    subject.on_missed("y", ANN)
    subject.on_changed(ANN, 0.0, 5.1)
    subject.on_caught_up("y", 5.1)
    assert told(subject, 5.25) == [(ANN, {"x", "y"})]
    assert told(subject, 9.0) == []


def test_watching_anew_brings_nothing_sooner() -> None:
    subject: Watching[str] = Watching(INTERVAL)
    subject.watch("x", [ANN])
    subject.on_changed(ANN, 0.0, 5.0)
    turns(subject, 5.0)
    subject.unwatch("x", [ANN], 5.1)
    subject.watch("x", [ANN])
    subject.on_changed(ANN, 0.0, 5.1)
    assert told(subject, 5.2) == []
    assert told(subject, 5.25) == [(ANN, {"x"})]


def test_what_is_watched_no_more_is_forgotten() -> None:
    subject: Watching[str] = Watching(INTERVAL)
    subject.watch("x", [ANN, BOB])
    subject.watch("y", [BOB])
    subject.on_changed(ANN, 0.0, 5.0)
    subject.on_changed(BOB, 0.0, 5.0)
    turns(subject, 5.0)
    subject.on_missed("x", ANN)
    subject.forget("x", 5.1)
    subject.unwatch("y", [BOB], 5.1)
    subject.watch("z", [])
    assert turns(subject, 5.25) == []
    assert (subject._players, subject._watching, subject._missed) == ({}, {}, {})
    assert subject.next_due is None


def test_a_crowd_does_not_keep_small_parties_waiting() -> None:
    subject: Watching[str] = Watching(INTERVAL)
    crowd = [TrueId(f"crowd-{number}") for number in range(100)]
    for number in range(100):
        subject.watch(f"w{number}", crowd)
    subject.watch("x", [ANN, BOB])
    for now in (5.0, 6.0):
        for player in (*crowd, ANN, BOB):
            subject.on_changed(player, 0.0, now)
            subject.on_changed(player, 0.0, now)
        order = [turn.true_id for turn in turns(subject, now)]
        assert set(order[:4]) >= {ANN, BOB}
        assert len(order) == 102


class Told(RuleBasedStateMachine):
    """Players count their changes; a watcher knows the count it was last told of.

    The answer to `watch` tells it, too. A turn is told from the state at that moment, as the
    service does, to watchers some of whom cannot be told for a while.
    """

    players = (ANN, BOB, EVE)
    watchers = ("w", "x", "y")

    def __init__(self) -> None:
        super().__init__()
        self.subject: Watching[str] = Watching(INTERVAL)
        self.now = 100.0
        self.truth = dict.fromkeys(self.players, 0)
        self.known: dict[tuple[str, TrueId], int] = {}
        self.last_event: dict[tuple[str, TrueId], float] = {}
        self.congested: set[str] = set()

    any_player = st.sampled_from(players)
    any_watcher = st.sampled_from(watchers)

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.2, 0.25, 1.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(player=any_player)
    def change(self, player: TrueId) -> None:
        self.truth[player] += 1
        self.subject.on_changed(player, self.now, self.now)

    @rule(watcher=any_watcher, player=any_player)
    def watch(self, watcher: str, player: TrueId) -> None:
        self.subject.watch(watcher, [player])
        self.known[watcher, player] = self.truth[player]

    @rule(watcher=any_watcher, player=any_player)
    def unwatch(self, watcher: str, player: TrueId) -> None:
        self.subject.unwatch(watcher, [player], self.now)
        self.known.pop((watcher, player), None)

    @rule(watcher=any_watcher)
    def leave(self, watcher: str) -> None:
        self.subject.forget(watcher, self.now)
        self.congested.discard(watcher)
        self.known = {pair: count for pair, count in self.known.items() if pair[0] != watcher}

    @rule(watcher=any_watcher)
    def congest(self, watcher: str) -> None:
        self.congested.add(watcher)

    @rule(watcher=any_watcher)
    def drain(self, watcher: str) -> None:
        self.congested.discard(watcher)
        self.subject.on_caught_up(watcher, self.now)

    @rule(limit=st.integers(1, 3))
    def some_turns(self, limit: int) -> None:
        for _ in range(limit):
            self.one_turn()

    def one_turn(self) -> bool:
        turn = self.subject.next_turn(self.now)
        if turn is None:
            return False
        assert turn.watchers
        for watcher in turn.watchers:
            pair = (watcher, turn.true_id)
            assert pair in self.known
            if watcher in self.congested:
                self.subject.on_missed(watcher, turn.true_id)
                continue
            assert self.now - self.last_event.get(pair, 0.0) >= INTERVAL
            self.last_event[pair] = self.now
            self.known[pair] = self.truth[turn.true_id]
        return True

    @rule()
    def quiet(self) -> None:
        """All are told all that is due, and nobody hears more than there is to tell."""
        for watcher in tuple(self.congested):
            self.drain(watcher)
        while (due := self.subject.next_due) is not None:
            self.now = max(self.now, due)
            while self.one_turn():
                pass
        assert self.known == {pair: self.truth[pair[1]] for pair in self.known}

    @invariant()
    def watchers_are_whom_we_think(self) -> None:
        for watcher in self.watchers:
            watched = {player for each, player in self.known if each == watcher}
            assert self.subject.watched_by(watcher) == watched


TestTold = Told.TestCase
TestTold.settings = settings(deadline=None, max_examples=200)


def test_who_has_had_no_watchers_for_a_moment_is_told_once() -> None:
    unwatched: list[TrueId] = []
    subject: Watching[str] = Watching(INTERVAL, unwatched.append)
    subject.watch("w", [ANN])
    subject.on_changed(ANN, 0.0, 0.0)
    assert subject.next_turn(0.0) is not None
    subject.unwatch("w", [ANN], 0.0)
    assert subject.next_turn(0.0) is None
    assert unwatched == []
    assert subject.is_watched(ANN)
    assert subject.next_turn(INTERVAL) is None
    assert unwatched == [ANN]
    assert not subject.is_watched(ANN)


def test_who_is_watched_again_at_once_was_never_unwatched() -> None:
    unwatched: list[TrueId] = []
    subject: Watching[str] = Watching(INTERVAL, unwatched.append)
    subject.watch("w", [ANN])
    subject.unwatch("w", [ANN], 0.0)
    subject.watch("x", [ANN])
    assert subject.next_turn(INTERVAL) is None
    assert unwatched == []
