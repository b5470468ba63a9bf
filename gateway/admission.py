"""Admission: a CONNECT comes in, a player's connection comes out (PROTOCOL 1.1 and 1.2).

The order of checks: limits (origin and address were checked by the transport), then token
or pid, then whether the session was revoked or its account removed, then the limits on new
sessions; only then is anything of a mailbox read.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

from gateway.auth import Authentication, Identity
from gateway.connect_request import ConnectRequest
from gateway.connecting import (
    RETRY_AFTER,
    AdmissionSettings,
    Admitted,
    Connecting,
    session_revoked,
)
from gateway.connection import Services
from gateway.errors import ConnectRefused, StoreUnavailable
from gateway.locks import KeyedLocks
from gateway.messages import SessionId, TrueId
from gateway.nodes import Arrivals
from gateway.session import Gap, Outcome, ReplayStart, Session
from gateway.sink import Sink
from gateway.store import SessionChanged
from gateway.tokens import Pid, ResumeToken, Tokens

logger = logging.getLogger(__name__)

#: Codes that have nothing to do with the client: soon, or at another node, it is let in.
_PASSING: Final = frozenset({"draining", "unavailable"})

T = TypeVar("T")

#: How often a session is read again that another node has changed meanwhile.
_ATTEMPTS: Final = 5


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
        self._new_session_id = new_session_id
        self._connecting = Connecting(services, tokens, settings, locks)
        self._locks = locks
        self.draining = False

    def reconfigure(self, settings: AdmissionSettings, authentication: Authentication) -> None:
        """Admit by other settings and methods from now on."""
        self._connecting.reconfigure(settings)
        self._authentication = authentication

    @property
    def arrivals(self) -> Arrivals:
        """What other nodes say of sessions that are on their way in is to be told to this."""
        return self._connecting.arrivals

    async def admit(self, auth: object, address: str, sink: Sink) -> Admitted:
        """Decide on a CONNECT. Raises ConnectRefused; then nothing has changed."""
        try:
            return await self._admit(auth, address, sink)
        except ConnectRefused as error:
            refused = error
        except StoreUnavailable:
            refused = ConnectRefused(
                "unavailable", "the gateway's store is not available", RETRY_AFTER
            )
        self._services.metrics.refused_connect(refused.code)
        # Only a client that has come back by itself presents a pid, and is to try again.
        if refused.code in _PASSING and isinstance(auth, Mapping) and "pid" in auth:
            refused.cut = True
        raise refused

    async def _admit(self, auth: object, address: str, sink: Sink) -> Admitted:
        if self.draining:
            raise ConnectRefused("draining", "the gateway is going down", RETRY_AFTER)
        request = ConnectRequest.parse(auth, address)
        pid = self._tokens.verify_pid(request.pid) if request.pid is not None else None
        token, token_error = self._verify_token(request)
        if pid is not None and (token is None or token.session_id == pid.session_id):
            admitted = await _attempt(partial(self._resume_by_pid, request, pid, sink))
            if admitted is not None:
                return admitted
        if token_error is not None:
            raise token_error
        if token is not None:
            return await _attempt(partial(self._resume_by_token, request, token, sink))
        if pid is not None and not request.credentials:
            sessions = self._services.sessions
            if await sessions.is_revoked(pid.session_id, pid.true_id, math.inf):
                raise session_revoked()
            raise ConnectRefused("token_expired", "the session has expired: log in again")
        identity = await self._authentication.authenticate(request.credentials, address)
        return await _attempt(partial(self._log_in, request, identity, sink))

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

    async def _log_in(self, request: ConnectRequest, identity: Identity, sink: Sink) -> Admitted:
        await self._connecting.check_ban(identity.true_id)
        store = self._services.store
        if self._authentication.is_permanent(identity.method):
            await store.know([identity.true_id])
        view = await store.view(identity.true_id)
        here = view.remote or self._services.registry.connections_of(identity.true_id)
        session_id = self._new_session_id()
        async with self._locks.hold(session_id):
            return await self._connecting.open(
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
            await self._connecting.check_ban(session.true_id)
            # A client without trailing offsets cannot say what it has: trust the heartbeat.
            wanted = session.start if request.recovery else session.confirmed
            start, view = await self._connecting.start(session.true_id, request, wanted, session.id)
            self._connecting.check_connections(session, view.remote)
            return await self._connecting.resume(
                session, session, request, sink, start, view, "pid"
            )

    async def _resume_by_token(
        self, request: ConnectRequest, token: ResumeToken, sink: Sink
    ) -> Admitted:
        async with self._locks.hold(token.session_id):
            session = await self._session(token.session_id, token.true_id)
            if session is None:
                return await self._reopen(request, token, sink)
            await self._connecting.check_ban(session.true_id)
            epoch = self._services.store.epoch_of(session.true_id)
            try:
                # Redis may lose what it has acknowledged: in a failover, or in a crash.
                forgets = not self._services.store.nodes.alone
                generation = self._tokens.rotate(session, token, epoch, forgets=forgets)
            except ConnectRefused:
                logger.warning(
                    "token_reused: session %s of player %s is revoked",
                    session.id,
                    session.true_id,
                    extra=session.about,
                )
                await self._services.revocation.revoke_held(session, "token_reused")
                raise
            if await self._connecting.answers(session):
                # The original still holds the token that the newcomer copied.
                return await self._fork(session, token, request, sink)
            start, view = await self._connecting.start(
                session.true_id, request, session.confirmed, session.id
            )
            self._connecting.check_connections(session, view.remote)
            if token.epoch != epoch and start.gap is None:
                # The reply that would have told it of the loss was itself lost.
                start = ReplayStart(start.after, "store_reset", Gap(request.offset, None))
            start = session.first(start)
            changed = replace(
                session,
                generation=generation,
                start=start.after,
                pid=self._connecting.sign_pid(session.true_id, session.id, session.opened),
            )
            admitted = await self._connecting.resume(
                session, changed, request, sink, start, view, "token"
            )
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
        await self._connecting.check_revoked(token)
        await self._connecting.check_ban(token.true_id)
        start, view = await self._connecting.start(token.true_id, request, None, token.session_id)
        outcome: Outcome = "store_reset"
        if token.epoch == self._services.store.epoch_of(token.true_id):
            outcome = "expired"
        # Without an offset nobody knows what the client had.
        gap = start.gap if request.offset is not None else Gap(None, None)
        return await self._connecting.open(
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
        start, view = await self._connecting.start(session.true_id, request, wanted=view.head)
        session_id = self._new_session_id()
        async with self._locks.hold(session_id):
            return await self._connecting.open(
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
            raise session_revoked()
        # It may have been dropped meanwhile.
        return await sessions.session(session_id, true_id)


async def _attempt(resume: Callable[[], Awaitable[T]]) -> T:
    """Resume a session, and again when another node has changed it meanwhile.

    Raises ConnectRefused (`unavailable`) when that does not end.
    """
    for _ in range(_ATTEMPTS):
        try:
            return await resume()
        except SessionChanged as error:
            logger.debug("session %s was changed by another node meanwhile", error)
    raise ConnectRefused(
        "unavailable", "the session comes back at several places at once", RETRY_AFTER
    )
