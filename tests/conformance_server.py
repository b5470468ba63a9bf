"""The gateway's engine and Socket.IO layer with the handlers that protocol suites expect.

`python -m tests.conformance_server --port N` serves raw Engine.IO echo at `/engine.io/` and
the Socket.IO suite's handlers at `/socket.io/`: PROTOCOL 5.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from gateway.engineio import Data
from gateway.metrics import Metrics
from gateway.transport.engine import Engine, EngineConnection
from gateway.transport.extensions import ExtensionServer
from gateway.transport.handler import EngineHandler
from gateway.transport.interfaces import EngineSettings, Handler
from gateway.transport.peer import PeerPolicy
from gateway.transport.picows import PicowsWebSockets
from gateway.transport.socketio import SocketIOServer

MAX_PAYLOAD = 1_000_000
CONNECT_TIMEOUT = 1.0


class Echo:
    """Sends every Engine.IO message back."""

    def __init__(self, engine: EngineConnection) -> None:
        self._engine = engine

    def on_message(self, data: Data) -> None:
        self._engine.send_data(data)

    def on_oversized(self) -> None:
        pass

    def on_drained(self) -> None:
        pass

    def on_ping_sent(self) -> None:
        pass

    def on_pong(self) -> None:
        pass

    def on_closed(self, reason: str) -> None:
        pass


def new_sid() -> str:
    return secrets.token_urlsafe(15)


def build_extensions() -> ExtensionServer:
    """Return a python-socketio server with the suite's handlers on `/` and `/custom`."""
    server = ExtensionServer(new_sid)
    for namespace in ("/", "/custom"):
        add_handlers(server, namespace)
    return server


def add_handlers(server: ExtensionServer, namespace: str) -> None:
    async def on_connect(sid: str, environ: dict[str, Any], auth: object) -> None:
        # After the answer to the CONNECT, which is written when this handler returns.
        server.start_background_task(
            server.emit, "auth", auth if auth is not None else {}, to=sid, namespace=namespace
        )

    async def on_message(sid: str, *arguments: object) -> None:
        await server.emit("message-back", arguments, to=sid, namespace=namespace)

    async def on_message_with_ack(sid: str, *arguments: object) -> tuple[object, ...]:
        return arguments

    server.on("connect", on_connect, namespace=namespace)
    server.on("message", on_message, namespace=namespace)
    server.on("message-with-ack", on_message_with_ack, namespace=namespace)


async def start(
    host: str, port: int, ping_interval: float, ping_timeout: float, websocket: str
) -> tuple[HTTPServer, int]:
    """Start serving; return the server and the port."""
    loop = asyncio.get_running_loop()
    settings = EngineSettings(
        ping_interval=ping_interval,
        ping_timeout=ping_timeout,
        max_payload=MAX_PAYLOAD,
        connections=0,
        connections_per_address=0,
        send_buffer_bytes=0,
        slow_timeout=0,
    )
    picows = PicowsWebSockets(MAX_PAYLOAD, 0, loop) if websocket == "picows" else None
    peers = PeerPolicy(["*"], "", [])
    socketio = SocketIOServer(None, build_extensions(), CONNECT_TIMEOUT, new_sid, loop)

    def build(accept: Any) -> dict[str, Any]:
        engine = Engine(settings, accept, Metrics(), new_sid, loop)
        return {"engine": engine, "peers": peers, "picows": picows}

    def echo(engine: EngineConnection) -> Handler:
        return Echo(engine)

    application = Application(
        [
            ("/engine.io/", EngineHandler, build(echo)),
            ("/socket.io/", EngineHandler, build(socketio.accept)),
        ],
        websocket_max_message_size=MAX_PAYLOAD,
        log_function=lambda handler: None,
    )
    server = HTTPServer(application)
    sockets = bind_sockets(port, host)
    server.add_sockets(sockets)
    return server, sockets[0].getsockname()[1]


async def serve(options: argparse.Namespace) -> None:
    _, port = await start(
        options.host, options.port, options.ping_interval, options.ping_timeout, options.websocket
    )
    print(f"Serving http://{options.host}:{port}/", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ping-interval", type=float, default=0.3, help="seconds")
    parser.add_argument("--ping-timeout", type=float, default=0.2, help="seconds")
    parser.add_argument("--websocket", choices=("picows", "tornado"), default="picows")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
