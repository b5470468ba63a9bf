"""The load: one thread, one epoll, and for each connection as little as can be.

The generator must not be the bottleneck of the fastest server. Of a chunk it walks the heads of
the frames and compares the first bytes of the payloads; only the event `session` is ever parsed.
Most of what is left are the system calls. Every wait is bounded: a server that stalls, refuses
or closes raises an OSError, of which TimeoutError and ConnectionError are kinds.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import urlsplit

from tests.bench import frames

#: Connections under way at once.
AT_ONCE: Final = 200
#: How long nothing may happen that should, in seconds.
PATIENCE: Final = 20.0

_CHUNK: Final = 65536
_MESSAGE: Final = b'42["message",'
_PRESENCE: Final = b'42["presence",'
_SESSION: Final = b'42["session",'
_CLOSE, _PING, _PONG = 8, 9, 10
_ENGINE_PONG: Final = frames.frame(b"3")


class Load:
    """The connections to a server, or to several, and the loop that reads them."""

    def __init__(self, url: str) -> None:
        self.use(url)
        self._epoll = select.epoll()
        self._clients: dict[int, Client] = {}
        #: What every connection reads into, with room for looking past the end of a chunk.
        self.buffer = bytearray(_CHUNK + 16)
        self.connected = 0

    def use(self, url: str) -> None:
        """Open further connections to this server."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._address = (parts.hostname, parts.port)
        self._upgrade = frames.upgrade(parts.netloc)

    def connect(self, packets: list[bytes], buffer: int = 0) -> list[Client]:
        """Connect a client for each frame of a CONNECT, and wait for their events `session`.

        With `buffer` the system keeps so many bytes at most for who does not read.
        """
        clients: list[Client] = []
        self.connected = 0
        deadline = time.monotonic() + PATIENCE
        while (connected := self.connected) < len(packets):
            for packet in packets[len(clients) : connected + AT_ONCE]:
                clients.append(self._open(packet, buffer))
            self._read(deadline - time.monotonic())
            if self.connected > connected:
                deadline = time.monotonic() + PATIENCE
            elif time.monotonic() > deadline:
                counts = f"{connected} of {len(packets)} connections are up"
                raise TimeoutError(f"{counts}, and no other came up within {PATIENCE:.0f} s")
        return clients

    def _open(self, packet: bytes, buffer: int) -> Client:
        connection = socket.socket()
        if buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.settimeout(PATIENCE)
        connection.connect(self._address)
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Client(self, connection, packet)
        self._clients[connection.fileno()] = client
        self._epoll.register(connection, select.EPOLLIN)
        client.send(self._upgrade)
        return client

    def run(self, seconds: float, pause: float = 0.0) -> None:
        """Read what arrives, for so long.

        With a pause before each look, in seconds, more connections are ready at each: that saves
        a wake-up for every few frames, where nothing waits for an answer within the pause.
        """
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if pause:
                time.sleep(pause)
            self._read(left)

    def _read(self, seconds: float) -> None:
        """Wait for something to arrive, at most so long, and read it."""
        clients = self._clients
        for descriptor, _ in self._epoll.poll(max(seconds, 0)):
            clients[descriptor].read()

    def stall(self, client: Client) -> None:
        """Read nothing more from a client."""
        self._epoll.unregister(client.descriptor)

    def resume(self, client: Client) -> None:
        """Read again from a client that was stalled."""
        self._epoll.register(client.descriptor, select.EPOLLIN)

    def close(self, clients: Iterable[Client]) -> None:
        """Cut connections."""
        for client in list(clients):
            del self._clients[client.descriptor]
            client.close()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(self._clients.values())
        self._epoll.close()


