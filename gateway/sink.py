"""Where a connection writes: what the transport is for it."""

from __future__ import annotations


class EventWriter:
    """Writes events to a client. No Protocol: compiled, those are called by name."""

    __slots__ = ()

    def send_event(self, array: bytes) -> bool:
        """Write an event; return False when the send buffer is over its budget now."""
        raise NotImplementedError


class Sink:
    """The transport as a connection sees it. Nothing here blocks or raises."""

    __slots__ = ()

    @property
    def writer(self) -> EventWriter:
        """What writes its events: always the same one, to be asked for it once."""
        raise NotImplementedError

    def send_ack(self, ack_id: int, array: bytes) -> None:
        """Answer the client's event that carried this ack id."""
        raise NotImplementedError

    def ping(self) -> None:
        """Write an Engine.IO ping now; the pong comes as `on_pong`."""
        raise NotImplementedError

    @property
    def pings(self) -> int:
        """How many pings the client has yet to answer."""
        raise NotImplementedError

    def close(self, reason: str, *, reconnect: bool) -> None:
        """End the connection; with `reconnect` so that stock clients come back by themselves."""
        raise NotImplementedError
