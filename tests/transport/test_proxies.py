"""The example configurations of reverse proxies, each with the real proxy in front of a gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.gateway_process import TIMEOUT, GatewayProcess
from tests.proxies import PROXIES, Proxy
from tests.transport.client import GUEST, TRANSPORTS, Clients, Player, connect_refused, soon

pytestmark = pytest.mark.gen_test(timeout=120)

MIB = 2**20


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
