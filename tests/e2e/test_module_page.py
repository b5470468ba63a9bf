"""Pages that import the client module and nothing else, in Chromium."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.e2e.browser import Browser, Page
from tests.e2e.conftest import StartGateway

_PAGE = """<!doctype html>
<meta charset="utf-8">
<title>A game</title>
<link rel="icon" href="data:,">
<script type="module" src="game.js"></script>
"""
_GAME = """
import { connect } from "%s/client/gateway.js";

window.game = connect(%s);
"""


class Elsewhere:
    """A web server of another origin with the page of a game."""

    def __init__(self) -> None:
        self.script = ""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                is_script = self.path.endswith(".js")
                body = (server.script if is_script else _PAGE).encode()
                self.send_response(200)
                kind = "text/javascript" if is_script else "text/html"
                self.send_header("Content-Type", f"{kind}; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="elsewhere")
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    """A game that is hosted elsewhere."""
    elsewhere = Elsewhere()
    yield elsewhere
    elsewhere.close()


def wait_live(browser: Browser, url: str) -> Page:
    page = Page(browser, browser.new_window())
    page.open(url)
    page.wait("a live client", lambda: page.script("return window.game?.state") == "live")
    assert page.script("return [typeof window.io, window.game.socket.recovered]") == [
        "undefined",
        False,
    ]
    return page


def test_the_module_brings_the_stock_client_along(
    browser: Browser, start_gateway: StartGateway, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text(_PAGE)
    (tmp_path / "game.js").write_text(_GAME % ("", "{}"))
    gateway = start_gateway(static={"path": str(tmp_path)})
    page = wait_live(browser, gateway.url)
    true_id = page.script("return window.game.trueId")
    page.reload()
    page.wait("a live client", lambda: page.script("return window.game?.state") == "live")
    assert page.script("const { trueId, session } = game; return [trueId, session.outcome]") == [
        true_id,
        "resumed",
    ]


def test_a_page_of_another_origin_imports_the_module_from_the_gateway(
    browser: Browser, start_gateway: StartGateway, elsewhere: Elsewhere
) -> None:
    gateway = start_gateway(server={"allowed_origins": [elsewhere.origin]})
    origin = gateway.url.rstrip("/")
    elsewhere.script = _GAME % (origin, f'{{ url: "{gateway.url}" }}')
    page = wait_live(browser, elsewhere.origin)
    receipt = page.script("return window.game.send(window.game.trueId, 'hello')")
    assert receipt["status"] == "delivered"


def test_a_stock_client_that_does_not_load_is_tried_again(
    browser: Browser, start_gateway: StartGateway, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text(_PAGE)
    noting = 'window.errors = [];\ngame.on("error", ({ code }) => errors.push(code));\n'
    (tmp_path / "game.js").write_text(_GAME % ("", "{ reconnectionDelay: 50 }") + noting)
    gateway = start_gateway(static={"path": str(tmp_path)})
    page = Page(browser, browser.new_window())
    page.cdp("Network.enable")
    page.cdp("Network.setBlockedURLs", urls=["*socket.io.esm*"])
    page.open(gateway.url)
    page.wait("two failures", lambda: page.script("return (window.errors ?? []).length >= 2"))
    page.cdp("Network.setBlockedURLs", urls=[])
    page.wait("a live client", lambda: page.script("return window.game.state") == "live")
    assert page.script("return [...new Set(window.errors)]") == ["client_missing"]
