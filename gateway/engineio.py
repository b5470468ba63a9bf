"""Engine.IO v4 without IO: the state of one session, events in, commands out.

Source: the Engine.IO protocol, revision 4. The shell (transport/engine.py) reports what
happened by the methods in the past tense and then carries out what `take_commands` returns.
`on_frame` and `send` also answer for the hot path: an open websocket session.
"""

from __future__ import annotations

import base64
import binascii
import enum
from dataclasses import dataclass
from typing import Final, Literal

from gateway.errors import GatewayError, ProtocolViolation

SEPARATOR: Final = "\x1e"
#: Packets in the answer to one poll: python-engineio's client takes no more.
_MAX_POLLED: Final = 16
PROTOCOL_VERSION: Final = "4"
TransportName = Literal["polling", "websocket"]
Data = str | bytes

OPEN, CLOSE, PING, PONG, MESSAGE, UPGRADE, NOOP = "0123456"


class State(enum.Enum):
    """Where a session is in its life."""

    OPEN = enum.auto()
    CLOSING = enum.auto()  # the last packets wait for the client's next polls
    CLOSED = enum.auto()


class Channel(enum.Enum):
    """Which websocket of a session is meant: the one in use, or one that probes to replace."""

    MAIN = enum.auto()
    PROBE = enum.auto()


class RequestError(GatewayError):
    """An HTTP request that is refused; `code` and text as Node's Engine.IO server has them."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def unknown_transport() -> RequestError:
    """The parameter `transport` names none of ours."""
    return RequestError(400, 0, "Transport unknown")


def unknown_session() -> RequestError:
    """The parameter `sid` names no session, or none of this transport (any more)."""
    return RequestError(400, 1, "Session ID unknown")


def bad_method() -> RequestError:
    """A handshake must be a GET."""
    return RequestError(400, 2, "Bad handshake method")


def bad_request(message: str = "Bad request") -> RequestError:
    """The request breaks the protocol."""
    return RequestError(400, 3, message)


def forbidden(message: str) -> RequestError:
    """The request is not allowed from there."""
    return RequestError(403, 4, message)


def unsupported_version() -> RequestError:
    """The parameter `EIO` is missing or not 4."""
    return RequestError(400, 5, "Unsupported protocol version")


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand a message to the application."""

    data: Data


@dataclass(frozen=True, slots=True)
class AnswerPoll:
    """Answer the pending GET with this payload."""

    payload: str


@dataclass(frozen=True, slots=True)
class SendFrame:
    """Write a frame to a websocket."""

    data: Data
    channel: Channel = Channel.MAIN


@dataclass(frozen=True, slots=True)
class AdoptProbe:
    """The probing websocket is the session's transport from now on; write these to it first."""

    packets: tuple[Data, ...] = ()


@dataclass(frozen=True, slots=True)
class CloseWebSocket:
    """Close a websocket."""

    channel: Channel = Channel.MAIN


@dataclass(frozen=True, slots=True)
class PongReceived:
    """The client answered a ping: start the interval to the next one."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The session is over; stop its timers and tell the application."""

    reason: str


Command = Deliver | AnswerPoll | SendFrame | AdoptProbe | CloseWebSocket | PongReceived | Closed


def encode_payload(packets: list[Data]) -> str:
    """Join packets into the body of a poll; binary ones in base64 behind a `b`."""
    return SEPARATOR.join(
        packet if isinstance(packet, str) else "b" + base64.b64encode(packet).decode()
        for packet in packets
    )


