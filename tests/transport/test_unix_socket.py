"""Listening on a Unix domain socket: its file, who may connect, and whose address counts."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from gateway.config import Config, TlsConfig
from gateway.server import Gateway
from gateway.transport.unix_socket import UnixSocket
from tests.certificates import Authority
from tests.gateway_process import GatewayProcess, run
from tests.transport.client import (
    GUEST,
    TRANSPORTS,
    WEBSOCKETS,
    Clients,
    Player,
    connect_refused,
)
from tests.transport.conftest import change

pytestmark = pytest.mark.gen_test(timeout=60)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.sock"


@pytest.fixture
def settings(settings: Config, path: Path) -> Config:
    keys = {"host": "", "unix_socket": str(path), "trusted_proxies": ("unix",)}
    return change(settings, server=keys)


@pytest.fixture
def clients(io_loop: IOLoop, gateway: Gateway, path: Path) -> Iterator[Clients]:
    clients = Clients("http://game.example", unix_socket=str(path))
    yield clients
    io_loop.run_sync(clients.close)


def forwarded(*addresses: str) -> dict[str, str]:
    return {"X-Forwarded-For": ", ".join(addresses)}


@WEBSOCKETS
async def test_players_talk_over_either_transport(clients: Clients, gateway: Gateway) -> None:
    for transport in TRANSPORTS:
        player = await clients.player(transport)
        assert (await player.send(player, "hello"))["ok"]
        assert await player.message() == "hello"
    _, websocket = await clients.upgraded()
    await websocket.send('40{"guest":true}')
    assert str(await websocket.receive()).startswith("40")
    await clients.until_connections(3)


async def test_the_url_is_where_it_listens(gateway: Gateway, path: Path) -> None:
    assert (gateway.url, gateway.port) == (f"unix:{path}", 0)


@WEBSOCKETS
async def test_both_may_be_listened_on(settings: Config, tmp_path: Path, path: Path) -> None:
    gateway = Gateway(change(settings, server={"host": "127.0.0.1"}), tmp_path / "state", {})
    await gateway.start()
    assert gateway.url == f"http://127.0.0.1:{gateway.port}/"
    async with Clients(gateway.url) as tcp, Clients(gateway.url, unix_socket=str(path)) as unix:
        ann, bob = await tcp.player(), await unix.player()
        assert (await ann.send(bob, "hello"))["ok"]
        assert await bob.message() == "hello"
    await gateway.stop()


@WEBSOCKETS
async def test_tls_is_for_tcp_only(settings: Config, tmp_path: Path, path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("gateway")
    server = {"host": "127.0.0.1", "tls": TlsConfig(str(certificate), str(key))}
    gateway = Gateway(change(settings, server=server), tmp_path / "state", {})
    await gateway.start()
    assert gateway.url == f"https://127.0.0.1:{gateway.port}/"
    async with (
        Clients(gateway.url, ca_file=str(authority.ca_file)) as tcp,
        Clients("http://game.example", unix_socket=str(path)) as unix,
    ):
        ann, bob = await tcp.player(), await unix.player()
        assert (await ann.send(bob, "hello"))["ok"]
        assert await bob.message() == "hello"
    await gateway.stop()


# Addresses


@WEBSOCKETS
@pytest.mark.settings(limits={"connections_per_address": 1})
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_proxy_tells_addresses(clients: Clients, transport: str) -> None:
    open_link = clients.polling if transport == "polling" else clients.websocket
    await Player.log_in(await open_link(forwarded("192.0.2.1")))
    # What the client itself wrote stands before what the proxy did.
    spoofed = await open_link(forwarded("192.0.2.9", "192.0.2.1"))
    assert await connect_refused(spoofed, GUEST) == "rate_limited"
    await Player.log_in(await open_link(forwarded("192.0.2.1", "192.0.2.2")))


@WEBSOCKETS
@pytest.mark.expects_warnings
@pytest.mark.settings(limits={"connections_per_address": 1})
async def test_a_socket_that_is_not_trusted_tells_nothing(
    settings: Config, tmp_path: Path, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = Gateway(change(settings, server={"trusted_proxies": ()}), tmp_path / "state", {})
    await gateway.start()
    assert "server.trusted_proxies does not list unix" in caplog.text
    async with Clients("http://game.example", unix_socket=str(path)) as clients:
        await Player.log_in(await clients.websocket(forwarded("192.0.2.1")))
        second = await clients.websocket(forwarded("192.0.2.2"))
        assert await connect_refused(second, GUEST) == "rate_limited"
    await gateway.stop()


async def test_metrics_are_for_this_machine_but_not_for_who_comes_by_a_proxy(
    clients: Clients,
) -> None:
    assert (await clients.fetch("/metrics")).code == 200
    assert (await clients.fetch("/metrics", headers=forwarded("127.0.0.1"))).code == 403


# The file


@pytest.mark.parametrize("mode", ["0600", "666"])
def test_the_mode_says_who_may_connect(
    settings: Config, io_loop: IOLoop, tmp_path: Path, path: Path, mode: str
) -> None:
    gateway = Gateway(change(settings, server={"unix_socket_mode": mode}), tmp_path / "s", {})
    io_loop.run_sync(gateway.start)
    assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
    io_loop.run_sync(gateway.stop)
    assert not path.exists()


async def test_what_a_killed_gateway_left_is_replaced(tmp_path: Path, path: Path) -> None:
    config = {
        "server": {"host": "127.0.0.1", "unix_socket": str(path), "trusted_proxies": ["unix"]}
    }
    gateway = GatewayProcess(tmp_path, config=config)
    gateway.start()
    gateway.kill()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_unix_connection(path)
    with gateway:
        async with Clients("http://game.example", unix_socket=str(path)) as clients:
            player = await clients.player()
            assert (await player.send(player, 1))["ok"]
    with pytest.raises(FileNotFoundError):
        await asyncio.open_unix_connection(path)


async def test_a_socket_in_use_is_refused_and_left_alone(
    gateway: Gateway, clients: Clients, tmp_path: Path, path: Path
) -> None:
    done = await asyncio.to_thread(
        run,
        *("serve", "--port", "0", "--state-dir", "other"),
        cwd=tmp_path,
        GATEWAY_SERVER_UNIX_SOCKET=str(path),
        GATEWAY_STORE_URL="memory://",
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == (
        f"game-gateway: cannot listen on {path}: another process listens there; stop it or take "
        "another path"
    )
    assert (await clients.fetch("/healthz")).code == 200


def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(OSError, match="there is a file that is no socket"):
        UnixSocket(path, 0o600, 1)
    assert path.read_text() == "precious"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "gateway.sock"
    with pytest.raises(OSError, match=f"cannot listen on {path}: No such file or directory"):
        UnixSocket(path, 0o600, 1)


def test_a_socket_whose_queue_is_full_is_alive(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.setblocking(False)
        waiting.connect(str(path))
        with pytest.raises(OSError, match="another process listens there"):
            UnixSocket(path, 0o600, 1)
    assert path.is_socket()


def test_the_file_of_a_successor_is_not_removed(path: Path) -> None:
    old = UnixSocket(path, 0o600, 1)
    old.socket.close()
    new = UnixSocket(path, 0o600, 1)
    old.close()
    assert path.is_socket()
    new.close()
    assert not path.exists()
