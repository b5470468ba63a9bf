"""The keys of game backends: who may call the HTTP API, and what they may do there.

One key a line, `name:scopes:digest`; scopes are separated by commas. Only a digest is kept. It
is plain SHA-256: a key is 256 random bits, so there is nothing to guess that a slow hash, as
passwords need, would make slower, and every call would pay for it.
"""

from __future__ import annotations

import builtins
import hashlib
import hmac
import logging
import re
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, cast, get_args

from gateway.errors import GatewayError
from gateway.line_file import UNREAD, LineFile, Version

Scope = Literal["send", "read", "sessions", "admin"]
#: What each scope allows, in the order in which files name them.
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

#: Each call is compared with every key.
MAX_KEYS: Final = 1000
#: Longer ones are refused before anything is computed over them.
MAX_KEY_LENGTH: Final = 256
_HEADER: Final = "# API keys of the game gateway, one a line: name:scopes:sha256-of-the-key"
_PREFIX: Final = "gk_"
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")

_logger: Final = logging.getLogger(__name__)


class ApiKeysError(GatewayError):
    """The file or a change to it is not acceptable; the text says what and the fix."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A line of the file: whose key it is, what it is good for, and its digest (hex)."""

    name: str
    scopes: frozenset[Scope]
    digest: str = field(repr=False)

    def line(self) -> str:
        """Return the key as the file has it, without the line's end."""
        return f"{self.name}:{','.join(in_order(self.scopes))}:{self.digest}"


def in_order(scopes: Iterable[Scope]) -> tuple[Scope, ...]:
    """Return scopes as they are written."""
    return tuple(sorted(scopes, key=SCOPES.index))


def parse_scopes(texts: Iterable[str]) -> frozenset[Scope]:
    """Return the scopes with these names. Raises ApiKeysError for none, or one that is unknown."""
    scopes = frozenset(texts)
    for unknown in sorted(scopes - frozenset(SCOPES)):
        raise ApiKeysError(f"unknown scope {unknown[:40]!r}; use {', '.join(SCOPES)}")
    if not scopes:
        raise ApiKeysError(f"no scope; give one or more of {', '.join(SCOPES)}")
    return cast("frozenset[Scope]", scopes)


class ApiKeysFile:
    """The file at `path`; one that does not exist has no keys. Methods may block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = LineFile(path, ApiKeysError)
        self._mutex = threading.Lock()
        self._version: Version = UNREAD
        self._keys: tuple[ApiKey, ...] = ()

    def load(self) -> None:
        """Read the file now. Raises ApiKeysError, which names file and line."""
        with self._mutex:
            self._load()

    def find(self, secret: str) -> ApiKey | None:
        """Return the key whose secret this is, after reading the file again if it has changed.

        A file that has become unusable is logged once; the keys from before stay. How long it
        takes tells nothing about the keys there are but their number.
        """
        if len(secret) > MAX_KEY_LENGTH:
            return None
        digest = _digest(secret)
        found = None
        for key in self._current():
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def holds(self, key: ApiKey) -> bool:
        """Tell whether the file, which is read again if it has changed, still has this very key."""
        return key in self._current()

    def list(self) -> builtins.list[ApiKey]:
        """Read the file and return its keys in its order. Raises ApiKeysError."""
        with self._mutex:
            self._load()
            return [*self._keys]

    def add(self, name: str, scopes: frozenset[Scope]) -> tuple[ApiKey, str]:
        """Add a key; return it and its secret, which is kept nowhere.

        Raises ApiKeysError if there is one of that name already, the name is not acceptable or
        the file cannot be read or written.
        """
        if not _NAME.fullmatch(name):
            raise ApiKeysError("the name must be 1 to 64 letters, digits, dots, dashes or _")
        secret = _PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(name, scopes, _digest(secret))
        with self._editing() as (lines, keys):
            if any(other.name == name for other in keys):
                raise ApiKeysError(f"key {name!r} exists in {self._path}; remove it first")
            self._write([*(lines or [_HEADER]), key.line()])
        return key, secret

    def remove(self, name: str) -> None:
        """Remove a key. Raises ApiKeysError if there is none, or the file cannot be written."""
        with self._editing() as (lines, keys):
            if all(key.name != name for key in keys):
                raise ApiKeysError(f"no key {name[:64]!r} in {self._path}")
            self._write(line for line in lines if not line.startswith(f"{name}:"))

    def _current(self) -> tuple[ApiKey, ...]:
        with self._mutex:
            version = self._file.version()
            if version != self._version:
                # Before reading: a broken version is then tried and logged only once.
                self._version = version
                try:
                    self._load()
                except ApiKeysError as error:
                    _logger.error("%s; the keys from before stay in force", error)
            return self._keys

    def _load(self) -> None:
        version, lines = self._file.read()
        self._keys = _parse(lines, self._path)
        self._file.warn_if_open()
        self._version = version

    @contextmanager
    def _editing(self) -> Iterator[tuple[Sequence[str], tuple[ApiKey, ...]]]:
        with self._file.editing():
            _, lines = self._file.read()
            yield lines, _parse(lines, self._path)

    def _write(self, changed: Iterable[str]) -> None:
        lines = [*changed]
        # Nothing is written that could not be read again.
        _parse(lines, self._path)
        self._file.write(lines)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def _parse(lines: Iterable[str], path: Path) -> tuple[ApiKey, ...]:
    keys: list[ApiKey] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        text = line.rstrip()
        if not text or text.startswith("#"):
            continue
        try:
            key = _parse_key(text)
            for what in (f"name {key.name}", f"digest {key.digest}"):
                if seen.setdefault(what, number) != number:
                    kind = what.partition(" ")[0]
                    raise ApiKeysError(f"{kind} is that of line {seen[what]}; remove one")
            if len(keys) == MAX_KEYS:
                raise ApiKeysError(f"more than {MAX_KEYS} keys; remove some")
        except ApiKeysError as error:
            raise ApiKeysError(f"{path}, line {number}: {error}") from error
        keys.append(key)
    return tuple(keys)


def _parse_key(text: str) -> ApiKey:
    # No message repeats the line: somebody may have pasted a key into it.
    parts = text.split(":")
    if len(parts) != 3:
        raise ApiKeysError("not name:scopes:digest; remove the line and add the key again")
    name, scopes, digest = parts
    if not _NAME.fullmatch(name):
        raise ApiKeysError("the name must be 1 to 64 letters, digits, dots, dashes or _")
    if not _DIGEST.fullmatch(digest):
        raise ApiKeysError("not a SHA-256 digest; remove the line and add the key again")
    return ApiKey(name, parse_scopes(scopes.split(",")), digest)
