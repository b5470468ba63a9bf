"""Files of lines that commands edit and a running gateway follows: users, API keys.

Writers take turns by a lock file and replace the file as a whole, so a reader sees the old or
the new one. All methods block and may be called from any thread.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_OPEN_TO_OTHERS: Final = 0o077

_logger: Final = logging.getLogger(__name__)

#: What tells one state of a file from another.
Version = tuple[int, ...]
MISSING: Final[Version] = ()
#: No file's version.
UNREAD: Final[Version] = (-1,)


class LineFile:
    """The file at `path`; one that does not exist has no lines. `error` is what is raised."""

    def __init__(self, path: Path, error: type[Exception]) -> None:
        self.path = path
        self._error = error

    def version(self) -> Version:
        """Return the state of the file now, another one after each change."""
        try:
            return _version(self.path.stat())
        except FileNotFoundError:
            return MISSING
        except OSError as error:
            return (error.errno or errno.EIO,)

    def read(self) -> tuple[Version, Sequence[str]]:
        """Return the lines, and the version they are of.

        A file that others may read is warned of. Raises the error, which names the file.
        """
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                lines = file.read().decode().removesuffix("\n").split("\n")
        except FileNotFoundError:
            return MISSING, []
        except OSError as error:
            raise self._error(f"cannot read {self.path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            number = error.object.count(b"\n", 0, error.start) + 1
            raise self._error(f"{self.path}, line {number}: not UTF-8; correct it") from error
        return _version(status), lines if any(lines) else []

    def warn_if_open(self) -> None:
        """Log a warning if group or others may read the file."""
        warn_if_open(self.path)

    @contextmanager
    def editing(self) -> Iterator[None]:
        """Hold the lock file; other processes wait. Raises the error for what cannot be written."""
        try:
            descriptor = self._open_lock(self.path.with_name(f"{self.path.name}.lock"))
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._error(f"cannot write {self.path}: {error}") from error

    def _open_lock(self, lock: Path) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(lock, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return os.open(lock, flags)
        self._hand_over(descriptor)
        return descriptor

    def write(self, lines: Iterable[str]) -> None:
        """Replace the file, for its owner only (mode 0600). To be called while editing."""
        folder = self.path.parent
        descriptor, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=folder)
        try:
            with open(descriptor, "wb") as file:
                file.write("".join(f"{line}\n" for line in lines).encode())
                file.flush()
                self._hand_over(descriptor)
                os.fsync(descriptor)
            os.replace(name, self.path)
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
        hand_over(descriptor, self.path if self.path.exists() else self.path.parent)


def hand_over(descriptor: int, model: Path) -> None:
    """Give a file that root has made to the owner of `model`, a file or folder."""
    # Root runs the command, but the server must be able to read what it wrote.
    if os.geteuid() == 0:
        owner = model.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def warn_if_open(path: Path) -> None:
    """Log a warning if group or others may read a file."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if mode & _OPEN_TO_OTHERS:
        _logger.warning(
            "%s is open to group or others (mode %04o); run chmod 600 on it", path, mode & 0o7777
        )


def _version(status: os.stat_result) -> Version:
    return (status.st_mtime_ns, status.st_size, status.st_ino)
