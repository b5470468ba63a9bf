"""Sessions, revocations and bans in Redis: each call is one script in the player's partition."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from gateway.errors import GatewayError
from gateway.messages import SessionId, TrueId
from gateway.outbox import session_new, session_revoked
from gateway.session import Session
from gateway.store import Ban, SessionChanged, SessionsFull, StoreLimits
from gateway.stores.limits import OnLimit
from gateway.stores.redis.client import Reply, Word
from gateway.stores.redis.dead_nodes import DeadNodes
from gateway.stores.redis.local_sessions import LocalSessions, Save
from gateway.stores.redis.partitions import Partitions
from gateway.stores.redis.scripts import UNLIMITED, load
from gateway.stores.redis.session_records import decode_record, encode_record
from gateway.stores.redis.totals import Totals

_ADD: Final = load("session_add")
_BAN: Final = load("session_ban")
_BAN_OF: Final = load("session_ban_of")
_BUSY: Final = load("session_busy")
_EXPIRE: Final = load("session_expire")
_IDLE: Final = load("session_idle")
_READ: Final = load("session_read")
_RELEASE: Final = load("session_release")
_RENEW: Final = load("session_renew")
_REVOKE: Final = load("session_revoke")
_REVOKE_PLAYER: Final = load("session_revoke_player")
_REVOKED: Final = load("session_revoked")
_SAVE: Final = load("session_save")
_UPDATE: Final = load("session_update")

#: Sessions and bans that one call expires: Redis does nothing else meanwhile.
_EXPIRED: Final = 200
#: Sessions that one call renews.
_RENEWED: Final = 200
#: Sessions that are looked at in one call.
_LOOKED_AT: Final = 2000
#: How long no partition is asked again for room that none had, in seconds.
_CROWDED: Final = 1.0

_encode_ban: Final = msgspec.json.Encoder().encode
_decode_ban: Final = msgspec.json.Decoder(Ban).decode


class SessionCalls:
    """The part of RedisStore that is about sessions, revocations and bans."""

    _node: str
    _limits: StoreLimits
    _on_limit: OnLimit
    _partitions: Partitions
    _totals: Totals
    _sessions: LocalSessions
    _dead_nodes: DeadNodes
    #: Held while room is made, and until when, by the loop's clock, there is none.
    _crowd: asyncio.Lock
    _crowded_until: float = -math.inf

    def _outbox_args(self, partition: int) -> tuple[Word, ...]:
        raise NotImplementedError

    def _note_webhooks(self, partition: int, counts: Sequence[int]) -> None:
        raise NotImplementedError

    # Reading

    async def session(self, session_id: SessionId, true_id: TrueId) -> Session | None:
        """See SessionStore.session: Redis is asked each time, another node may have changed it."""
        self._sessions.flush(session_id)
        found = await self._read_sessions(true_id, session_id) if session_id else []
        if not found:
            self._sessions.dropped(session_id)
            return None
        return found[0]

    async def sessions_of(self, true_id: TrueId) -> tuple[Session, ...]:
        """See SessionStore.sessions_of."""
        self._sessions.flush_player(true_id)
        found = await self._read_sessions(true_id, SessionId(""))
        return tuple(sorted(found, key=lambda each: (each.last_seen, each.version)))

    async def _read_sessions(self, true_id: TrueId, session_id: SessionId) -> list[Session]:
        partition = self._partitions.of(true_id)
        reply: Any = await self._partitions.ask(partition, _READ, (true_id, session_id))
        return [
            self._sessions.found(SessionId(key.decode()), true_id, decode_record(record))
            for key, record in zip(reply[::2], reply[1::2], strict=True)
        ]

    # Keeping

    async def add_session(self, session: Session, issued_at: float = math.inf) -> None:
        """See SessionStore.add_session."""
        limits = self._limits
        partition = self._partitions.of(session.true_id)
        in_use = session.connection_id is not None
        room: int | None = None
        if limits.sessions:
            room = self._totals.left_for("sessions", limits.sessions, partition)
        if in_use:
            self._sessions.claim(session.id)
        reply = await self._add(partition, session, in_use, issued_at, room)
        if reply == b"ALL" and room is not None and await self._make_room():
            reply = await self._add(partition, session, in_use, issued_at, room + 1)
        if isinstance(reply, bytes):
            self._sessions.unclaim(session.id)
            if reply == b"CHANGED":
                raise SessionChanged(session.id)
            if reply == b"PLAYER":
                raise SessionsFull(f"the player has {limits.sessions_per_player} sessions already")
            raise SessionsFull(f"{limits.sessions} sessions are in use already")
        session.version = reply[0]
        self._sessions.added(session)
        self._note_webhooks(partition, reply[1:])

    async def _add(
        self, partition: int, session: Session, in_use: bool, issued_at: float, room: int | None
    ) -> Any:
        return await self._partitions.ask(
            partition,
            _ADD,
            (
                *self._outbox_args(partition),
                session.true_id,
                session.id,
                encode_record(session),
                self._node if in_use else "",
                session.last_seen,
                issued_at if math.isfinite(issued_at) else "",
                self._limits.sessions_per_player,
                "" if room is None else room,
                self._dead_nodes.dead,
                session_new(session).data,
            ),
        )

    async def _make_room(self) -> bool:
        """Forget the session longest unseen without connection in any partition, if there is one.

        That takes a call to each: only when the player's own partition has none.
        """
        if self._partitions.count == 1:
            return False
        async with self._crowd:
            now = asyncio.get_running_loop().time()
            if now < self._crowded_until:
                return False
            dead = self._dead_nodes.dead
            replies: list[Any] = await self._partitions.ask_all(_IDLE, (dead, "0"))
            seen = [(float(each), partition) for partition, each in enumerate(replies) if each]
            if not seen:
                self._crowded_until = now + _CROWDED
                return False
            return bool(await self._partitions.ask(min(seen)[1], _IDLE, (dead, "1")))

    async def update_session(self, session: Session) -> bool:
        """See SessionStore.update_session."""
        in_use = session.connection_id is not None
        self._sessions.flush(session.id)
        if in_use:
            self._sessions.claim(session.id)
        reply: Any = await self._partitions.ask(
            self._partitions.of(session.true_id),
            _UPDATE,
            (
                session.true_id,
                session.id,
                session.version,
                encode_record(session),
                self._node if in_use else "",
            ),
        )
        if reply > 0:
            session.version = reply
            self._sessions.claimed(session.id, reply)
            return True
        self._sessions.unclaim(session.id)
        if reply < 0:
            raise SessionChanged(session.id)
        return False

    def save_session(self, session: Session) -> None:
        """See SessionStore.save_session."""
        self._sessions.save(session)

    def _send_save(self, save: Save, on_answer: Callable[[GatewayError | None], None]) -> None:
        args = (
            self._node,
            save.true_id,
            save.session_id,
            save.version,
            save.confirmed,
            save.last_seen,
            int(save.in_use),
        )
        partition = self._partitions.of(save.true_id)
        self._partitions.call(partition, _SAVE, args, partial(_on_saved, on_answer))

    async def renew_sessions(self, partitions: Collection[int]) -> list[Session]:
        """Tell Redis again which sessions of partitions this node has; return those it has not.

        They were taken over by other nodes or ended, or their players were banned, while this
        one did not hear of it. To be called before messages that were missed are read. Raises
        StoreUnavailable.
        """
        self._sessions.flush_all()
        groups: dict[int, list[Session]] = {}
        for session in self._sessions.in_use():
            partition = self._partitions.of(session.true_id)
            if partition in partitions:
                groups.setdefault(partition, []).append(session)
        lost = []
        for partition, sessions in groups.items():
            # Those of a player together: the script counts them.
            sessions.sort(key=lambda session: session.true_id)
            for start in range(0, len(sessions), _RENEWED):
                chunk = sessions[start : start + _RENEWED]
                args: list[Word] = [self._node]
                for session in chunk:
                    args += (session.true_id, session.id, session.version)
                places: Any = await self._partitions.ask(partition, _RENEW, args)
                # One that was resumed here meanwhile has another version by now.
                lost += [
                    session
                    for place in places
                    if (session := chunk[place - 1]).version == args[3 * place]
                ]
        for session in lost:
            if session.connection_id is not None:
                self._sessions.dropped(session.id)
        return lost

    async def release_strays(self, partitions: Iterable[int]) -> None:
        """Have no session in use at this node that is not, whatever went wrong.

        After a failover, Redis may have forgotten that a connection was lost. Raises
        StoreUnavailable.
        """
        for partition in partitions:
            reply: Any = await self._partitions.ask(partition, _BUSY, (self._node, _LOOKED_AT))
            for member in reply:
                true_id, _, session_id = member.rpartition(b"\0")
                # One that is taken into use from now on is told of after this.
                if not self._sessions.is_known(SessionId(session_id.decode())):
                    args = (self._node, true_id, session_id)
                    self._partitions.call(partition, _RELEASE, args, _ignore)

    # Revocations and bans

    async def revoke_session(
        self, session_id: SessionId, true_id: TrueId, now: float, reason: str = "revoked"
    ) -> None:
        """See SessionStore.revoke_session."""
        self._sessions.flush(session_id)
        partition = self._partitions.of(true_id)
        data = session_revoked(session_id, true_id, reason, now).data
        reply: Any = await self._partitions.ask(
            partition,
            _REVOKE,
            (
                *self._outbox_args(partition),
                true_id,
                session_id,
                now,
                reason,
                self._most_revocations,
                data,
            ),
        )
        self._sessions.dropped(session_id)
        *counts, full = reply
        self._note_webhooks(partition, counts)
        self._note_revoked(full)

    async def revoke_player(self, true_id: TrueId, now: float) -> None:
        """See SessionStore.revoke_player."""
        partition = self._partitions.of(true_id)
        args = (true_id, now, self._most_revocations)
        self._note_revoked(await self._partitions.ask(partition, _REVOKE_PLAYER, args))

    @property
    def _most_revocations(self) -> int:
        """A partition's share."""
        most = self._limits.revocations
        return -(-most // self._partitions.count) if most else UNLIMITED

    def _note_revoked(self, full: Reply) -> None:
        if full:
            self._on_limit("revocations")

    async def is_revoked(self, session_id: SessionId, true_id: TrueId, issued_at: float) -> bool:
        """See SessionStore.is_revoked."""
        partition = self._partitions.of(true_id)
        reply: Any = await self._partitions.ask(partition, _REVOKED, (true_id, session_id))
        session, player, until = reply
        return session is not None or issued_at <= max(float(player or 0.0), float(until or 0.0))

    async def set_ban(self, true_id: TrueId, ban: Ban | None) -> None:
        """See SessionStore.set_ban."""
        partition = self._partitions.of(true_id)
        text = _encode_ban(ban) if ban is not None else b""
        ends: Word = "" if ban is None or ban.until is None else ban.until
        await self._partitions.ask(partition, _BAN, (self._node, true_id, text, ends))

    async def ban_of(self, true_id: TrueId, now: float) -> Ban | None:
        """See SessionStore.ban_of."""
        partition = self._partitions.of(true_id)
        reply: Any = await self._partitions.ask(partition, _BAN_OF, (true_id,))
        ban = _decode_ban(reply) if reply is not None else None
        return ban if ban is not None and (ban.until is None or ban.until > now) else None

    # Expiry

    async def _expire_sessions(self, now: float, partition: int) -> int:
        """Forget what has outlived its time; return the number of the newest webhook.

        Raises StoreUnavailable.
        """
        limits = self._limits
        # A token's age is counted in whole seconds, so it may live up to one second longer.
        oldest = now - limits.token_lifetime - 1
        more = 1
        while more:
            nodes = self._dead_nodes
            args = (now, now - limits.session_lifetime, oldest, _EXPIRED, nodes.live, nodes.dead)
            reply: Any = await self._partitions.ask(partition, _EXPIRE, args)
            more, newest, unknown = reply
            nodes.meet(each.decode() for each in unknown)
        return int(newest)


def _on_saved(
    on_answer: Callable[[GatewayError | None], None], reply: Reply | GatewayError
) -> None:
    on_answer(reply if isinstance(reply, GatewayError) else None)


def _ignore(reply: object) -> None:
    """What was not done now is done the next time."""
