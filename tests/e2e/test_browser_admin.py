"""The operator's page in headless Chromium, beside a player who is connected meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from selenium.webdriver.common.by import By

from gateway.client import ConnectRefused, GatewayClient, Guest, Message, connect
from tests.e2e.browser import Browser, Page
from tests.e2e.conftest import StartGateway
from tests.gateway_process import TIMEOUT, GatewayProcess, run

T = TypeVar("T")

_SIZES: Final = {"phone": (390, 844), "desktop": (1440, 900)}
_ROW: Final = "#player-list tr[data-true-id='{}'] button"
_LINE: Final = "[data-chart='{}'] .line.series-1"
_BUTTON: Final = """
    const [place, text] = arguments;
    const found = [...document.querySelectorAll(`${place} button`)];
    return found.find((button) => button.textContent === text);
"""


class Players:
    """Players in an event loop of their own, for the browser's driver blocks this one."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="players")
        self._thread.start()
        self._clients: list[GatewayClient] = []

    def run(self, awaitable: Awaitable[T]) -> T:
        async def await_it() -> T:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(await_it(), self._loop).result(TIMEOUT)

    def join(self, name: str) -> GatewayClient:
        async def start() -> GatewayClient:
            client = connect(self._url, Guest(name))
            await client.start()
            return client

        client = self.run(start())
        self._clients.append(client)
        return client

    def messages(self, client: GatewayClient) -> list[Message]:
        """Return a list that gets what the player is sent."""
        found: list[Message] = []

        async def listen() -> None:
            client.on("message", found.append)

        self.run(listen())
        return found

    def close(self) -> None:
        async def end() -> None:
            await asyncio.gather(*(client.close() for client in self._clients))

        self.run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class AdminPage(Page):
    """The page at `/admin/`."""

    def log_in(self, url: str, key: str) -> None:
        self.open(f"{url}admin/")
        assert self.driver.current_url == f"{url}admin/login"
        self.find("key").send_keys(key)
        self.find("submit").click()
        self.wait("figures", self.is_live)

    def is_live(self) -> bool:
        return bool(self.script("return document.body.dataset.live === 'yes'"))

    def count(self, selector: str) -> int:
        found: int = self.script("return document.querySelectorAll(arguments[0]).length", selector)
        return found

    def attribute(self, selector: str, name: str) -> str:
        text = "return document.querySelector(arguments[0])?.getAttribute(arguments[1]) ?? ''"
        value: str = self.script(text, selector, name)
        return value

    def press(self, place: str, text: str) -> None:
        """Press a button as soon as it is there and can be pressed."""

        def button() -> Any:
            found = self.script(_BUTTON, place, text)
            return found if found is not None and found.is_enabled() else None

        self.wait(f"the button {text}", button).click()

    def told(self, text: str) -> None:
        """Wait until the page tells this of what was done."""
        self.wait(text, lambda: text in self.text("told"))


@pytest.fixture
def key(tmp_path: Path) -> str:
    """The key of an operator, in a file of its own."""
    command = ("api-keys", "add", "--config", "keys.yaml", "operator", "admin")
    (tmp_path / "keys.yaml").write_text(f"api: {{keys_file: {tmp_path}/api-keys}}\n")
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


@pytest.fixture
def gateway(start_gateway: StartGateway, tmp_path: Path, key: str) -> GatewayProcess:
    return start_gateway(api={"keys_file": str(tmp_path / "api-keys")}, log={"format": "json"})


@pytest.fixture
def page(browser: Browser, gateway: GatewayProcess, key: str) -> AdminPage:
    page = AdminPage(browser, browser.new_window())
    page.log_in(gateway.url, key)
    return page


@pytest.fixture
def players(gateway: GatewayProcess) -> Iterator[Players]:
    players = Players(gateway.url)
    yield players
    players.close()


def test_the_operator_sees_a_player_kicks_them_and_bans_them(
    page: AdminPage, players: Players, gateway: GatewayProcess, screenshots: Path
) -> None:
    page.wait("the empty list", lambda: "Nobody is here" in page.text("player-list"))
    page.wait("a first sample", lambda: page.count(_LINE.format("connections")))
    drawn = page.attribute(_LINE.format("connections"), "d")
    ada = players.join("Ada")
    true_id = ada.true_id
    row = _ROW.format(true_id)
    page.wait("the player", lambda: page.count(row) == 1)
    page.wait("the tile", lambda: page.text("tile-players") == "1")
    # The chart moves, and says so to who cannot see it.
    label = "Connections: Connections 1, at most 1; Players 1, at most 1"
    page.wait("the chart", lambda: page.attribute("[data-chart] .chart", "aria-label") == label)
    assert page.attribute(_LINE.format("connections"), "d") != drawn

    page.driver.find_element(By.CSS_SELECTOR, row).click()
    page.wait("the player", lambda: page.count("#player .facts") == 1)
    assert true_id in page.text("player")
    page.screenshot(screenshots / "admin-player.png")
    page.press("#player", "Kick")
    page.press("#dialog", "Kick")
    page.told("Ada is kicked: 1 connection closed.")

    # The client was told to stay away; here it asks to come in again, and is let in.
    page.press("#player", "Ban")
    page.find("ban-reason").send_keys("cheating")
    page.press("#dialog", "Ban")
    page.told("Ada is banned.")
    page.wait("the ban", lambda: page.count("#banned") == 1)
    assert "cheating" in page.text("banned")
    page.press("#player", "Lift ban")
    page.press("#dialog", "Lift ban")
    page.told("Ada may play again.")
    page.wait("no ban", lambda: page.count("#banned") == 0)
    for action in ("login", "kick", "ban", "unban"):
        (line,) = [line for line in gateway.log.splitlines() if f'"action": "{action}"' in line]
        assert '"api_key": "operator"' in line
        assert action == "login" or f'"true_id": "{true_id}"' in line


