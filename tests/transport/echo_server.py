"""A websocket echo on each of our transports, without Engine.IO, for Autobahn's cases.

`python -m tests.transport.echo_server picows|tornado`
"""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from gateway.engineio import Data, TransportName
from gateway.transport.handler import EngineHandler
from gateway.transport.interfaces import WebSocketLink
from gateway.transport.peer import PeerPolicy
from gateway.transport.picows import PicowsWebSockets

#: Autobahn sends messages of up to 16 MiB.
MAX_MESSAGE = 32 * 1024 * 1024


class EchoConnection:
    """What a link takes for its Engine.IO connection."""

    def on_websocket_open(self, link: WebSocketLink) -> None:
        pass

    def on_websocket_failed(self) -> None:
        pass

    def on_frame(self, link: WebSocketLink, data: Data) -> None:
        link.send(data)

    def on_websocket_closed(self, link: WebSocketLink) -> None:
        pass

    def on_oversized(self) -> None:
        pass

    def on_progress(self) -> None:
        pass


class EchoEngine:
    """What the handler takes for the engine."""

    settings = SimpleNamespace(max_payload=MAX_MESSAGE)

    def connect(self, transport: TransportName, address: str) -> EchoConnection:
        return EchoConnection()


class EchoHandler(EngineHandler):
    """Any path is a websocket; Autobahn knows no Engine.IO parameters."""

    def _parse(self) -> tuple[TransportName, str | None]:
        return "websocket", None


async def serve(websocket: str) -> None:
    loop = asyncio.get_running_loop()
    picows = PicowsWebSockets(MAX_MESSAGE, 0, loop) if websocket == "picows" else None
    arguments: dict[str, Any] = {
        "engine": EchoEngine(),
        "peers": PeerPolicy(["*"], "", []),
        "picows": picows,
    }
    application = Application(
        [("/.*", EchoHandler, arguments)], websocket_max_message_size=MAX_MESSAGE
    )
    sockets = bind_sockets(0, "127.0.0.1")
    HTTPServer(application).add_sockets(sockets)
    print(sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
