"""The password file: a few users, edited by hand or by `game-gateway users`, read by the server.

One user a line, `username:true_id:argon2-hash`; blank lines and those that start with `#` stay as
they are. All methods block and may be called from any thread.
"""

from __future__ import annotations

import builtins
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import argon2

from gateway.auth.hashing import Hashing
from gateway.auth.users_format import (
    HEADER,
    User,
    UsersError,
    clean_username,
    long_enough,
    parse_users,
)
from gateway.line_file import UNREAD, LineFile, Version
from gateway.messages import TrueId

_logger: Final = logging.getLogger(__name__)


class UsersFile:
    """The password file at `path`; one that does not exist has no users."""

    def __init__(
        self,
        path: Path,
        new_id: Callable[[], TrueId],
        hasher: argon2.PasswordHasher | None = None,
    ) -> None:
        """Read nothing yet. `new_id` makes the ids of added users; for `hasher` see Hashing."""
        self._path = path
        self._file = LineFile(path, UsersError)
        self._new_id = new_id
        self._hashing = Hashing(path, hasher)
        self._mutex = threading.Lock()
        self._version = UNREAD
        self._users: dict[str, User] = {}
        self._true_ids: frozenset[TrueId] = frozenset()

    def load(self) -> None:
        """Read the file now.

        Raises UsersError, which names file and line, if it cannot be read or a line is broken.
        """
        with self._mutex:
            self._load()

    def lookup(self, username: str) -> User | None:
        """Return a user by exact name, after reading the file again if it has changed.

        A file that has become unusable is logged once; the users from before stay.
        """
        return self._current().get(username)

    def true_ids(self) -> frozenset[TrueId]:
        """Return the ids of all users, as fresh as `lookup` is."""
        self._current()
        return self._true_ids

    def has(self, true_id: TrueId) -> bool:
        """Return whether a user has this id, as fresh as `lookup` is."""
        return true_id in self.true_ids()

    def verify(self, user: User | None, password: str) -> bool:
        """Return whether a cleaned password is the user's; for None take as long, return False.

        A hash with other parameters than the hasher's takes another time until `rehash` has run.
        Raises UsersError if argon2 cannot tell, such as for lack of memory.
        """
        return self._hashing.verify(user, password)

    def rehash(self, user: User, password: str) -> bool:
        """Hash a cleaned, just verified password again if its parameters are not the hasher's.

        Return whether the file was changed; a password that somebody else has changed since is
        left alone. Raises UsersError if the file cannot be written.
        """
        if not self._hashing.is_outdated(user):
            return False
        changed = replace(user, hash=self._hashing.hash(password))
        with self._editing() as (lines, users):
            if users.get(user.username) != user:
                return False
            self._write(changed.line() if _is_of(line, user) else line for line in lines)
        return True

    def add(self, username: str, password: str) -> User:
        """Add a user with a new id and return it.

        Raises UsersError if there is one already, the name or password is not acceptable, or the
        file cannot be read or written.
        """
        name = clean_username(username)
        user = User(name, self._new_id(), self._hashing.hash(long_enough(password)))
        with self._editing() as (lines, users):
            if name in users:
                raise UsersError(f"user {name!r} exists in {self._path}; remove it first")
            self._write([*(lines or [HEADER]), user.line()])
        return user

    def set_password(self, username: str, password: str) -> User:
        """Change a user's password, keep the id, and return the user.

        Raises UsersError if there is no such user, or as `add` does.
        """
        hashed = self._hashing.hash(long_enough(password))
        with self._editing() as (lines, users):
            user = replace(self._existing(users, username), hash=hashed)
            self._write(user.line() if _is_of(line, user) else line for line in lines)
        return user

    def remove(self, username: str) -> None:
        """Remove a user. Raises UsersError if there is none, or the file cannot be written."""
        with self._editing() as (lines, users):
            user = self._existing(users, username)
            self._write(line for line in lines if not _is_of(line, user))

    def list(self) -> builtins.list[User]:
        """Read the file and return its users in its order. Raises UsersError as `load` does."""
        with self._mutex:
            self._load()
            return [*self._users.values()]

    def _current(self) -> dict[str, User]:
        with self._mutex:
            version = self._file.version()
            if version != self._version:
                # Before reading: a broken version is then tried and logged only once.
                self._version = version
                try:
                    self._load()
                except UsersError as error:
                    _logger.error("%s; the users from before stay in force", error)
            return self._users

    def _load(self) -> None:
        version, _, users = self._read()
        self._file.warn_if_open()
        self._users = users
        self._true_ids = frozenset(user.true_id for user in users.values())
        self._version = version

    def _read(self) -> tuple[Version, Sequence[str], dict[str, User]]:
        version, lines = self._file.read()
        return version, lines, parse_users(lines, self._path)

    @contextmanager
    def _editing(self) -> Iterator[tuple[Sequence[str], Mapping[str, User]]]:
        """Hold the lock file and give lines and users as they are now; other processes wait."""
        with self._file.editing():
            _, lines, users = self._read()
            yield lines, users

    def _write(self, changed: Iterable[str]) -> None:
        lines = [*changed]
        # Nothing is written that could not be read again, whatever `new_id` has made.
        parse_users(lines, self._path)
        self._file.write(lines)

    def _existing(self, users: Mapping[str, User], username: str) -> User:
        name = clean_username(username)
        if name not in users:
            raise UsersError(f"no user {name!r} in {self._path}; add it first")
        return users[name]


def _is_of(line: str, user: User) -> bool:
    return line.startswith(f"{user.username}:")
