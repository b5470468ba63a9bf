"""Each test of this folder runs in each browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.browsers.chromium import Chromium
from tests.e2e.browsers.firefox import Firefox
from tests.e2e.browsers.interface import Browser
from tests.e2e.browsers.network import Network
from tests.e2e.browsers.returns import Returns
from tests.e2e.browsers.webkit import WebKit
from tests.gateway_process import GatewayProcess

_KINDS: Final[dict[str, type[Browser]]] = {kind.name: kind for kind in (Chromium, Firefox, WebKit)}

#: What pages of tests have seen, and what the game's page tells.
_TRACES: Final = "{ witness: window.witness, told: { ...document.documentElement.dataset } }"
_RETURNS: Final = pytest.StashKey[Returns]()


class Keeper:
    """The browser of all tests; after one that failed, the next begin with a new one."""

    def __init__(self, kind: type[Browser], factory: pytest.TempPathFactory) -> None:
        self._kind = kind
        self._factory = factory
        self._browser: Browser | None = None

    def get(self) -> Browser:
        """Return the browser."""
        if self._browser is None:
            self._browser = self._kind(self._factory.mktemp(self._kind.name))
        return self._browser

    def close(self) -> None:
        """End the browser."""
        browser, self._browser = self._browser, None
        if browser is not None:
            browser.close()


@pytest.fixture(scope="session", params=list(_KINDS))
def keeper(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Keeper]:
    """Who keeps the browser."""
    keeper = Keeper(_KINDS[request.param], tmp_path_factory)
    yield keeper
    keeper.close()


@pytest.fixture
def browser(
    request: pytest.FixtureRequest, keeper: Keeper, gateway: GatewayProcess, output: Path
) -> Iterator[Browser]:
    """A browser without tabs. Of a test that fails, pictures and logs are kept."""
    browser = keeper.get()
    failed = request.session.testsfailed
    well = False
    try:
        yield browser
        well = request.session.testsfailed == failed
        if well:
            browser.close_tabs()
    finally:
        if not well:
            try:
                _keep_traces(browser, gateway, output)
            finally:
                keeper.close()


def _keep_traces(browser: Browser, gateway: GatewayProcess, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    (output / "gateway.log").write_text(gateway.log)
    for number, tab in enumerate(browser.tabs):
        tab.resume()
        try:
            tab.screenshot(output / f"tab-{number}.png")
            (output / f"tab-{number}.json").write_text(
                str(tab.evaluate(f"JSON.stringify({_TRACES}, null, 1)"))
            )
        except Exception as error:
            # The test's own failure is what is to be shown.
            (output / f"tab-{number}.txt").write_text(f"no picture: {error!r}")
    shutil.copy(browser.log, output)
    print(f"\nPictures and logs: {output}")


@pytest.fixture
def network(gateway: GatewayProcess) -> Iterator[Network]:
    """The network between the browser and the gateway."""
    network = Network(gateway.port)
    yield network
    network.close()


@pytest.fixture
def returns(pytestconfig: pytest.Config) -> Returns:
    """What is told at the end of the tests of how soon tabs were live again."""
    return pytestconfig.stash.setdefault(_RETURNS, Returns())


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table of returns."""
    for number, line in enumerate(config.stash.get(_RETURNS, Returns()).lines()):
        if number == 0:
            terminalreporter.section("returning tabs: milliseconds until live again")
        terminalreporter.write_line(line)
