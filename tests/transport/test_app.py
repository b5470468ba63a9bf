"""Static files, health, readiness and metrics."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tornado.httpclient import AsyncHTTPClient

from gateway.server import Gateway
from tests.transport.client import Clients

pytestmark = pytest.mark.gen_test

FILES = [
    "/",
    "/index.html",
    "/app.js",
    "/base.css",
    "/app.css",
    "/favicon.svg",
    "/vendor/socket.io.esm.min.js",
]


@pytest.fixture
def own_client(tmp_path: Path) -> Path:
    """A game's own static directory."""
    own = tmp_path / "own"
    (own / ".git").mkdir(parents=True)
    (own / "levels").mkdir()
    (own / "game.html").write_text("<title>game</title>")
    (own / "levels" / "1.json").write_text("{}")
    (own / ".env").write_text("SECRET=1")
    (own / ".git" / "config").write_text("SECRET=1")
    (tmp_path / "outside.txt").write_text("SECRET=1")
    return own


# Static files


async def test_page_is_at_the_root(http_client: AsyncHTTPClient, base_url: str) -> None:
    response = await http_client.fetch(base_url + "/")
    assert response.headers["Content-Type"].startswith("text/html")
    assert b"<title>" in response.body


@pytest.mark.parametrize("path", FILES)
async def test_files_are_revalidated_by_etag(clients: Clients, path: str) -> None:
    response = await clients.fetch(path)
    assert response.code == 200
    etag = response.headers["ETag"]
    again = await clients.fetch(path, headers={"If-None-Match": etag})
    assert (again.code, again.body) == (304, b"")
    assert again.headers["ETag"] == etag
    kept = "public, max-age=3600" if path.startswith("/vendor/") else "no-cache"
    assert response.headers["Cache-Control"] == kept
    other = await clients.fetch(path, headers={"If-None-Match": '"other"'})
    assert other.code == 200


@pytest.mark.parametrize("path", [*FILES, "/nothing-here", "/healthz", "/readyz", "/metrics"])
async def test_security_headers_are_on_every_answer(clients: Clients, path: str) -> None:
    headers = (await clients.fetch(path)).headers
    policy = {
        name: values.split()
        for name, _, values in (
            part.strip().partition(" ") for part in headers["Content-Security-Policy"].split(";")
        )
    }
    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == ["'self'"]
    assert policy["frame-ancestors"] == ["'none'"]
    host = f"127.0.0.1:{clients.port}"
    assert policy["connect-src"] == ["'self'", f"ws://{host}", f"wss://{host}"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Server" not in headers


@pytest.mark.parametrize(
    "path", ["/vendor/socket.io.min.js", "/vendor/socket.io.esm.min.js", "/client/gateway.js"]
)
async def test_pages_of_other_origins_may_load_the_client(clients: Clients, path: str) -> None:
    headers = (await clients.fetch(path)).headers
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert headers["Cross-Origin-Resource-Policy"] == "cross-origin"


@pytest.mark.parametrize("path", ["/", "/app.js", "/healthz", "/metrics", "/nothing-here"])
async def test_pages_of_other_origins_may_load_nothing_else(clients: Clients, path: str) -> None:
    headers = (await clients.fetch(path)).headers
    assert "Access-Control-Allow-Origin" not in headers
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize("host", ["x; script-src *", "a b", "x'", "<", "a,b"])
async def test_strange_host_does_not_get_into_the_policy(clients: Clients, host: str) -> None:
    stream = await clients.stream()
    stream.write(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    answer = (await stream.rest()).decode()
    found = re.search("Content-Security-Policy: (.*)\r\n", answer)
    assert answer.startswith(("HTTP/1.1 200", "HTTP/1.1 400"))
    assert found is None or host not in found[1]


async def test_head_is_answered_without_a_body(clients: Clients) -> None:
    response = await clients.fetch("/", "HEAD")
    assert response.code == 200
    assert not response.body
    assert int(response.headers["Content-Length"]) > 100


async def test_range_is_served(clients: Clients) -> None:
    response = await clients.fetch("/app.js", headers={"Range": "bytes=0-9"})
    assert response.code == 206
    assert len(response.body) == 10


HIDDEN = ["/.env", "/.git/config", "/levels/../.env", "/%2eenv", "/.%67it/config", "/vendor/.x"]
OUTSIDE = [
    "/../outside.txt",
    "/%2e%2e/outside.txt",
    "/..%2foutside.txt",
    "/levels/../../outside.txt",
]
OUTSIDE += ["//etc/passwd", "/%2fetc/passwd", "/..%5coutside.txt", "/vendor/../server.py"]
OUTSIDE += ["/vendor/../../server.py", "/client/../../server.py", "/vendor/%2e%2e/%2e%2e/server.py"]


@pytest.mark.parametrize("path", [*HIDDEN, *OUTSIDE])
async def test_hidden_files_and_what_lies_outside_is_not_served(
    clients: Clients, path: str
) -> None:
    await refused(clients, path)


async def refused(clients: Clients, path: str) -> None:
    # Written by hand, for clients tidy paths up.
    stream = await clients.stream()
    stream.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await stream.rest()
    assert answer.split(b" ", 2)[1] in {b"400", b"403", b"404"}
    for secret in (b"SECRET", b"import ", b"Traceback", b"root:"):
        assert secret not in answer


@pytest.mark.parametrize(
    "path", ["/nothing", "/nothing/", "/client/", "/client/nothing.js", "/vendor/"]
)
async def test_missing_file_is_404_in_plain_words(clients: Clients, path: str) -> None:
    response = await clients.fetch(path)
    assert response.code == 404
    assert response.headers["Content-Type"].startswith("text/plain")
    assert response.body == b"404 Not Found\n"


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/app.js", "/nothing"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"])
async def test_files_take_no_other_methods(clients: Clients, path: str, method: str) -> None:
    response = await clients.fetch(path, method, "x" if method != "OPTIONS" else None)
    assert response.code in {404, 405}
    assert b"Traceback" not in response.body


