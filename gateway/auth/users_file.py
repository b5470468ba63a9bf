"""The password file: a few users, edited by hand or by `game-gateway users`, read by the server.

One user a line, `username:true_id:argon2-hash`; blank lines and those that start with `#` stay as
they are. Writers take turns by a lock file and replace the file as a whole, so a reader sees the
old or the new one. All methods block and may be called from any thread.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import logging
import os
import tempfile
import threading
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import argon2
from argon2.exceptions import Argon2Error, InvalidHashError, VerifyMismatchError

from gateway.auth.users_format import (
    HEADER,
    User,
    UsersError,
    clean_username,
    long_enough,
    parse_users,
)
from gateway.messages import TrueId

_OPEN_TO_OTHERS: Final = 0o077

_logger: Final = logging.getLogger(__name__)

_Version = tuple[int, ...]
_MISSING: Final[_Version] = ()
_UNREAD: Final[_Version] = (-1,)


class UsersFile:
    """The password file at `path`; one that does not exist has no users."""

    def __init__(
        self,
        path: Path,
        new_id: Callable[[], TrueId],
        hasher: argon2.PasswordHasher | None = None,
    ) -> None:
        """Read nothing yet. `new_id` makes the ids of added users.

        `hasher` hashes new passwords; without one, argon2-cffi's defaults do (RFC 9106).
        """
        self._path = path
        self._new_id = new_id
        self._hasher = hasher or argon2.PasswordHasher()
        self._mutex = threading.Lock()
        self._version = _UNREAD
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
        try:
            self._hasher.verify(self._decoy() if user is None else user.hash, password)
        except VerifyMismatchError:
            return False
        except (Argon2Error, InvalidHashError) as error:
            who = "an unknown user" if user is None else repr(user.username)
            raise UsersError(f"{self._path}: cannot verify password of {who}: {error}") from error
        return user is not None

    def rehash(self, user: User, password: str) -> bool:
        """Hash a cleaned, just verified password again if its parameters are not the hasher's.

        Return whether the file was changed; a password that somebody else has changed since is
        left alone. Raises UsersError if the file cannot be written.
        """
        if not self._hasher.check_needs_rehash(user.hash):
            return False
        changed = replace(user, hash=self._hash(password))
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
        user = User(name, self._new_id(), self._hash(long_enough(password)))
        with self._editing() as (lines, users):
            if name in users:
                raise UsersError(f"user {name!r} exists in {self._path}; remove it first")
            self._write([*(lines or [HEADER]), user.line()])
        return user

    def set_password(self, username: str, password: str) -> User:
        """Change a user's password, keep the id, and return the user.

        Raises UsersError if there is no such user, or as `add` does.
        """
        hashed = self._hash(long_enough(password))
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
            version = self._stat()
            if version != self._version:
                # Before reading: a broken version is then tried and logged only once.
                self._version = version
                try:
                    self._load()
                except UsersError as error:
                    _logger.error("%s; the users from before stay in force", error)
            return self._users

    def _stat(self) -> _Version:
        try:
            return _version(self._path.stat())
        except FileNotFoundError:
            return _MISSING
        except OSError as error:
            return (error.errno or errno.EIO,)

    def _load(self) -> None:
        status, _, users = self._read()
        if status is not None and status.st_mode & _OPEN_TO_OTHERS:
            _logger.warning(
                "%s is open to group or others (mode %04o); run chmod 600 on it",
                self._path,
                status.st_mode & 0o7777,
            )
        self._users = users
        self._true_ids = frozenset(user.true_id for user in users.values())
        self._version = _MISSING if status is None else _version(status)

    def _read(self) -> tuple[os.stat_result | None, Sequence[str], dict[str, User]]:
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                lines = file.read().decode().removesuffix("\n").split("\n")
        except FileNotFoundError:
            return None, [], {}
        except OSError as error:
            raise UsersError(f"cannot read {self._path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            number = error.object.count(b"\n", 0, error.start) + 1
            raise UsersError(f"{self._path}, line {number}: not UTF-8; correct it") from error
        return status, lines if any(lines) else [], parse_users(lines, self._path)

    @contextmanager
    def _editing(self) -> Iterator[tuple[Sequence[str], Mapping[str, User]]]:
        """Hold the lock file and give lines and users as they are now; other processes wait."""
        try:
            descriptor = self._open_lock(self._path.with_name(f"{self._path.name}.lock"))
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                _, lines, users = self._read()
                yield lines, users
            finally:
                os.close(descriptor)
        except OSError as error:
            raise UsersError(f"cannot write {self._path}: {error}") from error

    def _open_lock(self, lock: Path) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(lock, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return os.open(lock, flags)
        self._hand_over(descriptor)
        return descriptor

    def _write(self, changed: Iterable[str]) -> None:
        lines = [*changed]
        # Nothing is written that could not be read again, whatever `new_id` has made.
        parse_users(lines, self._path)
        folder = self._path.parent
        descriptor, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=folder)
        try:
            with open(descriptor, "wb") as file:
                file.write("".join(f"{line}\n" for line in lines).encode())
                file.flush()
                self._hand_over(descriptor)
                os.fsync(descriptor)
            os.replace(name, self._path)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
        folder_descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder_descriptor)
        finally:
            os.close(folder_descriptor)

    def _hand_over(self, descriptor: int) -> None:
        # Root runs the command, but the server must be able to read what it wrote.
        if os.geteuid() == 0:
            owner = (self._path if self._path.exists() else self._path.parent).stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)

    def _existing(self, users: Mapping[str, User], username: str) -> User:
        name = clean_username(username)
        if name not in users:
            raise UsersError(f"no user {name!r} in {self._path}; add it first")
        return users[name]

    def _hash(self, password: str) -> str:
        try:
            return self._hasher.hash(password)
        except Argon2Error as error:
            raise UsersError(f"cannot hash the password: {error}") from error

    def _decoy(self) -> str:
        """Return a hash that costs as much as a real one; no password is known to fit it."""
        hasher = self._hasher
        salt, digest = (_base64(bytes(size)) for size in (hasher.salt_len, hasher.hash_len))
        cost = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
        return f"$argon2{hasher.type.name.lower()}$v=19${cost}${salt}${digest}"


def _base64(data: bytes) -> str:
    return b64encode(data).decode().rstrip("=")


def _version(status: os.stat_result) -> _Version:
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def _is_of(line: str, user: User) -> bool:
    return line.startswith(f"{user.username}:")
