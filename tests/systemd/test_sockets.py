"""Sockets that systemd has opened: the gateway takes them, and leaves them to the next one."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.systemd import inherited_sockets, watchdog_seconds
from tests.gateway_process import COMMAND, ROOT, TIMEOUT, own_environment
from tests.transport.client import Clients, soon

pytestmark = pytest.mark.gen_test(timeout=60)


class Activated:
    """A gateway that is started as systemd would, with descriptors from 3 on."""

    def __init__(self, cwd: Path, sockets: dict[str, socket.socket], **variables: str) -> None:
        moves = " ".join(
            f"{number}<&{each.fileno()}" for number, each in enumerate(sockets.values(), 3)
        )
        self._log = (cwd / "log").open("a")
        script = f'exec {moves}; LISTEN_PID=$$ exec "$0" serve'
        self.process = subprocess.Popen(
            ["bash", "-c", script, COMMAND],
            cwd=cwd,
            env=own_environment(
                PYTHONPATH=str(ROOT),
                LISTEN_FDS=str(len(sockets)),
                LISTEN_FDNAMES=":".join(sockets),
                **variables,
            ),
            pass_fds=[each.fileno() for each in sockets.values()],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def serving(self) -> str:
        """Wait until it serves; return its line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def __enter__(self) -> Activated:
        return self

    def __exit__(self, *_: object) -> None:
        with self._log, self.process:
            self.process.kill()


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        yield listening


def url(listening: socket.socket) -> str:
    return f"http://127.0.0.1:{listening.getsockname()[1]}/"


@pytest.mark.parametrize("websocket", ["picows", "tornado"])
async def test_connects_wait_from_one_process_to_the_next(
    tmp_path: Path, listening: socket.socket, websocket: str
) -> None:
    variables = {"GATEWAY_SERVER_WEBSOCKET": websocket}
    with Activated(tmp_path, {"players": listening}, **variables) as first:
        assert first.serving() == f"Serving {url(listening)}\n"
        async with Clients(url(listening)) as clients:
            player = await clients.player("websocket")
            first.process.terminate()
            (goaway,) = await player.event("goaway")
            assert goaway["reason"] == "draining"
            # From now on nobody is accepted, and nobody refused.
            waiting = [socket.create_connection(listening.getsockname()) for _ in range(10)]
            assert await player.link.ended() == []
            assert first.process.wait(TIMEOUT) == 0
    with Activated(tmp_path, {"players": listening}, **variables) as second:
        assert second.serving() == f"Serving {url(listening)}\n"
        for each in waiting:
            with each:
                each.settimeout(TIMEOUT)
                each.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert each.recv(15) == b"HTTP/1.1 200 OK"


async def test_the_socket_named_metrics_is_for_metrics(
    tmp_path: Path, listening: socket.socket
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as metrics:
        variables = {"GATEWAY_METRICS_LISTEN": "127.0.0.1:1"}
        sockets = {"metrics": metrics, "players": listening}
        with Activated(tmp_path, sockets, **variables) as gateway:
            assert gateway.serving() == f"Serving {url(listening)}\n"
            async with Clients(url(listening)) as clients:
                assert (await soon(clients.fetch("/metrics"))).code == 404
                assert (await soon(clients.fetch("/readyz"))).code == 200
            async with Clients(url(metrics)) as clients:
                body = (await soon(clients.fetch("/metrics"))).body
                assert b"gateway_event_loop_lag_seconds_bucket" in body


def test_a_socket_that_does_not_listen_is_a_clear_error(tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
        Activated(tmp_path, {"gateway.socket": datagram}) as gateway,
    ):
        assert gateway.process.wait(TIMEOUT) == 2
        assert gateway.serving() == ""
    log = (tmp_path / "log").read_text()
    assert "gateway.socket is no listening TCP socket; give it ListenStream=" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    "environ",
    [{}, {"LISTEN_FDS": "1"}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}],
    ids=["none", "no process", "another process"],
)
def test_sockets_for_somebody_else_are_left_alone(environ: dict[str, str]) -> None:
    assert inherited_sockets(environ) == {}


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_the_watchdog_is_ours_or_off(environ: dict[str, str], seconds: float) -> None:
    assert watchdog_seconds(environ) == seconds
