"""Accepting connections: plain handshakes beside Tornado's HTTP server, odd and silent clients.

What a client sees must not depend on who speaks websocket: every case runs with both.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from gateway.config import Config
from gateway.server import Gateway
from gateway.transport import listeners
from tests.gateway_process import GatewayProcess
from tests.transport.client import WEBSOCKETS, Clients, Pair, RawWebSocket, Stream
from tests.transport.conftest import nothing_runs
from tests.waiting import until

pytestmark = [pytest.mark.gen_test(timeout=60)]

TARGET = "/socket.io/?EIO=4&transport=websocket"
HEADERS = [
    "Host: game.example",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
]


def head(line: str = f"GET {TARGET} HTTP/1.1", *more: str, without: str = "") -> bytes:
    """Return a handshake with another request line, more headers, or without one."""
    kept = [header for header in HEADERS if not (without and header.startswith(without))]
    return "\r\n".join([line, *kept, *more, "", ""]).encode("latin-1")


def target(query: str) -> bytes:
    return head(f"GET /socket.io/?{query} HTTP/1.1")


#: A request, and the status that Tornado and our handler give it; 0 is a cut connection.
ODD = {
    "plain": (head(), 101),
    "other order of parameters": (target("transport=websocket&EIO=4"), 101),
    "more parameters": (target("EIO=4&transport=websocket&t=x&b64=%F0%9F%98%80"), 101),
    "escaped parameters": (target("%45IO=%34&transport=%77ebsocket"), 101),
    "value without name": (target("EIO=4&transport=websocket&=x&y"), 101),
    "parameter twice": (target("EIO=3&EIO=4&transport=websocket"), 101),
    "parameter twice, last wrong": (target("EIO=4&EIO=3&transport=websocket"), 400),
    "no query": (head("GET /socket.io/ HTTP/1.1"), 400),
    "empty query": (target(""), 400),
    "wrong version": (target("EIO=3&transport=websocket"), 400),
    "wrong transport": (target("EIO=4&transport=flash"), 400),
    "polling": (target("EIO=4&transport=polling"), 400),
    "unknown sid": (target("EIO=4&transport=websocket&sid=nobody"), 400),
    "empty sid": (target("EIO=4&transport=websocket&sid="), 400),
    "sid that is not UTF-8": (target("EIO=4&transport=websocket&sid=%ff"), 400),
    "fragment": (head(f"GET {TARGET}#x HTTP/1.1"), 400),
    "lower-case method": (head(f"get {TARGET} HTTP/1.1"), 405),
    "POST": (head(f"POST {TARGET} HTTP/1.1", "Content-Length: 0"), 400),
    "HEAD": (head(f"HEAD {TARGET} HTTP/1.1"), 405),
    "absolute form": (head(f"GET http://game.example{TARGET} HTTP/1.1"), 404),
    "two spaces": (head(f"GET  {TARGET} HTTP/1.1"), 400),
    "no version": (head(f"GET {TARGET}"), 400),
    "HTTP/1.0": (head(f"GET {TARGET} HTTP/1.0"), 400),
    "HTTP/2.0": (head(f"GET {TARGET} HTTP/2.0"), 400),
    "lines end in LF": (head().replace(b"\r\n", b"\n"), 101),
    "empty line first": (b"\r\n" + head(), 101),
    "no host": (head(without="Host"), 400),
    "host twice": (head(f"GET {TARGET} HTTP/1.1", "Host: evil.example"), 400),
    "host twice alike": (head(f"GET {TARGET} HTTP/1.1", HEADERS[0]), 400),
    "no key": (head(without="Sec-WebSocket-Key"), 400),
    "short key": (
        head(f"GET {TARGET} HTTP/1.1", "Sec-WebSocket-Key: short", without="Sec-WebSocket-Key"),
        400,
    ),
    "key twice": (head(f"GET {TARGET} HTTP/1.1", HEADERS[4]), 400),
    "version 12": (
        head(
            f"GET {TARGET} HTTP/1.1",
            "Sec-WebSocket-Version: 12",
            without="Sec-WebSocket-Version",
        ),
        426,
    ),
    "version twice": (head(f"GET {TARGET} HTTP/1.1", HEADERS[3]), 426),
    "no upgrade": (head(without="Upgrade"), 400),
    "no connection": (head(without="Connection"), 400),
    "connection twice": (head(f"GET {TARGET} HTTP/1.1", "Connection: keep-alive"), 101),
    "connection is a list": (
        head(f"GET {TARGET} HTTP/1.1", "Connection: keep-alive, Upgrade", without="Connection"),
        101,
    ),
    "names in other case": (head().replace(b"Upgrade:", b"uPGRADE:"), 101),
    "space around values": (head().replace(b": ", b":   "), 101),
    "no space before values": (head().replace(b": ", b":"), 101),
    "space before colon": (head(f"GET {TARGET} HTTP/1.1", "X-A : b"), 400),
    "header without colon": (head(f"GET {TARGET} HTTP/1.1", "nonsense"), 400),
    "header without name": (head(f"GET {TARGET} HTTP/1.1", ": x"), 400),
    "folded header": (head(f"GET {TARGET} HTTP/1.1", "X-A: b", "  c"), 400),
    "control in the target": (target("EIO=4&transport=websocket&t=\x01"), 400),
    "DEL in the target": (target("EIO=4&transport=websocket&t=\x7f"), 400),
    "name that is no token": (head(f"GET {TARGET} HTTP/1.1", "X(A): b"), 400),
    "tab in a header": (head(f"GET {TARGET} HTTP/1.1", "X-A: a\tb"), 101),
    "DEL in a header": (head(f"GET {TARGET} HTTP/1.1", "X-A: \x7f"), 400),
    "control in a header": (head(f"GET {TARGET} HTTP/1.1", "X-A: \x01"), 400),
    "NUL in a header": (head(f"GET {TARGET} HTTP/1.1", "X-A: \x00"), 400),
    "bare CR in a header": (head(f"GET {TARGET} HTTP/1.1", "X-A: b\rc"), 400),
    "Latin-1 in a header": (head(f"GET {TARGET} HTTP/1.1", "X-A: \u00e9"), 101),
    "same origin": (head(f"GET {TARGET} HTTP/1.1", "Origin: http://game.example"), 101),
    "wrong origin": (head(f"GET {TARGET} HTTP/1.1", "Origin: https://evil.example"), 403),
    "origin twice": (
        head(f"GET {TARGET} HTTP/1.1", *["Origin: http://game.example"] * 2),
        403,
    ),
    "empty origin": (head(f"GET {TARGET} HTTP/1.1", "Origin:"), 403),
    "subprotocol": (head(f"GET {TARGET} HTTP/1.1", "Sec-WebSocket-Protocol: chat"), 101),
    "empty body": (head(f"GET {TARGET} HTTP/1.1", "Content-Length: 0"), 101),
    "two lengths": (head(f"GET {TARGET} HTTP/1.1", *["Content-Length: 0"] * 2), 101),
    "negative length": (head(f"GET {TARGET} HTTP/1.1", "Content-Length: -1"), 400),
    "head over 4 KiB": (head(f"GET {TARGET} HTTP/1.1", "X-A: " + "x" * 5000), 101),
    "head over the limit": (head(f"GET {TARGET} HTTP/1.1", "X-A: " + "x" * 20_000), 0),
    "many headers": (head(f"GET {TARGET} HTTP/1.1", *["X-A: b"] * 50), 101),
}


async def status(stream: Stream) -> int:
    """Return the status of the next answer, 0 when there is none."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
        return int((await stream.head()).split()[1])
    return 0


