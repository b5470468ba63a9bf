"""Heartbeats: pings by the clock, and what becomes of clients that leave them unanswered."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from gateway.server import Gateway
from tests.transport.client import (
    TRANSPORTS,
    WEBSOCKETS,
    Clients,
    Ended,
    Pair,
    Polling,
    refusal,
    soon,
)
from tests.waiting import until

pytestmark = [
    pytest.mark.gen_test,
    WEBSOCKETS,
    pytest.mark.settings(server={"ping_interval": 0.3, "ping_timeout": 0.2}),
]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.settings(server={"ping_interval": 0.255, "ping_timeout": 0.1234})
async def test_intervals_are_announced_to_the_millisecond(clients: Clients, transport: str) -> None:
    link = await clients.link(transport)
    assert link.handshake["pingInterval"] == 255
    assert link.handshake["pingTimeout"] == 123


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_ping_comes_after_the_interval_not_before(clients: Clients, transport: str) -> None:
    before = time.monotonic()
    link = await clients.link(transport)
    link.answers_pings = False
    for _ in range(3):
        assert await link.receive() == "2"
        after = time.monotonic()
        # asyncio's timers may be early by the clock's resolution.
        assert after - before >= 0.29
        before = after
        await link.send("3")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_ping_comes_without_login_too_and_messages_do_not_replace_it(
    clients: Clients, transport: str
) -> None:
    player = await clients.player(transport)
    player.link.answers_pings = False
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        await player.link.send('42["presence_unwatch",{"true_ids":[]}]')
        try:
            packet = await player.link.receive(0.05)
        except TimeoutError:
            continue
        assert packet == "2"
        return
    raise AssertionError("no ping came")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_answering_client_stays(clients: Clients, transport: str) -> None:
    player = await clients.player(transport)
    with pytest.raises(TimeoutError):
        await player.link.receive(1.2)
    assert (await player.call("presence_watch", {"true_ids": []}))["ok"]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_silent_client_is_closed_after_interval_and_timeout(
    clients: Clients, gateway: Gateway, transport: str
) -> None:
    before = time.monotonic()
    link = await clients.link(transport)
    link.answers_pings = False
    assert await link.receive() == "2"
    if isinstance(link, Polling):
        # A client that polls but never answers.
        assert await link.poll() == "1"
        assert refusal(await soon(link.get())) == (400, 1)
    else:
        with pytest.raises(Ended):
            await link.receive()
    assert time.monotonic() - before >= 0.48
    assert len(gateway._engine) == 0


async def test_client_that_stops_polling_is_closed(clients: Clients, gateway: Gateway) -> None:
    polling = await clients.polling()
    await until(lambda: len(gateway._engine) == 0, 2)
    assert refusal(await soon(polling.get())) == (400, 1)


async def test_dead_websocket_is_closed(clients: Clients, gateway: Gateway) -> None:
    raw = await clients.raw_websocket()
    await raw.log_in()
    # It neither reads nor answers; the gateway does not wait for its closing handshake.
    await until(lambda: len(gateway._engine) == 0, 2)
    assert gateway._registry.players == 0
    await raw.ended()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_late_pong_is_no_fault(clients: Clients, transport: str) -> None:
    link = await clients.link(transport)
    link.answers_pings = False
    assert await link.receive() == "2"
    await link.send("3")
    await link.send("3")
    assert await link.receive() == "2"


@pytest.mark.parametrize("packet", ["3probe", "3 ", "33"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_malformed_pong_ends_the_session(
    clients: Clients, transport: str, packet: str
) -> None:
    link = await clients.link(transport)
    with contextlib.suppress(Ended):
        await link.send(packet)
    assert await link.ended() == []


async def test_heartbeat_goes_on_after_an_upgrade(clients: Clients, gateway: Gateway) -> None:
    _, websocket = await clients.upgraded()
    websocket.answers_pings = False
    for _ in range(2):
        assert await websocket.receive() == "2"
        await websocket.send("3")
    assert await websocket.receive() == "2"
    with pytest.raises(Ended):
        await websocket.receive()
    assert len(gateway._engine) == 0


async def test_ping_during_the_upgrade_is_not_lost(clients: Clients) -> None:
    polling = await clients.polling()
    polling.answers_pings = False
    poll = polling.get()
    assert (await soon(poll)).body == b"2"
    # Answered on the other transport: by a POST before, by a frame after.
    await polling.send("3")
    _, websocket = await clients.upgraded()
    websocket.answers_pings = False
    assert await websocket.receive() == "2"


async def test_silent_clients_do_not_disturb_others(clients: Clients, gateway: Gateway) -> None:
    pair = await Pair.meet(clients)
    silent = [await clients.link(transport) for transport in TRANSPORTS * 3]
    for link in silent:
        link.answers_pings = False

    async with asyncio.timeout(3):
        while len(gateway._engine) > 2:
            await pair.talk()
            await asyncio.sleep(0.02)
    await pair.talk()


@pytest.mark.settings(server={"ping_interval": 0.2, "ping_timeout": 0.2})
async def test_pongs_that_nobody_asked_for_do_not_put_off_the_ping(clients: Clients) -> None:
    link = await clients.websocket()
    link.answers_pings = False
    for _ in range(200):
        await link.send("3")
    assert await link.receive() == "2"
    assert await link.ended() == []
