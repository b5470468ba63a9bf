"""Engine.IO over Tornado: long-polling, and websockets by Tornado's own implementation."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

from tornado.iostream import IOStream, StreamClosedError
from tornado.web import Finish, RequestHandler, stream_request_body
from tornado.websocket import WebSocketClosedError, WebSocketHandler, WebSocketProtocol13

from gateway.engineio import (
    NOOP,
    PROTOCOL_VERSION,
    Data,
    RequestError,
    TransportName,
    bad_method,
    bad_request,
    forbidden,
    unknown_session,
    unknown_transport,
    unsupported_version,
)
from gateway.nodes import NodeId
from gateway.transport.close_codes import TOO_BIG, wrong_close
from gateway.transport.engine import Engine, EngineConnection
from gateway.transport.exchanges import Exchanges
from gateway.transport.forwarding import Answer, Forwarder
from gateway.transport.handshake import asks_for_upgrade, is_key
from gateway.transport.interfaces import EVENTS
from gateway.transport.peer import PeerPolicy
from gateway.transport.picows import PicowsWebSockets
from gateway.transport.quiet import QuietFaults, declared_length
from gateway.transport.stream import Stream

logger = logging.getLogger(__name__)

#: Bodies up to this size are read and thrown away so that the refusal of a larger one than
#: allowed reaches its client; beyond it the connection is cut.
_DISCARD_BYTES: Final = 8 * 1024 * 1024
_DISCARD_SECONDS: Final = 5.0
#: Opcode of a close frame.
_CLOSE: Final = 0x8


@dataclass(frozen=True, slots=True)
class Beyond:
    """What a node among others has beside its own engine.

    `forwarder` hands requests on to the others, `exchanges` are answers that went to them.
    """

    forwarder: Forwarder
    exchanges: Exchanges


class _Protocol(WebSocketProtocol13):
    """Tornado's websocket protocol that refuses a frame too large in words.

    Tornado cuts the connection at once, and what we wrote last is lost with it: the reset
    overtakes it while the client still sends. So the rest of the frame is read first.
    """

    _oversized = False

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        if code == TOO_BIG and not self._oversized:
            self._oversized = True
            cast(EngineHandler, self.handler).on_oversized()
        super().close(code, reason)

    def _handle_message(self, opcode: int, data: bytes) -> asyncio.Future[None] | None:
        # Tornado echoes any close code, and an undecodable reason it takes for our fault.
        if opcode == _CLOSE and data:
            wrong = wrong_close(data)
            if wrong is not None:
                data = struct.pack(">H", wrong)
        return super()._handle_message(opcode, data)

    def _abort(self) -> None:
        if not self._oversized or self.client_terminated:
            super()._abort()
            return
        self.client_terminated = True
        asyncio.ensure_future(self._discard()).add_done_callback(
            lambda _: super(_Protocol, self)._abort()
        )

    async def _discard(self) -> None:
        stream, left = self.stream, _DISCARD_BYTES
        with contextlib.suppress(StreamClosedError, asyncio.TimeoutError):
            async with asyncio.timeout(_DISCARD_SECONDS):
                while left > 0:
                    left -= len(await stream.read_bytes(65536, partial=True))


class TornadoWebSocket:
    """WebSocketLink over Tornado's handler; counts what the kernel has not taken yet."""

    def __init__(self, handler: EngineHandler) -> None:
        self._handler = handler
        self._buffered = 0
        self.stream: Stream | None = None
        self.lane: Callable[[bytes], None] | None = None

    @property
    def buffered(self) -> int:
        """See WebSocketLink.buffered."""
        return self._buffered

    def send(self, data: Data | memoryview) -> None:
        """See WebSocketLink.send."""
        if isinstance(data, str):
            self._write(data.encode(), binary=False)
        else:
            self._write(bytes(data), binary=True)

    def send_text(self, prefix: bytes, body: bytes) -> int:
        """See WebSocketLink.send_text."""
        self._write(prefix + body, binary=False)
        return self._buffered

    def _write(self, data: bytes, *, binary: bool) -> None:
        try:
            written = self._handler.write_message(data, binary=binary)
        except WebSocketClosedError:
            return
        size = len(data)
        self._buffered += size

        def on_written(future: asyncio.Future[None]) -> None:
            self._buffered -= size
            # A close in between is reported by on_close; here it only has to be taken note of.
            if not future.cancelled():
                future.exception()
            self._handler.on_progress()

        written.add_done_callback(on_written)

    def flush(self) -> None:
        """See WebSocketLink.flush; nothing is kept back here."""

    def close(self, code: int, reason: str) -> None:
        """See WebSocketLink.close; Tornado gives up on the handshake after five seconds."""
        self.lane = None
        self._handler.close(code, reason or None)


