"""What only the sqlite store promises: it survives the process, and what happens to its file."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import ConfigError, StoreUnavailable
from gateway.mailbox import Draft, Hole, Located, Retention
from gateway.messages import ConnectionId, SessionId, TrueId
from gateway.outbox import OutboxLimits
from gateway.store import Accepted, Ban, KeysFull, Published, SessionsFull
from gateway.stores import (
    build_store,
    sqlite,
    sqlite_keys,
    sqlite_reader,
    sqlite_schema,
    sqlite_writer,
)
from gateway.stores.memory import MemoryStore
from gateway.stores.redis.store import RedisStore
from gateway.stores.sqlite import SqliteStore
from gateway.stores.sqlite_jobs import IN_USE
from gateway.stores.sqlite_live import LiveSessions
from tests.stores.conftest import ANN, BOB, LIMITS, Driver, sqlite_store
from tests.stores.test_store import accepted, is_duplicate, position_of, session


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def until(store: Driver, condition: Callable[[], bool]) -> None:
    """Let the store's threads go on until something is so."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        store.run(asyncio.sleep(0.01))


# What survives


def test_everything_survives_the_process(path: Path) -> None:
    with sqlite_store(path) as store:
        store.know([ANN, BOB])
        position = position_of(store.append(b"1", key="k", now=1.0))
        store.append(b"2")
        subject = replace(session(), name="An\0n", last_seen=5.0)
        store.add_session(subject)
        subject.generation, subject.pid, subject.start = 7, "other", 1
        store.update_session(subject)
        subject.confirm(1)
        store.save_session(subject)
        store.add_session(session(2))
        store.revoke_session(SessionId("s2"), 3.0)
        store.revoke_player(BOB, 4.0)
        store.set_ban(BOB, Ban(None, "rude"))
        epoch, size = store.epoch, store.bytes
    with sqlite_store(path) as store:
        assert (store.epoch, store.bytes, store.session_count) == (epoch, size, 1)
        assert store.read() == [b"1", b"2"]
        assert store.locate(ANN, position) is Located.HERE
        assert store.confirmed_of(ANN) == 1
        assert is_duplicate(store.append(key="k", now=50.0))
        assert store.session(SessionId("s1")) == subject
        assert store.is_revoked(SessionId("s2"), ANN, 9.0)
        assert store.is_revoked(SessionId("s9"), BOB, 4.0)
        assert not store.is_revoked(SessionId("s9"), BOB, 5.0)
        assert store.ban_of(BOB, 1e9) == Ban(None, "rude")
        assert accepted(store.append(b"3")).message_id.split(b".")[1] == b"3"


def test_rooms_survive_the_process(path: Path) -> None:
    limits = {"mailbox": Retention(2, 0, 0), "refuse_when_full": True}
    with sqlite_store(path, **limits) as store:
        for true_id in (ANN, BOB):
            store.join(true_id)
        store.join(BOB, "other")
        store.append(target=ANN)
        first = store.publish(b"1", key="a", skip=SessionId("s1"))
        store.publish(b"2")
        store.leave(BOB, "other")
        order = dict(store.memberships.members_of("r"))
    with sqlite_store(path, **limits) as store:
        assert dict(store.memberships.members_of("r")) == order
        assert store.memberships.rooms_of(BOB) == ("r",)
        again = store.publish(b"1", key="a")
        assert isinstance(again, Published)
        assert isinstance(first, Published)
        assert (again.duplicate, again.message_id) == (True, first.message_id)
        assert store.look(BOB, None, SessionId("s1")).skipped == (1,)
        assert store.batch(ANN).hole == Hole(2, 1)
        assert store.read(BOB) == [b"1", b"2"]
        eve = TrueId("eve")
        store.join(eve)
        assert store.members() == [ANN, BOB, eve]
        assert store.publish(room="other", sender=None).copies == []


