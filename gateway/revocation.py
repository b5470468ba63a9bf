"""Revocation: end sessions, one or all of a player's, ban players, and close what was open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from gateway.errors import RequestRefused, StoreUnavailable
from gateway.locks import KeyedLocks, player_key
from gateway.messages import SessionId, TrueId
from gateway.session import Session
from gateway.store import Ban, SessionStore

logger = logging.getLogger(__name__)


class Closable(Protocol):
    """A connection as revocation sees it."""

    @property
    def session(self) -> Session:
        """The session it belongs to."""

    def close(self, reason: str, *, reconnect: bool) -> None:
        """End the connection."""


class Revocation:
    """Revokes sessions. `connections_of` is the registry's, `clock` returns Unix seconds.

    The store tells other nodes that have their connections.
    """

    def __init__(
        self,
        sessions: SessionStore,
        connections_of: Callable[[TrueId], tuple[Closable, ...]],
        clock: Callable[[], float],
        locks: KeyedLocks,
    ) -> None:
        self._locks = locks
        self._sessions = sessions
        self._connections_of = connections_of
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    async def revoke(self, session: Session, reason: str) -> None:
        """Revoke one session and close its connection. Raises StoreUnavailable."""
        async with self._locks.hold(session.id):
            await self.revoke_held(session, reason)

    async def revoke_held(self, session: Session, reason: str) -> None:
        """Revoke a session whose lock the caller holds. Raises StoreUnavailable."""
        await self._sessions.revoke_session(session.id, session.true_id, self._clock(), reason)
        self._disconnect(session, reason)

    async def revoke_player(
        self, true_id: TrueId, reason: str, but: SessionId | None = None
    ) -> None:
        """Revoke all sessions of a player, and tokens of those that the store no longer has.

        The session `but` is left for the caller to revoke. Raises StoreUnavailable.
        """
        async with self._locks.hold(player_key(true_id)):
            await self._sessions.revoke_player(true_id, self._clock())
        for session in await self._sessions.sessions_of(true_id):
            if session.id != but:
                await self.revoke(session, reason)

    async def ban(self, true_id: TrueId, ban: Ban) -> None:
        """Ban a player and close what they have open; their sessions wait for the ban's end.

        Raises StoreUnavailable.
        """
        async with self._locks.hold(player_key(true_id)):
            await self._sessions.set_ban(true_id, ban)
        for session in await self._sessions.sessions_of(true_id):
            async with self._locks.hold(session.id):
                self._disconnect(session, "banned")

    async def lift_ban(self, true_id: TrueId) -> None:
        """Let a player in again. Raises StoreUnavailable."""
        await self._sessions.set_ban(true_id, None)

    def _disconnect(self, session: Session, reason: str) -> None:
        for connection in self._connections_of(session.true_id):
            if connection.session.id == session.id:
                connection.close(reason, reconnect=False)

    def log_out(
        self,
        session: Session,
        everywhere: bool,
        answer: Callable[[], None],
        on_failed: Callable[[RequestRefused], None],
    ) -> None:
        """Revoke the session, or all of its player's; `answer` is called before the close.

        When the store is not available, `on_failed` is called instead, with what to tell the
        client (`unavailable`), and the session goes on.
        """
        task = asyncio.get_running_loop().create_task(
            self._log_out(session, everywhere, answer, on_failed), name=f"log-out-{session.id}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _log_out(
        self,
        session: Session,
        everywhere: bool,
        answer: Callable[[], None],
        on_failed: Callable[[RequestRefused], None],
    ) -> None:
        try:
            if everywhere:
                await self.revoke_player(session.true_id, "logout", but=session.id)
            async with self._locks.hold(session.id):
                await self._sessions.revoke_session(
                    session.id, session.true_id, self._clock(), "logout"
                )
        except StoreUnavailable:
            logger.debug(
                "session %s could not be logged out: the store is down",
                session.id,
                extra=session.about,
            )
            on_failed(RequestRefused("unavailable", "not logged out: try again"))
            return
        except Exception:
            logger.exception("session %s could not be logged out", session.id, extra=session.about)
            on_failed(RequestRefused("unavailable", "not logged out: try again"))
            return
        answer()
        self._disconnect(session, "logout")

    async def close(self) -> None:
        """Wait for the log-outs under way."""
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
