"""The password file: its format, its writers, and what a running server makes of changes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import stat
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import argon2
import pytest

from gateway.auth.users_file import UsersFile
from gateway.auth.users_format import User, UsersError, clean_password, clean_username
from gateway.errors import GatewayError
from gateway.messages import TrueId

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

FAST = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
SLOWER = argon2.PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
GOOD = "correct horse"
OTHER = "battery staple"
HASH = FAST.hash(GOOD)
USERS_PER_PROCESS = 20


class CountingHasher(argon2.PasswordHasher):
    """Remembers the hashes that passwords were verified against."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.verified: list[str | bytes] = []

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override]
        self.verified.append(hash)
        return super().verify(hash, password)


def ids(prefix: str = "p") -> Callable[[], TrueId]:
    numbers = count(1)
    return lambda: TrueId(f"{prefix}{next(numbers)}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users.txt"


@pytest.fixture
def users(path: Path) -> UsersFile:
    return UsersFile(path, ids(), FAST)


def put(path: Path, text: str | bytes) -> None:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(0o600)


def test_a_missing_file_is_an_empty_one(users: UsersFile, path: Path) -> None:
    users.load()
    assert users.list() == []
    assert users.lookup("ann") is None
    assert list(users.true_ids()) == []
    assert not path.exists()


def test_an_added_user_is_in_the_file_with_a_header_and_no_password(
    users: UsersFile, path: Path
) -> None:
    user = users.add("ann", GOOD)
    header, line = path.read_text().splitlines()
    assert header.startswith("#")
    assert "username:true_id:argon2-hash" in header
    assert line == f"ann:p1:{user.hash}"
    assert FAST.verify(user.hash, GOOD)
    assert users.list() == [user]


def test_the_hash_does_not_show_in_a_users_repr() -> None:
    assert repr(User("ann", TrueId("p1"), HASH)) == "User(username='ann', true_id='p1')"


def test_users_are_listed_in_the_order_of_the_file(users: UsersFile) -> None:
    for name in ("zoe", "ann", "Ann"):
        users.add(name, GOOD)
    assert [(user.username, user.true_id) for user in users.list()] == [
        ("zoe", "p1"),
        ("ann", "p2"),
        ("Ann", "p3"),
    ]
    assert users.true_ids() == {"p1", "p2", "p3"}
    assert (users.has(TrueId("p2")), users.has(TrueId("p4"))) == (True, False)


def test_a_user_cannot_be_added_twice(users: UsersFile) -> None:
    users.add("Zo\u00eb", GOOD)
    with pytest.raises(
        UsersError, match=r"user 'Zo\u00eb' exists in .*users\.txt; remove it first"
    ):
        users.add("Zoe\u0308", OTHER)
    assert len(users.list()) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "username is empty"),
        ("a" * 65, "username is longer than 64 bytes"),
        ("a:b", "':'"),
        ("#ann", "'#'"),
        (" ann", "white space at its ends"),
        ("ann\u00a0", "white space at its ends"),
        ("a\nb", r"U\+000A"),
        ("a\u202eb", r"U\+202E"),
        ("a\ud800b", r"U\+D800"),
        (7, "username must be a string"),
    ],
)
def test_a_bad_username_is_refused(name: str, message: str, users: UsersFile, path: Path) -> None:
    with pytest.raises(UsersError, match=message):
        users.add(name, GOOD)
    assert not path.exists()


def test_usernames_are_composed_and_may_have_spaces_inside() -> None:
    assert clean_username("Zoe\u0308 B") == "Zo\u00eb B"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1234567", "password is too short; use 8 characters or more"),
        ("a" * 1025, "password is longer than 1024 bytes"),
        ("\u00e9" * 513, "password is longer than 1024 bytes"),
        ("e\u0301" * 100_000, "password is longer than 1024 bytes"),
        ("12345678\ud800", "password is not valid Unicode"),
        (12345678, "password must be a string"),
    ],
)
def test_a_bad_password_is_refused(value: str, message: str, users: UsersFile, path: Path) -> None:
    with pytest.raises(UsersError, match=message):
        users.add("ann", value)
    assert not path.exists()


def test_passwords_of_8_characters_to_1024_bytes_are_good(users: UsersFile) -> None:
    for name, value in (("ann", "12345678"), ("bob", "\u00e9" * 512)):
        assert users.verify(users.add(name, value), clean_password(value))


def test_the_errors_belong_to_the_gateways_tree() -> None:
    assert issubclass(UsersError, GatewayError)


def test_a_changed_password_keeps_the_id(users: UsersFile) -> None:
    users.add("ann", GOOD)
    users.add("bob", GOOD)
    changed = users.set_password("ann", OTHER)
    assert [user.true_id for user in users.list()] == ["p1", "p2"]
    assert users.lookup("ann") == changed
    assert users.verify(changed, OTHER)
    assert not users.verify(changed, GOOD)


def test_a_removed_user_is_gone_and_nobody_else(users: UsersFile) -> None:
    for name in ("ann", "ann2", "an"):
        users.add(name, GOOD)
    users.remove("ann")
    assert [user.username for user in users.list()] == ["ann2", "an"]


