"""The writer thread of the sqlite store: takes what is queued, one transaction at a time.

The next transaction begins when the last one is answered, with all that has come meanwhile:
the slower the disk, the larger the transactions.
"""

from __future__ import annotations

import logging
import os
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway.errors import ConfigError, GatewayError, StoreUnavailable
from gateway.mailbox import Draft
from gateway.store import AppendDone, StoreLimits
from gateway.stores import sqlite_schema as schema
from gateway.stores.sqlite_jobs import Jobs
from gateway.stores.sqlite_ledger import Ledger
from gateway.stores.sqlite_pending import SETUP
from gateway.stores.sqlite_players import WRITES, Players
from gateway.stores.sqlite_turns import Turns

logger = logging.getLogger(__name__)

#: Appends and jobs that may wait for the writer; beyond it they are refused.
_MAX_QUEUED: Final = 50_000
#: The same, but a message to a room counts for each member.
_MAX_QUEUED_ROWS: Final = 200_000
#: What those appends may have in their bodies.
_MAX_QUEUED_BYTES: Final = 256 * 1024 * 1024
#: Rows of one transaction, about: more would answer the first of them too late.
_MAX_BATCH: Final = 2000
#: A message to a room is one row; its copies cost so much less than rows of their own.
_COPIES_OF_A_ROW: Final = 16
#: With this much in their bodies no more are added to it, in bytes.
_MAX_BATCH_BYTES: Final = 64 * 1024 * 1024
_RETRY: Final = 1.0
#: Looking through a damaged file takes long: the pause doubles up to this.
_MAX_RETRY: Final = 60.0
_EPOCH: Final = "SELECT value FROM meta WHERE name = 'epoch'"
#: After a failure the store is used again when this much can be written: the last few free
#: pages of a full disk would not carry it far.
_PROBE: Final = (
    "UPDATE meta SET value = value + 1 WHERE name = 'writes'",
    "INSERT OR REPLACE INTO meta VALUES ('probe', zeroblob(262144))",
    "DELETE FROM meta WHERE name = 'probe'",
)


@dataclass(slots=True, eq=False)
class Job:
    """Something to do in a transaction; `done` is called on the loop with what `run` returned.

    Or with a GatewayError. `players` and `sessions` are what it will look at, `copies` how many
    players will get a message, about, and `size` that of its body.
    """

    run: Callable[[Jobs], Any]
    done: Callable[[Any], None]
    players: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    copies: int = 0
    size: int = 0


Append = tuple[Draft, float, AppendDone]
Answer = tuple[Append | Job, Any]


@dataclass(slots=True)
class Answers:
    """What came of a transaction."""

    answers: list[Answer]
    dropped: list[tuple[str, int]] = field(default_factory=list)
    #: Bytes, messages and sessions that the store has now.
    totals: tuple[int, int, int] | None = None
    #: Webhooks that wait and those kept that were given up; new ones, given up for lack of room.
    webhooks: tuple[int, int, int, int] | None = None
    #: Bounds that were hit, as OnLimit is told.
    limits: tuple[str, ...] = ()


