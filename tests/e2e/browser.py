"""Headless Chromium by Selenium, and the built-in page as a player sees it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.gateway_process import own_environment, program

_WAIT_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.05
_SWITCHES: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-dev-shm-usage",
)
#: Counts freezes from inside, so that a test knows that the page really was frozen.
_COUNT_FREEZES: Final = """
    window.freezes = 0;
    document.addEventListener("freeze", () => { window.freezes += 1; });
"""
_INCOMING: Final = """
    return Array.from(document.querySelectorAll("#messages li[data-direction=in]"), (row) =>
        [row.dataset.id, row.dataset.from, row.querySelector(".text").textContent]);
"""


@dataclass(frozen=True, slots=True)
class Sent:
    """Something a page sent: a websocket frame or an HTTP request with its body."""

    url: str
    body: str


class Browser:
    """A Chromium of its own profile, for one test after another: each gets new windows."""

    def __init__(self, profile: Path) -> None:
        options = ChromeOptions()
        options.binary_location = program("chromium")
        for switch in (*_SWITCHES, f"--user-data-dir={profile}"):
            options.add_argument(switch)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        service = Service(executable_path=program("chromedriver"), env=own_environment())
        self.driver = Chrome(options=options, service=service)
        self._profile = profile
        self._pid: int = self.driver.capabilities["goog:processID"]
        self._keeper = self.driver.current_window_handle
        self._traffic: list[tuple[str, dict[str, Any]]] = []
        self._console: list[str] = []

    def new_window(self) -> str:
        """Return the handle of an empty window."""
        self.driver.switch_to.new_window("window")
        return self.driver.current_window_handle

    def traffic(self, handle: str) -> list[dict[str, Any]]:
        """Return the protocol events of a window, oldest first."""
        for entry in self.driver.get_log("performance"):
            event = json.loads(entry["message"])
            self._traffic.append((event["webview"], event["message"]))
        return [message for view, message in self._traffic if view == handle]

    def sent(self, handle: str) -> list[Sent]:
        """Return what a window sent, oldest first."""
        found = []
        urls: dict[str, str] = {}
        for message in self.traffic(handle):
            params = message["params"]
            if message["method"] == "Network.webSocketCreated":
                urls[params["requestId"]] = params["url"]
            elif message["method"] == "Network.requestWillBeSent":
                request = params["request"]
                found.append(Sent(request["url"], request.get("postData", "")))
                assert not request.get("hasPostData") or "postData" in request
            elif message["method"] == "Network.webSocketFrameSent":
                url = urls.get(params["requestId"], "")
                found.append(Sent(url, params["response"]["payloadData"]))
        return found

    def complaints(self) -> list[str]:
        """Return console lines about blocked content or errors that nobody caught."""
        self._console += [entry["message"] for entry in self.driver.get_log("browser")]
        words = ("Content Security Policy", "Refused to", "Uncaught", "violat")
        return [line for line in self._console if any(word in line for word in words)]

    def forget_complaints(self) -> None:
        """What a test has provoked by intent is no complaint."""
        self._console.clear()

    def close_windows(self) -> None:
        """Close what a test has opened, and forget what was seen there."""
        for handle in set(self.driver.window_handles) - {self._keeper}:
            self.driver.switch_to.window(handle)
            self.driver.close()
        self.driver.switch_to.window(self._keeper)
        self.driver.get_log("performance")
        self.driver.get_log("browser")
        self._traffic.clear()
        self._console.clear()

    def close(self) -> None:
        """End it, and its processes by their pids if they would not go."""
        try:
            self.driver.quit()
        finally:
            deadline = time.monotonic() + 5.0
            while self._alive() and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
            if self._alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGKILL)

    def _alive(self) -> bool:
        try:
            command = Path(f"/proc/{self._pid}/cmdline").read_bytes()
        except OSError:
            return False
        return str(self._profile).encode() in command


class Page:
    """A window of the browser; every method addresses this window first."""

    def __init__(self, browser: Browser, handle: str) -> None:
        self.browser = browser
        self.handle = handle

    @property
    def driver(self) -> Chrome:
        """The driver, switched to this window."""
        driver = self.browser.driver
        driver.switch_to.window(self.handle)
        return driver

    def open(self, url: str) -> None:
        """Load a page."""
        self.driver.get(url)
        self.script(_COUNT_FREEZES)

    def reload(self) -> None:
        """Load the page again, as F5 does."""
        self.driver.refresh()
        self.script(_COUNT_FREEZES)

    def close(self) -> None:
        """Close the window."""
        self.driver.close()

    def script(self, text: str, *arguments: object) -> Any:
        """Run JavaScript in the page."""
        return self.driver.execute_script(text, *arguments)

    def find(self, id_: str) -> WebElement:
        """Return the element with this id."""
        return self.driver.find_element(By.ID, id_)

    def text(self, id_: str) -> str:
        """Return the text of the element with this id, shown or not."""
        text: str = self.script("return document.getElementById(arguments[0]).textContent", id_)
        return text

    def data(self, id_: str, name: str) -> str | None:
        """Return a data attribute of the element with this id."""
        value: str | None = self.script(
            "return document.getElementById(arguments[0]).dataset[arguments[1]] ?? null", id_, name
        )
        return value

    def wait(self, what: str, condition: Callable[[], Any]) -> Any:
        """Wait until the condition holds and return its value."""
        driver = self.driver

        def look(_: object) -> Any:
            return condition()

        return WebDriverWait(driver, _WAIT_SECONDS, _POLL_SECONDS).until(look, what)

    def cdp(self, method: str, **parameters: object) -> None:
        """Send a command of the DevTools protocol."""
        self.driver.execute_cdp_cmd(method, parameters)

    def freeze(self) -> None:
        """Freeze the page, as the browser does with tabs in the background."""
        self.cdp("Page.setWebLifecycleState", state="frozen")

    def thaw(self) -> None:
        """Let the page run again."""
        self.cdp("Page.setWebLifecycleState", state="active")

    @property
    def freezes(self) -> int:
        """How often the page was frozen since it was loaded."""
        count: int = self.script("return window.freezes")
        return count

    def stored(self) -> dict[str, str]:
        """Return the tab's sessionStorage."""
        stored: dict[str, str] = self.script("return {...sessionStorage}")
        return stored

    def resize(self, width: int, height: int, *, mobile: bool) -> None:
        """Give the page a viewport of this size."""
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        pixels: int = self.script(
            "const {scrollWidth, clientWidth} = document.documentElement;"
            "return scrollWidth - clientWidth"
        )
        return pixels

    def screenshot(self, file: Path) -> None:
        """Write a picture of the page."""
        assert self.driver.save_screenshot(str(file))


