"""The one Tornado application: routes, static files, health and metrics."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from tornado.web import Application, HTTPError, RequestHandler, StaticFileHandler

from gateway.asyncapi import build_asyncapi
from gateway.extension import PREFIX
from gateway.metrics import Metrics
from gateway.openapi import build_openapi
from gateway.transport.admin import ADMIN_FOLDER
from gateway.transport.api import Api, DocumentHandler, Routes, api_routes
from gateway.transport.engine import Engine
from gateway.transport.extension_host import ExtensionHost
from gateway.transport.extension_routes import ExtensionHandler, Gate
from gateway.transport.handler import Beyond, EngineHandler
from gateway.transport.peer import PeerPolicy
from gateway.transport.picows import PicowsWebSockets
from gateway.transport.quiet import QuietFaults

#: The built-in client: the game developer's pages may load its modules too.
BUILT_IN: Final = Path(__file__).resolve().parent.parent / "static"
_SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "font-src 'self'; media-src 'self'; connect-src 'self'{websocket}; manifest-src 'self'; "
        "worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
#: Browsers are told not to guess what a file is, and what the system's own table says of these
#: differs: TypeScript's declarations may be translations or films.
_CONTENT_TYPES: Final = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".ts": "text/plain; charset=UTF-8",
    ".wasm": "application/wasm",
}
_HOST: Final = re.compile(r"[A-Za-z0-9.\-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")


@dataclass(frozen=True, slots=True)
class AppParts:
    """What the routes are built from. `ready` says why not, or None.

    `admin` are the routes of the operator's page, if it is to be there.

    Without `picows`, websockets are Tornado's. `beyond` is there if there may be other nodes.
    """

    engine: Engine
    picows: PicowsWebSockets | None
    peers: PeerPolicy
    metrics: Metrics | None
    static_path: Path
    index: str
    ready: Callable[[], str | None]
    api: Api
    release: str
    url: str
    admin: Routes
    extensions: ExtensionHost | None = None
    beyond: Beyond | None = None


class _QuietHandler(QuietFaults):
    """Answers errors in plain words, without a traceback or a page."""

    def set_default_headers(self) -> None:
        _set_headers(self)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        _write_error(self, status_code)


class NotFoundHandler(_QuietHandler):
    """Any path that is no route."""

    def prepare(self) -> None:
        """Refuse."""
        raise HTTPError(404)


class HealthHandler(_QuietHandler):
    """`/healthz`: the process is alive and its event loop turns."""

    def get(self) -> None:
        """Answer ok."""
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.finish("ok\n")

    head = get


class ReadyHandler(_QuietHandler):
    """`/readyz`: new connections are welcome; else 503 and why not."""

    def initialize(self, ready: Callable[[], str | None]) -> None:
        """Take the function that knows."""
        self._ready = ready

    def get(self) -> None:
        """Answer ok or 503."""
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        reason = self._ready()
        if reason is not None:
            self.set_status(503)
        self.finish(f"{reason or 'ok'}\n")

    head = get


class MetricsHandler(_QuietHandler):
    """`/metrics`, on the main port for clients on this machine only."""

    def initialize(self, metrics: Metrics, peers: PeerPolicy | None) -> None:
        """Without `peers`, everyone who reaches the listener may read."""
        self._metrics = metrics
        self._peers = peers

    def get(self) -> None:
        """Answer in Prometheus' text format."""
        if self._peers is not None and not self._peers.is_local(self.request):
            raise HTTPError(403)
        self.set_header("Content-Type", self._metrics.content_type)
        self.finish(self._metrics.render())


