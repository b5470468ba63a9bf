"""WebSockets by picows: Tornado does the HTTP request, picows gets the socket.

picows' protocol class is not public API. Every touch of it is in this module, and
tests/transport/test_picows.py fails loudly when a new release moves it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any, Final, cast

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport
from picows.picows import WSProtocol  # type: ignore[attr-defined]

from gateway.engineio import Data
from gateway.transport.close_codes import INVALID_TEXT, PROTOCOL_ERROR, TOO_BIG, wrong_close
from gateway.transport.engine import EngineConnection
from gateway.transport.frames import (
    BINARY_FRAME,
    LENGTH_16,
    TEXT_FRAME,
    TextFrames,
    build_frame,
)
from gateway.transport.interfaces import EVENTS
from gateway.transport.stream import Stream, Turn
from gateway.transport.timers import Timer, TimerQueue

logger = logging.getLogger(__name__)

_TEXT: Final = WSMsgType.TEXT
_BINARY: Final = WSMsgType.BINARY
_CONTINUATION: Final = WSMsgType.CONTINUATION
_PING: Final = WSMsgType.PING
_CLOSE: Final = WSMsgType.CLOSE
_EVENTS: Final = tuple(each.encode() for each in EVENTS)
#: picows takes no smaller one, and grows it when a frame needs more.
_READ_BUFFER: Final = 2048
#: One read takes no more, so that a burst of small frames does not grow the buffer for good.
_MAX_READ: Final = 64 * 1024
#: picows refuses longer frames itself, without a word for the client; ours is refused first.
_PICOWS_MAX_FRAME: Final = 2**40
_DISCARD_BYTES: Final = 8 * 1024 * 1024
_CLOSE_TIMEOUT: Final = 5.0


class PicowsWebSocket(WSListener):
    """WebSocketLink over picows; also picows' listener and logger, one object for all."""

    __slots__ = (
        "_close_timer",
        "_connection",
        "_factory",
        "_fragments",
        "_fragments_kind",
        "_transport",
        "discarding",
        "lane",
        "stream",
        "unframed",
    )

    def __init__(self, factory: PicowsWebSockets, connection: EngineConnection) -> None:
        self._factory = factory
        self._connection: EngineConnection | None = connection
        self._transport: WSTransport | None = None
        self._fragments: bytearray | None = None
        self._fragments_kind = _TEXT
        self._close_timer: Timer[PicowsWebSocket] | None = None
        #: The socket, from the 101 on until the close.
        self.stream: Stream | None = None
        self.lane: Callable[[bytes], None] | None = None
        #: Bytes received of a frame that is not whole yet.
        self.unframed = 0
        #: True once the client has sent too much: the rest of it is thrown away.
        self.discarding = False

    # WebSocketLink

    @property
    def buffered(self) -> int:
        """See WebSocketLink.buffered."""
        return self.stream.get_write_buffer_size() if self.stream is not None else 0

    def send(self, data: Data | memoryview) -> None:
        """See WebSocketLink.send."""
        if isinstance(data, str):
            self._cork(build_frame(TEXT_FRAME, b"", data.encode()))
        else:
            self._cork(build_frame(BINARY_FRAME, b"", bytes(data)))

    def send_text(self, prefix: bytes, body: bytes) -> int:
        """See WebSocketLink.send_text."""
        return self._cork(self._factory.frames.build(prefix, body))

    def _cork(self, frame: bytes) -> int:
        return self.stream.cork(frame) if self.stream is not None else 0

    def flush(self) -> None:
        """See WebSocketLink.flush."""
        if self.stream is not None:
            self.stream.flush()

    def close(self, code: int, reason: str) -> None:
        """See WebSocketLink.close."""
        transport, self._connection = self._transport, None
        self.lane = None
        if transport is not None and self._close_timer is None:
            self._leave_stream()
            if not transport.is_close_frame_sent:
                _send_close(transport, code, reason.encode())
            self._close_timer = self._factory.closing.start(self)

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.disconnect(graceful=False)

    # picows' listener

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The 101 is written."""
        self._transport = transport
        # picows keeps them as long as the connection lives; nobody reads them again.
        transport.request.headers.clear()
        transport.response.headers.clear()
        stream = cast(Stream, transport.underlying_transport)
        budget = self._factory.send_buffer_bytes
        if budget:
            stream.set_write_buffer_limits(budget // 2, budget // 2)
        self.stream = stream

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """A whole frame came in: a message, a part of one, or control."""
        self.unframed = frame.tail_size
        kind = frame.msg_type
        lane = self.lane
        if (
            lane is not None
            and kind is _TEXT
            and frame.fin
            and self._fragments is None
            and not (frame.rsv1 or frame.rsv2 or frame.rsv3)
        ):
            payload = frame.get_payload_as_bytes()
            # Other texts go the long way, where their encoding is checked.
            if (
                payload.startswith(_EVENTS)
                and payload.isascii()
                and len(payload) <= self._factory.max_payload
            ):
                lane(payload[2:])
                return
        connection = self._connection
        if connection is None:
            if kind == _CLOSE:
                transport.disconnect()
            return
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._fail(PROTOCOL_ERROR)
        elif frame.payload_size > self._factory.max_payload:
            self.on_oversized()
        elif kind == _TEXT and frame.fin and self._fragments is None:
            try:
                text = frame.get_payload_as_utf8_text()
            except UnicodeDecodeError:
                self._fail(INVALID_TEXT)
                return
            connection.on_frame(self, text)
        elif kind == _PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif kind == _CLOSE:
            self._on_close_frame(transport, frame.get_payload_as_bytes())
        elif kind in (_TEXT, _BINARY, _CONTINUATION):
            self._on_fragment(connection, frame)

    def _on_close_frame(self, transport: WSTransport, payload: bytes) -> None:
        self.flush()
        if not transport.is_close_frame_sent:
            wrong = wrong_close(payload)
            if wrong is not None:
                _send_close(transport, wrong, b"")
            elif payload:
                _send_close(transport, int.from_bytes(payload[:2], "big"), payload[2:])
            else:
                transport.send(_CLOSE, b"")
        transport.disconnect()

    def _on_fragment(self, connection: EngineConnection, frame: WSFrame) -> None:
        kind = frame.msg_type
        if (kind == _CONTINUATION) != (self._fragments is not None):
            self._fail(PROTOCOL_ERROR)
            return
        if self._fragments is None:
            self._fragments, self._fragments_kind = bytearray(), kind
        if len(self._fragments) + frame.payload_size > self._factory.max_payload:
            self.on_oversized()
            return
        self._fragments += frame.get_payload_as_memoryview()
        if not frame.fin:
            return
        message, self._fragments = bytes(self._fragments), None
        if self._fragments_kind == _BINARY:
            connection.on_frame(self, message)
            return
        try:
            text = message.decode()
        except UnicodeDecodeError:
            self._fail(INVALID_TEXT)
            return
        connection.on_frame(self, text)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The socket is closed."""
        self._transport = None
        self._leave_stream()
        self._factory.forget(self)
        if self._close_timer is not None:
            self._close_timer.cancel()
        connection, self._connection = self._connection, None
        self.lane = None
        if connection is not None:
            connection.on_websocket_closed(self)

    def pause_writing(self) -> None:
        """More than half of the send budget is used; `EngineConnection` sees when it is all."""

    def resume_writing(self) -> None:
        """Half of the send budget is free again."""
        if self._connection is not None:
            self._connection.on_progress()

    # picows' logger: what clients do is not logged, its faults and ours are. A real logger
    # it would copy for each connection.

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        """Nothing below a fault is logged."""
        return False

    def log(self, *arguments: object) -> None:
        """Log nothing."""

    def debug(self, *arguments: object) -> None:
        """Log nothing."""

    def info(self, *arguments: object) -> None:
        """Log nothing."""

    def warning(self, *arguments: object) -> None:
        """Log nothing."""

    def error(self, text: str, *arguments: object) -> None:
        """Picows found the client at fault and will close with its own code next.

        A close frame that came before the fault is answered first, as it would have been.
        """
        transport = self._transport
        if transport is None or transport.is_close_frame_sent:
            return
        handshake = cast(Any, transport.close_handshake)
        if handshake is not None and handshake.recv is not None:
            code = int(handshake.recv.code)
            if wrong_close(code.to_bytes(2, "big")) is None:
                _send_close(transport, code, b"")

    def exception(self, text: str, *arguments: object) -> None:
        """A fault of picows or of ours; the connection is closed."""
        logger.exception(text, *arguments)

    # Ends

    def _leave_stream(self) -> None:
        """Write what is corked, and nothing more."""
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.on_progress = None
            stream.flush()

    def on_oversized(self) -> None:
        """The client sends more than it may: say so, and read on, for a reset would lose that."""
        self.discarding = True
        connection = self._connection
        if connection is not None:
            connection.on_oversized()
        self.close(TOO_BIG, "message too big")

    def _fail(self, code: int) -> None:
        connection = self._connection
        self.close(code, "")
        if connection is not None:
            connection.on_websocket_closed(self)


