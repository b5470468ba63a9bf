"""WebSockets by picows on bare sockets, and the parts of picows that are not public API."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
from collections.abc import Iterator
from typing import Any, cast

import picows.picows
import pytest
from picows import WSListener, WSMsgType, WSTransport
from picows.picows import WSProtocol
from tornado.ioloop import IOLoop

from gateway.engineio import Data
from gateway.transport.engine import EngineConnection
from gateway.transport.frames import build_frame
from gateway.transport.interfaces import WebSocketLink
from gateway.transport.picows import PicowsWebSocket, PicowsWebSockets
from gateway.transport.timers import TimerQueue
from tests.transport.client import RawWebSocket, soon
from tests.transport.conftest import nothing_runs
from tests.waiting import until

pytestmark = pytest.mark.gen_test

KEY = "AAAAAAAAAAAAAAAAAAAAAA=="
MAX_PAYLOAD = 70_000
SIZES = [0, 1, 125, 126, 127, 65_535, 65_536]


class Recorder:
    """What a link takes for its engine connection: notes what it is told."""

    def __init__(self) -> None:
        self.link: PicowsWebSocket
        self.seen: list[Any] = []

    def on_websocket_open(self, link: WebSocketLink) -> None:
        assert isinstance(link, PicowsWebSocket)
        self.link = link
        self.seen.append("open")

    def on_frame(self, link: WebSocketLink, data: Data) -> None:
        assert link is self.link
        self.seen.append(data)

    def on_websocket_closed(self, link: WebSocketLink) -> None:
        self.seen.append("closed")

    def on_oversized(self) -> None:
        self.seen.append("oversized")

    def on_progress(self) -> None:
        pass


class World:
    """The gateway's end of sockets, and clients at the other."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.websockets = PicowsWebSockets(MAX_PAYLOAD, 0, self.loop)
        self._peers: list[socket.socket] = []

    async def open(self, early: bytes = b"") -> tuple[Recorder, socket.socket]:
        """Return what the link tells, and the client's socket behind the 101."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            peer = socket.create_connection(listening.getsockname())
            ours, _ = listening.accept()
        self._peers.append(peer)
        for end in (ours, peer):
            end.setblocking(False)
        recorder = Recorder()
        connection = cast(EngineConnection, recorder)
        self.websockets.take_over(ours, KEY, early, connection)
        head = (await receive(peer)).decode()
        accept = hashlib.sha1(f"{KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        assert head.startswith("HTTP/1.1 101 ")
        assert f"sec-websocket-accept: {base64.b64encode(accept).decode()}\r\n".lower() in (
            head.lower()
        )
        assert head.endswith("\r\n\r\n")
        return recorder, peer

    async def close(self) -> None:
        self.websockets.close()
        for peer in self._peers:
            peer.close()
        await until(lambda: not self.websockets._links)


@pytest.fixture
def world(io_loop: IOLoop) -> Iterator[World]:
    async def build() -> World:
        return World()

    world = io_loop.run_sync(build)
    yield world
    io_loop.run_sync(world.close)
    io_loop.run_sync(nothing_runs)


async def receive(peer: socket.socket, size: int = 1 << 20) -> bytes:
    return await soon(asyncio.get_running_loop().sock_recv(peer, size))


async def receive_exactly(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = await receive(peer, size - len(data))
        assert part
        data += part
    return data


async def send(peer: socket.socket, data: bytes) -> None:
    await soon(asyncio.get_running_loop().sock_sendall(peer, data))


def masked(payload: bytes, opcode: int = 1) -> bytes:
    """Return a client's frame, with a mask that changes nothing."""
    return RawWebSocket.head(len(payload), opcode) + payload


def is_silent(peer: socket.socket) -> bool:
    try:
        peer.recv(1)
    except BlockingIOError:
        return True
    return False