class Client:
    """A connection. `on_messages` is called with how many events `message` a chunk brought."""

    __slots__ = (
        "_answer",
        "_kept",
        "_load",
        "_packet",
        "_receive",
        "_session",
        "_socket",
        "_upgraded",
        "acked",
        "last",
        "on_each",
        "on_messages",
        "presences",
        "received",
    )

    def __init__(self, load: Load, connection: socket.socket, packet: bytes) -> None:
        self._load = load
        self._socket = connection
        self._receive = connection.recv_into
        self._packet = packet
        self._answer = b""
        self._session = b""
        self._upgraded = False
        #: The start of a frame that has not arrived whole.
        self._kept = b""
        self.on_messages: Callable[[int], None] | None = None
        self.received = 0
        #: Events `presence`.
        self.presences = 0
        self.acked = 0
        #: The last event `message`, for who sets it to anything but None before.
        self.last: bytes | None = None
        #: Called with each event `message`, if `last` is kept.
        self.on_each: Callable[[bytes], None] | None = None

    @property
    def descriptor(self) -> int:
        return self._socket.fileno()

    def session(self) -> dict[str, Any]:
        """Parse the payload of the event `session`."""
        event: list[Any] = json.loads(self._session[2:])
        payload: dict[str, Any] = event[1]
        return payload

    def recovery(self) -> dict[str, Any]:
        """Return what a stock client presents when it comes back: its pid and its offset."""
        assert self.last is not None
        return {"pid": json.loads(self._answer[2:])["pid"], "offset": json.loads(self.last[2:])[-1]}

    def send(self, data: bytes) -> None:
        """Write frames at once. So few are under way that only a stalled server has no room."""
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent != len(data):
            raise TimeoutError("the server does not read: there is no room to write")

    def close(self) -> None:
        self._socket.close()

    def read(self) -> None:
        """Read a chunk and handle the frames that are whole."""
        buffer = self._load.buffer
        if kept := len(self._kept):
            buffer[:kept] = self._kept
            end = kept + self._receive(memoryview(buffer)[kept:_CHUNK])
        else:
            end = self._receive(buffer, _CHUNK)
        if end == kept:
            raise ConnectionResetError("the server closed a connection")
        at = messages = 0
        if not self._upgraded and not (at := self._read_head(end)):
            self._kept = bytes(buffer[:end])
            return
        while end - at >= 2:
            # What lies beyond the end is stale, but then `stop` is beyond it, too.
            if (size := buffer[at + 1]) < 126:
                start = at + 2
            else:
                if size > 126:
                    raise ConnectionError("a server's frame is of 64 KiB or more, or masked")
                start = at + 4
                size = buffer[at + 2] << 8 | buffer[at + 3]
            if (stop := start + size) > end:
                break
            if buffer.startswith(_MESSAGE, start):
                messages += 1
                if self.last is not None:
                    self.last = bytes(buffer[start:stop])
                    if self.on_each is not None:
                        self.on_each(self.last)
            elif buffer.startswith(_PRESENCE, start):
                self.presences += 1
            else:
                self._on_frame(buffer[at] & 0x0F, bytes(buffer[start:stop]))
            at = stop
        if kept or at != end:
            self._kept = bytes(buffer[at:end])
        if messages:
            self.received += messages
            if self.on_messages is not None:
                self.on_messages(messages)

    def _read_head(self, end: int) -> int:
        """Return where the frames begin, after the answer to the upgrade; 0 until it is whole."""
        buffer = self._load.buffer
        found = buffer.find(b"\r\n\r\n", 0, end)
        if found < 0:
            return 0
        head = bytes(buffer[:found])
        if not head.startswith(b"HTTP/1.1 101 ") or frames.ACCEPT not in head:
            status = head.partition(b"\r")[0].decode()
            raise ConnectionRefusedError(f"the server did not upgrade: {status}")
        self._upgraded = True
        return found + 4

    def _on_frame(self, opcode: int, payload: bytes) -> None:
        if payload.startswith(b"43"):
            self.acked += 1
        elif payload.startswith(b"0{"):
            self.send(self._packet)
        elif payload.startswith(b"40{"):
            self._answer = payload
        elif payload.startswith(_SESSION):
            self._session = payload
            self._load.connected += 1
        elif payload == b"2":
            self.send(_ENGINE_PONG)
        elif payload.startswith((b"44", b'42["error",')):
            raise ConnectionRefusedError(f"the server refused: {payload.decode()}")
        elif opcode == _CLOSE:
            raise ConnectionResetError(f"the server closed a connection: {payload!r}")
        elif opcode == _PING:
            self.send(frames.frame(payload, _PONG))
