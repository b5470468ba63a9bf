"""Admission: a CONNECT comes in, a player's connection comes out (PROTOCOL 1.1 and 1.2).

The order of checks: limits (origin and address were checked by the transport), then token
or pid, then whether the session was revoked; only then is anything of a mailbox read.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from gateway.auth import Authentication
from gateway.connection import Connection, ConnectionLimits, Services, Sink, announce
from gateway.errors import ConnectRefused, StoreUnavailable
from gateway.mailbox import Located, Position
from gateway.messages import ConnectionId, SessionId, TrueId
from gateway.session import Gap, Outcome, ReplayStart, Session, SessionsFull, replay_start
from gateway.tokens import Pid, ResumeToken, Tokens

logger = logging.getLogger(__name__)

#: How long a refused client is asked to wait when the gateway is full or not ready, in seconds.
_RETRY_AFTER = 5.0


@dataclass(frozen=True, slots=True)
class AdmissionSettings:
    """What the YAML file says of admission: `resume.probe_timeout` (seconds) and limits."""

    probe_timeout: float
    connections_per_player: int
    connection: ConnectionLimits
    #: Told to clients in the event `session`.
    announced_limits: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """The auth payload of a CONNECT, checked for types."""

    token: str | None
    pid: str | None
    offset: str | None
    recovery: bool
    credentials: Mapping[str, object]

    @staticmethod
    def parse(auth: object) -> ConnectRequest:
        """Raises ConnectRefused (`bad_credentials`) that names the offending key."""
        if auth is None:
            auth = {}
        if not isinstance(auth, dict):
            raise ConnectRefused("bad_credentials", "auth must be an object")
        texts: dict[str, str | None] = {}
        for key in ("token", "pid", "offset"):
            value = auth.get(key)
            if value is not None and not isinstance(value, str):
                raise ConnectRefused("bad_credentials", f"auth.{key} must be a string")
            texts[key] = value
        recovery = auth.get("recovery", True)
        if not isinstance(recovery, bool):
            raise ConnectRefused("bad_credentials", "auth.recovery must be true or false")
        rest = {key: value for key, value in auth.items() if key not in (*texts, "recovery")}
        return ConnectRequest(texts["token"], texts["pid"], texts["offset"], recovery, rest)


@dataclass(frozen=True, slots=True)
class Admitted:
    """Answer the CONNECT with `pid`, then call `connection.start(greeting)`."""

    connection: Connection
    pid: str
    greeting: dict[str, object]


class Admission:
    """Admits connections. `new_session_id` returns a fresh random id."""

    def __init__(
        self,
        services: Services,
        authentication: Authentication,
        tokens: Tokens,
        settings: AdmissionSettings,
        new_session_id: Callable[[], SessionId],
    ) -> None:
        self._services = services
        self._authentication = authentication
        self._tokens = tokens
        self._settings = settings
        self._new_session_id = new_session_id
        self._next_connection_id = 1
        self._locks: dict[SessionId, tuple[asyncio.Lock, int]] = {}
        self.draining = False

    async def admit(self, auth: object, address: str, sink: Sink) -> Admitted:
        """Decide on a CONNECT. Raises ConnectRefused; then nothing has changed."""
        try:
            return await self._admit(auth, address, sink)
        except ConnectRefused as error:
            self._services.metrics.refused_connect(error.code)
            raise
        except StoreUnavailable:
            self._services.metrics.refused_connect("unavailable")
            raise ConnectRefused(
                "unavailable", "the gateway's store is not available", _RETRY_AFTER
            ) from None

    async def _admit(self, auth: object, address: str, sink: Sink) -> Admitted:
        if self.draining:
            raise ConnectRefused("draining", "the gateway is going down", _RETRY_AFTER)
        request = ConnectRequest.parse(auth)
        pid = self._tokens.verify_pid(request.pid) if request.pid is not None else None
        token, token_error = self._verify_token(request)
        if pid is not None and (token is None or token.session_id == pid.session_id):
            admitted = await self._resume_by_pid(request, pid, sink)
            if admitted is not None:
                return admitted
        if token_error is not None:
            raise token_error
        if token is not None:
            return await self._resume_by_token(request, token, sink)
        if pid is not None and not request.credentials:
            if await self._services.sessions.is_revoked(pid.session_id, math.inf):
                raise ConnectRefused("session_revoked", "the session was ended: log in again")
            raise ConnectRefused("token_expired", "the session has expired: log in again")
        identity = await self._authentication.authenticate(request.credentials, address)
        if self._services.registry.connections_of(identity.true_id):
            after = self._services.store.head(identity.true_id)
        else:
            after = await self._services.sessions.confirmed_of(identity.true_id)
        return await self._open(identity.true_id, identity.name, request, sink, after=after)

    def _verify_token(
        self, request: ConnectRequest
    ) -> tuple[ResumeToken | None, ConnectRefused | None]:
        if request.token is None:
            return None, None
        try:
            return self._tokens.verify_token(request.token), None
        except ConnectRefused as error:
            return None, error

    # The ways in

    async def _resume_by_pid(
        self, request: ConnectRequest, pid: Pid, sink: Sink
    ) -> Admitted | None:
        """The same client instance is back: whatever link it had is dead, fence it at once."""
        async with self._lock(pid.session_id):
            session = await self._services.sessions.session(pid.session_id)
            if session is None:
                return None
            self._check_connections(session)
            if self._live_connection(session) is not None:
                self._services.metrics.takeover("pid")
            # A client without trailing offsets cannot say what it has: trust the heartbeat.
            wanted = session.start if request.recovery else session.confirmed
            return self._resume(session, request, sink, wanted, pid=request.pid)

    async def _resume_by_token(
        self, request: ConnectRequest, token: ResumeToken, sink: Sink
    ) -> Admitted:
        async with self._lock(token.session_id):
            sessions = self._services.sessions
            session = await sessions.session(token.session_id)
            if session is None:
                return await self._reopen(request, token, sink)
            self._check_connections(session)
            issued = session.generation
            try:
                session.present(token.generation)
            except ConnectRefused:
                logger.warning(
                    "token_reused: session %s of player %s is revoked", session.id, session.true_id
                )
                await self._services.revocation.revoke(session, "token_reused")
                raise
            live = self._live_connection(session)
            if live is not None and await live.answers(self._settings.probe_timeout):
                # The original still holds the token that the newcomer copied.
                session.generation = issued
                return await self._fork(session, request, sink)
            if live is not None and await sessions.session(session.id) is None:
                # It was ended while its connection was probed.
                return await self._reopen(request, token, sink)
            if self._live_connection(session) is not None:
                self._services.metrics.takeover("token")
            sessions.save_session(session)
            return self._resume(session, request, sink, session.confirmed, pid=None)

    async def _reopen(self, request: ConnectRequest, token: ResumeToken, sink: Sink) -> Admitted:
        """The token is good but its session is gone: the player stays, the session is new."""
        if await self._services.sessions.is_revoked(token.session_id, token.issued_at):
            raise ConnectRefused("session_revoked", "the session was ended: log in again")
        confirmed = await self._services.sessions.confirmed_of(token.true_id)
        start = self._start(token.true_id, request, wanted=confirmed)
        outcome: Outcome = "store_reset"
        if token.epoch == self._services.store.epoch:
            outcome = "expired"
        # Without an offset nobody knows what the client had.
        gap = start.gap if request.offset is not None else Gap(None, None)
        return await self._open(
            token.true_id, token.name, request, sink, after=start.after, outcome=outcome, gap=gap
        )

    async def _fork(self, session: Session, request: ConnectRequest, sink: Sink) -> Admitted:
        """A duplicated tab: its original is alive, so the newcomer gets a session of its own."""
        head = self._services.store.head(session.true_id)
        start = self._start(session.true_id, request, wanted=head)
        return await self._open(
            session.true_id, session.name, request, sink, after=start.after, gap=start.gap
        )

    # Building the connection

    def _start(self, true_id: TrueId, request: ConnectRequest, wanted: int) -> ReplayStart:
        store = self._services.store
        presented = Position.parse(request.offset) if request.offset is not None else None
        located = store.locate(true_id, presented) if presented is not None else Located.FOREIGN
        return replay_start(
            presented=presented,
            presented_text=request.offset,
            located=located,
            wanted=wanted,
            first=store.first(true_id),
        )

    def _resume(
        self, session: Session, request: ConnectRequest, sink: Sink, wanted: int, pid: str | None
    ) -> Admitted:
        start = self._start(session.true_id, request, wanted)
        if pid is None:
            session.start = start.after
            session.pid = self._tokens.sign_pid(session.true_id, session.id)
        else:
            session.pid = pid
        if request.offset is not None and start.outcome == "resumed":
            session.confirm(start.after)
        return self._connect(
            session, request, sink, start.after, start.outcome, start.gap, resumed=True
        )

    async def _open(
        self,
        true_id: TrueId,
        name: str,
        request: ConnectRequest,
        sink: Sink,
        *,
        after: int,
        outcome: Outcome = "new",
        gap: Gap | None = None,
    ) -> Admitted:
        session_id = self._new_session_id()
        oldest = self._services.store.first(true_id) - 1
        if gap is None and after < oldest:
            gap = Gap(None, oldest - after)
        after = max(after, oldest)
        session = Session(
            id=session_id,
            true_id=true_id,
            name=name,
            pid=self._tokens.sign_pid(true_id, session_id),
            last_seen=self._services.clock(),
            start=after,
            confirmed=after,
        )
        self._check_connections(session)
        try:
            await self._services.sessions.add_session(session)
        except SessionsFull:
            self._services.metrics.limit_hit("sessions")
            raise ConnectRefused(
                "server_full", "too many sessions: try again later", _RETRY_AFTER
            ) from None
        return self._connect(session, request, sink, after, outcome, gap, resumed=False)

    def _check_connections(self, session: Session) -> None:
        limit = self._settings.connections_per_player
        others = [
            connection
            for connection in self._services.registry.connections_of(session.true_id)
            if connection.id != session.connection_id
        ]
        if limit and len(others) >= limit:
            self._services.metrics.limit_hit("connections_per_player")
            raise ConnectRefused(
                "rate_limited", f"a player has {limit} connections at most", _RETRY_AFTER
            )

    def _connect(
        self,
        session: Session,
        request: ConnectRequest,
        sink: Sink,
        after: int,
        outcome: Outcome,
        gap: Gap | None,
        *,
        resumed: bool,
    ) -> Admitted:
        services = self._services
        old = self._live_connection(session)
        connection = Connection(
            ConnectionId(self._next_connection_id),
            session,
            sink,
            services,
            self._settings.connection,
            after=after,
            offsets=request.recovery,
        )
        self._next_connection_id += 1
        now = services.clock()
        session.connection_id = connection.id
        session.last_seen = now
        services.registry.add(connection)
        services.metrics.resume(outcome)
        announce(
            services.presence.on_connected(session.true_id, connection.id, session.name, now),
            services.registry,
        )
        # Only now: a player with a newcomer in place is not seen to leave.
        if old is not None:
            old.close("taken_over", reconnect=False)
        greeting: dict[str, Any] = {
            "true_id": session.true_id,
            "session_id": session.id,
            "name": session.name,
            "token": self._tokens.sign_token(
                session.true_id,
                session.id,
                session.generation,
                services.store.epoch,
                session.name,
            ),
            "token_expires_in": self._tokens.lifetime,
            "resumed": resumed,
            "outcome": outcome,
            "missed": services.store.head(session.true_id) - after,
            "gap": None if gap is None else {"after": gap.after, "lost": gap.lost},
            "connections": len(services.registry.connections_of(session.true_id)),
            "limits": self._settings.announced_limits,
        }
        return Admitted(connection, session.pid, greeting)

    def _live_connection(self, session: Session) -> Connection | None:
        if session.connection_id is None:
            return None
        return self._services.registry.connection(session.connection_id)

    @asynccontextmanager
    async def _lock(self, session_id: SessionId) -> AsyncIterator[None]:
        """Serialise what happens to one session; the lock exists only while it is wanted."""
        lock, users = self._locks.get(session_id, (asyncio.Lock(), 0))
        self._locks[session_id] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[session_id]
            if users == 1:
                del self._locks[session_id]
            else:
                self._locks[session_id] = (lock, users - 1)
