"""Requests that reach another node than the session's: nothing in front has to keep them apart."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from gateway.config import Config, TlsConfig
from gateway.nodes import NodeId
from gateway.server import Gateway
from gateway.transport import exchanges, forwarding
from tests.certificates import Authority
from tests.transport.client import (
    WEBSOCKETS,
    Clients,
    Pair,
    Player,
    Polling,
    WebSocket,
    endpoint,
    refusal,
    soon,
)
from tests.transport.conftest import change, nothing_runs
from tests.transport.nodes import Addresses, AnyNode, FixedDirectory, moved, polling_through, url
from tests.waiting import until

pytestmark = pytest.mark.gen_test(timeout=60)

NODES = ("aaaaaaaa", "bbbbbbbb")


@pytest.fixture
def addresses() -> Addresses:
    return Addresses()


@pytest.fixture
def gateways(
    io_loop: IOLoop, settings: Config, tmp_path: Path, addresses: Addresses
) -> Iterator[list[Gateway]]:
    settings = change(settings, store={"url": "memory://"})
    gateways = [
        Gateway(settings, tmp_path / node, {}, FixedDirectory(node, addresses)) for node in NODES
    ]
    for gateway in gateways:
        io_loop.run_sync(gateway.start)
    yield gateways
    for gateway in gateways:
        io_loop.run_sync(gateway.stop)
    io_loop.run_sync(nothing_runs)


@pytest.fixture
def first(io_loop: IOLoop, gateways: list[Gateway]) -> Iterator[Clients]:
    clients = Clients(url(gateways[0]))
    yield clients
    io_loop.run_sync(clients.close)


@pytest.fixture
def second(io_loop: IOLoop, gateways: list[Gateway]) -> Iterator[Clients]:
    clients = Clients(url(gateways[1]))
    yield clients
    io_loop.run_sync(clients.close)


@pytest.fixture
def any_node(io_loop: IOLoop, gateways: list[Gateway]) -> Iterator[AnyNode]:
    clients = AnyNode(gateways)
    yield clients
    io_loop.run_sync(clients.close)


def counts(gateway: Gateway) -> dict[str, int]:
    return gateway.metrics.counts()["forwarded_requests"]


def pending(gateway: Gateway) -> float:
    return gateway.metrics.gauges()["forwarded_requests_pending"]


def open_exchanges(gateway: Gateway) -> int:
    neighbour = gateway._neighbour
    assert neighbour is not None
    assert neighbour._exchanges is not None
    return len(neighbour._exchanges)


# The session's id


async def test_a_session_says_where_it_belongs(first: Clients, second: Clients) -> None:
    for node, clients in zip(NODES, (first, second), strict=True):
        sids = {(await clients.polling()).sid for _ in range(20)}
        assert len(sids) == 20
        for sid in sids:
            # As random as that of a gateway that is alone.
            assert re.fullmatch(rf"{node}\.[A-Za-z0-9_-]{{20}}", sid)


async def test_alone_a_session_says_nothing(gateway: Gateway, clients: Clients) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{20}", (await clients.polling()).sid)


# Polling


async def test_players_poll_by_any_node(gateways: list[Gateway], any_node: AnyNode) -> None:
    ann = await any_node.player("polling")
    # One more, or the players' requests would be in step with the nodes.
    await any_node.fetch("/healthz")
    bob = Player(ann.link, {"sid": ann.sid, "pid": ann.pid}, ann.session)
    for number in range(30):
        assert (await ann.send(bob, number))["ok"]
        assert await ann.message() == number
        if number % 3 == 0:
            await any_node.fetch("/healthz")
    assert sum(counts(gateway)["answered"] for gateway in gateways) > 20
    assert not any(counts(gateway)["failed"] for gateway in gateways)
    await until(lambda: not any(map(open_exchanges, gateways)))


async def test_a_poll_waits_at_the_other_node(
    gateways: list[Gateway], first: Clients, second: Clients
) -> None:
    player = await first.player("polling")
    polling = moved(player.link, second)
    poll = polling.get()
    await until(lambda: pending(gateways[1]) == 1)
    response = await first.engine("POST", '427["presence_watch",{"true_ids":[]}]', sid=polling.sid)
    assert response.body == b"ok"
    answer = await soon(poll)
    assert answer.body == b'437[{"ok":true,"presence":{}}]'
    assert answer.headers["Content-Type"] == "text/plain; charset=UTF-8"
    assert "Gateway-Exchange" not in answer.headers
    assert pending(gateways[1]) == 0


async def test_text_beyond_ascii_and_binary_packets_pass(first: Clients, second: Clients) -> None:
    polling = await polling_through(first, second)
    player = await Player.log_in(polling)
    text = "\u00e9\u4e2d\U0001f600\u2028\\u001e\t" * 300
    assert (await player.send(player, {"text": text}))["ok"]
    assert await player.message() == {"text": text}
    placeholder = '{"_placeholder":true,"num":0}'
    await polling.send(f'451-["message",{placeholder}]', b"\x00\x1e\xff")
    (error,) = await player.event("error")
    assert error["code"] == "bad_request"


async def test_refusals_are_those_of_the_sessions_node(
    gateways: list[Gateway], first: Clients, second: Clients
) -> None:
    polling = await polling_through(first, second)
    assert refusal(await polling.post("x")) == (400, 3)
    assert refusal(await polling.post("40")) == (400, 1)
    await until(lambda: len(gateways[0]._engine) == 0)
    polling = await polling_through(first, second)
    poll = polling.get()
    await until(lambda: pending(gateways[1]) == 1)
    assert refusal(await soon(polling.get())) == (400, 3)
    assert (await soon(poll)).body == b"1"


async def test_a_body_that_is_too_large_is_refused_in_words(
    gateways: list[Gateway], first: Clients, second: Clients
) -> None:
    polling = await polling_through(first, second)
    for size in (100_000, 1_000_000):
        response = await polling.post("4" * size)
        assert response.code == 413
        assert json.loads(response.body)["message"] == "more than 69632 bytes"
        await until(lambda: len(gateways[0]._engine) == 0)
        polling = await polling_through(first, second)


@pytest.mark.settings(server={"allowed_origins": ("https://game.example",)})
async def test_origins_are_checked_by_the_node_that_is_asked(
    first: Clients, second: Clients
) -> None:
    polling = await first.polling()
    evil = {"Origin": "https://evil.example"}
    assert (await second.engine(headers=evil, sid=polling.sid)).code == 403
    assert (await second.engine("POST", "40", headers=evil, sid=polling.sid)).code == 403
    assert await second.refused_upgrade(evil, sid=polling.sid) == (403, 4)
    good = {"Origin": "https://game.example"}
    response = await second.engine("POST", '40{"guest":true}', good, sid=polling.sid)
    assert response.body == b"ok"
    assert response.headers["Access-Control-Allow-Origin"] == "https://game.example"


async def test_a_client_that_leaves_its_poll_has_left(
    gateways: list[Gateway], first: Clients, second: Clients
) -> None:
    polling = await polling_through(first, second)
    poll = await polling.open_poll()
    await until(lambda: pending(gateways[1]) == 1)
    await poll.abandon()
    await until(lambda: len(gateways[0]._engine) == 0)
    await until(lambda: pending(gateways[1]) == 0)


# Who is not there


@pytest.mark.parametrize(
    "sid", ["cccccccc.x", "bbbbbbbb.x", "aaaaaaaa.x", ".", "x.", ".x", "\u00e9.x"]
)
async def test_an_unknown_session_is_refused_as_ever(first: Clients, sid: str) -> None:
    assert refusal(await first.engine(sid=sid)) == (400, 1)
    assert refusal(await first.engine("POST", "40", sid=sid)) == (400, 1)
    assert await first.refused_upgrade(sid=sid) == (400, 1)


async def test_a_node_that_is_gone_takes_its_sessions_along(
    gateways: list[Gateway], first: Clients, second: Clients, addresses: Addresses
) -> None:
    polling = await polling_through(first, second)
    await polling.send("40")
    # Nobody listens there.
    addresses[NODES[0]] = "127.0.0.1:1"
    # A connection that is kept still leads to the node: it has to be a new one.
    links = gateways[1]._neighbour._forwarder._links  # type: ignore[union-attr]
    links.close()
    assert refusal(await soon(polling.get())) == (400, 1)
    assert refusal(await polling.post("40")) == (400, 1)
    assert await second.refused_upgrade(sid=polling.sid) == (400, 1)
    assert counts(gateways[1])["failed"] == 3
    addresses.clear()
    assert refusal(await soon(polling.get())) == (400, 1)
    assert pending(gateways[1]) == 0


async def test_a_node_that_does_not_answer_is_given_up(
    gateways: list[Gateway],
    first: Clients,
    second: Clients,
    addresses: Addresses,
) -> None:
    polling = await polling_through(first, second)
    forwarder = gateways[1]._neighbour._forwarder  # type: ignore[union-attr]
    forwarder._limits = type(forwarder._limits)(0, 0.2, 0.2)

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    addresses[NODES[0]] = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    assert refusal(await soon(polling.get())) == (400, 1)
    assert refusal(await polling.post("40")) == (400, 1)
    assert await second.refused_upgrade(sid=polling.sid) == (400, 1)
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\n" + b"x" * 20_000,
        b"",
    ],
)
async def test_an_answer_that_is_none_is_taken_for_none(
    first: Clients, second: Clients, addresses: Addresses, answer: bytes
) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    polling = await polling_through(first, second)
    addresses[NODES[0]] = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    assert refusal(await soon(polling.get())) == (400, 1)
    assert await second.refused_upgrade(sid=polling.sid) == (400, 1)
    server.close()
    await server.wait_closed()


@pytest.mark.settings(limits={"forwarded_requests": 2})
async def test_requests_for_others_have_a_limit(
    gateways: list[Gateway], first: Clients, second: Clients
) -> None:
    pollings = [await polling_through(first, second) for _ in range(3)]
    polls = [polling.get() for polling in pollings[:2]]
    await until(lambda: pending(gateways[1]) == 2)
    assert refusal(await soon(pollings[2].get())) == (503, 4)
    assert await second.refused_upgrade(sid=pollings[2].sid) == (503, 4)
    assert gateways[1].metrics.counts()["limit_hits"] == {"forwarded_requests": 2}
    assert counts(gateways[1])["refused"] == 2
    config = change(gateways[1].config, limits={"forwarded_requests": 3})
    await gateways[1].reload(lambda: config)
    assert (await pollings[2].post("40")).body == b"ok"
    for polling, poll in zip(pollings, polls, strict=False):
        await first.engine("POST", "1", sid=polling.sid)
        assert (await soon(poll)).body == b"6"


# Answers on their way


async def test_a_request_that_comes_again_by_another_node_is_not_answered_twice(
    gateways: list[Gateway], first: Clients, second: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanges, "PATIENCE", 0.2)
    player = await Player.log_in(await polling_through(first, second))
    assert isinstance(player.link, Polling)
    # The node in between dies with the answer: nobody says that the client has it.
    forwarder = gateways[1]._neighbour._forwarder  # type: ignore[union-attr]

    async def dies(*arguments: Any) -> None:
        pass

    monkeypatch.setattr(forwarder, "confirm", dies)
    await player.link.send('427["presence_watch",{"true_ids":[]}]')
    assert b'437[{"ok"' in (await soon(player.link.get())).body
    assert open_exchanges(gateways[0]) == 2
    # What a proxy sends again gets none of what comes next: the client has to resume.
    for clients in (first, second):
        assert refusal(await soon(clients.engine(sid=player.link.sid))) == (400, 1)
    assert len(gateways[0]._engine) == 0


async def test_the_next_request_waits_for_word_of_the_answer_before(
    gateways: list[Gateway], first: Clients, second: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    polling = await polling_through(first, second)
    forwarder = gateways[1]._neighbour._forwarder  # type: ignore[union-attr]
    confirm, go = forwarder.confirm, asyncio.Event()

    async def late(*arguments: Any) -> None:
        await go.wait()
        await confirm(*arguments)

    monkeypatch.setattr(forwarder, "confirm", late)
    assert (await polling.post('40{"guest":true}')).body == b"ok"
    post = asyncio.ensure_future(first.engine("POST", "3", sid=polling.sid))
    done, _ = await asyncio.wait([post], timeout=0.1)
    assert not done
    go.set()
    assert (await soon(post)).body == b"ok"


# Websockets


@WEBSOCKETS
async def test_an_upgrade_reaches_the_session_by_any_node(
    gateways: list[Gateway], first: Clients, second: Clients
) -> None:
    player = await first.player("polling")
    polling = player.link
    assert isinstance(polling, Polling)
    poll = polling.get()
    websocket = WebSocket(await second.upgrade_request(sid=polling.sid))
    await websocket.send("2probe")
    assert await websocket.receive() == "3probe"
    assert (await soon(poll)).body == b"6"
    await websocket.send("5")
    player.link = websocket
    text = "\u00e9" * 5000
    for number in range(20):
        assert (await player.send(player, [number, text]))["ok"]
        assert await player.message() == [number, text]
    assert pending(gateways[1]) == 1
    assert gateways[1].metrics.gauges()["tunnels"] == 1
    assert len(gateways[0]._engine) == 1
    await websocket.send("1")
    await websocket.ended()
    await until(lambda: len(gateways[0]._engine) == 0 and pending(gateways[1]) == 0)


@WEBSOCKETS
async def test_a_second_upgrade_is_refused_as_ever(first: Clients, second: Clients) -> None:
    polling, websocket = await first.upgraded()
    assert await second.refused_upgrade(sid=polling.sid) == (400, 1)
    await websocket.send("40")
    other = await first.polling()
    probe = WebSocket(await second.upgrade_request(sid=other.sid))
    await probe.send("2probe")
    assert await probe.receive() == "3probe"
    assert await second.refused_upgrade(sid=other.sid) == (400, 3)


@WEBSOCKETS
async def test_a_websocket_that_dies_with_the_node_in_between_ends_the_session(
    gateways: list[Gateway], first: Clients, second: Clients
) -> None:
    polling = await first.polling()
    websocket = WebSocket(await second.upgrade_request(sid=polling.sid))
    await websocket.send("2probe")
    assert await websocket.receive() == "3probe"
    await websocket.send("5", '40{"guest":true}')
    await websocket.receive()
    await gateways[1]._neighbour._forwarder.tunnels.close()  # type: ignore[union-attr]
    await websocket.ended()
    await until(lambda: len(gateways[0]._engine) == 0)


@WEBSOCKETS
async def test_a_handshake_that_is_none_is_refused_before_it_is_handed_on(
    gateways: list[Gateway], first: Clients, second: Clients
) -> None:
    polling = await first.polling()
    stream = await second.stream()
    path = endpoint(transport="websocket", sid=polling.sid)
    stream.write(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n".encode()
    )
    assert (await stream.response())[0] == 400
    assert counts(gateways[1]) == {"answered": 0, "failed": 0, "refused": 0}


async def test_an_upgrade_under_tls_is_handed_on(
    gateways: list[Gateway], first: Clients, tmp_path: Path, settings: Config, addresses: Addresses
) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("gateway")
    config = change(
        settings,
        store={"url": "memory://"},
        server={"tls": TlsConfig(str(certificate), str(key))},
    )
    gateway = Gateway(config, tmp_path / "tls", {}, FixedDirectory("tttttttt", addresses))
    await gateway.start()
    polling = await first.polling()
    async with Clients(gateway.url, ca_file=str(authority.ca_file)) as clients:
        probe = WebSocket(await clients.upgrade_request(sid=polling.sid))
        await probe.send("2probe")
        assert await probe.receive() == "3probe"
        await probe.send("5")
        player = await Player.log_in(probe)
        assert (await player.send(player, "x" * 60_000))["ok"]
        assert await player.message() == "x" * 60_000
        polling = await clients.polling()
        assert (await first.engine("POST", "40", sid=polling.sid)).body == b"ok"
    await gateway.stop()


# A node that stops


async def test_polls_that_wait_for_others_are_given_back_by_a_node_that_stops(
    gateways: list[Gateway], first: Clients, second: Clients
) -> None:
    player = await Player.log_in(await polling_through(first, second))
    assert isinstance(player.link, Polling)
    poll = player.link.get()
    await until(lambda: pending(gateways[1]) == 1)
    await gateways[1].drain()
    stop = asyncio.ensure_future(gateways[1].stop())
    answer = await soon(poll)
    assert (answer.code, answer.body) == (200, b"6")
    await stop
    assert open_exchanges(gateways[0]) == 0
    # The session goes on by the others.
    moved(player.link, first)
    assert (await player.send(player, "still here"))["ok"]
    assert await player.message() == "still here"


@pytest.mark.settings(server={"shutdown_grace": 5.0, "reconnects_per_second": 1000.0})
async def test_websockets_to_others_are_closed_by_a_node_that_drains(
    gateways: list[Gateway], first: Clients, second: Clients
) -> None:
    polling = await first.polling()
    websocket = WebSocket(await second.upgrade_request(sid=polling.sid))
    await websocket.send("2probe")
    assert await websocket.receive() == "3probe"
    await websocket.send("5")
    await gateways[1].drain()
    await websocket.ended()
    assert pending(gateways[1]) == 0


async def test_a_node_that_drains_still_answers_the_others(
    gateways: list[Gateway], first: Clients, second: Clients
) -> None:
    pair = await Pair.meet(first)
    moved(pair.bob.link, second)
    await pair.talk()
    await gateways[0]._listeners.hold(empty=False)
    await pair.talk()


# The internal listener


@pytest.fixture
def internal(io_loop: IOLoop, gateways: list[Gateway], addresses: Addresses) -> Iterator[Clients]:
    clients = Clients(f"http://{addresses[NODES[0]]}")
    yield clients
    io_loop.run_sync(clients.close)


@pytest.mark.expects_warnings
@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/metrics", "/confirm", "/release", "/in-touch", endpoint()]
)
async def test_the_internal_listener_is_for_nodes_only(
    internal: Clients, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    for method, body in (("GET", None), ("POST", "40"), ("PUT", "x"), ("OPTIONS", None)):
        response = await internal.fetch(path, method, body)
        assert response.code in (401, 405), (method, path)
        assert b"Traceback" not in response.body
    caplog.clear()


async def test_a_signed_request_is_answered_once(
    gateways: list[Gateway], internal: Clients, first: Clients
) -> None:
    polling = await first.polling()
    requests = gateways[1]._neighbour._requests  # type: ignore[union-attr]
    target = endpoint(sid=polling.sid)
    headers = requests.sign(NODES[0], "POST", target, b"40")
    response = await internal.fetch(target, "POST", "40", headers)
    assert response.body == b"ok"
    assert response.headers["Gateway-Exchange"]


async def test_what_nodes_do_not_ask_is_not_found(
    gateways: list[Gateway], internal: Clients
) -> None:
    requests = gateways[1]._neighbour._requests  # type: ignore[union-attr]
    for path in ("/", "/metrics", "/api/v1/players"):
        headers = requests.sign(NODES[0], "GET", path, b"")
        assert (await internal.fetch(path, headers=headers)).code == 404


@pytest.mark.expects_warnings
async def test_nodes_with_other_keys_get_nothing(
    gateways: list[Gateway],
    first: Clients,
    second: Clients,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = change(gateways[1].config, resume={"secret_keys": ("x" * 40,)})
    await gateways[1].reload(lambda: config)
    polling = await polling_through(first, second)
    assert refusal(await soon(polling.get())) == (400, 1)
    assert await second.refused_upgrade(sid=polling.sid) == (400, 1)
    assert "the same resume.secret_keys" in caplog.text
    assert "not signed with one of resume.secret_keys" in caplog.text
    caplog.clear()
    # A key that both know, whichever is first.
    config = change(gateways[1].config, resume={"secret_keys": ("k" * 40, "x" * 40)})
    await gateways[1].reload(lambda: config)
    assert (await polling.post("40")).body == b"ok"


# Whether another node has the store


async def test_a_node_says_whether_it_has_the_store(
    gateways: list[Gateway], addresses: Addresses
) -> None:
    neighbour = gateways[0]._neighbour
    assert neighbour is not None
    other = NodeId(NODES[1])
    assert await soon(neighbour.serves(other))
    gateways[1]._neighbour._directory.in_touch = False  # type: ignore[union-attr, misc]
    assert not await soon(neighbour.serves(other))
    # One of which nothing is known, and one whose machine says that it is gone.
    assert not await soon(neighbour.serves(NodeId("cccccccc")))
    with socket.create_server(("127.0.0.1", 0)) as gone:
        addresses["cccccccc"] = "{}:{}".format(*gone.getsockname())
    assert not await soon(neighbour.serves(NodeId("cccccccc")))


async def test_a_node_that_says_nothing_may_have_the_store(
    gateways: list[Gateway], addresses: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "_IN_TOUCH_TIMEOUT", 0.1)
    neighbour = gateways[0]._neighbour
    assert neighbour is not None
    with socket.create_server(("127.0.0.1", 0)) as silent:
        addresses["cccccccc"] = "{}:{}".format(*silent.getsockname())
        assert await soon(neighbour.serves(NodeId("cccccccc")))
