"""The processes that end-to-end tests run, each stopped by its own pid."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
_SYSTEMD: Final = {"STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET"}
_START_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 20.0
_SERVING: Final = re.compile(r"Serving (http://127\.0\.0\.1:(\d+)/)\n")
#: What a healthy gateway never logs.
_FAULT: Final = re.compile(r"Traceback|never awaited|never retrieved| (ERROR|CRITICAL) ")


def program(name: str) -> str:
    """Return the path of a program; a missing one fails the test, it never skips it."""
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is not installed: `make test` installs it", pytrace=False)
    return path


def own_environment() -> dict[str, str]:
    """The environment without variables that steer a gateway."""
    return {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("GATEWAY_") and key not in _SYSTEMD
    }


class GatewayProcess:
    """A gateway of its own process, with a state directory and a port that survive restarts."""

    def __init__(self, directory: Path, config: Mapping[str, Any]) -> None:
        self.state_dir = directory / "state"
        self.log_file = directory / "gateway.log"
        self._config_file = directory / "gateway.yaml"
        self._config_file.write_text(yaml.safe_dump(dict(config)))
        self._process: subprocess.Popen[str] | None = None
        self.url = ""
        self.port = 0

    @property
    def log(self) -> str:
        """What it has logged so far, over all its runs."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def _arguments(self, *words: str) -> list[str]:
        options = ["--config", str(self._config_file), "--state-dir", str(self.state_dir)]
        return [sys.executable, "-m", "gateway", *words, *options]

    def add_user(self, username: str, password: str) -> str:
        """Add a user to the password file by the command line; return the true_id."""
        done = subprocess.run(
            [*self._arguments("users", "add"), "--password-stdin", username],
            input=f"{password}\n",
            cwd=ROOT,
            env=own_environment(),
            capture_output=True,
            text=True,
            timeout=_START_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        name, true_id = done.stdout.split()
        assert name == username
        return true_id

    def start(self) -> None:
        """Start it and wait for the line that says it accepts connections."""
        deadline = time.monotonic() + _START_SECONDS
        while not self._try_start(deadline):
            # Between two runs somebody's connection may have got our port.
            if "cannot listen" not in self.log or time.monotonic() > deadline:
                pytest.fail(f"the gateway did not start:\n{self.log}", pytrace=False)

    def _try_start(self, deadline: float) -> bool:
        assert self._process is None
        with self.log_file.open("a") as log:
            self._process = subprocess.Popen(
                self._arguments("serve", "--port", str(self.port)),
                cwd=ROOT,
                env=own_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        stdout = self._process.stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
        line = stdout.readline() if ready else ""
        match = _SERVING.fullmatch(line)
        if match is None:
            self._end(signal.SIGKILL)
            return False
        self.url, self.port = match[1], int(match[2])
        return True

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        assert process is not None
        with process:
            process.send_signal(number)
            try:
                return process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                pytest.fail(f"the gateway did not stop on {number.name}:\n{self.log}")

    def kill(self) -> None:
        """End it at once, as a crash of the machine would."""
        assert self._end(signal.SIGKILL) == -signal.SIGKILL

    def terminate(self) -> None:
        """Ask it to stop; it drains meanwhile."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        """Wait for the end after `terminate`; it has to be a clean one."""
        process = self._process
        assert process is not None
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._end(signal.SIGKILL)
            pytest.fail(f"the gateway did not stop on SIGTERM:\n{self.log}", pytrace=False)
        with process:
            self._process = None
        assert process.returncode == 0, self.log

    def stop(self) -> None:
        """Stop it cleanly: exit status 0."""
        self.terminate()
        self.wait()

    def close(self) -> None:
        """End of the test: stop what still runs; nothing that went wrong may be in the log."""
        if self._process is not None:
            self.stop()
        assert not _FAULT.search(self.log), self.log


class Control:
    """Lets a test in another language stop and start the gateway: POST to /kill and the like."""

    def __init__(self, gateway: GatewayProcess) -> None:
        actions = {
            "/start": gateway.start,
            "/kill": gateway.kill,
            "/terminate": gateway.terminate,
            "/wait": gateway.wait,
        }

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                try:
                    actions[self.path]()
                except BaseException as error:
                    self._answer(500, repr(error))
                else:
                    self._answer(200, "ok")

            def _answer(self, status: int, text: str) -> None:
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="control")
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