class EngineSession:
    """State machine of one session. Every method leaves its commands in `take_commands`."""

    __slots__ = (
        "_commands",
        "_outbox",
        "_poll_pending",
        "_probe",
        "outbox_bytes",
        "sid",
        "state",
        "transport",
    )

    def __init__(self, sid: str, transport: TransportName) -> None:
        self.sid = sid
        self.state = State.OPEN
        self.transport: TransportName = transport
        #: Bytes of packets that wait for a poll.
        self.outbox_bytes = 0
        self._outbox: list[Data] = []
        self._poll_pending = False
        self._probe: Literal["none", "opened", "probed"] = "none"
        self._commands: list[Command] = []

    @property
    def open(self) -> bool:
        """True until either side closes."""
        return self.state is State.OPEN

    def take_commands(self) -> list[Command]:
        """Return the commands since the last call, in order."""
        commands, self._commands = self._commands, []
        return commands

    # From the application

    def send(self, data: Data) -> None:
        """Send a message; after the close it goes nowhere."""
        if self.state is State.OPEN:
            self._send_packet(MESSAGE + data if isinstance(data, str) else data)

    def close(self, reason: str) -> None:
        """End the session from this side."""
        if self.state is not State.OPEN:
            return
        self._drop_probe()
        if self.transport == "websocket":
            self._commands.append(SendFrame(CLOSE))
            self._finish(reason)
            return
        # The application is told now; the client may still fetch its last packets. CLOSE comes
        # alone in the poll after them: stock clients act on it before what came beside it.
        self.state = State.CLOSING
        self._commands.append(Closed(reason))
        if self._poll_pending:
            self._finish(reason)

    def ping(self) -> None:
        """Send a ping."""
        if self.state is State.OPEN:
            self._send_packet(PING)

    def abort(self, reason: str) -> None:
        """End the session without a word: its client is gone or does not answer."""
        self._finish(reason)

    # From HTTP

    def poll_requested(self) -> None:
        """A GET came in. Raises RequestError; a second one at a time ends the session."""
        if self.state is State.CLOSED or self.transport != "polling":
            raise unknown_session()
        if self._poll_pending:
            self._finish("overlapping polls")
            raise bad_request("a poll is pending already")
        self._poll_pending = True
        if self._outbox:
            self._flush_poll()
        elif self.state is State.CLOSING:
            self._finish("forced close")
        elif self._probe == "probed":
            # The client waits for its last poll to end before it sends the UPGRADE packet.
            self._answer_poll(NOOP)

    def poll_aborted(self) -> None:
        """The client went away from its pending GET."""
        if self._poll_pending:
            self._poll_pending = False
            self._finish("transport close")

    def poll_released(self) -> None:
        """The pending GET is to end, so that the client asks again; without one do nothing."""
        if self._poll_pending:
            self._answer_poll(NOOP)

    def payload_posted(self, body: str) -> None:
        """A POST came in.

        Raises RequestError: unknown session, or a malformed payload, which ends the session.
        """
        if self.state is not State.OPEN or self.transport != "polling":
            raise unknown_session()
        for packet in body.split(SEPARATOR):
            try:
                self._receive(_decode_polled(packet))
            except ProtocolViolation as error:
                self._finish("parse error")
                raise bad_request(str(error)) from None
            if not self.open:
                return

    # From websockets

    def probe_opened(self) -> None:
        """A websocket asks to replace polling. Raises RequestError before any 101."""
        if self.state is not State.OPEN or self.transport != "polling":
            raise unknown_session()
        if self._probe != "none":
            raise bad_request("an upgrade is under way already")
        self._probe = "opened"

    def frame_received(self, data: Data, channel: Channel = Channel.MAIN) -> None:
        """A frame came in. What breaks the protocol ends the session or the probe."""
        if self.state is not State.OPEN:
            return
        if channel is Channel.PROBE:
            self._probe_received(data)
            return
        try:
            self._receive(data)
        except ProtocolViolation:
            self._finish("parse error")

    def websocket_closed(self, channel: Channel) -> None:
        """A websocket is gone; losing a probe leaves the session on polling."""
        if channel is Channel.PROBE:
            self._probe = "none"
        else:
            self._finish("transport close")

    def _probe_received(self, data: Data) -> None:
        if self._probe == "opened" and data == PING + "probe":
            self._probe = "probed"
            self._commands.append(SendFrame(PONG + "probe", Channel.PROBE))
            if self._poll_pending:
                self._answer_poll(NOOP)
        elif self._probe == "probed" and data == UPGRADE:
            if self._poll_pending:
                self._answer_poll(NOOP)
            self._probe = "none"
            self.transport = "websocket"
            self._commands.append(AdoptProbe(tuple(self._outbox)))
            self._outbox.clear()
            self.outbox_bytes = 0
        else:
            self._drop_probe()

    def _drop_probe(self) -> None:
        if self._probe != "none":
            self._probe = "none"
            self._commands.append(CloseWebSocket(Channel.PROBE))

    # Packets

    def _receive(self, packet: Data) -> None:
        if isinstance(packet, bytes):
            self._commands.append(Deliver(packet))
        elif packet[:1] == MESSAGE:
            self._commands.append(Deliver(packet[1:]))
        elif packet == PONG:
            self._commands.append(PongReceived())
        elif packet == CLOSE:
            # The one who polls beside this POST is answered, as Node's server does.
            if self._poll_pending:
                self._answer_poll(NOOP)
            self._finish("transport close")
        else:
            raise ProtocolViolation("invalid packet")

    def _send_packet(self, packet: Data) -> None:
        if self.transport == "websocket":
            self._commands.append(SendFrame(packet))
            return
        self._outbox.append(packet)
        self.outbox_bytes += len(packet)
        if self._poll_pending:
            self._flush_poll()

    def _flush_poll(self) -> None:
        packets = self._outbox[:_MAX_POLLED]
        del self._outbox[:_MAX_POLLED]
        self.outbox_bytes -= sum(map(len, packets))
        self._answer_poll(encode_payload(packets))

    def _answer_poll(self, payload: str) -> None:
        self._poll_pending = False
        self._commands.append(AnswerPoll(payload))

    def _finish(self, reason: str) -> None:
        if self.state is State.CLOSED:
            return
        told = self.state is State.CLOSING
        self.state = State.CLOSED
        if self._poll_pending:
            self._answer_poll(CLOSE)
        self._drop_probe()
        self._outbox.clear()
        self.outbox_bytes = 0
        if self.transport == "websocket":
            self._commands.append(CloseWebSocket())
        if not told:
            self._commands.append(Closed(reason))


def _decode_polled(packet: str) -> Data:
    if packet[:1] != "b":
        return packet
    try:
        return base64.b64decode(packet[1:], validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolViolation("invalid base64") from None
