"""python-socketio's own client, unchanged, on both transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import socketio

from gateway.server import Gateway
from tests.transport.client import SOON, TRANSPORTS, Clients, soon

pytestmark = [pytest.mark.gen_test(timeout=60), pytest.mark.parametrize("transport", TRANSPORTS)]

AUTH = {"guest": True, "recovery": False}


class Stock:
    """A stock client whose events wait in queues."""

    def __init__(self, **options: Any) -> None:
        self.client = socketio.AsyncClient(**options)
        self.sessions: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.session: dict[str, Any] = {}
        self.client.on("session", self._on_session)
        self.client.on("message", self.messages.put)

    async def _on_session(self, session: dict[str, Any]) -> None:
        self.session = session
        await self.sessions.put(session)

    async def send(self, target: Stock, data: object) -> Any:
        payload = {"target_id": target.session["true_id"], "data": data}
        return await self.client.call("message", payload, timeout=SOON)

    async def message(self) -> Any:
        return (await soon(self.messages.get()))["data"]


@asynccontextmanager
async def stock(
    url: str, transports: list[str], auth: object = AUTH, **options: Any
) -> AsyncIterator[Stock]:
    client = Stock(**options)
    try:
        await client.client.connect(url, auth=auth, transports=transports, wait_timeout=SOON)
        await soon(client.sessions.get())
        yield client
    finally:
        await client.client.disconnect()
        await client.client.shutdown()


async def test_messages_and_acks(base_url: str, transport: str) -> None:
    async with stock(base_url, [transport]) as ann, stock(base_url, [transport]) as bob:
        assert ann.client.transport() == transport
        for i in range(5):
            receipt = await ann.send(bob, {"n": i})
            assert (receipt["ok"], receipt["status"]) == (True, "delivered")
            assert await bob.message() == {"n": i}
            await bob.send(ann, i)
            assert await ann.message() == i


async def test_upgrade(base_url: str, transport: str) -> None:
    # Polling first, as the stock client does by itself, beside one that stays where it is.
    async with (
        stock(base_url, ["polling", "websocket"]) as ann,
        stock(base_url, [transport]) as bob,
    ):
        assert ann.client.transport() == "websocket"
        await ann.send(bob, 1)
        assert await bob.message() == 1
        await bob.send(ann, 2)
        assert await ann.message() == 2


async def test_refusal_reaches_the_application(base_url: str, transport: str) -> None:
    client = socketio.AsyncClient()
    refusals: list[Any] = []
    client.on("connect_error", refusals.append)
    with pytest.raises(socketio.exceptions.ConnectionError):
        await client.connect(base_url, auth={}, transports=[transport], wait_timeout=SOON)
    await client.shutdown()
    assert refusals[0]["data"]["code"] == "bad_credentials"


async def test_reconnect_resumes_and_misses_nothing(
    base_url: str, transport: str, gateway: Gateway, clients: Clients
) -> None:
    ann = await clients.player("websocket")
    # As an application does it: the newest token goes with the next connect.
    holder: list[Stock] = []

    def auth() -> dict[str, object]:
        if holder and holder[0].session:
            return {"token": holder[0].session["token"], "recovery": False}
        return AUTH

    client = Stock(reconnection_delay=2, reconnection_delay_max=2, randomization_factor=0)
    holder.append(client)
    try:
        await client.client.connect(base_url, auth=auth, transports=[transport], wait_timeout=SOON)
        first = await soon(client.sessions.get())
        for connection in list(gateway._engine._connections.values()):
            if connection.session.sid != ann.link.sid:
                connection.abort("test")
        # More than this client takes in one answer to a poll.
        for number in range(40):
            message = {"target_id": first["true_id"], "data": number}
            assert (await ann.call("message", message))["ok"]
        second = await soon(client.sessions.get())
        assert second["resumed"] is True
        assert second["session_id"] == first["session_id"]
        assert second["missed"] > 0
        assert [await client.message() for _ in range(40)] == list(range(40))
    finally:
        await client.client.disconnect()
        await client.client.shutdown()


@pytest.mark.settings(server={"ping_interval": 0.3, "ping_timeout": 0.2})
async def test_short_heartbeats(base_url: str, transport: str) -> None:
    async with stock(base_url, [transport]) as ann, stock(base_url, [transport]) as bob:
        await asyncio.sleep(0.8)
        assert (await ann.send(bob, 1))["status"] == "delivered"
        assert await bob.message() == 1