class Writer:
    """Owns the connection that writes. `deliver` takes Answers; it is called in the thread.

    `restore` is called in the thread with each new connection and whether the gateway has not
    had this file before, ahead of `on_available(True)`; with False that tells that the store
    can no longer be written.
    """

    def __init__(
        self,
        path: Path,
        synchronous: str,
        limits: StoreLimits,
        nonces: Iterator[int],
        restore: Callable[[sqlite3.Connection, bool], None],
        deliver: Callable[[Answers], None],
        on_available: Callable[[bool], None],
        turns: Turns,
    ) -> None:
        self._path = path
        self._synchronous = synchronous
        self._limits = limits
        self._nonces = nonces
        self._restore = restore
        self._deliver = deliver
        self._on_available = on_available
        self._turns = turns
        self._queue: deque[Append | Job] = deque()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        #: Each is changed by one thread: what has been queued, and what was taken. A message counts
        #: as a row for each of its mailboxes.
        self._bytes_in = 0
        self._bytes_out = 0
        self._rows_in = 0
        self._rows_out = 0
        self._asleep = False
        self._stopping = False
        self._connection: sqlite3.Connection | None = None
        self._jobs: Jobs | None = None
        self._damaged = False
        self._pause = _RETRY
        self._told = ""
        self._lock: int | None = None
        #: The store's bytes, messages, sessions, and webhooks that wait or are dead, as opened.
        self.totals: tuple[int, int, int, int, int] | None = None
        #: What `writes` in the file was last known to be: a smaller one is an older file's.
        self._writes = 0
        self._epoch = ""
        #: Whether the file is another one, or an older state, than before the last failure.
        self.replaced = False
        self._suspicion: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="sqlite-writer", daemon=True)

    def has_room(self) -> bool:
        """Tell whether more may be queued."""
        return (
            len(self._queue) < _MAX_QUEUED
            and self._rows_in - self._rows_out < _MAX_QUEUED_ROWS
            and self._bytes_in - self._bytes_out < _MAX_QUEUED_BYTES
        )

    def put(self, item: Append | Job) -> None:
        """Queue something. Called by one thread, the event loop's."""
        self._queue.append(item)
        if isinstance(item, Job):
            self._bytes_in += item.size
            self._rows_in += 1 + item.copies
        else:
            self._bytes_in += len(item[0].body)
            self._rows_in += 1
        if self._asleep:
            self._asleep = False
            self._wake.put(None)

    def players(self) -> Players | None:
        """Return what is known of players, None without a file. Called with the writer's turn."""
        jobs = self._jobs
        return jobs.ledger.players if jobs is not None else None

    def suspect(self, error: BaseException) -> None:
        """Look whether the file is damaged, as `error` says. Called by any thread."""
        self._suspicion = error
        self._wake.put(None)

    def start(self) -> None:
        """Open the file and begin. Raises ConfigError, and nothing else."""
        try:
            self._open()
        except ConfigError:
            self._drop()
            self._unlock()
            raise
        except Exception as error:
            self._fail(error)
        self._thread.start()

    def stop(self) -> None:
        """Finish what is queued and end the thread; blocks."""
        self._stopping = True
        self._wake.put(None)
        if self._thread.is_alive():
            self._thread.join()

    # The thread

    def _run(self) -> None:
        while True:
            batch = self._take()
            if not batch:
                if self._stopping:
                    break
                self._wait()
            elif self._jobs is None:
                self._refuse(batch)
            else:
                with self._turns:
                    self._write(batch, self._jobs)
        if self._connection is not None:
            try:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.Error as error:
                logger.warning("%s: no checkpoint: %s", self._path, error)
        self._drop()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take(self) -> list[Append | Job]:
        batch: list[Append | Job] = []
        size = rows = cost = 0
        take = self._queue.popleft
        while self._queue and cost < _MAX_BATCH and size < _MAX_BATCH_BYTES:
            item = take()
            batch.append(item)
            if isinstance(item, Job):
                size += item.size
                rows += 1 + item.copies
                cost += 1 + item.copies // _COPIES_OF_A_ROW
            else:
                size += len(item[0].body)
                rows += 1
                cost += 1
        self._bytes_out += size
        self._rows_out += rows
        return batch

    def _wait(self) -> None:
        self._asleep = True
        # Something may have come before the flag was up.
        if self._queue:
            self._asleep = False
            return
        try:
            self._wake.get(timeout=self._pause if self._jobs is None else None)
        except queue.Empty:
            with self._turns:
                self._try_again()
        self._asleep = False
        if self._suspicion is not None and self._jobs is not None:
            with self._turns:
                self._fail(self._suspicion)
        self._suspicion = None

    def _write(self, batch: list[Append | Job], jobs: Jobs) -> None:
        ledger = jobs.ledger
        try:
            answers = self._decide(batch, jobs)
            ledger.players.commit()
            self._writes = ledger.players.writes
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.DataError):
                self._retry(batch, jobs, error)
                return
            self._fail(error)
            self._refuse(batch)
            return
        except Exception as error:
            self._retry(batch, jobs, error)
            return
        dropped, ledger.dropped = ledger.dropped, []
        outbox = ledger.outbox
        webhooks = (outbox.queued, outbox.dead, *outbox.take_counts())
        totals = (ledger.total_bytes, ledger.message_count, jobs.session_count)
        limits = ("store.copies",) if ledger.players.folded else ()
        ledger.players.folded = False
        self._deliver(Answers(answers, dropped, totals, webhooks, limits))

    def _retry(self, batch: list[Append | Job], jobs: Jobs, error: Exception) -> None:
        """Do each item of a batch by itself: one of them is beyond what was foreseen."""
        try:
            self._begin_again(jobs.ledger.players.connection)
        except Exception as worse:
            self._fail(worse)
        if len(batch) == 1:
            logger.error("%s: something could not be stored", self._path, exc_info=error)
            self._refuse(batch)
            return
        for item in batch:
            if self._jobs is None:
                self._refuse([item])
            else:
                self._write([item], self._jobs)

    def _begin_again(self, connection: sqlite3.Connection) -> None:
        """Roll back, and know only what the file has."""
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        self._jobs = Jobs(Ledger(connection, self._limits, self._epoch, self._nonces))

    def _decide(self, batch: list[Append | Job], jobs: Jobs) -> list[Answer]:
        appends = [item for item in batch if type(item) is tuple]
        others = [item for item in batch if isinstance(item, Job)]
        jobs.ledger.prefetch(
            appends,
            [each for job in others for each in job.players],
        )
        jobs.prefetch_sessions([each for job in others for each in job.sessions])
        append = jobs.ledger.append
        if not others:
            return [(item, append(item[0], item[1])) for item in appends]
        answers: list[Answer] = []
        for item in batch:
            if isinstance(item, Job):
                try:
                    answers.append((item, item.run(jobs)))
                except GatewayError as error:
                    answers.append((item, error))
            else:
                answers.append((item, append(item[0], item[1])))
        return answers

    def _refuse(self, batch: list[Append | Job]) -> None:
        error = StoreUnavailable("the store cannot be written")
        self._deliver(Answers([(item, error) for item in batch]))

    # Opening, failing, and opening again

    def _open(self) -> None:
        if self._lock is None:
            self._lock = schema.lock(self._path)
        schema.prepare(self._path)
        connection = self._connection = schema.connect(self._path, self._synchronous)
        if self._damaged:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(found)
        schema.migrate(connection, self._path, schema.MIGRATIONS)
        schema.begin_epoch(connection)
        for statement in SETUP:
            connection.execute(statement)
        epoch = connection.execute(_EPOCH).fetchone()[0]
        writes = connection.execute(WRITES).fetchone()[0]
        known = epoch == self._epoch and writes >= self._writes
        for statement in _PROBE if self._told else _PROBE[:1]:
            connection.execute(statement)
        self._restore(connection, not known)
        jobs = self._jobs = Jobs(Ledger(connection, self._limits, epoch, self._nonces))
        self.replaced = not known and self._epoch != ""
        self._epoch, self._writes = epoch, jobs.ledger.players.writes
        outbox = jobs.ledger.outbox
        ledger = jobs.ledger
        totals = (ledger.total_bytes, ledger.message_count, jobs.session_count)
        self.totals = (*totals, outbox.queued, outbox.dead)
        self._damaged = False
        self._pause = _RETRY
        self._on_available(True)

    def _drop(self) -> None:
        connection, self._connection, self._jobs = self._connection, None, None
        if connection is not None:
            # Closing rolls back what was not committed.
            try:
                connection.close()
            except sqlite3.Error as error:
                logger.warning("%s: %s", self._path, error)

    def _fail(self, error: BaseException) -> None:
        """Give up the connection; whatever was under way is rolled back."""
        self._on_available(False)
        self._drop()
        self._damaged |= schema.is_damage(error)
        if self._damaged:
            self._pause = min(_MAX_RETRY, 2 * self._pause)
        text = schema.explain(error)
        if text != self._told:
            self._told = text
            traceback = None if isinstance(error, (sqlite3.Error, OSError)) else error
            logger.error(
                "the store %s is not available: %s; the gateway tries again by itself",
                self._path,
                text,
                exc_info=traceback,
            )

    def _try_again(self) -> None:
        try:
            self._open()
        except Exception as error:
            self._fail(error)
        else:
            self._told = ""
            logger.warning("the store %s is available again", self._path)
