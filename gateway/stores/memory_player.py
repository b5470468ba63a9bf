"""What the memory store keeps of a player, and how a room's message gets to many."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.mailbox import OVERHEAD, Hole, Mailbox, Retention, RoomDraft, StoredMessage
from gateway.messages import SessionId, TrueId
from gateway.session import Session
from gateway.store import Ban, Copies

#: What a remembered idempotency key counts in the store's bytes.
KEY_BYTES: Final = 128
#: A player's id, or a room's name in a tuple of its own.
Target = TrueId | tuple[str]


@dataclass(slots=True)
class Player:
    """A mailbox, and what decides how long it is kept."""

    true_id: TrueId
    mailbox: Mailbox = field(default_factory=Mailbox)
    sessions: dict[SessionId, Session] = field(default_factory=dict)
    # Idempotency keys of the messages this player sent: key -> (time, target, message id).
    sent: OrderedDict[str, tuple[float, Target, bytes]] = field(default_factory=OrderedDict)
    confirmed: int = 0
    permanent: bool = False
    ban: Ban | None = None
    hole: Hole | None = None

    def read_by_all(self) -> int:
        """Return the offset up to which no session needs a message any more."""
        return min((each.confirmed for each in self.sessions.values()), default=self.confirmed)


def put_copies(
    draft: RoomDraft,
    targets: Mapping[TrueId, Player],
    epoch: bytes,
    nonce: int,
    limits: Retention,
    now: float,
) -> tuple[list[Copies], bytes | None, list[Player]]:
    """Put a message into these mailboxes.

    Where mailboxes stand at one offset it is one object. Returns also the id of the sender's
    own copy, and the players whose mailboxes are to be trimmed now.
    """
    body = draft.body
    size = len(body) + OVERHEAD
    most = limits.max_messages or math.inf
    most_bytes = limits.max_bytes or math.inf
    oldest = now - limits.retention if limits.retention else -math.inf
    tail = b".%x" % nonce
    places: dict[int, Copies] = {}
    own: list[Copies] = []
    crowded = []
    for true_id, player in targets.items():
        offset = player.mailbox.head + 1
        copies = places.get(offset)
        if copies is None or true_id == draft.sender:
            skip = draft.skip if true_id == draft.sender else None
            copies = (
                StoredMessage(offset, b"%b.%d%b" % (epoch, offset, tail), body, now, skip),
                [],
            )
            if true_id == draft.sender:
                own.append(copies)
            else:
                places[offset] = copies
        message, true_ids = copies
        true_ids.append(true_id)
        if player.mailbox.put(message, size, most, most_bytes, oldest):
            crowded.append(player)
    return [*own, *places.values()], own[0][0].id if own else None, crowded
