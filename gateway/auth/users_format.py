"""What users may have, in a file or a database: names, ids, passwords and their hashes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final

from gateway.errors import GatewayError
from gateway.messages import TrueId
from gateway.texts import clean_text

MAX_USERNAME_BYTES: Final = 64
MIN_PASSWORD_CHARACTERS: Final = 8
MAX_PASSWORD_BYTES: Final = 1024

HEADER: Final = "# Users of the game gateway, one a line: username:true_id:argon2-hash"
_TRUE_ID: Final = re.compile(r"[!-9;-~]{1,128}")
_HASH: Final = re.compile(r"\$argon2(?:id|i|d)\$v=\d+\$m=\d+,t=\d+,p=\d+(?:\$[A-Za-z0-9+/]{6,}){2}")


class UsersError(GatewayError):
    """The users' file or a change to it is not acceptable; the text says what and the fix."""


@dataclass(frozen=True, slots=True)
class User:
    """A user with a password; `hash` is argon2's encoded hash, with its parameters."""

    username: str
    true_id: TrueId
    hash: str = field(repr=False)

    def line(self) -> str:
        """Return the user as the file has it, without the line's end."""
        return f"{self.username}:{self.true_id}:{self.hash}"


def clean_username(value: object) -> str:
    """Return a username in Unicode's normal form C; case counts.

    Raises UsersError unless it is a string of 1 to 64 UTF-8 bytes without colon, control and
    format characters, white space at its ends or `#` at its start.
    """
    try:
        name = clean_text(value, "username", MAX_USERNAME_BYTES)
    except ValueError as error:
        raise UsersError(str(error)) from error
    if name != name.strip():
        raise UsersError("username has white space at its ends; remove it")
    if ":" in name or name.startswith("#"):
        raise UsersError("username contains ':' or starts with '#'; choose another")
    return name


def clean_password(value: object) -> str:
    """Return a password in Unicode's normal form C: keyboards compose letters differently.

    Raises UsersError unless it is a string of at most 1024 UTF-8 bytes.
    """
    if not isinstance(value, str):
        raise UsersError("password must be a string")
    try:
        password = unicodedata.normalize("NFC", value[: MAX_PASSWORD_BYTES + 1])
        size = len(password.encode())
    except UnicodeEncodeError as error:
        raise UsersError("password is not valid Unicode") from error
    if len(value) > MAX_PASSWORD_BYTES or size > MAX_PASSWORD_BYTES:
        raise UsersError(f"password is longer than {MAX_PASSWORD_BYTES} bytes")
    return password


def long_enough(value: str) -> str:
    """Return a new password, cleaned. Raises UsersError also if it is too short."""
    password = clean_password(value)
    if len(password) < MIN_PASSWORD_CHARACTERS:
        raise UsersError(f"password is too short; use {MIN_PASSWORD_CHARACTERS} characters or more")
    return password


def parse_users(lines: Iterable[str], path: Path) -> dict[str, User]:
    """Return the users in these lines by name.

    Raises UsersError that names the file and the line.
    """
    users: dict[str, User] = {}
    numbers: dict[tuple[str, str], int] = {}
    for number, line in enumerate(lines, 1):
        text = line.rstrip()
        if not text or text.startswith("#"):
            continue
        try:
            user = _parse_user(text)
            for key in (("username", user.username), ("true_id", user.true_id)):
                if numbers.setdefault(key, number) != number:
                    raise UsersError(f"{key[0]} is that of line {numbers[key]}; remove one")
        except UsersError as error:
            raise UsersError(f"{path}, line {number}: {error}") from error
        users[user.username] = user
    return users


def _parse_user(text: str) -> User:
    parts = text.split(":")
    if len(parts) != len(fields(User)):
        raise UsersError("not username:true_id:argon2-hash; remove or correct the line")
    return check_user(*parts)


def is_true_id(text: str) -> bool:
    """Return whether this can be the id of a user."""
    return _TRUE_ID.fullmatch(text) is not None


def check_user(username: str, true_id: str, hashed: str) -> User:
    """Return a user of these, as they were read. Raises UsersError."""
    if clean_username(username) != username:
        raise UsersError("username is not in normal form C; add the user again")
    if not is_true_id(true_id):
        raise UsersError("true_id must be 1 to 128 visible ASCII characters without a colon")
    if not _HASH.fullmatch(hashed):
        raise UsersError("not an argon2 hash; remove the user and add it again")
    return User(username, TrueId(true_id), hashed)
