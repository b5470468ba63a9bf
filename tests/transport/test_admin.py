"""The operator's page over real sockets: log-in, cookie, CSRF, headers, bounds, actions, audit."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import HTTPResponse
from tornado.ioloop import IOLoop
from tornado.routing import PathMatches

from gateway.api_calls import SMALL_BODY
from gateway.api_keys import SCOPES, ApiKeysFile
from gateway.config import Config
from gateway.server import Gateway
from gateway.transport.admin import ADMIN_FOLDER, PUBLIC
from gateway.transport.admin_door import COOKIE
from tests.transport.client import Clients, connect_refused, soon
from tests.transport.conftest import change, nothing_runs
from tests.waiting import until

pytestmark = pytest.mark.gen_test(timeout=60)

#: The page's own files, and what it shares with the game's.
FILES = (ADMIN_FOLDER.parent / "base.css", *ADMIN_FOLDER.iterdir())
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir()
    return path


@pytest.fixture
def keys(state_dir: Path) -> ApiKeysFile:
    return ApiKeysFile(state_dir / "api-keys")


@pytest.fixture
def secret(keys: ApiKeysFile) -> str:
    return keys.add("operator", frozenset({"admin"}))[1]


@pytest.fixture
def gateway(io_loop: IOLoop, settings: Config, state_dir: Path) -> Iterator[Gateway]:
    gateway = Gateway(settings, state_dir, {})
    io_loop.run_sync(gateway.start)
    yield gateway
    io_loop.run_sync(gateway.stop)
    io_loop.run_sync(nothing_runs)


class Operator:
    """A browser with the page: sends its cookie and its origin."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self.cookie = ""
        self.origin: str | None = clients.url

    async def fetch(
        self, path: str, method: str = "GET", body: object = None, **headers: str
    ) -> HTTPResponse:
        given = {} if self.origin is None or method == "GET" else {"Origin": self.origin}
        if self.cookie:
            given["Cookie"] = f"{COOKIE}={self.cookie}"
        if body is not None:
            given["Content-Type"] = "application/json"
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        return await soon(self._clients.fetch("/admin" + path, method, raw, given))

    async def log_in(self, secret: str, **headers: str) -> HTTPResponse:
        response = await self.fetch("/login", "POST", {"key": secret}, **headers)
        if response.code == 200:
            self.cookie = morsel(response).value
        return response

    async def ok(self, method: str, path: str, body: object = None) -> Any:
        response = await self.fetch(f"/api{path}", method, body)
        assert response.code == 200, response.body
        return json.loads(response.body)

    async def refused(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, str]:
        return refusal(await self.fetch(f"/api{path}", method, body, **headers))


def morsel(response: HTTPResponse) -> Any:
    (value,) = response.headers.get_list("Set-Cookie")
    return SimpleCookie(value)[COOKIE]


def refusal(response: HTTPResponse) -> tuple[int, str]:
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = json.loads(response.body)
    assert problem["status"] == response.code
    return response.code, problem["code"]


@pytest.fixture
def stranger(clients: Clients) -> Operator:
    return Operator(clients)


@pytest.fixture
def operator(io_loop: IOLoop, clients: Clients, secret: str) -> Operator:
    operator = Operator(clients)
    assert io_loop.run_sync(lambda: operator.log_in(secret)).code == 200
    return operator


def admin_paths(gateway: Gateway) -> set[str]:
    """Return a path for each route below /admin: all routes of the application are walked."""
    app = gateway._listeners._servers[0].request_callback
    patterns = {
        rule.matcher.regex.pattern.rstrip("$")
        for rule in app.wildcard_router.rules  # type: ignore[union-attr]
        if isinstance(rule.matcher, PathMatches) and "/admin" in rule.matcher.regex.pattern
    }
    files = {f"/admin/{path.name}" for path in FILES}
    assert {"/admin/main.js", "/admin/index.html"} < files
    concrete = {re.sub(r"\(\?P<\w+>\[\^/\]\*\)", "x", pattern) for pattern in patterns}
    special = {"/admin/?", "/admin/([a-z-]+\\.[a-z]+)", "/admin(?:/.*)?"}
    assert special < concrete
    return (concrete - special) | files | {"/admin", "/admin/", "/admin/x", "/admin/api/x"}


# Who gets in


