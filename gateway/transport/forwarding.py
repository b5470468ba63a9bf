"""Requests for sessions of other nodes: handed on to the node that has the session, and back.

The id of an Engine.IO session begins with the id of its node, so every node can tell where a
request belongs. Nothing in front of the nodes has to send a client to the same one again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Protocol
from urllib.parse import urlencode

from tornado.iostream import IOStream

from gateway.engineio import PROTOCOL_VERSION, RequestError, unknown_session
from gateway.failure_log import FailureLog
from gateway.internal_requests import InternalRequests
from gateway.metrics import Metrics
from gateway.nodes import NodeId
from gateway.transport.node_link import LinkFailed, NobodyListens, NodeLinks, Reply
from gateway.transport.tunnels import Tunnels

logger = logging.getLogger(__name__)

#: Between the node's id and the random rest of a session's id.
SEPARATOR: Final = "."
ENDPOINT: Final = "/socket.io/"
CONFIRM: Final = "/confirm"
RELEASE: Final = "/release"
IN_TOUCH: Final = "/in-touch"
#: In an answer that is to be confirmed: by which name.
EXCHANGE: Final = "Gateway-Exchange"
#: How long polls may take to be answered once they are released, in seconds.
_RELEASE_TIMEOUT: Final = 2.0
#: How long a node may take to say whether it has the store, in seconds.
_IN_TOUCH_TIMEOUT: Final = 2.0
_MAX_SID: Final = 64
_UNAUTHORIZED: Final = 401
_UNAVAILABLE: Final = 503


class Directory(Protocol):
    """What of gateway.nodes.Nodes is needed here."""

    @property
    def id(self) -> NodeId:
        """See Nodes.id."""

    @property
    def alone(self) -> bool:
        """See Nodes.alone."""

    @property
    def in_touch(self) -> bool:
        """See Nodes.in_touch."""

    def announce(self, address: str) -> None:
        """See Nodes.announce."""

    def address_of(self, node: NodeId) -> str | None:
        """See Nodes.address_of."""


@dataclass(frozen=True, slots=True)
class ForwardingLimits:
    """Requests under way at once, 0 for no limit; seconds for a poll, and for anything else."""

    requests: int
    poll_timeout: float
    timeout: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What the session's node answered; `exchange` names what is to be confirmed, if anything."""

    node: NodeId
    status: int
    content_type: str
    body: bytes
    exchange: str


