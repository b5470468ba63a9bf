"""The listener for other nodes: it answers what they sign, and nothing else."""

from __future__ import annotations

import logging
from typing import Any

from tornado.web import Application, Finish, RequestHandler

from gateway.engineio import NOOP, RequestError
from gateway.failure_log import FailureLog
from gateway.internal_requests import InternalRequests, InvalidRequest
from gateway.nodes import NodeId
from gateway.transport.engine import Engine
from gateway.transport.forwarding import CONFIRM, ENDPOINT, EXCHANGE, IN_TOUCH, RELEASE, Directory
from gateway.transport.handler import Beyond, EngineHandler
from gateway.transport.peer import PeerPolicy
from gateway.transport.picows import PicowsWebSockets
from gateway.transport.quiet import QuietFaults

logger = logging.getLogger(__name__)


class Guard:
    """Lets requests in that a node has sent here."""

    def __init__(self, requests: InternalRequests, failures: FailureLog) -> None:
        self._requests = requests
        self._failures = failures

    def check(self, handler: RequestHandler) -> None:
        """Refuse what no node has sent, before its body is read."""
        request = handler.request
        try:
            self._requests.check(request.method or "", request.uri or "", request.headers)
        except InvalidRequest as error:
            self._refuse(handler, error)

    def check_body(self, handler: RequestHandler, body: bytes) -> None:
        """Refuse another body than the one that was signed."""
        try:
            self._requests.check_body(handler.request.headers, body)
        except InvalidRequest as error:
            self._refuse(handler, error)

    def _refuse(self, handler: RequestHandler, error: InvalidRequest) -> None:
        self._failures.note("a request to the internal listener", error)
        handler.set_status(401)
        handler.set_header("Content-Type", "text/plain; charset=UTF-8")
        # Whatever of a body is still to come is not read.
        handler.set_header("Connection", "close")
        handler.finish(f"{error}\n")
        raise Finish


class ForwardedHandler(EngineHandler):
    """A request for a session of this node that came in at another, which has checked it."""

    def initialize(  # type: ignore[override]
        self,
        engine: Engine,
        peers: PeerPolicy,
        picows: PicowsWebSockets | None,
        beyond: Beyond,
        guard: Guard,
    ) -> None:
        """Take what the handler works with; see EngineHandler."""
        super().initialize(engine, peers, picows, beyond)
        self._exchanges = beyond.exchanges
        self._guard = guard

    def prepare(self) -> None:
        """Check who asks. The other node has seen to the client's origin and address."""
        self._guard.check(self)
        self._bound_body()

    def _elsewhere(self, sid: str | None) -> NodeId | None:
        # Never handed on again, whatever the other node takes the session for.
        return None

    async def post(self) -> None:
        """Packets from a polling client."""
        self._guard.check_body(self, bytes(self._body))
        await super().post()

    def _answer(self, sid: str, payload: str) -> None:
        # Without packets nothing is missing if it is lost.
        if payload != NOOP:
            name = self._exchanges.begin(sid, self.request.method or "")
            self.set_header(EXCHANGE, name)
        self.finish(payload)


class _NodeHandler(QuietFaults):
    """What nodes tell each other about a session."""

    def initialize(self, engine: Engine, beyond: Beyond, guard: Guard) -> None:
        """Take what the handler works with."""
        self._engine = engine
        self._exchanges = beyond.exchanges
        self._guard = guard

    def prepare(self) -> None:
        """Check who asks."""
        self._guard.check(self)
        self._guard.check_body(self, self.request.body)


class ConfirmHandler(_NodeHandler):
    """A client has the answer to a request."""

    def post(self) -> None:
        """Take note."""
        name = self.get_query_argument("exchange", "")
        sid, method = self.get_query_argument("sid", ""), self.get_query_argument("method", "")
        self._exchanges.confirm(sid, method, name)
        self.set_status(204)


class ReleaseHandler(_NodeHandler):
    """A node stops at which a poll waits."""

    def post(self) -> None:
        """Answer the poll with nothing."""
        try:
            self._engine.connection(self.get_query_argument("sid", "")).release_poll()
        except RequestError:
            logger.debug("a poll of an unknown session is released")
        self.set_status(204)


class InTouchHandler(QuietFaults):
    """A node that has lost the store asks whether this one has it."""

    def initialize(self, directory: Directory, guard: Guard) -> None:
        """Take what the handler works with."""
        self._directory = directory
        self._guard = guard

    def prepare(self) -> None:
        """Check who asks."""
        self._guard.check(self)

    def get(self) -> None:
        """Say whether."""
        self.set_status(204 if self._directory.in_touch else 503)


class _NothingHandler(QuietFaults):
    """Any other path."""

    def initialize(self, guard: Guard) -> None:
        """Take who checks."""
        self._guard = guard

    def prepare(self) -> None:
        """Refuse."""
        self._guard.check(self)
        self.send_error(404)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer in plain words."""
        self.finish(f"{status_code} {self._reason}\n")


def build_internal_app(
    directory: Directory,
    engine: Engine,
    picows: PicowsWebSockets | None,
    peers: PeerPolicy,
    beyond: Beyond,
    requests: InternalRequests,
    failures: FailureLog,
) -> Application:
    """Return the application of the internal listener."""
    guard = Guard(requests, failures)
    parts = {"engine": engine, "beyond": beyond, "guard": guard}
    return Application(
        [
            (ENDPOINT, ForwardedHandler, {**parts, "peers": peers, "picows": picows}),
            (CONFIRM, ConfirmHandler, parts),
            (RELEASE, ReleaseHandler, parts),
            (IN_TOUCH, InTouchHandler, {"directory": directory, "guard": guard}),
        ],
        default_handler_class=_NothingHandler,
        default_handler_args={"guard": guard},
        websocket_max_message_size=engine.settings.max_payload,
        compress_response=False,
        log_function=lambda handler: None,
    )
