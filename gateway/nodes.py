"""Several gateways on one store: how a node reaches players who are connected to others.

A node is one running gateway. Services act on their own connections and ask `Nodes` for what
is elsewhere. What a store keeps it also tells the nodes concerned: messages, takeovers, sessions
that end. That, and what other nodes ask of this one, comes in through `Inbound`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple, NewType, Protocol, TypeAlias

from gateway.mailbox import StoredMessage
from gateway.messages import ConnectionId, SessionId, TrueId
from gateway.session import Session

#: Names one run of a gateway; another run of it is another node.
NodeId = NewType("NodeId", str)
#: Where a session is that no node has a connection of.
NOWHERE: Final = NodeId("")
#: Of messages that are stored nowhere and have the same, only the latest matters: who sent it,
#: the room, and the sender's key.
VolatileKey: TypeAlias = tuple[TrueId | None, str, str]


#: Tells whether something is about a player.
Concerns = Callable[[TrueId], bool]


class Place(NamedTuple):
    """Where a connection is in its player's mailbox: behind the message with this id.

    The id is empty where it is not known.
    """

    true_id: TrueId
    connection_id: ConnectionId
    offset: int
    message_id: bytes


class Inbound(Protocol):
    """What other nodes ask of this one. Nothing here blocks or raises."""

    def on_message(self, message: StoredMessage, true_ids: Sequence[TrueId]) -> None:
        """A message was stored for these players."""

    def on_holes(self, true_ids: Sequence[TrueId]) -> None:
        """A message was not stored for these players, whose mailboxes are full."""

    def on_volatile(self, true_id: TrueId, array: bytes) -> None:
        """The event of a message that is stored nowhere is for this player."""

    def on_room_volatile(self, room: str, array: bytes, key: VolatileKey | None) -> None:
        """The event of a message that is stored nowhere is for all members of a room."""

    def on_membership(self, room: str, true_id: TrueId, joined: bool, members: int) -> None:
        """A player came into a room or left it through another node; so many are in it now."""

    def on_fenced(self, true_id: TrueId, session_id: SessionId, version: int) -> None:
        """Another node has the session's connection, from this version of the session on."""

    def on_ended(self, true_id: TrueId, session_id: SessionId | None, reason: str) -> None:
        """A session, or with None every one, of this player is to be disconnected for good."""

    async def answers(self, true_id: TrueId, session_id: SessionId, timeout: float) -> bool:
        """Tell whether the session's client answers a ping within `timeout` seconds."""

    def on_doubt(self, concerns: Concerns) -> None:
        """Messages for these players may be missed, and the store may have lost some."""

    def positions(self, concerns: Concerns) -> Iterable[Place]:
        """Return where the connections of these players are in their mailboxes."""

    def on_known(self, place: Place, head: int | None) -> None:
        """The store has what was written up to there, and this head; with None it has not."""

    def on_session_lost(self, session: Session) -> None:
        """The store does not have the session here any more, and nobody said why."""

    def on_cut_off(self) -> None:
        """The store is out of reach for so long that others may take this node for dead."""

    def on_back(self) -> None:
        """It is in reach again."""


class NodeState(NamedTuple):
    """How it is with the nodes, as this one knows.

    `live` and `dead` (lately, without leaving) are numbers of nodes; `duties` of partitions that
    this one sees to; `behind` of those that it does not hear or has not caught up with. `pruned`
    is how many routes to nodes were taken away because they did not hear.
    """

    live: int
    dead: int
    duties: int
    behind: int
    pruned: int


