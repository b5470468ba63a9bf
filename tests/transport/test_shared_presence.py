"""Presence, listings, attendance and memberships over gateways that share one Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from gateway.config import Config
from gateway.messages import ListPlayers, TrueId
from gateway.server import Gateway
from tests.gateway_process import GatewayProcess
from tests.transport.client import Clients, Player, WebSocket
from tests.transport.conftest import change, nothing_runs
from tests.waiting import until
from tests.webhook_receiver import SECRET, Receiver

pytestmark = pytest.mark.gen_test(timeout=120)

GRACE, SETTLE = 4.0, 1.0
PRESENCE = {"grace": GRACE, "settle": SETTLE, "interval": 0.0}


@pytest.fixture
def receiver(io_loop: IOLoop) -> Iterator[Receiver]:
    receiver = io_loop.run_sync(started)
    yield receiver
    io_loop.run_sync(receiver.stop)


async def started() -> Receiver:
    return Receiver()


@pytest.fixture
def sections(redis_url: str, receiver: Receiver, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """What is not default in the nodes' configuration."""
    secret_file = tmp_path / "secret"
    secret_file.write_text(SECRET)
    secret_file.chmod(0o600)
    return {
        "presence": PRESENCE,
        "store": {"url": redis_url, "node_lease": 3.0},
        "webhooks": {"url": receiver.url, "secret_file": str(secret_file)},
    }


@pytest.fixture
def gateways(
    io_loop: IOLoop, settings: Config, sections: dict[str, dict[str, Any]], tmp_path: Path
) -> Iterator[list[Gateway]]:
    """Two gateways on one Redis."""
    config = change(settings, **sections)
    gateways = [Gateway(config, tmp_path / name, {}) for name in ("a", "b")]
    for gateway in gateways:
        io_loop.run_sync(gateway.start)
    yield gateways
    for gateway in gateways:
        io_loop.run_sync(gateway.stop)
    io_loop.run_sync(nothing_runs)


@pytest.fixture
def nodes(io_loop: IOLoop, gateways: list[Gateway]) -> Iterator[list[Clients]]:
    """The same, as clients reach them."""
    clients = [Clients(f"http://127.0.0.1:{gateway.port}") for gateway in gateways]
    yield clients
    for each in clients:
        io_loop.run_sync(each.close)


class Ear:
    """Collects what a player is told of presence and rooms, until it is closed."""

    def __init__(self, player: Player) -> None:
        self._player = player
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        for packet in self._player._set_aside:
            self._take(packet)
        while True:
            self._take(str(await self._player.link.receive(60.0)))

    def _take(self, packet: str) -> None:
        if packet.startswith("42["):
            name, payload, *_ = json.loads(packet[2:])
            self.heard.append((name, payload))

    def states(self, of: Player) -> list[tuple[str, int]]:
        return [
            (payload["state"], payload["connections"])
            for name, payload in self.heard
            if name == "presence" and payload["true_id"] == of.true_id
        ]

    def left(self) -> list[str]:
        return [each["left"] for name, each in self.heard if name == "room" and "left" in each]

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def ear(player: Player) -> AsyncIterator[Ear]:
    listening = Ear(player)
    try:
        yield listening
    finally:
        await listening.close()


