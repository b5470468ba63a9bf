"""Delivery: accept a message, append it, tell the target's connections, then the sender."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Final

from gateway.errors import GatewayError, RequestRefused
from gateway.hot_events import encode_body, encode_message, encode_volatile, without_offset
from gateway.mailbox import Draft, Origin, RoomDraft, StoredMessage
from gateway.messages import Publish, Receipt, SendMessage, SessionId, TrueId
from gateway.metrics import Metrics
from gateway.nodes import Nodes, VolatileKey
from gateway.store import (
    Accepted,
    KeysFull,
    KeyTaken,
    MailboxFull,
    NotMember,
    Published,
    Store,
    UnknownTarget,
)

#: How long a sender is asked to wait when the gateway cannot store its message, in seconds.
_RETRY_AFTER: Final = 1.0


class LiveMessage:
    """A message that was just stored, and its event: one object for all connections."""

    __slots__ = ("_without_offset", "array", "id", "offset", "skip")

    def __init__(self, message: StoredMessage) -> None:
        self.offset = message.offset
        self.id = message.id
        #: The session that passes over it.
        self.skip = message.skip
        #: Its event, with the offset; the transport makes one frame of it.
        self.array = encode_message(message.id, message.body)
        self._without_offset: bytes | None = None

    def without_offset(self) -> bytes:
        """Return its event for clients that take no offsets."""
        if self._without_offset is None:
            self._without_offset = without_offset(self.id, self.array)
        return self._without_offset


class Recipient:
    """A connection as delivery sees it. No Protocol: compiled, those are called by name."""

    __slots__ = ()

    def offer(self, message: LiveMessage) -> None:
        """Write a message that was just stored, or leave it to the cursor."""
        raise NotImplementedError

    def offer_volatile(self, array: bytes, key: Hashable | None = None) -> bool:
        """Write a message that is stored nowhere; return True if it was written now.

        One that cannot be written now, or whose page is hidden, is dropped, or, with a `key`,
        kept until it can: only the latest of a key is. Kept is not delivered.
        """
        raise NotImplementedError

    def on_hole(self) -> None:
        """A message to a room was not stored for this player: the client is to be told."""
        raise NotImplementedError


class Delivery:
    """Takes messages for players. `connections_of` is the registry's, `clock` Unix seconds."""

    def __init__(
        self,
        store: Store,
        connections_of: Callable[[TrueId], tuple[Recipient, ...]],
        metrics: Metrics,
        clock: Callable[[], float],
        message_bytes: int,
        nodes: Nodes,
    ) -> None:
        self._store = store
        self._nodes = None if nodes.alone else nodes
        self._connections_of = connections_of
        self._metrics = metrics
        self._message_counts = metrics.messages.message
        self._publish_counts = metrics.messages.publish
        self._volatile_counts = metrics.messages.volatile
        self._clock = clock
        self._message_bytes = message_bytes
        # One bound method for all: a fresh one for each message is measurable.
        self._done = self._on_appended
        self._published = self._on_published
        self._milliseconds = 0
        self._ts = b"0.0"

    def reconfigure(self, message_bytes: int) -> None:
        """Take another limit on `data` from now on, in bytes; 0 means no limit."""
        self._message_bytes = message_bytes

    def send(
        self,
        sender: TrueId | None,
        request: SendMessage,
        origin: Origin | None = None,
        ack_id: int | None = None,
        key_owner: TrueId | None = None,
    ) -> None:
        """Deliver or queue a message; tell `origin` its receipt, if it gave an `ack_id`.

        Whether it did or not, it is told a refusal: `too_large`, `unknown_target`,
        `bad_request` (its `id` was used for another target), `rate_limited` (too many ids),
        `mailbox_full` or `unavailable`. Then nothing was accepted. `key_owner` is as in Draft.
        """
        data = bytes(request.data)
        if self._message_bytes and len(data) > self._message_bytes:
            self._refuse_size(len(data), origin, ack_id, "message")
            return
        now = self._clock()
        body = encode_body(sender, data, self._time(now), request.type)
        if request.volatile:
            self._send_volatile(request.target_id, body, origin, ack_id)
            return
        draft = Draft(request.target_id, sender, body, request.id, origin, ack_id, key_owner)
        self._store.append(draft, now, self._done)

    def publish(
        self,
        sender: TrueId | None,
        request: Publish,
        session_id: SessionId | None = None,
        origin: Origin | None = None,
        ack_id: int | None = None,
        key_owner: TrueId | None = None,
    ) -> None:
        """Deliver or queue a message for every member of a room, the sender's own included.

        Without `echo` the sender's session `session_id`, whose connection is `origin`, is
        left out. `origin` is told as in `send`; `not_member` takes the place of
        `unknown_target`.
        """
        data = bytes(request.data)
        if self._message_bytes and len(data) > self._message_bytes:
            self._refuse_size(len(data), origin, ack_id, "publish")
            return
        now = self._clock()
        body = encode_body(sender, data, self._time(now), request.type, request.room)
        if request.volatile:
            self._publish_volatile(sender, request, body, origin, ack_id)
            return
        skip = None if request.echo else session_id
        draft = RoomDraft(request.room, sender, body, request.id, skip, origin, ack_id, key_owner)
        self._store.publish(draft, now, self._published)

    def _time(self, now: float) -> bytes:
        """Return the time as JSON; most messages have the same as the one before."""
        milliseconds = int(now * 1000)
        if milliseconds != self._milliseconds:
            self._milliseconds = milliseconds
            self._ts = b"%.3f" % now
        return self._ts

    def _refuse_size(
        self, size: int, origin: Origin | None, ack_id: int | None, event: str
    ) -> None:
        self._metrics.limit_hit("message_bytes")
        if origin is not None:
            text = f"data has {size} bytes, more than the {self._message_bytes} allowed"
            origin.on_refused(RequestRefused("too_large", text, "data"), ack_id, event)

    def _send_volatile(
        self, target_id: TrueId, body: bytes, origin: Origin | None, ack_id: int | None
    ) -> None:
        array = encode_volatile(body)
        written = self.offer_volatile(target_id, array)
        if self._nodes is None:
            self._on_volatile(written, origin, ack_id)
            return
        self._nodes.send_volatile(
            target_id, array, lambda told: self._on_volatile(written + told, origin, ack_id)
        )

    def offer_volatile(self, true_id: TrueId, array: bytes) -> int:
        """Hand an event to a player's connections here; return how many wrote it at once."""
        written = 0
        for connection in self._connections_of(true_id):
            written += connection.offer_volatile(array)
        return written

    def _on_volatile(self, written: int, origin: Origin | None, ack_id: int | None) -> None:
        status: Final = "delivered" if written else "dropped"
        self._volatile_counts[status] += 1
        if origin is not None and ack_id is not None:
            origin.on_receipt(Receipt(True, None, status, written), ack_id)

    def _publish_volatile(
        self,
        sender: TrueId | None,
        request: Publish,
        body: bytes,
        origin: Origin | None,
        ack_id: int | None,
    ) -> None:
        members = self._store.memberships.members_of(request.room)
        if sender is not None and sender not in members:
            if origin is not None:
                origin.on_refused(self._refusal(NotMember(request.room)), ack_id, "publish")
            return
        array = encode_volatile(body)
        key = None if request.key is None else (sender, request.room, request.key)
        written, reached = self.offer_to_room(
            request.room, array, key, None if request.echo else origin
        )

        def on_told(told: int) -> None:
            # Other nodes know how many members they have, and not what they did with it.
            found = min(reached + told, len(members))
            self._volatile_counts["delivered"] += found
            self._volatile_counts["dropped"] += len(members) - found
            if origin is not None and ack_id is not None:
                status: Final = "delivered" if written + told else "dropped"
                origin.on_receipt(Receipt(True, None, status, written + told), ack_id)

        if self._nodes is None:
            on_told(0)
        else:
            self._nodes.publish_volatile(request.room, array, key, on_told)

    def offer_to_room(
        self, room: str, array: bytes, key: VolatileKey | None, left_out: object = None
    ) -> tuple[int, int]:
        """Hand an event to all connections here of members of a room, but the one left out.

        Returns how many connections wrote it at once, and of how many members.
        """
        connections_of = self._connections_of
        written = reached = 0
        for true_id in self._store.memberships.members_of(room):
            before = written
            for connection in connections_of(true_id):
                if connection is not left_out:
                    written += connection.offer_volatile(array, key)
            reached += written > before
        return written, reached

    def _on_appended(self, draft: Draft, result: Accepted | GatewayError) -> None:
        if not isinstance(result, Accepted):
            refusal = self._refusal(result)
            if draft.origin is not None:
                draft.origin.on_refused(refusal, draft.ack_id)
            return
        connections = self._connections_of(draft.target_id)
        message = result.message
        if message is not None and connections:
            live = LiveMessage(message)
            for connection in connections:
                connection.offer(live)
        reached = len(connections) + result.remote
        status: Final = "delivered" if reached else "queued"
        self._message_counts[status if message is not None else "duplicate"] += 1
        if draft.ack_id is not None and draft.origin is not None:
            receipt = Receipt(True, result.message_id.decode(), status, reached, message is None)
            draft.origin.on_receipt(receipt, draft.ack_id)

    def _on_published(self, draft: RoomDraft, result: Published | GatewayError) -> None:
        if not isinstance(result, Published):
            if draft.origin is not None:
                draft.origin.on_refused(self._refusal(result), draft.ack_id, "publish")
            return
        if result.duplicate:
            self._publish_counts["duplicate"] += 1
            members: Iterable[TrueId] = self._store.memberships.members_of(draft.room)
            written = sum(len(self._connections_of(each)) for each in members)
        else:
            written = self._offer(result) + result.remote
        if draft.ack_id is not None and draft.origin is not None:
            own = result.message_id
            receipt = Receipt(
                True,
                own.decode() if own is not None else None,
                "delivered" if written else "queued",
                written,
                result.duplicate,
            )
            draft.origin.on_receipt(receipt, draft.ack_id)
        if result.full:
            self._metrics.limit_hit(result.limit)
            self.tell_holes(result.full)

    def tell_holes(self, true_ids: Sequence[TrueId]) -> None:
        """Tell connections here of players for whom a message to a room was not stored."""
        for true_id in true_ids:
            for connection in self._connections_of(true_id):
                connection.on_hole()

    def offer(self, message: StoredMessage, true_ids: Sequence[TrueId]) -> None:
        """Hand a message that another node has stored to the connections of those who have it."""
        live = LiveMessage(message)
        for true_id in true_ids:
            for connection in self._connections_of(true_id):
                connection.offer(live)

    def _offer(self, published: Published) -> int:
        """Hand a message to all connections of those who have it; return how many there are."""
        connections_of = self._connections_of
        written = players = 0
        reached = published.elsewhere
        for message, true_ids in published.copies:
            live = LiveMessage(message)
            players += len(true_ids)
            for true_id in true_ids:
                connections = connections_of(true_id)
                if connections:
                    reached += 1
                    written += len(connections)
                    for connection in connections:
                        connection.offer(live)
        self._publish_counts["delivered"] += reached
        self._publish_counts["queued"] += players - reached
        return written

    def _refusal(self, error: GatewayError) -> RequestRefused:
        if isinstance(error, UnknownTarget):
            return RequestRefused("unknown_target", "there is no such player", "target_id")
        if isinstance(error, KeyTaken):
            return RequestRefused("bad_request", "this id was used for another target", "id")
        if isinstance(error, NotMember):
            return RequestRefused("not_member", "you are not in this room", "room")
        if isinstance(error, KeysFull):
            self._metrics.limit_hit("mailbox.dedupe_keys")
            # Rounded up: at the very moment that it is told, the oldest id is still remembered.
            wait = round(error.retry_after + 0.001, 3)
            return RequestRefused(
                "rate_limited", "too many messages with an id in too short a time", None, wait
            )
        if isinstance(error, MailboxFull):
            self._metrics.limit_hit(error.limit)
            return RequestRefused(
                "mailbox_full", "there is no room for the message now", None, _RETRY_AFTER
            )
        return RequestRefused(
            "unavailable", "the message could not be stored: send it again", None, _RETRY_AFTER
        )
