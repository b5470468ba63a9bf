"""What other nodes ask of this one: see nodes.py."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.connection import TAKEN_OVER, Connection
from gateway.cut_off import CutOff
from gateway.delivery import Delivery
from gateway.mailbox import StoredMessage
from gateway.messages import SessionId, TrueId
from gateway.nodes import Arrivals, Concerns, Place, VolatileKey
from gateway.registry import Registry
from gateway.rooms import Rooms
from gateway.session import Session


class PlayersHere:
    """The Inbound of a gateway: its players, and those on their way in."""

    def __init__(
        self,
        registry: Registry[Connection],
        delivery: Delivery,
        arrivals: Arrivals,
        rooms: Rooms,
        cut_off: CutOff,
    ) -> None:
        self._registry = registry
        self._delivery = delivery
        self._arrivals = arrivals
        self._rooms = rooms
        self._cut_off = cut_off

    def on_message(self, message: StoredMessage, true_ids: Sequence[TrueId]) -> None:
        """See Inbound.on_message."""
        self._delivery.offer(message, true_ids)

    def on_holes(self, true_ids: Sequence[TrueId]) -> None:
        """See Inbound.on_holes."""
        self._delivery.tell_holes(true_ids)

    def on_volatile(self, true_id: TrueId, array: bytes) -> None:
        """See Inbound.on_volatile."""
        self._delivery.offer_volatile(true_id, array)

    def on_room_volatile(self, room: str, array: bytes, key: VolatileKey | None) -> None:
        """See Inbound.on_room_volatile."""
        self._delivery.offer_to_room(room, array, key)

    def on_membership(self, room: str, true_id: TrueId, joined: bool, members: int) -> None:
        """See Inbound.on_membership."""
        self._rooms.on_changed(room, true_id, joined, members)

    def on_fenced(self, true_id: TrueId, session_id: SessionId, version: int) -> None:
        """See Inbound.on_fenced."""
        self._arrivals.on_fenced(true_id, session_id, version)
        for connection in self._registry.connections_of(true_id):
            session = connection.session
            if session.id == session_id and session.version < version:
                connection.close(TAKEN_OVER, reconnect=False)

    def on_ended(self, true_id: TrueId, session_id: SessionId | None, reason: str) -> None:
        """See Inbound.on_ended."""
        self._arrivals.on_ended(true_id, session_id, reason)
        for connection in self._registry.connections_of(true_id):
            if session_id in (None, connection.session.id):
                connection.close(reason, reconnect=False)

    async def answers(self, true_id: TrueId, session_id: SessionId, timeout: float) -> bool:
        """See Inbound.answers."""
        for connection in self._registry.connections_of(true_id):
            if connection.session.id == session_id:
                return await connection.answers(timeout)
        return False

    # After something was missed

    def on_doubt(self, concerns: Concerns) -> None:
        """See Inbound.on_doubt."""
        for connection in self._registry:
            if concerns(connection.true_id):
                connection.doubt()

    def positions(self, concerns: Concerns) -> list[Place]:
        """See Inbound.positions."""
        return [
            Place(connection.true_id, connection.id, *connection.position)
            for connection in self._registry
            if concerns(connection.true_id)
        ]

    def on_known(self, place: Place, head: int | None) -> None:
        """See Inbound.on_known: a client whose messages are lost comes back and is told so."""
        connection = self._registry.connection(place.connection_id)
        if connection is None:
            return
        if head is None:
            # What it has confirmed is lost as well: its offsets are for other messages now.
            connection.session.confirmed = 0
            connection.close("store_replaced", reconnect=True)
        else:
            connection.go_on(head)

    def on_session_lost(self, session: Session) -> None:
        """See Inbound.on_session_lost: its client comes back and is told what became of it."""
        for connection in self._registry.connections_of(session.true_id):
            if connection.session is session:
                connection.close("session_lost", reconnect=True)

    # When the store is out of reach

    def on_cut_off(self) -> None:
        """See Inbound.on_cut_off."""
        self._cut_off.begin()

    def on_back(self) -> None:
        """See Inbound.on_back."""
        self._cut_off.end()
