"""The gateway as an operator runs it: processes of its own, each ended by its own pid."""

from __future__ import annotations

import http.client
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

ROOT: Final = Path(__file__).resolve().parents[1]
#: The installed command, as systemd and operators start it.
COMMAND: Final = str(Path(sys.executable).with_name("game-gateway"))
TIMEOUT: Final = 30.0
_SYSTEMD: Final = (
    *("STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET"),
    *("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID"),
)
_SERVING: Final = re.compile(r"Serving (https?://127\.0\.0\.1:(\d+)/|unix:\S+)\n")
#: What a healthy gateway never logs.
_FAULT: Final = re.compile(
    r'Traceback|never awaited|never retrieved| (ERROR|CRITICAL) |"level": "(error|critical)"'
)


def program(name: str) -> str:
    """Return the path of a program; a missing one fails the test, it never skips it."""
    path = shutil.which(name)
    assert path is not None, f"{name} is not installed: `make test` installs it"
    return path


def own_environment(**variables: str) -> dict[str, str]:
    """Return this process' environment without what steers a gateway, and with `variables`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GATEWAY_") and name not in _SYSTEMD
    }
    return {**kept, **variables}


def _gateway_environment(variables: Mapping[str, str]) -> dict[str, str]:
    # The code beside these tests, wherever the command was installed from.
    return own_environment(PYTHONPATH=str(ROOT)) | variables


def run(
    *arguments: str | Path, cwd: Path, text: str | bytes = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of `game-gateway` to its end; `text` is its standard input."""
    done = subprocess.run(
        [COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=_gateway_environment(variables),
        input=text if isinstance(text, bytes) else text.encode(),
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


class GatewayProcess:
    """`game-gateway serve` in the folder `cwd`, with a port and a state that survive restarts.

    `config` is written to a file there. It does not wait for players when it is stopped, unless
    `variables` say so. `sockets` listen, and are handed over by name, as systemd does. As a
    context manager it is started, and closed or, after an exception, killed.
    """

    def __init__(
        self,
        cwd: Path,
        *arguments: str | Path,
        config: Mapping[str, Any] | None = None,
        variables: Mapping[str, str] | None = None,
        sockets: Mapping[str, socket.socket] | None = None,
    ) -> None:
        self.cwd = cwd
        self._sockets = sockets or {}
        self._arguments = [*map(str, arguments)]
        self._config: tuple[str, ...] = ()
        if config is not None:
            (cwd / "gateway.yaml").write_text(yaml.safe_dump(dict(config)))
            self._config = ("--config", "gateway.yaml")
        self._variables = {"GATEWAY_SERVER_SHUTDOWN_GRACE": "0", **(variables or {})}
        self._log_file = cwd / "gateway.log"
        self._process: subprocess.Popen[str] | None = None
        #: 0 is a free one, which it keeps from then on.
        self.port = 0
        self.url = ""
        #: What it has written to standard output since its last start.
        self.out = ""

    @property
    def log(self) -> str:
        """What it has logged so far, over all its runs."""
        return self._log_file.read_text() if self._log_file.exists() else ""

    @property
    def pid(self) -> int:
        """The process id while it runs."""
        assert self._process is not None
        return self._process.pid

    def add_user(self, username: str, password: str) -> str:
        """Add a user to the password file by the command line; return the true_id."""
        add = ("users", "add", username, "--password-stdin")
        done = run(*add, *self._config, cwd=self.cwd, text=f"{password}\n")
        assert done.returncode == 0, done.stderr
        name, true_id = done.stdout.split()
        assert name == username
        return true_id

    def start(self) -> None:
        """Start it and wait for the line that says it accepts connections."""
        deadline = time.monotonic() + TIMEOUT
        while not (ready := self._try_start()):
            # Between two runs somebody's connection may have got our port.
            taken = f"cannot listen on 127.0.0.1:{self.port}:" in self.log
            if not taken or time.monotonic() > deadline:
                break
        assert ready, f"the gateway did not start:\n{self.log}"

    def _try_start(self) -> bool:
        assert self._process is None
        with self._log_file.open("a") as log:
            self._process = subprocess.Popen(
                [
                    *self._handing_over(),
                    *(COMMAND, "serve", *self._config, *self._arguments, "--port", str(self.port)),
                ],
                cwd=self.cwd,
                env=_gateway_environment(self._variables),
                pass_fds=[each.fileno() for each in self._sockets.values()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        stdout = self._process.stdout
        assert stdout is not None
        # Not select(2): the number of the descriptor may be above 1,024.
        waiting = select.poll()
        waiting.register(stdout, select.POLLIN)
        self.out = stdout.readline() if waiting.poll(TIMEOUT * 1000) else ""
        serving = _SERVING.fullmatch(self.out)
        if serving is None:
            self._end()
            return False
        self.url, self.port = serving[1], int(serving[2] or self.port)
        return True

    def _handing_over(self) -> list[str]:
        """Return a command that runs another with the sockets where sd_listen_fds(3) has them."""
        if not self._sockets:
            return []
        numbers = enumerate(self._sockets.values(), 3)
        moves = " ".join(f"{number}<&{each.fileno()}" for number, each in numbers)
        script = (
            f"exec {moves}; export LISTEN_PID=$$ LISTEN_FDS={len(self._sockets)}"
            f' LISTEN_FDNAMES={":".join(self._sockets)}; exec "$@"'
        )
        return [program("bash"), "-c", script, "bash"]

    def _end(self) -> int:
        """Kill it if it still runs; return the exit status."""
        process, self._process = self._process, None
        assert process is not None
        with process:
            process.kill()
            if process.stdout is not None:
                self.out += process.stdout.read()
        return process.returncode

    def kill(self) -> None:
        """End it at once, as a crash of the machine would."""
        assert self._end() == -signal.SIGKILL

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to stop; it drains meanwhile."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self) -> None:
        """Wait for the end after `terminate`; it has to be a clean one."""
        assert self._process is not None
        try:
            self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self._end()
            raise AssertionError(f"the gateway did not stop:\n{self.log}") from None
        assert self._end() == 0, self.log
        self._assert_well()

    def stop(self) -> None:
        """Stop it cleanly: exit status 0, and nothing that went wrong in the log."""
        self.terminate()
        self.wait()

    def close(self) -> None:
        """End of the test: stop what still runs; nothing that went wrong may be in the log."""
        if self._process is not None:
            self.stop()
        self._assert_well()

    def _assert_well(self) -> None:
        assert not _FAULT.search(self.log), self.log

    def __enter__(self) -> GatewayProcess:
        try:
            self.start()
        except BaseException:
            if self._process is not None:
                self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        elif self._process is not None:
            self._end()

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a GET."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()