async def open_packet(stream: Stream) -> bytes:
    """Read the first frame of a websocket; it must hold a session."""
    opcode, payload = await RawWebSocket(stream).receive()
    assert (opcode, payload[:1]) == (1, b"0")
    return payload


@WEBSOCKETS
@pytest.mark.parametrize(
    ("request_head", "expected"), [pytest.param(*case, id=name) for name, case in ODD.items()]
)
async def test_handshake_ends_the_same_whoever_takes_it(
    clients: Clients, request_head: bytes, expected: int
) -> None:
    stream = await clients.stream()
    stream.write(request_head)
    got = await status(stream)
    assert got == expected
    if got == 101:
        await open_packet(stream)
    await clients.until_connections(int(got == 101))


@WEBSOCKETS
@pytest.mark.parametrize("at", [1, 10, 17, 18, 40, 60, 100, -4, -3, -2, -1])
async def test_head_in_two_segments(clients: Clients, at: int) -> None:
    stream = await clients.stream()
    stream.write(head()[:at])
    await stream.drain()
    # Another connection's answer: the gateway has seen the first part by then.
    assert (await clients.fetch("/healthz")).code == 200
    stream.write(head()[at:])
    assert await status(stream) == 101
    await open_packet(stream)


@WEBSOCKETS
async def test_head_byte_by_byte(clients: Clients) -> None:
    stream = await clients.stream()
    for byte in head():
        stream.write(bytes((byte,)))
        await stream.drain()
        await asyncio.sleep(0)
    assert await status(stream) == 101
    await open_packet(stream)


@WEBSOCKETS
async def test_frame_behind_the_head_is_taken(clients: Clients) -> None:
    packet = b'40{"guest":true}'
    stream = await clients.stream()
    stream.write(head() + RawWebSocket.head(len(packet)) + packet)
    assert await status(stream) == 101
    raw = RawWebSocket(stream)
    assert (await raw.receive())[1][:1] == b"0"
    assert (await raw.receive())[1][:2] == b"40"


