"""Admission: a CONNECT comes in, a player's connection comes out (PROTOCOL 1.1 and 1.2).

The order of checks: limits (origin and address were checked by the transport), then token
or pid, then whether the session was revoked or its account removed, then the limits on new
sessions; only then is anything of a mailbox read.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count

from gateway.admission_limits import Headroom
from gateway.auth import Authentication
from gateway.connect_request import ConnectRequest
from gateway.connection import Connection, Services, Sink
from gateway.errors import ConnectRefused, StoreUnavailable
from gateway.greeting import build_greeting
from gateway.limits import ConnectionLimits
from gateway.locks import KeyedLocks, player_key
from gateway.mailbox import Position
from gateway.messages import ConnectionId, SessionId, TrueId
from gateway.session import (
    NO_ATTRIBUTES,
    Gap,
    Outcome,
    ReplayStart,
    Session,
    missing_after,
    replay_start,
)
from gateway.store import SessionsFull, View
from gateway.tokens import Pid, ResumeToken, Tokens

logger = logging.getLogger(__name__)

#: How long a refused client is asked to wait when the gateway is full or not ready, in seconds.
_RETRY_AFTER = 5.0


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


class Admission:
    """Admits connections. `new_session_id` returns a fresh random id.

    A session is admitted and revoked under its lock: what is under way is closed with it, too.
    """

    def __init__(
        self,
        services: Services,
        authentication: Authentication,
        tokens: Tokens,
        settings: AdmissionSettings,
        new_session_id: Callable[[], SessionId],
        locks: KeyedLocks,
    ) -> None:
        self._services = services
        self._authentication = authentication
        self._tokens = tokens
        self._settings = settings
        self._new_session_id = new_session_id
        self._connection_ids = count(1)
        self._headroom = Headroom(
            services, settings.connections_per_player, settings.new_sessions_per_minute
        )
        self._locks = locks
        self.draining = False

    def reconfigure(self, settings: AdmissionSettings, authentication: Authentication) -> None:
        """Admit by other settings and methods from now on."""
        self._headroom.reconfigure(
            settings.connections_per_player, settings.new_sessions_per_minute
        )
        self._settings = settings
        self._authentication = authentication

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
            back = isinstance(auth, Mapping) and "pid" in auth
            raise ConnectRefused("draining", "the gateway is going down", _RETRY_AFTER, cut=back)
        request = ConnectRequest.parse(auth, address)
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
            sessions = self._services.sessions
            if await sessions.is_revoked(pid.session_id, pid.true_id, math.inf):
                raise _revoked()
            raise ConnectRefused("token_expired", "the session has expired: log in again")
        identity = await self._authentication.authenticate(request.credentials, address)
        await self._check_ban(identity.true_id)
        store = self._services.store
        if self._authentication.is_permanent(identity.method):
            await store.know([identity.true_id])
        view = await store.view(identity.true_id)
        here = self._services.registry.connections_of(identity.true_id)
        session_id = self._new_session_id()
        async with self._locks.hold(session_id):
            return await self._open(
                session_id,
                identity.true_id,
                identity.name,
                identity.method,
                request,
                sink,
                view,
                after=view.head if here else min(view.confirmed, view.head),
                attributes=identity.attributes,
            )

    async def _check_ban(self, true_id: TrueId) -> None:
        now = self._services.clock()
        ban = await self._services.sessions.ban_of(true_id, now)
        if ban is not None:
            raise ban.refusal(now)

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
        async with self._locks.hold(pid.session_id):
            session = await self._session(pid.session_id, pid.true_id)
            epoch = self._services.store.epoch_of(pid.true_id)
            # A session that was opened again has another pid, or its client would take what it
            # holds for complete.
            if session is None or (session.opened, epoch) != (pid.opened, pid.epoch):
                return None
            await self._check_ban(session.true_id)
            self._headroom.check_connections(session)
            # A client without trailing offsets cannot say what it has: trust the heartbeat.
            wanted = session.start if request.recovery else session.confirmed
            start, view = await self._start(session.true_id, request, wanted, session.id)
            return await self._resume(session, session, request, sink, start, view, "pid")

    async def _resume_by_token(
        self, request: ConnectRequest, token: ResumeToken, sink: Sink
    ) -> Admitted:
        async with self._locks.hold(token.session_id):
            session = await self._session(token.session_id, token.true_id)
            if session is None:
                return await self._reopen(request, token, sink)
            await self._check_ban(session.true_id)
            self._headroom.check_connections(session)
            epoch = self._services.store.epoch_of(session.true_id)
            try:
                generation = self._tokens.rotate(session, token, epoch)
            except ConnectRefused:
                logger.warning(
                    "token_reused: session %s of player %s is revoked",
                    session.id,
                    session.true_id,
                    extra=session.about,
                )
                await self._services.revocation.revoke_held(session, "token_reused")
                raise
            live = self._live_connection(session)
            if live is not None and await live.answers(self._settings.probe_timeout):
                # The original still holds the token that the newcomer copied.
                return await self._fork(session, token, request, sink)
            start, view = await self._start(session.true_id, request, session.confirmed, session.id)
            if token.epoch != epoch and start.gap is None:
                # The reply that would have told it of the loss was itself lost.
                start = ReplayStart(start.after, "store_reset", Gap(request.offset, None))
            start = session.first(start)
            changed = replace(
                session,
                generation=generation,
                start=start.after,
                pid=self._sign_pid(session.true_id, session.id, session.opened),
            )
            admitted = await self._resume(session, changed, request, sink, start, view, "token")
            return admitted or await self._reopen(request, token, sink)

    async def _reopen(self, request: ConnectRequest, token: ResumeToken, sink: Sink) -> Admitted:
        """The token is good but its session is gone: open it again for the same player.

        It goes on under its id and with the next generation, so that the token just used stays
        good until its successor was used, and an older one is still taken for theft.
        """
        sessions = self._services.sessions
        if not await self._authentication.still_valid(token.method, token.true_id):
            now = self._services.clock()
            await sessions.revoke_session(token.session_id, token.true_id, now)
        await self._check_revoked(token)
        await self._check_ban(token.true_id)
        start, view = await self._start(token.true_id, request, None, token.session_id)
        outcome: Outcome = "store_reset"
        if token.epoch == self._services.store.epoch_of(token.true_id):
            outcome = "expired"
        # Without an offset nobody knows what the client had.
        gap = start.gap if request.offset is not None else Gap(None, None)
        return await self._open(
            token.session_id,
            token.true_id,
            token.name,
            token.method,
            request,
            sink,
            view,
            after=start.after,
            outcome=outcome,
            gap=gap,
            generation=token.generation + 1,
            token=token,
        )

    async def _fork(
        self, session: Session, token: ResumeToken, request: ConnectRequest, sink: Sink
    ) -> Admitted:
        """A duplicated tab: its original is alive, so the newcomer gets a session of its own."""
        view = await self._services.store.view(session.true_id)
        start, view = await self._start(session.true_id, request, wanted=view.head)
        session_id = self._new_session_id()
        async with self._locks.hold(session_id):
            return await self._open(
                session_id,
                session.true_id,
                session.name,
                session.method,
                request,
                sink,
                view,
                after=start.after,
                outcome=start.outcome if start.gap is not None else "new",
                gap=start.gap,
                token=token,
            )

    async def _session(self, session_id: SessionId, true_id: TrueId) -> Session | None:
        """Return the session if the store has it.

        Raises ConnectRefused (`session_revoked`) if its account is gone, and ends it.
        """
        sessions = self._services.sessions
        session = await sessions.session(session_id, true_id)
        if session is None:
            return None
        if not await self._authentication.still_valid(session.method, session.true_id):
            await self._services.revocation.revoke_held(session, "account_removed")
            raise _revoked()
        # It may have been dropped meanwhile.
        return await sessions.session(session_id, true_id)

    # Building the connection

    async def _start(
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

    async def _resume(
        self,
        session: Session,
        changed: Session,
        request: ConnectRequest,
        sink: Sink,
        start: ReplayStart,
        view: View,
        means: str,
    ) -> Admitted | None:
        """Connect a session, changed to `changed`; None when the store has dropped it meanwhile."""
        connection_id = ConnectionId(next(self._connection_ids))
        sessions = self._services.sessions
        try:
            # Kept before the client learns of it: after a crash its token must still be good.
            kept = await sessions.update_session(replace(changed, connection_id=connection_id))
        except BaseException:
            # It may be in use by now: it is not.
            sessions.save_session(session)
            raise
        if not kept:
            return None
        session.generation, session.start, session.pid = (
            changed.generation,
            changed.start,
            changed.pid,
        )
        session.confirm(start.arrived)
        if self._live_connection(session) is not None:
            self._services.metrics.takeover(means)
        return self._connect(
            session,
            connection_id,
            request,
            sink,
            view,
            start.after,
            start.outcome,
            start.gap,
            resumed=start.outcome != "new",
        )

    async def _open(
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
        """Add a session and connect it. The caller holds its lock."""
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
            pid=self._sign_pid(true_id, session_id, generation),
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
            await self._check_ban(true_id)
            if token is not None:
                await self._check_revoked(token)
            self._headroom.check_connections(session)
            self._headroom.check_new_sessions(request.address)
            try:
                await self._services.sessions.add_session(session)
            except SessionsFull:
                self._services.metrics.limit_hit("sessions")
                raise ConnectRefused(
                    "server_full", "too many sessions: try again later", _RETRY_AFTER
                ) from None
            except BaseException:
                # It may be kept by now, in use: it is not.
                session.connection_id = None
                self._services.sessions.save_session(session)
                raise
            return self._connect(
                session,
                connection_id,
                request,
                sink,
                view,
                after,
                outcome,
                gap,
                resumed=False,
            )

    async def _check_revoked(self, token: ResumeToken) -> None:
        sessions = self._services.sessions
        if await sessions.is_revoked(token.session_id, token.true_id, token.issued_at):
            raise _revoked()

    def _connect(
        self,
        session: Session,
        connection_id: ConnectionId,
        request: ConnectRequest,
        sink: Sink,
        view: View,
        after: int,
        outcome: Outcome,
        gap: Gap | None,
        *,
        resumed: bool,
    ) -> Admitted:
        services = self._services
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
        )
        now = services.clock()
        session.connection_id = connection.id
        session.last_seen = now
        services.sessions.save_session(session)
        services.registry.add(connection)
        services.rooms.on_connected(session.true_id)
        missed = view.head - after - sum(offset > after for offset in view.skipped)
        services.metrics.resume(outcome, missed)
        services.presence.on_connected(connection, session.id, session.name)
        # Only now: a player with a newcomer in place is not seen to leave.
        for each in old:
            each.close("taken_over", reconnect=False)
        greeting = build_greeting(
            session,
            self._sign_token(session),
            self._tokens.lifetime,
            ReplayStart(after, outcome, gap),
            resumed=resumed,
            missed=missed,
            connections=len(services.registry.connections_of(session.true_id)),
            limits=self._settings.announced_limits,
        )
        return Admitted(connection, session.pid, greeting)

    def _sign_token(self, session: Session) -> str:
        return self._tokens.sign_session(session, self._services.store.epoch_of(session.true_id))

    def _sign_pid(self, true_id: TrueId, session_id: SessionId, opened: int) -> str:
        epoch = self._services.store.epoch_of(true_id)
        return self._tokens.sign_pid(true_id, session_id, opened, epoch)

    def _live_connection(self, session: Session) -> Connection | None:
        if session.connection_id is None:
            return None
        return self._services.registry.connection(session.connection_id)


def _revoked() -> ConnectRefused:
    return ConnectRefused("session_revoked", "the session was ended: log in again")
