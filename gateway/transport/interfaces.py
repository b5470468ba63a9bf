"""What the engine stands between: websockets below, the layer of Socket.IO above."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from gateway.engineio import OPEN, Data, EngineSession, RequestError
from gateway.errors import ConnectRefused
from gateway.transport.stream import Stream

#: Part of the connection limits beyond which a handshake is refused by HTTP; up to there it
#: is refused by a Socket.IO packet, which tells stock clients why.
_HEADROOM: Final = 0.1
_RETRY_AFTER: Final = 5.0

#: How an event of the namespace `/` begins, from the Engine.IO type on: its array or the ack id
#: follows.
EVENTS: Final = tuple(f"42{each}" for each in "[0123456789")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Durations in seconds, sizes in bytes; a limit of 0 means no limit."""

    ping_interval: float
    ping_timeout: float
    max_payload: int
    connections: int
    connections_per_address: int
    send_buffer_bytes: int
    slow_timeout: float
    upgrade_timeout: float = 10.0

    def open_packet(self, session: EngineSession) -> str:
        """Return the OPEN packet of a fresh session."""
        fields = {
            "sid": session.sid,
            "upgrades": ["websocket"] if session.transport == "polling" else [],
            "pingInterval": round(self.ping_interval * 1000),
            "pingTimeout": round(self.ping_timeout * 1000),
            "maxPayload": self.max_payload,
        }
        return OPEN + json.dumps(fields, separators=(",", ":"))

    def changed_to(self, new: EngineSettings) -> EngineSettings:
        """Return what a running engine goes on with: durations stay as it was built.

        A packet may stay as large as connections were told when they opened.
        """
        return replace(
            new,
            max_payload=max(new.max_payload, self.max_payload),
            ping_interval=self.ping_interval,
            ping_timeout=self.ping_timeout,
            slow_timeout=self.slow_timeout,
            upgrade_timeout=self.upgrade_timeout,
        )

    def check_room(
        self, here: int, everywhere: int, on_hit: Callable[[str], None]
    ) -> ConnectRefused | None:
        """Return why there is no room for another connection, None if there is.

        `here` counts those from its network; `on_hit` is told the limit. Raises RequestError
        when there are far too many.
        """
        refusal: ConnectRefused | None = None
        for limit, used, name, code, status in (
            (self.connections_per_address, here, "connections_per_address", "rate_limited", 429),
            (self.connections, everywhere, "connections", "server_full", 503),
        ):
            if not limit or used < limit:
                continue
            on_hit(name)
            if used >= limit + max(1, round(limit * _HEADROOM)):
                raise RequestError(status, 4, "too many connections")
            refusal = ConnectRefused(code, "too many connections", _RETRY_AFTER)
        return refusal


class WebSocketLink(Protocol):
    """One websocket, whoever implements it."""

    lane: Callable[[bytes], None] | None
    """A short cut for events of the namespace `/`: text frames that begin with one of EVENTS.

    A link may hand it what follows `42`, whole and valid UTF-8, or not care.
    """

    @property
    def stream(self) -> Stream | None:
        """A short cut for `send_text`: takes unmasked frames. None where there is none."""

    def send(self, data: Data | memoryview) -> None:
        """Write a text frame (str) or a binary one (bytes)."""

    def send_text(self, prefix: bytes, body: bytes) -> int:
        """Write a text frame of both parts, encoded already; return about what is buffered.

        The same two objects again, for another link, may reuse the frame that was built.
        """

    def flush(self) -> None:
        """Write what was kept back to be written together."""

    def close(self, code: int, reason: str) -> None:
        """Start the closing handshake; give up on it soon if the peer does not answer."""

    @property
    def buffered(self) -> int:
        """Bytes written but not yet taken by the kernel."""


class Handler(Protocol):
    """The layer above: one for each connection."""

    def on_message(self, data: Data) -> None:
        """A message came in."""

    def on_oversized(self) -> None:
        """The client sent more than `max_payload`; the connection is closed after this."""

    def on_drained(self) -> None:
        """The send buffer, over its budget before, has room again."""

    def on_ping_sent(self) -> None:
        """A ping is about to be written."""

    def on_pong(self) -> None:
        """The client answered a ping."""

    def on_closed(self, reason: str) -> None:
        """The connection is over."""
