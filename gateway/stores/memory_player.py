"""What the memory store keeps of a player."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from gateway.mailbox import Hole, Mailbox
from gateway.messages import SessionId, TrueId
from gateway.session import Session
from gateway.store import Ban

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