class GamePage(Page):
    """The page that the gateway serves at `/`."""

    def join(self, name: str) -> None:
        """Join as a guest."""
        self.wait("the login form", lambda: self.find("login-form").is_displayed())
        field = self.find("name")
        field.clear()
        field.send_keys(name)
        self.find("login-submit").click()
        self.wait_live()

    def choose(self, mode: str) -> None:
        """Choose how to join: guest or password."""
        self.wait("the login form", lambda: self.find("login-form").is_displayed())
        self.driver.find_element(By.CSS_SELECTOR, f"label:has(#mode-{mode})").click()

    def log_in(self, username: str, password: str) -> None:
        """Join with a password."""
        self.choose("password")
        self.find("username").send_keys(username)
        self.find("password").send_keys(password)
        self.find("login-submit").click()

    @property
    def state(self) -> str | None:
        """The connection's state as shown."""
        return self.data("state", "state")

    @property
    def true_id(self) -> str:
        """The player's id."""
        return self.text("true-id")

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self.text("session-id")

    @property
    def socket_id(self) -> str:
        """The connection's id."""
        return self.text("socket-id")

    def wait_live(self, other_than: str = "none") -> str:
        """Wait for a connection with a socket id other than this one; return its id."""

        def look() -> str | None:
            socket_id = self.socket_id
            live = self.state == "live" and socket_id not in {"none", other_than}
            return socket_id if live else None

        new: str = self.wait("a live connection", look)
        return new

    def wait_connections(self, count: int) -> None:
        """Wait until the page shows so many connections of its player."""
        self.wait(f"{count} connections", lambda: self.text("connections") == str(count))

    def send(self, true_id: str, text: str) -> str:
        """Send a message and return the receipt's code."""
        target = self.find("target")
        if target.get_attribute("value") != true_id:
            target.clear()
            target.send_keys(true_id)
        self.script("delete document.getElementById('receipt').dataset.code")
        self.find("text").send_keys(text)
        self.find("send").click()
        settled = {"delivered", "queued"}
        code: str = self.wait(
            "a receipt", lambda: (code := self.data("receipt", "code")) in settled and code
        )
        return code

    def incoming(self) -> list[tuple[str, str, str]]:
        """Return id, sender and text of the messages that came in."""
        return [tuple(row) for row in self.script(_INCOMING)]

    def texts(self) -> list[str]:
        """Return the texts of the messages that came in."""
        return [text for _, _, text in self.incoming()]

    def wait_texts(self, *texts: str) -> None:
        """Wait for exactly these messages, each once, in this order."""
        wanted = list(texts)
        self.wait(f"the messages {wanted}", lambda: len(self.texts()) >= len(wanted))
        assert self.texts() == wanted
        ids = [id_ for id_, _, _ in self.incoming()]
        assert len(set(ids)) == len(ids)