@stream_request_body
class EngineHandler(QuietFaults, WebSocketHandler):
    """The endpoint `/socket.io/`: GET and POST of polling, and the upgrade to websocket."""

    def initialize(
        self,
        engine: Engine,
        peers: PeerPolicy,
        picows: PicowsWebSockets | None,
        beyond: Beyond | None = None,
    ) -> None:
        """Take what the handler works with.

        Without `picows`, and under TLS, websockets are Tornado's. `beyond` is there if there may
        be other nodes.
        """
        self._picows = picows
        self._beyond = beyond
        self._engine = engine
        self._peers = peers
        self._connection: EngineConnection | None = None
        self._link: TornadoWebSocket | None = None
        self._poll: asyncio.Future[str] | None = None
        self._forwarded: asyncio.Future[Answer] | None = None
        self._gone = False
        self._body = bytearray()

    def set_default_headers(self) -> None:
        """Answers are never stored, and never sniffed for another type."""
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.clear_header("Server")

    def prepare(self) -> None:
        """Check the origin, and the size of a body before it is read."""
        origin = self.request.headers.get("Origin")
        if not self._peers.allows_origin(origin, self.request.host):
            self._refuse(forbidden("this origin is not in server.allowed_origins"))
        if origin is not None:
            self.set_header("Access-Control-Allow-Origin", origin)
            self.set_header("Access-Control-Allow-Credentials", "true")
            self.set_header("Vary", "Origin")
        self._bound_body()

    def _bound_body(self) -> None:
        if self.request.method == "POST":
            connection = cast(Any, self.request.connection)
            connection.set_max_body_size(_DISCARD_BYTES)
            if declared_length(self.request.headers) > _DISCARD_BYTES:
                self._refuse_body()

    def data_received(self, chunk: bytes) -> None:
        """Collect the body of a POST, as far as it is allowed to go."""
        # One that is too large is refused in `post`, when all of it is read: a refusal before
        # that cuts the connection, which a proxy that still sends takes for a failure of ours.
        if len(self._body) <= self._engine.settings.max_payload:
            self._body += chunk

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Handshake, poll or upgrade."""
        try:
            transport, sid = self._parse()
            node = self._elsewhere(sid)
            if transport == "websocket":
                await (self._tunnel(node, sid) if node and sid else self._upgrade(sid))
            elif sid is None:
                connection = self._engine.connect("polling", self._address())
                self.finish(self._engine.open_packet(connection))
            elif node is not None:
                await self._forward(node, sid)
            else:
                connection = await self._settled(sid)
                if not self._gone:
                    self._connection = connection
                    self._poll = connection.request_poll()
                    self._answer(sid, await self._poll)
        except RequestError as error:
            self._refuse(error)
        except asyncio.CancelledError:
            # The client left its pending GET: see on_connection_close.
            self._poll = self._forwarded = None

    async def post(self) -> None:
        """Packets from a polling client."""
        try:
            transport, sid = self._parse()
            node = self._elsewhere(sid)
            if node is None and len(self._body) > self._engine.settings.max_payload:
                self._refuse_body()
            if sid is None:
                raise bad_method()
            if transport != "polling":
                raise bad_request()
            if node is not None:
                # One that is too large, and cut then, is refused where the session is.
                await self._forward(node, sid)
                return
            connection = await self._settled(sid)
            try:
                body = self._body.decode()
            except UnicodeDecodeError:
                connection.close("parse error")
                raise bad_request("the body is not UTF-8") from None
            connection.post_payload(body)
            self._answer(sid, "ok")
        except RequestError as error:
            self._refuse(error)

    def _answer(self, sid: str, payload: str) -> None:
        self.finish(payload)

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> asyncio.Future[None]:
        """End the answer; that of a node which stops is the last one of its connection."""
        if self._beyond is not None and self._beyond.forwarder.leaving:
            # Proxies and browsers keep connections, and the next request belongs elsewhere.
            self.set_header("Connection", "close")
        return super().finish(chunk)

    def options(self) -> None:
        """Answer a browser's preflight; `prepare` has checked the origin."""
        self.set_header("Access-Control-Allow-Methods", "GET, POST")
        self.set_header("Access-Control-Allow-Headers", "Content-Type")
        self.set_header("Access-Control-Max-Age", "600")
        self.set_status(204)
        self.finish()

    def _parse(self) -> tuple[TransportName, str | None]:
        if self.get_query_argument("EIO", "") != PROTOCOL_VERSION:
            raise unsupported_version()
        transport = self.get_query_argument("transport", "")
        sid = self.get_query_argument("sid", None)
        upgrade = self.request.headers.get("Upgrade", "").lower() == "websocket"
        if transport == "websocket":
            if not upgrade:
                raise bad_request("transport websocket needs a websocket handshake")
            return "websocket", sid
        if transport == "polling":
            if upgrade:
                raise bad_request("transport polling is no websocket")
            return "polling", sid
        raise unknown_transport()

    def _address(self) -> str:
        forwarded = ",".join(self.request.headers.get_list("X-Forwarded-For"))
        return self._peers.address(self.request.remote_ip or "", forwarded)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer what Tornado refuses in the form of all refusals here."""
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"code": 3, "message": self._reason}))

    def _refuse(self, error: RequestError) -> None:
        self._engine.metrics.refused_handshake(error.status)
        self.set_status(error.status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"code": error.code, "message": error.message}))
        raise Finish

    def _refuse_body(self) -> None:
        """The POST is too large: tell the session's client why, on its poll and here."""
        sid = self.get_query_argument("sid", "")
        try:
            self._engine.connection(sid).on_oversized()
        except RequestError:
            logger.debug("an oversized body for an unknown session")
        self._refuse(RequestError(413, 3, f"more than {self._engine.settings.max_payload} bytes"))

    def on_connection_close(self) -> None:
        """The client hung up: on its pending poll, or on its websocket."""
        self._gone = True
        poll, self._poll = self._poll, None
        if poll is not None and self._connection is not None:
            self._connection.poll_aborted(poll)
            poll.cancel()
            return
        if self._forwarded is not None and self.request.method == "GET":
            self._forwarded.cancel()
            return
        # Ends the wait for a body that will not come; WebSocketHandler's own leaves that out.
        RequestHandler.on_connection_close(self)
        super().on_connection_close()

    # Other nodes

    def _elsewhere(self, sid: str | None) -> NodeId | None:
        """Return the node that has the session, if it is another one."""
        return self._beyond.forwarder.owner(sid) if self._beyond is not None and sid else None

    async def _settled(self, sid: str) -> EngineConnection:
        """Return the session's connection. Raises RequestError: none, or none any more.

        None when the answer to the request before this is lost, perhaps, with another node.
        """
        connection = self._engine.connection(sid)
        if self._beyond is not None:
            method = self.request.method or ""
            if not await self._beyond.exchanges.settled(sid, method):
                connection.abort("transport error")
            connection = self._engine.connection(sid)
        return connection

    async def _forward(self, node: NodeId, sid: str) -> None:
        """Have the session's node answer, and tell it that the client has the answer."""
        forwarder = cast(Beyond, self._beyond).forwarder
        method = self.request.method or ""
        if forwarder.released and method == "GET":
            self.finish(NOOP)
            return
        with forwarder.awaited():
            body = bytes(self._body)
            self._forwarded = asyncio.ensure_future(forwarder.fetch(node, method, sid, body))
            answer = await self._forwarded
            self._forwarded = None
            self.set_status(answer.status)
            self.set_header("Content-Type", answer.content_type)
            stream: IOStream = cast(Any, self.request.connection).stream
            closed = stream.closed()
            self.finish(answer.body)
            # What an open stream takes without an error is on its way: to its client, and to a
            # proxy in between, the request has been answered.
            if not closed and stream.error is None:
                await forwarder.confirm(answer, method, sid)

    async def _tunnel(self, node: NodeId, sid: str) -> None:
        """Have the session's node accept the websocket, and pass on its bytes."""
        self._check_handshake()
        forwarder = cast(Beyond, self._beyond).forwarder
        key = self.request.headers["Sec-WebSocket-Key"]
        stream, head = await forwarder.open_tunnel(node, sid, key)
        client = self.detach()
        self._auto_finish = False
        forwarder.run_tunnel(client, stream, head)

    # WebSocket

    async def _upgrade(self, sid: str | None) -> None:
        self._check_handshake()
        if sid is not None:
            connection = self._engine.connection(sid)
            connection.check_upgrade()
        else:
            connection = self._engine.connect("websocket", self._address())
        self._connection = connection
        # The socket under a TLS connection cannot be handed over.
        if self._picows is not None and self.request.protocol != "https":
            self._hand_over(self._picows, connection)
        else:
            await super().get()

    def _check_handshake(self) -> None:
        """Check what RFC 6455, section 4.2.1 asks of the request. Raises RequestError."""
        headers = self.request.headers
        if self.request.version != "HTTP/1.1":
            raise bad_request("a websocket handshake is of HTTP/1.1")
        if not asks_for_upgrade(headers.get("Connection", "")):
            raise bad_request('the header Connection must hold "Upgrade"')
        if headers.get("Sec-WebSocket-Version") != "13":
            self.set_header("Sec-WebSocket-Version", "13")
            raise RequestError(426, 3, "the websocket version must be 13")
        if not is_key(headers.get("Sec-WebSocket-Key", "")):
            raise bad_request("the header Sec-WebSocket-Key is missing or malformed")

    def _hand_over(self, picows: PicowsWebSockets, connection: EngineConnection) -> None:
        """Let picows have the socket; nothing of Tornado's stays behind."""
        key = self.request.headers["Sec-WebSocket-Key"]
        stream = self.detach()
        self._auto_finish = False
        self._connection = None
        early = bytes(stream._read_buffer)
        accepted = stream.socket.dup()
        accepted.setblocking(False)
        stream.close()
        try:
            picows.take_over(accepted, key, early, connection)
        except OSError:
            accepted.close()
            connection.on_websocket_failed()

    def open(self, *args: Any, **kwargs: Any) -> None:
        """The websocket is open."""
        connection = self._connection
        if connection is None:
            raise unknown_session()
        self.set_nodelay(True)
        self._link = TornadoWebSocket(self)
        connection.on_websocket_open(self._link)

    def on_message(self, message: Data) -> None:
        """A frame came in."""
        link = self._link
        if self._connection is None or link is None:
            return
        if link.lane is not None and isinstance(message, str) and message.startswith(EVENTS):
            link.lane(message[2:].encode())
        else:
            self._connection.on_frame(link, message)

    def on_oversized(self) -> None:
        """A frame is too large; Tornado closes with 1009."""
        if self._connection is not None:
            self._connection.on_oversized()

    def on_progress(self) -> None:
        """Some of what was written is gone."""
        if self._connection is not None:
            self._connection.on_progress()

    def on_close(self) -> None:
        """The websocket is gone."""
        connection, self._connection = self._connection, None
        if connection is not None and self._link is not None:
            connection.on_websocket_closed(self._link)

    def check_origin(self, origin: str) -> bool:
        """Already checked in `prepare`, for all transports alike."""
        return True

    def get_websocket_protocol(self) -> WebSocketProtocol13 | None:
        """Return Tornado's protocol of RFC 6455 with our answer to oversized frames."""
        protocol = super().get_websocket_protocol()
        if not isinstance(protocol, WebSocketProtocol13):
            return None
        return _Protocol(self, False, protocol.params)
