"""Starts and watches the servers under test, each pinned to one core."""

from __future__ import annotations

import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.gateway_process import TIMEOUT, GatewayProcess, own_environment

PEERS = Path(__file__).resolve().parent / "peers"
SERVER_CORE = 0
LOAD_CORE = 1
_TICKS = os.sysconf("SC_CLK_TCK")
#: The gateway without the limits that the load would hit; all else as it comes.
CONFIG: dict[str, Any] = {
    "limits": {
        "connections_per_address": 0,
        "connections_per_player": 0,
        "sessions_per_player": 0,
        "new_sessions_per_minute": 0,
        "messages_per_second": 0,
        "burst": 0,
    },
    "presence": {"grace": 0},
    "log": {"level": "warning"},
}


class Server:
    """A running server."""

    def __init__(self, pid: int, url: str) -> None:
        self._proc = Path(f"/proc/{pid}")
        self.url = url

    def rss(self) -> int:
        """Resident memory, in bytes."""
        pages = int((self._proc / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Processor time used so far, in seconds."""
        fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


class Meter:
    """How long the body of its `with` took, and what processor time went into it meanwhile.

    Shares are of one core: the server's, and ours, who are its load.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.seconds = self.server_share = self.load_share = 0.0
        self._start = (0.0, 0.0, 0.0)

    def _read(self) -> tuple[float, float, float]:
        return time.perf_counter(), self.server.cpu(), time.process_time()

    def __enter__(self) -> None:
        self._start = self._read()

    def __exit__(self, *_: object) -> None:
        wall, cpu, load = (now - then for now, then in zip(self._read(), self._start, strict=True))
        self.seconds, self.server_share, self.load_share = wall, cpu / wall, load / wall


@contextmanager
def running(peer: str) -> Iterator[Server]:
    """Start a peer on its core; end it afterwards."""
    started = _gateway(peer) if peer.startswith("gateway") else _other(peer)
    with started as server:
        yield server


def _pin(pid: int) -> None:
    """Keep all threads of a server, and those they start, on one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {SERVER_CORE})


@contextmanager
def _gateway(peer: str) -> Iterator[Server]:
    websocket = "tornado" if peer.endswith("tornado") else "picows"
    with tempfile.TemporaryDirectory() as state:
        store = "sqlite:///gateway.db" if peer == "gateway-sqlite" else "memory://"
        config = {**CONFIG, "server": {"websocket": websocket}, "store": {"url": store}}
        gateway = GatewayProcess(Path(state), config=config)
        try:
            gateway.start()
        except AssertionError as error:
            raise ChildProcessError(str(error)) from None
        try:
            _pin(gateway.pid)
            yield Server(gateway.pid, gateway.url)
        finally:
            try:
                gateway.kill()
            except AssertionError:
                raise ChildProcessError(f"the gateway ended by itself:\n{gateway.log}") from None


@contextmanager
def _other(peer: str) -> Iterator[Server]:
    process = subprocess.Popen(
        _command(peer),
        env=own_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        try:
            _pin(process.pid)
            yield Server(process.pid, serving(process))
        finally:
            process.kill()


def serving(process: subprocess.Popen[str]) -> str:
    """Wait until a server accepts connections, and return its URL."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], TIMEOUT)
    line = process.stdout.readline() if ready else ""
    if not line.startswith("Serving "):
        raise ChildProcessError(f"it did not start: {line!r}")
    return line.split()[1]


def allow_many_files() -> None:
    """Let this process, and the servers that it starts, open as many files as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _command(peer: str) -> list[str]:
    if peer == "stock":
        return [sys.executable, str(PEERS / "stock.py")]
    node = shutil.which("node")
    if node is None:
        raise SystemExit("node is not installed: the peers need it")
    return [node, str(PEERS / "server.mjs"), peer]
