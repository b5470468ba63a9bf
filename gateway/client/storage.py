"""Where a client keeps what it needs to go on after a restart of its process."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from pathlib import Path
from typing import Final, Protocol

import msgspec

from gateway.client.errors import StorageInUse

_logger: Final = logging.getLogger(__name__)
_MODE: Final = 0o600


class Record(msgspec.Struct, frozen=True):
    """What is kept. Who has the token is the player: keep it as secret as a password."""

    #: Where the session is; a token is shown to no other gateway.
    gateway: str
    token: str
    #: Whose session it is, as far as the credentials tell.
    account: str = ""
    #: Id of the last message that was handled.
    offset: str | None = None
    #: Messages have arrived, and none of this session has been handled yet.
    waiting: bool = False

    def __repr__(self) -> str:
        return f"<Record of {self.gateway}>"


class Storage(Protocol):
    """Keeps one record. Called on the event loop, so it must be quick."""

    def open(self) -> Record | None:
        """Return what is kept. Raises StorageInUse while another client has it open."""

    def save(self, record: Record, *, durable: bool) -> None:
        """Keep this instead; `durable` where even a power cut must not bring the old one back."""

    def clear(self) -> None:
        """Keep nothing."""

    def close(self) -> None:
        """Let others open it."""


class MemoryStorage:
    """Keeps the record as long as this object lives."""

    def __init__(self) -> None:
        self._record: Record | None = None
        self._open = False

    def open(self) -> Record | None:
        """See Storage.open."""
        if self._open:
            raise StorageInUse("storage_in_use", "another client uses this storage: give each one")
        self._open = True
        return self._record

    def save(self, record: Record, *, durable: bool) -> None:
        """See Storage.save."""
        self._record = record

    def clear(self) -> None:
        """See Storage.clear."""
        self._record = None

    def close(self) -> None:
        """See Storage.close."""
        self._open = False


class FileStorage:
    """Keeps the record in a file that only its owner may read, replaced as a whole.

    A second file, with `.lock` behind its name, is locked while a client uses it: two processes
    with one token would be taken for a thief and a victim. An unreadable record counts as none.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._lock: int | None = None

    def open(self) -> Record | None:
        """See Storage.open. Raises OSError when the file cannot be read or locked."""
        lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            record = self._read()
        except BlockingIOError:
            os.close(lock)
            raise StorageInUse(
                "storage_in_use", f"another process uses {self._path}: give each client a file"
            ) from None
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock
        return record

    def _read(self) -> Record | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Record)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError):
            # Its text may have a token in it.
            _logger.warning("%s has no record of a session: logging in anew", self._path)
            return None

    def save(self, record: Record, *, durable: bool) -> None:
        """See Storage.save. When it fails the old record goes: its token was used before."""
        try:
            self._replace(msgspec.json.encode(record), durable=durable)
        except OSError as error:
            _logger.warning("%s cannot be written: %s", self._path, error.strerror)
            self.clear()

    def _replace(self, text: bytes, *, durable: bool) -> None:
        # One name is enough: whoever writes has the lock.
        new = f"{self._path}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(new, flags, _MODE)
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, _MODE)
            file.write(text)
            file.flush()
            if durable:
                os.fsync(descriptor)
        os.replace(new, self._path)
        if durable:
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def clear(self) -> None:
        """See Storage.clear."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """See Storage.close."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)
