"""`/api/v1` for game backends: keys, limits, bodies and problem documents (RFC 9457).

The only handler of calls authenticates in `prepare`, before it reads a body, and the routes are
made from the table of calls: there is no way to a call around it.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, cast

import msgspec
from tornado.web import Finish, RequestHandler, stream_request_body

from gateway.api_calls import CALLS, PREFIX, STATUSES, Arguments, Call, body_limit
from gateway.api_keys import ApiKey, ApiKeysFile
from gateway.api_types import Problem, convert_query, decode_body
from gateway.backend import Backend
from gateway.errors import RequestRefused, StoreUnavailable
from gateway.limits import KeyedBuckets
from gateway.metrics import Metrics
from gateway.network import network_of
from gateway.transport.peer import PeerPolicy
from gateway.transport.quiet import QuietFaults, declared_length

logger = logging.getLogger(__name__)

#: Bodies up to this size are read and thrown away so that their refusal reaches the client.
_DISCARD_BYTES: Final = 8 * 1024 * 1024
_MAX_ID: Final = 128
_RETRY_AFTER: Final = 1.0
_BEARER: Final = re.compile(r"Bearer +([!-~]+) *", re.IGNORECASE)
#: Keys and networks whose rates are known at once.
_MAX_KEYS: Final = 16_384
#: Calls that need one of these scopes are logged.
_AUDITED: Final = frozenset({"sessions", "admin"})
#: Codes of what Tornado refuses by itself.
_CODES: Final = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}

Routes = list[tuple[str, type[RequestHandler], dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class ApiLimits:
    """See `api` and `limits` in the YAML file; 0 means no limit."""

    requests_per_second: float
    burst: float
    attempts_per_minute: float
    message_bytes: int


class Api:
    """What all handlers share. `monotonic` returns seconds."""

    def __init__(
        self,
        backend: Backend,
        keys: ApiKeysFile,
        limits: ApiLimits,
        peers: PeerPolicy,
        metrics: Metrics,
        monotonic: Callable[[], float],
    ) -> None:
        self.backend = backend
        self.metrics = metrics
        self.peers = peers
        self._monotonic = monotonic
        self.reconfigure(keys, limits)

    def reconfigure(self, keys: ApiKeysFile, limits: ApiLimits) -> None:
        """Take other keys and limits; calls are counted anew."""
        self.keys = keys
        self.limits = limits
        self._calls = KeyedBuckets(limits.requests_per_second, limits.burst, _MAX_KEYS)
        per_minute = limits.attempts_per_minute
        self._attempts = KeyedBuckets(per_minute / 60, per_minute, _MAX_KEYS)

    def holds(self, key: ApiKey) -> bool:
        """Tell whether this key is still good."""
        return self.keys.holds(key)

    def authenticate(self, authorization: str | None, peer: str, forwarded: str) -> ApiKey:
        """Return the key of a call. Raises Refused: `unauthorized` or `rate_limited`.

        A good key passes whatever its neighbours have tried.
        """
        match = _BEARER.fullmatch(authorization or "")
        key = self.keys.find(match[1]) if match is not None else None
        if key is None:
            network = network_of(self.peers.address(peer, forwarded))
            self._check(self._attempts, network, "api.attempts_per_minute", "too many wrong keys")
            text = "send a good key, as Authorization: Bearer KEY"
            raise Refused("unauthorized", text)
        self._check(self._calls, key.name, "api.requests_per_second", "too many calls")
        return key

    def _check(self, buckets: KeyedBuckets, key: str, limit: str, text: str) -> None:
        wait = buckets.take(key, self._monotonic())
        if wait > 0:
            self.metrics.limit_hit(limit)
            raise Refused("rate_limited", text, None, round(wait, 3))


class Refused(Exception):
    """A call is refused with a code of STATUSES; `retry_after` is in seconds."""

    def __init__(
        self, code: str, text: str, field: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(text)
        self.problem = Problem(
            "about:blank",
            HTTPStatus(STATUSES[code]).phrase,
            STATUSES[code],
            text,
            code,
            field,
            retry_after,
        )


class ProblemHandler(QuietFaults):
    """Answers with JSON, and refuses with problem documents."""

    SUPPORTED_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")

    #: What WWW-Authenticate says to who has no good key; empty for nothing.
    challenge = ""

    def set_default_headers(self) -> None:
        """Answers are for programs: never stored, framed or sniffed."""
        set_headers(self)

    def refuse(self, error: Refused) -> None:
        """Answer with a problem document. Raises Finish."""
        problem = error.problem
        self.set_status(problem.status)
        if problem.retry_after is not None:
            self.set_header("Retry-After", str(math.ceil(problem.retry_after)))
        if problem.code == "unauthorized" and self.challenge:
            self.set_header("WWW-Authenticate", self.challenge)
        self.answer(problem, "application/problem+json")
        raise Finish

    def answer(self, answer: object, kind: str = "application/json") -> None:
        """Answer with this as JSON."""
        self.set_header("Content-Type", kind)
        self.finish(msgspec.json.encode(answer))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer what Tornado refuses, or our own fault, without its text."""
        if status_code < 500:
            text = "the request is malformed"
            problem = Refused(_CODES.get(status_code, "bad_request"), text).problem
        else:
            problem = Refused("internal", "the gateway has failed; its log says more").problem
        self.set_status(problem.status)
        self.answer(problem, "application/problem+json")


