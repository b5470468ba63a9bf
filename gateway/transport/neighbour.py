"""This node among others on the same store: its internal listener, and what it hands on."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from tornado.web import Application

from gateway.config import Config, ServerConfig
from gateway.failure_log import FailureLog
from gateway.internal_requests import InternalRequests
from gateway.metrics import Metrics
from gateway.nodes import NodeId
from gateway.transport.binding import bind
from gateway.transport.engine import Engine
from gateway.transport.exchanges import Exchanges
from gateway.transport.forwarding import SEPARATOR, Directory, Forwarder, ForwardingLimits
from gateway.transport.handler import Beyond
from gateway.transport.internal import build_internal_app
from gateway.transport.listeners import Listeners
from gateway.transport.peer import PeerPolicy
from gateway.transport.picows import PicowsWebSockets

logger = logging.getLogger(__name__)

#: A node answers anything but a poll at once; after so many seconds it is taken for dead.
_TIMEOUT: Final = 10.0
#: How long an answer may be under way after a session's heartbeat has ended it, in seconds.
_SLACK: Final = 5.0


class Neighbour:
    """`directory` knows the other nodes. `clock` returns Unix seconds, `monotonic` seconds."""

    def __init__(
        self,
        directory: Directory,
        secret_keys: Sequence[str],
        server: ServerConfig,
        forwarded_requests: int,
        metrics: Metrics,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._directory = directory
        self._server = server
        self._requests = InternalRequests(directory.id, secret_keys, clock)
        # A poll ends with the next heartbeat, or with the session that does not answer one.
        self._lifetime = server.ping_interval + server.ping_timeout + _SLACK
        limits = ForwardingLimits(forwarded_requests, self._lifetime, _TIMEOUT)
        self._forwarder = Forwarder(directory, self._requests, limits, metrics, monotonic)
        self._failures = FailureLog(logger, monotonic)
        self._listeners = Listeners()
        self._sockets: list[socket.socket] = []
        self._exchanges: Exchanges | None = None
        self._app: Application | None = None

    def name(self, sid: str) -> str:
        """Return a fresh id with this node's in front: others see where its session is."""
        return f"{self._directory.id}{SEPARATOR}{sid}"

    def bind(self) -> None:
        """Take an address, and have the others told. Raises OSError, whose text names it."""
        host, _, port = self._server.internal.rpartition(":")
        self._sockets = bind(host.strip("[]"), int(port), self._server.backlog)
        address = self._sockets[0].getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        self._directory.announce(f"{shown}:{address[1]}")
        logger.info("node %s is reached by others at %s:%d", self._directory.id, shown, address[1])

    def open(self, engine: Engine, picows: PicowsWebSockets | None, peers: PeerPolicy) -> Beyond:
        """Answer the others from now on."""
        self._exchanges = Exchanges(self._lifetime, asyncio.get_running_loop())
        beyond = Beyond(self._forwarder, self._exchanges)
        self._app = build_internal_app(
            self._directory, engine, picows, peers, beyond, self._requests, self._failures
        )
        self._listeners.serve(self._app, self._sockets)
        return beyond

    def reconfigure(
        self, secret_keys: Sequence[str], forwarded_requests: int, max_payload: int
    ) -> None:
        """Go by other settings from now on."""
        if self._app is not None:
            # Where Tornado's own websockets look.
            self._app.settings["websocket_max_message_size"] = max_payload
        self._requests.reconfigure(secret_keys)
        self._forwarder.reconfigure(forwarded_requests)

    async def serves(self, node: NodeId) -> bool:
        """Ask another node whether it has the store, or may have it."""
        return await self._forwarder.serves(node)

    async def drain(self, per_second: float, grace: float) -> None:
        """Send clients away whose session is elsewhere, in the pace of the node's own."""
        self._forwarder.leaving = True
        await self._forwarder.tunnels.drain(per_second, grace)

    async def release(self) -> None:
        """Give back the polls that wait for other nodes; none is taken from now on."""
        await self._forwarder.release()

    async def close(self) -> None:
        """Listen no more; what is left of forwarded requests ends."""
        self._listeners.stop()
        for each in self._sockets:
            each.close()
        await self._forwarder.close()
        await self._listeners.close()
        if self._exchanges is not None:
            self._exchanges.close()


def build_neighbour(
    config: Config, directory: Directory, secret_keys: Sequence[str], metrics: Metrics
) -> Neighbour | None:
    """Return what hands on requests for sessions of other nodes, and answers theirs.

    None for a node that is alone.
    """
    if directory.alone:
        return None
    return Neighbour(
        directory,
        secret_keys,
        config.server,
        config.limits.forwarded_requests,
        metrics,
        time.time,
        time.monotonic,
    )