def test_a_file_of_the_first_format_gets_rooms(path: Path) -> None:
    connection = sqlite_schema.connect(path, "NORMAL")
    sqlite_schema.migrate(connection, path, sqlite_schema.MIGRATIONS[:1])
    (epoch,) = connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
    connection.execute("INSERT INTO players VALUES (7, 'ann', 1, 1, 1, 161, 0, 0, 0, NULL)")
    connection.execute(
        "INSERT INTO messages (mailbox, offset, nonce, ts, body) VALUES (7, 1, 5, 0.0, x'31')"
    )
    connection.close()
    with sqlite_store(path) as store:
        assert store.epoch == epoch
        assert store.read(ANN) == [b"1"]
        store.join(ANN)
        assert isinstance(store.publish(b"2", sender=ANN), Published)
        assert store.read(ANN) == [b"1", b"2"]
        assert store.look(ANN).hole is None


ROOM_WRITER = """
import asyncio, sys
from itertools import count
from pathlib import Path
from gateway.mailbox import RoomDraft
from gateway.messages import TrueId
from gateway.store import Membership, Published
from gateway.stores.sqlite import SqliteStore
from gateway.stores import nonces
from tests.stores.conftest import LIMITS

async def main():
    store = SqliteStore(Path(sys.argv[1]), "NORMAL", LIMITS, nonces(), lambda *_: None)
    await store.open()
    players = [TrueId(f"p{number}") for number in range(20)]
    def say(*words):
        sys.stdout.write(" ".join(words) + "\\n")
        sys.stdout.flush()
    def joined(room, true_id, result):
        assert isinstance(result, Membership), result
        say("joined", room, true_id)
    def done(draft, result):
        assert isinstance(result, Published), result
        copies = [(who, copy.offset) for copy, players in result.copies for who in players]
        say("sent", draft.body.decode(), *(f"{who}={offset}" for who, offset in copies))
    for number in count():
        run = f"{sys.argv[2]}-{number}"
        who = players[number % 20]
        for room in ("all", run):
            store.join(room, who, lambda result, room=room, who=who: joined(room, who, result))
        store.publish(RoomDraft("all", who, run.encode(), run), 1.0, done)
        if number % 20 == 0:
            await asyncio.sleep(0)

asyncio.run(main())
"""


