"""A socket on the event loop: reads, writes that the kernel does not take, and ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import cast

import pytest
from tornado.ioloop import IOLoop

from gateway.transport.stream import Stream, Turn
from tests.transport.client import soon
from tests.transport.conftest import nothing_runs
from tests.waiting import until

pytestmark = pytest.mark.gen_test

#: More than two sockets on one machine buffer.
MUCH = 32 << 20


class Protocol(asyncio.BufferedProtocol):
    """Notes what it is told; `fault` is raised by what is called then."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.data = b""
        self.lost: list[Exception | None] = []
        self.fault: Exception | None = None
        self._buffer = bytearray(1000)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.seen.append("made")

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self._buffer[:nbytes]
        if self.fault is not None:
            raise self.fault

    def eof_received(self) -> bool:
        self.seen.append("eof")
        return False

    def pause_writing(self) -> None:
        self.seen.append("pause")

    def resume_writing(self) -> None:
        self.seen.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


class World:
    """A stream, its protocol, and the socket at the other end."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.socket, self.peer = socket.socketpair()
        self.socket.setblocking(False)
        self.peer.setblocking(False)
        self.protocol = Protocol()
        self.turn = Turn(self.loop)
        self.stream = Stream(self.loop, self.socket, self.protocol, self.turn)
        self.faults: list[object] = []
        self.loop.set_exception_handler(lambda _, context: self.faults.append(context["exception"]))
        self.stream.start()

    async def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = await soon(self.loop.sock_recv(self.peer, 1 << 20))
            if not part:
                break
            data += part
        return data

    async def close(self) -> None:
        self.stream.abort()
        self.peer.close()
        await until(lambda: bool(self.protocol.lost))
        assert len(self.protocol.lost) == 1
        assert self.socket.fileno() == -1


@pytest.fixture
def world(io_loop: IOLoop) -> Iterator[World]:
    async def build() -> World:
        return World()

    world = io_loop.run_sync(build)
    yield world
    io_loop.run_sync(world.close)
    io_loop.run_sync(nothing_runs)


async def test_what_comes_goes_to_the_protocol(world: World) -> None:
    sent = bytes(range(256)) * 20
    world.peer.sendall(sent)
    await until(lambda: world.protocol.data == sent)
    assert world.protocol.seen == ["made"]


async def test_write_is_sent_at_once(world: World) -> None:
    world.stream.write(b"now")
    assert world.peer.recv(10) == b"now"
    world.stream.writelines([b"both ", b"of them"])
    assert world.peer.recv(20) == b"both of them"
    assert world.stream.get_write_buffer_size() == 0


async def test_what_is_corked_goes_when_the_turn_ends(world: World) -> None:
    sizes = [world.stream.cork(data) for data in (b"one ", b"two ", b"three")]
    assert sizes == [4, 8, 13]
    assert world.stream.get_write_buffer_size() == 13
    with pytest.raises(BlockingIOError):
        world.peer.recv(20)
    await asyncio.sleep(0)
    assert world.peer.recv(20) == b"one two three"
    assert world.stream.get_write_buffer_size() == 0


async def test_what_is_corked_goes_before_what_is_written_and_before_the_end(world: World) -> None:
    world.stream.cork(b"corked ")
    world.stream.write(b"written ")
    assert world.peer.recv(20) == b"corked written "
    world.stream.cork(b"last")
    world.stream.close()
    assert world.stream.cork(b"too late") == 0
    assert await world.read(20) == b"last"
    await until(lambda: world.protocol.lost == [None])


async def test_each_flush_is_told_of_while_somebody_waits(world: World) -> None:
    told: list[int] = []
    world.stream.write(bytes(MUCH))
    unsent = world.stream.get_write_buffer_size()
    assert world.stream.cork(b"more") == unsent + 4
    world.stream.on_progress = lambda: told.append(world.stream.get_write_buffer_size())
    world.stream.flush()
    world.stream.flush()
    assert told == [unsent + 4]
    assert await world.read(MUCH + 4) == bytes(MUCH) + b"more"


async def test_fault_while_a_turn_ends_is_of_one_connection(world: World) -> None:
    fault = ValueError("ours")

    def fail() -> None:
        raise fault

    ours, peer = socket.socketpair()
    ours.setblocking(False)
    protocol = Protocol()
    with peer:
        other = Stream(world.loop, ours, protocol, world.turn)
        other.start()
        world.stream.on_progress = fail
        world.stream.cork(b"sent all the same")
        other.cork(b"of another one")
        await asyncio.sleep(0)
        assert peer.recv(20) == b"of another one"
        assert world.faults == [fault]
        await until(lambda: world.protocol.lost == [fault])
        other.abort()
        await until(lambda: protocol.lost == [None])


async def test_abort_throws_away_what_is_corked(world: World) -> None:
    world.stream.cork(b"corked")
    world.stream.abort()
    assert world.stream.get_write_buffer_size() == 0
    await until(lambda: world.protocol.lost == [None])
    assert await world.read(1) == b""


async def test_what_the_kernel_does_not_take_follows_in_order(world: World) -> None:
    first, second = b"1" * MUCH, b"2" * 1000
    world.stream.write(first)
    world.stream.write(second)
    assert 0 < world.stream.get_write_buffer_size() <= MUCH + 1000
    assert world.protocol.seen == ["made", "pause"]
    assert await world.read(MUCH + 1000) == first + second
    await until(lambda: world.protocol.seen == ["made", "pause", "resume"])
    assert world.stream.get_write_buffer_size() == 0
    world.stream.write(b"again")
    assert world.peer.recv(10) == b"again"


async def test_limits_say_when_the_protocol_is_told(world: World) -> None:
    world.stream.set_write_buffer_limits(2 * MUCH, MUCH // 2)
    world.stream.write(bytes(MUCH))
    assert world.protocol.seen == ["made"]
    world.stream.write(bytes(2 * MUCH))
    assert world.protocol.seen == ["made", "pause"]
    unsent = world.stream.get_write_buffer_size()
    # What a socket buffers is far less than the distance that is left.
    read = len(await world.read(unsent - MUCH // 2 - (8 << 20)))
    assert world.protocol.seen == ["made", "pause"]
    await world.read(3 * MUCH - read)
    assert world.protocol.seen == ["made", "pause", "resume"]


async def test_close_sends_what_is_left_and_takes_no_more(world: World) -> None:
    world.stream.write(bytes(MUCH))
    world.stream.close()
    assert world.stream.is_closing()
    world.stream.write(b"too late")
    assert world.protocol.lost == []
    assert len(await world.read(MUCH + 1)) == MUCH
    await until(lambda: world.protocol.lost == [None])


async def test_abort_throws_away_what_is_left(world: World) -> None:
    world.stream.write(bytes(MUCH))
    world.stream.abort()
    # The protocol may still be at work: it is told in the next turn, once.
    assert world.protocol.lost == []
    world.stream.close()
    await until(lambda: world.protocol.lost == [None])
    assert len(await world.read(MUCH)) < MUCH


async def test_end_of_what_the_peer_sends_closes(world: World) -> None:
    world.peer.shutdown(socket.SHUT_WR)
    await until(lambda: world.protocol.lost == [None])
    assert world.protocol.seen == ["made", "eof"]


async def test_write_to_a_peer_that_is_gone_is_a_loss_and_no_fault(world: World) -> None:
    world.peer.close()
    world.stream.write(b"nobody")
    await until(lambda: bool(world.protocol.lost))
    assert isinstance(world.protocol.lost[0], BrokenPipeError)
    world.stream.write(b"nobody")
    assert world.faults == []


async def test_peer_that_leaves_while_data_waits_is_a_loss(world: World) -> None:
    world.stream.write(bytes(MUCH))
    world.peer.close()
    await until(lambda: bool(world.protocol.lost))
    assert isinstance(world.protocol.lost[0], ConnectionError)
    assert world.stream.get_write_buffer_size() == 0


async def test_fault_of_a_protocol_is_reported_and_ends_the_connection(world: World) -> None:
    world.protocol.fault = ValueError("ours")
    world.peer.sendall(b"x")
    await until(lambda: bool(world.protocol.lost))
    assert world.protocol.lost == [world.protocol.fault]
    assert world.faults == [world.protocol.fault]


async def test_socket_and_addresses_are_known(world: World) -> None:
    assert cast(socket.socket, world.stream.get_extra_info("socket")) is world.socket
    assert world.stream.get_extra_info("peername") == world.socket.getpeername()
    assert world.stream.get_extra_info("sockname") == world.socket.getsockname()
    assert world.stream.get_extra_info("ssl_object") is None
    assert world.stream.get_extra_info("cipher", "none") == "none"
