"""Passwords under argon2 (RFC 9106): hashing, verifying, renewing. All of it blocks."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import argon2
from argon2.exceptions import Argon2Error, InvalidHashError, VerifyMismatchError

from gateway.auth.users_format import User, UsersError


class Hashing:
    """Hashes with `hasher`, without one with argon2-cffi's defaults. Errors name `path`."""

    def __init__(self, path: Path, hasher: argon2.PasswordHasher | None = None) -> None:
        self._path = path
        self._hasher = hasher or argon2.PasswordHasher()

    def hash(self, password: str) -> str:
        """Return the encoded hash of a cleaned password. Raises UsersError."""
        try:
            return self._hasher.hash(password)
        except Argon2Error as error:
            raise UsersError(f"cannot hash the password: {error}") from error

    def verify(self, user: User | None, password: str) -> bool:
        """Return whether a cleaned password is the user's; for None take as long, return False.

        A hash with other parameters than the hasher's takes another time until it is renewed.
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

    def is_outdated(self, user: User) -> bool:
        """Return whether the parameters of the user's hash are not the hasher's."""
        return self._hasher.check_needs_rehash(user.hash)

    def _decoy(self) -> str:
        """Return a hash that costs as much as a real one; no password is known to fit it."""
        hasher = self._hasher
        salt, digest = (_base64(bytes(size)) for size in (hasher.salt_len, hasher.hash_len))
        cost = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
        return f"$argon2{hasher.type.name.lower()}$v=19${cost}${salt}${digest}"


def _base64(data: bytes) -> str:
    return b64encode(data).decode().rstrip("=")