@WEBSOCKETS
async def test_requests_of_one_connection_are_answered_in_order(clients: Clients) -> None:
    stream = await clients.stream()
    health = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    missing = b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n"
    stream.write(health + missing + health)
    assert [(await stream.response())[0] for _ in range(3)] == [200, 404, 200]
    # And it is kept for more, a websocket at last.
    stream.write(health)
    assert (await stream.response())[0] == 200
    stream.write(head())
    assert await status(stream) == 101
    await open_packet(stream)


@WEBSOCKETS
async def test_client_that_leaves_at_once_leaves_nothing(
    clients: Clients, gateway: Gateway
) -> None:
    for data in (b"", b"G", head()[:50], head()):
        stream = await clients.stream()
        stream.write(data)
        await stream.drain()
        await stream.abandon()
    await clients.until_connections(0)
    if gateway._listeners._acceptor is not None:
        assert not gateway._listeners._acceptor._silent


# Silent clients


@pytest.fixture
def _short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "_IDLE_TIMEOUT", 0.3)
    monkeypatch.setattr(listeners, "_BODY_TIMEOUT", 0.3)


SLOW = {
    "nothing": b"",
    "one byte": b"G",
    "half a handshake": head()[:-2],
    "half a request": b"GET /healthz HTTP/1.1\r\nHost:",
    "half a body": b"POST /socket.io/?EIO=4&transport=polling&sid=%s HTTP/1.1\r\nHost: x\r\n"
    b"Content-Length: 10\r\n\r\n4",
    "half a chunk": b"POST /socket.io/?EIO=4&transport=polling&sid=%s HTTP/1.1\r\nHost: x\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n5\r\n4",
}


@WEBSOCKETS
@pytest.mark.usefixtures("_short_timeouts")
@pytest.mark.parametrize("data", SLOW.values(), ids=SLOW)
@pytest.mark.parametrize("drip", [False, True])
async def test_client_that_does_not_finish_its_request_is_dropped(
    clients: Clients, data: bytes, drip: bool
) -> None:
    polling = await clients.polling()
    stream = await clients.stream()
    stream.write(data.replace(b"%s", polling.sid.encode()))
    ended = asyncio.ensure_future(stream.rest())
    while not ended.done():
        # More of it, ever so slowly, buys no time; what never spoke is left alone.
        if drip and data:
            stream.write(b"4" if b"POST" in data else b"X")
        await asyncio.wait([ended], timeout=0.05)
    assert b" 200 " not in await ended
    # Its session is no worse off.
    assert (await polling.post("40")).code == 200


@WEBSOCKETS
@pytest.mark.usefixtures("_short_timeouts")
async def test_timeouts_are_not_for_those_who_are_here(clients: Clients) -> None:
    polling, websocket = await clients.polling(), await clients.websocket()
    poll = await polling.open_poll()
    silent = await clients.stream()
    assert await silent.rest() == b""
    await polling.send('40{"guest":true}')
    assert (await poll.response())[0] == 200
    await websocket.send('40{"guest":true}')
    assert str(await websocket.receive()).startswith("40")


# Stop


@WEBSOCKETS
async def test_stop_closes_the_listening_sockets_and_drops_the_silent(
    settings: Config, tmp_path: Path, io_loop: IOLoop
) -> None:
    gateway = Gateway(settings, tmp_path / "state", {})
    await gateway.start()
    clients = Clients(gateway.url.rstrip("/"))
    silent = [await clients.stream() for _ in range(3)]
    half = await clients.stream()
    half.write(head()[:40])
    assert (await clients.fetch("/healthz")).code == 200
    await gateway.stop()
    for stream in (*silent, half):
        assert await stream.rest() == b""
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(clients.host, clients.port)
    await clients.close()
    await nothing_runs()


# No file descriptors left


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def test_accepting_rests_while_no_file_can_be_opened(tmp_path: Path) -> None:
    limit = 80
    gateway = GatewayProcess(tmp_path)
    gateway.start()
    try:
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (limit, limit))
        clients = Clients(gateway.url.rstrip("/"))
        pair = await Pair.meet(clients)
        taken = [socket.create_connection((clients.host, clients.port)) for _ in range(limit)]
        await until(lambda: "no new connections for a moment" in gateway.log)
        # Those who are here go on.
        player = pair.ann
        for number in range(20):
            assert (await player.send(player, number))["ok"]
            assert await player.message() == number
        for connection in taken:
            connection.close()
        # Once there is room it takes those who waited, and newcomers.
        newcomer = await asyncio.wait_for(clients.player("websocket"), 10)
        assert (await newcomer.send(player, "hello"))["ok"]
        assert await player.message() == "hello"
        await until(lambda: open_files(gateway.pid) < limit - 20)
        assert (await clients.fetch("/readyz")).code == 200
        await clients.close()
        assert "Traceback" not in gateway.log
        # One line for each pause, not for each try.
        assert gateway.log.count("no new connections for a moment") < 10
    finally:
        gateway.kill()
