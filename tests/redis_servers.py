"""Real servers of Redis: processes on free ports of 127.0.0.1, each ended by its own pid."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import redis

from tests.gateway_process import program

TIMEOUT: Final = 30.0
#: A Cluster's nodes talk to each other on a port so much higher.
_BUS: Final = 10_000
_AOF: Final = {
    "no": ("--appendonly", "no"),
    "everysec": ("--appendonly", "yes", "--appendfsync", "everysec"),
    "always": ("--appendonly", "yes", "--appendfsync", "always"),
}


def free_port(*, bus: bool = False) -> int:
    """Return a port of 127.0.0.1 that was free a moment ago, with `bus` that of a Cluster's bus."""
    while True:
        with socket.socket() as probe, socket.socket() as second:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            if not bus:
                return port
            with suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + _BUS))
                return port


class RedisServer:
    """`redis-server` in the folder `cwd`, with a port and data that survive restarts.

    `appendonly` is no, everysec or always. `tls` is a certificate, its key and the authority
    that clients' certificates must have. `options` are of the command line. As a context
    manager it is started, and killed in the end.
    """

    def __init__(
        self,
        cwd: Path,
        *options: str,
        appendonly: str = "no",
        maxmemory: str = "0",
        replicaof: RedisServer | None = None,
        cluster: bool = False,
        sentinel: bool = False,
        password: str = "",
        tls: tuple[Path, Path, Path] | None = None,
    ) -> None:
        self.cwd = cwd
        self.port = free_port(bus=cluster)
        self._options = [*options]
        self._sentinel = sentinel
        if not sentinel:
            self._options += ["--save", "", *_AOF[appendonly], "--maxmemory", maxmemory]
            # A replica need not wait for others that may come, nor long for something to confirm.
            self._options += ["--repl-diskless-sync-delay", "0"]
            self._options += ["--repl-ping-replica-period", "1"]
        if replicaof is not None:
            self._options += ["--replicaof", "127.0.0.1", str(replicaof.port)]
        if cluster:
            self._options += ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
        self._password = password
        if password:
            self._options += ["--requirepass", password]
        #: The port for TLS, beside the other one.
        self.tls_port = 0
        if tls is not None:
            self.tls_port = free_port()
            certificate, key, authority = map(str, tls)
            self._options += ["--tls-port", str(self.tls_port), "--tls-cert-file", certificate]
            self._options += ["--tls-key-file", key, "--tls-ca-cert-file", authority]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What a gateway is told."""
        return f"redis://127.0.0.1:{self.port}/"

    @property
    def pid(self) -> int:
        """The process id while it runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has logged so far, over all its runs."""
        path = self.cwd / "redis.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def client(self, **options: Any) -> redis.Redis:
        """Return a client for tests; close it after use, or use it as a context manager."""
        settings = {"socket_timeout": TIMEOUT, "password": self._password or None}
        return redis.Redis(port=self.port, **settings | options)

    def ask(self, *words: str | bytes | int | float) -> Any:
        """Return the answer of one command."""
        with self.client() as client:
            return client.execute_command(*words)

    def own_all_slots(self) -> None:
        """Become the only master of a Cluster."""
        self.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: b"cluster_state:ok" in self.ask("CLUSTER", "INFO"), "it has all slots")

    def replicas_in_step(self) -> int:
        """Return how many replicas get everything at once."""
        about = self.ask("INFO", "replication")
        replicas = (about[f"slave{number}"] for number in range(about["connected_slaves"]))
        # One is online before it has said for the first time how far it is: then it gets more.
        return sum(each["state"] == "online" and each["offset"] > 0 for each in replicas)

    def appendonly_size(self) -> int:
        """Return the size of the file that it appends to, in bytes."""
        return self._appendonly().stat().st_size

    def cut_appendonly(self, size: int) -> None:
        """Cut that file off, as if the rest had never come to the disk; it must not run."""
        assert self._process is None
        assert self._appendonly().stat().st_size > size, "there is nothing to lose"
        os.truncate(self._appendonly(), size)

    def _appendonly(self) -> Path:
        # It goes on in a file of the next number now and then.
        files = (self.cwd / "appendonlydir").glob("*.incr.aof")
        return max(files, key=lambda file: int(file.name.split(".")[-3]))

    def start(self) -> None:
        """Start it and wait until it answers; a port that was taken meanwhile is waited for."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            self._launch()
            if self._answers(deadline):
                return
            self._end()
            assert "Address already in use" in self.log, f"redis-server did not start:\n{self.log}"
            assert time.monotonic() < deadline, "the port stays taken"
            time.sleep(0.1)

    def _launch(self) -> None:
        assert self._process is None
        self.cwd.mkdir(parents=True, exist_ok=True)
        # A Sentinel writes what it has learned into its configuration.
        config = self.cwd / "redis.conf"
        config.touch()
        command = [
            *(program("redis-server"), str(config)),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.cwd)),
            *("--logfile", str(self.cwd / "redis.log"), "--daemonize", "no"),
            *self._options,
            *(["--sentinel"] if self._sentinel else []),
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _answers(self, deadline: float) -> bool:
        assert self._process is not None
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                # While it loads its data it answers that it does.
                about = self.ask("INFO", "persistence") if not self._sentinel else {}
                if not about.get("loading"):
                    # Not another program's server that got the port first.
                    return bool(self.ask("INFO", "server")["process_id"] == self.pid)
            except (redis.ConnectionError, redis.TimeoutError):
                pass
            time.sleep(0.01)
        return False

    def _end(self) -> int:
        process, self._process = self._process, None
        assert process is not None
        process.kill()
        return process.wait(TIMEOUT)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        assert self._end() == -signal.SIGKILL

    def stop(self) -> None:
        """Ask it to stop, and wait until it has: its data is on disk then."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(TIMEOUT)
        assert self._end() == 0, self.log

    def restart(self) -> None:
        """Start it again after `kill` or `stop`: same port, same data."""
        self.start()

    def pause(self) -> None:
        """Stop it from running, its connections left as they are, until `close` or `kill`."""
        os.kill(self.pid, signal.SIGSTOP)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause it meanwhile."""
        self.pause()
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End of the test: nothing runs any more."""
        if self._process is not None:
            self._end()

    def __enter__(self) -> RedisServer:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def wait_until(holds: Callable[[], object], what: str, seconds: float = TIMEOUT) -> None:
    """Wait until something holds, for at most so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)