async def test_every_route_but_the_log_in_needs_a_session(
    gateway: Gateway, stranger: Operator
) -> None:
    public = {"/admin/login"} | {f"/admin/{name}" for name in PUBLIC}
    paths = admin_paths(gateway)
    assert public < paths
    for path in sorted(paths):
        for method in METHODS:
            for cookie in ("", "x" * 43):
                stranger.cookie = cookie
                body = b"{}" if method in {"POST", "PUT", "PATCH"} else None
                response = await stranger.fetch(path.removeprefix("/admin"), method, body)
                if path in public and method in {"GET", "HEAD"}:
                    assert response.code == 200, (method, path)
                elif path in {"/admin", "/admin/"} and method in {"GET", "HEAD"}:
                    assert response.code == 303, (method, path)
                    assert response.headers["Location"] == "/admin/login"
                else:
                    assert response.code in {400, 401, 405}, (method, path)
                    assert response.code != 400 or path == "/admin/login"


@pytest.mark.parametrize(
    "path",
    [
        "/%61dmin/main.js",
        "/vendor/../admin/main.js",
        "/vendor/%2e%2e/admin/main.js",
        "/client/../admin/index.html",
        "//admin/main.js",
        "/./admin/main.js",
        "/x/../admin/main.js",
    ],
)
async def test_there_is_no_way_around_the_door(clients: Clients, path: str) -> None:
    stream = await clients.stream()
    stream.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    status = int((await soon(stream.rest())).split()[1])
    assert status in {401, 403, 404}


async def test_a_key_opens_a_session(stranger: Operator, secret: str) -> None:
    response = await stranger.log_in(f"{secret}")
    cookie = morsel(response)
    assert (cookie["path"], cookie["samesite"], cookie["max-age"]) == ("/admin/", "Strict", "3600")
    assert cookie["httponly"]
    assert not cookie["secure"]
    assert secret not in str(response.headers) + response.body.decode()
    page = await stranger.fetch("/")
    assert page.code == 200
    assert b"<title>Game gateway</title>" in page.body
    assert (await stranger.fetch("/login")).headers["Location"] == "/admin/"
    assert (await stranger.ok("GET", "/state"))["caller"] == "operator"


async def test_all_files_of_the_page_are_there(operator: Operator) -> None:
    for path in FILES:
        response = await operator.fetch(f"/{path.name}")
        if path.suffix == ".html":
            assert response.code == 404
        else:
            assert (response.code, response.body) == (200, path.read_bytes()), path
    assert (await operator.fetch("/nothing.js")).code == 404
    assert await operator.refused("GET", "/nothing") == (404, "not_found")


@pytest.mark.settings(server={"trusted_proxies": ("127.0.0.1",)})
async def test_behind_tls_the_cookie_is_secure(stranger: Operator, secret: str) -> None:
    stranger.origin = str(stranger.origin).replace("http:", "https:")
    response = await stranger.log_in(secret, X_Forwarded_Proto="https")
    assert morsel(response)["secure"]
    # Over TLS only the secure page is ours.
    stranger.origin = str(stranger.origin).replace("https:", "http:")
    refused = await stranger.fetch("/login", "POST", {"key": secret}, X_Forwarded_Proto="https")
    assert refusal(refused) == (403, "forbidden")


async def test_a_proxy_that_is_not_trusted_says_nothing(stranger: Operator, secret: str) -> None:
    assert not morsel(await stranger.log_in(secret, X_Forwarded_Proto="https"))["secure"]


@pytest.mark.settings(server={"public_url": "https://game.example"})
async def test_the_public_url_is_our_own_origin(stranger: Operator, secret: str) -> None:
    stranger.origin = "https://game.example"
    assert (await stranger.log_in(secret)).code == 200


async def test_a_key_without_the_scope_does_not_get_in(
    stranger: Operator, keys: ApiKeysFile
) -> None:
    secret = keys.add("backend", frozenset(SCOPES) - {"admin"})[1]
    assert refusal(await stranger.log_in(secret)) == (403, "forbidden")
    assert refusal(await stranger.log_in("gk_wrong")) == (401, "unauthorized")


@pytest.mark.settings(admin={"attempts_per_minute": 2})
async def test_wrong_keys_are_limited_and_good_ones_are_not(
    stranger: Operator, clients: Clients, secret: str
) -> None:
    found = [refusal(await stranger.log_in("wrong")) for _ in range(3)]
    assert found == [(401, "unauthorized")] * 2 + [(429, "rate_limited")]
    response = await stranger.log_in("wrong")
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert (await stranger.log_in(secret)).code == 200
    metrics = (await clients.fetch("/metrics")).body.decode()
    assert 'gateway_limit_hits_total{limit="admin.attempts_per_minute"} 2.0' in metrics
    for result, count in (("accepted", 1), ("refused", 2), ("rate_limited", 2)):
        assert f'gateway_admin_logins_total{{result="{result}"}} {count}.0' in metrics


