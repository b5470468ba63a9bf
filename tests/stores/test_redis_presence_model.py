"""What the scripts make of presence is what a model makes of it, whatever nodes say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.messages import TrueId
from tests.stores.presence_nodes import GRACE, Backing, Group, Node, nodes_of

NAMES = ("a", "b", "c")
#: Watches, and says nothing itself.
WATCHER = "w"
SESSIONS = ("s1", "s2")
_numbers = count()

tabs = st.dictionaries(
    st.sampled_from(SESSIONS),
    st.sampled_from(["active", "hidden", "new", "new lost", "hidden lost"]),
    max_size=2,
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.sampled_from(NAMES), tabs, st.sampled_from([None, "x", "y"])),
        st.tuples(st.just("say"), st.sampled_from(NAMES), st.just({}), st.none()),
        st.tuples(st.just("leave"), st.sampled_from(NAMES)),
        st.tuples(st.just("wait"), st.sampled_from([0.5, GRACE / 2, GRACE])),
        st.tuples(st.just("sweep")),
    ),
    min_size=3,
    max_size=25,
)


@dataclass
class Model:
    """One player. `told` is what a node that watches is to hear."""

    entries: dict[str, dict[str, tuple[str, bool]]] = field(default_factory=dict)
    state: str = "offline"
    connections: int = 0
    since: float | None = None
    status: str | None = None
    due: float | None = None
    told: list[tuple[str, int]] = field(default_factory=list)
    gone: bool = False

    def say(self, node: str, said: dict[str, str], status: str | None, now: float) -> None:
        kept: dict[str, tuple[str, bool]] = {}
        for session, words in said.items():
            state, connected = words.split()[0], "lost" not in words
            owners = [each for each in self.entries if session in self.entries[each]]
            others = [each for each in owners if each != node]
            assert len(others) <= 1, "a session is at one node"
            if state == "new":
                source = others or owners
                state = self.entries[source[0]][session][0] if source else "active"
            if others and self.entries[others[0]][session][1] and not connected:
                continue
            for other in others:
                del self.entries[other][session]
                if not self.entries[other]:
                    del self.entries[other]
            kept[session] = (state, connected)
        self.entries.pop(node, None)
        if kept:
            self.entries[node] = kept
        # The status stays while they are not offline; that of a node counts while it says it.
        self._merge(status if kept else None, now, left=False)

    def leave(self, node: str, now: float) -> None:
        self.entries.pop(node, None)
        self._merge(None, now, left=True)

    def _merge(self, status: str | None, now: float, *, left: bool) -> None:
        states = [state for entry in self.entries.values() for state, _ in entry.values()]
        before = (self.state, self.connections, self.status)
        if not states:
            if self.state == "offline":
                if left:
                    self.gone = True
                elif self.due is None:
                    self.due = now + GRACE
                return
            if left and self.state != "away":
                self._set_offline()
                return
            state = "away"
            self.due = self.due or now + GRACE
        else:
            state = "active" if "active" in states else "hidden"
            self.due = None
            self.gone = False
        if status is not None:
            self.status = status
        if state != self.state:
            self.state, self.since = state, now
        self.connections = len(states)
        if (self.state, self.connections, self.status) != before:
            self.told.append((self.state, self.connections))

    def sweep(self, now: float) -> None:
        if self.due is not None and self.due <= now:
            self._set_offline()

    def _set_offline(self) -> None:
        if self.state != "offline":
            self.told.append(("offline", 0))
        self.entries, self.state, self.connections = {}, "offline", 0
        self.since = self.status = self.due = None
        self.gone = True


class Stage:
    """Nodes that stay open over all examples, each of which has a player of its own."""

    def __init__(self, url: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.group = Group(*NAMES, WATCHER, partitions=1)
        backings = [Backing(url, name, self.group) for name in (*NAMES, WATCHER)]
        self._nodes = nodes_of(self.group, backings)
        opened = self.loop.run_until_complete(self._nodes.__aenter__())
        self.nodes: dict[str, Node] = {node.name: node for node in opened}

    def close(self) -> None:
        self.loop.run_until_complete(self._nodes.__aexit__(None, None, None))
        self.loop.close()


@pytest.fixture
def stage(redis_url: str) -> Iterator[Stage]:
    stage = Stage(redis_url)
    yield stage
    stage.close()


@settings(
    deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=steps)
def test_all_nodes_together_are_what_the_model_says(stage: Stage, steps: list[Any]) -> None:
    stage.loop.run_until_complete(_play(stage, TrueId(f"p{next(_numbers)}"), steps))


async def _play(stage: Stage, player: TrueId, steps: list[Any]) -> None:
    group, nodes, model = stage.group, stage.nodes, Model()
    sweeper, watcher = nodes[group.owner], nodes[WATCHER]
    watcher.told.clear()
    version = (await watcher.watch(player))[player].version
    for step in steps:
        group.clock.now += 0.25
        now = group.clock.now
        match step:
            case ("say", node, said, status):
                words = [f"{session} {state}" for session, state in said.items()]
                await nodes[node].say(player, *words, status=status if said else None)
                model.say(node, said, status, now)
            case ("leave", node):
                await nodes[node].say(player, left=True)
                model.leave(node, now)
            case ("wait", seconds):
                group.clock.now += seconds
            case ("sweep",):
                sweeper.gone.clear()
                await sweeper.sweep()
                model.sweep(group.clock.now)
                assert (player in sweeper.gone) == model.gone
                if model.gone:
                    sweeper.presence.ended(player)
                    await sweeper.backing.settled()
                    model.gone = False
        found = (await watcher.look(player))[player]
        seen = found.seen
        assert found.version >= version
        version = found.version
        if seen is None:
            assert model.state == "offline"
        else:
            assert (seen.state, seen.connections, seen.since, seen.status) == (
                model.state,
                model.connections,
                model.since,
                model.status,
            )
    async with asyncio.timeout(15):
        while len(watcher.told) < len(model.told):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert [(state, connections) for _, state, connections in watcher.told] == model.told
    # Nothing of this player is left to the next example.
    for name in NAMES:
        await nodes[name].say(player, left=True)
    watcher.presence.unwatch([player])
    group.clock.now += GRACE
    await sweeper.sweep()
    sweeper.presence.ended(player)
    await sweeper.backing.settled()
