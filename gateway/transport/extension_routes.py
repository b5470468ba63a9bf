"""HTTP requests to routes of extensions: one handler for all of `/ext/`."""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from tornado.web import HTTPError, stream_request_body

from gateway.extension import Request, Response
from gateway.transport.engine import Engine
from gateway.transport.extension_host import ExtensionHost
from gateway.transport.peer import PeerPolicy
from gateway.transport.quiet import QuietFaults, declared_length

#: Requests that extensions handle at once; more are told to come back.
MAX_REQUESTS: Final = 256
#: How long a handler may take, in seconds.
_TIMEOUT: Final = 30.0


class Gate:
    """What all requests share: how many are under way, and how large a body may be."""

    def __init__(self, host: ExtensionHost, peers: PeerPolicy, engine: Engine) -> None:
        self.host = host
        self.peers = peers
        self._engine = engine
        self.requests = 0

    @property
    def body_bytes(self) -> int:
        """Largest body of a request: that of a packet."""
        return self._engine.settings.max_payload


@stream_request_body
class ExtensionHandler(QuietFaults):
    """Finds the route, keeps pages of other origins out, and bounds time, size and number."""

    def initialize(self, gate: Gate) -> None:
        """Take what all share."""
        self._gate = gate
        self._body = bytearray()

    def set_default_headers(self) -> None:
        """Nothing is sniffed for another type, or kept unless the extension says so."""
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.clear_header("Server")

    def prepare(self) -> None:
        """Check all but the body."""
        gate, request = self._gate, self.request
        origin = request.headers.get("Origin")
        if not gate.peers.allows_origin(origin, request.host):
            raise HTTPError(403)
        if (request.method, request.path) not in gate.host.routes:
            there = any(path == request.path for _, path in gate.host.routes)
            raise HTTPError(405 if there else 404)
        if declared_length(request.headers) > gate.body_bytes:
            raise HTTPError(413)
        cast(Any, request.connection).set_max_body_size(gate.body_bytes)

    def data_received(self, chunk: bytes) -> None:
        """Collect the body."""
        self._body += chunk

    async def _run(self) -> None:
        gate = self._gate
        if gate.requests >= MAX_REQUESTS:
            gate.host.server.limit_hit("extensions.requests")
            self.set_header("Retry-After", "1")
            raise HTTPError(503)
        gate.requests += 1
        try:
            response = await self._answer()
        finally:
            gate.requests -= 1
        self.set_status(response.status)
        self.set_header("Content-Type", response.content_type)
        for name, value in response.headers.items():
            self.set_header(name, value)
        self.finish(response.body)

    get = post = put = patch = delete = _run

    async def _answer(self) -> Response:
        request = self.request
        method, path = request.method or "", request.path
        forwarded = ",".join(request.headers.get_list("X-Forwarded-For"))
        asked = Request(
            method,
            path,
            {key: self.get_query_argument(key) for key in request.query_arguments},
            {name.lower(): value for name, value in request.headers.get_all()},
            bytes(self._body),
            self._gate.peers.address(request.remote_ip or "", forwarded),
        )
        try:
            handler = self._gate.host.routes[method, path]
            response = await asyncio.wait_for(handler(asked), _TIMEOUT)
            if not isinstance(response, Response):
                raise TypeError(f"a route must return a Response, not {type(response).__name__}")
        except Exception as error:
            self._gate.host.failures.note(f"the route {method} {path}", error)
            raise HTTPError(500) from None
        return response

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer in plain words."""
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.finish(f"{status_code} {self._reason}\n")
