"""Backups of the sqlite store: whole, private, checked; and what a restored one is."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from gateway.mailbox import Located, Position
from gateway.messages import SessionId
from gateway.stores import sqlite_schema
from gateway.stores.sqlite_backup import BackupError, make_backup, restore_backup
from tests.stores.conftest import ANN, Driver, sqlite_store
from tests.stores.test_store import position_of, session


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder / "store.db"


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    return tmp_path / "backup.db"


def write(store: Driver, *bodies: bytes) -> Position:
    """Write messages to Ann; return the position of the last one."""
    store.know([ANN])
    return [position_of(store.append(body)) for body in bodies][-1]


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def query(path: Path, text: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(text).fetchall()


# Making


def test_a_backup_has_all_that_was_answered_while_the_store_goes_on(
    path: Path, backup: Path
) -> None:
    with sqlite_store(path) as store:
        write(store, *(b"%d" % number for number in range(100)))
        before = store.epoch
        assert make_backup(path, {}, backup) == ()
        write(store, b"later")
        assert len(store.read(limit=1000)) == 101
        assert store.epoch == before
    assert query(backup, "SELECT count(*) FROM log") == [(100,)]
    assert query(backup, "PRAGMA journal_mode") == [("delete",)]
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert names(backup.parent) == ["backup.db", "state"]


def test_a_backup_of_a_store_nobody_uses_leaves_it_alone(path: Path, backup: Path) -> None:
    with sqlite_store(path) as store:
        write(store, b"1")
        epoch = store.epoch
    make_backup(path, {}, backup)
    assert names(path.parent) == ["store.db", "store.db.lock"]
    with sqlite_store(path) as store:
        assert (store.epoch, store.read()) == (epoch, [b"1"])


def test_files_are_taken_along_if_they_exist(path: Path, backup: Path) -> None:
    sqlite_store(path).close()
    (path.parent / "users").write_bytes(b"ada\n")
    files = {"users": path.parent / "users", "resume.key": path.parent / "resume.key"}
    assert make_backup(path, files, backup) == ("users",)
    assert query(backup, "SELECT * FROM backup_files") == [("users", b"ada\n")]


def test_a_backup_replaces_a_file_only_by_force(path: Path, backup: Path) -> None:
    sqlite_store(path).close()
    backup.write_text("precious")
    with pytest.raises(BackupError, match="exists; name another file, or replace it with --force"):
        make_backup(path, {}, backup)
    assert backup.read_text() == "precious"
    make_backup(path, {}, backup, force=True)
    assert query(backup, "PRAGMA quick_check") == [("ok",)]


@pytest.mark.parametrize("name", ["store.db", "store.db-wal", "store.db.lock", "users"])
def test_no_backup_goes_over_the_gateways_own_files(path: Path, name: str) -> None:
    with sqlite_store(path) as store:
        write(store, b"1")
        users = path.parent / "users"
        users.write_text("ada")
        with pytest.raises(BackupError, match="is a file of the gateway itself"):
            make_backup(path, {"users": users}, path.parent / "." / name, force=True)
        assert store.read() == [b"1"]


def test_what_cannot_be_backed_up_is_said_and_leaves_nothing(path: Path, backup: Path) -> None:
    with pytest.raises(BackupError, match="there is no store"):
        make_backup(path, {}, backup)
    assert not path.exists()
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(BackupError, match="the file is no database"):
        make_backup(path, {}, backup)
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE meta (name)")
    with pytest.raises(BackupError, match="is no store of a gateway"):
        make_backup(path, {}, backup)
    path.unlink()
    sqlite_store(path).close()
    with pytest.raises(BackupError, match="is a directory; name a file"):
        make_backup(path, {}, backup.parent, force=True)
    with pytest.raises(BackupError, match="No such file or directory"):
        make_backup(path, {}, backup.parent / "nowhere" / "backup.db")
    assert names(backup.parent) == ["state"]


def test_a_damaged_store_makes_no_backup(path: Path, backup: Path) -> None:
    with sqlite_store(path) as store:
        write(store, *[b"x" * 1000] * 200)
    with path.open("r+b") as file:
        file.seek(20 * 4096)
        file.write(b"\xff" * 4096 * 10)
    with pytest.raises(BackupError, match="is damaged"):
        make_backup(path, {}, backup)
    assert names(backup.parent) == ["state"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_a_full_disk_leaves_no_half_backup(path: Path, tmp_path: Path) -> None:
    with sqlite_store(path) as store:
        write(store, *[b"x" * 10_000] * 200)
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", small], check=True)
    try:
        with pytest.raises(BackupError, match="the disk is full: make room on it"):
            make_backup(path, {}, small / "backup.db")
        assert names(small) == []
    finally:
        subprocess.run(["umount", small], check=True)


# Restoring


def test_a_restored_store_has_another_epoch_so_no_old_position_is_taken_for_a_new_one(
    path: Path, backup: Path
) -> None:
    with sqlite_store(path) as store:
        store.add_session(session())
        early = write(store, b"1")
        make_backup(path, {}, backup)
        late = write(store, b"2")
        epoch = store.epoch
    restored = restore_backup(backup, path, {})
    assert restored.files == (path,)
    with sqlite_store(path) as store:
        assert store.epoch != epoch
        assert store.read() == [b"1"]
        assert store.session(SessionId("s1")) is not None
        # The same offset as `late`.
        write(store, b"3")
        for position in (early, late):
            assert store.view(ANN, position).located is Located.FOREIGN
        here = write(store, b"4")
        epoch = store.epoch
    with sqlite_store(path) as store:
        assert store.epoch == epoch
        assert store.view(ANN, here).located is Located.HERE
    # Again from the same backup: again another one.
    restored = restore_backup(backup, path.with_name("other.db"), {})
    assert restored.replaced == ()
    with sqlite_store(path.with_name("other.db")) as store:
        assert store.epoch != epoch
        assert store.read() == [b"1"]


@pytest.mark.parametrize("by", ["cp", "sqlite3"])
def test_copies_made_by_hand_are_restored_too(path: Path, backup: Path, by: str) -> None:
    with sqlite_store(path) as store:
        write(store, b"1")
        epoch = store.epoch
        if by == "sqlite3":
            with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as copy:
                source.backup(copy)
        else:
            make_backup(path, {}, backup)
    if by == "sqlite3":
        restore_backup(backup, path, {})
    else:
        path.write_bytes(backup.read_bytes())
    with sqlite_store(path) as store:
        assert store.epoch != epoch
        assert store.read() == [b"1"]
    assert query(path, "SELECT name FROM meta ORDER BY name") == [("epoch",), ("writes",)]


def test_what_is_replaced_is_kept_beside_with_all_that_was_answered(
    path: Path, backup: Path, tmp_path: Path
) -> None:
    with sqlite_store(path) as store:
        make_backup(path, {}, backup)
        write(store, b"1")
        # As a crash leaves it: the message is only in the log.
        crashed = tmp_path / "crashed"
        crashed.mkdir()
        for each in path.parent.glob("store.db*"):
            (crashed / each.name).write_bytes(each.read_bytes())
    path = crashed / "store.db"
    (aside,) = restore_backup(backup, path, {}).replaced
    assert aside.name.startswith("store.db.replaced-2")
    assert query(aside, "SELECT body FROM log") == [(b"1",)]
    with sqlite_store(path) as store:
        assert store.read() == []


def test_a_damaged_store_is_replaced_and_its_log_harms_nothing(path: Path, backup: Path) -> None:
    with sqlite_store(path) as store:
        write(store, b"1")
        make_backup(path, {}, backup)
    path.write_bytes(b"this is no database" * 1000)
    path.with_name("store.db-wal").write_bytes(b"nor is this a log" * 1000)
    (aside,) = restore_backup(backup, path, {}).replaced
    assert aside.read_bytes().startswith(b"this is no database")
    assert not path.with_name("store.db-wal").exists()
    with sqlite_store(path) as store:
        assert store.read() == [b"1"]


def test_a_store_in_use_is_not_replaced(path: Path, backup: Path) -> None:
    with sqlite_store(path) as store:
        make_backup(path, {}, backup)
        write(store, b"1")
        with pytest.raises(BackupError, match="in use by a gateway; stop it, then restore"):
            restore_backup(backup, path, {})
        assert store.read() == [b"1"]
    restore_backup(backup, path, {})


def test_a_backup_of_a_newer_release_or_a_damaged_one_changes_nothing(
    path: Path, backup: Path
) -> None:
    with sqlite_store(path) as store:
        write(store, *[b"x" * 1000] * 200)
    make_backup(path, {}, backup)
    before = path.read_bytes()
    newest = len(sqlite_schema.MIGRATIONS)
    query(backup, f"PRAGMA user_version = {newest + 1}")
    with pytest.raises(BackupError, match=f"has format {newest + 1}, and this release knows up"):
        restore_backup(backup, path, {})
    query(backup, f"PRAGMA user_version = {newest}")
    with backup.open("r+b") as file:
        file.seek(20 * 4096)
        file.write(b"\xff" * 4096 * 10)
    with pytest.raises(BackupError, match="is damaged"):
        restore_backup(backup, path, {})
    backup.write_bytes(b"this is no database" * 1000)
    with pytest.raises(BackupError, match="the file is no database"):
        restore_backup(backup, path, {})
    backup.unlink()
    with pytest.raises(BackupError, match="there is no such file"):
        restore_backup(backup, path, {})
    with pytest.raises(BackupError, match="is the store itself"):
        restore_backup(path, path, {})
    assert path.read_bytes() == before
    assert names(path.parent) == ["store.db", "store.db.lock"]


def test_files_that_are_there_are_kept_unless_they_are_to_be_replaced(
    path: Path, backup: Path
) -> None:
    sqlite_store(path).close()
    files = {name: path.parent / name for name in ("users", "resume.key", "api-keys")}
    files["users"].write_text("then")
    files["resume.key"].write_text("key")
    make_backup(path, files, backup)
    files["users"].write_text("now")
    files["resume.key"].unlink()
    restored = restore_backup(backup, path, files)
    assert set(restored.files) == {path, files["resume.key"]}
    assert restored.left == (files["users"],)
    assert files["users"].read_text() == "now"
    assert files["resume.key"].read_text() == "key"
    assert stat.S_IMODE(files["resume.key"].stat().st_mode) == 0o600
    for each in restored.replaced:
        each.unlink()
    restored = restore_backup(backup, path, files, replace_files=True)
    assert files["users"].read_text() == "then"
    asides = [each.read_text() for each in restored.replaced if each.name.startswith("users")]
    assert asides == ["now"]
    assert restored.left == ()
    assert not files["api-keys"].exists()


def test_a_started_store_has_no_secrets_of_its_backup(path: Path, backup: Path) -> None:
    sqlite_store(path).close()
    key = path.parent / "resume.key"
    key.write_text("open sesame" * 1000)
    make_backup(path, {"resume.key": key}, backup)
    assert b"open sesame" in backup.read_bytes()
    restore_backup(backup, path, {"resume.key": key})
    sqlite_store(path).close()
    assert b"open sesame" not in path.read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away takes root")
def test_what_root_restores_belongs_to_the_gateways_user(path: Path, backup: Path) -> None:
    sqlite_store(path).close()
    users = path.parent / "users"
    users.write_text("ada")
    make_backup(path, {"users": users}, backup)
    state = path.parent.with_name("new")
    state.mkdir()
    os.chown(state, 60_123, 60_124)
    restore_backup(backup, state / "store.db", {"users": state / "users"})
    assert names(state) == ["store.db", "store.db.lock", "users"]
    for each in state.iterdir():
        assert (each.stat().st_uid, each.stat().st_gid) == (60_123, 60_124)
        assert stat.S_IMODE(each.stat().st_mode) == 0o600
