"""Socket.IO v5 over the engine: the packets of the gateway's own namespace `/`."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable, Coroutine
from typing import Final

from gateway.admission import Admission
from gateway.connection import Connection
from gateway.engineio import Data
from gateway.errors import ConnectRefused, ProtocolViolation, RequestRefused
from gateway.limits import TokenBucket
from gateway.messages import encode, encode_event
from gateway.sink import EventWriter, Sink
from gateway.transport.engine import EngineConnection
from gateway.transport.extensions import ExtensionPeer, ExtensionServer
from gateway.transport.packets import (
    BINARY_ACK,
    BINARY_EVENT,
    CONNECT,
    DISCONNECT,
    EVENT,
    Packet,
    check_ack,
    decode_auth,
    parse_packet,
)
from gateway.transport.timers import Timer, TimerQueue

logger = logging.getLogger(__name__)

#: Packets of the namespace `/`, from the Engine.IO type on.
#: In digits, as parse_packet takes it.
_LONGEST_ACK_ID: Final = 15
_CONNECT: Final = b"40"
_DISCONNECT: Final = b"41"
_CONNECT_ERROR: Final = b"44"
#: CONNECTs of one connection; one that sends more is closed.
_ATTEMPTS_PER_SECOND: Final = 1.0
_ATTEMPTS_AT_ONCE: Final = 10.0
_RETRY_AFTER: Final = 5.0


class _Phase(enum.Enum):
    WAITING = enum.auto()  # for a CONNECT
    ADMITTING = enum.auto()
    CONNECTED = enum.auto()
    CLOSED = enum.auto()


class SocketIOPeer(Sink):
    """The client at the other end of one engine connection. Handler below, Sink above."""

    __slots__ = (
        "_attachments",
        "_attachments_to",
        "_attempts",
        "_connection",
        "_engine",
        "_extension",
        "_phase",
        "_server",
        "_task",
        "_timer",
    )

    def __init__(self, server: SocketIOServer, engine: EngineConnection) -> None:
        self._server = server
        self._engine = engine
        self._phase = _Phase.WAITING
        self._connection: Connection | None = None
        self._attachments = 0
        self._attachments_to: ExtensionPeer | None = None
        self._extension: ExtensionPeer | None = None
        self._attempts: TokenBucket | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer = server.start_connect_timer(self)

    # Handler: from the engine

    def on_event(self, event: bytes) -> None:
        """Take the short way of events: see WebSocketLink.lane."""
        connection = self._connection
        start = event.find(b"[", 0, _LONGEST_ACK_ID + 1)
        digits = event[:start] if start > 0 else b""
        if connection is None or self._attachments or start < 0 or (start and not digits.isdigit()):
            self.on_message("2" + event.decode())
            return
        try:
            connection.receive(event[start:], int(digits) if start else None)
        except ProtocolViolation as error:
            self._violate(str(error))

    def on_message(self, data: Data) -> None:
        """See Handler.on_message. What breaks the protocol is answered by `error` and a close."""
        try:
            if isinstance(data, bytes):
                self._on_attachment(data)
            else:
                self._on_packet(data)
        except ProtocolViolation as error:
            self._violate(str(error))

    def _on_packet(self, text: str) -> None:
        if self._attachments:
            raise ProtocolViolation("a binary attachment was expected")
        connection = self._connection
        packet = parse_packet(text)
        if packet.kind in (BINARY_EVENT, BINARY_ACK):
            self._attachments = packet.attachments
            self._attachments_to = None
        admission = self._server.admission
        if packet.namespace != "/" or admission is None:
            self._on_foreign(packet, text)
        elif packet.kind == CONNECT:
            self._on_connect(admission, packet.body)
        elif connection is None:
            raise ProtocolViolation("the first packet must be a CONNECT")
        elif packet.kind == DISCONNECT:
            self._leave("client disconnect")
        elif packet.kind == EVENT:
            connection.receive(packet.body.encode(), packet.ack_id)
        elif packet.kind == BINARY_EVENT:
            connection.refuse(
                RequestRefused(
                    "bad_request", "binary data is not supported here: send it as base64 text"
                ),
                packet.ack_id,
            )
        else:
            # The gateway asks for no acks.
            check_ack(packet.body)

    def _on_foreign(self, packet: Packet, text: str) -> None:
        """A packet for a namespace of the extensions."""
        extensions = self._server.extensions
        if packet.kind == CONNECT:
            self._attempt()
            if extensions is None or not extensions.knows(packet.namespace):
                self._send_refusal({"message": "Invalid namespace"}, packet.namespace)
                return
            if self._extension is None:
                self._extension = ExtensionPeer(extensions, self._engine, self._stop_timer)
                if self._connection is not None:
                    self._extension.on_player(self._connection.true_id)
        if self._extension is None:
            raise ProtocolViolation("not connected to this namespace")
        try:
            taken = self._extension.receive(packet, text)
        except ConnectRefused as error:
            self._refuse(error, packet.namespace)
            return
        if taken:
            self._attachments_to = self._extension

    def _on_attachment(self, data: bytes) -> None:
        if not self._attachments:
            raise ProtocolViolation("an unexpected binary attachment")
        self._attachments -= 1
        if self._attachments_to is not None:
            self._attachments_to.receive_attachment(data)

    def on_oversized(self) -> None:
        """See Handler.on_oversized."""
        text = "the packet is larger than the gateway takes"
        if self._connection is not None:
            self._connection.send("error", {"code": "too_large", "message": text, "event": ""})
        else:
            self._refuse(ConnectRefused("bad_credentials", text))

    def on_drained(self) -> None:
        """See Handler.on_drained."""
        if self._connection is not None:
            self._connection.on_drained()

    def on_ping_sent(self) -> None:
        """See Handler.on_ping_sent."""
        if self._connection is not None:
            self._connection.on_ping_sent()

    def on_pong(self) -> None:
        """See Handler.on_pong."""
        if self._connection is not None:
            self._connection.on_pong()

    def on_closed(self, reason: str) -> None:
        """See Handler.on_closed."""
        self._phase = _Phase.CLOSED
        self._stop_timer()
        if self._task is not None:
            self._task.cancel()
        if self._extension is not None:
            self._extension.close(reason)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.on_closed(reason)

    # CONNECT

    def _on_connect(self, admission: Admission, body: str) -> None:
        if self._phase is not _Phase.WAITING:
            raise ProtocolViolation("CONNECT was sent already")
        self._attempt()
        try:
            auth = decode_auth(body)
        except ConnectRefused as error:
            self._refuse(error)
            return
        if self._engine.refusal is not None:
            self._refuse(self._engine.refusal)
            self._engine.close("refused")
            return
        self._phase = _Phase.ADMITTING
        self._task = self._server.spawn(self._admit(admission, auth))

    def _attempt(self) -> None:
        """Bound the CONNECTs of one connection; the first is free."""
        now = self._server.monotonic()
        if self._attempts is None:
            self._attempts = TokenBucket(_ATTEMPTS_PER_SECOND, _ATTEMPTS_AT_ONCE, now)
        elif self._attempts.take(now) > 0:
            raise ProtocolViolation("too many CONNECTs")

    async def _admit(self, admission: Admission, auth: object) -> None:
        try:
            admitted = await admission.admit(auth, self._engine.address, self)
        except ConnectRefused as error:
            self._phase = _Phase.WAITING
            if error.cut:
                self._engine.close(error.code)
            else:
                self._refuse(error)
            return
        except Exception:
            logger.exception("a CONNECT failed")
            self._phase = _Phase.WAITING
            self._refuse(ConnectRefused("unavailable", "the gateway had a fault", _RETRY_AFTER))
            return
        self._phase = _Phase.CONNECTED
        self._stop_timer()
        self._connection = admitted.connection
        self._engine.set_lane(self.on_event)
        answer = {"sid": self._server.new_sid(), "pid": admitted.pid}
        self._engine.send_text(_CONNECT, encode(answer))
        admitted.connection.start(admitted.greeting)
        if self._extension is not None:
            self._extension.on_player(admitted.connection.true_id)

    def _refuse(self, error: ConnectRefused, namespace: str = "/") -> None:
        self._send_refusal(error.payload(), namespace)

    def _send_refusal(self, payload: dict[str, object], namespace: str) -> None:
        prefix = _CONNECT_ERROR + (b"" if namespace == "/" else namespace.encode() + b",")
        self._engine.send_text(prefix, encode(payload))

    def on_connect_timeout(self) -> None:
        """The client opened a connection and then never sent a CONNECT that was accepted."""
        self._timer = None
        self._engine.close("connect timeout")

    # Sink: from the player's connection

    @property
    def writer(self) -> EventWriter:
        """See Sink.writer."""
        return self._engine

    def send_ack(self, ack_id: int, array: bytes) -> None:
        """See Sink.send_ack."""
        self._engine.send_text(b"43%d" % ack_id, array)

    def ping(self) -> None:
        """See Sink.ping."""
        self._engine.ping()

    @property
    def pings(self) -> int:
        """See Sink.pings."""
        return self._engine.pings

    def close(self, reason: str, *, reconnect: bool) -> None:
        """See Sink.close."""
        self._connection = None
        if not reconnect:
            # A DISCONNECT packet keeps stock clients from coming back by themselves.
            self._engine.send_text(_DISCONNECT, b"")
        self._engine.close(reason)

    # Ends

    def _leave(self, reason: str) -> None:
        connection, self._connection = self._connection, None
        self._phase = _Phase.WAITING
        extensions = self._server.extensions
        if self._extension is not None:
            self._extension.on_player_left()
        if self._extension is None or (extensions is not None and extensions.rules.players_only):
            self._timer = self._server.start_connect_timer(self)
        if connection is not None:
            connection.on_closed(reason)

    def _violate(self, text: str) -> None:
        logger.debug("%s broke the protocol: %s", self._engine.address, text)
        if self._engine.open:
            payload = {"code": "bad_request", "message": text, "event": ""}
            self._engine.send_event(encode_event("error", payload))
            self._engine.close("parse error")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class SocketIOServer:
    """Builds a peer for each engine connection and owns the tasks that admit them.

    Without `admission` the namespace `/` is the extensions', too. `connect_timeout` is in
    seconds, 0 is for ever; `new_sid` returns a fresh id for each CONNECT.
    """

    def __init__(
        self,
        admission: Admission | None,
        extensions: ExtensionServer | None,
        connect_timeout: float,
        new_sid: Callable[[], str],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.admission = admission
        self.extensions = extensions
        self.new_sid = new_sid
        self.monotonic = loop.time
        self._connect_timers: TimerQueue[SocketIOPeer] | None = None
        if connect_timeout:
            self._connect_timers = TimerQueue(
                loop, connect_timeout, SocketIOPeer.on_connect_timeout
            )
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self, engine: EngineConnection) -> SocketIOPeer:
        """Return the handler of a new engine connection."""
        return SocketIOPeer(self, engine)

    def start_connect_timer(self, peer: SocketIOPeer) -> Timer[SocketIOPeer] | None:
        """Give the client its time to log in; a `connect_timeout` of 0 is for ever."""
        return self._connect_timers.start(peer) if self._connect_timers is not None else None

    def spawn(self, admitting: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run the admission of one client."""
        task = asyncio.get_running_loop().create_task(admitting, name="admit")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Stop timers and what is being admitted."""
        if self._connect_timers is not None:
            self._connect_timers.stop()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.extensions is not None:
            await self.extensions.shutdown()
