"""A game's backend that takes webhooks over real HTTP, and can fail in all ways."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Callable
from typing import Any

from msgspec import to_builtins
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders
from tornado.web import Application, RequestHandler

from gateway.client import verify_webhook

SECRET = "a secret of 32 characters or more"


class Receiver:
    """Listens on a port of its own; `status` answers, `hang` never does."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._server: HTTPServer | None = None
        self.port = 0
        #: What came in and was answered with 2xx, in that order: bodies, decoded.
        self.events: list[dict[str, Any]] = []
        #: Everything that came in.
        self.requests: list[tuple[bytes, HTTPHeaders]] = []
        self.status: Callable[[dict[str, Any]], int] = lambda event: 204
        self.headers: dict[str, str] = {}
        self.hang = False
        self.hung = 0
        self._released = asyncio.Event()
        self.start()

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}/hooks?game=1"

    def start(self) -> None:
        """Listen, on the port from before."""
        receiver = self

        class Handler(RequestHandler):
            async def post(self) -> None:
                receiver.requests.append((self.request.body, self.request.headers))
                if receiver.hang:
                    receiver.hung += 1
                    await receiver._released.wait()
                event = to_builtins(
                    verify_webhook(self.request.body, self.request.headers, [SECRET])
                )
                status = receiver.status(event)
                self.set_status(status)
                for name, value in receiver.headers.items():
                    self.set_header(name, value)
                if 200 <= status < 300:
                    receiver.events.append(event)

        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self.port))
        listening.listen(128)
        listening.setblocking(False)
        self.port = listening.getsockname()[1]
        self._server = HTTPServer(
            Application([("/hooks", Handler)], log_function=lambda handler: None),
            ssl_options=self._tls,
        )
        self._server.add_sockets([listening])

    async def stop(self) -> None:
        """Be down."""
        self._released.set()
        server, self._server = self._server, None
        if server is not None:
            server.stop()
            await server.close_all_connections()

    def types(self, true_id: str | None = None) -> list[str]:
        """Return the types of events that came in once, of one player or all, in order."""
        return [event["type"] for event in self.once() if true_id in (None, event["true_id"])]

    def once(self) -> list[dict[str, Any]]:
        """Return the events without doubles, as a receiver tells them: by their ids."""
        return list({event["id"]: event for event in self.events}.values())

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body, _ in self.requests]