# Looked up once: super() would do it at each read.
_get_buffer: Final = WSProtocol.get_buffer
_buffer_updated: Final = WSProtocol.buffer_updated


class _UnixSocket(socket.socket):
    """Leaves out what picows does to any socket, but only TCP knows."""

    def setsockopt(self, level: int, *arguments: Any) -> None:
        if level != socket.IPPROTO_TCP:
            super().setsockopt(level, *arguments)

    def getsockopt(self, level: int, *arguments: Any) -> Any:
        return 0 if level == socket.IPPROTO_TCP else super().getsockopt(level, *arguments)


class _Protocol(WSProtocol):  # type: ignore[misc]
    """picows' protocol that stops to buffer a frame when it gets, or will get, too large."""

    __slots__ = ("_discarded", "_limit", "_link", "_view")

    def attach(self, link: PicowsWebSocket, limit: int) -> None:
        self._link = link
        self._limit = limit
        self._discarded = 0
        self._view = memoryview(b"")

    def get_buffer(self, size_hint: int) -> memoryview:
        if self._link.discarding:
            return memoryview(bytearray(_MAX_READ))
        view: memoryview = _get_buffer(self, size_hint)
        self._view = view = view if len(view) <= _MAX_READ else view[:_MAX_READ]
        return view

    def buffer_updated(self, nbytes: int) -> None:
        link = self._link
        if link.discarding:
            self._discarded += nbytes
            if self._discarded > _DISCARD_BYTES:
                link.abort()
            return
        # Between two frames the data starts with a header, which says how long the frame will be.
        announced = 0
        if not link.unframed and nbytes > 1 and self._view[1] & 0x7F >= LENGTH_16:
            announced = _announced(self._view[:nbytes])
        link.unframed += nbytes
        if announced > self._limit or link.unframed > self._limit + _MAX_READ:
            link.on_oversized()
        else:
            _buffer_updated(self, nbytes)


