"""`/admin/`, the operator's page: log-in, files, and the calls that it makes.

Deny by default: whatever lies below `/admin` needs a session but the log-in and its files, and
what changes anything also has to come from our own page (Origin), beside a cookie that browsers
send to no other site (SameSite).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from tornado.web import HTTPError, RequestHandler

from gateway.admin import Admin, AskRooms, AskState
from gateway.api_calls import Arguments, Call
from gateway.api_keys import ApiKey
from gateway.api_types import BanRequest, SendRequest, decode_body
from gateway.errors import RequestRefused
from gateway.messages import ListPlayers, SessionId
from gateway.transport.admin_door import COOKIE, Door
from gateway.transport.api import Api, ApiHandler, ProblemHandler, Refused, Routes, call_routes
from gateway.transport.quiet import QuietFaults

PREFIX: Final = "/admin"
#: Files that who is not logged in needs.
PUBLIC: Final = frozenset({"login.js", "base.css", "operator.css", "icon.svg"})
ADMIN_FOLDER: Final = Path(__file__).resolve().parent.parent / "static" / "admin"
#: Of the game's page, too. A game that replaces that does not replace it here.
_SHARED: Final = ADMIN_FOLDER.parent / "base.css"
_TYPES: Final = {
    ".html": "text/html; charset=UTF-8",
    ".js": "text/javascript; charset=UTF-8",
    ".css": "text/css; charset=UTF-8",
    ".svg": "image/svg+xml",
}
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
_SAFE: Final = frozenset({"GET", "HEAD"})


class LogIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a log-in."""

    key: str


@dataclass(frozen=True, slots=True)
class File:
    """A file of the page."""

    body: bytes
    kind: str


class _PageHandler(QuietFaults):
    """Something that a browser loads: headers of a page, errors in plain words."""

    def initialize(self, door: Door, files: Mapping[str, File]) -> None:
        """Take the door, and the files by name."""
        self._door = door
        self._files = files

    def set_default_headers(self) -> None:
        set_page_headers(self)

    def _send(self, name: str) -> None:
        file = self._files[name]
        self.set_header("Content-Type", file.kind)
        self.finish(file.body)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.finish(f"{status_code} {self._reason}\n")


class PageHandler(_PageHandler):
    """`/admin/`: the page, or the way to the log-in."""

    def get(self) -> None:
        """Answer with the page."""
        if self._door.key_of(self) is None:
            self.redirect(f"{PREFIX}/login", status=303)
        elif self.request.path == PREFIX:
            self.redirect(f"{PREFIX}/", status=303)
        else:
            self._send("index.html")

    head = get


class FileHandler(_PageHandler):
    """Scripts and styles."""

    def get(self, name: str) -> None:
        """Answer with one. Raises HTTPError."""
        if name not in PUBLIC and self._door.key_of(self) is None:
            raise HTTPError(401)
        if name not in self._files or name.endswith(".html"):
            raise HTTPError(404)
        self._send(name)

    head = get


class LoginHandler(ProblemHandler):
    """`/admin/login`: its page, and the log-in itself."""

    def initialize(self, door: Door, page: File) -> None:
        """Take the door, and the page."""
        self._door = door
        self._page = page

    def set_default_headers(self) -> None:
        """Set the headers of a page."""
        set_page_headers(self)

    def get(self) -> None:
        """Answer with the page."""
        if self._door.key_of(self) is not None:
            self.redirect(f"{PREFIX}/", status=303)
            return
        self.set_header("Content-Type", self._page.kind)
        self.finish(self._page.body)

    head = get

    def post(self) -> None:
        """Log in."""
        request = self.request
        try:
            self._door.check_origin(request)
            secret = decode_body(request.body, LogIn).key
            token = self._door.log_in(request, secret)
        except Refused as error:
            self.refuse(error)
        except RequestRefused as error:
            self.refuse(Refused(error.code, error.message, error.field))
        lifetime = self._door.sessions.lifetime
        self._set_cookie(token, int(lifetime))
        self.answer({"ok": True})

    def _set_cookie(self, token: str, max_age: int) -> None:
        self.set_cookie(
            COOKIE,
            token,
            path=f"{PREFIX}/",
            max_age=max_age,
            httponly=True,
            samesite="Strict",
            secure=self._door.is_secure(self.request),
        )