@pytest.mark.settings(admin={"sessions": 2})
async def test_sessions_are_bounded(clients: Clients, secret: str) -> None:
    operators = [Operator(clients) for _ in range(3)]
    for operator in operators:
        await operator.log_in(secret)
    codes = [(await operator.fetch("/api/state")).code for operator in operators]
    assert codes == [401, 200, 200]
    metrics = (await clients.fetch("/metrics")).body.decode()
    assert 'gateway_limit_hits_total{limit="admin.sessions"} 1.0' in metrics


async def test_a_session_ends_at_the_log_out(operator: Operator) -> None:
    cookie = operator.cookie
    response = await operator.fetch("/logout", "POST", b"")
    assert response.code == 200
    assert morsel(response).value == ""
    operator.cookie = cookie
    assert await operator.refused("GET", "/state") == (401, "unauthorized")


async def test_a_session_ends_with_its_key(operator: Operator, keys: ApiKeysFile) -> None:
    await operator.ok("GET", "/state")
    keys.remove("operator")
    assert await operator.refused("GET", "/state") == (401, "unauthorized")


async def test_a_session_ends_when_a_reload_names_another_file_of_keys(
    operator: Operator, gateway: Gateway, settings: Config, tmp_path: Path
) -> None:
    other = change(settings, api={"keys_file": str(tmp_path / "others")})
    await gateway.reload(lambda: other)
    assert await operator.refused("GET", "/state") == (401, "unauthorized")
    secret = ApiKeysFile(tmp_path / "others").add("operator", frozenset({"admin"}))[1]
    assert (await operator.log_in(secret)).code == 200


@pytest.mark.settings(admin={"enabled": False})
async def test_it_can_be_left_out(clients: Clients, secret: str) -> None:
    for path in ("/admin", "/admin/", "/admin/login", "/admin/main.js", "/admin/api/state"):
        assert (await clients.fetch(path)).code == 404, path
    body = json.dumps({"key": secret})
    response = await clients.fetch("/admin/login", "POST", body, {"Origin": clients.url})
    assert response.code in {404, 405}


# Requests


@pytest.mark.parametrize(
    "origin",
    [None, "", "null", "https://evil.example", "http://127.0.0.1", "http://127.0.0.1:1", "x"],
)
async def test_other_pages_change_nothing(
    operator: Operator, clients: Clients, secret: str, origin: str | None
) -> None:
    player = await clients.player()
    operator.origin = origin
    path = f"/players/{player.true_id}"
    for method, rest, body in (
        ("POST", "/kick", None),
        ("DELETE", "/sessions", None),
        ("PUT", "/ban", {}),
        ("DELETE", "/ban", None),
    ):
        raw = b"" if method == "POST" else body
        assert await operator.refused(method, path + rest, raw) == (403, "forbidden")
    assert await operator.refused("POST", "/announcements", {"all": True, "data": 1}) == (
        403,
        "forbidden",
    )
    assert refusal(await operator.fetch("/logout", "POST", b"")) == (403, "forbidden")
    assert refusal(await operator.fetch("/login", "POST", {"key": secret})) == (403, "forbidden")
    operator.origin = clients.url
    view = await operator.ok("GET", path)
    assert (view["player"]["connections"], view["player"]["ban"]) == (1, None)


async def test_every_answer_is_kept_to_the_page(
    gateway: Gateway, stranger: Operator, operator: Operator
) -> None:
    for path in sorted(admin_paths(gateway)):
        for visitor in (stranger, operator):
            headers = (await visitor.fetch(path.removeprefix("/admin"))).headers
            assert headers["Cache-Control"] == "no-store", path
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["X-Frame-Options"] == "DENY"
            assert "Server" not in headers
            policy = dict(
                part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; ")
            )
            assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == "'self'"
            assert "unsafe" not in headers["Content-Security-Policy"]


def test_the_page_has_no_inline_code_and_loads_nothing_from_elsewhere() -> None:
    for path in FILES:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, path
        assert not re.search(r"innerHTML|insertAdjacentHTML|\beval\b|document\.write", text), path
        if path.suffix == ".html":
            assert not re.search(r"<style| style=| on\w+=|<script(?![^>]* src=)", text), path


