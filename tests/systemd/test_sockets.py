"""Sockets that systemd has opened: the gateway takes them, and leaves them to the next one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.systemd import inherited_sockets, watchdog_seconds
from tests.certificates import Authority
from tests.gateway_process import TIMEOUT, GatewayProcess
from tests.transport.client import Clients, soon

pytestmark = pytest.mark.gen_test(timeout=60)


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
    variables = {"GATEWAY_SERVER_WEBSOCKET": websocket, "GATEWAY_SERVER_SHUTDOWN_GRACE": "30"}
    sockets = {"players": listening}
    with GatewayProcess(tmp_path, variables=variables, sockets=sockets) as gateway:
        assert gateway.url == url(listening)
        async with Clients(gateway.url) as clients:
            player = await clients.player("websocket")
            gateway.terminate()
            (goaway,) = await player.event("goaway")
            assert goaway["reason"] == "draining"
            # From now on nobody is accepted, and nobody refused.
            waiting = [socket.create_connection(listening.getsockname()) for _ in range(10)]
            assert await player.link.ended() == []
            gateway.wait()
        gateway.start()
        for each in waiting:
            with each:
                each.settimeout(TIMEOUT)
                each.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert each.recv(15) == b"HTTP/1.1 200 OK"


async def test_a_unix_domain_socket_is_taken_and_left_to_systemd(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    authority = Authority(tmp_path)
    certificate, key = authority.issue("gateway")
    # TLS is for TCP: what stands at this socket is a proxy.
    variables = {
        "GATEWAY_SERVER_TRUSTED_PROXIES": "unix",
        "GATEWAY_SERVER_TLS_CERTIFICATE": str(certificate),
        "GATEWAY_SERVER_TLS_KEY": str(key),
    }
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(100)
        sockets = {"players": listening}
        with GatewayProcess(tmp_path, variables=variables, sockets=sockets) as gateway:
            assert gateway.url == f"unix:{path}"
            async with Clients("http://game.example", unix_socket=str(path)) as clients:
                player = await clients.player("websocket")
                assert (await player.send(player, 1))["ok"]
        # Who comes between two processes waits.
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(str(path))


async def test_tls_is_spoken_on_systemds_tcp_sockets(
    tmp_path: Path, listening: socket.socket
) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("gateway")
    variables = {
        "GATEWAY_SERVER_TLS_CERTIFICATE": str(certificate),
        "GATEWAY_SERVER_TLS_KEY": str(key),
    }
    sockets = {"players": listening}
    with GatewayProcess(tmp_path, variables=variables, sockets=sockets) as gateway:
        assert gateway.url == url(listening).replace("http", "https")
        async with Clients(gateway.url, ca_file=str(authority.ca_file)) as clients:
            player = await clients.player("websocket")
            assert (await player.send(player, 1))["ok"]


async def test_the_socket_named_metrics_is_for_metrics(
    tmp_path: Path, listening: socket.socket
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as metrics:
        variables = {"GATEWAY_METRICS_LISTEN": "127.0.0.1:1"}
        sockets = {"metrics": metrics, "players": listening}
        with GatewayProcess(tmp_path, variables=variables, sockets=sockets) as gateway:
            assert gateway.url == url(listening)
            assert gateway.get("/metrics")[0] == 404
            async with Clients(url(metrics)) as clients:
                body = (await soon(clients.fetch("/metrics"))).body
                assert b"gateway_event_loop_lag_seconds_bucket" in body


def test_a_socket_that_does_not_listen_is_a_clear_error(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        gateway = GatewayProcess(tmp_path, sockets={"gateway.socket": datagram})
        complaint = "gateway.socket is no listening stream socket; give it ListenStream="
        with pytest.raises(AssertionError, match=complaint):
            gateway.start()
    assert "Traceback" not in gateway.log


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