class AdminHandler(ApiHandler):
    """A call of the page; without `calls` a path that is none."""

    challenge = ""
    unknown_path = "there is no such page"

    def initialize(self, api: Api, calls: Mapping[str, Call], door: Door) -> None:  # type: ignore[override]
        """Take the calls by their methods, and the door."""
        super().initialize(api, calls)
        self._door = door

    def set_default_headers(self) -> None:
        """Set the headers of a page."""
        set_page_headers(self)

    def authenticate(self) -> ApiKey:
        """Return the key of the session. Raises Refused."""
        key = self._door.key_of(self)
        if key is None:
            raise Refused("unauthorized", "log in first")
        if self.request.method not in _SAFE:
            self._door.check_origin(self.request)
        return key

    def audit(self, path: Mapping[str, str]) -> None:
        """The page's actions log what they did by themselves."""

    def on_finish(self) -> None:
        """Calls of the page are none of the API."""


class LogoutHandler(ProblemHandler):
    """`POST /admin/logout`."""

    def initialize(self, door: Door) -> None:
        """Take the door."""
        self._door = door

    def set_default_headers(self) -> None:
        """Set the headers of a page."""
        set_page_headers(self)

    def prepare(self) -> None:
        """Refuse who is not logged in."""
        try:
            if self._door.key_of(self) is None:
                raise Refused("unauthorized", "log in first")
            self._door.check_origin(self.request)
        except Refused as error:
            self.refuse(error)

    def post(self) -> None:
        """End the session."""
        self._door.sessions.close(self.get_cookie(COOKIE) or "")
        self.clear_cookie(COOKIE, path=f"{PREFIX}/")
        self.answer({"ok": True})


def admin_calls(admin: Admin) -> tuple[Call, ...]:
    """Return what the page calls, as the API's table does; all are for the scope admin."""

    def call(
        name: str,
        method: Literal["GET", "POST", "PUT", "DELETE"],
        path: str,
        run: Callable[[Arguments], Awaitable[object]],
        **kinds: Any,
    ) -> Call:
        async def run_it(_: object, given: Arguments) -> object:
            return await run(given)

        return Call(name, method, f"/api{path}", "admin", name, None, run_it, **kinds)

    player = "/players/{true_id}"
    return (
        call("state", "GET", "/state", lambda g: admin.state(g.caller, g.query), query=AskState),
        call("rooms", "GET", "/rooms", lambda g: admin.rooms(g.query), query=AskRooms),
        call("players", "GET", "/players", lambda g: admin.players(g.query), query=ListPlayers),
        call("player", "GET", player, lambda g: admin.player(g.true_id)),
        call("kick", "POST", f"{player}/kick", lambda g: admin.kick(g.caller, g.true_id)),
        call("revoke", "DELETE", f"{player}/sessions", lambda g: admin.revoke(g.caller, g.true_id)),
        call(
            "revoke_session",
            "DELETE",
            f"{player}/sessions/{{session_id}}",
            lambda g: admin.revoke_session(g.caller, g.true_id, SessionId(g.path["session_id"])),
        ),
        call(
            "ban",
            "PUT",
            f"{player}/ban",
            lambda g: admin.ban(g.caller, g.true_id, g.body),
            body=BanRequest,
        ),
        call("lift_ban", "DELETE", f"{player}/ban", lambda g: admin.lift_ban(g.caller, g.true_id)),
        call(
            "announce",
            "POST",
            "/announcements",
            lambda g: admin.announce(g.caller, g.body),
            body=SendRequest,
        ),
    )


def admin_routes(api: Api, admin: Admin, door: Door) -> Routes:
    """Return all routes of the page, and one for whatever else is below `/admin`."""
    files = {
        path.name: File(path.read_bytes(), _TYPES[path.suffix])
        for path in (_SHARED, *ADMIN_FOLDER.iterdir())
        if path.suffix in _TYPES
    }
    page = {"door": door, "files": files}
    arguments = {"api": api, "door": door}
    return [
        (f"{PREFIX}/?", PageHandler, page),
        (f"{PREFIX}/login", LoginHandler, {"door": door, "page": files["login.html"]}),
        (f"{PREFIX}/logout", LogoutHandler, {"door": door}),
        (f"{PREFIX}/([a-z-]+\\.[a-z]+)", FileHandler, page),
        *call_routes(PREFIX, admin_calls(admin), AdminHandler, arguments),
        (f"{PREFIX}(?:/.*)?", AdminHandler, {**arguments, "calls": {}}),
    ]


def set_page_headers(handler: RequestHandler) -> None:
    """Set what keeps the page to itself: never stored, framed, sniffed, or with foreign code."""
    for name, value in _HEADERS.items():
        handler.set_header(name, value)
    handler.clear_header("Server")
