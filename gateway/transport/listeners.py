"""The listening sockets, and who answers what comes in on them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Final

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from gateway.transport.acceptor import Acceptor
from gateway.transport.engine import Engine
from gateway.transport.peer import PeerPolicy
from gateway.transport.picows import PicowsWebSockets

_HEADER_BYTES: Final = 16 * 1024
_BODY_TIMEOUT: Final = 20.0
#: For the head of a request, and between two requests of a connection.
_IDLE_TIMEOUT: Final = 30.0


def bind(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Return sockets that listen. Raises OSError, whose text names the address."""
    try:
        return bind_sockets(port, host or None, backlog=backlog)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error


class Listeners:
    """Serves applications on sockets until it is closed."""

    def __init__(self) -> None:
        self._servers: list[HTTPServer] = []
        self._acceptor: Acceptor | None = None

    def serve(self, app: Application, sockets: Sequence[socket.socket]) -> None:
        """Answer all with this application."""
        self._server(app).add_sockets(sockets)

    def serve_players(
        self,
        app: Application,
        sockets: Sequence[socket.socket],
        engine: Engine,
        picows: PicowsWebSockets | None,
        peers: PeerPolicy,
    ) -> None:
        """Answer with this application, but plain websocket handshakes by `picows` if given."""
        if picows is None:
            self.serve(app, sockets)
            return
        server = self._server(app)
        loop = asyncio.get_running_loop()
        self._acceptor = Acceptor(server, engine, picows, peers, _IDLE_TIMEOUT, loop)
        self._acceptor.listen(sockets)

    def _server(self, app: Application) -> HTTPServer:
        server = HTTPServer(
            app,
            max_header_size=_HEADER_BYTES,
            max_body_size=_HEADER_BYTES,
            idle_connection_timeout=_IDLE_TIMEOUT,
            body_timeout=_BODY_TIMEOUT,
        )
        self._servers.append(server)
        return server

    @property
    def silent(self) -> int:
        """How many connections were accepted that have not said anything yet."""
        return self._acceptor.silent if self._acceptor is not None else 0

    def hold(self) -> None:
        """Accept no more, but serve those who are here."""
        if self._acceptor is not None:
            self._acceptor.hold()
        for server in self._servers:
            server.stop()

    def stop(self) -> None:
        """Accept no more, and drop who has not said anything."""
        if self._acceptor is not None:
            self._acceptor.stop()
        for server in self._servers:
            server.stop()

    async def close(self) -> None:
        """Close what HTTP connections are left, after the handshakes under way."""
        if self._acceptor is not None:
            await self._acceptor.close()
        for server in self._servers:
            await server.close_all_connections()
