"""Starts and watches the servers under test, each pinned to one core."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
SERVER_CORE = 0
LOAD_CORE = 1
_TICKS = os.sysconf("SC_CLK_TCK")
#: The gateway without the limits that the load would hit; all else as it comes.
CONFIG = """
limits: {connections_per_address: 0, connections_per_player: 0, sessions_per_player: 0,
         messages_per_second: 0, burst: 0}
presence: {grace: 0}
log: {level: warning}
"""


class Server:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self._process = process
        self.url = url

    def rss(self) -> int:
        """Resident memory, in bytes."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Processor time used so far, in seconds."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


def command(peer: str, state: Path) -> list[str]:
    """Return how to start a peer."""
    if peer == "stock":
        return [sys.executable, str(HERE / "peers" / "stock.py")]
    if peer.startswith("gateway"):
        config = state / "gateway.yaml"
        websocket = "tornado" if peer.endswith("tornado") else "picows"
        config.write_text(f"{CONFIG}server: {{websocket: {websocket}}}\n")
        return [
            *(sys.executable, "-m", "gateway", "serve", "--port", "0"),
            *("--state-dir", str(state), "--config", str(config)),
        ]
    node = shutil.which("node")
    if node is None:
        raise SystemExit("node is not installed: the peers need it")
    return [node, str(HERE / "peers" / "server.mjs"), peer]


@contextmanager
def running(peer: str) -> Iterator[Server]:
    """Start a peer on its core; stop it afterwards."""
    with tempfile.TemporaryDirectory() as state:
        process = subprocess.Popen(
            command(peer, Path(state)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=HERE.parent.parent,
        )
        os.sched_setaffinity(process.pid, {SERVER_CORE})
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("Serving "):
                raise SystemExit(f"{peer} did not start: {line!r}")
            yield Server(process, line.split()[1])
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
