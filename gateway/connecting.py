"""How a session gets its connection: kept in the store first, then put in place of the old one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Final

from gateway.admission_limits import Headroom
from gateway.connect_request import ConnectRequest
from gateway.connection import TAKEN_OVER, Connection, Services
from gateway.errors import ConnectRefused
from gateway.greeting import build_greeting
from gateway.limits import ConnectionLimits
from gateway.locks import KeyedLocks, player_key
from gateway.mailbox import Position
from gateway.messages import ConnectionId, SessionId, TrueId
from gateway.nodes import Arrival, Arrivals
from gateway.session import (
    NO_ATTRIBUTES,
    Gap,
    Outcome,
    ReplayStart,
    Session,
    missing_after,
    replay_start,
)
from gateway.sink import Sink
from gateway.store import SessionChanged, SessionsFull, View
from gateway.tokens import ResumeToken, Tokens

#: How long a refused client is asked to wait when the gateway is full or not ready, in seconds.
RETRY_AFTER: Final = 5.0


@dataclass(frozen=True, slots=True)
class AdmissionSettings:
    """What the YAML file says of admission: `resume.probe_timeout` (seconds) and limits."""

    probe_timeout: float
    connections_per_player: int
    new_sessions_per_minute: int
    connection: ConnectionLimits
    #: Told to clients in the event `session`.
    announced_limits: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Admitted:
    """Answer the CONNECT with `pid`, then call `connection.start(greeting)`."""

    connection: Connection
    pid: str
    greeting: dict[str, object]


class Connecting:
    """Connects sessions, new ones and those that are resumed. The caller holds their locks.

    What other nodes say of sessions meanwhile is to be told to `arrivals`.
    """

    def __init__(
        self, services: Services, tokens: Tokens, settings: AdmissionSettings, locks: KeyedLocks
    ) -> None:
        self._services = services
        self._tokens = tokens
        self._settings = settings
        self._connection_ids = count(1)
        self._headroom = Headroom(
            services, settings.connections_per_player, settings.new_sessions_per_minute
        )
        self._locks = locks
        self._nodes = services.store.nodes
        self.arrivals = Arrivals()

    def reconfigure(self, settings: AdmissionSettings) -> None:
        """Connect by other settings from now on."""
        self._headroom.reconfigure(
            settings.connections_per_player, settings.new_sessions_per_minute
        )
        self._settings = settings

    # Checks

    async def check_ban(self, true_id: TrueId) -> None:
        """Raise ConnectRefused (`banned`) if the player may not connect now."""
        now = self._services.clock()
        ban = await self._services.sessions.ban_of(true_id, now)
        if ban is not None:
            raise ban.refusal(now)

    async def check_revoked(self, token: ResumeToken) -> None:
        """Raise ConnectRefused (`session_revoked`) if the token is worth nothing any more."""
        sessions = self._services.sessions
        if await sessions.is_revoked(token.session_id, token.true_id, token.issued_at):
            raise session_revoked()

    def check_connections(self, session: Session, remote: int) -> None:
        """See Headroom.check_connections."""
        self._headroom.check_connections(session, remote)

    # Building the connection

    async def start(
        self,
        true_id: TrueId,
        request: ConnectRequest,
        wanted: int | None,
        session_id: SessionId | None = None,
    ) -> tuple[ReplayStart, View]:
        """Decide where replay starts; with `wanted` None after what any session confirmed."""
        presented = Position.parse(request.offset) if request.offset is not None else None
        view = await self._services.store.view(true_id, presented, session_id)
        start = replay_start(
            presented=presented,
            presented_text=request.offset,
            located=view.located,
            wanted=min(view.confirmed, view.head) if wanted is None else wanted,
            first=view.first,
            hole=view.hole,
        )
        return start, view

    async def resume(
        self,
        session: Session,
        changed: Session,
        request: ConnectRequest,
        sink: Sink,
        start: ReplayStart,
        view: View,
        means: str,
    ) -> Admitted | None:
        """Connect a session, changed to `changed`; None when the store has dropped it meanwhile.

        Raises SessionChanged when another node has changed it meanwhile or banned the player.
        """
        connection_id = ConnectionId(next(self._connection_ids))
        sessions = self._services.sessions
        now = self._services.clock()
        kept = replace(changed, connection_id=connection_id, last_seen=now)
        with self.arrivals.enter(session.true_id, session.id) as arrival:
            try:
                # Kept before the client learns of it: after a crash its token must still be good.
                if not await sessions.update_session(kept):
                    return None
            except SessionChanged:
                raise
            except BaseException:
                # It may be in use by now: it is not.
                sessions.save_session(session)
                raise
            elsewhere = session.elsewhere and session.node != self._nodes.id
            if self.live_connection(session) is not None or elsewhere:
                self._services.metrics.takeover(means)
            session.generation, session.start, session.pid = kept.generation, kept.start, kept.pid
            session.version = kept.version
            session.confirm(start.arrived)
            remote = view.remote - elsewhere
            admitted = self._connect(session, connection_id, request, sink, view, start, remote)
            return self._check_arrival(arrival, admitted)

    async def open(
        self,
        session_id: SessionId,
        true_id: TrueId,
        name: str,
        method: str,
        request: ConnectRequest,
        sink: Sink,
        view: View,
        *,
        after: int,
        outcome: Outcome = "new",
        gap: Gap | None = None,
        generation: int = 1,
        token: ResumeToken | None = None,
        attributes: str = NO_ATTRIBUTES,
    ) -> Admitted:
        """Add a session and connect it.

        Raises SessionChanged when another node has opened it meanwhile, or ended it, or has
        banned the player.
        """
        oldest = view.first - 1
        if gap is None and after < oldest:
            gap = Gap(None, oldest - after)
        after = max(after, oldest)
        gap = gap or missing_after(after, view.hole)
        connection_id = ConnectionId(next(self._connection_ids))
        session = Session(
            id=session_id,
            true_id=true_id,
            name=name,
            method=method,
            pid=self.sign_pid(true_id, session_id, generation),
            last_seen=self._services.clock(),
            start=after,
            confirmed=after,
            generation=generation,
            opened=generation,
            attributes=attributes if token is None else token.attributes,
            connection_id=connection_id,
        )
        # Whoever bans or revokes a player then looks for what is open: it is open by then, or
        # it sees the ban.
        async with self._locks.hold(player_key(true_id)):
            await self.check_ban(true_id)
            if token is not None:
                await self.check_revoked(token)
            self._headroom.check_connections(session, view.remote)
            self._headroom.check_new_sessions(request.address)
            with self.arrivals.enter(true_id, session_id) as arrival:
                try:
                    issued_at = math.inf if token is None else token.issued_at
                    await self._services.sessions.add_session(session, issued_at)
                except SessionsFull:
                    self._services.metrics.limit_hit("sessions")
                    raise ConnectRefused(
                        "server_full", "too many sessions: try again later", RETRY_AFTER
                    ) from None
                except SessionChanged:
                    raise
                except BaseException:
                    # It may be kept by now, in use: it is not.
                    session.connection_id = None
                    self._services.sessions.save_session(session)
                    raise
                start = ReplayStart(after, outcome, gap)
                admitted = self._connect(
                    session, connection_id, request, sink, view, start, view.remote, opened=True
                )
                return self._check_arrival(arrival, admitted)

    def _check_arrival(self, arrival: Arrival, admitted: Admitted) -> Admitted:
        """Close the connection if other nodes have said so before it was there.

        Raises ConnectRefused then.
        """
        connection = admitted.connection
        ended = arrival.ended
        if ended is None and arrival.fenced > connection.session.version:
            # Its client has left this connection, and has another one by now.
            ended = TAKEN_OVER
        if ended is not None:
            connection.on_closed(ended, final=True)
            # Who comes again is told what holds by then.
            raise ConnectRefused("unavailable", "the session was just ended", cut=True)
        return admitted

    def _connect(
        self,
        session: Session,
        connection_id: ConnectionId,
        request: ConnectRequest,
        sink: Sink,
        view: View,
        start: ReplayStart,
        remote: int,
        *,
        opened: bool = False,
    ) -> Admitted:
        """Connect a session, which the store says is here now, and close what it had here.

        `remote` is how many connections its player has at other nodes; `opened` tells that the
        store did not have the session before.
        """
        services = self._services
        after = start.after
        # Found by the session's id: one that was opened again has forgotten its connection.
        siblings = services.registry.connections_of(session.true_id)
        old = [each for each in siblings if each.session.id == session.id]
        connection = Connection(
            connection_id,
            session,
            sink,
            services,
            self._settings.connection,
            after=after,
            offsets=request.recovery,
            hole=view.hole,
            last=_id_at(after, request.offset),
        )
        now = services.clock()
        session.connection_id = connection.id
        session.last_seen = now
        services.sessions.save_session(session)
        services.registry.add(connection)
        services.rooms.on_connected(session.true_id)
        missed = view.head - after - sum(offset > after for offset in view.skipped)
        services.metrics.resume(start.outcome, missed)
        services.presence.on_connected(connection, session.id, session.name)
        # Only now: a player with a newcomer in place is not seen to leave.
        for each in old:
            each.close(TAKEN_OVER, reconnect=False)
        greeting = build_greeting(
            session,
            self._sign_token(session),
            self._tokens.lifetime,
            start,
            resumed=not opened and start.outcome != "new",
            missed=missed,
            connections=len(services.registry.connections_of(session.true_id)) + remote,
            limits=self._settings.announced_limits,
        )
        return Admitted(connection, session.pid, greeting)

    def _sign_token(self, session: Session) -> str:
        return self._tokens.sign_session(session, self._services.store.epoch_of(session.true_id))

    def sign_pid(self, true_id: TrueId, session_id: SessionId, opened: int) -> str:
        """Return the pid of a session in the present epoch of its player."""
        epoch = self._services.store.epoch_of(true_id)
        return self._tokens.sign_pid(true_id, session_id, opened, epoch)

    async def answers(self, session: Session) -> bool:
        """Probe the connection that a session has, at whichever node."""
        timeout = self._settings.probe_timeout
        live = self.live_connection(session)
        if live is not None:
            return await live.answers(timeout)
        return self._nodes.has(session) and await self._nodes.answers(session, timeout)

    def live_connection(self, session: Session) -> Connection | None:
        """Return the connection that a session has on this node."""
        if session.connection_id is None:
            return None
        return self._services.registry.connection(session.connection_id)


def _id_at(offset: int, presented: str | None) -> bytes:
    """Return the id that a client presented, if it is the one at this offset; else nothing."""
    position = Position.parse(presented) if presented is not None else None
    return str(position).encode() if position is not None and position.offset == offset else b""


def session_revoked() -> ConnectRefused:
    """Return the refusal of a session that was revoked."""
    return ConnectRefused("session_revoked", "the session was ended: log in again")
