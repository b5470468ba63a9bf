"""Presence services of several nodes on one Redis, for tests."""

from __future__ import annotations

import json
from typing import Any

from gateway.errors import RequestRefused
from gateway.messages import ConnectionId, PresenceSet, SessionId, TrueId
from gateway.metrics import Metrics
from gateway.presence_service import PresenceService, PresenceSettings
from tests.services.world import Clock, Timers
from tests.stores.presence_nodes import GRACE, Backing, Group
from tests.waiting import until

SETTLE = 2.0
INTERVAL = 0.25


class Watcher:
    """A connection."""

    def __init__(self, number: int, true_id: TrueId, session: str) -> None:
        self.id = ConnectionId(number)
        self.true_id = true_id
        self.session = SessionId(session)
        self.heard: list[dict[str, Any]] = []

    def on_presence(self, array: bytes) -> bool:
        self.heard.append(json.loads(array)[1])
        return True

    def told(self) -> list[tuple[str, int]]:
        return [(each["state"], each["connections"]) for each in self.heard]


class Node:
    """A presence service on a redis store, with timers that the test runs."""

    def __init__(self, backing: Backing, group: Group, timers: Timers, settle: float) -> None:
        self.backing = backing
        self.clock = group.clock
        self.service = PresenceService(
            PresenceSettings(GRACE, settle, INTERVAL, 3, True),
            Metrics(),
            group.clock,
            timers._monotonic,
            timers.call_later,
            store=backing.presence,
        )
        self.gone: list[TrueId] = []
        self.service.on_gone = self.gone.append

    def connect(self, number: int, true_id: TrueId, session: str, name: str = "P") -> Watcher:
        watcher = Watcher(number, true_id, session)
        self.service.on_connected(watcher, watcher.session, name)
        return watcher

    def lose(self, watcher: Watcher, *, left: bool = False) -> None:
        self.service.on_disconnected(watcher, left=left)

    def say(self, watcher: Watcher, state: Any, status: str | None = None) -> None:
        self.service.set_state(watcher, PresenceSet(state, status))

    def ask_to_watch(self, watcher: Watcher, *true_ids: TrueId) -> list[Any]:
        answers: list[Any] = []

        def done(answer: dict[str, object] | RequestRefused) -> None:
            answers.append(answer["presence"] if isinstance(answer, dict) else answer)

        self.service.watch(watcher, true_ids, done)
        return answers


class Scene:
    """Nodes a and b, open in `async with`; all clocks are the test's."""

    def __init__(self, url: str, *, settle: float = SETTLE, partitions: int = 4) -> None:
        self.group = Group("a", "b", partitions=partitions)
        self.monotonic = Clock()
        self.timers = Timers(self.monotonic)
        self._backings = [Backing(url, name, self.group) for name in ("a", "b")]
        self.nodes = [Node(each, self.group, self.timers, settle) for each in self._backings]

    async def __aenter__(self) -> Scene:
        for backing in self._backings:
            await backing.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        for backing in self._backings:
            await backing.redis.close()

    async def pass_by(self, seconds: float = 0.0) -> None:
        """Let time pass, in steps; what is written and published meanwhile has arrived."""
        steps = max(4, min(40, int(seconds / 0.25)))
        for _ in range(steps):
            self.group.clock.now += max(seconds, 0.2) / steps
            self.monotonic.now += max(seconds, 0.2) / steps
            self.timers.run()
            for backing in self._backings:
                await backing.settled()

    async def watch(self, node: Node, watcher: Watcher, *true_ids: TrueId) -> dict[TrueId, Any]:
        answers = node.ask_to_watch(watcher, *true_ids)
        await until(lambda: answers)
        assert isinstance(answers[0], dict)
        return answers[0]
