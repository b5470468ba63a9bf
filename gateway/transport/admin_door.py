"""The door of `/admin/`: who is logged in, who may log in, and what comes from our own page."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from tornado.httputil import HTTPServerRequest
from tornado.web import RequestHandler

from gateway.admin_sessions import AdminSessions
from gateway.api_keys import ApiKey
from gateway.limits import KeyedBuckets
from gateway.network import network_of
from gateway.transport.api import Api, Refused

logger = logging.getLogger(__name__)

COOKIE: Final = "gateway_admin"
#: Networks whose failed log-ins are counted at once.
_MAX_NETWORKS: Final = 16_384


class Door:
    """Who gets in: by the keys and peers of the API. `monotonic` returns seconds."""

    def __init__(
        self,
        sessions: AdminSessions,
        api: Api,
        attempts_per_minute: float,
        monotonic: Callable[[], float],
    ) -> None:
        self.sessions = sessions
        self._api = api
        self._peers = api.peers
        self._metrics = api.metrics
        self._monotonic = monotonic
        self._attempts = KeyedBuckets(attempts_per_minute / 60, attempts_per_minute, _MAX_NETWORKS)

    def log_in(self, request: HTTPServerRequest, secret: str) -> str:
        """Return the token of a new session. Raises Refused.

        A good key passes whatever its neighbours have tried: nobody can lock the operator out.
        """
        key = self._api.keys.find(secret)
        if key is None or "admin" not in key.scopes:
            network = network_of(self._address(request))
            wait = self._attempts.take(network, self._monotonic())
            if wait > 0:
                self._metrics.limit_hit("admin.attempts_per_minute")
                self._metrics.admin_login("rate_limited")
                raise Refused("rate_limited", "too many wrong keys", None, round(wait, 3))
            self._metrics.admin_login("refused")
            if key is not None:
                raise Refused("forbidden", "this key lacks the scope admin", "key")
            raise Refused("unauthorized", "this is no key of the gateway", "key")
        self._metrics.admin_login("accepted")
        logger.info(
            "%s logged in to /admin/ from %s",
            key.name,
            self._address(request),
            extra={"action": "login", "api_key": key.name},
        )
        return self.sessions.open(key)

    def key_of(self, handler: RequestHandler) -> ApiKey | None:
        """Return the key that the request's session was opened with, if it has one."""
        token = handler.get_cookie(COOKIE)
        return self.sessions.key_of(token) if token else None

    def check_origin(self, request: HTTPServerRequest) -> None:
        """Raise Refused (`forbidden`) unless one of our own pages asks for a change."""
        origin = request.headers.get("Origin")
        if not self._peers.is_own_origin(origin, request.host, secure=self.is_secure(request)):
            raise Refused(
                "forbidden", "only pages of this gateway may do this: see server.public_url"
            )

    def is_secure(self, request: HTTPServerRequest) -> bool:
        """Tell whether the browser speaks TLS."""
        told = ",".join(request.headers.get_list("X-Forwarded-Proto"))
        return self._peers.is_secure(request.protocol, request.remote_ip or "", told)

    def _address(self, request: HTTPServerRequest) -> str:
        forwarded = ",".join(request.headers.get_list("X-Forwarded-For"))
        return self._peers.address(request.remote_ip or "", forwarded)
