"""Revocation: log a session out, one or all of a player's, and close what it had open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Protocol

from gateway.errors import StoreUnavailable
from gateway.messages import ConnectionId, TrueId
from gateway.session import Session, SessionStore

logger = logging.getLogger(__name__)


class Closable(Protocol):
    """A connection as revocation sees it."""

    @property
    def id(self) -> ConnectionId:
        """The connection's own id."""

    def close(self, reason: str, *, reconnect: bool) -> None:
        """End the connection."""


class Revocation:
    """Revokes sessions. `connections_of` is the registry's, `clock` returns Unix seconds."""

    def __init__(
        self,
        sessions: SessionStore,
        connections_of: Callable[[TrueId], Collection[Closable]],
        clock: Callable[[], float],
    ) -> None:
        self._sessions = sessions
        self._connections_of = connections_of
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    async def revoke(self, session: Session, reason: str) -> None:
        """Revoke one session and close its connection. Raises StoreUnavailable."""
        await self._sessions.revoke_session(session.id, self._clock())
        for connection in tuple(self._connections_of(session.true_id)):
            if connection.id == session.connection_id:
                connection.close(reason, reconnect=False)

    def log_out(self, session: Session, everywhere: bool, answer: Callable[[], None]) -> None:
        """Revoke the session, or all of its player's; `answer` is called before the close."""
        task = asyncio.get_running_loop().create_task(
            self._log_out(session, everywhere, answer), name=f"log-out-{session.id}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _log_out(
        self, session: Session, everywhere: bool, answer: Callable[[], None]
    ) -> None:
        try:
            others: tuple[Session, ...] = ()
            if everywhere:
                others = await self._sessions.sessions_of(session.true_id)
            for other in others:
                if other.id != session.id:
                    await self.revoke(other, "logout")
            await self._sessions.revoke_session(session.id, self._clock())
            answer()
            await self.revoke(session, "logout")
        except StoreUnavailable:
            logger.error("session %s could not be logged out: the store is down", session.id)

    async def close(self) -> None:
        """Wait for the log-outs under way."""
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