async def test_large_body_to_a_static_file_is_refused(clients: Clients) -> None:
    stream = await clients.stream()
    stream.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
    assert (await stream.rest()).startswith((b"HTTP/1.1 4", b""))


async def test_stock_client_is_served_with_its_licence(clients: Clients) -> None:
    for name in ("socket.io.min.js", "socket.io.esm.min.js"):
        response = await clients.fetch(f"/vendor/{name}")
        assert response.code == 200
        assert "javascript" in response.headers["Content-Type"]
        assert b"Socket.IO v4" in response.body[:200]
    licence = await clients.fetch("/vendor/socket.io-client.LICENSE")
    assert licence.code == 200
    assert b"MIT" in licence.body


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/client/gateway.js", "text/javascript"),
        ("/client/gateway.d.ts", "text/plain; charset=UTF-8"),
        ("/app.css", "text/css"),
    ],
)
async def test_what_a_file_is_does_not_depend_on_the_system(
    clients: Clients, path: str, content_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimetypes.guess_type", lambda *_: ("video/mp2t", None))
    response = await clients.fetch(path)
    assert response.headers["Content-Type"] == content_type


async def test_page_loads_nothing_from_elsewhere(clients: Clients) -> None:
    page = (await clients.fetch("/")).body.decode()
    for url in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert "//" not in url
        assert (await clients.fetch("/" + url.lstrip("./"))).code == 200
    assert not re.search(r"<script(?![^>]*src=)|<style| style=| on\w+=", page)


# A game's own directory. The settings come after the files, so each test starts its own.


async def start(gateway: Gateway, own: Path, base: Path) -> Gateway:
    from tests.transport.conftest import change

    config = change(gateway.config, static={"path": str(own), "index": "game.html"})
    game = Gateway(config, base / "game-state", {})
    await game.start()
    return game


async def test_own_directory_replaces_the_page_and_keeps_the_client(
    gateway: Gateway, own_client: Path, tmp_path: Path
) -> None:
    game = await start(gateway, own_client, tmp_path)
    clients = Clients(game.url.rstrip("/"))
    try:
        assert (await clients.fetch("/")).body == b"<title>game</title>"
        assert (await clients.fetch("/levels/1.json")).body == b"{}"
        assert (await clients.fetch("/app.js")).code == 404
        assert (await clients.fetch("/levels")).code in {301, 403, 404}
        assert (await clients.fetch("/levels/")).code in {403, 404}
        assert b"Socket.IO" in (await clients.fetch("/vendor/socket.io.min.js")).body[:200]
        for path in (*HIDDEN, *OUTSIDE):
            await refused(clients, path)
        await clients.player("polling")
    finally:
        await clients.close()
        await game.stop()


# Health, readiness, metrics


async def test_health(clients: Clients, gateway: Gateway) -> None:
    gateway.admission.draining = True
    response = await clients.fetch("/healthz")
    assert (response.code, response.body) == (200, b"ok\n")
    assert response.headers["Content-Type"] == "text/plain; charset=UTF-8"


async def test_readiness_ends_with_the_drain(clients: Clients, gateway: Gateway) -> None:
    response = await clients.fetch("/readyz")
    assert (response.code, response.body) == (200, b"ok\n")
    await gateway.drain()
    response = await clients.fetch("/readyz")
    assert (response.code, response.body) == (503, b"draining\n")


async def test_metrics_count_what_happens(clients: Clients) -> None:
    ann, bob = await clients.player("websocket"), await clients.player("polling")
    await ann.send(bob, 1)
    await ann.send(bob, 2, volatile=True)
    await ann.call("unknown")
    await (await clients.link("websocket")).send("40{}")
    response = await clients.fetch("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    lines = response.body.decode().splitlines()
    assert "gateway_connections 3.0" in lines
    assert "gateway_player_connections 2.0" in lines
    assert "gateway_players 2.0" in lines
    assert 'gateway_messages_total{kind="message",status="delivered"} 1.0' in lines
    assert 'gateway_messages_total{kind="volatile",status="delivered"} 1.0' in lines
    assert 'gateway_resumes_total{outcome="new"} 2.0' in lines
    assert 'gateway_refused_requests_total{code="bad_request"} 1.0' in lines


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-Ip", "Via"])
async def test_metrics_are_not_for_those_behind_a_proxy(clients: Clients, header: str) -> None:
    response = await clients.fetch("/metrics", headers={header: "127.0.0.1"})
    assert response.code == 403
    assert b"gateway_" not in response.body


@pytest.mark.settings(metrics={"enabled": False})
async def test_metrics_may_be_switched_off(clients: Clients) -> None:
    assert (await clients.fetch("/metrics")).code == 404


@pytest.mark.settings(metrics={"listen": "127.0.0.1:0"})
async def test_metrics_may_have_a_listener_of_their_own(clients: Clients, gateway: Gateway) -> None:
    assert (await clients.fetch("/metrics")).code == 404
    listening = next(iter(gateway._listeners._servers[1]._sockets.values()))
    apart = Clients(f"http://127.0.0.1:{listening.getsockname()[1]}")
    try:
        headers = {"X-Forwarded-For": "192.0.2.1"}
        assert b"gateway_connections 0.0" in (await apart.fetch("/metrics", headers=headers)).body
        for path in ("/", "/socket.io/?EIO=4&transport=polling", "/healthz"):
            assert (await apart.fetch(path)).code == 404
    finally:
        await apart.close()


@pytest.mark.parametrize("path", ["/%00", "/app%00.js", "/%0A", "/vendor/%1b", "/" + "a" * 5000])
async def test_odd_path_is_not_found_and_no_fault_of_ours(
    http_client: AsyncHTTPClient, base_url: str, path: str
) -> None:
    response = await http_client.fetch(base_url + path, raise_error=False)
    assert response.code == 404
    assert response.body == b"404 Not Found\n"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_balancers_may_ask_by_head(
    http_client: AsyncHTTPClient, base_url: str, path: str
) -> None:
    response = await http_client.fetch(base_url + path, method="HEAD")
    assert response.code == 200
    assert response.body == b""