async def until_true(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what takes another call to find out."""
    async with asyncio.timeout(30):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def watch(watcher: Player, player: Player) -> dict[str, Any]:
    answer = await watcher.call("presence_watch", {"true_ids": [player.true_id]})
    known: dict[str, Any] = answer["presence"][player.true_id]
    return known


async def is_active(watcher: Player, player: Player) -> bool:
    """Whether others see that the player is here."""
    return bool((await watch(watcher, player))["state"] == "active")


async def is_left(member: Player, members: int) -> bool:
    """Whether the room of a member has so many now."""
    return bool((await member.call("members", {"room": "r"}))["members"] == members)


def moves(player: Player, clients: Clients) -> Any:
    """The client connects to another node, as stock clients do."""
    return clients.player("websocket", {"pid": player.pid})


def attendance(receiver: Receiver, player: Player) -> list[str]:
    return [
        event["type"].removeprefix("player.")
        for event in receiver.events
        if event["true_id"] == player.true_id and event["type"].startswith("player.")
    ]


async def test_players_at_another_node_are_watched_and_listed(
    nodes: list[Clients], receiver: Receiver
) -> None:
    first, second = nodes
    ann, eve = await first.player(), await second.player()
    async with ear(ann):
        # It answers the probe: the copied tab is another session.
        other = await second.player("websocket", {"token": ann.session["token"]})
    assert other.session["session_id"] != ann.session["session_id"]

    async def both() -> bool:
        return bool((await watch(eve, ann))["connections"] == 2)

    await until_true(both)
    async with ear(eve) as listening:
        await ann.call("presence_set", {"state": "hidden"})
        await other.call("presence_set", {"state": "hidden", "status": "afk"})
        await until(lambda: ("hidden", 2) in listening.states(ann))
        await other.call("logout", {})
        await until(lambda: listening.states(ann)[-1] == ("hidden", 1))
    page = await eve.call("players", {"limit": 1})
    found = [each["true_id"] for each in page["players"]]
    page = await eve.call("players", {"limit": 1, "cursor": page["cursor"]})
    found += [each["true_id"] for each in page["players"]]
    assert sorted(found) == sorted([ann.true_id, eve.true_id])
    assert page["cursor"] is None
    await until(lambda: attendance(receiver, ann) == ["online"])


async def test_nobody_notices_a_player_who_moves_to_another_node(
    nodes: list[Clients], receiver: Receiver
) -> None:
    first, second = nodes
    eve, ann = await second.player(), await first.player()
    for player in (eve, ann):
        assert (await player.call("join", {"room": "r"}))["ok"]
    await ann.call("presence_set", {"state": "hidden"})

    async def hidden() -> bool:
        return bool((await watch(eve, ann))["state"] == "hidden")

    await until_true(hidden)
    async with ear(eve) as listening:
        # What was answered already may be told once more.
        await asyncio.sleep(0.5)
        listening.heard.clear()
        # Its old connection is open still, then broken first.
        ann = await moves(ann, second)
        assert ann.session["resumed"]
        await ann.call("presence_set", {"state": "hidden"})
        await asyncio.sleep(SETTLE * 1.5)
        assert isinstance(ann.link, WebSocket)
        ann.link.connection.close()
        ann = await moves(ann, first)
        await ann.call("presence_set", {"state": "hidden"})
        await asyncio.sleep(SETTLE * 1.5)
        assert listening.states(ann) == []
        assert listening.left() == []
        await ann.call("presence_set", {"state": "active"})
        await until(lambda: listening.states(ann) == [("active", 1)])
    await until(lambda: attendance(receiver, ann) == ["online"])


async def test_members_at_other_nodes_are_listed_as_they_are(nodes: list[Clients]) -> None:
    first, second = nodes
    ann = await first.player("websocket", {"guest": True, "name": "Ann"})
    eve = await second.player("websocket", {"guest": True, "name": "Eve"})
    for player in (ann, eve):
        await player.call("join", {"room": "r"})
    await ann.call("presence_set", {"state": "hidden"})

    async def listed() -> bool:
        page = await eve.call("members", {"room": "r"})
        found = [(each.get("name"), each["state"]) for each in page.get("players", ())]
        return bool(sorted(found, key=str) == [("Ann", "hidden"), ("Eve", "active")])

    await until_true(listed)


async def test_who_logs_out_of_the_last_node_is_gone_at_once(
    nodes: list[Clients], receiver: Receiver
) -> None:
    first, second = nodes
    ann, eve, zoe = await first.player(), await second.player(), await second.player()
    for player in (ann, eve, zoe):
        await player.call("join", {"room": "r"})
    await until_true(lambda: is_active(eve, ann))
    async with ear(eve) as listening:
        await ann.call("logout", {})
        await until_true(lambda: is_left(zoe, 2))
        await until(lambda: listening.left() == [ann.true_id])
        await until(lambda: listening.states(ann)[-1:] == [("offline", 0)])
        await until(lambda: attendance(receiver, ann) == ["online", "offline"])
        await asyncio.sleep(1.5)
        assert listening.left() == [ann.true_id]
    assert attendance(receiver, ann) == ["online", "offline"]


@pytest.mark.expects_warnings
async def test_the_players_of_a_node_that_is_killed_are_away_then_gone_once(
    nodes: list[Clients],
    receiver: Receiver,
    sections: dict[str, dict[str, Any]],
    settings: Config,
    tmp_path: Path,
) -> None:
    _, second = nodes
    eve, zoe = await second.player(), await second.player()
    for player in (eve, zoe):
        await player.call("join", {"room": "r"})
    keys = {"secret_keys": list(settings.resume.secret_keys)}
    process = GatewayProcess(tmp_path, config={**sections, "resume": keys})
    await asyncio.to_thread(process.start)
    try:
        third = Clients(process.url.rstrip("/"))
        ann, bob = await third.player(), await third.player()
        for player in (ann, bob):
            assert (await player.call("join", {"room": "r"}))["ok"]
        await until_true(lambda: is_active(eve, ann))
        await until_true(lambda: is_active(eve, bob))
        async with ear(eve) as listening:
            await until(lambda: attendance(receiver, bob) == ["online"])
            process.kill()
            await third.close()
            # One comes back in time, at another node.
            bob = await moves(bob, second)
            await until(lambda: listening.states(ann)[-1:] == [("away", 0)], 30.0)
            await until(lambda: listening.states(ann)[-1:] == [("offline", 0)], 30.0)
            await until_true(lambda: is_left(zoe, 3))
            await until(lambda: listening.left() == [ann.true_id])
            await until(lambda: attendance(receiver, ann) == ["online", "offline"], 30.0)
            await asyncio.sleep(2.0)
            # What was answered already may have been told once more.
            told = [each for each in listening.states(ann) if each != ("active", 1)]
            assert told == [("away", 0), ("offline", 0)]
            assert listening.left() == [ann.true_id]
            assert {*listening.states(bob)} <= {("active", 1)}
        assert attendance(receiver, ann) == ["online", "offline"]
        assert attendance(receiver, bob) == ["online"]
    finally:
        if process._process is not None:
            process.kill()


async def test_a_player_is_kicked_and_listed_wherever_they_are(
    gateways: list[Gateway], nodes: list[Clients]
) -> None:
    _, second = nodes
    backend = gateways[0]._backend
    ann = await second.player("websocket", {"guest": True, "name": "Ann"})

    async def listed() -> bool:
        page = await backend.players(ListPlayers())
        found = [(each.true_id, each.name, each.connections) for each in page.players]
        return found == [(ann.true_id, "Ann", 1)] and page.online == 1

    await until_true(listed)
    player = await backend.player(TrueId(ann.true_id))
    assert (player.state, player.connections) == ("active", 1)
    assert await backend.kick(TrueId(ann.true_id)) == 1
    assert await ann.link.ended() == ["41"]

    async def is_gone() -> bool:
        # The other node tells the store of it after the player.
        return await backend.kick(TrueId(ann.true_id)) == 0

    await until_true(is_gone)
    back = await moves(ann, nodes[0])
    assert back.session["resumed"]


async def test_a_gateway_that_is_killed_and_started_again_ends_what_nobody_comes_back_to(
    receiver: Receiver, sections: dict[str, dict[str, Any]], settings: Config, tmp_path: Path
) -> None:
    keys = {"secret_keys": list(settings.resume.secret_keys)}
    process = GatewayProcess(tmp_path, config={**sections, "resume": keys})
    await asyncio.to_thread(process.start)
    try:
        clients = Clients(process.url.rstrip("/"))
        ann, bob = await clients.player(), await clients.player()
        for player in (ann, bob):
            assert (await player.call("join", {"room": "r"}))["ok"]
            await until(lambda player=player: attendance(receiver, player) == ["online"])
        process.kill()
        await asyncio.to_thread(process.start)
        ann = await moves(ann, clients)
        assert await is_left(ann, 2)
        page = await ann.call("members", {"room": "r"})
        assert [each["true_id"] for each in page["players"]] == [ann.true_id, bob.true_id]
        await until_true(lambda: is_left(ann, 1))
        await until(lambda: attendance(receiver, bob) == ["online", "offline"])
        assert attendance(receiver, ann) == ["online"]
        await clients.close()
    finally:
        if process._process is not None:
            process.kill()
