"""Several gateways on one port: each gets its part, and one that stops leaves nobody behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway_process import TIMEOUT, GatewayProcess, run
from tests.transport.client import WEBSOCKETS, Clients, soon

pytestmark = pytest.mark.gen_test(timeout=120)


def gateway_in(folder: Path, websocket: str, port: int = 0) -> GatewayProcess:
    """Return a gateway that shares its port; at `control` in its folder it is reached alone."""
    folder.mkdir()
    config = {
        "server": {
            "reuse_port": True,
            "unix_socket": "control",
            "websocket": websocket,
            "shutdown_grace": 20,
            "trusted_proxies": ["unix"],
        },
        "store": {"url": "memory://"},
        "resume": {"secret_keys": ["k" * 40]},
    }
    # The class' own variable would be stronger than the file.
    variables = {"GATEWAY_SERVER_SHUTDOWN_GRACE": "20"}
    gateway = GatewayProcess(folder, config=config, variables=variables)
    gateway.port = port
    return gateway


@pytest.fixture
def gateways(tmp_path: Path, websockets: str) -> Iterator[list[GatewayProcess]]:
    with (
        gateway_in(tmp_path / "a", websockets) as first,
        gateway_in(tmp_path / "b", websockets, first.port) as second,
    ):
        assert first.url == second.url
        yield [first, second]


def control(gateway: GatewayProcess) -> Clients:
    return Clients("http://control", unix_socket=str(gateway.cwd / "control"))


@WEBSOCKETS
async def test_each_gets_a_part_of_the_connections(gateways: list[GatewayProcess]) -> None:
    async with Clients(gateways[0].url) as clients:
        for _ in range(60):
            await clients.websocket()
        counts = []
        for gateway in gateways:
            async with control(gateway) as controls:
                counts.append(await controls.connections())
        assert sum(counts) == 60
        # By chance alone less than one of a hundred million such tests would fail.
        assert min(counts) >= 9


@WEBSOCKETS
async def test_one_that_stops_answers_who_waits_to_be_accepted(
    gateways: list[GatewayProcess],
) -> None:
    first, _ = gateways
    async with control(first) as clients:
        player = await clients.player()
        os.kill(first.pid, signal.SIGSTOP)
        waiting = [socket.create_connection(("127.0.0.1", first.port)) for _ in range(1600)]
        for each in waiting:
            each.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        first.terminate()
        os.kill(first.pid, signal.SIGCONT)
        for each in waiting:
            with each:
                each.settimeout(TIMEOUT)
                assert (await asyncio.to_thread(each.recv, 15)) == b"HTTP/1.1 200 OK"
        await player.event("goaway")
        await player.link.ended()
        await asyncio.to_thread(first.wait)


@WEBSOCKETS
async def test_one_that_stops_answers_who_it_has_and_leaves_the_rest_to_the_others(
    gateways: list[GatewayProcess],
) -> None:
    first, second = gateways
    async with control(first) as clients:
        player = await clients.player()
        counted: Counter[str] = Counter()
        stopping = asyncio.Event()

        async def ask() -> None:
            while not stopping.is_set():
                counted[await outcome(first.port)] += 1

        asking = [asyncio.ensure_future(ask()) for _ in range(8)]
        first.terminate()
        (goaway,) = await player.event("goaway")
        assert goaway["reason"] == "draining"
        # It does not listen any more, but is there.
        assert (await player.call("presence_watch", {"true_ids": []}))["ok"]
        assert await player.link.ended() == []
        await asyncio.to_thread(first.wait)
        stopping.set()
        await soon(asyncio.gather(*asking))
    # Between the last accept and the close the kernel may take a connection that is lost then.
    assert counted["answered"] > 100
    assert counted["refused"] == 0
    assert counted["cut"] <= 2, counted
    async with Clients(second.url) as clients:
        assert (await clients.player()).session["outcome"] == "new"
    # Now the port is the other one's alone.
    async with control(second) as controls:
        await controls.until_connections(0)


async def outcome(port: int) -> str:
    """Return what becomes of a connection with one request."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return "refused"
    except ConnectionResetError:
        return "cut"
    try:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await soon(reader.read())
    except ConnectionResetError:
        return "cut"
    finally:
        writer.close()
    return "answered" if answer.startswith(b"HTTP/1.1 200 OK") else "cut"


async def test_a_port_that_is_not_shared_is_refused(tmp_path: Path) -> None:
    with gateway_in(tmp_path / "a", "picows") as first:
        done = await asyncio.to_thread(
            run,
            *("serve", "--port", str(first.port), "--state-dir", "state"),
            cwd=tmp_path,
            GATEWAY_STORE_URL="memory://",
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"cannot listen on 127.0.0.1:{first.port}: Address already in use" in done.stderr
