"""Headless Chromium by Selenium, and its pages."""

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

_WAIT_SECONDS: Final = 60.0
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