async def test_bodies_are_bounded_and_must_be_json(operator: Operator) -> None:
    big = b"x" * (SMALL_BODY + 1)
    assert await operator.refused("PUT", "/players/x/ban", big) == (413, "too_large")
    assert await operator.refused("PUT", "/players/x/ban", b"[") == (400, "bad_request")
    got = await operator.refused("PUT", "/players/x/ban", b"{}", Content_Type="text/plain")
    assert got == (415, "unsupported_media_type")
    for body in (b"{", b"[]", b'{"key": 1}', b'{"key": "x", "more": 1}'):
        assert refusal(await operator.fetch("/login", "POST", body)) == (400, "bad_request")


@pytest.mark.parametrize(
    "path",
    ["/state?after=-1", "/state?x=1", "/rooms?limit=0", "/rooms?limit=201", "/players?limit=x"],
)
async def test_queries_are_checked(operator: Operator, path: str) -> None:
    assert await operator.refused("GET", path) == (400, "bad_request")


# What is shown


async def test_the_state_tells_what_the_metrics_do(operator: Operator, clients: Clients) -> None:
    player = await clients.player()
    await player.call("message", {"target_id": player.true_id, "data": 1})
    state = await operator.ok("GET", "/state")
    assert state["trouble"] is None
    assert (state["gauges"]["connections"], state["gauges"]["players"]) == (1, 1)
    assert state["counts"]["messages"]["delivered"] == 1
    assert state["counts"]["messages_by_kind"] == {"message": 1, "publish": 0, "volatile": 0}
    assert state["counts"]["resumes"]["new"] == 1
    text = (await clients.fetch("/metrics")).body.decode()
    for name in state["gauges"]:
        assert f"\ngateway_{name} " in text
    assert 'gateway_messages_total{kind="message",status="delivered"} 1.0' in text
    for name in {*state["counts"]} - {"messages", "messages_by_kind"}:
        counts = state["counts"][name]
        assert f"# TYPE gateway_{name}_total counter" in text
        for value in counts:
            assert re.search(rf'^gateway_{name}_total{{\w+="{value}"}}', text, re.MULTILINE)


async def test_samples_are_told_once(operator: Operator, gateway: Gateway) -> None:
    for _ in range(3):
        gateway._history.take()
    state = await operator.ok("GET", "/state")
    assert len(state["samples"]["time"]) == state["samples"]["seq"] == 3
    gateway._history.take()
    following = await operator.ok("GET", "/state?after=3")
    assert (following["samples"]["first"], len(following["samples"]["time"])) == (4, 1)


async def test_rooms_come_the_largest_first_in_pages(operator: Operator, clients: Clients) -> None:
    for rooms in (("a", "b", "c"), ("b", "c"), ("c",)):
        player = await clients.player()
        for room in rooms:
            await player.call("join", {"room": room})
    page = await operator.ok("GET", "/rooms?limit=2")
    assert page == {
        "rooms": 3,
        "offset": 0,
        "largest": [{"room": "c", "members": 3}, {"room": "b", "members": 2}],
    }
    page = await operator.ok("GET", "/rooms?limit=2&offset=2")
    assert page["largest"] == [{"room": "a", "members": 1}]
    assert (await operator.ok("GET", f"/rooms?offset={10**15}"))["largest"] == []


async def test_a_player_is_found_by_true_id(operator: Operator, clients: Clients) -> None:
    player = await clients.player()
    await player.call("join", {"room": "lobby"})
    (listed,) = (await operator.ok("GET", "/players"))["players"]
    assert listed["true_id"] == player.true_id
    view = await operator.ok("GET", f"/players/{player.true_id}")
    (session,) = view["player"]["sessions"]
    (connection,) = view["open"]
    assert connection["session_id"] == session["session_id"] == player.session["session_id"]
    assert view["player"]["rooms"] == ["lobby"]
    assert view["player"]["mailbox"] == {"messages": 0, "unread": 0}
    assert await operator.refused("GET", "/players/nobody") == (404, "unknown_target")


# What is done


def audited(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, str]]]:
    """Return action and what it was about of each line about an operator."""
    found = []
    for record in caplog.records:
        fields = vars(record)
        if "action" in fields:
            assert record.levelno == logging.INFO
            assert fields["api_key"] == "operator"
            assert "operator" in record.getMessage()
            names = ("true_id", "session_id", "room")
            about = {name: fields[name] for name in names if name in fields}
            found.append((fields["action"], about))
    return found


