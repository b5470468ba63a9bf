"""Two whole gateways on one Redis: where a player is connected makes no difference."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from gateway.admin import Admin
from gateway.api_types import BanRequest, MintRequest, SendRequest
from gateway.config import Config
from gateway.cut_off import PATIENCE
from gateway.messages import SessionId, TrueId
from gateway.server import Gateway
from gateway.stores.redis.keys import partition_of
from tests.faults.proxy import Proxy
from tests.gateway_process import GatewayProcess
from tests.redis_servers import RedisServer, RedisServers, free_port, wait_until
from tests.transport.client import Clients, Ended, Player, WebSocket, connect_refused, refusal, soon
from tests.transport.conftest import change, nothing_runs
from tests.transport.nodes import moved, url
from tests.waiting import until

pytestmark = pytest.mark.gen_test(timeout=60)


class Cluster:
    """Gateways on one Redis, and clients of each."""

    def __init__(self, io_loop: IOLoop, settings: Config, folder: Path) -> None:
        self._io_loop = io_loop
        self._settings = settings
        self._folder = folder
        self.gateways: list[Gateway] = []
        self.clients: list[Clients] = []

    def start(self, count: int = 2) -> None:
        for _ in range(count):
            self._io_loop.run_sync(partial(self.add, self._settings))

    async def add(self, settings: Config) -> None:
        gateway = Gateway(settings, self._folder / f"{len(self.gateways)}", {})
        await gateway.start()
        self.gateways.append(gateway)
        self.clients.append(Clients(url(gateway)))

    def stop(self) -> None:
        self._io_loop.run_sync(self.close)
        self._io_loop.run_sync(nothing_runs)

    async def close(self) -> None:
        for clients in self.clients:
            await clients.close()
        for gateway in self.gateways:
            await gateway.stop()

    async def player(self, at: int, **auth: object) -> Player:
        """Log in at one of the nodes, as a guest unless told."""
        return await self.clients[at].player("websocket", auth or {"guest": True})

    async def back(self, player: Player, at: int, offset: str | None = None) -> Player:
        """Come back at one of the nodes, as a stock client does."""
        auth: dict[str, object] = {"pid": player.pid}
        if offset is not None:
            auth["offset"] = offset
        return await self.player(at, **auth)

    def owned(self) -> list[int]:
        return [len(each._store.nodes.ownership) for each in self.gateways]  # type: ignore[attr-defined]


@pytest.fixture
def two(io_loop: IOLoop, settings: Config, tmp_path: Path, redis_url: str) -> Iterator[Cluster]:
    cluster = Cluster(io_loop, change(settings, store={"url": redis_url}), tmp_path)
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
def own_redis(redis_servers: RedisServers) -> RedisServer:
    """A server that one test may do with what it likes."""
    return redis_servers.start(appendonly="always")


@pytest.fixture
def two_of_their_own(
    io_loop: IOLoop, settings: Config, tmp_path: Path, own_redis: RedisServer
) -> Iterator[Cluster]:
    store = {"url": f"{own_redis.url}?timeout=2", "node_lease": 1.0}
    cluster = Cluster(io_loop, change(settings, store=store), tmp_path)
    cluster.start()
    yield cluster
    cluster.stop()


async def cut(player: Player) -> None:
    """Lose the connection without a word."""
    assert isinstance(player.link, WebSocket)
    assert player.link.connection.protocol is not None
    player.link.connection.protocol.stream.close()
    # What was not read keeps the client's task from seeing the close.
    while await soon(player.link.connection.read_message()) is not None:
        pass


async def ended(player: Player) -> int | None:
    """Wait until the gateway has closed the connection; return its close code."""
    await player.link.ended()
    assert isinstance(player.link, WebSocket)
    return player.link.close_code


async def received(player: Player, count: int) -> tuple[list[Any], str]:
    """Return the data of so many messages, and the id of the last."""
    data, last = [], ""
    for _ in range(count):
        message, last = await player.event("message")
        assert message["id"] == last
        data.append(message["data"])
    return data, last


# Messages


async def test_the_operator_sees_at_which_nodes_a_player_is(two: Cluster) -> None:
    first, second = two.gateways
    minted = [await first._backend.mint(MintRequest(TrueId("u-1"))) for _ in range(2)]
    ann, tab = [await two.player(at, token=minted[at].token) for at in range(2)]
    for gateway, other, here, there in ((first, second, ann, tab), (second, first, tab, ann)):
        admin = Admin(gateway._services, gateway._backend, gateway._history, lambda: None, "1")
        view = await admin.player(TrueId(ann.true_id))
        assert [each.session_id for each in view.open] == [here.session["session_id"]]
        (elsewhere,) = view.elsewhere
        nodes: Any = other._store.nodes
        assert (elsewhere.node, elsewhere.address) == (nodes.id, nodes.directory.address)
        assert elsewhere.session_ids == (there.session["session_id"],)
    await cut(tab)
    await until(lambda: not second._registry.players)
    await first._store.check()
    admin = Admin(first._services, first._backend, first._history, lambda: None, "1")
    assert (await admin.player(TrueId(ann.true_id))).elsewhere == ()


async def test_a_message_reaches_a_player_at_another_node(two: Cluster) -> None:
    ann, bob = await two.player(0), await two.player(1)
    for sender, receiver in ((ann, bob), (bob, ann)):
        receipt = await sender.send(receiver, "hi")
        assert (receipt["status"], receipt["connections"]) == ("delivered", 1)
        message, offset = await receiver.event("message")
        assert message["data"] == "hi"
        assert message["from"] == sender.true_id
        assert message["id"] == offset == receipt["id"]


async def test_all_connections_of_a_player_have_a_message_once_and_are_counted(
    two: Cluster,
) -> None:
    ann = await two.player(0)
    token = await minted(two, "bob")
    first = await two.player(0, token=token)
    second = await two.player(1, token=await minted(two, "bob"))
    assert second.session["connections"] == 2
    for data in (1, 2):
        receipt = await ann.send(first, data)
        assert (receipt["status"], receipt["connections"]) == ("delivered", 2)
    assert await received(first, 2) == await received(second, 2)


async def minted(cluster: Cluster, true_id: str) -> str:
    """Return a token of a new session of a player, made at the last node."""
    from gateway.api_types import MintRequest

    return (await cluster.gateways[-1]._backend.mint(MintRequest(true_id))).token


async def test_an_event_that_is_not_stored_reaches_a_player_at_another_node(two: Cluster) -> None:
    ann, bob = await two.player(0), await two.player(1)
    # Once a message has come, bob is up to date.
    await ann.send(bob, 0)
    assert await bob.message() == 0
    receipt = await ann.send(bob, 1, volatile=True)
    assert receipt == {
        "ok": True,
        "id": None,
        "status": "delivered",
        "connections": 1,
        "duplicate": False,
    }
    (message,) = await bob.event("message")
    assert message["data"] == 1
    assert "id" not in message
    await cut(bob)
    await until(lambda: len(two.gateways[1]._registry) == 0)
    await soon(two.gateways[1]._store.check())
    receipt = await ann.send(bob, 2, volatile=True)
    assert (receipt["status"], receipt["connections"]) == ("dropped", 0)


async def test_a_player_who_goes_from_node_to_node_misses_nothing_and_has_nothing_twice(
    two: Cluster,
) -> None:
    ann, bob = await two.player(0), await two.player(1)
    sent = asyncio.create_task(send_all(ann, bob, 300))
    got: list[Any] = []
    offset: str | None = None
    for turn in range(12):
        data, offset = await received(bob, 15)
        got += data
        if turn % 2:
            await cut(bob)
        bob = await two.back(bob, turn % 2, offset)
        assert bob.session["outcome"] == "resumed"
    await sent
    got += (await received(bob, 300 - len(got)))[0]
    assert got == list(range(300))
    await ann.send(bob, "last")
    assert await bob.message() == "last"


async def send_all(sender: Player, receiver: Player, count: int) -> None:
    for number in range(count):
        receipt = await sender.send(receiver, number)
        assert receipt["ok"], receipt


async def patiently_back(
    cluster: Cluster, player: Player, offset: str | None, at: int = 1
) -> Player:
    """Come back as soon as the store is there again."""
    while True:
        with suppress(Ended):
            return await cluster.back(player, at, offset)
        await asyncio.sleep(0.05)


def hearing(server: RedisServer) -> list[int]:
    """Return the links by which gateways hear each other, the one made last at the end."""
    links = server.ask("CLIENT", "LIST", "TYPE", "pubsub").decode().splitlines()
    return sorted(int(link.split()[0].removeprefix("id=")) for link in links)


@pytest.mark.expects_warnings
async def test_what_was_published_while_a_node_did_not_hear_is_fetched(
    two_of_their_own: Cluster, own_redis: RedisServer
) -> None:
    cluster = two_of_their_own
    ann, bob = await cluster.player(0), await cluster.player(1)
    for number in range(50):
        if number % 10 == 5:
            await until(lambda: len(hearing(own_redis)) == 2)
            # Bob's gateway was started last, and has lost its link last.
            assert own_redis.ask("CLIENT", "KILL", "ID", hearing(own_redis)[-1]) == 1
        receipt = await ann.send(bob, number)
        assert receipt["ok"], receipt
    got: list[Any] = []
    offset = None
    while len(got) < 50:
        try:
            data, offset = await received(bob, 1)
        except Ended:
            # A read that was under way has failed with the link: its client comes back.
            bob = await patiently_back(cluster, bob, offset)
        else:
            got += data
    assert got == list(range(50))
    await ann.send(bob, "and on")
    assert await bob.message() == "and on"


# Sessions


async def test_a_client_that_is_back_at_another_node_fences_its_old_connection(
    two: Cluster,
) -> None:
    ann, bob = await two.player(0), await two.player(1)
    new = await two.back(ann, 1)
    assert new.session["resumed"]
    assert new.session["connections"] == 1
    assert await ended(ann) is not None
    await until(lambda: len(two.gateways[0]._registry) == 0)
    receipt = await bob.send(ann, 1)
    assert (receipt["status"], receipt["connections"]) == ("delivered", 1)
    assert await new.message() == 1
    text = two.gateways[1].metrics.render().decode()
    assert 'gateway_takeovers_total{means="pid"} 1.0' in text
    # The late close has changed nothing, and back it goes.
    again = await two.back(new, 0)
    assert await ended(new) is not None
    await bob.send(ann, 2)
    assert await received(again, 2) == ([1, 2], again_id := (await two_ids(two, ann.true_id))[-1])
    assert again_id


async def two_ids(cluster: Cluster, true_id: str) -> list[str]:
    found: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
    cluster.gateways[0]._store.read(
        TrueId(true_id),
        0,
        100,
        0,
        lambda batch: found.set_result([each.id.decode() for each in batch.messages]),  # type: ignore[union-attr]
    )
    return await soon(found)


async def test_a_copied_tab_whose_original_is_alive_at_another_node_gets_its_own_session(
    two: Cluster,
) -> None:
    ann = await two.player(0)
    # Its socket answers pings only while it is read.
    reading = asyncio.create_task(ann.event("message"))
    copy = await two.player(1, token=ann.session["token"])
    assert copy.true_id == ann.true_id
    assert copy.session["session_id"] != ann.session["session_id"]
    assert copy.session["connections"] == 2
    receipt = await copy.send(ann, "both")
    assert receipt["connections"] == 2
    assert (await soon(reading))[0]["data"] == "both"
    assert await copy.message() == "both"


@pytest.mark.settings(resume={"probe_timeout": 0.3})
async def test_a_token_whose_connection_at_another_node_is_dead_takes_over(two: Cluster) -> None:
    ann = await two.player(0)
    # Nobody reads: no ping is answered.
    new = await two.player(1, token=ann.session["token"])
    assert new.session["session_id"] == ann.session["session_id"]
    assert new.session["connections"] == 1
    await until(lambda: len(two.gateways[0]._registry) == 0)


@pytest.mark.expects_warnings
@pytest.mark.settings(resume={"probe_timeout": 0.3})
async def test_an_old_token_at_another_node_is_theft_and_ends_the_session(two: Cluster) -> None:
    ann = await two.player(0)
    tokens = [ann.session["token"]]
    for at in (1, 0):
        await cut(ann)
        await until(lambda: not any(len(each._registry) for each in two.gateways))
        ann = await two.player(at, token=tokens[-1])
        tokens.append(ann.session["token"])
    link = await two.clients[1].websocket()
    assert await connect_refused(link, {"token": tokens[0]}) == "token_reused"
    await ended(ann)
    for at in (0, 1):
        link = await two.clients[at].websocket()
        assert await connect_refused(link, {"token": tokens[-1]}) == "session_revoked"


async def test_a_ban_at_one_node_closes_what_is_open_at_all(two: Cluster) -> None:
    ann, bob = await two.player(0), await two.player(1)
    await soon(two.gateways[1]._backend.ban(TrueId(ann.true_id), BanRequest(None, "cheats")))
    await ended(ann)
    for at in (0, 1):
        link = await two.clients[at].websocket()
        assert await connect_refused(link, {"pid": ann.pid}) == "banned"
    assert (await bob.send(ann, "later"))["status"] == "queued"
    await soon(two.gateways[0]._backend.lift_ban(TrueId(ann.true_id)))
    back = await two.back(ann, 1)
    assert await back.message() == "later"


async def test_a_logout_everywhere_ends_the_sessions_at_all_nodes(two: Cluster) -> None:
    first = await two.player(0, token=await minted(two, "ann"))
    second = await two.player(1, token=await minted(two, "ann"))
    assert await first.call("logout", {"everywhere": True}) == {"ok": True}
    await ended(first)
    await ended(second)
    for player in (first, second):
        link = await two.clients[0].websocket()
        refused = await connect_refused(link, {"token": player.session["token"]})
        assert refused == "session_revoked"


async def test_the_backend_sees_and_ends_sessions_of_other_nodes(two: Cluster) -> None:
    ann = await two.player(0)
    backend = two.gateways[1]._backend
    info = await soon(backend.player(TrueId(ann.true_id)))
    assert [each.connected for each in info.sessions] == [True]
    session_id = SessionId(ann.session["session_id"])
    await soon(backend.revoke_session(TrueId(ann.true_id), session_id))
    await ended(ann)
    info = await soon(backend.player(TrueId(ann.true_id)))
    assert info.sessions == ()


async def test_a_message_of_the_backend_to_all_reaches_players_at_all_nodes(two: Cluster) -> None:
    players = [await two.player(at) for at in (0, 1, 0)]
    request = SendRequest(data=b"5", all=True)  # type: ignore[arg-type]
    result = await soon(two.gateways[1]._backend.send("game", request))
    assert result.players == 3  # type: ignore[union-attr]
    assert [await player.message() for player in players] == [5, 5, 5]


@pytest.mark.settings(limits={"connections_per_player": 2})
async def test_a_players_connections_are_limited_over_all_nodes(two: Cluster) -> None:
    players = [await two.player(at, token=await minted(two, "ann")) for at in (0, 1)]
    token = await minted(two, "ann")
    for at in (0, 1):
        link = await two.clients[at].websocket()
        assert await connect_refused(link, {"token": token}) == "rate_limited"
    # Coming back is not one more.
    assert (await two.back(players[0], 1)).session["connections"] == 2


# Nodes that go, and a Redis that does


@pytest.mark.settings(server={"shutdown_grace": 10.0, "reconnects_per_second": 1000.0})
async def test_a_node_that_drains_hands_its_players_and_duties_to_the_others(
    two: Cluster,
) -> None:
    ann, bob = await two.player(0), await two.player(1)
    draining = asyncio.create_task(two.gateways[0].drain())
    (told,) = await ann.event("goaway")
    assert told["reason"] == "draining"
    await until(lambda: two.owned() == [0, 256])
    # It hears of messages until it is gone.
    assert (await bob.send(ann, 1))["connections"] == 1
    assert await ann.message() == 1
    with suppress(Ended):
        await ann.link.receive()
    back = await two.back(ann, 1)
    assert back.session["outcome"] == "resumed"
    await soon(draining)
    await bob.send(ann, 2)
    assert (await received(back, 2))[0] == [1, 2]


@pytest.mark.expects_warnings
async def test_a_redis_that_is_killed_and_started_again_has_lost_nothing(
    two_of_their_own: Cluster, own_redis: RedisServer
) -> None:
    cluster = two_of_their_own
    ann, bob = await cluster.player(0), await cluster.player(1)
    for number in range(20):
        receipt = await ann.send(bob, number)
        assert receipt["ok"], receipt
    got, offset = await received(bob, 20)
    own_redis.kill()
    refused = await ann.send(bob, "while it is away")
    assert refused["error"]["code"] == "unavailable"
    own_redis.start()
    await until(lambda: all(each._not_ready() is None for each in cluster.gateways))
    ann, bob = await cluster.back(ann, 1), await cluster.back(bob, 0, offset)
    assert bob.session["outcome"] == "resumed"
    for number in range(20, 30):
        receipt = await ann.send(bob, number)
        assert receipt["ok"], receipt
    got += (await received(bob, 10))[0]
    assert got == list(range(30))


@pytest.mark.expects_warnings
async def test_players_stay_while_redis_is_away_for_all_nodes(
    two_of_their_own: Cluster, own_redis: RedisServer
) -> None:
    cluster = two_of_their_own
    ann, bob = await cluster.player(0), await cluster.player(1)
    reply = await ann.call("presence_watch", {"true_ids": [bob.true_id]})
    if reply["presence"][bob.true_id]["state"] != "active":
        assert (await ann.event("presence"))[0]["state"] == "active"
    with own_redis.paused():
        await until(lambda: all(each._store.nodes.trouble for each in cluster.gateways))
        response = await soon(cluster.clients[0].fetch("/readyz"))
        assert response.code == 503
        assert b"cut off" in response.body
        refused = await ann.send(bob, "hi", id="1")
        assert refused["error"]["code"] == "unavailable"
        # Longer than another node would have to have it before players are sent there.
        await asyncio.sleep(PATIENCE + 2)
    await until(lambda: all(each._not_ready() is None for each in cluster.gateways))
    nodes: list[Any] = [each._store.nodes for each in cluster.gateways]
    await until(lambda: not any(each.state.behind for each in nodes))
    for sender, receiver in ((ann, bob), (bob, ann)):
        receipt = await sender.send(receiver, "hi", id="1")
        assert (receipt["status"], receipt["connections"]) == ("delivered", 1)
        assert await receiver.message() == "hi"
    # Nobody was sent away, and nobody was taken for gone.
    assert not any(each.state.dead for each in nodes)
    reply = await ann.call("presence_watch", {"true_ids": [bob.true_id]})
    assert reply["presence"][bob.true_id]["state"] == "active"
    for player in (ann, bob):
        assert not player._set_aside


@pytest.mark.expects_warnings
async def test_a_node_that_alone_has_lost_redis_sends_its_players_to_the_others(
    io_loop: IOLoop, settings: Config, tmp_path: Path, own_redis: RedisServer
) -> None:
    async with Proxy(own_redis.port, Random(1)) as proxy:
        cluster = Cluster(io_loop, settings, tmp_path)
        for port in (proxy.port, own_redis.port):
            store = {"url": f"redis://127.0.0.1:{port}/?timeout=2", "node_lease": 1.0}
            await cluster.add(change(settings, store=store))
        ann, bob = await cluster.player(0), await cluster.player(1)
        proxy.vanish()
        (told,) = await ann.event("goaway")
        assert told["reason"] == "cut_off"
        await ended(ann)
        back = await cluster.back(ann, 1)
        assert back.session["outcome"] == "resumed"
        assert (await bob.send(back, 1))["status"] == "delivered"
        assert await back.message() == 1
        proxy.heal()
        await until(lambda: cluster.gateways[0]._not_ready() is None)
        await cluster.close()


@pytest.mark.expects_warnings
async def test_who_was_taken_for_gone_is_here_again_when_their_node_is_back(
    two_of_their_own: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = two_of_their_own
    ann, bob = await cluster.player(0), await cluster.player(1)
    reply = await bob.call("presence_watch", {"true_ids": [ann.true_id]})
    if reply["presence"][ann.true_id]["state"] != "active":
        assert (await bob.event("presence"))[0]["state"] == "active"
    redis: Any = cluster.gateways[0]._store._redis  # type: ignore[attr-defined]
    call = redis.call

    def deaf(partition: int, script: Any, *arguments: Any) -> None:
        if script.name != "node_beat":
            call(partition, script, *arguments)

    # It only seems to be dead, and its players stay for now.
    monkeypatch.setattr(cluster.gateways[0]._cut_off, "_patience", 60.0)
    monkeypatch.setattr(redis, "call", deaf)
    assert (await bob.event("presence"))[0]["state"] == "away"
    monkeypatch.setattr(redis, "call", call)
    assert (await bob.event("presence"))[0]["state"] == "active"
    assert (await bob.send(ann, 1))["status"] == "delivered"
    assert await ann.message() == 1


@pytest.mark.expects_warnings
async def test_a_redis_that_is_full_takes_no_messages_and_all_else_goes_on(
    two_of_their_own: Cluster, own_redis: RedisServer
) -> None:
    cluster = two_of_their_own
    ann, bob = await cluster.player(0), await cluster.player(1)
    directories = [each._store.nodes.directory for each in cluster.gateways]  # type: ignore[attr-defined]
    used = own_redis.ask("INFO", "memory")["used_memory"]
    # A revocation of long ago.
    own_redis.ask("ZADD", "gw:{0}:x", 1, "s:old")
    own_redis.ask("CONFIG", "SET", "maxmemory", used // 2)
    refused = await ann.send(bob, "lost")
    assert refused["error"]["code"] == "unavailable"
    # Nodes renew their leases, and keep their duties: somebody has to make room.
    later = [each.listed + 2 * each.lease for each in directories]
    await until(lambda: all(map(float.__gt__, (each.listed for each in directories), later)))
    assert [each.cut_off for each in directories] == [False, False]
    assert sum(cluster.owned()) == 256
    for gateway in cluster.gateways:
        await gateway._sweep_store()
    assert own_redis.ask("ZCARD", "gw:{0}:x") == 0
    # Those find out, too, who write nothing.
    await until(lambda: all(each._not_ready() is not None for each in cluster.gateways))
    # Who comes back is let in, also where the store has the connection already.
    bob = await cluster.back(bob, 0)
    bob = await cluster.back(bob, 0)
    assert bob.session["outcome"] == "resumed"
    # And is seen there.
    partition = partition_of(bob.true_id, 256)
    seen, node = f"gw:{{{partition}}}:v:{bob.true_id}", cluster.gateways[0]._store.nodes.id
    await until(lambda: own_redis.ask("HEXISTS", seen, node))
    own_redis.ask("CONFIG", "SET", "maxmemory", 0)
    await until(lambda: all(each._not_ready() is None for each in cluster.gateways))
    assert (await ann.send(bob, "kept"))["status"] == "delivered"
    assert await bob.message() == "kept"


@pytest.mark.expects_warnings
async def test_a_node_alone_keeps_its_players_while_redis_stands_still(
    io_loop: IOLoop, settings: Config, tmp_path: Path, own_redis: RedisServer
) -> None:
    store = {"url": f"{own_redis.url}?timeout=2", "node_lease": 1.0}
    gateway = Gateway(change(settings, store=store), tmp_path / "alone", {})
    await gateway.start()
    nodes: Any = gateway._store.nodes
    async with Clients(url(gateway)) as clients:
        ann = await clients.player("websocket")
        with own_redis.paused():
            await until(lambda: nodes.state.duties == 0)
            assert nodes.trouble is None
        await until(lambda: nodes.state.duties == 256)
        await until(lambda: gateway._store.available and not nodes.state.behind)
        assert (await ann.send(ann, 1))["status"] == "delivered"
        assert await ann.message() == 1
    await gateway.stop()


@pytest.fixture
def two_that_wait(
    io_loop: IOLoop, settings: Config, tmp_path: Path, own_redis: RedisServer
) -> Iterator[Cluster]:
    """Two that no outage of Redis parts."""
    store = {"url": f"{own_redis.url}?timeout=2", "node_lease": 60.0}
    cluster = Cluster(io_loop, change(settings, store=store), tmp_path)
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.mark.expects_errors
@pytest.mark.parametrize("new", [0, 2, 3])
async def test_a_redis_that_has_lost_its_last_messages_is_told_to_whom_it_concerns(
    two_that_wait: Cluster, own_redis: RedisServer, tmp_path: Path, new: int
) -> None:
    """It comes back with an older state of itself, as a replica that lagged behind has it."""
    cluster = two_that_wait
    ann, bob, eve = [await cluster.player(at) for at in (0, 1, 1)]
    for number in range(3):
        assert (await ann.send(bob, number))["ok"]
        assert (await ann.send(eve, number))["ok"]
    kept = tmp_path / "kept"
    shutil.copytree(own_redis.cwd / "appendonlydir", kept)
    for number in (3, 4):
        assert (await ann.send(bob, number))["ok"]
    data, offset = await received(bob, 5)
    assert data == [0, 1, 2, 3, 4]
    assert (await received(eve, 3))[0] == [0, 1, 2]

    own_redis.kill()
    shutil.rmtree(own_redis.cwd / "appendonlydir")
    shutil.copytree(kept, own_redis.cwd / "appendonlydir")
    own_redis.start()
    # Another sender is the first to reach it: the lost messages' places are taken.
    await until(lambda: cluster.gateways[0]._store.available)
    ann = await patiently_back(cluster, ann, None, at=0)
    for number in range(new):
        receipt = await ann.send(bob, f"new {number}")
        assert receipt["ok"], receipt
    await ended(bob)
    bob = await patiently_back(cluster, bob, offset)
    assert bob.session["outcome"] == "store_reset"
    assert bob.session["gap"] == {"after": offset, "lost": None}
    # Who has what the store has goes on.
    assert (await ann.send(eve, "and on"))["connections"] == 1
    assert await eve.message() == "and on"


# Replicas that are waited for


@pytest.fixture
def replicated(
    io_loop: IOLoop, settings: Config, tmp_path: Path, redis_servers: RedisServers
) -> Iterator[tuple[Cluster, RedisServer]]:
    """Two nodes that wait for a replica, and the replica."""
    master = redis_servers.start()
    replica = redis_servers.replica(master)
    store = {"url": f"{master.url}?wait=1&wait_timeout=0.3", "node_lease": 60.0}
    cluster = Cluster(io_loop, change(settings, store=store), tmp_path)
    cluster.start()
    yield cluster, replica
    cluster.stop()


@pytest.mark.expects_warnings
async def test_what_no_replica_has_reaches_nobody_before_one_has_it(
    replicated: tuple[Cluster, RedisServer],
) -> None:
    cluster, replica = replicated
    ann, bob = await cluster.player(0), await cluster.player(1)
    # All that was there before them is read.
    assert (await ann.send(bob, "first"))["ok"]
    assert await bob.message() == "first"
    with replica.paused():
        for number in range(2):
            refused = await ann.send(bob, number, id=str(number))
            assert refused["error"]["code"] == "unavailable"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(bob.link.receive(), 1.0)
    await until(lambda: all(each._not_ready() is None for each in cluster.gateways))
    # Now they are looked for, and come once.
    assert (await received(bob, 2))[0] == [0, 1]
    for number in range(2):
        assert (await ann.send(bob, number, id=str(number)))["duplicate"]
    assert (await ann.send(bob, "and on"))["status"] == "delivered"
    assert await bob.message() == "and on"


@pytest.mark.expects_warnings
async def test_what_was_refused_and_is_lost_with_its_master_was_never_seen(
    io_loop: IOLoop, settings: Config, tmp_path: Path, redis_servers: RedisServers
) -> None:
    master = redis_servers.start()
    replica = redis_servers.replica(master)
    sentinels = redis_servers.sentinels(master, "games")
    hosts = ",".join(f"127.0.0.1:{each.port}" for each in sentinels)
    url = f"redis+sentinel://{hosts}/games?wait=1&wait_timeout=0.3&timeout=2"
    cluster = Cluster(io_loop, settings, tmp_path)
    for _ in range(2):
        await cluster.add(change(settings, store={"url": url, "node_lease": 60.0}))
    ann, bob = await cluster.player(0), await cluster.player(1)
    assert (await ann.send(bob, 0, id="0"))["ok"]
    # It gets nothing more, and is the master then.
    replica.ask("REPLICAOF", "127.0.0.1", free_port())
    refused = await ann.send(bob, 1, id="1")
    assert refused["error"]["code"] == "unavailable"
    master.kill()
    await asyncio.to_thread(
        wait_until, lambda: replica.ask("ROLE")[0] == b"master", "the replica is the master", 100.0
    )
    redis_servers.replica(replica)
    await until(lambda: all(each._not_ready() is None for each in cluster.gateways))
    receipt = await ann.send(bob, 1, id="1")
    assert (receipt["ok"], receipt["duplicate"]) == (True, False)
    # Once, in order, on the same connection.
    assert (await ann.send(bob, 2))["status"] == "delivered"
    assert (await received(bob, 3))[0] == [0, 1, 2]
    await cluster.close()


async def test_messages_and_volatile_ones_keep_their_order_while_replicas_are_waited_for(
    replicated: tuple[Cluster, RedisServer],
) -> None:
    cluster, _ = replicated
    ann, bob = await cluster.player(0), await cluster.player(1)
    for number in range(30):
        await ann.emit("message", {"target_id": bob.true_id, "data": 2 * number})
        volatile = {"target_id": bob.true_id, "data": 2 * number + 1, "volatile": True}
        await ann.emit("message", volatile)
    got = [await bob.message() for _ in range(60)]
    assert got == [*range(60)]


# A node that is killed


@pytest.fixture
def processes(tmp_path: Path, redis_url: str) -> Iterator[list[GatewayProcess]]:
    config = {
        "store": {"url": redis_url, "node_lease": 1},
        # Nobody waits for a probe of a node that is not there.
        "resume": {"secret_keys": ["k" * 40], "probe_timeout": 30},
    }
    with ExitStack() as stack:
        started = []
        for number in range(2):
            folder = tmp_path / f"node{number}"
            folder.mkdir()
            started.append(stack.enter_context(GatewayProcess(folder, config=config)))
        yield started


@pytest.mark.parametrize("means", ["pid", "token"])
async def test_who_was_at_a_node_that_is_killed_goes_on_at_another_at_once(
    processes: list[GatewayProcess], means: str
) -> None:
    async with Clients(processes[0].url) as first, Clients(processes[1].url) as second:
        ann, bob = await first.player(), await second.player()
        sending = asyncio.create_task(send_all(ann, bob, 200))
        got, offset = await received(bob, 40)
        processes[1].kill()
        with suppress(Ended):
            while True:
                data, offset = await received(bob, 1)
                got += data
        auth = {"pid": bob.pid} if means == "pid" else {"token": bob.session["token"]}
        bob = await first.player("websocket", {**auth, "offset": offset})
        assert bob.session["outcome"] == "resumed"
        await sending
        got += (await received(bob, 200 - len(got)))[0]
        assert got == list(range(200))
        await ann.send(bob, "and on")
        assert await bob.message() == "and on"


# Requests at any node


@pytest.mark.settings(server={"shutdown_grace": 20.0, "reconnects_per_second": 0.4})
async def test_a_node_that_drains_is_reached_by_way_of_the_others(two: Cluster) -> None:
    first, second = two.clients
    player = await first.player("polling")
    moved(player.link, second)
    drain = asyncio.ensure_future(two.gateways[0].drain())
    (goaway,) = await player.event("goaway")
    assert goaway["reason"] == "draining"
    # It has left what others take over, but not its players.
    await until(lambda: two.owned()[0] == 0)
    assert (await player.send(player, "still here"))["ok"]
    assert await player.message() == "still here"
    assert not drain.done()
    with pytest.raises(ConnectionRefusedError):
        await first.fetch("/healthz")
    assert await player.link.ended() == []
    await soon(drain)
    back = await second.player("polling", {"pid": player.pid})
    assert back.session["outcome"] == "resumed"


async def test_a_node_that_has_died_takes_only_the_connection_along(
    two_of_their_own: Cluster,
) -> None:
    two = two_of_their_own
    player = await two.clients[0].player("polling")
    poll = moved(player.link, two.clients[1]).get()
    await until(lambda: two.gateways[1].metrics.gauges()["forwarded_requests_pending"] == 1)
    await two.gateways[0].stop()
    # The session's last word is that it is closed.
    assert (await soon(poll)).body in (b"1", b'{"code": 1, "message": "Session ID unknown"}')
    assert refusal(await soon(two.clients[1].engine(sid=player.link.sid))) == (400, 1)
    back = await two.clients[1].player("polling", {"pid": player.pid})
    assert back.session["outcome"] == "resumed"
    del two.gateways[0]
