"""The mailbox: one ordered stream of messages per player.

Sessions are cursors on the stream. A position is (epoch, offset, nonce): offsets are dense
per mailbox, the epoch changes when a store was lost, and the nonce tells two messages apart
that ended up with the same offset.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from gateway.errors import RequestRefused
from gateway.messages import Receipt, SessionId, TrueId

_POSITION: Final = re.compile(r"([a-z0-9]{1,16})\.(0|[1-9][0-9]{0,17})\.([a-z0-9]{0,16})", re.ASCII)
#: What a stored message costs beside its body: ids, index and bookkeeping.
OVERHEAD: Final = 160


class Position(msgspec.Struct, frozen=True, gc=False):
    """A place in a mailbox; offset 0 is before its first message."""

    epoch: str
    offset: int
    nonce: str

    def __str__(self) -> str:
        """Return the opaque id that clients see."""
        return f"{self.epoch}.{self.offset}.{self.nonce}"

    @staticmethod
    def parse(text: str) -> Position | None:
        """Return the position a client's id stands for, or None if it is not one of ours."""
        match = _POSITION.fullmatch(text)
        return Position(match[1], int(match[2]), match[3]) if match else None


class Origin(Protocol):
    """Who sent a message and wants to know what became of it."""

    def on_receipt(self, receipt: Receipt, ack_id: int) -> None:
        """The store has accepted the message."""

    def on_refused(self, error: RequestRefused, ack_id: int | None, event: str = "message") -> None:
        """Nothing was accepted; `event` is what was asked."""


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A message to append: everything but its place.

    `body` is the payload of the event `message` from behind its `id` on: messages.py. `key`
    is the sender's idempotency key; with `key_owner` it is remembered under that id, whoever
    the sender is. `origin` and `ack_id` are for delivery, not for stores.
    """

    target_id: TrueId
    sender: TrueId | None
    body: bytes
    key: str | None = None
    origin: Origin | None = None
    ack_id: int | None = None
    key_owner: TrueId | None = None

    @property
    def size(self) -> int:
        """Bytes that the message will count against the limits of mailboxes."""
        return len(self.body) + OVERHEAD


class RoomDraft(msgspec.Struct, frozen=True, gc=False):
    """A message to append to the mailbox of each member of a room: see Draft.

    The session `skip`, one of the sender's, does not get it.
    """

    room: str
    sender: TrueId | None
    body: bytes
    key: str | None = None
    skip: SessionId | None = None
    origin: Origin | None = None
    ack_id: int | None = None
    key_owner: TrueId | None = None


class StoredMessage(msgspec.Struct, frozen=True, gc=False):
    """A message in a mailbox: `id` is its position as clients see it, `ts` in Unix seconds.

    The session `skip` passes over it.
    """

    offset: int
    id: bytes
    body: bytes
    ts: float
    skip: SessionId | None = None

    @property
    def size(self) -> int:
        """Bytes that count against the mailbox' limits."""
        return len(self.body) + OVERHEAD


class Hole(msgspec.Struct, frozen=True, gc=False):
    """Messages that were not stored, `lost` many, after the one with the offset `after`.

    The offsets go on as if they had never been sent.
    """

    after: int
    lost: int

    @staticmethod
    def deeper(hole: Hole | None, head: int, confirmed: int) -> Hole:
        """Return the hole when one more is not stored.

        `confirmed` is what every session has: it has been told of a hole before that.
        """
        if hole is None or hole.after < confirmed:
            return Hole(head, 1)
        return Hole(hole.after, hole.lost + 1)


class Batch(msgspec.Struct, frozen=True, gc=False):
    """Messages after a cursor, in order. `head` is the offset of the newest one stored.

    `hole` is where the mailbox has its newest one.
    """

    messages: tuple[StoredMessage, ...]
    head: int
    hole: Hole | None = None


class Located(enum.Enum):
    """What became of a position that a client presents."""

    HERE = "here"
    TRIMMED = "trimmed"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Retention:
    """Limits of one mailbox: messages, bytes, seconds. 0 means no limit."""

    max_messages: int
    max_bytes: int
    retention: float


def locate(
    position: Position, epoch: str, first: int, head: int, stored_id: bytes | None
) -> Located:
    """Tell whether replay after `position` would leave a gap in a mailbox.

    TRIMMED when messages after it are gone already, FOREIGN when it is no position of this
    mailbox: another epoch, an offset never reached, or another message's nonce. `stored_id`
    is the id of the message that the mailbox has at that offset.
    """
    offset = position.offset
    if position.epoch != epoch or offset > head:
        return Located.FOREIGN
    if offset >= first:
        same = stored_id == str(position).encode()
        return Located.HERE if same else Located.FOREIGN
    return Located.HERE if offset == first - 1 else Located.TRIMMED
