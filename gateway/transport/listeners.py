"""The listening sockets, and who answers what comes in on them."""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import ssl
from collections.abc import Sequence
from typing import Final

from tornado.httpserver import HTTPServer
from tornado.log import gen_log
from tornado.web import Application

from gateway.transport.acceptor import Acceptor
from gateway.transport.binding import Bound, bind
from gateway.transport.engine import Engine
from gateway.transport.peer import PeerPolicy
from gateway.transport.picows import PicowsWebSockets
from gateway.transport.unix_socket import UnixSocket

_HEADER_BYTES: Final = 16 * 1024
_BODY_TIMEOUT: Final = 20.0
#: For the head of a request, and between two requests of a connection.
_IDLE_TIMEOUT: Final = 30.0
#: Far more than a full queue takes; each turn some tens are accepted.
_TURNS_TO_ACCEPT: Final = 5000


class _QuietHandshakes(logging.Filter):
    """Keeps out of the log what Tornado warns of: clients that fail to agree on TLS."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record is to be logged."""
        return not str(record.msg).startswith("SSL Error on ")


_QUIET: Final = _QuietHandshakes()


class Listeners:
    """Serves applications on sockets until it is closed."""

    def __init__(self) -> None:
        self._servers: list[HTTPServer] = []
        self._sockets: list[socket.socket] = []
        self._encrypted: HTTPServer | None = None
        self._acceptor: Acceptor | None = None
        self._unix: UnixSocket | None = None

    def serve(self, app: Application, sockets: Sequence[socket.socket]) -> None:
        """Answer all with this application."""
        self._server(app).add_sockets(sockets)

    def serve_metrics(self, app: Application, bound: Bound, address: str, backlog: int) -> None:
        """Answer with this application at HOST:PORT, or on the socket systemd has for it.

        Raises OSError, whose text names the address.
        """
        host, _, port = address.rpartition(":")
        self.serve(app, bound.metrics or bind(host.strip("[]"), int(port), backlog))

    def serve_players(
        self,
        app: Application,
        bound: Bound,
        engine: Engine,
        picows: PicowsWebSockets | None,
        peers: PeerPolicy,
        tls: ssl.SSLContext | None,
    ) -> None:
        """Answer with this application, but plain websocket handshakes by `picows` if given.

        With `tls`, TCP connections are encrypted. Those of a Unix domain socket never are: they
        come from a proxy on this machine, which has taken TLS away.
        """
        self._unix = bound.unix
        sockets = self._sockets = bound.players
        if tls is not None:
            gen_log.addFilter(_QUIET)
            self._encrypted = self._server(app, tls)
            self._encrypted.add_sockets([each for each in sockets if each.family != socket.AF_UNIX])
            sockets = [each for each in sockets if each.family == socket.AF_UNIX]
        if picows is None:
            self.serve(app, sockets)
            return
        server = self._server(app)
        loop = asyncio.get_running_loop()
        self._acceptor = Acceptor(server, engine, picows, peers, _IDLE_TIMEOUT, loop)
        self._acceptor.listen(sockets)

    def use_tls(self, tls: ssl.SSLContext | None) -> None:
        """Encrypt new connections by another certificate; those that are here stay.

        Without TLS from the start there is nothing to do.
        """
        if self._encrypted is not None and tls is not None:
            self._encrypted.ssl_options = tls

    def _server(self, app: Application, tls: ssl.SSLContext | None = None) -> HTTPServer:
        server = HTTPServer(
            app,
            ssl_options=tls,
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

    async def hold(self, *, empty: bool) -> None:
        """Accept no more, but serve those who are here.

        With `empty`, the queues of the sockets go with them, so who waits there is accepted first.
        """
        for _ in range(_TURNS_TO_ACCEPT):
            if not empty or not _somebody_waits(self._sockets):
                break
            await asyncio.sleep(0)
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
        if self._unix is not None:
            self._unix.close()

    async def close(self) -> None:
        """Close what HTTP connections are left."""
        for server in self._servers:
            await server.close_all_connections()


def _somebody_waits(listening: Sequence[socket.socket]) -> bool:
    """Tell whether there are connections that could be accepted now."""
    # Not select(2): the number of a descriptor may be above 1,024.
    queues = select.poll()
    for each in listening:
        queues.register(each, select.POLLIN)
    return bool(queues.poll(0))
