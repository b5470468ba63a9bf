"""What the operator's page shows and does. All that it does is logged, with the key's name."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta

from gateway.api_types import (
    BanRequest,
    BanState,
    PlayerInfo,
    PlayersPage,
    Revoked,
    SendAnswer,
    SendRequest,
)
from gateway.backend import Backend
from gateway.connection import Services
from gateway.errors import RequestRefused
from gateway.history import History, Samples
from gateway.messages import ListPlayers, SessionId, TrueId
from gateway.nodes import NodeId

logger = logging.getLogger(__name__)

#: Ids of players are visible ASCII; what is none cannot stand in a log line.
_ID: Final = re.compile(r"[!-~]{1,128}")


class AskState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which samples the page has already."""

    after: Annotated[int, Meta(ge=0)] = 0


class AskRooms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which page of rooms; `offset` counts from the largest one."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 20
    offset: Annotated[int, Meta(ge=0)] = 0


class State(msgspec.Struct, frozen=True):
    """The gateway now; `trouble` says why it takes no new players, `started` and `time` when."""

    version: str
    started: float
    time: float
    trouble: str | None
    caller: str
    gauges: dict[str, float]
    counts: dict[str, dict[str, int]]
    samples: Samples


class RoomSize(msgspec.Struct, frozen=True):
    """A room and how many members it has."""

    room: str
    members: int


class RoomsPage(msgspec.Struct, frozen=True):
    """Rooms, the largest first; `rooms` is how many there are in all."""

    rooms: int
    offset: int
    largest: tuple[RoomSize, ...]


class ConnectionInfo(msgspec.Struct, frozen=True):
    """An open connection of a player."""

    id: int
    session_id: str
    hidden: bool


class NodeInfo(msgspec.Struct, frozen=True):
    """Another node, where other nodes reach it, and the sessions that have a connection there."""

    node: str
    address: str | None
    session_ids: tuple[str, ...]


class PlayerView(msgspec.Struct, frozen=True):
    """A player, as the API tells it, their open connections at this node, and where others are.

    Those at other nodes are as the store has them: there may be more for a moment.
    """

    player: PlayerInfo
    open: tuple[ConnectionInfo, ...]
    elsewhere: tuple[NodeInfo, ...]


class Kicked(msgspec.Struct, frozen=True):
    """So many connections of the player were closed."""

    ok: Literal[True]
    true_id: str
    connections: int


class Admin:
    """The operator's calls. `caller` is the name of the API key that was logged in with.

    All raise RequestRefused, and StoreUnavailable. `trouble` returns why the gateway takes no new
    players, or None.
    """

    def __init__(
        self,
        services: Services,
        backend: Backend,
        history: History,
        trouble: Callable[[], str | None],
        version: str,
    ) -> None:
        self._services = services
        self._backend = backend
        self._history = history
        self._trouble = trouble
        self._version = version
        self._started = services.clock()

    # Shown

    async def state(self, caller: str, request: AskState) -> State:
        """Return all figures, and the samples that the page does not have."""
        metrics = self._services.metrics
        return State(
            self._version,
            self._started,
            self._services.clock(),
            self._trouble(),
            caller,
            metrics.gauges(),
            metrics.counts(),
            self._history.since(request.after),
        )

    async def rooms(self, request: AskRooms) -> RoomsPage:
        """Return a page of rooms, the largest first."""
        rooms = self._services.rooms
        # What lies behind the last room need not be looked for.
        offset = min(request.offset, len(rooms))
        found = rooms.largest(offset + request.limit)[offset:]
        return RoomsPage(len(rooms), offset, tuple(RoomSize(*each) for each in found))

    async def players(self, request: ListPlayers) -> PlayersPage:
        """Return a page of who is here or away."""
        return await self._backend.players(request)

    async def player(self, true_id: TrueId) -> PlayerView:
        """Return what is known of a player."""
        player = await self._backend.player(true_id)
        connections = self._services.registry.connections_of(true_id)
        return PlayerView(
            player,
            tuple(ConnectionInfo(each.id, each.session.id, each.hidden) for each in connections),
            await self._elsewhere(true_id),
        )

    async def _elsewhere(self, true_id: TrueId) -> tuple[NodeInfo, ...]:
        services = self._services
        nodes = services.store.nodes
        if nodes.alone:
            return ()
        found: dict[str, list[str]] = {}
        for session in await services.sessions.sessions_of(true_id):
            if nodes.has(session):
                found.setdefault(session.node, []).append(session.id)
        return tuple(
            NodeInfo(node, nodes.address_of(NodeId(node)), tuple(sessions))
            for node, sessions in sorted(found.items())
        )

    # Done

    async def kick(self, caller: str, true_id: TrueId) -> Kicked:
        """Close a player's connections; their sessions stay, so they may come back."""
        connections = await self._backend.kick(_checked(true_id))
        extra = {"action": "kick", "api_key": caller, "true_id": true_id}
        logger.info("%s kicked player %s: %d", caller, true_id, connections, extra=extra)
        return Kicked(True, true_id, connections)

    async def revoke(self, caller: str, true_id: TrueId) -> Revoked:
        """End all sessions of a player."""
        revoked = await self._backend.revoke(_checked(true_id))
        extra = {"action": "revoke", "api_key": caller, "true_id": true_id}
        logger.info("%s revoked the sessions of player %s", caller, true_id, extra=extra)
        return revoked

    async def revoke_session(self, caller: str, true_id: TrueId, session_id: SessionId) -> Revoked:
        """End one session of a player."""
        revoked = await self._backend.revoke_session(_checked(true_id), session_id)
        about = {"true_id": true_id, "session_id": session_id}
        extra = {"action": "revoke", "api_key": caller, **about}
        logger.info("%s revoked session %s of player %s", caller, session_id, true_id, extra=extra)
        return revoked

    async def ban(self, caller: str, true_id: TrueId, request: BanRequest) -> BanState:
        """Keep a player out."""
        state = await self._backend.ban(_checked(true_id), request)
        until = "for good" if state.until is None else f"until {state.until:.0f}"
        extra = {"action": "ban", "api_key": caller, "true_id": true_id}
        logger.info("%s banned player %s %s: %s", caller, true_id, until, state.reason, extra=extra)
        return state

    async def lift_ban(self, caller: str, true_id: TrueId) -> BanState:
        """Let a player in again."""
        state = await self._backend.lift_ban(_checked(true_id))
        extra = {"action": "unban", "api_key": caller, "true_id": true_id}
        logger.info("%s lifted the ban of player %s", caller, true_id, extra=extra)
        return state

    async def announce(self, caller: str, request: SendRequest) -> SendAnswer:
        """Send a message to a player, the members of a room, or all."""
        answer = await self._backend.send(f"{caller} at /admin/", request)
        about: dict[str, str] = {}
        target = "all players"
        if request.target_id is not UNSET:
            about["true_id"], target = request.target_id, f"player {request.target_id}"
        elif request.room is not UNSET:
            about["room"], target = request.room, f"room {request.room!a}"
        extra = {"action": "announce", "api_key": caller, **about}
        logger.info("%s sent %d bytes to %s", caller, len(bytes(request.data)), target, extra=extra)
        return answer


def _checked(true_id: TrueId) -> TrueId:
    if not _ID.fullmatch(true_id):
        raise RequestRefused("bad_request", "true_id must be visible ASCII", "true_id")
    return true_id
