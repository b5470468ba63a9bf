"""Backups of the sqlite store: one SQLite file each, made while a gateway runs.

A backup is a copy of the store at one moment, with small files of the state directory (the
signing key, accounts, API keys) in a table of its own, and a mark by which the store that is
made of it gets a new epoch: see `sqlite_schema.begin_epoch`.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from gateway.errors import ConfigError, GatewayError
from gateway.stores import sqlite_schema as schema

#: What SQLite keeps beside a file under its name.
_COMPANIONS: Final = ("-wal", "-shm", "-journal")
#: What a file that is taken along may have at most, in bytes: it passes through the memory.
_MAX_FILE: Final = 256 * 1024 * 1024
_MAGIC: Final = b"SQLite format 3\0"
#: By these a store is known, whatever its format.
_TABLES: Final = {"meta", "messages", "players", "sessions"}
_KEEP_FILE: Final = "INSERT INTO backup_files VALUES (?, ?)"


class BackupError(GatewayError):
    """A backup could not be made or restored; the text says why."""


def make_backup(
    store: Path, files: Mapping[str, Path], target: Path, *, force: bool = False
) -> tuple[str, ...]:
    """Write a backup of the store file to `target`; return the names of the files that are in it.

    `files` are taken along under their names if they exist. The store may be in use meanwhile.
    The target appears as a whole, for its owner only, checked and on the disk; it replaces a
    file only with `force`. Raises BackupError.
    """
    with _told(f"backing up {store} to {target}"):
        _check_target(store, files, target, force)
        return _make(store, files, target, force)


def _make(store: Path, files: Mapping[str, Path], target: Path, force: bool) -> tuple[str, ...]:
    with _temporary(target) as temporary:
        with closing(_open(store, "rw")) as source, closing(_open(temporary, "rw")) as copy:
            _check_store(source, store)
            # In one step, so in one read transaction. The gateway writes on; its log grows.
            source.backup(copy)
        kept = {name: _read(path) for name, path in files.items() if path.exists()}
        with closing(_open(temporary, "rw")) as copy:
            _one_file(copy)
            schema.mark_backup(copy, time.time())
            copy.execute("DELETE FROM backup_files")
            copy.executemany(_KEEP_FILE, kept.items())
            _check_whole(copy, store)
        _sync(temporary)
        if target.exists() and not force:
            raise _exists(target)
        os.replace(temporary, target)
        _sync(target.parent)
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore has done: files in place now, those before kept beside, and those left."""

    files: tuple[Path, ...]
    replaced: tuple[Path, ...]
    left: tuple[Path, ...]


def restore_backup(
    source: Path, store: Path, files: Mapping[str, Path], *, replace_files: bool = False
) -> Restored:
    """Put a backup, or another copy of a store, in the place of the store.

    A file in it goes to its place in `files`, in the place of another one only with
    `replace_files`. What was there is kept beside, under a name that ends in `.replaced-` and
    the time. Raises BackupError, also while a gateway uses the store.
    """
    with _told(f"restoring {store} from {source}"):
        if not source.is_file():
            raise BackupError(f"{source}: there is no such file")
        if store.exists() and source.samefile(store):
            raise BackupError(f"{source}: is the store itself; name a backup")
        with closing(_open(source, "ro")) as backup, _locked(store):
            _check_store(backup, source)
            kept = _files_of(backup)
            there = {path: kept[name] for name, path in files.items() if name in kept}
            left = () if replace_files else tuple(path for path in there if path.exists())
            chosen = {path: text for path, text in there.items() if path not in left}
            replaced = _restore(backup, source, store, chosen)
    return Restored((store, *chosen), replaced, left)


def _restore(
    backup: sqlite3.Connection, source: Path, store: Path, files: Mapping[Path, bytes]
) -> tuple[Path, ...]:
    suffix = time.strftime(".replaced-%Y%m%dT%H%M%SZ", time.gmtime())
    replaced = []
    with ExitStack() as stack:
        ready = {path: stack.enter_context(_temporary(path)) for path in (*files, store)}
        with closing(_open(ready[store], "rw")) as copy:
            backup.backup(copy)
        with closing(_open(ready[store], "rw")) as copy:
            _one_file(copy)
            # The gateway gives it the new epoch, and takes the files out, at its start.
            schema.mark_backup(copy, time.time())
            _check_whole(copy, source)
        for path, content in files.items():
            ready[path].write_bytes(content)
        for path, temporary in ready.items():
            _hand_over(temporary, path)
            _sync(temporary)
        # From here on the disk says what fails; the store comes last.
        for path, temporary in ready.items():
            if path.exists():
                aside = _beside(path, suffix)
                _set_aside(path, aside)
                replaced.append(aside)
            # A log that stayed would be written into the file that comes.
            _remove(*(_beside(path, each) for each in _COMPANIONS))
            os.replace(temporary, path)
            _sync(path.parent)
    return tuple(replaced)