def test_a_user_who_is_not_there_cannot_be_changed_or_removed(users: UsersFile) -> None:
    with pytest.raises(UsersError, match=r"no user 'ann' in .*; add it first"):
        users.set_password("ann", GOOD)
    with pytest.raises(UsersError, match=r"no user 'ann' in .*; add it first"):
        users.remove("ann")


def test_comments_and_blank_lines_survive_changes(users: UsersFile, path: Path) -> None:
    put(path, f"# staff\n\nann:p7:{HASH}\r\n# ann:old\nbob:p8:{HASH}")
    users.set_password("bob", OTHER)
    users.remove("ann")
    users.add("cid", GOOD)
    lines = path.read_text().split("\n")
    assert lines[:3] == ["# staff", "", "# ann:old"]
    assert [line.partition(":")[0] for line in lines[3:]] == ["bob", "cid", ""]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bob", "line 3: not username:true_id:argon2-hash"),
        (f"bob:p2:{HASH}:x", "line 3: not username:true_id:argon2-hash"),
        (f":p2:{HASH}", "line 3: username is empty"),
        (f" bob:p2:{HASH}", "line 3: username has white space"),
        (f"zoe\u0308:p2:{HASH}", "line 3: username is not in normal form C"),
        (f"bob::{HASH}", "line 3: true_id must be 1 to 128 visible ASCII characters"),
        (f"bob:p 2:{HASH}", "line 3: true_id must be"),
        ("bob:p2:hunter2", "line 3: not an argon2 hash"),
        ("bob:p2:$2b$12$abcdefghijklmnopqrstuv", "line 3: not an argon2 hash"),
        (f"bob:p1:{HASH}", "line 3: true_id is that of line 2; remove one"),
        (f"ann:p2:{HASH}", "line 3: username is that of line 2; remove one"),
        (b"b\xffb:p2:x", "line 3: not UTF-8"),
    ],
)
def test_a_broken_line_is_an_error_with_file_and_line(
    line: str | bytes, message: str, users: UsersFile, path: Path
) -> None:
    raw = line.encode() if isinstance(line, str) else line
    content = f"# users\nann:p1:{HASH}\n".encode() + raw + b"\n"
    put(path, content)
    with pytest.raises(UsersError, match=f"{re.escape(str(path))}, {message}") as caught:
        users.load()
    assert "$argon2" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(UsersError, match="line 3"):
        users.add("cid", GOOD)
    assert path.read_bytes() == content


def test_a_file_that_cannot_be_read_is_an_error(users: UsersFile, path: Path) -> None:
    path.mkdir()
    with pytest.raises(UsersError, match=r"cannot read .*users\.txt"):
        users.load()


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    users = UsersFile(tmp_path / "nowhere" / "users.txt", ids(), FAST)
    with pytest.raises(UsersError, match=r"cannot write .*users\.txt"):
        users.add("ann", GOOD)


def test_an_id_that_the_file_cannot_hold_is_not_written(path: Path) -> None:
    users = UsersFile(path, lambda: TrueId("a:b"), FAST)
    with pytest.raises(UsersError, match="not username:true_id:argon2-hash"):
        users.add("ann", GOOD)
    assert not path.exists()


def test_the_file_and_its_lock_are_private_and_nothing_else_is_left(
    users: UsersFile, path: Path
) -> None:
    users.add("ann", GOOD)
    path.chmod(0o644)
    users.set_password("ann", OTHER)
    lock = path.with_name("users.txt.lock")
    assert sorted(path.parent.iterdir()) == [path, lock]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600


def test_a_failed_write_leaves_the_old_file_and_no_other(
    users: UsersFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users.add("ann", GOOD)
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UsersError, match="No space left on device"):
        users.add("bob", GOOD)
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == [path, path.with_name("users.txt.lock")]


