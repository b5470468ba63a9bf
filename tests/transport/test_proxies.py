"""The example configurations of reverse proxies, each with the real proxy in front of a gateway."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority
from tests.gateway_process import ROOT, TIMEOUT, GatewayProcess, own_environment
from tests.transport.client import GUEST, TRANSPORTS, Clients, Player, connect_refused, soon

pytestmark = pytest.mark.gen_test(timeout=120)

SOCKET = "/run/game-gateway/gateway.sock"
PROXIES = ("nginx", "caddy")
MIB = 2**20


def program(name: str) -> str:
    """Return the path of a server, also where only root has it on the search path."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert path is not None, f"{name} is not installed: `make test` installs it"
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def replaced(file: str, changes: Mapping[str, str]) -> str:
    """Return a file of config/ with each of these texts, which must be there, replaced."""
    text = (ROOT / "config" / file).read_text()
    for old, new in changes.items():
        assert old in text, f"config/{file} has no {old!r}"
        text = text.replace(old, new)
    return text


class Proxy:
    """A proxy as a process of its own, on free ports, with its files in `folder`."""

    def __init__(self, folder: Path, name: str, upstream: str) -> None:
        self.port, self.plain_port = free_port(), free_port()
        self.authority = Authority(folder)
        certificate, key = self.authority.issue("proxy")
        write = _write_nginx if name == "nginx" else _write_caddy
        command = write(folder, self.port, self.plain_port, certificate, key, upstream)
        self._log = folder / "proxy.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=own_environment(HOME=str(folder), XDG_DATA_HOME=str(folder)),
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except ConnectionRefusedError:
                ended = self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    self.stop()
                    raise AssertionError(self._log.read_text()) from None
                time.sleep(0.02)
            else:
                return

    def clients(self, source: str = "") -> Clients:
        """Return clients of the proxy that have the address `source`."""
        url = f"https://localhost:{self.port}"
        return Clients(url, ca_file=str(self.authority.ca_file), source=source)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT)
        finally:
            self._process.kill()
            self._process.wait()


def _write_nginx(
    folder: Path, port: int, plain_port: int, certificate: Path, key: Path, upstream: str
) -> list[str]:
    site = replaced(
        "nginx.conf",
        {
            "listen 80;": f"listen 127.0.0.1:{plain_port};",
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "server_name game.example;": "server_name localhost;",
            "/etc/ssl/game.example/fullchain.pem": str(certificate),
            "/etc/ssl/game.example/privkey.pem": str(key),
            f"server unix:{SOCKET};": f"server {upstream};",
        },
    )
    (folder / "site.conf").write_text(site)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/nginx.pid; worker_processes 1; error_log stderr;"
        "events {} http { access_log off;"
        f"{temporary} include {folder}/site.conf; }}"
    )
    # Workers of root's would be nobody's, who may not reach the folder.
    user = ["-g", "user root;"] if os.geteuid() == 0 else []
    return [program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), *user]


def _write_caddy(
    folder: Path, port: int, plain_port: int, certificate: Path, key: Path, upstream: str
) -> list[str]:
    address = upstream.replace("unix:", "unix/")
    text = replaced(
        "Caddyfile",
        {
            "{\n\tservers {": f"{{\n\tadmin off\n\thttp_port {plain_port}\n\tservers {{",
            "game.example {": f"https://localhost:{port} {{\n\ttls {certificate} {key}",
            f"unix/{SOCKET}": address,
        },
    )
    (folder / "Caddyfile").write_text(text)
    command = ["run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    return [program("caddy"), *command]


@pytest.fixture(params=["unix", "tcp"])
def upstream(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def gateway(tmp_path: Path, upstream: str) -> Iterator[GatewayProcess]:
    server: dict[str, Any] = {"trusted_proxies": ["127.0.0.1"]}
    if upstream == "unix":
        server = {"unix_socket": str(tmp_path / "gateway.sock"), "trusted_proxies": ["unix"]}
    config = {"server": server, "limits": {"connections_per_address": 2}}
    with GatewayProcess(tmp_path, config=config) as gateway:
        yield gateway


@pytest.fixture(params=PROXIES)
def proxy(
    request: pytest.FixtureRequest, tmp_path: Path, gateway: GatewayProcess, upstream: str
) -> Iterator[Proxy]:
    folder = tmp_path / "proxy"
    folder.mkdir()
    address = f"127.0.0.1:{gateway.port}"
    if upstream == "unix":
        address = f"unix:{tmp_path / 'gateway.sock'}"
    proxy = Proxy(folder, request.param, address)
    yield proxy
    proxy.stop()


async def test_players_talk_over_either_transport_and_come_back_after_a_restart(
    gateway: GatewayProcess, proxy: Proxy
) -> None:
    async with proxy.clients() as clients:
        for transport in TRANSPORTS:
            player = await clients.player(transport)
            assert (await player.send(player, "hello"))["ok"]
            assert await player.message() == "hello"
            await player.link.send("1")
        _, websocket = await clients.upgraded()
        await websocket.send('40{"guest":true}')
        assert str(await websocket.receive()).startswith("40")
        player = await clients.player()
        token = {"token": player.session["token"]}
        gateway.stop()
        await player.link.ended()
        away = await soon(clients.engine())
        assert away.code == 502
        gateway.start()
        async with asyncio.timeout(TIMEOUT):
            while (await clients.fetch("/readyz")).code != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        player = await clients.player("websocket", token)
        assert player.session["outcome"] == "resumed"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_addresses_are_those_of_clients_whatever_they_say(
    proxy: Proxy, transport: str
) -> None:
    spoofed = {
        "X-Forwarded-For": "192.0.2.1",
        "X-Real-IP": "192.0.2.1",
        "Forwarded": "for=192.0.2.1",
    }

    async def link(clients: Clients, headers: Mapping[str, str] | None = None) -> Any:
        return await (clients.polling if transport == "polling" else clients.websocket)(headers)

    async with proxy.clients("127.0.0.2") as many, proxy.clients("127.0.0.3") as other:
        for headers in (None, spoofed):
            await Player.log_in(await link(many, headers))
        assert await connect_refused(await link(many, spoofed), GUEST) == "rate_limited"
        await Player.log_in(await link(other))


# Not Caddy: it cuts the connection when it likes, with the answer or without.
@pytest.mark.parametrize("proxy", ["nginx"], indirect=True)
async def test_a_body_that_is_too_large_is_refused_in_words(proxy: Proxy) -> None:
    async with proxy.clients() as clients:
        polling = await clients.polling()
        # The first is the gateway's to refuse, the second the proxy's.
        for size in (MIB, 9 * MIB):
            response = await polling.post("4" * size)
            assert response.code == 413
            assert json.loads(response.body)["message"]
            polling = await clients.polling()
    # What a message may have is not too large.
    async with proxy.clients("127.0.0.2") as clients:
        player = await clients.player("polling")
        assert (await player.send(player, "x" * 65_000))["ok"]


async def test_what_is_not_for_players_is_not_passed(proxy: Proxy) -> None:
    async with proxy.clients() as clients:
        assert (await clients.fetch("/api/v1/openapi.json")).code == 404
        assert (await clients.fetch("/metrics")).code == 403
        assert (await clients.fetch("/")).code == 200


async def test_plain_http_is_sent_to_https(proxy: Proxy) -> None:
    async with Clients(f"http://localhost:{proxy.plain_port}") as clients:
        response = await clients.fetch("/?match=a")
        assert response.code in {301, 308}
        assert response.headers["Location"].startswith("https://localhost")
        assert response.headers["Location"].endswith("/?match=a")