# Frames


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65_535, b"\x81\x7e\xff\xff"),
        (65_536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_length_of_a_frame_takes_as_many_bytes_as_it_must(size: int, head: bytes) -> None:
    body = b"x" * size
    assert build_frame(0x81, b"", body) == head + body
    if size:
        assert build_frame(0x81, body[:1], body[1:]) == head + body


@pytest.mark.parametrize("size", SIZES)
async def test_frames_of_any_size_go_both_ways(world: World, size: int) -> None:
    recorder, peer = await world.open()
    text = "x" * size
    await send(peer, masked(text.encode()) + masked(text.encode(), 2))
    await until(lambda: recorder.seen == ["open", text, text.encode()])
    recorder.link.send(text)
    recorder.link.send(text.encode())
    expected = build_frame(0x81, b"", text.encode()) + build_frame(0x82, b"", text.encode())
    assert await receive_exactly(peer, len(expected)) == expected


@pytest.mark.parametrize("size", SIZES)
async def test_frame_may_come_byte_by_byte(world: World, size: int) -> None:
    recorder, peer = await world.open()
    frame = masked(b"x" * size)
    for i in range(min(len(frame), 20)):
        await send(peer, frame[i : i + 1])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await send(peer, frame[20:] + masked(b"next"))
    await until(lambda: recorder.seen == ["open", "x" * size, "next"])


async def test_frame_for_many_is_built_once(world: World) -> None:
    prefix, body = b"42", b'["message",1]'
    (first, first_peer), (second, second_peer) = await world.open(), await world.open()
    first.link.send_text(prefix, body)
    frame = world.websockets.frames.build(prefix, body)
    second.link.send_text(prefix, body)
    assert world.websockets.frames.build(prefix, body) is frame
    second.link.send_text(prefix, b'["message",2]')
    for peer, expected in ((first_peer, frame), (second_peer, frame + b'\x81\x0f42["message",2]')):
        assert await receive_exactly(peer, len(expected)) == expected


@pytest.mark.parametrize("count", [1, 2, 100])
async def test_sends_of_one_turn_are_one_write(world: World, count: int) -> None:
    recorder, peer = await world.open()
    for i in range(count):
        recorder.link.send_text(b"42", b"[%d]" % i)
    expected = b"".join(build_frame(0x81, b"42", b"[%d]" % i) for i in range(count))
    # Nothing is written yet, all is counted.
    assert is_silent(peer)
    assert recorder.link.buffered == len(expected)
    assert await receive(peer) == expected
    assert recorder.link.buffered == 0


async def test_close_frame_comes_behind_what_was_sent(world: World) -> None:
    recorder, peer = await world.open()
    recorder.link.send("last")
    recorder.link.close(1000, "bye")
    # Sent after the close, it goes nowhere.
    recorder.link.send("too late")
    expected = b"\x81\x04last\x88\x05\x03\xe8bye"
    assert await receive_exactly(peer, len(expected)) == expected
    await send(peer, masked(b"\x03\xe8", 8))
    assert await receive(peer) == b""


async def test_frames_that_came_with_the_handshake_are_taken(world: World) -> None:
    early = masked(b"one") + masked(b"x" * 5000) + masked(b"three")
    recorder, peer = await world.open(early + masked(b"four")[:3])
    assert recorder.seen == ["open", "one", "x" * 5000, "three"]
    await send(peer, masked(b"four")[3:])
    await until(lambda: recorder.seen[4:] == ["four"])


# Ends


@pytest.mark.parametrize("size", [MAX_PAYLOAD + 1, 200_000, 2**40])
async def test_what_comes_behind_an_oversized_head_is_thrown_away(world: World, size: int) -> None:
    recorder, peer = await world.open()
    await send(peer, masked(b"ok"))
    await until(lambda: recorder.seen == ["open", "ok"])
    await send(peer, RawWebSocket.head(size))
    assert await receive(peer) == b"\x88\x11" + (1009).to_bytes(2, "big") + b"message too big"
    assert recorder.seen == ["open", "ok", "oversized"]
    # It reads on, so that the client gets to see why, but takes nothing and keeps nothing.
    for _ in range(10):
        await send(peer, masked(b"x" * 100) + bytes(100_000))
    assert recorder.seen == ["open", "ok", "oversized"]
    peer.close()
    await until(lambda: not world.websockets._links)


async def test_client_that_sends_without_end_is_cut(world: World) -> None:
    recorder, peer = await world.open()
    await send(peer, RawWebSocket.head(2**40))
    with pytest.raises(OSError, match=r"reset|pipe"):
        await send(peer, bytes(64 << 20))
    assert recorder.seen == ["open", "oversized"]


async def test_client_that_does_not_answer_a_close_is_cut(world: World) -> None:
    world.websockets.closing = TimerQueue(world.loop, 0.05, PicowsWebSocket.abort)
    recorder, peer = await world.open()
    recorder.link.close(1000, "")
    assert await receive(peer) == b"\x88\x02\x03\xe8"
    assert world.websockets._links
    assert await receive(peer) == b""
    assert recorder.seen == ["open"]


async def test_answered_close_needs_no_timeout(world: World) -> None:
    recorder, peer = await world.open()
    await send(peer, masked(b"\x03\xe8bye", 8))
    assert await receive(peer) == b"\x88\x05\x03\xe8bye"
    assert await receive(peer) == b""
    assert recorder.seen == ["open", "closed"]
    await until(lambda: not world.websockets._links)


async def test_vanished_client_is_told_of_once(world: World) -> None:
    recorder, peer = await world.open()
    peer.close()
    await until(lambda: recorder.seen == ["open", "closed"])
    recorder.link.send("nobody")
    recorder.link.close(1000, "")
    recorder.link.abort()
    assert recorder.link.buffered == 0


async def test_close_of_all_cuts_every_link(world: World) -> None:
    opened = [await world.open() for _ in range(5)]
    world.websockets.close()
    for recorder, peer in opened:
        assert await receive(peer) == b""
        await until(lambda recorder=recorder: recorder.seen == ["open", "closed"])  # type: ignore[misc]


# Parts of picows that are not public

ARGUMENTS = {
    "host_port": None,
    "ws_path": None,
    "is_client_side": False,
    "ws_listener_factory": lambda request: None,
    "logger": None,
    "disconnect_on_exception": True,
    "websocket_handshake_timeout": None,
    "enable_auto_ping": False,
    "auto_ping_idle_timeout": 0,
    "auto_ping_reply_timeout": 0,
    "auto_ping_strategy": 1,
    "enable_auto_pong": False,
    "max_frame_size": 2**40,
    "extra_headers": None,
    "read_buffer_init_size": 2048,
}


class Logger:
    """The least that picows asks of a logger."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802
        return False


async def test_protocol_takes_its_arguments_in_the_order_known() -> None:
    arguments = {**ARGUMENTS, "logger": Logger()}
    names, values = list(arguments), list(arguments.values())
    for count in range(len(names) + 1):
        rest = dict(zip(names[count:], values[count:], strict=True))
        WSProtocol(*values[:count], **rest)
    for wrong in (values[:-1], [*values, None]):
        with pytest.raises(TypeError):
            WSProtocol(*wrong)


async def test_protocol_may_be_extended_where_we_do() -> None:
    called = []

    class Protocol(WSProtocol):  # type: ignore[misc]
        def get_buffer(self, size_hint: int) -> memoryview:
            called.append("get_buffer")
            view: memoryview = super().get_buffer(size_hint)
            return view

        def buffer_updated(self, nbytes: int) -> None:
            called.append("buffer_updated")
            super().buffer_updated(nbytes)

    assert issubclass(WSProtocol, asyncio.BufferedProtocol)
    protocol = Protocol(*{**ARGUMENTS, "logger": Logger()}.values())
    view = protocol.get_buffer(-1)
    assert isinstance(view, memoryview)
    assert not view.readonly
    # The read buffer of an idle connection: what a connection costs depends on it.
    assert len(view) <= 2048
    assert called == ["get_buffer"]


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (
            WSTransport,
            "close_handshake disconnect is_close_frame_sent is_disconnected send send_close "
            "send_pong underlying_transport",
        ),
        (
            WSListener,
            "on_ws_connected on_ws_disconnected on_ws_frame pause_writing resume_writing",
        ),
        (
            picows.WSFrame,
            "fin get_payload_as_bytes get_payload_as_utf8_text msg_type payload_size rsv1 rsv2 "
            "rsv3 tail_size",
        ),
        (picows.picows.WSCloseHandshake, "recv"),
        (picows.picows.WSCloseInfo, "code"),
    ],
)
async def test_names_that_we_touch_are_there(owner: type, names: str) -> None:
    for name in names.split():
        assert hasattr(owner, name), f"{owner.__name__}.{name}"


async def test_opcodes_are_those_of_the_standard() -> None:
    kinds = [WSMsgType.CONTINUATION, WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CLOSE]
    assert [*kinds, WSMsgType.PING] == [0, 1, 2, 8, 9]


async def test_tail_size_says_what_is_left_behind_a_frame(world: World) -> None:
    recorder, peer = await world.open()
    last = masked(b"x" * 50)
    await send(peer, masked(b"one") + last[:-7])
    await until(lambda: recorder.seen == ["open", "one"])
    assert recorder.link.unframed == len(last) - 7
    await send(peer, last[-7:])
    await until(lambda: len(recorder.seen) == 3)
    assert recorder.link.unframed == 0


async def test_fault_of_a_client_is_told_to_the_logger_before_the_close(world: World) -> None:
    recorder, peer = await world.open()
    # Opcode 3 is reserved: picows says so to `error`, then closes with its own code.
    await send(peer, masked(b"\x03\xe9", 8) + masked(b"x", 3))
    assert (await receive(peer)).startswith(b"\x88\x02\x03\xe9")
    await until(lambda: recorder.seen[-1] == "closed")
