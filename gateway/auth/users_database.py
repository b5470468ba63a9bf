"""Users in a SQLite file: many of them, changed by `game-gateway users` or by the game itself.

Every lookup asks the file, so a change counts at once; a file put in its place is opened anew.
Other programs may write rows, too: what they hold is checked when it is used.
"""

from __future__ import annotations

import builtins
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

import argon2

from gateway.auth.hashing import Hashing
from gateway.auth.users_format import (
    User,
    UsersError,
    check_user,
    clean_username,
    is_true_id,
    long_enough,
)
from gateway.line_file import hand_over, warn_if_open
from gateway.messages import TrueId

_logger: Final = logging.getLogger(__name__)

#: Tells the file from other SQLite files: "GGus".
_APPLICATION_ID: Final = 0x47477573
#: What brings a file from each version to the next one; an empty file has version 0.
_MIGRATIONS: Final = (
    """CREATE TABLE users (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        username TEXT NOT NULL UNIQUE,
        true_id TEXT NOT NULL UNIQUE,
        hash TEXT NOT NULL
    ) STRICT""",
)
#: How long another program's lock is waited for, in seconds.
_BUSY_TIMEOUT: Final = 5.0
_COLUMNS: Final = "username, true_id, hash"

_File = tuple[int, int]


class UsersDatabase:
    """The users in the SQLite file at `path`; one that does not exist has none."""

    def __init__(
        self,
        path: Path,
        new_id: Callable[[], TrueId],
        hasher: argon2.PasswordHasher | None = None,
    ) -> None:
        """Read nothing yet. `new_id` makes the ids of added users; for `hasher` see Hashing."""
        self._path = path
        self._new_id = new_id
        self._hashing = Hashing(path, hasher)
        self._mutex = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._file: _File | None = None
        #: The ids, and the state of the file they are of.
        self._true_ids: frozenset[TrueId] = frozenset()
        self._version: tuple[_File | None, int] | None = None
        self._failing = False

    # Reading

    def load(self) -> None:
        """See Users.load."""
        with self._reading() as connection:
            if connection is not None:
                warn_if_open(self._path)
                self._read_true_ids(connection)

    def lookup(self, username: str) -> User | None:
        """See Users.lookup."""
        with self._reading() as connection:
            return None if connection is None else self._find(connection, username)

    def true_ids(self) -> frozenset[TrueId]:
        """See Users.true_ids. A file that has become unusable is logged once."""
        try:
            with self._reading() as connection:
                if connection is None:
                    self._true_ids, self._version = frozenset(), None
                else:
                    self._read_true_ids(connection)
        except UsersError as error:
            self._complain(error)
        else:
            self._failing = False
        return self._true_ids

    def has(self, true_id: TrueId) -> bool:
        """See Users.has."""
        try:
            with self._reading() as connection:
                return connection is not None and bool(
                    connection.execute(
                        "SELECT 1 FROM users WHERE true_id = ?", (true_id,)
                    ).fetchone()
                )
        except UsersError as error:
            self._complain(error)
            return true_id in self._true_ids

    def list(self) -> builtins.list[User]:
        """See Users.list."""
        with self._reading() as connection:
            if connection is None:
                return []
            rows = connection.execute(f"SELECT {_COLUMNS} FROM users ORDER BY id")  # noqa: S608
            return [self._user(row) for row in rows]

    # Passwords

    def verify(self, user: User | None, password: str) -> bool:
        """See Users.verify."""
        return self._hashing.verify(user, password)

    def rehash(self, user: User, password: str) -> bool:
        """See Users.rehash."""
        if not self._hashing.is_outdated(user):
            return False
        hashed = self._hashing.hash(password)
        with self._editing() as connection:
            changed = connection.execute(
                "UPDATE users SET hash = ? WHERE username = ? AND true_id = ? AND hash = ?",
                (hashed, user.username, user.true_id, user.hash),
            )
            return changed.rowcount > 0

    # Writing

    def add(self, username: str, password: str) -> User:
        """See Users.add. Makes the file, for its owner only (mode 0600)."""
        name = clean_username(username)
        user = check_user(name, self._new_id(), self._hashing.hash(long_enough(password)))
        self._make()
        with self._editing() as connection:
            if self._find(connection, name) is not None:
                raise UsersError(f"user {name!r} exists in {self._path}; remove it first")
            connection.execute(
                f"INSERT INTO users ({_COLUMNS}) VALUES (?, ?, ?)",  # noqa: S608
                (user.username, user.true_id, user.hash),
            )
        return user

    def set_password(self, username: str, password: str) -> User:
        """See Users.set_password."""
        hashed = self._hashing.hash(long_enough(password))
        with self._editing() as connection:
            user = replace(self._existing(connection, username), hash=hashed)
            connection.execute(
                "UPDATE users SET hash = ? WHERE username = ?", (user.hash, user.username)
            )
        return user

    def remove(self, username: str) -> None:
        """See Users.remove."""
        with self._editing() as connection:
            user = self._existing(connection, username)
            connection.execute("DELETE FROM users WHERE username = ?", (user.username,))

    # Rows

    def _find(self, connection: sqlite3.Connection, username: str) -> User | None:
        row = connection.execute(
            f"SELECT {_COLUMNS} FROM users WHERE username = ?",  # noqa: S608
            (username,),
        ).fetchone()
        return None if row is None else self._user(row)

    def _existing(self, connection: sqlite3.Connection, username: str) -> User:
        name = clean_username(username)
        user = self._find(connection, name)
        if user is None:
            raise UsersError(f"no user {name!r} in {self._path}; add it first")
        return user

    def _user(self, row: tuple[str, str, str]) -> User:
        try:
            return check_user(*row)
        except UsersError as error:
            raise UsersError(f"{self._path}, user {row[0]!r}: {error}") from error

    def _read_true_ids(self, connection: sqlite3.Connection) -> None:
        # SQLite counts here what other connections have written.
        ((number,),) = connection.execute("PRAGMA data_version")
        version = (self._file, number)
        if version != self._version:
            rows = connection.execute("SELECT true_id FROM users")
            self._true_ids = frozenset(TrueId(each) for (each,) in rows if is_true_id(each))
            self._version = version

    # The file

    def _complain(self, error: UsersError) -> None:
        if not self._failing:
            self._failing = True
            _logger.error("%s; the users from before stay in force", error)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """Give a connection to the present file, None without any. Raises UsersError."""
        with self._mutex, self._errors("read"):
            try:
                yield self._present()
            except sqlite3.Error:
                self._close()
                raise

    def _present(self) -> sqlite3.Connection | None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._close()
            return None
        file = (status.st_dev, status.st_ino)
        if self._connection is None or file != self._file:
            self._close()
            connection = self._open()
            try:
                version = self._check(connection)
            except BaseException:
                connection.close()
                raise
            if version == 0:
                # Somebody is just making it.
                connection.close()
                return None
            self._connection, self._file = connection, file
        return self._connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        self._file = None
        if connection is not None:
            connection.close()

    @contextmanager
    def _editing(self) -> Iterator[sqlite3.Connection]:
        """Give a connection in a transaction; other writers wait. Raises UsersError."""
        with self._errors("write"):
            if not self._path.exists():
                raise UsersError(f"there is no {self._path}; add a user first")
            connection = self._open()
            try:
                connection.execute("PRAGMA secure_delete = ON")
                connection.execute("BEGIN IMMEDIATE")
                version = self._check(connection)
                for migration in _MIGRATIONS[version:]:
                    connection.execute(migration)
                if version < len(_MIGRATIONS):
                    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                    connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
                yield connection
                connection.execute("COMMIT")
            finally:
                # Without a commit everything is as it was.
                connection.close()

    def _make(self) -> None:
        """Make an empty file if there is none: a database without tables. Raises UsersError."""
        with self._errors("write"), suppress(FileExistsError):
            descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            try:
                hand_over(descriptor, self._path.parent)
            finally:
                os.close(descriptor)

    def _open(self) -> sqlite3.Connection:
        # Where the file may not be written, SQLite opens it for reading.
        return sqlite3.connect(
            f"file:{quote(str(self._path))}?mode=rw",
            uri=True,
            timeout=_BUSY_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,
        )

    def _check(self, connection: sqlite3.Connection) -> int:
        """Return the version of the file's tables. Raises UsersError if they are not ours."""
        ((application,),) = connection.execute("PRAGMA application_id")
        ((version,),) = connection.execute("PRAGMA user_version")
        ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_schema")
        if (application, version, tables) == (0, 0, 0):
            return 0
        if application != _APPLICATION_ID:
            raise UsersError(f"{self._path} is a database, but not one of users; name another")
        if not 0 < version <= len(_MIGRATIONS):
            raise UsersError(
                f"{self._path} is of version {version}, and this release knows up to "
                f"{len(_MIGRATIONS)}: use the release that has written it, or a newer one"
            )
        return int(version)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise UsersError(f"cannot {what} {self._path}: {error}") from error
        except OSError as error:
            raise UsersError(f"cannot {what} {self._path}: {error.strerror}") from error