async def test_a_kicked_player_may_come_back(
    operator: Operator, clients: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    player = await clients.player()
    about = {"true_id": player.true_id}
    answer = await operator.ok("POST", f"/players/{player.true_id}/kick", b"")
    assert answer == {"ok": True, **about, "connections": 1}
    await soon(player.link.ended())
    assert audited(caplog) == [("kick", about)]
    again = await clients.player(auth={"token": player.session["token"]})
    assert (again.true_id, again.session["outcome"]) == (player.true_id, "resumed")


async def test_revoked_sessions_are_worth_nothing(
    operator: Operator, clients: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    one, all_ = await clients.player(), await clients.player()
    session_id = one.session["session_id"]
    path = f"/players/{one.true_id}/sessions/{session_id}"
    assert (await operator.ok("DELETE", path))["sessions"] == 1
    assert (await operator.ok("DELETE", f"/players/{all_.true_id}/sessions"))["sessions"] == 1
    for player in (one, all_):
        await soon(player.link.ended())
        auth = {"token": player.session["token"]}
        assert await connect_refused(await clients.link("websocket"), auth) == "session_revoked"
    assert audited(caplog) == [
        ("revoke", {"true_id": one.true_id, "session_id": session_id}),
        ("revoke", {"true_id": all_.true_id}),
    ]


async def test_a_banned_player_stays_out_until_the_ban_is_lifted(
    operator: Operator, clients: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    player = await clients.player()
    path = f"/players/{player.true_id}"
    ban = {"reason": "cheating", "until": 4_000_000_000}
    assert (await operator.ok("PUT", f"{path}/ban", ban))["banned"]
    await soon(player.link.ended())
    auth = {"token": player.session["token"]}
    assert await connect_refused(await clients.link("websocket"), auth) == "banned"
    assert (await operator.ok("GET", path))["player"]["ban"] == ban
    assert not (await operator.ok("DELETE", f"{path}/ban"))["banned"]
    await clients.player(auth=auth)
    about = {"true_id": player.true_id}
    assert audited(caplog) == [("ban", about), ("unban", about)]
    assert "cheating" in caplog.text


async def test_an_announcement_reaches_whom_it_is_for(
    operator: Operator, clients: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    ann, bob = await clients.player(), await clients.player()
    await ann.call("join", {"room": "lobby"})
    await ann.event("room")
    for data, target in (
        ("to all", {"all": True}),
        ("to the room", {"room": "lobby"}),
        ("to bob", {"target_id": bob.true_id}),
    ):
        answer = await operator.ok("POST", "/announcements", {**target, "data": data, "id": data})
        assert answer["status"] == "delivered"
    # Sent again, as after an answer that was lost, it reaches nobody twice.
    again = {"all": True, "data": "to all", "id": "to all"}
    assert (await operator.ok("POST", "/announcements", again))["duplicate"]
    assert [(await ann.event("message"))[0]["data"] for _ in range(2)] == ["to all", "to the room"]
    assert [(await bob.event("message"))[0]["data"] for _ in range(2)] == ["to all", "to bob"]
    assert audited(caplog) == [
        ("announce", {}),
        ("announce", {"room": "lobby"}),
        ("announce", {"true_id": bob.true_id}),
        ("announce", {}),
    ]
    assert "to the room" not in caplog.text


@pytest.mark.parametrize("true_id", ["a%0Ab", "%E2%80%AE", "a%20b"])
async def test_nothing_that_breaks_a_log_line_is_an_id(
    operator: Operator, caplog: pytest.LogCaptureFixture, true_id: str
) -> None:
    path = f"/players/{true_id}"
    for method, rest, body in (
        ("POST", "/kick", b""),
        ("PUT", "/ban", b"{}"),
        ("DELETE", "/ban", None),
        ("DELETE", "/sessions", None),
        ("DELETE", "/sessions/x", None),
    ):
        assert await operator.refused(method, path + rest, body) == (400, "bad_request")
    assert audited(caplog) == []


async def test_the_connections_of_a_kicked_player_are_gone_at_once(
    operator: Operator, clients: Clients, gateway: Gateway
) -> None:
    player = await clients.player("polling")
    await operator.ok("POST", f"/players/{player.true_id}/kick", b"")
    await until(lambda: len(gateway._registry) == 0)
    state = await operator.ok("GET", "/state")
    assert state["counts"]["closed_connections"]["kicked"] == 1
