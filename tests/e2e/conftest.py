"""Fixtures: real gateways, real browsers, and Node."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.browser import Browser
from tests.e2e.game_page import GamePage, long_round
from tests.gateway_process import GatewayProcess, own_environment, program

StartGateway = Callable[..., GatewayProcess]
OpenPage = Callable[..., GamePage]

NODE_TESTS: Final = Path(__file__).resolve().parent / "node"
_NPM_SECONDS: Final = 120.0
#: Pages that are still open at the end of a test do not hold up the stop.
_VARIABLES: Final = {"GATEWAY_SERVER_SHUTDOWN_GRACE": "2"}


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[StartGateway]:
    """Start gateways; each argument is a section of the configuration.

    `users` maps names to passwords of users to add first.
    """
    gateways: list[GatewayProcess] = []

    def start(users: Mapping[str, str] | None = None, **sections: Any) -> GatewayProcess:
        directory = tmp_path / f"gateway-{len(gateways)}"
        directory.mkdir()
        gateway = GatewayProcess(directory, config=sections, variables=_VARIABLES)
        gateways.append(gateway)
        for username, password in (users or {}).items():
            gateway.add_user(username, password)
        gateway.start()
        return gateway

    yield start
    _close_all(gateways)


@pytest.fixture
def gateway(start_gateway: StartGateway) -> GatewayProcess:
    """A gateway as it comes."""
    return start_gateway()


class Chromium:
    """The browser of all tests; after one that failed, the next begin with a new one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._browser: Browser | None = None
        self._started = 0

    def get(self) -> Browser:
        """Return the browser."""
        if self._browser is None:
            self._started += 1
            self._browser = Browser(self._directory / f"profile-{self._started}")
        return self._browser

    def close(self) -> None:
        """End the browser."""
        browser, self._browser = self._browser, None
        if browser is not None:
            browser.close()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A headless Chromium."""
    chromium = Chromium(tmp_path_factory.mktemp("chromium"))
    yield chromium
    chromium.close()


@pytest.fixture
def browser(
    request: pytest.FixtureRequest, start_gateway: StartGateway, chromium: Chromium
) -> Iterator[Browser]:
    """A browser without windows; they are closed before gateways are.

    A test in which a page complained has failed.
    """
    browser = chromium.get()
    failed = request.session.testsfailed
    well = False
    try:
        yield browser
        complaints = browser.complaints()
        browser.close_windows()
        well = request.session.testsfailed == failed
    finally:
        if not well:
            chromium.close()
    assert complaints == []


@pytest.fixture
def open_page(browser: Browser, gateway: GatewayProcess) -> OpenPage:
    """Open the game in a window of its own, as another player."""
    query = f"?player=new&round={long_round()}"

    def open_page(path: str = query) -> GamePage:
        page = GamePage(browser, browser.new_window())
        page.open(gateway.url + path)
        return page

    return open_page


@pytest.fixture
def ada(open_page: OpenPage) -> GamePage:
    """A guest who plays."""
    page = open_page()
    page.join("Ada")
    return page


@pytest.fixture
def bob(open_page: OpenPage) -> GamePage:
    """Another guest, in another window."""
    page = open_page()
    page.join("Bob")
    return page


@pytest.fixture
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a test leaves what people look at: its folder in $GATEWAY_TEST_OUTPUT.

    Without the variable, a temporary one.
    """
    root = os.environ.get("GATEWAY_TEST_OUTPUT")
    if not root:
        return tmp_path / "output"
    return Path(root, request.path.stem, request.node.name)


@pytest.fixture
def screenshots(output: Path) -> Path:
    """Where screenshots go."""
    output.mkdir(parents=True, exist_ok=True)
    return output


@pytest.fixture(scope="session")
def node() -> str:
    """The path of Node; the stock client and a TypeScript compiler are installed by the tests."""
    path = program("node")
    modules = NODE_TESTS / "node_modules"
    if not all((modules / name).is_dir() for name in ("socket.io-client", "typescript")):
        command = [program("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(
            command,
            cwd=NODE_TESTS,
            env=own_environment(),
            capture_output=True,
            text=True,
            timeout=_NPM_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            pytest.fail(f"npm ci failed:\n{done.stdout}{done.stderr}", pytrace=False)
    return path


def _close_all(gateways: list[GatewayProcess]) -> None:
    """Close every one, even if another one's end fails the test."""
    if gateways:
        try:
            gateways[0].close()
        finally:
            _close_all(gateways[1:])