class ClientHandler(QuietFaults, StaticFileHandler):
    """Static files: browsers revalidate them by ETag at each use, so an update is seen at once.

    The vendored client changes only with a release, so it is kept for an hour.
    """

    def set_default_headers(self) -> None:
        """Set the security headers."""
        _set_headers(self)

    def set_extra_headers(self, path: str) -> None:
        """Set how long a browser may keep the file."""
        kept = path.startswith("vendor/")
        self.set_header("Cache-Control", "public, max-age=3600" if kept else "no-cache")

    def get_content_type(self) -> str:
        """Return the type of the file, which is that of its name."""
        known = _CONTENT_TYPES.get(Path(self.absolute_path or "").suffix)
        return known or super().get_content_type()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer in plain words."""
        _write_error(self, status_code)

    @classmethod
    def get_absolute_path(cls, root: str, path: str) -> str:
        """Never serve hidden files, whatever the directory holds."""
        if any(part.startswith(".") for part in path.replace("\\", "/").split("/")):
            raise HTTPError(404)
        if not path.isprintable():
            raise HTTPError(404)
        absolute = super().get_absolute_path(root, path)
        # The operator's page has a door of its own: no other way leads to its files.
        if Path(absolute).is_relative_to(ADMIN_FOLDER):
            raise HTTPError(404)
        return absolute


class SharedHandler(ClientHandler):
    """The stock client and the client module: pages of any origin may load them.

    Whether such a page may connect is another matter: see `server.allowed_origins`.
    """

    def set_default_headers(self) -> None:
        """Set the security headers, but for those that keep other origins out."""
        super().set_default_headers()
        self.set_header("Cross-Origin-Resource-Policy", "cross-origin")
        self.set_header("Access-Control-Allow-Origin", "*")


def build_app(parts: AppParts) -> Application:
    """Return the application with all routes.

    A game's own directory replaces the built-in page; the stock client and the built-in
    modules stay reachable under `/vendor/` and `/client/`.
    """
    own = {"path": str(parts.static_path), "default_filename": parts.index}
    routes: list[tuple[str, type[RequestHandler], dict[str, Any]]] = [
        (
            "/socket.io/",
            EngineHandler,
            {
                "engine": parts.engine,
                "peers": parts.peers,
                "picows": parts.picows,
                "beyond": parts.beyond,
            },
        ),
        ("/healthz", HealthHandler, {}),
        ("/readyz", ReadyHandler, {"ready": parts.ready}),
    ]
    if parts.metrics is not None:
        arguments = {"metrics": parts.metrics, "peers": parts.peers}
        routes.append(("/metrics", MetricsHandler, arguments))
    routes += api_routes(parts.api, msgspec.json.encode(build_openapi(parts.release)))
    routes += parts.admin
    if parts.extensions is not None and parts.extensions.routes:
        gate = Gate(parts.extensions, parts.peers, parts.engine)
        routes.append((f"{PREFIX}.*", ExtensionHandler, {"gate": gate}))
    asyncapi = msgspec.json.encode(build_asyncapi(parts.release, parts.url))
    routes.append(("/asyncapi\\.json", DocumentHandler, {"document": asyncapi}))
    routes += [
        ("/((?:vendor|client)/.+)", SharedHandler, {"path": str(BUILT_IN)}),
        ("/(.*)", ClientHandler, own),
    ]
    return Application(
        routes,
        default_handler_class=NotFoundHandler,
        websocket_max_message_size=parts.engine.settings.max_payload,
        compress_response=False,
        log_function=lambda handler: None,
    )


def build_metrics_app(metrics: Metrics) -> Application:
    """Return the application of `metrics.listen`."""
    routes = [("/metrics", MetricsHandler, {"metrics": metrics, "peers": None})]
    return Application(
        routes, default_handler_class=NotFoundHandler, log_function=lambda handler: None
    )


def _set_headers(handler: RequestHandler) -> None:
    host = handler.request.host
    # Older Safari does not take 'self' to cover websockets.
    websocket = f" ws://{host} wss://{host}" if _HOST.fullmatch(host) else ""
    for name, value in _SECURITY_HEADERS.items():
        handler.set_header(name, value.replace("{websocket}", websocket))
    handler.clear_header("Server")


def _write_error(handler: RequestHandler, status: int) -> None:
    handler.set_header("Content-Type", "text/plain; charset=UTF-8")
    handler.finish(f"{status} {handler._reason}\n")