def test_a_banned_player_is_told_why(page: AdminPage, players: Players) -> None:
    ada = players.join("Ada")
    page.find("search-id").send_keys(ada.true_id)
    page.press("#search", "Show")
    page.press("#player", "Ban")
    page.find("ban-reason").send_keys("cheating")
    page.press("#dialog", "Ban")
    page.told("Ada is banned.")
    with pytest.raises(ConnectRefused, match="cheating"):
        players.run(asyncio.wait_for(ada.wait_closed(), TIMEOUT))


def test_an_announcement_arrives_after_it_was_confirmed(page: AdminPage, players: Players) -> None:
    heard = [players.messages(players.join(name)) for name in ("Ada", "Bob")]
    page.find("announce-text").send_keys("Down for maintenance at noon")
    page.press("#announce", "Send…")
    page.wait("the question", lambda: "Send this message?" in page.text("dialog"))
    page.press("#dialog", "Cancel")
    assert heard == [[], []]
    page.press("#announce", "Send…")
    page.press("#dialog", "Send")
    page.told("Sent to 2 players: delivered, 2 connections.")
    page.wait("the messages", lambda: all(heard))
    for (message,) in heard:
        assert (message.type, message.data) == ("announcement", "Down for maintenance at noon")


def test_a_wrong_key_is_told_and_the_log_out_ends_the_session(
    browser: Browser, gateway: GatewayProcess, key: str
) -> None:
    page = AdminPage(browser, browser.new_window())
    page.open(f"{gateway.url}admin/")
    page.find("key").send_keys("gk_wrong")
    page.find("submit").click()
    page.wait("the refusal", lambda: "not a key" in page.text("reason"))
    page.find("key").clear()
    page.log_in(gateway.url, key)
    assert page.script("return document.cookie") == ""
    page.find("logout").click()
    page.wait("the log-in", lambda: page.driver.current_url.endswith("/admin/login"))
    page.open(f"{gateway.url}admin/")
    assert page.driver.current_url.endswith("/admin/login")


def test_everything_can_be_told_by_a_screen_reader(page: AdminPage, players: Players) -> None:
    ada = players.join("Ada")
    page.wait("the player", lambda: page.count(_ROW.format(ada.true_id)) == 1)
    tree: dict[str, Any] = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})
    named = {"button", "textbox", "searchbox", "radio", "checkbox", "heading", "region", "table"}
    nodes = [node for node in tree["nodes"] if not node["ignored"]]
    for node in nodes:
        if node["role"]["value"] in named:
            assert node["name"]["value"], node
    roles = [node["role"]["value"] for node in nodes]
    assert roles.count("main") == roles.count("banner") == 1
    # Keys move along a chart, which tells the value there.
    page.wait("a sample", lambda: page.count(_LINE.format("connections")))
    page.script("document.querySelector('.chart').focus()")
    page.driver.switch_to.active_element.send_keys("\ue012")  # arrow left
    page.wait("the time", lambda: " at " in page.attribute(".chart", "aria-label"))


@pytest.mark.parametrize("size", _SIZES)
def test_the_page_fits(page: AdminPage, players: Players, screenshots: Path, size: str) -> None:
    width, height = _SIZES[size]
    page.resize(width, height, mobile=size == "phone")
    ada = players.join("Ada with a name that is rather long")
    players.run(ada.join("a-room-with-a-name-that-cannot-be-broken-" * 3))
    page.wait("the player", lambda: page.count(_ROW.format(ada.true_id)) == 1)
    page.wait("the room", lambda: page.count("#rooms tbody tr") == 1)
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.cdp("Emulation.setEmulatedMedia", features=features)
        assert page.overflow() <= 0
        page.script("scrollTo(0, 0)")
        page.screenshot(screenshots / f"admin-{size}-{scheme}.png")
    page.driver.find_element(By.CSS_SELECTOR, _ROW.format(ada.true_id)).click()
    page.wait("the player", lambda: page.count("#player .facts") == 1)
    assert page.overflow() <= 0
