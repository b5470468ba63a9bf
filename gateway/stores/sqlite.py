"""The sqlite store: one file that survives the process, the default.

Two threads own the connections: `Writer` decides and commits, `Reader` answers reads. This
module is the event loop's side: it queues, and keeps at hand what is asked often.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from gateway.errors import GatewayError, StoreUnavailable
from gateway.mailbox import Draft, Located, Position, locate
from gateway.membership import Memberships
from gateway.messages import SessionId, TrueId
from gateway.nodes import Alone
from gateway.session import Session
from gateway.store import AppendDone, Ban, ReadDone, StoreLimits, View
from gateway.stores.limits import OnLimit, ignore_limit
from gateway.stores.revocations import Revocations
from gateway.stores.sampling import OnLatency, Sampler, ignore_latency
from gateway.stores.sqlite_answered import Answered
from gateway.stores.sqlite_jobs import IN_USE, Jobs
from gateway.stores.sqlite_live import LiveSessions, Save
from gateway.stores.sqlite_outbox_calls import OutboxCalls
from gateway.stores.sqlite_pending import SessionChange
from gateway.stores.sqlite_reader import NO_VIEW, Done, Reader, ViewRow, hole
from gateway.stores.sqlite_revocation_calls import RevocationCalls
from gateway.stores.sqlite_revocations import load_bans, load_revocations
from gateway.stores.sqlite_room_calls import RoomCalls
from gateway.stores.sqlite_rooms import load_memberships
from gateway.stores.sqlite_schema import escape
from gateway.stores.sqlite_turns import Turns
from gateway.stores.sqlite_writer import Answers, Job, Writer

logger = logging.getLogger(__name__)

#: How long a change of a session may wait for a transaction that takes it along, in seconds.
_SAVE_DELAY: Final = 1.0
#: What one transaction of `expire` looks at.
_CHUNK: Final = 1000

_RECOVER: Final = """UPDATE sessions SET last_seen = max(last_seen, ?),
    idle = (SELECT coalesce(max(idle), 0) + 1 FROM sessions) WHERE idle IS NULL"""
_LAST_IDLE: Final = "SELECT coalesce(max(idle), 0) FROM sessions"
_EPOCH: Final = "SELECT value FROM meta WHERE name = 'epoch'"


class SqliteStore(RoomCalls, RevocationCalls, OutboxCalls):
    """A whole store in the file `path`; `synchronous` is FULL or NORMAL.

    `nonces` are fresh random numbers of 40 bits. `on_dropped` is told how many messages went
    before any session had confirmed them, and whether they were `expired` or `trimmed`.
    `clock` returns Unix seconds. `on_replaced` is called, on the loop, when the file of a
    running gateway turned out to be another one or an older state of itself: what the gateway
    and its clients know of mailboxes and sessions is wrong then. `on_webhooks` is told how many
    webhooks are new, and how many were given up for lack of room, `on_latency` as Sampler says,
    `on_limit` as OnLimit.
    """

    nodes: Final = Alone()
    presence: Final = None

    def __init__(
        self,
        path: Path,
        synchronous: str,
        limits: StoreLimits,
        nonces: Iterator[int],
        on_dropped: Callable[[str, int], None],
        clock: Callable[[], float] = time.time,
        on_replaced: Callable[[], None] = lambda: None,
        on_webhooks: Callable[[int, int], None] = lambda added, given_up: None,
        on_latency: OnLatency = ignore_latency,
        on_limit: OnLimit = ignore_limit,
    ) -> None:
        self.epoch = ""
        self.bytes = self.message_count = self.session_count = 0
        self.available = False
        self._path = path
        self._limits = limits
        self._on_dropped = on_dropped
        self._clock = clock
        self.on_replaced = on_replaced
        self._on_webhooks = on_webhooks
        self._on_limit = on_limit
        self._appends = Sampler("message", on_latency)
        self._publishes = Sampler("publish", on_latency)
        self._live = LiveSessions()
        self._revoked = Revocations(0)
        self._revoked_players = Revocations(0)
        self._bans: dict[TrueId, Ban] = {}
        self.memberships = Memberships()
        self._answered = Answered()
        self._closing = False
        self._save_timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop
        turns = Turns()
        self._writer = Writer(
            path,
            synchronous,
            limits,
            nonces,
            self._restore,
            self._deliver,
            self._set_available,
            turns,
        )
        self._reader = Reader(
            path,
            lambda: self.epoch,
            self._deliver_reads,
            self._on_reader_error,
            turns,
            self._writer.players,
        )

    # Opening and closing

    async def open(self) -> None:
        """See Store.open."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._writer.start)
        self._reader.start()

    async def close(self) -> None:
        """See Store.close."""
        if self._closing:
            return
        self._closing = True
        self._queue_saves()
        self.available = False
        await asyncio.to_thread(self._reader.stop)
        await asyncio.to_thread(self._writer.stop)
        # What the threads delivered last is called in the turn after this one.
        await asyncio.sleep(0)
        self._answered.call_all()

    def _restore(self, connection: sqlite3.Connection, new: bool) -> None:
        """Take from the file what is kept at hand; a new one's sessions lost their connections.

        Called in a thread of the writer's.
        """
        if new:
            connection.execute(_RECOVER, (self._clock(),))
        revoked = load_revocations(connection, "session", self._limits.revocations)
        players = load_revocations(connection, "player", self._limits.revocations)
        bans = load_bans(connection)
        self.memberships = load_memberships(connection)
        (last_idle,) = connection.execute(_LAST_IDLE).fetchone()
        (epoch,) = connection.execute(_EPOCH).fetchone()
        self._live.next_idle = max(self._live.next_idle, last_idle + 1)
        self._revoked, self._revoked_players, self._bans = revoked, players, bans
        self.epoch = epoch

    # From the threads

    def _call(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            logger.warning("%s: the event loop is closed, nobody hears the answer", self._path)

    def _deliver(self, answers: Answers) -> None:
        self._call(self._on_answers, answers)

    def _deliver_reads(self, answers: list[tuple[Done, Any]]) -> None:
        self._call(self._on_reads, answers)

    def _on_reader_error(self, error: BaseException) -> None:
        self._writer.suspect(error)

    def _set_available(self, available: bool) -> None:
        if available and self._writer.totals is not None:
            self.bytes, self.message_count, self.session_count, *webhooks = self._writer.totals
            self.queued_webhooks, self.dead_webhooks = webhooks
        if available:
            self._reader.reopen()
            if self._writer.replaced:
                self._call(self._on_file_replaced)
                return
        self.available = available and not self._closing
        if available:
            self._call(self._start_saving)

    # On the loop

    def _on_file_replaced(self) -> None:
        logger.error(
            "%s is another file than before, or an older state of it: clients are told when "
            "they connect again; stop the gateway before you move its file",
            self._path,
        )
        self._answered.call_all()
        self._live.replaced()
        self.available = not self._closing
        try:
            self.on_replaced()
        except Exception:
            logger.exception("on_replaced failed")

    def _on_answers(self, answers: Answers) -> None:
        if answers.totals is not None:
            self.bytes, self.message_count, self.session_count = answers.totals
        self._answered.extend(answers.answers, self._loop)
        for reason, count in answers.dropped:
            self._on_dropped(reason, count)
        for limit in answers.limits:
            self._on_limit(limit)
        if answers.webhooks is not None:
            self.queued_webhooks, self.dead_webhooks, added, given_up = answers.webhooks
            if added:
                self._on_webhooks(added, given_up)

    def _on_reads(self, answers: list[tuple[Done, Any]]) -> None:
        for done, result in answers:
            try:
                done(result)
            except Exception:
                logger.exception("an answer of the store was not taken")

    def _refusal(self) -> StoreUnavailable | None:
        if not self.available:
            return StoreUnavailable("the store is not available")
        if not self._writer.has_room():
            self._on_limit("store.queue")
            return StoreUnavailable("the store does not keep up")
        return None

    async def _do(
        self,
        run: Callable[[Jobs], Any],
        players: Iterable[str] = (),
        sessions: Iterable[str] = (),
        then: Callable[[Any], None] | None = None,
    ) -> Any:
        """Run a job and return its result, `then` being called with it first of all.

        Raises the GatewayError that the job raised, or StoreUnavailable.
        """
        refusal = self._refusal()
        if refusal is not None:
            raise refusal
        future = self._loop.create_future()

        def done(result: Any) -> None:
            if then is not None and not isinstance(result, GatewayError):
                then(result)
            _resolve(future, result)

        self._put(Job(run, done, tuple(players), tuple(sessions)))
        return await future

    def _put(self, job: Job) -> None:
        # What was saved before counts for what is asked now.
        if self._live.waiting:
            self._queue_saves()
        self._writer.put(job)

    async def check(self) -> None:
        """See Store.check: both threads answer, the writer after a commit."""
        self._check_available()
        future = self._loop.create_future()
        self._put(Job(Jobs.check, functools.partial(_resolve, future)))
        await future
        await self._ask(functools.partial(self._reader.view, TrueId(""), None, None))

    # Mailboxes

    def epoch_of(self, true_id: TrueId) -> str:
        """See MailboxStore.epoch_of: it is the same for all players."""
        return self.epoch

    def append(self, draft: Draft, now: float, done: AppendDone) -> None:
        """See MailboxStore.append; a refusal because of overload may overtake other answers."""
        if not self.available or not self._writer.has_room():
            self._loop.call_soon(done, draft, self._refusal() or StoreUnavailable("full"))
            return
        if self._live.waiting:
            self._queue_saves()
        if now >= self._appends.due:
            done = self._appends.watch(now, done)
        self._writer.put((draft, now, done))

    def read(self, true_id: TrueId, after: int, limit: int, max_bytes: int, done: ReadDone) -> None:
        """See MailboxStore.read."""
        if self.available:
            self._reader.read(true_id, after, limit, max_bytes, done)
        else:
            self._loop.call_soon(done, StoreUnavailable("the store is not available"))

    async def _ask(self, ask: Callable[[Done], None]) -> Any:
        """Ask the reader and return its answer. Raises StoreUnavailable."""
        if not self.available:
            raise StoreUnavailable("the store is not available")
        future = self._loop.create_future()
        ask(functools.partial(_resolve, future))
        return await future

    async def view(
        self,
        true_id: TrueId,
        position: Position | None = None,
        session_id: SessionId | None = None,
    ) -> View:
        """See MailboxStore.view."""
        ask = functools.partial(self._reader.view, true_id, position, session_id)
        row: ViewRow = await self._ask(ask)
        head, first, confirmed, nonce, after, lost, skipped = row
        located = Located.FOREIGN
        if position is not None:
            stored = None if nonce is None else f"{self.epoch}.{position.offset}.{nonce:x}".encode()
            located = locate(position, self.epoch, first, head, stored)
        confirmed = min(max(confirmed, self._live.confirmed(true_id)), head)
        known = row is not NO_VIEW
        return View(head, first, confirmed, located, known, hole(after, lost), tuple(skipped))

    async def everyone(self, limit: int) -> AsyncIterator[tuple[TrueId, ...]]:
        """See MailboxStore.everyone."""
        after = 0
        while True:
            ask = functools.partial(self._reader.players, after, limit)
            numbers, true_ids = await self._ask(ask)
            if not numbers:
                return
            after = numbers[-1]
            yield true_ids

    async def know(self, true_ids: Iterable[TrueId]) -> None:
        """See MailboxStore.know."""
        await self._know(true_ids, permanent=True)

    async def forget(self, true_ids: Iterable[TrueId]) -> None:
        """See MailboxStore.forget; what is left of the players goes with `expire`."""
        await self._know(true_ids, permanent=False)

    async def _know(self, true_ids: Iterable[TrueId], *, permanent: bool) -> None:
        players: list[str] = list(true_ids)
        if players:
            await self._do(lambda jobs: jobs.know(players, permanent), players)

    # Sessions

    async def session(self, session_id: SessionId, true_id: TrueId) -> Session | None:
        """See SessionStore.session."""
        session = self._live.get(session_id)
        if session is None or not self.available:
            ask = functools.partial(self._reader.session, session_id)
            found: list[Session] = await self._ask(ask)
            session = self._live.newest(found[0]) if found else None
        return session if session is not None and session.true_id == true_id else None

    async def sessions_of(self, true_id: TrueId) -> tuple[Session, ...]:
        """See SessionStore.sessions_of."""
        found: list[Session] = await self._ask(functools.partial(self._reader.sessions_of, true_id))
        sessions = [newest for each in found if (newest := self._live.newest(each)) is not None]
        return tuple(sorted(sessions, key=lambda session: session.last_seen))

    async def add_session(self, session: Session, issued_at: float = math.inf) -> None:
        """See SessionStore.add_session; `issued_at` is for stores of several nodes."""
        place = self._live.place(session)

        def then(gone: list[SessionId]) -> None:
            for session_id in gone:
                self._live.dropped(session_id)
            self._live.added(session, place is None)
            self._start_saving()

        await self._do(
            lambda jobs: jobs.add_session(session, place), [session.true_id], [session.id], then
        )

    async def update_session(self, session: Session) -> bool:
        """See SessionStore.update_session."""
        in_use = session.connection_id is not None
        if in_use:
            self._live.claim(session.id)
        change = SessionChange(
            escape(session.id),
            generation=session.generation,
            pid=session.pid,
            start=session.start,
            idle=IN_USE if in_use else None,
        )
        kept: bool = await self._do(
            lambda jobs: jobs.update_session(session.id, change), sessions=[session.id]
        )
        if not kept:
            self._live.unclaim(session.id)
        return kept

    def save_session(self, session: Session) -> None:
        """See SessionStore.save_session."""
        if self._live.save(session) and not self._closing:
            self._start_saving()

    def _start_saving(self) -> None:
        if self._save_timer is None and self._live.waiting and not self._closing:
            self._save_timer = self._loop.call_later(_SAVE_DELAY, self._queue_saves)

    def _queue_saves(self) -> None:
        if self._save_timer is not None:
            self._save_timer.cancel()
            self._save_timer = None
        if not self.available:
            return
        saves = self._live.take()
        if saves:
            self._writer.put(
                Job(
                    lambda jobs: jobs.save([save.change() for save in saves]),
                    functools.partial(self._on_saved, saves),
                    tuple({save.session.true_id for save in saves}),
                )
            )

    def _on_saved(self, saves: list[Save], result: Any) -> None:
        if isinstance(result, GatewayError):
            self._live.failed(saves)
            if self.available:
                self._start_saving()
        else:
            self._live.saved(saves)

    def _check_available(self) -> None:
        if not self.available:
            raise StoreUnavailable("the store is not available")

    # Expiry

    async def expire(self, now: float) -> None:
        """See Store.expire; in small transactions, so that appends come in between."""
        self._appends.restart()
        self._publishes.restart()

        def then(result: tuple[list[SessionId], bool]) -> None:
            for session_id in result[0]:
                self._live.dropped(session_id)

        more = True
        while more:
            _, more = await self._do(lambda jobs: jobs.expire_sessions(now, _CHUNK), then=then)
        more = True
        while more:
            more = await self._do(lambda jobs: jobs.expire_rest(now, _CHUNK))
        self._expire_revocations(now, now - self._limits.token_lifetime - 1)


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    """Hand a result to who waits for it, if they still do."""
    if future.done():
        return
    if isinstance(result, GatewayError):
        future.set_exception(result)
    else:
        future.set_result(result)