def test_no_answered_join_or_publish_is_lost_when_the_process_is_killed(path: Path) -> None:
    joined: set[tuple[str, str]] = set()
    sent: set[tuple[str, str]] = set()
    for number in range(3):
        command = [sys.executable, "-c", ROOM_WRITER, str(path), str(number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(300 + 200 * number)]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.read().splitlines(keepends=True)
        for what, first, *rest in (line.split() for line in lines if line.endswith("\n")):
            if what == "joined":
                joined.add((first, rest[0]))
            else:
                sent |= {(first, copy) for copy in rest}
        with sqlite_store(path) as store:
            kept = set()
            orders = []
            for player in (TrueId(f"p{index}") for index in range(20)):
                batch = store.batch(player, limit=10**6)
                offsets = [message.offset for message in batch.messages]
                assert offsets == list(range(1, batch.head + 1))
                kept |= {(each.body.decode(), f"{player}={each.offset}") for each in batch.messages}
                orders.append([each.body for each in batch.messages])
            assert sent <= kept
            assert all(room in store.memberships.rooms_of(TrueId(who)) for room, who in joined)
            # Whoever joined later has the end of what the first one has.
            assert all(order == orders[0][len(orders[0]) - len(order) :] for order in orders)
    assert len(sent) > 1000


def test_webhooks_survive_the_process(path: Path) -> None:
    limits = OutboxLimits(enabled=True)
    with sqlite_store(path, outbox=limits) as store:
        store.add_session(session())
        store.report_presence({ANN: True, BOB: True}, 1.0)
        before = store.webhooks(0, 100)
        store.bury_webhook(before[0].seq, "refused", 2.0)
        store.remove_webhooks([before[1].seq])
    with sqlite_store(path, outbox=limits) as store:
        assert store.webhooks(0, 100) == before[2:]
        assert (store.queued_webhooks, store.dead_webhooks) == (1, 1)
        assert store.reported_online() == {ANN, BOB}
        store.report_presence({ANN: False}, 3.0)
        assert store.webhooks(before[2].seq, 1)[0].seq == before[2].seq + 1


def test_offsets_go_on_when_all_messages_have_expired(path: Path) -> None:
    limits: dict[str, Any] = {"mailbox": Retention(0, 0, 10.0)}
    with sqlite_store(path, **limits) as store:
        store.know([ANN])
        for _ in range(3):
            store.append()
        store.expire(100.0)
    with sqlite_store(path, **limits) as store:
        assert (store.first(ANN), store.head(ANN)) == (4, 3)
        assert position_of(store.append(now=100.0)).offset == 4


def test_a_session_in_use_at_a_crash_was_seen_until_the_next_start(path: Path) -> None:
    store = sqlite_store(path)
    store.add_session(session(1, connected=True))
    store.add_session(session(2))
    # Its connection is never closed: as in a crash, nothing says that it is idle.
    store.close()
    with sqlite_store(path, clock=lambda: 5000.0) as store:
        store.expire(5000.5)
        assert store.ids() == ["s1"]
        assert store.session(SessionId("s1")).last_seen == 5000.0


WRITER = """
import asyncio, sys
from itertools import count
from pathlib import Path
from gateway.mailbox import Draft
from gateway.messages import TrueId
from gateway.store import Accepted
from gateway.stores.sqlite import SqliteStore
from gateway.stores import nonces
from tests.stores.conftest import LIMITS

async def main():
    store = SqliteStore(Path(sys.argv[1]), "NORMAL", LIMITS, nonces(), lambda *_: None)
    await store.open()
    players = [TrueId(f"p{number}") for number in range(5)]
    await store.know(players)
    def done(draft, result):
        assert isinstance(result, Accepted), result
        sys.stdout.write(f"{draft.target_id} {result.message_id.decode()}\\n")
        sys.stdout.flush()
    for number in count():
        store.append(Draft(players[number % 5], players[0], b"x" * 300, f"{sys.argv[2]}-{number}"),
            1.0, done)
        if number % 20 == 0:
            await asyncio.sleep(0)

asyncio.run(main())
"""


def test_nothing_answered_is_lost_when_the_process_is_killed(path: Path) -> None:
    answered: set[tuple[str, str]] = set()
    for number in range(5):
        command = [sys.executable, "-c", WRITER, str(path), str(number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(500 + 300 * number):
                line = process.stdout.readline()
                answered.add(tuple(line.split()))  # type: ignore[arg-type]
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read()
        answered |= {tuple(line.split()) for line in rest.splitlines(True) if line.endswith("\n")}  # type: ignore[misc]
        with sqlite_store(path) as store:
            kept = set()
            for player in (TrueId(f"p{index}") for index in range(5)):
                batch = store.batch(player, limit=10**6)
                offsets = [message.offset for message in batch.messages]
                assert offsets == list(range(1, batch.head + 1))
                kept |= {(player, message.id.decode()) for message in batch.messages}
            assert answered <= kept
    assert len(answered) > 5000


# The file


def test_the_file_is_the_owners_alone_and_its_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "store.db"
    with sqlite_store(path) as store:
        store.know([ANN])
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        for folder in (path.parent, path.parent.parent):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_url_chooses_the_store(tmp_path: Path) -> None:
    def build(url: str) -> Any:
        return build_store(url, LIMITS, tmp_path, lambda *_: None)

    assert isinstance(build("memory://"), MemoryStore)
    store = build("sqlite:///x.db?synchronous=NORMAL")
    assert isinstance(store, SqliteStore)
    assert (store._path, store._writer._synchronous) == (tmp_path / "x.db", "NORMAL")
    assert build("sqlite:////var/x.db")._path == Path("/var/x.db")
    for wrong in ("sqlite://x.db", "sqlite:///", "sqlite:///x?a=b", "sqlite:///x?synchronous=OFF"):
        with pytest.raises(ConfigError, match=r"store\.url"):
            build(wrong)
    assert isinstance(build("redis://localhost"), RedisStore)


def test_a_file_of_a_newer_release_is_refused(path: Path) -> None:
    sqlite_store(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    known = len(sqlite_schema.MIGRATIONS)
    with pytest.raises(ConfigError, match=rf"store\.db has format 99, .* up to {known}: install"):
        sqlite_store(path)


def test_a_second_gateway_is_refused_and_a_backup_is_not(path: Path, tmp_path: Path) -> None:
    with sqlite_store(path) as store:
        store.know([ANN])
        store.append()
        with pytest.raises(ConfigError, match="in use by another gateway"):
            sqlite_store(path)
        source, copy = sqlite3.connect(path), sqlite3.connect(tmp_path / "copy.db")
        source.backup(copy)
        assert copy.execute("SELECT count(*) FROM log").fetchone() == (1,)
        source.close()
        copy.close()
    sqlite_store(path).close()


def test_migrations_run_in_order_and_each_as_a_whole(path: Path) -> None:
    def fails(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE third (x)")
        raise OSError("power cut")

    steps: list[sqlite_schema.Migration] = [
        lambda connection: connection.execute("CREATE TABLE first (x)") and None,
        lambda connection: connection.execute("ALTER TABLE first RENAME TO second") and None,
    ]
    connection = sqlite3.connect(path, isolation_level=None)
    sqlite_schema.migrate(connection, path, steps[:1])
    with pytest.raises(OSError, match="power cut"):
        sqlite_schema.migrate(connection, path, [*steps, fails])
    tables = connection.execute("SELECT name FROM sqlite_schema").fetchall()
    version = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    assert (tables, version) == ([("second",)], (2,))


# Failures


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "_RETRY", 0.05)
    monkeypatch.setattr(sqlite_writer, "_MAX_RETRY", 0.1)


@pytest.mark.usefixtures("impatient")
def test_a_damaged_file_is_left_alone_until_it_is_replaced(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = b"this is no database" * 1000
    path.write_bytes(damaged)
    with sqlite_store(path) as store:
        assert not store.available
        assert isinstance(store.append(), StoreUnavailable)
        for ask in (
            lambda: store.know([ANN]),
            lambda: store.look(ANN),
            lambda: store.session(SessionId("s1")),
            lambda: store.ban_of(ANN, 0.0),
            lambda: store.is_revoked(SessionId("s1"), ANN, 0.0),
        ):
            with pytest.raises(StoreUnavailable):
                ask()
        store.run(asyncio.sleep(0.5))
        assert path.read_bytes() == damaged
        (record,) = caplog.records
        assert "stop the gateway, then restore a backup" in record.getMessage()
        path.unlink()
        until(store, lambda: bool(store.available))
        store.know([ANN])
        accepted(store.append())
        assert "available again" in caplog.records[-1].getMessage()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
@pytest.mark.usefixtures("impatient")
def test_a_full_disk_refuses_and_goes_on_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=True)
    try:
        with sqlite_store(disk / "store.db") as store:
            subject = session(connected=True)
            store.add_session(subject)
            kept = 0
            while isinstance(result := store.append(b"x" * 5000), Accepted):
                kept += 1
            assert isinstance(result, StoreUnavailable)
            assert not store.available
            assert isinstance(store.append(), StoreUnavailable)
            subject.confirm(3)
            store.save_session(subject)
            store.run(asyncio.sleep(0.5))
            assert not store.available
            assert len([each for each in caplog.records if each.levelno == logging.ERROR]) <= 2
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            until(store, lambda: bool(store.available))
            assert store.head(ANN) == kept
            assert position_of(store.append(b"y")).offset == kept + 1
            assert store.read(limit=1000) == [b"x" * 5000] * kept + [b"y"]
        with sqlite_store(disk / "store.db") as store:
            assert store.head(ANN) == kept + 1
            assert store.confirmed_of(ANN) == 3
    finally:
        subprocess.run(["umount", str(disk)], check=False)


@pytest.mark.usefixtures("impatient")
def test_a_file_that_another_program_has_locked_is_waited_for(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sqlite_store(path) as store:
        store.know([ANN])
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            store.check()
        assert isinstance(store.append(b"1"), StoreUnavailable)
        assert "another program has locked the file" in caplog.records[0].getMessage()
        other.execute("ROLLBACK")
        other.close()
        until(store, lambda: bool(store.available))
        store.check()
        accepted(store.append(b"2"))
        assert store.read() == [b"2"]


def test_more_than_can_wait_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "_MAX_QUEUED", 10)
    with sqlite_store(path) as store:
        store.know([ANN])
        results: list[Any] = []

        async def flood() -> None:
            for _ in range(5000):
                store.store.append(Draft(ANN, None, b""), 0.0, lambda _, result: add(result))
            while len(results) < 5000:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        add = results.append
        store.run(flood())
        refused = [each for each in results if isinstance(each, StoreUnavailable)]
        assert refused
        assert store.head(ANN) == 5000 - len(refused)
        assert store.available


# How it works


def test_answers_come_in_the_order_of_the_questions(path: Path) -> None:
    with sqlite_store(path) as store:
        store.know([ANN])
        order: list[int] = []

        async def ask() -> None:
            for number in range(3000):
                target = ANN if number % 3 else TrueId("stranger")
                draft = Draft(target, None, b"%d" % number)
                store.store.append(draft, 0.0, lambda draft, _: order.append(int(draft.body)))
                if number % 100 == 0:
                    await asyncio.sleep(0)
            assert not order or len(order) < 3000
            while len(order) < 3000:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        store.run(ask())
        assert order == list(range(3000))


def test_a_read_sees_what_was_answered_before(path: Path) -> None:
    with sqlite_store(path) as store:
        store.know([ANN])
        for number in range(1, 50):
            store.append(b"%d" % number)
            assert store.batch(ANN, number - 1).messages[0].body == b"%d" % number


def test_many_saves_of_a_session_are_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_SAVE_DELAY", 0.02)
    with sqlite_store(path) as store:
        subject = session(connected=True)
        store.add_session(subject)
        for _ in range(99):
            store.append()
        jobs = []
        put = store.store._writer.put
        monkeypatch.setattr(store.store._writer, "put", lambda job: (jobs.append(job), put(job)))

        async def confirm() -> None:
            for offset in range(1, 100):
                subject.confirm(offset)
                store.store.save_session(subject)

        store.run(confirm())
        assert store.confirmed_of(ANN) == 99
        until(store, lambda: not store.store._live._unsaved)
        assert len(jobs) == 1
        assert store.confirmed_of(ANN) == 99


def test_a_session_in_use_is_one_object(path: Path) -> None:
    with sqlite_store(path) as store:
        subject = session(connected=True)
        store.add_session(subject)
        assert store.session(subject.id, subject.true_id) is subject
        assert store.sessions_of(ANN)[0] is subject
        subject.connection_id = None
        store.save_session(subject)
        store.append()
        found = store.session(subject.id, subject.true_id)
        assert found == subject
        found.connection_id = ConnectionId(9)
        store.save_session(found)
        assert store.session(subject.id, subject.true_id) is found
        store.revoke_session(subject.id, 1.0, true_id=subject.true_id)
        assert store.session(subject.id, subject.true_id) is None
        store.save_session(found)
        assert store.session(subject.id, subject.true_id) is None


def test_expiry_goes_in_chunks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_CHUNK", 10)
    with sqlite_store(path, mailbox=Retention(0, 0, 10.0)) as store:
        store.know([ANN, BOB])
        for number in range(25):
            store.append(now=1.0, key=f"{number}", target=(ANN, BOB)[number % 2])
            store.add_session(session(number, TrueId(f"p{number}")))
        store.append(b"new", now=5000.0)
        chunks = []
        put = store.store._writer.put
        monkeypatch.setattr(store.store._writer, "put", lambda job: (chunks.append(1), put(job)))
        store.expire(5000.0)
        assert len(chunks) >= 7
        assert (store.read(ANN), store.read(BOB), store.session_count) == ([b"new"], [], 0)
        assert store.bytes == 163
        connection = sqlite3.connect(path)
        counts = [
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("log", "keys", "sessions", "players")
        ]
        connection.close()
        assert counts == [1, 0, 0, 2]


def test_closing_writes_what_is_queued(path: Path) -> None:
    store = sqlite_store(path)
    store.know([ANN])
    results: list[Any] = []

    async def ask() -> None:
        for _ in range(5000):
            store.store.append(Draft(ANN, None, b"x"), 0.0, lambda _, result: add(result))

    add = results.append
    store.run(ask())
    store.close()
    assert len(results) == 5000
    assert all(isinstance(each, Accepted) for each in results)
    assert not list(itertools.chain(path.parent.glob("*-wal"), path.parent.glob("*-shm")))
    assert os.stat(path).st_size > 5000
    with sqlite_store(path) as store:
        assert store.head(ANN) == 5000


def test_an_old_object_does_not_displace_the_session_in_use(path: Path) -> None:
    with sqlite_store(path, sessions_per_player=1) as store:
        old = session(1, connected=True)
        store.add_session(old)
        store.revoke_session(old.id, 1.0)
        new = replace(session(1), opened=5, connection_id=ConnectionId(9))
        store.add_session(new)
        for connection in (ConnectionId(8), None):
            old.connection_id = connection
            store.save_session(old)
            assert store.session(new.id, new.true_id) is new
        store.know([ANN])
        with pytest.raises(SessionsFull):
            store.add_session(session(2))


def test_a_connection_lost_while_it_is_taken_into_use_leaves_the_session_idle(path: Path) -> None:
    with sqlite_store(path) as store:
        store.add_session(session(1))
        subject = store.session(SessionId("s1"))
        subject.connection_id = ConnectionId(7)

        async def lost() -> None:
            asked = asyncio.ensure_future(store.store.update_session(subject))
            await asyncio.sleep(0)
            subject.connection_id = None
            store.store.save_session(subject)
            assert await asked

        store.run(lost())
        store.expire(5000.0)
        assert store.session_count == 0


def test_saves_that_fail_come_back_in_their_order() -> None:
    live = LiveSessions()
    subject = session(connected=True)
    live.save(subject)
    first = live.take()
    subject.connection_id, subject.last_seen = None, 9.0
    live.save(subject)
    second = live.take()
    live.failed(first)
    live.failed(second)
    (save,) = live.take()
    assert (save.last_seen, save.idle) == (9.0, second[0].idle)
    assert save.idle not in (None, IN_USE)
    live.dropped(subject.id)
    live.saved([save])
    assert (live.waiting, live.confirmed(ANN), live._confirmed) == (False, 0, {})


def test_what_is_queued_of_a_dropped_session_is_only_the_players() -> None:
    live = LiveSessions()
    subject = replace(session(connected=True), confirmed=4)
    live.save(subject)
    live.dropped(subject.id)
    saves = live.take()
    assert [save.change()[1].id for save in saves] == [""]
    live.saved(saves)
    assert (live._confirmed, live._unsaved) == ({}, {})


def test_keys_at_their_limit_expire_a_few_at_a_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_keys, "_OLD_KEYS_CHUNK", 2)
    with sqlite_store(path, dedupe_keys=5) as store:
        store.know([ANN, BOB])
        for number in range(5):
            accepted(store.append(key=f"{number}", now=float(number)))
        assert isinstance(store.append(key="x", now=100.0), KeysFull)
        accepted(store.append(key="x", now=104.5))
        assert not is_duplicate(store.append(key="3", now=104.5))
        assert is_duplicate(store.append(key="4", now=104.0))
        plans = [
            store.store._writer._jobs.ledger.players.connection.execute(
                f"EXPLAIN QUERY PLAN {statement}", arguments
            ).fetchall()
            for statement, arguments in (
                (sqlite_keys._OLDEST_KEY, (1,)),
                (sqlite_keys._OLD_KEYS_OF, (1, 1.0, 2)),
            )
        ]
        assert all("keys_sender" in str(plan) and "B-TREE" not in str(plan) for plan in plans)


def test_a_clock_that_is_behind_at_the_start_expires_nobody(path: Path) -> None:
    store = sqlite_store(path)
    store.add_session(session(1, last_seen=5000.0, connected=True))
    store.close()
    with sqlite_store(path, clock=lambda: 10.0) as store:
        assert store.session(SessionId("s1")).last_seen == 5000.0


def test_an_old_sqlite_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 37, 2))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.37.2")
    with pytest.raises(ConfigError, match=r"SQLite 3\.37\.2, .* needs 3\.38\.0 or newer"):
        sqlite_store(path)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("backup", [False, True])
def test_a_file_replaced_under_a_running_gateway_is_told(path: Path, backup: bool) -> None:
    with sqlite_store(path) as store:
        told: list[bool] = []
        store.store.on_replaced = lambda: told.append(store.store.available)
        subject = session(connected=True)
        store.add_session(subject)
        store.append(b"1")
        copy = path.with_name("copy")
        source, target = sqlite3.connect(path), sqlite3.connect(copy)
        source.backup(target)
        source.close()
        target.close()
        store.append(b"2")
        subject.confirm(2)
        store.save_session(subject)
        # A failure alone tells nothing.
        store.store._writer.suspect(sqlite3.DatabaseError("malformed"))
        until(store, lambda: not store.available)
        until(store, lambda: bool(store.available))
        assert (told, store.session(subject.id, subject.true_id)) == ([], subject)
        for file in path.parent.glob("store.db*"):
            if file.suffix != ".lock":
                file.unlink()
        if backup:
            copy.rename(path)
        store.store._writer.suspect(sqlite3.DatabaseError("malformed"))
        until(store, lambda: bool(told))
        assert told == [True]
        subject.connection_id = None
        store.save_session(subject)
        found = store.session(subject.id, subject.true_id)
        assert found is not subject
        assert (found is not None) == backup
        store.expire(5000.0)
        assert store.session_count == 0
        assert store.confirmed_of(ANN) == 0


def test_reads_are_bounded_and_come_after_everything_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_reader, "_MAX_BATCH_BYTES", 1000)
    with sqlite_store(path) as store:
        store.know([ANN])
        store.append(b"1")
        sizes = []
        answer = store.store._reader._answer
        all_asked = threading.Event()

        def answer_later(batch: list[Any]) -> Any:
            assert all_asked.wait(20)
            sizes.append(len(batch))
            return answer(batch)

        monkeypatch.setattr(store.store._reader, "_answer", answer_later)

        async def ask() -> list[str]:
            order: list[str] = []
            for _ in range(300):
                store.store.read(ANN, 0, 9, 400, lambda _: order.append("read"))
            asyncio.get_running_loop().call_soon(all_asked.set)
            await store.store.view(ANN)
            order.append("view")
            while len(order) < 301:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            return order

        assert store.run(ask()).index("view") < 300
        assert max(sizes) == 2


