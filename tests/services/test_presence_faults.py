"""Presence of several nodes while connections to Redis break: in the end all watchers are right."""

from __future__ import annotations

import asyncio
import random
from itertools import count
from typing import Any

import pytest

from gateway.messages import TrueId
from tests.redis_servers import RedisServer
from tests.services.presence_scene import SETTLE, Node, Scene, Watcher
from tests.waiting import run, until

STEPS = 60
SESSIONS = ("s1", "s2")


class Crowd:
    """Players whose sessions are at one node each, or at none, and a watcher at each node."""

    def __init__(self, scene: Scene, chance: random.Random) -> None:
        self.scene = scene
        self.chance = chance
        self.players = [TrueId(f"p{number}") for number in range(3)]
        self.numbers = count(1)
        self.tabs: dict[tuple[TrueId, str], tuple[Node, Watcher, str]] = {}
        self.watchers: list[Watcher] = []

    async def watch(self) -> None:
        for node in self.scene.nodes:
            watcher = node.connect(next(self.numbers), TrueId(f"eve{next(self.numbers)}"), "e")
            self.watchers.append(watcher)
            await self.scene.watch(node, watcher, *self.players)

    def step(self) -> None:
        key = (self.chance.choice(self.players), self.chance.choice(SESSIONS))
        found = self.tabs.get(key)
        match self.chance.choice(["connect", "connect", "move", "lose", "leave", "hide", "show"]):
            case "connect" | "move":
                node = self.chance.choice(self.scene.nodes)
                tab = node.connect(next(self.numbers), *key)
                if found is not None:
                    # Its old connection is closed when the other node has heard of it.
                    found[0].lose(found[1])
                self.tabs[key] = (node, tab, "")
            case "lose" | "leave" as how if found is not None:
                found[0].lose(found[1], left=how == "leave")
                del self.tabs[key]
            case "hide" | "show" as how if found is not None:
                state = "hidden" if how == "hide" else "active"
                found[0].say(found[1], state)
                self.tabs[key] = (*found[:2], state)

    def truth(self) -> dict[TrueId, tuple[str, int]]:
        """What all are to see, once every page has said what it is."""
        truth: dict[TrueId, tuple[str, int]] = {}
        for player in self.players:
            states = [tab[2] for (owner, _), tab in self.tabs.items() if owner == player]
            if states:
                truth[player] = ("active" if "active" in states else "hidden", len(states))
        return truth

    def say_all(self) -> None:
        for key, (node, tab, _) in self.tabs.items():
            state = self.chance.choice(["active", "hidden"])
            node.say(tab, state)
            self.tabs[key] = (node, tab, state)

    def seen(self, watcher: Watcher) -> dict[TrueId, tuple[str, int]]:
        seen = {}
        for event in watcher.heard:
            seen[TrueId(event["true_id"])] = (event["state"], event["connections"])
        gone = ("away", "offline")
        return {player: what for player, what in seen.items() if what[0] not in gone}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("wiped", [False, True])
def test_all_watchers_are_right_in_the_end(
    redis_url: str, redis_server: RedisServer, seed: int, wiped: bool
) -> None:
    async def scenario() -> None:
        chance = random.Random(seed)
        async with Scene(redis_url) as scene:
            crowd = Crowd(scene, chance)
            await crowd.watch()
            for _ in range(STEPS):
                crowd.step()
                if chance.random() < 0.15:
                    redis_server.ask("CLIENT", "KILL", "TYPE", chance.choice(["normal", "pubsub"]))
                if wiped and chance.random() < 0.05:
                    prefix = scene.nodes[0].backing.redis.prefix(chance.randrange(4))
                    if keys := redis_server.ask("KEYS", prefix + b"*"):
                        redis_server.ask("DEL", *keys)
                scene.monotonic.now += chance.choice([0.01, 0.1, SETTLE])
                scene.group.clock.now += 0.1
                scene.timers.run()
                await asyncio.sleep(chance.choice([0.0, 0.0, 0.002, 0.02]))
            await until(lambda: all(node.backing.redis.available for node in scene.nodes))
            for node in scene.nodes:
                # As every second: parts of the store that have lost their data are found.
                await node.backing.totals.look()
            crowd.say_all()

            def right() -> bool:
                scene.monotonic.now += 0.2
                scene.timers.run()
                return all(crowd.seen(watcher) == crowd.truth() for watcher in crowd.watchers)

            await until(right)
            # What they would be told now is the same.
            fresh = scene.nodes[0].connect(next(crowd.numbers), TrueId("zoe"), "z")
            for player in crowd.players:
                known: Any = (await scene.watch(scene.nodes[0], fresh, player))[player]
                scene.nodes[0].service.unwatch(fresh, [player])
                expected = crowd.truth().get(player)
                if expected is None:
                    assert known["state"] in ("away", "offline")
                else:
                    assert (known["state"], known["connections"]) == expected

    run(scenario())
