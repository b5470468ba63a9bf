"""The sockets for players: systemd's, or our own by `server.host` and `server.unix_socket`."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tornado.netutil import bind_sockets

from gateway.config import ServerConfig
from gateway.config_checks import UNIX_PEER
from gateway.systemd import inherited_sockets
from gateway.transport.unix_socket import UnixSocket

logger = logging.getLogger(__name__)

#: Name of the socket for metrics.listen: `FileDescriptorName=` of its socket unit.
_METRICS: Final = "metrics"
#: Addresses that stand for all, and one of them.
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104


@dataclass(frozen=True, slots=True)
class Bound:
    """Listening sockets. `activated` says that they are systemd's, with `metrics` of its own.

    `unix` is among the players' sockets, to be closed with its file.
    """

    players: list[socket.socket]
    metrics: list[socket.socket]
    activated: bool
    unix: UnixSocket | None

    @property
    def port(self) -> int:
        """The first TCP socket's port, 0 without one."""
        return next((each.getsockname()[1] for each in self._tcp), 0)

    def url(self, host: str, *, tls: bool) -> str:
        """Return a URL to click on; for a Unix domain socket alone, what says where it is.

        `host` is what was asked to be listened on; systemd's sockets tell themselves.
        """
        tcp = self._tcp
        if not tcp:
            return f"unix:{self.players[0].getsockname()}"
        host = tcp[0].getsockname()[0] if self.activated else host
        shown = _ANY.get(host, host)
        shown = f"[{shown}]" if ":" in shown else shown
        return f"{'https' if tls else 'http'}://{shown}:{self.port}/"

    @property
    def _tcp(self) -> list[socket.socket]:
        return [each for each in self.players if each.family != socket.AF_UNIX]


def bind(host: str, port: int, backlog: int, *, reuse_port: bool = False) -> list[socket.socket]:
    """Return sockets that listen. Raises OSError, whose text names the address."""
    try:
        return bind_sockets(port, host or None, backlog=backlog, reuse_port=reuse_port)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error


def bind_players(server: ServerConfig, environ: Mapping[str, str]) -> Bound:
    """Return the sockets to serve, all of which listen.

    Raises OSError, whose text names the address, and ConfigError for a socket of systemd's that
    is none to serve.
    """
    inherited = inherited_sockets(environ)
    metrics = inherited.pop(_METRICS, [])
    players = [each for found in inherited.values() for each in found]
    unix: UnixSocket | None = None
    if players:
        logger.info(
            "listening on systemd's sockets; server.host, port, unix_socket and backlog are unused"
        )
        bound = Bound(players, metrics, activated=True, unix=None)
    else:
        if server.unix_socket:
            mode = int(server.unix_socket_mode, 8)
            unix = UnixSocket(Path(server.unix_socket), mode, server.backlog)
            players.append(unix.socket)
        if server.host:
            try:
                shared = server.reuse_port
                tcp = bind(server.host, server.port, server.backlog, reuse_port=shared)
                players = tcp + players
            except OSError:
                if unix is not None:
                    unix.close()
                raise
        bound = Bound(players, metrics, activated=False, unix=unix)
    for each in players:
        if each.family == socket.AF_UNIX:
            logger.info("listening on %s", each.getsockname())
            if UNIX_PEER not in server.trusted_proxies:
                logger.warning(
                    "server.trusted_proxies does not list unix: all who come by the Unix domain "
                    "socket share one address and its limits"
                )
    return bound
