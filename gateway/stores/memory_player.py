"""What the memory store keeps of a player, and how a room's message gets to many."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from gateway.mailbox import OVERHEAD, Hole, Retention, RoomDraft, StoredMessage
from gateway.messages import SessionId, TrueId
from gateway.session import Session
from gateway.store import Ban, Copies
from gateway.stores.memory_mailbox import Bounds, Mailbox

#: What a remembered idempotency key counts in the store's bytes.
KEY_BYTES: Final = 128
#: A player's id, or a room's name in a tuple of its own.
Target = TrueId | tuple[str]


class Player:
    """A mailbox, and what decides how long it is kept."""

    __slots__ = (
        "ban",
        "confirmed",
        "hole",
        "mailbox",
        "permanent",
        "sent",
        "sessions",
        "true_id",
    )

    def __init__(self, true_id: TrueId) -> None:
        self.true_id = true_id
        self.mailbox = Mailbox()
        self.sessions: dict[SessionId, Session] = {}
        #: Idempotency keys of what this player sent: key -> (time, target, message id).
        self.sent: OrderedDict[str, tuple[float, Target, bytes]] = OrderedDict()
        self.confirmed = 0
        self.permanent = False
        self.ban: Ban | None = None
        self.hole: Hole | None = None

    def read_by_all(self) -> int:
        """Return the offset up to which no session needs a message any more."""
        return min((each.confirmed for each in self.sessions.values()), default=self.confirmed)


def players_of(players: dict[TrueId, Player], members: Iterable[TrueId]) -> list[Player]:
    """Return what is kept of the members of a room."""
    return [players[true_id] for true_id in members]


class Trimmed:
    """What went from mailboxes to keep them within their limits."""

    __slots__ = ("bytes", "expired", "unread")

    def __init__(self) -> None:
        self.bytes = 0
        #: How many made room before any session had confirmed them.
        self.unread = 0
        #: The same of those that were too old, and whose they were.
        self.expired: list[tuple[TrueId, int]] = []

    def trim(self, player: Player, bounds: Bounds) -> None:
        """Keep a mailbox within its limits."""
        mailbox = player.mailbox
        before = mailbox.size
        expired, trimmed = mailbox.trim(bounds)
        if expired or trimmed:
            self.bytes += before - mailbox.size
            # The oldest went first; of what went, the newest ones may be unread.
            unread = mailbox.first - 1 - player.confirmed
            self.unread += max(0, min(trimmed, unread))
            if (count := min(expired, unread - trimmed)) > 0:
                self.expired.append((player.true_id, count))


def trim(player: Player, limits: Retention, now: float) -> Trimmed:
    """Keep a mailbox within its limits."""
    trimmed = Trimmed()
    trimmed.trim(player, Bounds(limits, now))
    return trimmed


def put_copies(
    draft: RoomDraft,
    targets: list[Player],
    epoch: bytes,
    nonce: int,
    limits: Retention,
    now: float,
) -> tuple[list[Copies], bytes | None, Trimmed]:
    """Put a message into these mailboxes.

    Where mailboxes stand at one offset it is one object. Returns also the id of the sender's
    own copy, and what made room for the message.
    """
    body, sender = draft.body, draft.sender
    size = len(body) + OVERHEAD
    bounds = Bounds(limits, now)
    trimmed = Trimmed()
    tail = b".%x" % nonce
    places: dict[int, Copies] = {}
    own: list[Copies] = []
    for player in targets:
        true_id, mailbox = player.true_id, player.mailbox
        offset = mailbox.head + 1
        copies = places.get(offset)
        if copies is None or true_id == sender:
            skip = draft.skip if true_id == sender else None
            copies = (
                StoredMessage(offset, b"%b.%d%b" % (epoch, offset, tail), body, now, skip),
                [],
            )
            if true_id == sender:
                own.append(copies)
            else:
                places[offset] = copies
        message, true_ids = copies
        true_ids.append(true_id)
        if mailbox.put(message, offset, size, bounds):
            trimmed.trim(player, bounds)
    return [*own, *places.values()], own[0][0].id if own else None, trimmed
