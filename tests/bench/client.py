"""A bare Socket.IO client for load: picows, raw packets, nothing decoded that need not be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import picows
from picows import WSFrame, WSListener, WSMsgType, WSTransport

MESSAGE = b'42["message",'


class LoadClient(WSListener):  # type: ignore[misc]
    """One connected player. `on_message` is called for each event `message`."""

    def __init__(self, auth: dict[str, Any]) -> None:
        self.auth = auth
        self.session: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.on_message: Callable[[], None] | None = None
        self.received = 0
        self.acked = 0
        self.transport: WSTransport | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.TEXT:
            if frame.msg_type == WSMsgType.CLOSE:
                transport.disconnect()
            return
        data = frame.get_payload_as_bytes()
        if data.startswith(MESSAGE):
            self.received += 1
            if self.on_message is not None:
                self.on_message()
        elif data.startswith(b"43"):
            self.acked += 1
        elif data == b"2":
            transport.send(WSMsgType.TEXT, b"3")
        elif data.startswith(b"0"):
            transport.send(WSMsgType.TEXT, b"40" + json.dumps(self.auth).encode())
        elif data.startswith(b'42["session",'):
            self.session.set_result(json.loads(data[2:])[1])
        elif data.startswith(b"44"):
            self.session.set_exception(ConnectionRefusedError(data.decode()))

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.transport = None
        if not self.session.done():
            self.session.set_exception(ConnectionResetError("closed before the session"))

    def send(self, packet: bytes) -> None:
        if self.transport is not None:
            self.transport.send(WSMsgType.TEXT, packet)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.disconnect(graceful=False)


async def connect(url: str, auth: dict[str, Any]) -> LoadClient:
    """Connect and wait for the event `session`."""
    address = url.rstrip("/").replace("http://", "ws://") + "/socket.io/?EIO=4&transport=websocket"
    client = LoadClient(auth)
    await picows.ws_connect(lambda: client, address, websocket_handshake_timeout=60)
    await client.session
    return client


async def connect_many(url: str, auths: list[dict[str, Any]], at_once: int) -> list[LoadClient]:
    """Connect all, so many at once."""
    gate = asyncio.Semaphore(at_once)

    async def one(auth: dict[str, Any]) -> LoadClient:
        async with gate:
            return await connect(url, auth)

    return list(await asyncio.gather(*(one(auth) for auth in auths)))
