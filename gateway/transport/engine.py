"""The Engine.IO engine: the shell around engineio.py that owns timers, polls and websockets."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from gateway.engineio import (
    MESSAGE,
    AdoptProbe,
    AnswerPoll,
    Channel,
    Closed,
    CloseWebSocket,
    Command,
    Data,
    Deliver,
    EngineSession,
    PongReceived,
    RequestError,
    SendFrame,
    State,
    TransportName,
    unknown_session,
)
from gateway.errors import ConnectRefused
from gateway.metrics import Metrics
from gateway.network import network_of
from gateway.sink import EventWriter
from gateway.transport.close_codes import NORMAL, PROTOCOL_ERROR, TOO_BIG
from gateway.transport.frames import TextFrames
from gateway.transport.interfaces import EngineSettings, Handler, WebSocketLink
from gateway.transport.stream import Stream
from gateway.transport.timers import Timer, TimerQueue

logger = logging.getLogger(__name__)

#: How an event of the namespace `/` begins, from the Engine.IO type on.
_EVENT: Final = b"42"
#: A connection with so many send budgets unsent is dropped.
_HARD_BUDGET: Final = 2


class EngineConnection(EventWriter):
    """One Engine.IO connection over whatever transport it has now."""

    __slots__ = (
        "_congested",
        "_engine",
        "_executing",
        "_lane",
        "_ping_timer",
        "_poll",
        "_pong_timer",
        "_probe",
        "_slow_timer",
        "_stream",
        "_websocket",
        "address",
        "handler",
        "pings",
        "refusal",
        "session",
    )

    def __init__(
        self,
        engine: Engine,
        session: EngineSession,
        address: str,
        refusal: ConnectRefused | None,
    ) -> None:
        # What a delivery needs comes first: see Stream.
        self._stream: Stream | None = None  # the websocket's
        self._engine = engine
        self._executing = False
        self._congested = False
        self.session = session
        self.address = address
        #: Why the gateway has no room for it; the layer above says so and closes.
        self.refusal = refusal
        self.handler: Handler
        self._websocket: WebSocketLink | None = None
        self._probe: WebSocketLink | None = None
        self._poll: asyncio.Future[str] | None = None
        self._ping_timer: Timer[EngineConnection] | None = None
        self._pong_timer: Timer[EngineConnection] | None = None
        #: How many pings the client has yet to answer.
        self.pings = 0
        self._slow_timer: Timer[EngineConnection] | None = None
        self._lane: Callable[[bytes], None] | None = None

    @property
    def open(self) -> bool:
        """True until the session closes."""
        return self.session.state is State.OPEN

    # For the layer above

    def send_event(self, array: bytes) -> bool:
        """Send an event of the namespace `/`: see EventWriter."""
        return self.send_text(_EVENT, array)

    def send_text(self, prefix: bytes, body: bytes) -> bool:
        """Send a text packet; return False when the send buffer is over its budget now.

        `prefix` holds the Engine.IO type, MESSAGE, and the Socket.IO header behind it.
        """
        stream, engine = self._stream, self._engine
        if stream is not None and not self._executing:
            # While a session has a websocket, it is open.
            buffered = stream.cork(engine.frames.build(prefix, body))
            return buffered <= engine.send_budget or self._within_budget()
        session, link = self.session, self._websocket
        if session.state is not State.OPEN:
            return True
        if link is not None and not self._executing:
            return link.send_text(prefix, body) <= engine.send_budget or self._within_budget()
        session.send((prefix[1:] + body).decode())
        self._execute()
        return self._within_budget()

    def _use(self, link: WebSocketLink | None) -> None:
        """Send over this websocket from now on, or over none."""
        self._websocket, self._stream = link, None
        if link is not None:
            self._stream, link.lane = link.stream, self._lane
        self._watch()

    def _watch(self) -> None:
        """Hear of each write while there is too much in the send buffer."""
        if self._stream is not None:
            self._stream.on_progress = self.on_progress if self._congested else None

    def set_lane(self, lane: Callable[[bytes], None]) -> None:
        """Hand events of the namespace `/` over on the short way: see WebSocketLink.lane."""
        self._lane = lane
        if self._websocket is not None:
            self._websocket.lane = lane

    def send_data(self, message: Data) -> None:
        """Send a text or binary message."""
        self.session.send(message)
        self._execute()
        if self.open:
            self._within_budget()

    def ping(self) -> None:
        """Send a ping now, beside the heartbeat."""
        if self.open:
            self.pings += 1
            self.handler.on_ping_sent()
            self.session.ping()
            self._execute()

    def close(self, reason: str) -> None:
        """Close the connection; stock clients will come back by themselves."""
        self.session.close(reason)
        self._execute()

    def abort(self, reason: str) -> None:
        """Drop the connection without a word."""
        self.session.abort(reason)
        self._execute()

    @property
    def buffered(self) -> int:
        """Bytes that are sent but not gone yet."""
        link = self._websocket
        return self.session.outbox_bytes + (link.buffered if link is not None else 0)

    def _within_budget(self) -> bool:
        """Tell whether there is room; a client that asks and does not read is dropped.

        What is stored waits in the mailbox, but answers have nowhere to wait.
        """
        budget = self._engine.send_budget
        if self.buffered > budget and self._websocket is not None:
            self._websocket.flush()
        buffered = self.buffered
        if buffered <= budget:
            return True
        if not self._congested:
            self._congested = True
            self._watch()
            self._slow_timer = self._engine.start_slow_timer(self)
        elif buffered > _HARD_BUDGET * budget:
            self.abort("slow consumer")
        return False

    def on_progress(self) -> None:
        """Some of what was buffered is gone."""
        if self._congested and self.buffered <= self._engine.settings.send_buffer_bytes // 2:
            self._congested = False
            self._watch()
            if self._slow_timer is not None:
                self._slow_timer.cancel()
                self._slow_timer = None
            self.handler.on_drained()

    # For the transports

    def request_poll(self) -> asyncio.Future[str]:
        """A GET came in; the future resolves with the body. Raises RequestError."""
        try:
            self.session.poll_requested()
        except RequestError:
            self._execute()
            raise
        self._poll = asyncio.get_running_loop().create_future()
        poll = self._poll
        self._execute()
        return poll

    def poll_aborted(self, poll: asyncio.Future[str]) -> None:
        """The client left its pending GET."""
        if self._poll is poll:
            self._poll = None
            self.session.poll_aborted()
            self._execute()

    def release_poll(self) -> None:
        """Answer the pending GET with nothing: the client asks again."""
        self.session.poll_released()
        self._execute()

    def post_payload(self, body: str) -> None:
        """A POST came in. Raises RequestError."""
        try:
            self.session.payload_posted(body)
        finally:
            self._execute()

    def check_upgrade(self) -> None:
        """A websocket wants to replace polling. Raises RequestError."""
        self.session.probe_opened()

    def on_websocket_open(self, link: WebSocketLink) -> None:
        """A websocket is open: the session's first, or one that wants to replace polling."""
        if self.session.transport == "websocket":
            self._use(link)
            link.send(self._engine.open_packet(self))
        else:
            self._probe = link
            self._engine.upgrades.start((self, link))

    def on_websocket_failed(self) -> None:
        """The websocket that was asked for never came to be."""
        if self.session.transport == "websocket":
            self.abort("transport error")
        else:
            self.session.websocket_closed(Channel.PROBE)

    def channel_of(self, link: WebSocketLink) -> Channel | None:
        """Tell which of the session's websockets this is, if any."""
        if link is self._websocket:
            return Channel.MAIN
        return Channel.PROBE if link is self._probe else None

    def on_frame(self, link: WebSocketLink, data: Data) -> None:
        """A frame came in."""
        session = self.session
        if link is self._websocket and session.state is State.OPEN and data[:1] == MESSAGE:
            self.handler.on_message(data[1:])
            return
        channel = self.channel_of(link)
        if channel is not None:
            session.frame_received(data, channel)
            self._execute()

    def on_websocket_closed(self, link: WebSocketLink) -> None:
        """A websocket is gone."""
        channel = self.channel_of(link)
        if channel is Channel.PROBE:
            self._probe = None
        elif channel is Channel.MAIN:
            self._use(None)
        else:
            return
        self.session.websocket_closed(channel)
        self._execute()

    def on_oversized(self) -> None:
        """The client sent too much: tell it, then close."""
        if self.open:
            self.handler.on_oversized()
            self.session.close("too large")
            self._execute(close_code=TOO_BIG)

    # Heartbeat

    def start_heartbeat(self) -> None:
        """Start the interval to the next ping."""
        for timer in (self._ping_timer, self._pong_timer):
            if timer is not None:
                timer.cancel()
        self._pong_timer = None
        self._ping_timer = self._engine.pings.start(self)

    def on_ping_due(self) -> None:
        """The interval is over: ping, and give the client its time to answer."""
        self._ping_timer = None
        self._pong_timer = self._engine.pongs.start(self)
        self.ping()

    # Commands

    def _execute(self, close_code: int = NORMAL) -> None:
        """Carry out the session's commands; what they cause is carried out in the same loop."""
        if self._executing:
            return
        self._executing = True
        try:
            while commands := self.session.take_commands():
                for command in commands:
                    self._execute_one(command, close_code)
        finally:
            self._executing = False

    def _execute_one(self, command: Command, close_code: int) -> None:
        match command:
            case Deliver(data):
                self.handler.on_message(data)
            case SendFrame(data, channel):
                link = self._websocket if channel is Channel.MAIN else self._probe
                if link is not None:
                    link.send(data)
            case AnswerPoll(payload):
                poll, self._poll = self._poll, None
                if poll is not None and not poll.done():
                    poll.set_result(payload)
                self.on_progress()
            case AdoptProbe(packets):
                link, self._probe = self._probe, None
                self._use(link)
                if link is not None:
                    for packet in packets:
                        link.send(packet)
                # Only now: what moved over still counts against the send budget.
                self.on_progress()
            case CloseWebSocket(channel):
                self._close_websocket(channel, close_code)
            case PongReceived():
                # A pong that nobody asked for says nothing.
                if self.pings:
                    self.pings -= 1
                    self.start_heartbeat()
                    self.handler.on_pong()
            case Closed(reason):
                self._on_closed(reason)

    def _close_websocket(self, channel: Channel, code: int) -> None:
        if channel is Channel.MAIN:
            link = self._websocket
            self._use(None)
        else:
            link, self._probe = self._probe, None
        if link is not None:
            link.close(code, "")

    def _on_closed(self, reason: str) -> None:
        for timer in (self._ping_timer, self._pong_timer, self._slow_timer):
            if timer is not None:
                timer.cancel()
        self._ping_timer = self._pong_timer = self._slow_timer = None
        self._engine.on_closed(self)
        try:
            self.handler.on_closed(reason)
        except Exception:
            logger.exception("a handler failed when its connection closed")


