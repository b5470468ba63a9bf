"""What the memory store keeps of a player, and how a room's message gets to many."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from gateway.mailbox import OVERHEAD, Hole, Retention, RoomDraft, StoredMessage
from gateway.messages import SessionId, TrueId
from gateway.session import Session
from gateway.store import Ban, Copies
from gateway.stores.memory_mailbox import Mailbox

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


def players_of(players: dict[TrueId, Player], members: Iterable[TrueId]) -> dict[TrueId, Player]:
    """Return the members of a room with what is kept of them."""
    return {true_id: players[true_id] for true_id in members}


def put_copies(
    draft: RoomDraft,
    targets: dict[TrueId, Player],
    epoch: bytes,
    nonce: int,
    limits: Retention,
    now: float,
) -> tuple[list[Copies], bytes | None, list[Player]]:
    """Put a message into these mailboxes.

    Where mailboxes stand at one offset it is one object. Returns also the id of the sender's
    own copy, and the players whose mailboxes are to be trimmed now.
    """
    body, sender = draft.body, draft.sender
    size = len(body) + OVERHEAD
    most = limits.max_messages or math.inf
    most_bytes = limits.max_bytes or math.inf
    oldest = now - limits.retention if limits.retention else -math.inf
    tail = b".%x" % nonce
    places: dict[int, Copies] = {}
    own: list[Copies] = []
    crowded: list[Player] = []
    for true_id, player in targets.items():
        mailbox = player.mailbox
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
        if mailbox.put(message, size, most, most_bytes, oldest):
            crowded.append(player)
    return [*own, *places.values()], own[0][0].id if own else None, crowded
