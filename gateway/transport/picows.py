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

import aiofastnet
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport
from picows.picows import WSProtocol  # type: ignore[attr-defined]

from gateway.engineio import Data
from gateway.transport.engine import EngineConnection
from gateway.transport.timers import Timer, TimerQueue

logger = logging.getLogger(__name__)

_TEXT: Final = WSMsgType.TEXT
_BINARY: Final = WSMsgType.BINARY
_CONTINUATION: Final = WSMsgType.CONTINUATION
_PING: Final = WSMsgType.PING
_CLOSE: Final = WSMsgType.CLOSE

#: Close codes of RFC 6455, section 7.4.1.
_NO_STATUS: Final = 1005
_PROTOCOL_ERROR: Final = 1002
_INVALID_TEXT: Final = 1007
_TOO_BIG: Final = 1009

#: picows takes no smaller one, and grows it when a frame needs more.
_READ_BUFFER: Final = 2048
#: One read takes no more, so that a burst of small frames does not grow the buffer for good.
_MAX_READ: Final = 64 * 1024
#: picows refuses longer frames itself, without a word for the client; ours is refused first.
_PICOWS_MAX_FRAME: Final = 2**40
_DISCARD_BYTES: Final = 8 * 1024 * 1024
_CLOSE_TIMEOUT: Final = 5.0


class _Logger:
    """Where picows logs to: its faults and ours to our log, what clients do nowhere.

    A real logger it would copy for each connection.
    """

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        return False

    def log(self, *arguments: object) -> None:
        pass

    debug = info = warning = error = log

    def exception(self, text: str, *arguments: object) -> None:
        logger.exception(text, *arguments)


class PicowsWebSocket(WSListener):
    """WebSocketLink over picows; also picows' listener, so that one object does for both."""

    __slots__ = (
        "_close_timer",
        "_connection",
        "_factory",
        "_fragments",
        "_fragments_kind",
        "_fragments_size",
        "_transport",
        "discarding",
        "unframed",
    )

    def __init__(self, factory: PicowsWebSockets, connection: EngineConnection) -> None:
        self._factory = factory
        self._connection: EngineConnection | None = connection
        self._transport: WSTransport | None = None
        self._fragments: list[bytes] | None = None
        self._fragments_kind = _TEXT
        self._fragments_size = 0
        self._close_timer: Timer[PicowsWebSocket] | None = None
        #: Bytes received since the last whole frame.
        self.unframed = 0
        #: True once the client has sent too much: the rest of it is thrown away.
        self.discarding = False

    # WebSocketLink

    @property
    def buffered(self) -> int:
        """See WebSocketLink.buffered."""
        transport = self._transport
        return transport.underlying_transport.get_write_buffer_size() if transport else 0

    def send(self, data: Data | memoryview) -> None:
        """See WebSocketLink.send."""
        transport = self._transport
        if transport is not None:
            if isinstance(data, str):
                transport.send(_TEXT, data.encode())
            else:
                transport.send(_BINARY, data)

    def send_text(self, data: bytes) -> None:
        """See WebSocketLink.send_text."""
        transport = self._transport
        if transport is not None:
            transport.send(_TEXT, data)

    def close(self, code: int, reason: str) -> None:
        """See WebSocketLink.close."""
        transport, self._connection = self._transport, None
        if transport is not None and self._close_timer is None:
            if not transport.is_close_frame_sent:
                transport.send_close(cast(WSCloseCode, code), reason.encode())
            self._close_timer = self._factory.closing.start(self)

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.disconnect(graceful=False)

    # picows' listener

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The 101 is written."""
        self._transport = transport
        budget = self._factory.send_buffer_bytes
        if budget:
            transport.underlying_transport.set_write_buffer_limits(high=budget, low=budget // 2)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """A whole frame came in: a message, a part of one, or control."""
        self.unframed = 0
        connection = self._connection
        kind = frame.msg_type
        if connection is None:
            if kind == _CLOSE:
                transport.disconnect()
            return
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._fail(_PROTOCOL_ERROR)
        elif frame.payload_size > self._factory.max_payload:
            self.on_oversized()
        elif kind == _TEXT and frame.fin and self._fragments is None:
            try:
                text = frame.get_payload_as_utf8_text()
            except UnicodeDecodeError:
                self._fail(_INVALID_TEXT)
                return
            connection.on_frame(self, text)
        elif kind == _PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif kind == _CLOSE:
            self._on_close_frame(transport, frame)
        elif kind in (_TEXT, _BINARY, _CONTINUATION):
            self._on_fragment(connection, frame)

    def _on_close_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        code = frame.get_close_code()
        if not transport.is_close_frame_sent:
            # 1005 stands for "no code given" and is never sent itself.
            if frame.payload_size:
                transport.send_close(code, frame.get_close_message())
            else:
                transport.send(_CLOSE, b"")
        transport.disconnect()

    def _on_fragment(self, connection: EngineConnection, frame: WSFrame) -> None:
        kind = frame.msg_type
        if (kind == _CONTINUATION) != (self._fragments is not None):
            self._fail(_PROTOCOL_ERROR)
            return
        if self._fragments is None:
            self._fragments, self._fragments_kind, self._fragments_size = [], kind, 0
        self._fragments_size += frame.payload_size
        if self._fragments_size > self._factory.max_payload:
            self.on_oversized()
            return
        if frame.payload_size:
            self._fragments.append(frame.get_payload_as_bytes())
        if not frame.fin:
            return
        message, self._fragments = b"".join(self._fragments), None
        if self._fragments_kind == _BINARY:
            connection.on_frame(self, message)
            return
        try:
            text = message.decode()
        except UnicodeDecodeError:
            self._fail(_INVALID_TEXT)
            return
        connection.on_frame(self, text)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The socket is closed."""
        self._transport = None
        self._factory.forget(self)
        if self._close_timer is not None:
            self._close_timer.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.on_websocket_closed(self)

    def pause_writing(self) -> None:
        """The send budget is used up; `EngineConnection` sees that by itself."""

    def resume_writing(self) -> None:
        """Half of the send budget is free again."""
        if self._connection is not None:
            self._connection.on_progress()

    # Ends

    def on_oversized(self) -> None:
        """The client sends more than it may: say so, and read on, for a reset would lose that."""
        self.discarding = True
        connection = self._connection
        if connection is not None:
            connection.on_oversized()
        self.close(_TOO_BIG, "message too big")

    def _fail(self, code: int) -> None:
        connection = self._connection
        self.close(code, "")
        if connection is not None:
            connection.on_websocket_closed(self)


