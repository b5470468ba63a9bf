"""The gateway as an operator runs it: real processes, and a client made of plain HTTP requests."""

from __future__ import annotations

import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

#: The installed command, as systemd and operators start it.
COMMAND = str(Path(sys.executable).with_name("game-gateway"))
TIMEOUT = 30.0


def environment(**variables: str) -> dict[str, str]:
    """Return this process' environment without what steers a gateway, and with `variables`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GATEWAY_")
        and name not in ("STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET")
    }
    return {**kept, **variables}


def run(
    *arguments: str | Path, cwd: Path, text: str | bytes = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of `game-gateway` to its end; `text` is its standard input."""
    done = subprocess.run(
        [COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(**variables),
        input=text if isinstance(text, bytes) else text.encode(),
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


class GatewayProcess:
    """`game-gateway serve` on a free port, in the folder `cwd`; a context manager.

    It does not wait for players when it is stopped, unless `variables` say so.
    """

    def __init__(
        self,
        cwd: Path,
        *arguments: str | Path,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._errors = cwd / "stderr.log"
        self._lines: queue.Queue[str] = queue.Queue()
        self.out = ""
        self.url = ""
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [COMMAND, "serve", "--port", "0", *map(str, arguments)],
                cwd=cwd,
                env=environment(**{"GATEWAY_SERVER_SHUTDOWN_GRACE": "0", **(variables or {})}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.decode())
        self._lines.put("")

    @property
    def err(self) -> str:
        """What it wrote to standard error so far."""
        return self._errors.read_text()

    def __enter__(self) -> GatewayProcess:
        try:
            self.out = self._lines.get(timeout=TIMEOUT)
            assert self.out.startswith("Serving "), self.err
        except BaseException:
            self._kill()
            raise
        self.url = self.out.split()[1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._kill()

    def _kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(TIMEOUT)
        self._reader.join()
        while line := self._lines.get():
            self.out += line
        return status

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a GET."""
        return request(self.url, "GET", path)


def request(url: str, method: str, path: str, body: str | None = None) -> tuple[int, str]:
    """Return status and body of one HTTP request."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT)
    try:
        connection.request(method, path, None if body is None else body.encode())
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


class PollingClient:
    """A Socket.IO client over long polling, one request after the other."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._path = "/socket.io/?EIO=4&transport=polling"
        self._packets: list[str] = []
        opened = json.loads(self.receive()[1:])
        self.engine_sid: str = opened["sid"]
        self._path += f"&sid={self.engine_sid}"

    def send(self, packet: str) -> None:
        """Send one Engine.IO packet."""
        status, body = request(self._url, "POST", self._path, packet)
        assert (status, body.lower()) == (200, "ok"), body

    def receive(self) -> str:
        """Return the next Engine.IO packet; pings are answered by the way."""
        while not self._packets:
            status, body = request(self._url, "GET", self._path)
            assert status == 200, body
            for packet in body.split("\x1e"):
                if packet == "2":
                    self.send("3")
                else:
                    self._packets.append(packet)
        return self._packets.pop(0)

    def connect(self, **auth: Any) -> dict[str, Any]:
        """Log in; return the event `session`, with the `pid` of the CONNECT in it."""
        self.send("40" + json.dumps(auth))
        answer = self.receive()
        assert answer.startswith("40"), answer
        name, session = json.loads(self.receive()[2:])
        assert name == "session"
        return {**session, "pid": json.loads(answer[2:])["pid"]}

    def refused(self, **auth: Any) -> str:
        """Try to log in; return the code of the refusal."""
        self.send("40" + json.dumps(auth))
        answer = self.receive()
        assert answer.startswith("44"), answer
        code: str = json.loads(answer[2:])["data"]["code"]
        return code
