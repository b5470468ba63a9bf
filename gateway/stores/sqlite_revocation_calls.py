"""Revocations and bans in the sqlite store, the event loop's side: all are kept at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gateway.messages import SessionId, TrueId
from gateway.session import Session
from gateway.store import Ban
from gateway.stores.limits import OnLimit
from gateway.stores.revocations import Revocations
from gateway.stores.sqlite_jobs import Jobs
from gateway.stores.sqlite_live import LiveSessions


class RevocationCalls:
    """The part of SqliteStore that is about revocations and bans."""

    _live: LiveSessions
    _revoked: Revocations
    _revoked_players: Revocations
    _on_limit: OnLimit
    _bans: dict[TrueId, Ban]

    def save_session(self, session: Session) -> None:
        """See SessionStore.save_session."""
        raise NotImplementedError

    def _check_available(self) -> None:
        raise NotImplementedError

    async def _do(
        self,
        run: Callable[[Jobs], Any],
        players: Iterable[str] = (),
        sessions: Iterable[str] = (),
        then: Callable[[Any], None] | None = None,
    ) -> Any:
        raise NotImplementedError

    async def revoke_session(
        self, session_id: SessionId, true_id: TrueId, now: float, reason: str = "revoked"
    ) -> None:
        """See SessionStore.revoke_session."""
        live = self._live.get(session_id)
        if live is not None:
            self.save_session(live)

        def then(_: Any) -> None:
            self._live.dropped(session_id)
            self._remember(self._revoked, session_id, now)

        await self._do(
            lambda jobs: jobs.revoke("session", session_id, now, reason),
            sessions=[session_id],
            then=then,
        )

    async def revoke_player(self, true_id: TrueId, now: float) -> None:
        """See SessionStore.revoke_player."""
        await self._do(
            lambda jobs: jobs.revoke("player", true_id, now),
            then=lambda _: self._remember(self._revoked_players, true_id, now),
        )

    def _remember(self, revocations: Revocations, key: str, now: float) -> None:
        if revocations.add(key, now):
            self._on_limit("revocations")

    async def is_revoked(self, session_id: SessionId, true_id: TrueId, issued_at: float) -> bool:
        """See SessionStore.is_revoked."""
        self._check_available()
        if self._revoked.get(session_id) is not None:
            return True
        not_before = self._revoked_players.get(true_id) or 0.0
        return issued_at <= max(not_before, self._revoked.until, self._revoked_players.until)

    async def set_ban(self, true_id: TrueId, ban: Ban | None) -> None:
        """See SessionStore.set_ban."""

        def then(_: Any) -> None:
            if ban is None:
                self._bans.pop(true_id, None)
            else:
                self._bans[true_id] = ban

        await self._do(lambda jobs: jobs.set_ban(true_id, ban), [true_id], then=then)

    async def ban_of(self, true_id: TrueId, now: float) -> Ban | None:
        """See SessionStore.ban_of."""
        self._check_available()
        ban = self._bans.get(true_id)
        return ban if ban is not None and (ban.until is None or ban.until > now) else None

    def _expire_revocations(self, now: float, oldest: float) -> None:
        """Forget revocations of tokens signed before `oldest`, and bans that are over."""
        self._revoked.expire(oldest)
        self._revoked_players.expire(oldest)
        for true_id, ban in list(self._bans.items()):
            if ban.until is not None and ban.until <= now:
                self._bans.pop(true_id, None)
