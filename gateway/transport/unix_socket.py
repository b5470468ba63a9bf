"""A listening Unix domain socket: `server.unix_socket` in the YAML file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path


class UnixSocket:
    """The socket listens once this is made, until `close`.

    A file that a dead gateway has left is replaced. Raises OSError, whose text names the path,
    when somebody listens there, when the path is something else, or cannot be made.
    """

    def __init__(self, path: Path, mode: int, backlog: int) -> None:
        self._path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _alone_in(path.parent):
                _make_room(path)
                self.socket.bind(str(path))
                # Nobody connects before it listens, whatever the umask has allowed.
                path.chmod(mode)
                self.socket.listen(backlog)
        except OSError as error:
            self.socket.close()
            raise OSError(
                error.errno, f"cannot listen on {path}: {error.strerror or error}"
            ) from error
        self.socket.setblocking(False)

    def close(self) -> None:
        """Listen no more, and remove the file, unless somebody else listens there by now."""
        self.socket.close()
        with contextlib.suppress(OSError), _alone_in(self._path.parent):
            _make_room(self._path)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep others out who replace a socket here: both would find the old one dead."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_room(path: Path) -> None:
    """Remove a socket that nobody listens on. Raises OSError for anything else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(
            0, "there is a file that is no socket; remove it or take another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A full queue would block, and its owner is alive.
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass
    raise FileExistsError(0, "another process listens there; stop it or take another path")
