"""Users in a SQLite file: who writes it, who reads it, and what may be wrong with it."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import sqlite3
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.auth.password import PasswordAuthenticator
from gateway.auth.users_database import UsersDatabase
from gateway.auth.users_file import UsersFile
from gateway.auth.users_format import User, UsersError
from gateway.errors import ConnectRefused
from gateway.messages import TrueId
from tests.services.test_users_file import (
    FAST,
    GOOD,
    HASH,
    OTHER,
    SLOWER,
    USERS_PER_PROCESS,
    CountingHasher,
    ids,
)

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier


@pytest.fixture
def path(tmp_path: Path) -> Path:
    # A name that would mean something in a URI.
    return tmp_path / "us?ers#1.db"


@pytest.fixture
def users(path: Path) -> UsersDatabase:
    return UsersDatabase(path, ids(), FAST)


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def damage(path: Path) -> None:
    path.write_bytes(b"damaged" * 1000)


def test_a_missing_file_is_an_empty_one(users: UsersDatabase, path: Path) -> None:
    users.load()
    assert users.list() == []
    assert users.lookup("ann") is None
    assert users.true_ids() == frozenset()
    assert not users.has(TrueId("p1"))
    assert not path.exists()


def test_users_are_added_changed_listed_and_removed(users: UsersDatabase, path: Path) -> None:
    ann, bob = users.add("ann", GOOD), users.add("bob", OTHER)
    assert (ann.username, ann.true_id, bob.true_id) == ("ann", "p1", "p2")
    assert users.list() == [ann, bob]
    assert users.lookup("ann") == ann
    assert users.verify(users.lookup("ann"), GOOD)
    assert not users.verify(users.lookup("ann"), OTHER)
    changed = users.set_password("ann", OTHER)
    assert (changed.true_id, users.list()) == ("p1", [changed, bob])
    assert users.verify(users.lookup("ann"), OTHER)
    users.remove("ann")
    assert users.list() == [bob]
    assert users.true_ids() == {"p2"}
    assert (users.has(TrueId("p1")), users.has(TrueId("p2"))) == (False, True)
    assert GOOD.encode() not in path.read_bytes()
    # The hash of who is gone is gone, too.
    assert ann.hash.encode() not in path.read_bytes()


def test_what_a_file_refuses_a_database_does_in_the_same_words(tmp_path: Path) -> None:
    kinds = [
        UsersFile(tmp_path / "users", ids(), FAST),
        UsersDatabase(tmp_path / "users.db", ids(), FAST),
    ]
    told = []
    for users in kinds:
        users.add("ann", GOOD)
        attempts = (
            lambda users=users: users.add("ann", OTHER),
            lambda users=users: users.add("a:b", OTHER),
            lambda users=users: users.add("", OTHER),
            lambda users=users: users.add("bob", "short"),
            lambda users=users: users.set_password("bob", OTHER),
            lambda users=users: users.set_password("ann", "short"),
            lambda users=users: users.remove("bob"),
        )
        texts = []
        for attempt in attempts:
            with pytest.raises(UsersError) as caught:
                attempt()
            texts.append(str(caught.value).replace("users.db", "users"))
        told.append(texts)
        assert [user.username for user in users.list()] == ["ann"]
    assert told[0] == told[1]


def test_usernames_are_exact_and_composed(users: UsersDatabase) -> None:
    users.add("A\u0308nn", GOOD)
    assert users.lookup("\xc4nn") is not None
    assert users.lookup("\xe4nn") is None


def test_an_id_that_is_taken_or_cannot_be_is_not_written(path: Path) -> None:
    users = UsersDatabase(path, lambda: TrueId("p1"), FAST)
    users.add("ann", GOOD)
    with pytest.raises(UsersError, match=r"true_id"):
        users.add("bob", GOOD)
    with pytest.raises(UsersError, match="true_id must be 1 to 128 visible"):
        UsersDatabase(path, lambda: TrueId("a:b"), FAST).add("bob", GOOD)
    assert [user.username for user in users.list()] == ["ann"]


def test_the_file_is_private_and_nothing_else_is_left(users: UsersDatabase, path: Path) -> None:
    users.add("ann", GOOD)
    users.load()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_makes_belongs_to_the_owner_of_the_folder(
    users: UsersDatabase, path: Path
) -> None:
    os.chown(path.parent, 1234, 1235)
    users.add("ann", GOOD)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1235)


def test_a_file_open_to_others_is_warned_about_at_load(
    users: UsersDatabase, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    users.add("ann", GOOD)
    users.load()
    assert caplog.records == []
    path.chmod(0o644)
    users.load()
    assert "chmod 600" in caplog.records[0].getMessage()


# What others do meanwhile


def test_a_reader_sees_at_once_what_another_writer_did(users: UsersDatabase, path: Path) -> None:
    reader = UsersDatabase(path, ids(), FAST)
    assert reader.lookup("ann") is None
    ann = users.add("ann", GOOD)
    assert (reader.lookup("ann"), reader.true_ids()) == (ann, {"p1"})
    changed = users.set_password("ann", OTHER)
    assert (reader.lookup("ann"), reader.true_ids()) == (changed, {"p1"})
    execute(path, f"INSERT INTO users (username, true_id, hash) VALUES ('web', 'u-7', '{HASH}')")
    assert reader.lookup("web") == User("web", TrueId("u-7"), HASH)
    assert reader.true_ids() == {"p1", "u-7"}
    users.remove("ann")
    assert (reader.lookup("ann"), reader.has(TrueId("p1"))) == (None, False)


def test_another_file_in_its_place_is_opened(users: UsersDatabase, path: Path) -> None:
    users.add("ann", GOOD)
    other = UsersDatabase(path.with_name("new"), ids("q"), FAST)
    bob = other.add("bob", GOOD)
    assert users.true_ids() == {"p1"}
    path.with_name("new").replace(path)
    assert (users.lookup("ann"), users.lookup("bob"), users.true_ids()) == (None, bob, {"q1"})
    path.unlink()
    assert (users.lookup("bob"), users.true_ids()) == (None, frozenset())


def test_a_writer_waits_for_another_one(users: UsersDatabase, path: Path) -> None:
    users.add("ann", GOOD)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        # Readers do not.
        assert users.lookup("ann") is not None
        with ThreadPoolExecutor(1) as executor:
            adding = executor.submit(users.add, "bob", GOOD)
            assert users.lookup("bob") is None
            other.execute("COMMIT")
            assert adding.result(15).username == "bob"


def add_many(path: Path, prefix: str, barrier: Barrier) -> None:
    users = UsersDatabase(path, ids(prefix), FAST)
    barrier.wait()
    for number in range(USERS_PER_PROCESS):
        users.add(f"{prefix}{number}", GOOD)


def test_two_processes_that_add_users_lose_none(users: UsersDatabase, path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    writers = [context.Process(target=add_many, args=(path, each, barrier)) for each in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    users.load()
    assert len(users.list()) == len(users.true_ids()) == 2 * USERS_PER_PROCESS


# What may be wrong


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (["CREATE TABLE users (username)"], "is a database, but not one of users"),
        (["PRAGMA application_id = 7"], "is a database, but not one of users"),
        (
            ["PRAGMA application_id = 1195865459", "PRAGMA user_version = 2"],
            "is of version 2, and this release knows up to 1",
        ),
    ],
)
def test_another_programs_or_a_newer_releases_database_is_refused(
    users: UsersDatabase, path: Path, statements: list[str], message: str
) -> None:
    execute(path, *statements)
    before = path.read_bytes()
    for use in (users.load, users.list, lambda: users.add("ann", GOOD)):
        with pytest.raises(UsersError, match=message):
            use()
    assert path.read_bytes() == before


def test_what_is_no_database_is_refused(users: UsersDatabase, path: Path) -> None:
    path.write_text("ann:p1:hash\n" * 100)
    for use in (users.load, users.list, lambda: users.add("ann", GOOD)):
        with pytest.raises(UsersError, match="file is not a database"):
            use()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    users = UsersDatabase(tmp_path / "none" / "users.db", ids(), FAST)
    assert users.list() == []
    with pytest.raises(UsersError, match=r"cannot write .*users\.db: No such file"):
        users.add("ann", GOOD)
    with pytest.raises(UsersError, match=r"there is no .*users\.db; add a user first"):
        users.remove("ann")


@pytest.mark.parametrize(
    ("username", "true_id", "hashed"),
    [("ann ", "u-1", HASH), ("ann", "u 1", HASH), ("ann", "u-1", "secret")],
)
def test_a_row_that_cannot_be_used_is_an_error_and_names_the_user_not_the_hash(
    users: UsersDatabase, path: Path, username: str, true_id: str, hashed: str
) -> None:
    users.add("bob", GOOD)
    execute(
        path,
        "INSERT INTO users (username, true_id, hash) "
        f"VALUES ('{username}', '{true_id}', '{hashed}')",
    )
    for use in (lambda: users.lookup(username), users.list):
        with pytest.raises(UsersError, match="user 'ann") as caught:
            use()
        assert "secret" not in str(caught.value)
    # Others are not concerned.
    assert users.lookup("bob") is not None
    assert "p1" in users.true_ids()
    assert "u 1" not in users.true_ids()


def test_a_damaged_file_is_logged_once_and_the_ids_from_before_stay(
    users: UsersDatabase, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    users.add("ann", GOOD)
    assert users.true_ids() == {"p1"}
    good = path.read_bytes()
    path.unlink()
    damage(path)
    for _ in range(3):
        assert users.true_ids() == {"p1"}
        assert users.has(TrueId("p1"))
        with pytest.raises(UsersError):
            users.lookup("ann")
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    path.unlink()
    path.write_bytes(good)
    assert users.lookup("ann") is not None
    assert users.true_ids() == {"p1"}


# Passwords


def test_verifying_an_unknown_user_costs_a_hash_of_the_same_parameters(path: Path) -> None:
    hasher = CountingHasher()
    users = UsersDatabase(path, ids(), hasher)
    assert not users.verify(users.lookup("nobody"), GOOD)
    (decoy,) = hasher.verified
    assert str(decoy).split("$")[1:4] == HASH.split("$")[1:4]


def test_a_hash_with_other_parameters_is_renewed_unless_the_password_was_changed(
    users: UsersDatabase, path: Path
) -> None:
    ann = users.add("ann", GOOD)
    assert not users.rehash(ann, GOOD)
    later = UsersDatabase(path, ids(), SLOWER)
    assert later.rehash(ann, GOOD)
    renewed = later.lookup("ann")
    assert renewed is not None
    assert "m=16,t=2" in renewed.hash
    assert later.verify(renewed, GOOD)
    changed = users.set_password("ann", OTHER)
    assert not later.rehash(ann, GOOD)
    assert users.lookup("ann") == changed


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def test_players_log_in_by_it(
    users: UsersDatabase,
    path: Path,
    executor: ThreadPoolExecutor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    authenticator = PasswordAuthenticator(users, executor, 0, lambda: 0.0)

    async def log_in(username: str, password: str) -> str:
        try:
            auth = {"username": username, "password": password}
            return (await authenticator.authenticate(auth, "192.0.2.1")).true_id
        except ConnectRefused as error:
            return error.code

    async def scenario() -> None:
        assert await log_in("ann", GOOD) == "bad_credentials"
        for name in ("ann", "bob", "eve"):
            users.add(name, GOOD)
        attempts = [log_in(name, GOOD) for name in ("ann", "bob", "eve") * 5]
        assert await asyncio.gather(*attempts) == ["p1", "p2", "p3"] * 5
        assert await log_in("ann", OTHER) == "bad_credentials"
        assert await authenticator.still_valid(TrueId("p1"))
        users.remove("ann")
        assert await log_in("ann", GOOD) == "bad_credentials"
        assert not await authenticator.still_valid(TrueId("p1"))
        assert users.true_ids() == {"p2", "p3"}
        damage(path)
        assert await log_in("bob", GOOD) == "unavailable"
        assert await authenticator.still_valid(TrueId("p2"))

    asyncio.run(scenario())
    assert all(record.levelno == logging.ERROR for record in caplog.records)
    assert not any(record.exc_info for record in caplog.records)
