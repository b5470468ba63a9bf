"""Room for connections, whose address counts, and the time to log in."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.server import Gateway
from tests.transport.client import GUEST, TRANSPORTS, WEBSOCKETS, Clients, Pair, Player, refusal
from tests.waiting import until

pytestmark = [pytest.mark.gen_test, WEBSOCKETS, pytest.mark.parametrize("transport", TRANSPORTS)]

PROXIED = {"trusted_proxies": ("127.0.0.0/8",)}


async def handshake(
    clients: Clients, transport: str, headers: dict[str, str] | None = None
) -> tuple[int, int]:
    """Do a handshake that is refused by HTTP."""
    if transport == "polling":
        return refusal(await clients.engine(headers=headers))
    return await clients.refused_upgrade(headers)


async def told(link: Any, auth: object = GUEST) -> dict[str, Any]:
    """Send a CONNECT that is refused and followed by a close; return its `data`."""
    await link.send("40" + json.dumps(auth))
    packets = await link.ended()
    assert len(packets) == 1
    assert packets[0][:2] == "44"
    data: dict[str, Any] = json.loads(packets[0][2:])["data"]
    return data


@pytest.mark.settings(limits={"connections": 2})
async def test_full_gateway_says_so_in_a_packet_and_beyond_by_http(
    clients: Clients, transport: str, gateway: Gateway
) -> None:
    pair = await Pair.meet(clients)
    third = await clients.link(transport)
    assert await handshake(clients, transport) == (503, 4)
    data = await told(third)
    assert data["code"] == "server_full"
    assert data["reconnect"] is True
    assert data["retry_after"] > 0
    # Its place is free for the next one to be told.
    await until(lambda: len(gateway._engine) == 2)
    assert (await told(await clients.link(transport)))["code"] == "server_full"
    await pair.talk()
    await pair.ann.link.send("1")
    await until(lambda: len(gateway._engine) == 1)
    await clients.player(transport)


@pytest.mark.settings(limits={"connections_per_address": 2}, server=PROXIED)
async def test_address_with_too_many_connections(clients: Clients, transport: str) -> None:
    pair = await Pair.meet(clients)
    assert (await told(await clients.link(transport)))["code"] == "rate_limited"
    waiting = await clients.link(transport)
    assert await handshake(clients, transport) == (429, 4)
    # Another address has its own count.
    other = {"X-Forwarded-For": "192.0.2.7"}
    link = await (clients.polling(other) if transport == "polling" else clients.websocket(other))
    await Player.log_in(link)
    await pair.talk()
    assert (await told(waiting))["code"] == "rate_limited"


@pytest.mark.settings(limits={"connections": 20})
async def test_headroom_is_a_tenth(clients: Clients, transport: str) -> None:
    links = [await clients.link(transport) for _ in range(22)]
    assert await handshake(clients, transport) == (503, 4)
    await Player.log_in(links[19])
    assert (await told(links[20]))["code"] == "server_full"


@pytest.mark.settings(limits={"connections": 0, "connections_per_address": 0})
async def test_zero_is_no_limit(clients: Clients, transport: str) -> None:
    for _ in range(30):
        await clients.link(transport)


@pytest.mark.settings(limits={"connections_per_address": 1})
async def test_refused_handshakes_take_no_room(
    clients: Clients, transport: str, gateway: Gateway
) -> None:
    for _ in range(5):
        assert refusal(await clients.engine(EIO="3")) == (400, 5)
        assert await clients.refused_upgrade(EIO="3") == (400, 5)
        assert await clients.refused_upgrade(sid="nobody") == (400, 1)
    assert len(gateway._engine) == 0
    await clients.player(transport)


@pytest.mark.settings(limits={"connections": 3})
async def test_upgrade_takes_no_second_place(clients: Clients, transport: str) -> None:
    await clients.upgraded()
    await clients.upgraded()
    await clients.player(transport)


@pytest.mark.settings(limits={"connections_per_address": 1})
async def test_forwarded_addresses_of_anyone_are_not_believed(
    clients: Clients, transport: str
) -> None:
    await clients.link(transport)
    for i in range(2):
        headers = {"X-Forwarded-For": f"192.0.2.{i}", "X-Real-Ip": f"192.0.2.{i}"}
        if i == 0:
            await clients.polling(headers)
        else:
            assert await handshake(clients, transport, headers) == (429, 4)


@pytest.mark.settings(limits={"connections_per_address": 1}, server=PROXIED)
@pytest.mark.parametrize(
    "forwarded",
    [
        "192.0.2.1",
        "10.9.8.7, 192.0.2.1",
        "garbage, 192.0.2.1",
        "192.0.2.1, 127.0.0.9",
        "10.9.8.7 , 192.0.2.1 ,127.0.0.1",
    ],
)
async def test_nearest_address_that_is_no_proxy_counts(
    clients: Clients, transport: str, forwarded: str
) -> None:
    await clients.polling({"X-Forwarded-For": "192.0.2.1"})
    await clients.polling({"X-Forwarded-For": "192.0.2.1"})
    assert await handshake(clients, transport, {"X-Forwarded-For": forwarded}) == (429, 4)
    # Others have room.
    await clients.link(transport)


@pytest.mark.settings(limits={"connections_per_address": 1}, server=PROXIED)
@pytest.mark.parametrize("forwarded", ["", "garbage", "192.0.2.1, unknown", "192.0.2.1:80"])
async def test_unreadable_forwarded_address_counts_for_the_proxy(
    clients: Clients, transport: str, forwarded: str
) -> None:
    await clients.link(transport)
    await clients.link(transport)
    assert await handshake(clients, transport, {"X-Forwarded-For": forwarded}) == (429, 4)


@pytest.mark.settings(limits={"connect_timeout": 1.0})
async def test_client_that_does_not_log_in_is_closed(clients: Clients, transport: str) -> None:
    player = await clients.player(transport)
    silent = await clients.link(transport)
    refused = await clients.link(transport)
    await refused.send("40{}")
    assert str(await refused.receive()).startswith("44")
    assert await silent.ended() == []
    assert await refused.ended() == []
    # The one who logged in stays.
    assert (await player.call("presence_watch", {"true_ids": []}))["ok"]


@pytest.mark.settings(limits={"connect_timeout": 0.0})
async def test_connect_timeout_of_zero_is_for_ever(clients: Clients, transport: str) -> None:
    link = await clients.link(transport)
    await asyncio.sleep(0.05)
    await Player.log_in(link)


@pytest.mark.settings(server=PROXIED, limits={"connections_per_address": 1})
async def test_ipv6_network_counts_as_one_address(clients: Clients, transport: str) -> None:
    async def join(address: str) -> str:
        headers = {"X-Forwarded-For": address}
        link = await (
            clients.polling(headers) if transport == "polling" else clients.websocket(headers)
        )
        await link.send("40" + json.dumps(GUEST))
        packet = await link.receive()
        assert isinstance(packet, str)
        return packet

    assert (await join("2001:db8::1"))[:2] == "40"
    refused = await join("2001:db8::ffff:2")
    assert json.loads(refused[2:])["data"]["code"] == "rate_limited"
    assert (await join("2001:db8:0:1::1"))[:2] == "40"
