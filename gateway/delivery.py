"""Delivery: accept a message, append it, tell the target's connections, then the sender."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, Protocol

from msgspec import UNSET, Raw

from gateway.errors import GatewayError, RequestRefused
from gateway.mailbox import (
    Accepted,
    Draft,
    KeysFull,
    KeyTaken,
    MailboxFull,
    MailboxStore,
    StoredMessage,
    UnknownTarget,
)
from gateway.messages import Envelope, Receipt, SendMessage, TrueId, encode_message
from gateway.metrics import Metrics

SendDone = Callable[[Receipt | RequestRefused], None]

#: How long a sender is asked to wait when the gateway cannot store its message, in seconds.
_RETRY_AFTER: Final = 1.0


class Outgoing:
    """A message on its way out, encoded at most once in each of its two forms."""

    __slots__ = ("_envelope", "_plain", "_with_offset")

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._plain: bytes | None = None
        self._with_offset: bytes | None = None

    @classmethod
    def stored(cls, message: StoredMessage, message_id: str = "") -> Outgoing:
        """Wrap a message of a mailbox; its id is made from its position if it is not given."""
        draft = message.draft
        return cls(
            Envelope(
                message_id or str(message.position),
                draft.sender,
                Raw(draft.data),
                message.ts,
                draft.room if draft.room is not None else UNSET,
                draft.type if draft.type is not None else UNSET,
            )
        )

    def payload(self, *, offset: bool) -> bytes:
        """Return the event's JSON array, with the trailing offset if asked."""
        if offset:
            if self._with_offset is None:
                self._with_offset = encode_message(self._envelope, offset=True)
            return self._with_offset
        if self._plain is None:
            self._plain = encode_message(self._envelope, offset=False)
        return self._plain


class Recipient(Protocol):
    """A connection as delivery sees it."""

    def offer(self, message: StoredMessage, outgoing: Outgoing) -> None:
        """Write a message that was just stored, or leave it to the cursor."""

    def offer_volatile(self, outgoing: Outgoing) -> bool:
        """Write a message that is stored nowhere; return False if it was dropped."""


class Delivery:
    """Takes messages for players. `connections_of` is the registry's, `clock` Unix seconds."""

    def __init__(
        self,
        store: MailboxStore,
        connections_of: Callable[[TrueId], Collection[Recipient]],
        metrics: Metrics,
        clock: Callable[[], float],
        message_bytes: int,
    ) -> None:
        self._store = store
        self._connections_of = connections_of
        self._metrics = metrics
        self._clock = clock
        self._message_bytes = message_bytes

    def send(self, sender: TrueId | None, request: SendMessage, done: SendDone) -> None:
        """Deliver or queue a message and call `done` with its receipt.

        `done` gets RequestRefused when nothing was accepted: `too_large`, `unknown_target`,
        `bad_request` (its `id` was used for another target), `rate_limited` (too many ids),
        `mailbox_full` or `unavailable`.
        """
        data = bytes(request.data)
        if self._message_bytes and len(data) > self._message_bytes:
            self._metrics.limit_hit("message_bytes")
            done(
                RequestRefused(
                    "too_large",
                    f"data has {len(data)} bytes, more than the {self._message_bytes} allowed",
                    "data",
                )
            )
        elif request.volatile:
            self._send_volatile(sender, request, data, done)
        else:
            self._send_stored(sender, request, data, done)

    def _send_volatile(
        self, sender: TrueId | None, request: SendMessage, data: bytes, done: SendDone
    ) -> None:
        outgoing = Outgoing(
            Envelope(
                id=UNSET,
                sender=sender,
                data=Raw(data),
                ts=self._clock(),
                type=request.type if request.type is not None else UNSET,
            )
        )
        written = 0
        for connection in tuple(self._connections_of(TrueId(request.target_id))):
            written += connection.offer_volatile(outgoing)
        status: Final = "delivered" if written else "dropped"
        self._metrics.message(status)
        done(Receipt(ok=True, id=None, status=status, connections=written))

    def _send_stored(
        self, sender: TrueId | None, request: SendMessage, data: bytes, done: SendDone
    ) -> None:
        target_id = TrueId(request.target_id)

        def on_appended(result: Accepted | GatewayError) -> None:
            if isinstance(result, GatewayError):
                done(self._refusal(result))
                return
            connections = tuple(self._connections_of(target_id))
            if result.message is not None:
                outgoing = Outgoing.stored(result.message, result.message_id)
                for connection in connections:
                    connection.offer(result.message, outgoing)
            status: Final = "delivered" if connections else "queued"
            self._metrics.message("duplicate" if result.duplicate else status)
            done(Receipt(True, result.message_id, status, len(connections), result.duplicate))

        draft = Draft(target_id, sender, data, request.type, None, request.id)
        self._store.append(draft, self._clock(), on_appended)

    def _refusal(self, error: GatewayError) -> RequestRefused:
        if isinstance(error, UnknownTarget):
            return RequestRefused("unknown_target", "there is no such player", "target_id")
        if isinstance(error, KeyTaken):
            return RequestRefused(
                "bad_request", "this id was used for a message to another player", "id"
            )
        if isinstance(error, KeysFull):
            self._metrics.limit_hit("mailbox.dedupe_keys")
            # Rounded up: at the very moment that it is told, the oldest id is still remembered.
            wait = round(error.retry_after + 0.001, 3)
            return RequestRefused(
                "rate_limited", "too many messages with an id in too short a time", None, wait
            )
        if isinstance(error, MailboxFull):
            self._metrics.limit_hit("mailbox.total_bytes")
            return RequestRefused(
                "mailbox_full", "the gateway's mailboxes are full", None, _RETRY_AFTER
            )
        return RequestRefused(
            "unavailable", "the message could not be stored: send it again", None, _RETRY_AFTER
        )
