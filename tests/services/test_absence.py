"""Memberships of players who stay away, when several nodes share presence on one Redis."""

from __future__ import annotations

from itertools import count
from typing import Any

from gateway.errors import StoreUnavailable
from gateway.joining import Joining, OpenRooms
from gateway.messages import TrueId
from gateway.metrics import Metrics
from gateway.nodes import Alone
from gateway.rooms import Rooms, RoomSettings
from gateway.store import MembershipDone
from gateway.stores.memory import MemoryStore
from tests.services.presence_scene import SETTLE, Node, Scene, Watcher
from tests.services.world import LIMITS
from tests.stores.presence_nodes import ANN, BOB, GRACE
from tests.waiting import run, until

ROOM = "match 1"


class Store(MemoryStore):
    """The memberships that all nodes have; `left` counts who was taken out."""

    down = False

    def __init__(self) -> None:
        super().__init__(LIMITS, "e1", count(1), lambda reason, number: None)
        self.left: list[TrueId] = []

    def leave(self, room: str, true_id: TrueId, done: MembershipDone) -> None:
        if self.down:
            done(StoreUnavailable("down"))
            return
        self.left.append(true_id)
        super().leave(room, true_id, done)


class Crowd:
    """Rooms on each node of a scene, and who is connected where."""

    def __init__(self, scene: Scene, store: Store) -> None:
        self.scene = scene
        self.store = store
        self.here: dict[Node, set[TrueId]] = {node: set() for node in scene.nodes}
        self.rooms = {node: self._rooms_of(node) for node in scene.nodes}

    def _rooms_of(self, node: Node) -> Rooms:
        def connections_of(true_id: TrueId) -> tuple[Any, ...]:
            return (Silent(),) if true_id in self.here[node] else ()

        return Rooms(
            self.store,
            Joining(OpenRooms(), 0, Metrics()),
            connections_of,
            node.service,
            Metrics(),
            self.scene.monotonic,
            RoomSettings(GRACE, 0),
            Alone(),
        )

    def connect(self, node: Node, number: int, true_id: TrueId) -> Watcher:
        self.here[node].add(true_id)
        self.rooms[node].on_connected(true_id)
        return node.connect(number, true_id, f"s{number}")

    def lose(self, node: Node, watcher: Watcher, *, left: bool = False) -> None:
        self.here[node].discard(watcher.true_id)
        node.lose(watcher, left=left)

    async def expire(self) -> None:
        """All nodes look, as they do every second."""
        for _ in range(2):
            for rooms in self.rooms.values():
                rooms.expire()
            await self.scene.pass_by()

    @property
    def members(self) -> set[TrueId]:
        return set(self.store.memberships.members_of(ROOM))


class Silent:
    """A connection that nobody asks what it was told."""

    def send_event(self, array: bytes) -> None:
        pass


async def joined(crowd: Crowd, *true_ids: TrueId) -> None:
    for true_id in true_ids:
        answers: list[object] = []
        crowd.store.join(ROOM, true_id, answers.append)
        assert answers


def test_it_ends_once_after_the_grace_wherever_the_player_was(redis_url: str) -> None:
    async def scenario() -> None:
        async with Scene(redis_url) as scene:
            crowd = Crowd(scene, Store())
            a, b = scene.nodes
            players = [TrueId(f"p{number}") for number in range(8)]
            tabs = [crowd.connect(b, number, each) for number, each in enumerate(players)]
            await joined(crowd, *players)
            await scene.pass_by()
            for tab in tabs:
                crowd.lose(b, tab)
            await scene.pass_by(SETTLE + 0.5)
            await crowd.expire()
            scene.group.clock.now += GRACE - SETTLE - 2.0
            # One is back in time, at the other node.
            crowd.connect(a, 100, players[0])
            await crowd.expire()
            assert crowd.members == {*players}
            scene.group.clock.now += 3.0
            await crowd.expire()
            await crowd.expire()
            assert crowd.members == {players[0]}
            assert sorted(crowd.store.left) == players[1:]

    run(scenario())


def test_it_ends_at_once_when_the_player_leaves_the_last_node(redis_url: str) -> None:
    async def scenario() -> None:
        async with Scene(redis_url) as scene:
            crowd = Crowd(scene, Store())
            a, b = scene.nodes
            first, second = crowd.connect(a, 1, ANN), crowd.connect(b, 2, ANN)
            await joined(crowd, ANN)
            await scene.pass_by()
            crowd.lose(a, first, left=True)
            await scene.pass_by()
            assert crowd.members == {ANN}
            crowd.lose(b, second, left=True)
            await scene.pass_by()
            assert crowd.members == set()

    run(scenario())


def test_members_found_at_the_start_and_added_while_away_have_the_grace(redis_url: str) -> None:
    async def scenario() -> None:
        async with Scene(redis_url) as scene:
            store = Store()
            crowd = Crowd(scene, store)
            await joined(crowd, ANN)
            await crowd.expire()
            scene.group.clock.now += GRACE / 2
            b = scene.nodes[1]
            await crowd.rooms[b].add(ROOM, BOB)
            await crowd.expire()
            assert crowd.members == {ANN, BOB}
            scene.group.clock.now += GRACE / 2
            await crowd.expire()
            assert crowd.members == {BOB}
            scene.group.clock.now += GRACE / 2
            await crowd.expire()
            assert crowd.members == set()

    run(scenario())


def test_an_end_that_cannot_be_kept_is_tried_again(redis_url: str) -> None:
    async def scenario() -> None:
        async with Scene(redis_url) as scene:
            crowd = Crowd(scene, Store())
            await joined(crowd, ANN)
            await crowd.expire()
            scene.group.clock.now += GRACE
            crowd.store.down = True
            await crowd.expire()
            assert crowd.members == {ANN}
            crowd.store.down = False
            await crowd.expire()
            assert crowd.members == set()

    run(scenario())


def test_another_node_goes_on_when_the_one_that_sees_to_it_dies(redis_url: str) -> None:
    async def scenario() -> None:
        async with Scene(redis_url) as scene:
            crowd = Crowd(scene, Store())
            a, b = scene.nodes
            ann = crowd.connect(a, 1, ANN)
            crowd.connect(b, 2, BOB)
            await joined(crowd, ANN, BOB)
            await scene.pass_by()
            assert (await scene.watch(b, b.connect(9, TrueId("eve"), "e"), ANN))[ANN]
            # It dies with a player, and is missed.
            crowd.here[a].clear()
            del crowd.rooms[a]
            a.service.stop()
            assert ann.told() == []
            scene.group.owner = "b"
            scene.group.dies("a")
            await crowd.expire()
            scene.group.is_listed()
            await crowd.expire()
            assert crowd.members == {ANN, BOB}
            scene.group.clock.now += GRACE + 1
            await crowd.expire()
            assert crowd.members == {BOB}

    run(scenario())


def test_a_store_that_is_away_is_told_of_new_members_later(redis_url: str) -> None:
    async def scenario() -> None:
        async with Scene(redis_url) as scene:
            crowd = Crowd(scene, Store())
            _, b = scene.nodes
            partitions = b.backing.partitions
            mine = partitions.of(BOB)
            epoch, partitions.epochs[mine] = partitions.epochs[mine], b"another1"
            await crowd.rooms[b].add(ROOM, BOB)
            await until(lambda: partitions.epochs[mine] == epoch)
            await crowd.expire()
            scene.group.clock.now += GRACE
            await crowd.expire()
            assert crowd.members == set()

    run(scenario())
