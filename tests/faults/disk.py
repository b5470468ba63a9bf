"""A disk so small that it can be filled: a tmpfs of its own."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final

_CHUNK: Final = 1 << 16
_TIMEOUT: Final = 10.0


class SmallDisk:
    """A tmpfs of `size` bytes at `directory` while the context lasts. It takes root.

    Without root a user namespace does as well: `unshare -rm COMMAND`.
    """

    def __init__(self, directory: Path, size: int) -> None:
        self._directory = directory
        self._size = size
        self._ballast = directory / "ballast"

    def __enter__(self) -> SmallDisk:
        self._directory.mkdir(mode=0o700)
        assert os.geteuid() == 0, "mounting takes root: put `unshare -rm` before the command"
        options = f"size={self._size},mode=700"
        _run("mount", "-t", "tmpfs", "-o", options, "faults", str(self._directory))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _run("umount", str(self._directory))

    def fill(self) -> None:
        """Take all the room there is, to the last page."""
        with self._ballast.open("ab", buffering=0) as file:
            size = _CHUNK
            while size:
                try:
                    file.write(b"\0" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2

    def free(self) -> None:
        """Give it back."""
        self._ballast.unlink(missing_ok=True)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
