"""Programs that a browser needs: each in a process group of its own, which ends as a whole."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.e2e.browsers.interface import wait_until
from tests.gateway_process import own_environment, program

_END_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.02


class Program:
    """A running program; what it writes goes to the file `log`."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        variables: Mapping[str, str],
        pass_fds: Sequence[int] = (),
    ) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [program(command[0]), *command[1:]],
                env=own_environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        self._log = log
        self.pid = self._process.pid

    def wait_for_text(self, file: Path, lines: int) -> list[str]:
        """Wait until the program has written a file of so many lines; return them."""

        def look() -> list[str] | None:
            assert self._running(), self._log.read_text(errors="replace")
            text = file.read_text() if file.exists() else ""
            return text.splitlines() if len(text.splitlines()) >= lines else None

        found: list[str] = wait_until(f"{file.name} of a program", look)
        return found

    def end(self) -> None:
        """Ask it to stop, and end what is left of its group."""
        if self._process.returncode is not None:
            return
        self._process.terminate()
        deadline = time.monotonic() + _END_SECONDS
        while self._running() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        # Not yet reaped, so the group's id is still its own.
        os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def _running(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None


class Display:
    """A screen that nobody sees, for browsers that cannot do without."""

    def __init__(self, log: Path) -> None:
        reader, writer = os.pipe()
        with open(reader, encoding="ascii") as numbers:
            command = ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1280x900x24"]
            try:
                self._program = Program([*command, "-nolisten", "tcp"], log, {}, [writer])
            finally:
                os.close(writer)
            # The end of the file, if it does not start.
            number = numbers.readline().strip()
        assert number, log.read_text(errors="replace")
        self.name = f":{number}"

    def close(self) -> None:
        """Switch it off."""
        self._program.end()


def descendants(pid: int) -> Iterator[int]:
    """Yield the processes that this one has started, and theirs."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            yield child
            yield from descendants(child)


def command_of(pid: int) -> str:
    """Return the name of a process' program; empty when it has ended."""
    try:
        return Path(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()).name
    except OSError:
        return ""
