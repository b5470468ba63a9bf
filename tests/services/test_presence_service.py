"""The presence service: what watchers are told, when, and how much of the loop that may take."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.messages import ConnectionId, PresenceSet, SessionId, TrueId
from gateway.metrics import Metrics
from gateway.presence_service import PresenceService, PresenceSettings
from gateway.presence_view import Payload
from tests.services.world import GRACE, INTERVAL, SETTLE, Client, Clock, Timers, World, scenario


async def watched(world: World) -> tuple[Client, Client]:
    """Return a player and who watches them."""
    ann, eve = await world.guest("Ann"), await world.guest("Eve")
    assert eve.call("presence_watch", {"true_ids": [ann.true_id]})["ok"]
    return ann, eve


def told(client: Client) -> list[tuple[Any, Any]]:
    return [(payload["state"], payload["connections"]) for payload in client.payloads("presence")]


@scenario
async def test_a_reconnect_announces_nothing() -> None:
    world = World()
    ann, eve = await watched(world)
    ann.emit("presence_set", {"state": "hidden"})
    world.pass_by(INTERVAL)
    assert told(eve) == [("hidden", 1)]
    for _ in range(3):
        ann.lose()
        world.pass_by(SETTLE / 2)
        ann = await world.connect(pid=ann.pid)
        ann.emit("presence_set", {"state": "hidden"})
        world.pass_by(10.0)
    assert told(eve) == [("hidden", 1)]


@scenario
async def test_who_does_not_come_back_is_away_then_offline_since_then() -> None:
    world = World()
    ann, eve = await watched(world)
    lost = world.clock.now
    ann.lose()
    world.pass_by(SETTLE - 0.1)
    assert told(eve) == []
    world.pass_by(0.1)
    world.pass_by(GRACE - SETTLE)
    assert told(eve) == [("away", 0), ("offline", 0)]
    away, offline = eve.payloads("presence")
    assert (away["since"], offline["since"]) == (lost, world.clock.now)
    assert "name" not in offline


@scenario
async def test_who_is_thrown_out_is_offline_at_once() -> None:
    world = World()
    ann, eve = await watched(world)
    ann.link.close("banned", reconnect=False)
    world.pass_by()
    assert told(eve) == [("offline", 0)]


@scenario
async def test_another_connection_is_announced() -> None:
    world = World()
    ann = await world.connect(username="ann")
    eve = await world.guest("Eve")
    eve.call("presence_watch", {"true_ids": [ann.true_id]})
    more = [await world.connect(username="ann") for _ in range(3)]
    world.pass_by()
    # Those who come together are told of together.
    assert told(eve) == [("active", 4)]
    for client in more:
        client.lose()
    world.pass_by(SETTLE)
    assert told(eve) == [("active", 4), ("active", 1)]


@scenario
async def test_a_busy_player_is_told_of_once_in_the_interval_and_the_last_word_counts() -> None:
    world = World()
    ann, eve = await watched(world)
    world.pass_by(100.0)
    for number in range(100):
        world.monotonic.now += 10.0  # the limit on changes of its own is not the matter here
        ann.link._presence_bucket = None
        world.monotonic.now -= 10.0
        ann.emit("presence_set", {"state": "hidden" if number % 2 else "active"})
        world.pass_by(0.01)
    world.pass_by(INTERVAL)
    assert 1 < len(told(eve)) <= 2 + 1.0 / INTERVAL
    assert told(eve)[-1] == ("hidden", 1)


@scenario
async def test_who_watches_in_between_hears_the_last_word_too() -> None:
    world = World()
    ann, eve = await watched(world)
    ann.emit("presence_set", {"state": "hidden"})
    world.pass_by()
    ann.emit("presence_set", {"state": "active"})
    zoe = await world.guest("Zoe")
    known = zoe.call("presence_watch", {"true_ids": [ann.true_id]})["presence"]
    assert known[ann.true_id]["state"] == "active"
    ann.emit("presence_set", {"state": "hidden"})
    world.pass_by(INTERVAL)
    assert told(eve) == [("hidden", 1), ("hidden", 1)]
    assert told(zoe) == [("hidden", 1)]


class Slow:
    """A watcher that takes a millisecond for each event."""

    def __init__(self, number: int, clock: Clock) -> None:
        self.id = ConnectionId(number)
        self.true_id = TrueId(f"p{number}")
        self.clock = clock
        self.heard: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.congested = False

    def on_presence(self, array: bytes) -> bool:
        self.clock.now += 0.001
        if self.congested:
            return False
        self.heard.append(json.loads(array)[1])
        self.times.append(self.clock.now)
        return True


class Stage:
    """A presence service whose watchers are slow; all of them watch all."""

    def __init__(self, count: int, interval: float = INTERVAL) -> None:
        self.clock = Clock()
        self.clock.now = 1024.0
        self.timers = Timers(self.clock)
        self.service = PresenceService(
            PresenceSettings(GRACE, SETTLE, interval, 0, True),
            Metrics(),
            self.clock,
            self.clock,
            self.timers.call_later,
        )
        self.watchers = [Slow(number, self.clock) for number in range(count)]
        for watcher in self.watchers:
            self.service.on_connected(watcher, SessionId(f"s{watcher.id}"), "P")
        self.watch(self.watchers[0], [])
        for watcher in self.watchers:
            self.watch(watcher, [each.true_id for each in self.watchers])

    def pass_by(self, seconds: float, step: float = 0.005) -> None:
        end = self.clock.now + seconds
        self.timers.run()
        while self.clock.now < end:
            self.clock.now += step
            self.timers.run()

    def watch(self, watcher: Slow, true_ids: list[TrueId]) -> dict[TrueId, Payload]:
        answers: list[Any] = []
        self.service.watch(watcher, true_ids, answers.append)
        known: dict[TrueId, Payload] = answers[0]["presence"]
        return known

    def set(self, number: int, status: str) -> None:
        watcher = self.watchers[number]
        self.service.set_state(watcher, PresenceSet("active", status))


def test_presence_takes_a_share_of_the_loop_only() -> None:
    stage = Stage(20)
    stage.pass_by(1.0)
    began = stage.clock.now
    for number in range(20):
        stage.set(number, "changed")
    while any(len(watcher.heard) < 20 for watcher in stage.watchers):
        stage.clock.now += 0.001
        stage.timers.run()
        assert stage.clock.now - began < 60.0
    # Twenty times twenty events take 0.4 s of work.
    assert stage.clock.now - began > 3 * 0.4
    times = sorted(time for watcher in stage.watchers for time in watcher.times)
    breaks = [later - time for time, later in pairwise(times)]
    assert sum(pause > 0.03 for pause in breaks) >= 10
    assert all(watcher.heard[-1]["status"] == "changed" for watcher in stage.watchers)


def test_who_is_stopped_tells_nobody() -> None:
    stage = Stage(2)
    stage.pass_by(1.0)
    stage.set(0, "a")
    stage.service.stop()
    stage.set(1, "b")
    stage.pass_by(1.0)
    assert [watcher.heard for watcher in stage.watchers] == [[], []]


@pytest.mark.parametrize("interval", [0.0, INTERVAL])
def test_who_was_congested_hears_the_latest_alone(interval: float) -> None:
    stage = Stage(3, interval)
    stage.pass_by(1.0)
    slow = stage.watchers[2]
    slow.congested = True
    for status in ("a", "b", "c"):
        stage.set(0, status)
        stage.pass_by(1.0)
    slow.congested = False
    stage.service.on_drained(slow)
    stage.pass_by(1.0)
    assert [payload["status"] for payload in slow.heard] == ["c"]
    assert [payload["status"] for payload in stage.watchers[1].heard] == ["a", "b", "c"]


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["set", "wait", "lose", "connect", "congest", "drain"]),
            st.integers(0, 3),
        ),
        max_size=40,
    )
)
def test_the_last_event_is_the_truth_and_no_two_come_too_soon(
    steps: list[tuple[str, int]],
) -> None:
    stage = Stage(4)
    stage.pass_by(1.0)
    service = stage.service
    watcher = Slow(99, stage.clock)
    known = stage.watch(watcher, [each.true_id for each in stage.watchers])
    here = dict.fromkeys(range(4), True)
    next_id = 100
    for step, (action, number) in enumerate(steps):
        each = stage.watchers[number]
        match action:
            case "set" if here[number]:
                stage.set(number, str(step))
            case "wait":
                stage.pass_by([0.01, 0.1, 1.0, 40.0][number], 0.01 if number < 3 else 1.0)
            case "lose" if here[number]:
                here[number] = False
                service.on_disconnected(each, left=False)
            case "connect" if not here[number]:
                here[number] = True
                each.id = ConnectionId(next_id)
                next_id += 1
                service.on_connected(each, SessionId(f"s{number}"), "P")
            case "congest":
                watcher.congested = True
            case "drain":
                watcher.congested = False
                service.on_drained(watcher)
            case _:
                pass
    watcher.congested = False
    service.on_drained(watcher)
    stage.pass_by(GRACE + 2.0, 0.25)
    for each in stage.watchers:
        events = [
            (payload, time)
            for payload, time in zip(watcher.heard, watcher.times, strict=True)
            if payload["true_id"] == each.true_id
        ]
        truth = stage.watch(watcher, [each.true_id])[each.true_id]
        last = events[-1][0] if events else known[each.true_id]
        if truth["state"] == "offline":
            assert isinstance(last, dict)
            truth["since"] = last["since"]
            assert truth["since"] is not None
        assert last == truth
        times = [time for _, time in events]
        # An event is heard a little after its turn, so another may seem a little too soon.
        assert all(later - time > INTERVAL - 0.02 for time, later in pairwise(times))