@stream_request_body
class ApiHandler(ProblemHandler):
    """One path of the API; without `calls` a path that is none."""

    challenge = 'Bearer realm="game-gateway"'
    unknown_path = "there is no such call; see /api/v1/openapi.json"

    def initialize(self, api: Api, calls: Mapping[str, Call]) -> None:
        """Take the calls by their methods."""
        self._api = api
        self._calls = calls
        self._body = bytearray()
        self._limit = 0
        self._call: Call
        self._key: ApiKey

    def prepare(self) -> None:
        """Check key, method and scope, and the size of a body before it is read."""
        cast(Any, self.request.connection).set_max_body_size(_DISCARD_BYTES)
        headers = self.request.headers
        try:
            self._key = self.authenticate()
            self._call = self._find_call()
            if self._call.scope not in self._key.scopes:
                text = f"this key lacks the scope {self._call.scope}"
                raise Refused("forbidden", text)
            self._limit = body_limit(self._call, self._api.limits.message_bytes)
            if declared_length(headers) > self._limit:
                self._refuse_body()
            cast(Any, self.request.connection).set_max_body_size(
                max(self._limit + 1, _DISCARD_BYTES)
            )
        except Refused as error:
            self.refuse(error)

    def authenticate(self) -> ApiKey:
        """Return whose call it is. Raises Refused."""
        return self._api.authenticate(
            self.request.headers.get("Authorization"),
            self.request.remote_ip or "",
            ",".join(self.request.headers.get_list("X-Forwarded-For")),
        )

    def _find_call(self) -> Call:
        if not self._calls:
            raise Refused("not_found", self.unknown_path)
        method = "GET" if self.request.method == "HEAD" else self.request.method
        call = self._calls.get(method or "")
        if call is None:
            allowed = ", ".join(self._calls)
            self.set_header("Allow", allowed)
            raise Refused("method_not_allowed", f"methods of this path are {allowed}")
        return call

    def data_received(self, chunk: bytes) -> None:
        """Collect the body, as far as it is allowed to go."""
        if len(self._body) <= self._limit:
            self._body += chunk

    async def _run(self, **path: str) -> None:
        try:
            answer = await self._call.run(self._api.backend, self._arguments(path))
        except Refused as error:
            self.refuse(error)
        except RequestRefused as error:
            self.refuse(Refused(error.code, error.message, error.field, error.retry_after))
        except StoreUnavailable:
            text = "the gateway's store is not available"
            self.refuse(Refused("unavailable", text, None, _RETRY_AFTER))
        self.audit(path)
        self.answer(answer)

    get = head = post = put = delete = patch = options = _run

    def audit(self, path: Mapping[str, str]) -> None:
        """Log who has done what to a player, a session or a room."""
        call, key = self._call, self._key
        if call.scope in _AUDITED:
            # The path as it came, in which whatever is not plain is escaped.
            asked = ascii(self.request.path)[1:-1]
            extra = {"action": call.name, "api_key": key.name, **path}
            logger.info("API key %s: %s %s", key.name, self.request.method, asked, extra=extra)

    def _arguments(self, path: dict[str, str]) -> Arguments:
        call = self._call
        for name, value in path.items():
            if not value or len(value) > _MAX_ID:
                text = f"{name} must have 1 to {_MAX_ID} characters"
                raise Refused("bad_request", text, name)
        query: Any = None
        body: Any = None
        given = {name: self.get_query_argument(name) for name in self.request.query_arguments}
        if call.query is not None:
            query = convert_query(given, call.query)
        elif given:
            text = "this call takes no parameters behind a question mark"
            raise Refused("bad_request", text, next(iter(given))[:_MAX_ID])
        if len(self._body) > self._limit:
            self._refuse_body()
        if call.body is not None:
            body = self._decoded_body(call)
        return Arguments(self._key.name, path, query, body)

    def _decoded_body(self, call: Call) -> Any:
        body = bytes(self._body)
        if not body and not call.body_required:
            body = b"{}"
        else:
            kind = self.request.headers.get("Content-Type", "").partition(";")[0].strip()
            if kind.lower() != "application/json":
                text = "send the body as Content-Type: application/json"
                raise Refused("unsupported_media_type", text)
        return decode_body(body, call.body or object)

    def _refuse_body(self) -> None:
        raise Refused("too_large", f"the body has more than {self._limit} bytes")

    def on_finish(self) -> None:
        """Count the call."""
        self._api.metrics.api_call(self.get_status())


class DocumentHandler(QuietFaults):
    """A document that is made once, such as `/api/v1/openapi.json`. Everybody may read it."""

    def initialize(self, document: bytes) -> None:
        """Take the JSON text."""
        self._document = document

    def set_default_headers(self) -> None:
        """Set the same headers as the API, but let the document be kept for a while."""
        set_headers(self)
        self.set_header("Cache-Control", "public, max-age=300")

    def get(self) -> None:
        """Answer with it."""
        self.set_header("Content-Type", "application/json")
        self.finish(self._document)

    head = get


def api_routes(api: Api, openapi: bytes) -> Routes:
    """Return the routes of all calls, and one for whatever else is below `/api`."""
    return [
        (f"{PREFIX}/openapi\\.json", DocumentHandler, {"document": openapi}),
        *call_routes(PREFIX, CALLS, ApiHandler, {"api": api}),
        ("/api(?:/.*)?", ApiHandler, {"api": api, "calls": {}}),
    ]


def call_routes(
    prefix: str, calls: Iterable[Call], handler: type[ApiHandler], arguments: dict[str, Any]
) -> Routes:
    """Return a route for each path of these calls."""
    paths: dict[str, dict[str, Call]] = {}
    for call in calls:
        paths.setdefault(call.path, {})[call.method] = call
    return [
        (
            prefix + re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]*)", path),
            handler,
            {**arguments, "calls": methods},
        )
        for path, methods in paths.items()
    ]


def set_headers(handler: RequestHandler) -> None:
    """Set the headers of answers to programs."""
    handler.set_header("Cache-Control", "no-store")
    handler.set_header("X-Content-Type-Options", "nosniff")
    handler.set_header("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
    handler.clear_header("Server")
