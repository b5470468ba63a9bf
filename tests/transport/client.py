"""A small Engine.IO and Socket.IO client that speaks raw packets and hides nothing.

`Polling` and `WebSocket` are two Engine.IO transports with one interface; `Player` speaks
Socket.IO over either. `Clients` makes them and closes what a test leaves open.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import ssl
import struct
from collections import deque
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse
from tornado.httputil import HTTPHeaders
from tornado.netutil import Resolver
from tornado.websocket import (  # noqa: TID251
    WebSocketClientConnection,
    WebSocketClosedError,
    websocket_connect,
)

Packet = str | bytes
T = TypeVar("T")

SEPARATOR = "\x1e"
ENDPOINT = "/socket.io/"
#: How long anything may take that does come at once, on a machine that is busy with others.
SOON = 15.0
TRANSPORTS = ("polling", "websocket")
GUEST = {"guest": True}
#: Run a test against each implementation of websockets.
WEBSOCKETS = pytest.mark.parametrize("websockets", ["tornado", "picows"], indirect=True)


class Ended(Exception):
    """The gateway has closed the connection."""


async def soon(awaitable: Awaitable[T], timeout: float = SOON) -> T:
    return await asyncio.wait_for(awaitable, timeout)


def refusal(response: HTTPResponse) -> tuple[int, int]:
    """Return HTTP status and Engine.IO error code; there must be words for people."""
    body = json.loads(response.body)
    assert body["message"]
    return response.code, body["code"]


class _UnixResolver(Resolver):
    """Finds every host at one Unix domain socket."""

    def initialize(self, path: str) -> None:  # type: ignore[override]
        self._path = path

    async def resolve(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[tuple[int, Any]]:
        return [(socket.AF_UNIX, self._path)]


class Clients:
    """Makes clients of the gateway at `url`, whose Engine.IO endpoint is `path`.

    `ca_file` is who has to vouch for its certificate, `unix_socket` where it listens instead of
    the URL's host and port, `source` the address that clients have.
    """

    def __init__(
        self,
        url: str,
        path: str = ENDPOINT,
        *,
        ca_file: str = "",
        unix_socket: str = "",
        source: str = "",
    ) -> None:
        self.url = url.rstrip("/")
        self.path = path
        self.host, self.port = urlsplit(url).hostname or "", urlsplit(url).port or 0
        self.tls = ssl.create_default_context(cafile=ca_file) if ca_file else None
        self._unix_socket = unix_socket
        self._source = source
        self._resolver = _UnixResolver(unix_socket) if unix_socket else None
        self._http = AsyncHTTPClient(force_instance=True, max_clients=1000, resolver=self._resolver)
        self._opened: list[Any] = []

    async def close(self) -> None:
        for opened in reversed(self._opened):
            await opened.abandon()
        self._http.close()

    async def __aenter__(self) -> Clients:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    # HTTP

    async def fetch(
        self,
        path: str,
        method: str = "GET",
        body: str | bytes | None = None,
        headers: Mapping[str, str] | HTTPHeaders | None = None,
    ) -> HTTPResponse:
        """Send a request; no status raises."""
        request = HTTPRequest(
            self.url + path,
            method,
            HTTPHeaders(headers or {}),
            body,
            allow_nonstandard_methods=True,
            follow_redirects=False,
            request_timeout=20,
            decompress_response=False,
            ssl_options=self.tls,
            network_interface=self._source or None,
        )
        return await self._http.fetch(request, raise_error=False)

    async def engine(
        self,
        method: str = "GET",
        body: str | bytes | None = None,
        headers: Mapping[str, str] | HTTPHeaders | None = None,
        **query: str,
    ) -> HTTPResponse:
        """Send a request to the Engine.IO endpoint; EIO=4&transport=polling unless told."""
        return await self.fetch(endpoint(self.path, **query), method, body, headers)

    async def stream(self, receive_buffer: int = 0) -> Stream:
        """Open a bare TCP connection."""
        sock = socket.socket(socket.AF_UNIX if self._unix_socket else socket.AF_INET)
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        address = self._unix_socket or (self.host, self.port)
        await asyncio.get_running_loop().sock_connect(sock, address)
        name = self.host if self.tls else None
        reader, writer = await asyncio.open_connection(
            sock=sock, limit=2**16, ssl=self.tls, server_hostname=name
        )
        stream = Stream(reader, writer)
        self._opened.append(stream)
        return stream

    async def connections(self) -> int:
        """Return how many connections the gateway says it has."""
        text = (await soon(self.fetch("/metrics"))).body.decode()
        (line,) = [line for line in text.splitlines() if line.startswith("gateway_connections ")]
        return round(float(line.split()[1]))

    async def until_connections(self, count: int) -> None:
        """Wait until the gateway has this many."""
        async with asyncio.timeout(SOON):
            while await self.connections() != count:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    # Engine.IO

    async def polling(self, headers: Mapping[str, str] | None = None) -> Polling:
        """Do a polling handshake that succeeds."""
        response = await soon(self.engine(headers=headers))
        assert response.code == 200, response.body
        polling = Polling(self, response.body.decode(), headers)
        self._opened.append(polling)
        return polling

    async def upgrade_request(
        self, headers: Mapping[str, str] | None = None, **query: str
    ) -> WebSocketClientConnection:
        """Ask for a websocket, whatever the query; raises HTTPClientError when refused."""
        query = {"EIO": "4", "transport": "websocket", **query}
        url = f"{self.url.replace('http', 'ws', 1)}{self.path}?{urlencode(query)}"
        request = HTTPRequest(
            url,
            headers=HTTPHeaders(headers or {}),
            ssl_options=self.tls,
            network_interface=self._source or None,
        )
        connection = await soon(websocket_connect(request, resolver=self._resolver))
        assert connection.protocol is not None
        connection.protocol.set_nodelay(True)
        self._opened.append(_Closing(connection))
        return connection

    async def refused_upgrade(
        self, headers: Mapping[str, str] | None = None, **query: str
    ) -> tuple[int, int]:
        """Ask for a websocket that is refused before any 101: HTTP status, Engine.IO code."""
        try:
            await self.upgrade_request(headers, **query)
        except HTTPClientError as error:
            response = error.response
        else:
            raise AssertionError("the gateway answered 101")
        assert response is not None
        return refusal(response)

    async def websocket(self, headers: Mapping[str, str] | None = None) -> WebSocket:
        """Do a websocket handshake that succeeds."""
        connection = await self.upgrade_request(headers)
        message = await soon(connection.read_message())
        assert isinstance(message, str)
        return WebSocket(connection, message)

    async def link(self, transport: str) -> Polling | WebSocket:
        return await (self.polling() if transport == "polling" else self.websocket())

    async def upgraded(self) -> tuple[Polling, WebSocket]:
        """Open a session by polling and move it to a websocket."""
        polling = await self.polling()
        probe = WebSocket(await self.upgrade_request(sid=polling.sid))
        await probe.send("2probe")
        assert await probe.receive() == "3probe"
        await probe.send("5")
        probe.sid = polling.sid
        return polling, probe

    async def raw_websocket(self, receive_buffer: int = 0, **query: str) -> RawWebSocket:
        """Open a websocket whose every byte is under the test's control."""
        stream = await self.stream(receive_buffer)
        query = {"EIO": "4", "transport": "websocket", **query}
        stream.write(
            f"GET {self.path}?{urlencode(query)} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        head = await stream.head()
        assert head.startswith("HTTP/1.1 101 "), head
        return RawWebSocket(stream)

    # Socket.IO

    async def player(
        self, transport: str = "websocket", auth: Mapping[str, object] = GUEST
    ) -> Player:
        """Log in."""
        return await Player.log_in(await self.link(transport), auth)


async def connect_refused(link: _Link, auth: Mapping[str, object]) -> str:
    """Log in; return the code of the refusal."""
    await link.send("40" + json.dumps(auth))
    packet = await link.receive()
    assert isinstance(packet, str)
    assert packet[:2] == "44", packet
    code: str = json.loads(packet[2:])["data"]["code"]
    return code


def endpoint(path: str = ENDPOINT, /, **query: str) -> str:
    query = {"EIO": "4", "transport": "polling", **query}
    return f"{path}?" + urlencode({name: value for name, value in query.items() if value})


class Stream:
    """A bare TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def drain(self) -> None:
        await self._writer.drain()

    async def head(self) -> str:
        """Read the head of an HTTP response."""
        return (await soon(self.reader.readuntil(b"\r\n\r\n"))).decode()

    async def response(self) -> tuple[int, bytes]:
        """Read an HTTP response with a Content-Length: status and body."""
        head = await self.head()
        length = next(
            int(line.partition(":")[2])
            for line in head.lower().splitlines()
            if line.startswith("content-length:")
        )
        return int(head.split()[1]), await soon(self.reader.readexactly(length))

    async def rest(self) -> bytes:
        """Read until the gateway closes."""
        with contextlib.suppress(ConnectionResetError):
            return await soon(self.reader.read())
        return b""

    async def abandon(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class _Closing:
    def __init__(self, connection: WebSocketClientConnection) -> None:
        assert connection.protocol is not None
        self._connection = connection
        self._stream = connection.protocol.stream

    async def abandon(self) -> None:
        self._connection.close()
        # What still stands in the queue keeps the reading task from seeing the close.
        while not self._stream.closed():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._connection.read_message(), 0.02)


class _Link:
    """What both transports have in common. `answers_pings` is the client's heartbeat."""

    def __init__(self, open_packet: str = "") -> None:
        self.handshake: dict[str, Any] = {}
        self.sid = ""
        self.answers_pings = True
        if open_packet:
            assert open_packet[0] == "0", open_packet
            self.handshake = json.loads(open_packet[1:])
            self.sid = self.handshake["sid"]

    async def send(self, *packets: Packet) -> None:
        raise NotImplementedError

    async def _next(self) -> Packet:
        raise NotImplementedError

    async def receive(self, timeout: float = SOON) -> Packet:
        """Return the next Engine.IO packet. Raises Ended once the gateway has closed."""
        async with asyncio.timeout(timeout):
            while (packet := await self._next()) == "2" and self.answers_pings:
                await self.send("3")
        return packet

    async def ended(self, timeout: float = SOON) -> list[Packet]:
        """Wait until the gateway closes; return what came before that."""
        packets: list[Packet] = []
        with contextlib.suppress(Ended):
            while True:
                packets.append(await self.receive(timeout))
        return packets


class Polling(_Link):
    """A polling session."""

    def __init__(
        self, clients: Clients, open_packet: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(open_packet)
        self._clients = clients
        self._headers = headers
        self._packets: deque[Packet] = deque()
        self._pending: asyncio.Task[HTTPResponse] | None = None

    def get(self) -> asyncio.Task[HTTPResponse]:
        """Start a GET of this session; `Clients.close` does not wait for it."""
        return asyncio.ensure_future(self._clients.engine(sid=self.sid, headers=self._headers))

    async def poll(self) -> str:
        """Return the body of one poll that succeeds."""
        response = await soon(self.get())
        assert response.code == 200, response.body
        return response.body.decode()

    async def post(self, body: str | bytes) -> HTTPResponse:
        return await soon(
            self._clients.engine("POST", body, sid=self.sid, headers=self._headers), 20
        )

    async def open_poll(self) -> Stream:
        """Send a GET on a connection of its own, which the test may cut."""
        stream = await self._clients.stream()
        path = endpoint(self._clients.path, sid=self.sid)
        stream.write(f"GET {path} HTTP/1.1\r\nHost: {self._clients.host}\r\n\r\n".encode())
        await stream.drain()
        return stream

    async def send(self, *packets: Packet) -> None:
        response = await self.post(
            SEPARATOR.join(
                packet if isinstance(packet, str) else "b" + base64.b64encode(packet).decode()
                for packet in packets
            )
        )
        if response.code != 200:
            raise Ended(response.body)
        assert response.body == b"ok"

    async def _next(self) -> Packet:
        while not self._packets:
            pending = self._pending = self._pending or self.get()
            response = await asyncio.shield(pending)
            self._pending = None
            if response.code != 200:
                raise Ended(response.body)
            self._packets.extend(map(decode, response.body.decode().split(SEPARATOR)))
        packet = self._packets.popleft()
        if packet == "1":
            raise Ended("close packet")
        return packet

    async def abandon(self) -> None:
        with contextlib.suppress(OSError, HTTPClientError):
            await soon(self._clients.engine("POST", "1", sid=self.sid, headers=self._headers))
        if self._pending is not None:
            with contextlib.suppress(OSError, HTTPClientError):
                await soon(self._pending)


def decode(packet: str) -> Packet:
    return base64.b64decode(packet[1:]) if packet[:1] == "b" else packet


class WebSocket(_Link):
    """A websocket session, or a websocket that probes to become one."""

    def __init__(self, connection: WebSocketClientConnection, open_packet: str = "") -> None:
        super().__init__(open_packet)
        self.connection = connection

    @property
    def close_code(self) -> int | None:
        return self.connection.close_code

    async def send(self, *packets: Packet) -> None:
        try:
            for packet in packets:
                await self.connection.write_message(packet, binary=isinstance(packet, bytes))
        except WebSocketClosedError:
            raise Ended from None

    async def _next(self) -> Packet:
        packet = await self.connection.read_message()
        if packet is None or packet == "1":
            if packet is not None:
                # The close frame follows.
                assert await soon(self.connection.read_message()) is None
            raise Ended(self.connection.close_code)
        return packet


class RawWebSocket:
    """Frames of RFC 6455, well-formed or not; reads only when told to."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def send(self, data: bytes, opcode: int = 1, first: int = 0x80) -> None:
        """Write a masked frame; `first` holds FIN and the reserved bits."""
        self.stream.write(self.head(len(data), opcode, first) + data)

    @staticmethod
    def head(size: int, opcode: int = 1, first: int = 0x80) -> bytes:
        """Return a frame's head, with a mask that changes nothing."""
        if size < 126:
            length = struct.pack(">B", 0x80 | size)
        elif size < 2**16:
            length = struct.pack(">BH", 0x80 | 126, size)
        else:
            length = struct.pack(">BQ", 0x80 | 127, size)
        return bytes((first | opcode,)) + length + bytes(4)

    async def receive(self) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame. Raises Ended at the end of the stream."""
        try:
            opcode, size = await soon(self.stream.reader.readexactly(2))
            if size == 126:
                (size,) = struct.unpack(">H", await self.stream.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", await self.stream.reader.readexactly(8))
            return opcode & 0x0F, await soon(self.stream.reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionResetError):
            raise Ended from None

    async def ended(self) -> None:
        """Read up to the close frame or the end of the stream."""
        with contextlib.suppress(Ended):
            while (await self.receive())[0] != 8:
                pass

    async def close_code(self) -> int:
        """Read up to the close frame and return its code."""
        while True:
            opcode, payload = await self.receive()
            if opcode == 8:
                return int.from_bytes(payload[:2], "big")

    async def log_in(self, auth: Mapping[str, object] = GUEST) -> dict[str, Any]:
        """Return the payload of the event `session`."""
        assert (await self.receive())[1][:1] == b"0"
        self.send(b"40" + json.dumps(auth).encode())
        assert (await self.receive())[1][:2] == b"40"
        name, session = json.loads((await self.receive())[1][2:])
        assert name == "session"
        return session


class Player:
    """A client that is logged in, over any Engine.IO transport."""

    def __init__(self, link: _Link, connected: dict[str, Any], session: dict[str, Any]) -> None:
        self.link = link
        self.sid: str = connected["sid"]
        self.pid: str = connected["pid"]
        self.session = session
        self.true_id: str = session["true_id"]
        self._ack_id = 0
        self._set_aside: deque[str] = deque()

    @classmethod
    async def log_in(cls, link: _Link, auth: Mapping[str, object] = GUEST) -> Player:
        await link.send("40" + json.dumps(auth))
        packet = await link.receive()
        assert isinstance(packet, str)
        assert packet[:2] == "40", packet
        greeting = await link.receive()
        assert isinstance(greeting, str)
        name, session = json.loads(greeting[2:])
        assert name == "session"
        return cls(link, json.loads(packet[2:]), session)

    async def emit(self, name: str, *arguments: object, ack: str = "") -> None:
        await self.link.send(f"42{ack}{json.dumps([name, *arguments])}")

    async def call(self, name: str, *arguments: object) -> Any:
        """Emit an event and return its ack's argument; events before it wait for `event`."""
        self._ack_id += 1
        await self.emit(name, *arguments, ack=str(self._ack_id))
        head = f"43{self._ack_id}["
        while True:
            packet = await self.link.receive()
            assert isinstance(packet, str)
            if packet.startswith(head):
                (answer,) = json.loads(packet[len(head) - 1 :])
                return answer
            self._set_aside.append(packet)

    async def event(self, name: str) -> list[Any]:
        """Return the arguments of the next event, which must have this name."""
        packet = self._set_aside.popleft() if self._set_aside else await self.link.receive()
        assert isinstance(packet, str)
        assert packet[:3] == "42[", packet
        array = json.loads(packet[2:])
        assert array[0] == name, array
        return array[1:]

    async def message(self) -> Any:
        """Return the data of the next event, a `message`."""
        return (await self.event("message"))[0]["data"]

    async def send(self, target: Player, data: object, **keys: object) -> Any:
        """Send a message and return its receipt."""
        return await self.call("message", {"target_id": target.true_id, "data": data, **keys})


class Pair:
    """Two players, one on each transport, whom nothing that others do may disturb."""

    def __init__(self, ann: Player, bob: Player) -> None:
        self.ann, self.bob = ann, bob
        self._said = 0

    @classmethod
    async def meet(cls, clients: Clients) -> Pair:
        return cls(await clients.player("websocket"), await clients.player("polling"))

    async def talk(self) -> None:
        """Send a message each way; both must come, at once and once."""
        for sender, receiver in ((self.ann, self.bob), (self.bob, self.ann)):
            self._said += 1
            receipt = await sender.send(receiver, self._said)
            assert receipt["ok"], receipt
            assert receipt["status"] == "delivered"
            assert await receiver.message() == self._said