class Forwarder:
    """Hands requests on. `monotonic` returns seconds."""

    def __init__(
        self,
        directory: Directory,
        requests: InternalRequests,
        limits: ForwardingLimits,
        metrics: Metrics,
        monotonic: Callable[[], float],
    ) -> None:
        self._directory = directory
        self._requests = requests
        self._limits = limits
        self._metrics = metrics
        self._links = NodeLinks(monotonic)
        self._failures = FailureLog(logger, monotonic)
        self._pending = 0
        #: Polls that wait, and the node that has their session.
        self._polls: dict[str, NodeId] = {}
        #: How many of them are not answered and confirmed yet, and whether there are none.
        self._waiting = 0
        self._nobody_waits = asyncio.Event()
        self._nobody_waits.set()
        self.tunnels = Tunnels()
        #: Whether this node is about to stop: clients had better go to another one.
        self.leaving = False
        #: Whether it takes no more polls, so that none is lost with it.
        self.released = False
        self._results = metrics.counters(
            "forwarded_requests",
            "Requests for sessions of other nodes, by result",
            "result",
            ("answered", "failed", "refused"),
        )
        metrics.gauge(
            "forwarded_requests_pending",
            "Requests for sessions of other nodes that are under way",
            lambda: self._pending,
        )
        metrics.gauge("tunnels", "Websockets to sessions of other nodes", lambda: len(self.tunnels))

    def reconfigure(self, requests: int) -> None:
        """Take another limit from now on."""
        self._limits = replace(self._limits, requests=requests)

    def owner(self, sid: str) -> NodeId | None:
        """Return the node that has made this session's id; None if it is this one, or none."""
        node, separator, _ = sid.partition(SEPARATOR)
        if not separator or node == self._requests.node or len(sid) > _MAX_SID:
            return None
        return NodeId(node)

    async def fetch(self, node: NodeId, method: str, sid: str, body: bytes = b"") -> Answer:
        """Have a poll (GET) or packets (POST) answered by the session's node.

        Raises RequestError: no such session, too, if the node is not there or does not answer.
        Cancelled, it ends the session as a client does that goes away.
        """
        address = self._enter(node)
        poll = method == "GET"
        if poll:
            self._polls[sid] = node
        limits = self._limits
        try:
            target = _target(ENDPOINT, EIO=PROTOCOL_VERSION, transport="polling", sid=sid)
            timeout = limits.poll_timeout if poll else limits.timeout
            reply = await self._ask(node, address, method, target, body, timeout)
        except LinkFailed as error:
            raise self._failed(node, error) from None
        finally:
            self._pending -= 1
            if poll:
                self._polls.pop(sid, None)
        self._check(node, reply)
        self._results["answered"] += 1
        headers = reply.headers
        content_type = headers.get("Content-Type", "text/plain")
        return Answer(node, reply.status, content_type, reply.body, headers.get(EXCHANGE, ""))

    @contextlib.contextmanager
    def awaited(self) -> Iterator[None]:
        """Have `release` wait until the block ends: a request is answered and confirmed in it."""
        self._waiting += 1
        self._nobody_waits.clear()
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._nobody_waits.set()

    async def confirm(self, answer: Answer, method: str, sid: str) -> None:
        """Tell the session's node that its client has the answer, or some of it."""
        address = self._directory.address_of(answer.node)
        if not answer.exchange or address is None:
            return
        target = _target(CONFIRM, sid=sid, method=method, exchange=answer.exchange)
        try:
            await self._ask(answer.node, address, "POST", target, b"", self._limits.timeout)
        except LinkFailed as error:
            # The session ends with its next request, and its client resumes a new one.
            logger.debug("an answer of node %s is not confirmed: %s", answer.node, error)

    async def open_tunnel(self, node: NodeId, sid: str, key: str) -> tuple[IOStream, bytes]:
        """Have the session's node accept a websocket with this Sec-WebSocket-Key.

        Return the connection to it and the head of its answer, a 101. Raises RequestError. A
        tunnel counts until `tunnel_closed`.
        """
        address = self._enter(node)
        target = _target(ENDPOINT, EIO=PROTOCOL_VERSION, transport="websocket", sid=sid)
        headers = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key,
        }
        stream: IOStream | None = None
        try:
            async with asyncio.timeout(self._limits.timeout):
                stream = await self._links.acquire(address, fresh=True)
                headers |= self._head(node, address, "GET", target, b"")
                reply = await self._links.ask(stream, "GET", target, headers)
            self._check(node, reply)
            if reply.status != 101:
                raise _refusal(reply)
        except BaseException as error:
            self._pending -= 1
            if stream is not None:
                stream.close()
            if isinstance(error, (LinkFailed, TimeoutError)):
                raise self._failed(node, error) from None
            raise
        self._results["answered"] += 1
        return stream, reply.raw

    def run_tunnel(self, client: IOStream, node: IOStream, head: bytes) -> None:
        """Pass bytes both ways until either side closes."""
        self.tunnels.run(client, node, head, self._tunnel_closed)

    def _tunnel_closed(self) -> None:
        self._pending -= 1

    async def release(self) -> None:
        """Have all polls that wait answered with nothing, so that their clients ask elsewhere."""
        self.leaving = self.released = True
        await asyncio.gather(*(self._release(*poll) for poll in tuple(self._polls.items())))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RELEASE_TIMEOUT):
                await self._nobody_waits.wait()

    async def _release(self, sid: str, node: NodeId) -> None:
        address = self._directory.address_of(node)
        if address is None:
            return
        target = _target(RELEASE, sid=sid)
        try:
            await self._ask(node, address, "POST", target, b"", _RELEASE_TIMEOUT)
        except LinkFailed as error:
            logger.debug("a poll is not released by node %s: %s", node, error)

    async def serves(self, node: NodeId) -> bool:
        """Ask a node whether it has the store in reach. One that does not answer may have.

        Where its machine says that nobody listens, the node is gone.
        """
        address = self._directory.address_of(node)
        if address is None:
            return False
        try:
            reply = await self._ask(node, address, "GET", IN_TOUCH, b"", _IN_TOUCH_TIMEOUT)
        except NobodyListens:
            return False
        except LinkFailed as error:
            logger.debug("node %s does not say whether it has the store: %s", node, error)
            return True
        return reply.status != _UNAVAILABLE

    async def close(self) -> None:
        """Close all connections to other nodes."""
        await self.tunnels.close()
        self._links.close()

    def _enter(self, node: NodeId) -> str:
        """Count a request and return the node's address. Raises RequestError."""
        address = self._directory.address_of(node)
        if address is None:
            self._results["failed"] += 1
            raise unknown_session()
        limit = self._limits.requests
        if limit and self._pending >= limit:
            self._metrics.limit_hit("forwarded_requests")
            self._results["refused"] += 1
            raise RequestError(503, 4, "too many requests for other nodes")
        self._pending += 1
        return address

    async def _ask(
        self, node: NodeId, address: str, method: str, target: str, body: bytes, timeout: float
    ) -> Reply:
        stream: IOStream | None = None
        try:
            async with asyncio.timeout(timeout):
                stream = await self._links.acquire(address)
                headers = self._head(node, address, method, target, body)
                reply = await self._links.ask(stream, method, target, headers, body)
        except BaseException as error:
            if stream is not None:
                stream.close()
            if isinstance(error, TimeoutError):
                raise LinkFailed(f"no answer within {timeout:g} s") from None
            raise
        if reply.headers.get("Connection", "").lower() == "close":
            stream.close()
        else:
            self._links.release(address, stream)
        return reply

    def _head(
        self, node: NodeId, address: str, method: str, target: str, body: bytes
    ) -> dict[str, str]:
        return {"Host": address, **self._requests.sign(node, method, target, body)}

    def _check(self, node: NodeId, reply: Reply) -> None:
        if reply.status == _UNAUTHORIZED:
            error = LinkFailed(
                f"node {node} refuses the signature: all nodes need the same "
                "resume.secret_keys, and clocks that agree"
            )
            self._failures.note("forwarding to another node", error)
            raise self._failed(node, error)

    def _failed(self, node: NodeId, error: Exception) -> RequestError:
        self._results["failed"] += 1
        logger.debug("forwarding to node %s failed: %s", node, error)
        return unknown_session()


def _target(path: str, **query: str) -> str:
    return f"{path}?{urlencode(query)}"


def _refusal(reply: Reply) -> RequestError:
    """Return what the session's node has refused an upgrade with."""
    try:
        body = json.loads(reply.body)
        return RequestError(reply.status, int(body["code"]), str(body["message"]))
    except (KeyError, TypeError, ValueError):
        return unknown_session()