class RedisServers:
    """Starts servers, each in a folder of its own, and ends them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._numbers = count()

    def __enter__(self) -> RedisServers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, *options: str, **settings: Any) -> RedisServer:
        """Start a server: see RedisServer."""
        folder = self._folder / f"redis-{next(self._numbers)}"
        return self._stack.enter_context(RedisServer(folder, *options, **settings))

    def replica(self, master: RedisServer, *options: str, **settings: Any) -> RedisServer:
        """Start a replica of a server, and wait until it is in step."""
        before = master.ask("INFO", "replication")["connected_slaves"]
        replica = self.start(*options, replicaof=master, **settings)
        wait_until(lambda: master.replicas_in_step() > before, "the replica is in step")
        return replica

    def sentinels(self, master: RedisServer, name: str, number: int = 3) -> list[RedisServer]:
        """Start Sentinels that watch a master under a name, and wait until they know each other.

        A master that is silent for a second is down for them; one that they all agree about is
        replaced.
        """
        sentinels = [self.start(sentinel=True) for _ in range(number)]
        for sentinel in sentinels:
            sentinel.ask("SENTINEL", "MONITOR", name, "127.0.0.1", master.port, number // 2 + 1)
            sentinel.ask("SENTINEL", "SET", name, "down-after-milliseconds", 1000)
            sentinel.ask("SENTINEL", "SET", name, "failover-timeout", 3000)
        replicas = master.ask("INFO", "replication")["connected_slaves"]

        def known(sentinel: RedisServer) -> bool:
            with sentinel.client() as client:
                about: Any = client.sentinel_master(name)
            return bool(
                about["num-other-sentinels"] == number - 1 and about["num-slaves"] >= replicas
            )

        wait_until(lambda: all(map(known, sentinels)), "the Sentinels know each other")
        return sentinels

    def cluster(
        self, masters: int = 3, *options: str, replicas: int = 0, **settings: Any
    ) -> list[RedisServer]:
        """Start a Cluster; the masters come first, then `replicas` of each of them."""
        number = masters * (1 + replicas)
        nodes = [self.start(*options, cluster=True, **settings) for _ in range(number)]
        subprocess.run(
            [
                *(program("redis-cli"), "--cluster", "create"),
                *(f"127.0.0.1:{node.port}" for node in nodes),
                *("--cluster-replicas", str(replicas), "--cluster-yes"),
            ],
            check=True,
            capture_output=True,
            timeout=TIMEOUT * 2,
        )
        wait_until(lambda: all(_is_well(node, replicas) for node in nodes), "the Cluster is well")
        return nodes


def _is_well(node: RedisServer, replicas: int) -> bool:
    slots = node.ask("CLUSTER", "SLOTS")
    # What is beside a range's ends are its servers.
    whole = all(len(servers) == 1 + replicas for _, _, *servers in slots)
    return whole and b"cluster_state:ok" in node.ask("CLUSTER", "INFO")
