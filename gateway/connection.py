"""One connection of a player: events in from its client, messages out along its cursor."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from gateway.conflation import Conflation
from gateway.delivery import Delivery, LiveMessage, Recipient
from gateway.errors import RequestRefused, StoreUnavailable
from gateway.hot_events import (
    PUBLISH_PREFIX,
    SEND_PREFIX,
    decode_publish,
    decode_send,
    encode_message,
    without_offset,
)
from gateway.limits import ConnectionLimits, TokenBucket
from gateway.mailbox import Batch, Hole
from gateway.messages import (
    ConnectionId,
    Join,
    Leave,
    ListMembers,
    ListPlayers,
    Logout,
    PresenceSet,
    PresenceWatch,
    Publish,
    Receipt,
    SendMessage,
    TrueId,
    check_publish,
    decode_event,
    decode_payload,
    encode,
    encode_event,
    event_name,
)
from gateway.metrics import Metrics
from gateway.presence_service import PresenceService
from gateway.registry import Registry
from gateway.replay import Command, Cursor, CursorState, Lost, Read, Write
from gateway.revocation import Revocation
from gateway.rooms import RoomRequest, Rooms
from gateway.session import Session
from gateway.sink import Sink
from gateway.store import SessionStore, Store

logger = logging.getLogger(__name__)

#: Messages read from the store at once; bytes are bounded by the send budget.
_BATCH: Final = 64
#: An event takes one token of the rate, and one more for each so many bytes of it.
_BYTES_PER_TOKEN: Final = 4096
#: Why a connection is closed whose session has another one.
TAKEN_OVER: Final = "taken_over"
#: Changes of its presence that a connection may announce.
_PRESENCE_PER_SECOND: Final = 2.0
_PRESENCE_AT_ONCE: Final = 10.0
_LIVE: Final = CursorState.LIVE  # looked up for each volatile message


@dataclass(frozen=True, slots=True)
class Services:
    """What every connection works with; built once, in server.py."""

    store: Store
    sessions: SessionStore
    registry: Registry[Connection]
    delivery: Delivery
    presence: PresenceService
    rooms: Rooms
    revocation: Revocation
    metrics: Metrics
    clock: Callable[[], float]
    monotonic: Callable[[], float]


class Connection(Recipient):
    """A player's connection, from its admission to its close."""

    __slots__ = (
        "_bucket",
        "_commands",
        "_cursor",
        "_held",
        "_last",
        "_limits",
        "_pinged",
        "_presence_bucket",
        "_probes",
        "_services",
        "_sink",
        "_writer",
        "closed",
        "deaf",
        "hidden",
        "id",
        "offsets",
        "session",
    )

    def __init__(
        self,
        connection_id: ConnectionId,
        session: Session,
        sink: Sink,
        services: Services,
        limits: ConnectionLimits,
        *,
        after: int,
        offsets: bool,
        hole: Hole | None = None,
        last: bytes = b"",
    ) -> None:
        # What a delivery needs comes first: see Stream.
        self._cursor = Cursor(after, hole)
        self._writer = sink.writer
        #: The id of the message at the cursor's position, empty where it is not known.
        self._last = last
        self.offsets = offsets
        self.closed = False
        #: What comes from the client is ignored; set before a close that lets answers out.
        self.deaf = False
        self.hidden = False
        #: Volatile state to be written once the client is up to date and not hidden. None when
        #: it is and all was written: the one thing that `offer_volatile` has to ask.
        self._held: Conflation | None = None
        self.session = session
        self.id = connection_id
        self._sink = sink
        self._services = services
        self._limits = limits
        self._bucket = limits.bucket(services.monotonic())
        self._commands: deque[Command] | None = None
        #: Cursor positions of the pings that are not answered yet.
        self._pinged = [0] * sink.pings
        #: Who waits for a pong, and for the how manyth from now on.
        self._probes: list[tuple[int, asyncio.Future[None]]] | None = None
        self._presence_bucket: TokenBucket | None = None

    @property
    def true_id(self) -> TrueId:
        """The player this connection belongs to."""
        return self.session.true_id

    def reconfigure(self, limits: ConnectionLimits) -> None:
        """Take other limits from now on."""
        self._limits = limits
        self._bucket = limits.bucket(self._services.monotonic())

    # Out

    def start(self, greeting: dict[str, object]) -> None:
        """Send the event `session`, then replay what was missed, then go live."""
        self._writer.send_event(encode_event("session", greeting))
        self._run(self._cursor.on_started())

    def offer(self, message: LiveMessage) -> None:
        """See Recipient.offer."""
        if not self._cursor.on_live(message.offset):
            if commands := self._cursor.on_behind():
                self._services.metrics.missed_publish("offset")
                self._run(commands)
            return
        self._last = message.id
        if message.skip is None or message.skip != self.session.id:
            self._write(message.array if self.offsets else message.without_offset())

    def on_hole(self) -> None:
        """See Recipient.on_hole: the client comes back and is told what is missing."""
        self.close("slow_consumer", reconnect=True)

    def offer_volatile(self, array: bytes, key: Hashable | None = None) -> bool:
        """See Recipient.offer_volatile."""
        if self._held is None and self._cursor.state is _LIVE:
            self._write(array)
            return True
        self._hold(array, key)
        return False

    def _hold(self, array: bytes, key: Hashable | None) -> None:
        metrics, limits = self._services.metrics, self._limits
        reason = "hidden" if self.hidden else "behind"
        if key is None or (self.hidden and limits.hidden_policy == "drop"):
            metrics.dropped_volatile(reason)
            return
        metrics.kept_volatile(reason)
        if self._held is None:
            self._held = Conflation(limits.state_keys, limits.state_bytes)
        if self._held.put(key, array):
            metrics.dropped_volatile("conflated")
        while limit := self._held.over():
            self._held.pop()
            metrics.limit_hit(limit)
            metrics.dropped_volatile("limit")

    def _catch_up(self) -> None:
        """Write the volatile state that was held, as far as there is room."""
        held = self._held
        if held is None or self.hidden:
            return
        while self._cursor.state is _LIVE and not self.closed:
            if (array := held.pop()) is None:
                self._held = None
                return
            self._write(array)

    def send(self, name: str, payload: object) -> None:
        """Send an event that is not stored."""
        self.send_event(encode_event(name, payload))

    def send_event(self, array: bytes) -> None:
        """Send the JSON array of an event that is not stored."""
        if not self.closed and not self._writer.send_event(array):
            self._cursor.on_congested()

    def on_presence(self, array: bytes) -> bool:
        """See Watcher.on_presence."""
        if self._cursor.state is CursorState.CONGESTED:
            return self.closed
        self.send_event(array)
        return True

    def _write(self, array: bytes) -> None:
        if not self._writer.send_event(array):
            self._services.metrics.limit_hit("send_buffer_bytes")
            self._cursor.on_congested()

    def _run(self, commands: Iterable[Command]) -> None:
        # A store may answer a read before it returns: the queue keeps that from recursing.
        if self._commands is not None:
            self._commands.extend(commands)
            return
        self._commands = deque(commands)
        try:
            while self._commands and not self.closed:
                self._execute(self._commands.popleft())
        finally:
            self._commands = None
        if self._held is not None:
            self._catch_up()

    def _execute(self, command: Command) -> None:
        match command:
            case Write(messages):
                self._last = messages[-1].id
                for message in messages:
                    if message.skip is not None and message.skip == self.session.id:
                        continue
                    array = encode_message(message.id, message.body)
                    self._write(array if self.offsets else without_offset(message.id, array))
            case Read(after, head):

                def on_batch(batch: Batch | StoreUnavailable) -> None:
                    if isinstance(batch, Batch):
                        self._run(self._cursor.on_batch(after, batch, head))
                    elif self._cursor.state is not CursorState.DOUBTFUL:
                        # It comes back, and is told to wait while the store is away.
                        self.close("store_unavailable", reconnect=True)

                self._services.store.read(
                    self.true_id, after, _BATCH, self._limits.send_buffer_bytes, on_batch
                )
            case Lost(count):
                text = "connection %d fell %d trimmed messages behind"
                logger.warning(text, self.id, count, extra=self.session.about)
                self.close("slow_consumer", reconnect=True)

    def on_drained(self) -> None:
        """The transport's send buffer has room again."""
        self._run(self._cursor.on_drained())
        self._services.presence.on_drained(self)

    @property
    def position(self) -> tuple[int, bytes]:
        """Offset and id of the last message written; the id is empty where it is not known."""
        return self._cursor.position, self._last

    def doubt(self) -> None:
        """Write no messages: the store may have gone back to an older state of itself."""
        self._cursor.on_doubt()

    def go_on(self, head: int) -> None:
        """The store has all that was written, and a head: write what has come since."""
        if head > self._cursor.position:
            self._services.metrics.missed_publish("head")
        self._run(self._cursor.on_known(head))

    # Liveness

    def on_ping_sent(self) -> None:
        """A ping follows everything written so far: its pong will confirm that much."""
        self._pinged.append(self._cursor.position)

    def on_pong(self) -> None:
        """The client is alive and has everything that was written before the ping."""
        # Each pong answers the oldest ping: a probe may follow a heartbeat before its pong.
        if self._pinged and (position := self._pinged.pop(0)) > self.session.confirmed:
            self.session.confirm(position)
            self._services.sessions.save_session(self.session)
        if self._probes is not None:
            # A pong that was under way already proves nothing of now.
            self._probes = [(pongs - 1, waiter) for pongs, waiter in self._probes]
            self._end_probes(0)

    def _end_probes(self, pongs: float) -> None:
        """Wake those who wait for no more than so many pongs."""
        probes = self._probes or ()
        self._probes = [probe for probe in probes if probe[0] > pongs] or None
        for missing, waiter in probes:
            if missing <= pongs and not waiter.done():
                waiter.set_result(None)

    async def answers(self, timeout: float) -> bool:
        """Probe the client with a ping; tell whether it answers within `timeout` seconds.

        A connection that closes meanwhile has not answered.
        """
        if self.closed:
            return False
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sink.ping()
        self._probes = [*(self._probes or ()), (len(self._pinged), waiter)]
        try:
            await asyncio.wait_for(waiter, timeout)
        except TimeoutError:
            return False
        return not self.closed

    # In

    def receive(self, array: bytes, ack_id: int | None) -> None:
        """Take an event's JSON array from the client; answer by ack or event `error`."""
        if self.deaf:
            return
        name = ""
        try:
            if self._bucket is not None:
                self._take_token(self._bucket, array)
            if array.startswith(SEND_PREFIX):
                name = "message"
                request = decode_send(array)
                self._services.delivery.send(self.session.true_id, request, self, ack_id)
                return
            if array.startswith(PUBLISH_PREFIX):
                name = "publish"
                self._on_publish(decode_publish(array), ack_id)
                return
            name, arguments = decode_event(array)
            handler = CLIENT_EVENTS.get(name)
            if handler is None:
                raise RequestRefused(
                    "bad_request", f"unknown event; known are {', '.join(CLIENT_EVENTS)}"
                )
            kind, method = handler
            method(self, decode_payload(name, arguments, kind), ack_id)
        except RequestRefused as error:
            self.refuse(error, ack_id, name or event_name(array))

    def _take_token(self, bucket: TokenBucket, array: bytes) -> None:
        cost = min(1 + len(array) // _BYTES_PER_TOKEN, self._limits.burst)
        wait = bucket.take(self._services.monotonic(), cost)
        if wait > 0:
            self._services.metrics.limit_hit("messages_per_second")
            raise RequestRefused("rate_limited", "too many events", None, round(wait, 3))

    def refuse(self, error: RequestRefused, ack_id: int | None, name: str = "") -> None:
        """Tell the client that its event was refused, by ack or by the event `error`."""
        self._services.metrics.refused_request(error.code)
        if ack_id is not None:
            self.answer(ack_id, {"ok": False, "error": error.payload()})
        else:
            self.send("error", {**error.payload(), "event": name[:64]})

    def answer(self, ack_id: int | None, payload: object) -> None:
        """Answer an event, if it asked for that."""
        if ack_id is not None and not self.closed:
            self._sink.send_ack(ack_id, b"[%b]" % encode(payload))

    # Origin

    def on_receipt(self, receipt: Receipt, ack_id: int) -> None:
        """See Origin.on_receipt."""
        self.answer(ack_id, receipt)

    def on_refused(self, error: RequestRefused, ack_id: int | None, event: str = "message") -> None:
        """See Origin.on_refused."""
        self.refuse(error, ack_id, event)

    def _on_message(self, request: SendMessage, ack_id: int | None) -> None:
        self._services.delivery.send(self.session.true_id, request, self, ack_id)

    def _on_publish(self, request: Publish, ack_id: int | None) -> None:
        check_publish(request)
        session = self.session
        self._services.delivery.publish(session.true_id, request, session.id, self, ack_id)

    def _on_room_event(self, request: RoomRequest, ack_id: int | None) -> None:
        self._services.rooms.receive(request, self, ack_id)

    def _on_presence_set(self, request: PresenceSet, ack_id: int | None) -> None:
        services = self._services
        now = services.monotonic()
        if self._presence_bucket is None:
            self._presence_bucket = TokenBucket(_PRESENCE_PER_SECOND, _PRESENCE_AT_ONCE, now)
        wait = self._presence_bucket.take(now)
        if wait > 0:
            raise RequestRefused("rate_limited", "too many changes", None, round(wait, 3))
        services.presence.set_state(self, request)
        self.answer(ack_id, {"ok": True})
        if self._limits.hidden_policy != "send":
            self.hidden = request.state == "hidden"
            if self.hidden and self._held is None:
                self._held = Conflation(self._limits.state_keys, self._limits.state_bytes)
            self._catch_up()

    def _on_presence_watch(self, request: PresenceWatch, ack_id: int | None) -> None:
        done = partial(self._on_found, ack_id, "presence_watch")
        self._services.presence.watch(self, request.true_ids, done)

    def _on_presence_unwatch(self, request: PresenceWatch, ack_id: int | None) -> None:
        self._services.presence.unwatch(self, request.true_ids)
        self.answer(ack_id, {"ok": True, "presence": {}})

    def _on_players(self, request: ListPlayers, ack_id: int | None) -> None:
        self._services.presence.list_players(request, partial(self._on_found, ack_id, "players"))

    def _on_found(
        self, ack_id: int | None, name: str, found: dict[str, object] | RequestRefused
    ) -> None:
        if isinstance(found, RequestRefused):
            self.refuse(found, ack_id, name)
        else:
            self.answer(ack_id, {"ok": True, **found})

    def _on_logout(self, request: Logout, ack_id: int | None) -> None:
        self._services.revocation.log_out(
            self.session,
            request.everywhere,
            lambda: self.answer(ack_id, {"ok": True}),
            lambda error: self.refuse(error, ack_id, "logout"),
        )

    # Closing

    def close(self, reason: str, *, reconnect: bool) -> None:
        """Close from this side; what still comes from the client is ignored from now on."""
        if not self.closed:
            self._sink.close(reason, reconnect=reconnect)
            self.on_closed(reason, final=not reconnect)

    def on_closed(self, reason: str, *, final: bool = False) -> None:
        """The connection is gone, by either side, `final` if its client is not to come back.

        A second call changes nothing.
        """
        if self.closed:
            return
        self.closed = self.deaf = True
        services = self._services
        services.metrics.closed(reason)
        now = services.clock()
        if self.session.connection_id == self.id:
            self.session.connection_id = None
            self.session.last_seen = now
            services.sessions.save_session(self.session)
        services.registry.remove(self.id)
        # One that was taken over is back already, here or at another node.
        services.presence.on_disconnected(self, left=final and reason != TAKEN_OVER)
        held, self._held = self._held, None
        if held:
            services.metrics.dropped_volatile("closed", len(held))
        services.rooms.on_disconnected(self)
        # Cancelled, they would take the newcomer that waits in `answers` with them.
        self._end_probes(math.inf)


_Handler = Callable[[Connection, Any, int | None], None]
#: Events that clients may send: the type of the payload, and what happens.
CLIENT_EVENTS: Final[dict[str, tuple[type, _Handler]]] = {
    "message": (SendMessage, Connection._on_message),
    "publish": (Publish, Connection._on_publish),
    "join": (Join, Connection._on_room_event),
    "leave": (Leave, Connection._on_room_event),
    "members": (ListMembers, Connection._on_room_event),
    "presence_set": (PresenceSet, Connection._on_presence_set),
    "presence_watch": (PresenceWatch, Connection._on_presence_watch),
    "presence_unwatch": (PresenceWatch, Connection._on_presence_unwatch),
    "players": (ListPlayers, Connection._on_players),
    "logout": (Logout, Connection._on_logout),
}