class _Protocol(WSProtocol):  # type: ignore[misc]
    """picows' protocol that stops to buffer a frame when it gets too large."""

    __slots__ = ("_discarded", "_limit", "_link", "_scratch")

    def attach(self, link: PicowsWebSocket, limit: int) -> None:
        self._link = link
        self._limit = limit
        self._discarded = 0
        self._scratch: bytearray | None = None

    def get_buffer(self, size_hint: int) -> Any:
        if self._scratch is not None:
            return self._scratch
        view = super().get_buffer(size_hint)
        return view if len(view) <= _MAX_READ else view[:_MAX_READ]

    def buffer_updated(self, nbytes: int) -> None:
        link = self._link
        if not link.discarding:
            link.unframed += nbytes
            if link.unframed <= self._limit:
                super().buffer_updated(nbytes)
                return
            link.on_oversized()
        if self._scratch is None:
            self._scratch = bytearray(_MAX_READ)
        self._discarded += nbytes
        if self._discarded > _DISCARD_BYTES:
            link.abort()


class PicowsWebSockets:
    """Takes sockets over from Tornado. Sizes in bytes; a send budget of 0 means no limit."""

    def __init__(
        self, max_payload: int, send_buffer_bytes: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.max_payload = max_payload
        self.send_buffer_bytes = send_buffer_bytes
        self._loop = loop
        self._logger = _Logger()
        # picows holds its listener by a weak reference only.
        self._links: set[PicowsWebSocket] = set()
        self.closing: TimerQueue[PicowsWebSocket] = TimerQueue(
            loop, _CLOSE_TIMEOUT, PicowsWebSocket.abort
        )

    async def take_over(
        self,
        accepted: socket.socket,
        key: str,
        early: bytes,
        connection: EngineConnection,
        on_open: Callable[[PicowsWebSocket], None],
    ) -> None:
        """Answer the upgrade request on this socket with 101 and speak websocket from then on.

        `key` is its checked Sec-WebSocket-Key, `early` what came behind the request already.
        """
        link = PicowsWebSocket(self, connection)

        def build() -> _Protocol:
            protocol = _Protocol(
                None,
                None,
                False,
                lambda request: link,
                self._logger,
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
            protocol.attach(link, self.max_payload + _MAX_READ)
            return protocol

        self._links.add(link)
        _, protocol = await aiofastnet.connect_accepted_socket(self._loop, build, accepted)
        head = (
            "GET / HTTP/1.1\r\nHost: -\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        )
        _feed(protocol, head.encode())
        on_open(link)
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


def _feed(protocol: _Protocol, data: bytes) -> None:
    """Hand bytes to the protocol as if they had just been read."""
    while data:
        view = protocol.get_buffer(-1)
        size = min(len(view), len(data))
        view[:size] = data[:size]
        protocol.buffer_updated(size)
        data = data[size:]