class Nodes(Protocol):
    """The other nodes, as the services of this one see them."""

    @property
    def id(self) -> NodeId:
        """This node's own id."""

    @property
    def alone(self) -> bool:
        """True where no other node can ever be: then nothing else need be asked."""

    @property
    def state(self) -> NodeState:
        """How many nodes there are, and what this one does."""

    @property
    def others(self) -> Collection[NodeId]:
        """The other nodes that were alive when that was known last."""

    @property
    def in_touch(self) -> bool:
        """Whether the store has answered this node just now: sooner false than it is cut off."""

    @property
    def trouble(self) -> str | None:
        """Why this node should get no players now, in words; None when it may."""

    def attach(self, inbound: Inbound) -> None:
        """Hand to `inbound` what other nodes ask of this one; called once, before all else."""

    def has(self, session: Session) -> bool:
        """Tell whether another node that is alive has the session's connection."""

    async def answers(self, session: Session, timeout: float) -> bool:
        """Probe a client at another node: see Inbound.answers. No word is a no."""

    def send_volatile(self, true_id: TrueId, array: bytes, done: Callable[[int], None]) -> None:
        """Hand an event to the player's connections elsewhere; `done` is told how many."""

    async def disconnect(self, true_id: TrueId, reason: str) -> int:
        """Close the player's connections elsewhere for good; return how many these are.

        Raises StoreUnavailable.
        """

    def publish_volatile(
        self, room: str, array: bytes, key: VolatileKey | None, done: Callable[[int], None]
    ) -> None:
        """Hand an event to members of a room elsewhere; `done` is told how many are there.

        Of two with the same key only the latest matters.
        """

    def show_room(self, room: str, members: int) -> None:
        """Let the others know how many members of a room have connections here."""

    def announce(self, address: str) -> None:
        """Tell the others, from `Store.open` on, where they reach this node: HOST:PORT."""

    def address_of(self, node: NodeId) -> str | None:
        """Return where a node is reached, also one that has left but may still be there.

        None if that is not known.
        """

    async def leave(self) -> None:
        """Give up duties to the others; this node's players may stay on for a while."""


class Alone:
    """There are no other nodes: the store belongs to one process."""

    id: Final = NOWHERE
    alone: Final = True
    trouble: Final = None
    others: Final[Collection[NodeId]] = ()
    in_touch: Final = True
    state: Final = NodeState(1, 0, 0, 0, 0)

    def attach(self, inbound: Inbound) -> None:
        """See Nodes.attach: nobody asks."""

    def has(self, session: Session) -> bool:
        """See Nodes.has."""
        return False

    async def answers(self, session: Session, timeout: float) -> bool:
        """See Nodes.answers."""
        return False

    def send_volatile(self, true_id: TrueId, array: bytes, done: Callable[[int], None]) -> None:
        """See Nodes.send_volatile."""
        done(0)

    async def disconnect(self, true_id: TrueId, reason: str) -> int:
        """See Nodes.disconnect."""
        return 0

    def publish_volatile(
        self, room: str, array: bytes, key: VolatileKey | None, done: Callable[[int], None]
    ) -> None:
        """See Nodes.publish_volatile."""
        done(0)

    def show_room(self, room: str, members: int) -> None:
        """See Nodes.show_room."""

    def announce(self, address: str) -> None:
        """See Nodes.announce."""

    def address_of(self, node: NodeId) -> str | None:
        """See Nodes.address_of."""
        return None

    async def leave(self) -> None:
        """See Nodes.leave."""


class Arrival:
    """A session on its way in: what other nodes say of it before it has a connection."""

    __slots__ = ("ended", "fenced")

    def __init__(self) -> None:
        #: The newest version that another node has said to have.
        self.fenced = 0
        #: Why the session is to be disconnected.
        self.ended: str | None = None


class Arrivals:
    """Sessions on their way in.

    The store says that this node has a session's connection a moment before the node knows
    it: in between, other nodes may speak of a connection that is not there yet.
    """

    def __init__(self) -> None:
        self._arrivals: dict[TrueId, list[tuple[SessionId, Arrival]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._arrivals.values()))

    @contextmanager
    def enter(self, true_id: TrueId, session_id: SessionId) -> Iterator[Arrival]:
        """Watch what is said of a session until the block ends."""
        arrival = Arrival()
        entry = (session_id, arrival)
        self._arrivals.setdefault(true_id, []).append(entry)
        try:
            yield arrival
        finally:
            entries = self._arrivals[true_id]
            entries.remove(entry)
            if not entries:
                del self._arrivals[true_id]

    def on_fenced(self, true_id: TrueId, session_id: SessionId, version: int) -> None:
        """See Inbound.on_fenced."""
        for each, arrival in self._arrivals.get(true_id, ()):
            if each == session_id:
                arrival.fenced = max(arrival.fenced, version)

    def on_ended(self, true_id: TrueId, session_id: SessionId | None, reason: str) -> None:
        """See Inbound.on_ended."""
        for each, arrival in self._arrivals.get(true_id, ()):
            if session_id in (None, each):
                arrival.ended = reason
