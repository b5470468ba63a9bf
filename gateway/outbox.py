"""Webhooks that wait to be sent: what the game's backend is told, and what a store keeps of it.

A webhook is written in the same transaction as what it reports, so neither is there without
the other. Webhooks have numbers that rise; those of a player are sent in that order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec

from gateway.messages import SessionId, TrueId
from gateway.session import Session

WebhookType = Literal[
    "player.online", "player.offline", "session.new", "session.revoked", "message.expired"
]
#: Why the oldest webhook was given up when there was no room for one more.
FULL: Final = "webhooks.max_queued is reached"

#: No more digits than a number of the store has.
_WEBHOOK_ID: Final = re.compile(r"([0-9a-z]+)\.([0-9]{1,18})\.([0-9a-f]{1,15})")

_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    """Bounds of what waits, and of what was given up; 0 means no limit.

    Without `enabled` nothing is written: there is nobody to send it to.
    """

    enabled: bool = False
    max_queued: int = 0
    max_dead: int = 0


#: What a store is told when there are no webhooks.
NO_OUTBOX: Final = OutboxLimits()


class Event(msgspec.Struct, frozen=True, gc=False):
    """Something that has happened; `ts` is in Unix seconds, `data` JSON."""

    type: WebhookType
    true_id: TrueId
    ts: float
    data: bytes


class Webhook(msgspec.Struct, frozen=True, gc=False):
    """An event that waits to be sent: its number, and an id that is never used again."""

    seq: int
    id: str
    event: Event

    def body(self) -> bytes:
        """Return what is sent, the same bytes each time."""
        event = self.event
        return _encode(
            {
                "id": self.id,
                "type": event.type,
                "ts": event.ts,
                "true_id": event.true_id,
                "data": msgspec.Raw(event.data),
            }
        )


class DeadWebhook(msgspec.Struct, frozen=True):
    """A webhook that was given up at the time `given_up` (Unix seconds), and why."""

    webhook: Webhook
    given_up: float
    reason: str


class Retried(NamedTuple):
    """How many webhooks wait again, and whether some could not, because there is no room."""

    webhooks: int
    full: bool


def webhook_id(epoch: str, seq: int, nonce: int) -> str:
    """Return a webhook's id; the nonce tells those apart that a restored backup numbers alike."""
    return f"{epoch}.{seq}.{nonce:x}"


def parse_webhook_id(text: str) -> tuple[str, int, int] | None:
    """Return what `webhook_id` was given; None if it has not made this text."""
    match = _WEBHOOK_ID.fullmatch(text)
    return None if match is None else (match[1], int(match[2]), int(match[3], 16))


def _event(kind: WebhookType, true_id: str, ts: float, data: Mapping[str, Any]) -> Event:
    return Event(kind, TrueId(true_id), ts, _encode(data))


def session_new(session: Session) -> Event:
    """A session was opened, by a log-in, by a copied tab, or by the backend."""
    data = {
        "session_id": session.id,
        "name": session.name,
        "method": session.method,
        "attributes": msgspec.Raw(session.attributes.encode()),
    }
    return _event("session.new", session.true_id, session.last_seen, data)


def session_revoked(session_id: SessionId, true_id: str, reason: str, now: float) -> Event:
    """A session was ended: by a log-out, by the backend, because its token was stolen."""
    data = {"session_id": session_id, "reason": reason}
    return _event("session.revoked", true_id, now, data)


def message_expired(true_id: str, count: int, now: float) -> Event:
    """So many messages outlived `mailbox.retention` before any session had confirmed them."""
    return _event("message.expired", true_id, now, {"messages": count})


def presence_changed(true_id: str, online: bool, now: float) -> Event:
    """A player has come, or has been away for `presence.grace`."""
    return _event("player.online" if online else "player.offline", true_id, now, {})


class OutboxStore(Protocol):
    """Keeps webhooks until they are sent. Methods raise StoreUnavailable.

    What a method has changed is durable when it returns. Of a store that several nodes share each
    has a part, which it sends: `webhooks` and `reported_online` are about that, and numbers are
    the node's own.
    """

    @property
    def queued_webhooks(self) -> int:
        """How many wait to be sent."""

    @property
    def dead_webhooks(self) -> int:
        """How many that were given up are kept."""

    async def report_presence(self, changes: Mapping[TrueId, bool], now: float) -> None:
        """Remember who is online and who no longer is, and write a webhook of each change.

        What is known already is not said again.
        """

    async def reported_online(self) -> frozenset[TrueId]:
        """Return whom `report_presence` reported online last."""

    async def webhooks(self, after: int, limit: int) -> tuple[Webhook, ...]:
        """Return webhooks with numbers above `after`, in order."""

    async def remove_webhooks(self, numbers: Sequence[int]) -> None:
        """Forget webhooks that were sent."""

    async def bury_webhook(self, number: int, reason: str, now: float) -> None:
        """Give a webhook up; the newest `webhooks.max_dead` of these are kept."""

    async def list_dead_webhooks(self, limit: int) -> tuple[DeadWebhook, ...]:
        """Return webhooks that were given up, the last one first."""

    async def retry_dead_webhooks(self, webhook_id: str | None) -> Retried:
        """Let a webhook that was given up wait again, under its id; None: all of them.

        There may be none with this id. With lower numbers than those that wait they are read by
        who reads from the start. As many as have room go, none that waits is given up for them.
        """

    async def delete_dead_webhooks(self, webhook_id: str | None) -> int:
        """Forget a webhook that was given up, None: all of them; return how many that were."""
