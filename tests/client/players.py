"""Clients that are quick and leave nothing behind, and a gateway that says what it is told to."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from aiohttp import WSMsgType, web
from engineio import base_client

from gateway.client import Auth, GatewayClient, Guest, Message, Settings, Storage, connect
from gateway.server import Gateway

T = TypeVar("T")

#: Quick enough for tests, with the same doubling.
QUICK: Final = Settings(reconnect_delay=0.02, reconnect_delay_max=0.3)
#: A guard against hangs.
SOON: Final = 30.0


async def soon(awaitable: Awaitable[T]) -> T:
    return await asyncio.wait_for(awaitable, SOON)


def make(
    url: str,
    auth: Auth = Guest(),  # noqa: B008
    *,
    storage: Storage | None = None,
    **changes: Any,
) -> GatewayClient:
    settings = dataclasses.replace(QUICK, **changes)
    return connect(url, auth, storage=storage, settings=settings)


@asynccontextmanager
async def player(url: str, auth: Auth = Guest(), **options: Any) -> AsyncIterator[GatewayClient]:  # noqa: B008
    """Connect quickly; at the end nothing of the client may be left."""
    async with asyncio.timeout(SOON):
        client = make(url, auth, **options)
        await client.start()
    try:
        yield client
    finally:
        await soon(client.close())


def nothing_is_left() -> None:
    """What this process has of clients: no task, and no entry in the library's own list."""
    names = [task.get_name() for task in asyncio.all_tasks()]
    assert not [name for name in names if name.startswith("gateway-")], names
    assert base_client.connected_clients == []


def drop_all(gateway: Gateway) -> None:
    """End every connection, as a lost network does."""
    for connection in list(gateway._engine._connections.values()):
        connection.abort("test")


async def take(messages: Any, count: int) -> list[Message]:
    """Return so many messages, and no other than those that come next."""
    return [await soon(anext(messages)) for _ in range(count)]


def greeting(**changes: Any) -> dict[str, Any]:
    return {
        "true_id": "p_1",
        "session_id": "s_1",
        "name": "Ada",
        "token": "token-1",
        "token_expires_in": 60,
        "resumed": False,
        "outcome": "new",
        "missed": 0,
        "gap": None,
        "connections": 1,
        "limits": {"message_bytes": 65536},
        **changes,
    }


def refusal(code: str, reconnect: bool, retry_after: float | None = None) -> str:
    data = {"code": code, "reconnect": reconnect, "retry_after": retry_after}
    return "44" + json.dumps({"message": f"refused: {code}", "data": data})


class Peer:
    """One connection of a client to the scripted gateway."""

    def __init__(self, socket: web.WebSocketResponse, auth: dict[str, Any]) -> None:
        self._socket = socket
        self.auth = auth
        #: When it came, on the loop's clock.
        self.at = asyncio.get_running_loop().time()

    async def send(self, *packets: str) -> None:
        for packet in packets:
            await self._socket.send_str(packet)

    async def event(self, name: str, payload: object) -> None:
        await self.send("42" + json.dumps([name, payload]))

    async def greet(self, **changes: Any) -> None:
        await self.send('40{"sid":"x","pid":"y"}')
        await self.event("session", greeting(**changes))

    async def received(self) -> tuple[int, str, dict[str, Any]]:
        """Return the next event: ack id, name, payload."""
        while True:
            frame = await soon(self._socket.receive())
            assert frame.type is WSMsgType.TEXT, frame
            if frame.data.startswith("42"):
                head, _, tail = frame.data.partition("[")
                name, payload = json.loads("[" + tail)
                return int(head[2:]), name, payload

    async def ack(self, ack_id: int, answer: object) -> None:
        await self.send(f"43{ack_id}" + json.dumps([answer]))

    async def close(self) -> None:
        await self._socket.close()


class ScriptedGateway:
    """Says what each test tells it to, over real websockets. `peers` are its clients."""

    def __init__(self) -> None:
        self.url = ""
        self.peers: asyncio.Queue[Peer] = asyncio.Queue()
        self._done = asyncio.Event()

    async def peer(self) -> Peer:
        """Wait for the next CONNECT."""
        return await soon(self.peers.get())

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        opening = {"sid": "e", "upgrades": [], "pingInterval": 60000, "pingTimeout": 60000}
        await socket.send_str("0" + json.dumps(opening))
        packet = await socket.receive()
        if packet.type is WSMsgType.TEXT:
            self.peers.put_nowait(Peer(socket, json.loads(packet.data[2:])))
            await self._done.wait()
        return socket

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ScriptedGateway]:
        app = web.Application()
        app.router.add_get("/socket.io/", self._serve)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            self._done.set()
            await runner.cleanup()