class Engine:
    """All Engine.IO connections of this process.

    `accept` builds the layer above for each; `new_sid` returns a fresh unguessable id.
    """

    def __init__(
        self,
        settings: EngineSettings,
        accept: Callable[[EngineConnection], Handler],
        metrics: Metrics,
        new_sid: Callable[[], str],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.settings = settings
        self.frames = TextFrames()
        self.send_budget: float = settings.send_buffer_bytes or math.inf
        self._accept = accept
        self.metrics = metrics
        self._new_sid = new_sid
        self._connections: dict[str, EngineConnection] = {}
        self._networks: Counter[str] = Counter()
        self._open = 0
        self.pings: TimerQueue[EngineConnection] = TimerQueue(
            loop, settings.ping_interval, EngineConnection.on_ping_due
        )
        self.pongs: TimerQueue[EngineConnection] = TimerQueue(
            loop, settings.ping_timeout, lambda connection: connection.abort("ping timeout")
        )
        self._slow: TimerQueue[EngineConnection] | None = None
        if settings.slow_timeout:
            self._slow = TimerQueue(
                loop, settings.slow_timeout, lambda connection: connection.abort("slow consumer")
            )
        # Sessions that are closed but whose polling client has not fetched that yet.
        self._lingering: TimerQueue[EngineConnection] = TimerQueue(
            loop, settings.ping_timeout, self._forget
        )
        self.upgrades: TimerQueue[tuple[EngineConnection, WebSocketLink]] = TimerQueue(
            loop, settings.upgrade_timeout, _give_up_probe
        )

    def reconfigure(self, settings: EngineSettings) -> None:
        """Take other limits from now on: see EngineSettings.changed_to."""
        self.settings = self.settings.changed_to(settings)
        self.send_budget = settings.send_buffer_bytes or math.inf

    def __len__(self) -> int:
        return self._open

    def __iter__(self) -> Iterator[EngineConnection]:
        return iter(tuple(self._connections.values()))

    def connect(self, transport: TransportName, address: str) -> EngineConnection:
        """Open a session for a valid handshake. Raises RequestError when there is no room.

        The caller sends `open_packet`, or attaches a websocket and does so.
        """
        network = network_of(address)
        here = self._networks[network]
        refusal = self.settings.check_room(here, self._open, self.metrics.limit_hit)
        session = EngineSession(self._new_sid(), transport)
        connection = EngineConnection(self, session, address, refusal)
        self._connections[session.sid] = connection
        self._networks[network] += 1
        self._open += 1
        connection.start_heartbeat()
        connection.handler = self._accept(connection)
        return connection

    def open_packet(self, connection: EngineConnection) -> str:
        """Return the OPEN packet of a fresh session."""
        return self.settings.open_packet(connection.session)

    def connection(self, sid: str) -> EngineConnection:
        """Return the session's connection. Raises RequestError for an unknown one."""
        connection = self._connections.get(sid)
        if connection is None:
            raise unknown_session()
        return connection

    def start_slow_timer(self, connection: EngineConnection) -> Timer[EngineConnection] | None:
        """Give a congested connection its time to drain; a `slow_timeout` of 0 is for ever."""
        return self._slow.start(connection) if self._slow is not None else None

    def on_closed(self, connection: EngineConnection) -> None:
        """A connection's session is over: make room."""
        self._open -= 1
        network = network_of(connection.address)
        self._networks[network] -= 1
        if not self._networks[network]:
            del self._networks[network]
        if connection.session.state is State.CLOSED:
            self._forget(connection)
        else:
            self._lingering.start(connection)

    def _forget(self, connection: EngineConnection) -> None:
        self._connections.pop(connection.session.sid, None)
        connection.abort("forced close")

    def close(self) -> None:
        """Close every connection and stop all timers."""
        for connection in tuple(self._connections.values()):
            connection.close("server shutting down")
        for queue in (self.pings, self.pongs, self._lingering, self.upgrades):
            queue.stop()
        if self._slow is not None:
            self._slow.stop()


def _give_up_probe(probe: tuple[EngineConnection, WebSocketLink]) -> None:
    connection, link = probe
    if connection.channel_of(link) is Channel.PROBE:
        connection.on_websocket_closed(link)
        link.close(PROTOCOL_ERROR, "upgrade timeout")