def test_a_read_that_cannot_be_answered_harms_no_other(path: Path) -> None:
    with sqlite_store(path) as store:
        store.know([ANN])
        with pytest.raises(StoreUnavailable):
            store.look(TrueId("\udc80"))
        assert store.head(ANN) == 0
        assert store.available


def test_bodies_that_wait_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "_MAX_QUEUED_BYTES", 10_000)
    monkeypatch.setattr(sqlite_writer, "_MAX_BATCH_BYTES", 2000)
    with sqlite_store(path) as store:
        store.know([ANN])
        results: list[Any] = []

        async def flood() -> None:
            for _ in range(500):
                store.store.append(Draft(ANN, None, b"x" * 900), 0.0, lambda _, each: add(each))
            while len(results) < 500:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        add = results.append
        store.run(flood())
        refused = [each for each in results if isinstance(each, StoreUnavailable)]
        assert refused
        assert store.head(ANN) == 500 - len(refused)
        writer = store.store._writer
        assert writer._bytes_in == writer._bytes_out > 0


def test_what_cannot_be_stored_harms_nothing_else(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sqlite_store(path) as store:
        store.know([ANN])
        results: list[Any] = []

        async def ask() -> None:
            for number in range(50):
                target = TrueId("\udc80") if number == 20 else ANN
                store.store.append(Draft(target, None, b"x"), 0.0, lambda _, each: add(each))
            while len(results) < 50:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        add = results.append
        store.run(ask())
        assert [type(each) for each in results].count(StoreUnavailable) == 1
        assert isinstance(results[20], StoreUnavailable)
        assert (store.head(ANN), store.bytes, store.available) == (49, 49 * 161, True)
        assert len(caplog.records) == 1


def test_a_session_seen_in_the_future_keeps_no_other_from_expiring(path: Path) -> None:
    with sqlite_store(path) as store:
        store.add_session(session(1, last_seen=1e9))
        store.add_session(session(2))
        store.expire(5000.0)
        assert store.ids() == ["s1"]