# Checks


def _check_target(store: Path, files: Mapping[str, Path], target: Path, force: bool) -> None:
    own = {store, *(_beside(store, each) for each in (*_COMPANIONS, ".lock")), *files.values()}
    if not store.exists():
        raise BackupError(f"{store}: there is no store; name its directory with --state-dir")
    if target.is_dir():
        raise BackupError(f"{target}: is a directory; name a file")
    if target.resolve() in {path.resolve() for path in own}:
        raise BackupError(f"{target}: is a file of the gateway itself; name another one")
    if target.exists() and not force:
        raise _exists(target)


def _exists(target: Path) -> BackupError:
    return BackupError(f"{target}: exists; name another file, or replace it with --force")


def _check_store(connection: sqlite3.Connection, path: Path) -> None:
    """Raise BackupError for what is no store or of a newer release."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    if not tables >= _TABLES:
        raise BackupError(f"{path}: is no store of a gateway, nor a backup of one")
    schema.check_version(connection, path, schema.MIGRATIONS)


def _check_whole(connection: sqlite3.Connection, path: Path) -> None:
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise BackupError(f"{path}: is damaged: {found}")


def _files_of(backup: sqlite3.Connection) -> dict[str, bytes]:
    try:
        return dict(backup.execute("SELECT name, content FROM backup_files"))
    except sqlite3.OperationalError:
        # A copy that another program made.
        return {}


# Files


def _open(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    connection.execute(f"PRAGMA busy_timeout = {schema.BUSY_TIMEOUT}")
    return connection


def _one_file(connection: sqlite3.Connection) -> None:
    """Keep all of it in the file: a copy has its source's write-ahead log."""
    (mode,) = connection.execute("PRAGMA journal_mode = DELETE").fetchone()
    if mode != "delete":
        raise BackupError(f"SQLite kept journal_mode {mode}")


def _read(path: Path) -> bytes:
    """Return what is in a file, also in a SQLite file that is being written."""
    if path.stat().st_size > _MAX_FILE:
        raise BackupError(f"{path}: is larger than {_MAX_FILE} bytes; is that the right file?")
    content = path.read_bytes()
    if not content.startswith(_MAGIC):
        return content
    with closing(_open(path, "rw")) as source, closing(sqlite3.connect(":memory:")) as copy:
        source.backup(copy)
        return copy.serialize()


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """Make an empty file beside `target`, for its owner only; remove what is left of it."""
    path = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        yield path
    finally:
        _remove(path, *(_beside(path, each) for each in _COMPANIONS))


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hand_over(new: Path, old: Path) -> None:
    """Let root's work belong to the gateway's user, as the old file or else its folder does."""
    if os.geteuid() == 0:
        owner = (old if old.exists() else old.parent).stat()
        os.chown(new, owner.st_uid, owner.st_gid)


def _set_aside(path: Path, aside: Path) -> None:
    """Give a file a second name, and one to a store's log that cannot be folded into it."""
    log = _beside(path, "-wal")
    if log.exists():
        with suppress(sqlite3.Error), closing(_open(path, "rw")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    os.link(path, aside)
    if log.exists():
        os.link(log, _beside(aside, "-wal"))
    _sync(path.parent)


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    """Keep gateways out."""
    lock = _beside(store, ".lock")
    there = lock.exists()
    try:
        descriptor = schema.lock(store)
    except ConfigError:
        raise BackupError(f"{store}: is in use by a gateway; stop it, then restore") from None
    try:
        if not there:
            _hand_over(lock, store)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _told(doing: str) -> Iterator[None]:
    """Turn what goes wrong with files into BackupError."""
    try:
        yield
    except sqlite3.Error as error:
        raise BackupError(f"{doing}: {schema.explain(error)}") from error
    except ConfigError as error:
        raise BackupError(str(error)) from error
    except OSError as error:
        raise BackupError(f"{doing}: {error}") from error