def test_a_write_replaces_the_file_and_never_touches_the_old_one(
    users: UsersFile, path: Path
) -> None:
    users.add("ann", GOOD)
    with path.open() as reader:
        users.remove("ann")
        assert "ann:p1:" in reader.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_belongs_to_the_owner_of_file_or_folder(
    users: UsersFile, path: Path
) -> None:
    os.chown(path.parent, 12345, 12346)
    users.add("ann", GOOD)
    owners = {(file.stat().st_uid, file.stat().st_gid) for file in path.parent.iterdir()}
    assert owners == {(12345, 12346)}
    os.chown(path, 23456, 23457)
    users.remove("ann")
    assert (path.stat().st_uid, path.stat().st_gid) == (23456, 23457)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_open_to_others_is_warned_about_at_load(
    mode: int, users: UsersFile, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(path, f"ann:p1:{HASH}\n")
    path.chmod(mode)
    users.load()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"(mode {mode:04o}); run chmod 600" in caplog.text
    assert users.lookup("ann") is not None


def test_a_private_file_is_loaded_without_a_word(
    users: UsersFile, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(path, f"ann:p1:{HASH}\n")
    users.load()
    assert caplog.records == []


def test_a_lookup_sees_what_another_writer_did(users: UsersFile, path: Path) -> None:
    other = UsersFile(path, ids("q"), FAST)
    assert users.lookup("ann") is None
    other.add("ann", GOOD)
    assert users.lookup("ann") == other.list()[0]
    assert list(users.true_ids()) == ["q1"]
    other.remove("ann")
    assert users.lookup("ann") is None
    other.add("bob", GOOD)
    assert users.lookup("bob") is not None
    path.unlink()
    assert users.lookup("bob") is None


def test_a_file_of_the_same_size_and_time_but_another_inode_is_read_again(
    users: UsersFile, path: Path
) -> None:
    put(path, f"ann:p1:{HASH}\n")
    assert users.lookup("ann") is not None
    before = path.stat()
    new = path.with_name("new")
    put(new, f"bob:p1:{HASH}\n")
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(path)
    assert users.lookup("bob") is not None
    assert users.lookup("ann") is None


def test_an_unchanged_file_is_not_read_again(users: UsersFile, path: Path) -> None:
    put(path, f"ann:p1:{HASH}\n")
    users.load()
    first = users.lookup("ann")
    assert first is not None
    assert users.lookup("ann") is first


def test_a_broken_file_is_logged_once_and_the_last_good_users_stay(
    users: UsersFile, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(path, f"ann:p1:{HASH}\n")
    good = users.lookup("ann")
    put(path, "ann\n")
    assert users.lookup("ann") == good
    assert users.lookup("ann") == good
    assert list(users.true_ids()) == ["p1"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "line 1: not username:true_id:argon2-hash" in caplog.text
    put(path, "ann:still\n")
    assert users.lookup("ann") == good
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    put(path, f"ann:p1:{HASH}\nbob:p2:{HASH}\n")
    assert users.lookup("bob") is not None
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


def test_an_unreadable_file_is_logged_once_and_the_last_good_users_stay(
    users: UsersFile, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(path, f"ann:p1:{HASH}\n")
    good = users.lookup("ann")
    path.unlink()
    path.symlink_to(path.name)
    assert users.lookup("ann") == good
    assert users.lookup("ann") == good
    assert len(caplog.records) == 1
    assert "cannot read" in caplog.text


def test_verifying_an_unknown_user_costs_a_hash_of_the_same_parameters(path: Path) -> None:
    hasher = CountingHasher()
    users = UsersFile(path, ids(), hasher)
    user = users.add("ann", GOOD)
    assert not users.verify(user, OTHER)
    assert not users.verify(None, OTHER)
    real, decoy = (argon2.extract_parameters(str(value)) for value in hasher.verified)
    assert decoy == real


@pytest.mark.parametrize("kind", list(argon2.Type))
def test_the_decoy_is_a_hash_that_argon2_takes(kind: argon2.Type, path: Path) -> None:
    hasher = argon2.PasswordHasher(1, 8, 1, hash_len=5, salt_len=9, type=kind)
    users = UsersFile(path, ids(), hasher)
    assert not users.verify(None, GOOD)
    assert users.verify(users.add("ann", GOOD), GOOD)


def test_a_hash_that_argon2_cannot_use_is_an_error_not_a_wrong_password(
    users: UsersFile, path: Path
) -> None:
    put(path, f"ann:p1:{HASH.replace('m=8', 'm=1')}\n")
    with pytest.raises(UsersError, match="cannot verify password of 'ann'"):
        users.verify(users.lookup("ann"), GOOD)


def test_a_hash_with_other_parameters_is_renewed(users: UsersFile, path: Path) -> None:
    old = users.add("ann", GOOD)
    newer = UsersFile(path, ids(), SLOWER)
    assert newer.rehash(old, GOOD)
    renewed = newer.lookup("ann")
    assert renewed is not None
    assert renewed.true_id == old.true_id
    assert not SLOWER.check_needs_rehash(renewed.hash)
    assert newer.verify(renewed, GOOD)


def test_a_hash_with_the_right_parameters_is_left_alone(users: UsersFile, path: Path) -> None:
    user = users.add("ann", GOOD)
    before = path.stat()
    assert not users.rehash(user, GOOD)
    assert path.stat() == before


def test_renewing_a_hash_does_not_undo_a_change_of_password(users: UsersFile, path: Path) -> None:
    stale = users.add("ann", GOOD)
    current = users.set_password("ann", OTHER)
    assert not UsersFile(path, ids(), SLOWER).rehash(stale, GOOD)
    users.remove("ann")
    assert not UsersFile(path, ids(), SLOWER).rehash(current, OTHER)
    assert users.list() == []


def add_many(path: Path, prefix: str, barrier: Barrier) -> None:
    users = UsersFile(path, ids(prefix), FAST)
    barrier.wait()
    for number in range(USERS_PER_PROCESS):
        users.add(f"{prefix}{number}", GOOD)


def test_two_processes_that_add_users_lose_none(users: UsersFile, path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [
        context.Process(target=add_many, args=(path, prefix, barrier)) for prefix in ("a", "b")
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    names = {user.username for user in users.list()}
    assert names == {f"{prefix}{n}" for prefix in ("a", "b") for n in range(USERS_PER_PROCESS)}
    assert path.read_text().count("#") == 1