def _announced(data: memoryview) -> int:
    """Return the long payload length in a frame's header, as far as it is there."""
    end = 4 if data[1] & 0x7F == LENGTH_16 else 10
    return int.from_bytes(data[2:end], "big")


class PicowsWebSockets:
    """Takes sockets over from Tornado. Sizes in bytes; a send budget of 0 means no limit."""

    def __init__(
        self, max_payload: int, send_buffer_bytes: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.max_payload = max_payload
        self.send_buffer_bytes = send_buffer_bytes
        self._loop = loop
        # picows holds its listener by a weak reference only.
        self._links: set[PicowsWebSocket] = set()
        self.frames = TextFrames()
        self._turn = Turn(loop)
        self.closing: TimerQueue[PicowsWebSocket] = TimerQueue(
            loop, _CLOSE_TIMEOUT, PicowsWebSocket.abort
        )

    def reconfigure(self, max_payload: int, send_buffer_bytes: int) -> None:
        """Take other limits from now on."""
        self.max_payload = max_payload
        self.send_buffer_bytes = send_buffer_bytes

    def take_over(
        self,
        accepted: socket.socket,
        key: str,
        early: bytes,
        connection: EngineConnection,
    ) -> None:
        """Answer the upgrade request on this socket with 101 and speak websocket from then on.

        `key` is its checked Sec-WebSocket-Key, `early` what came behind the request already.
        Raises OSError.
        """
        link = PicowsWebSocket(self, connection)
        protocol = _Protocol(
            None,
            None,
            False,
            lambda request: link,
            link,
            True,
            None,
            False,
            0,
            0,
            1,
            False,
            _PICOWS_MAX_FRAME,
            None,
            _READ_BUFFER,
        )
        protocol.attach(link, self.max_payload)
        if accepted.family == socket.AF_UNIX:
            accepted = _UnixSocket(fileno=accepted.detach())
        Stream(self._loop, accepted, protocol, self._turn).start()
        self._links.add(link)
        head = (
            "GET / HTTP/1.1\r\nHost: -\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        )
        _feed(protocol, head.encode())
        connection.on_websocket_open(link)
        if early:
            _feed(protocol, early)

    def forget(self, link: PicowsWebSocket) -> None:
        """The link's socket is closed."""
        self._links.discard(link)

    def close(self) -> None:
        """Cut whatever has not closed by itself."""
        self.closing.stop()
        for link in tuple(self._links):
            link.abort()


def _send_close(transport: WSTransport, code: int, reason: bytes) -> None:
    # picows takes any integer for its enumeration.
    transport.send_close(cast(WSCloseCode, code), reason)


def _feed(protocol: _Protocol, data: bytes) -> None:
    """Hand bytes to the protocol as if they had just been read."""
    while data:
        view = protocol.get_buffer(-1)
        size = min(len(view), len(data))
        view[:size] = data[:size]
        protocol.buffer_updated(size)
        data = data[size:]
