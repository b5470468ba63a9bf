"""WebKitGTK, Safari's engine, in its own small browser."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Final

from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Remote, WebKitGTKOptions
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.client_config import ClientConfig
from selenium.webdriver.remote.remote_connection import RemoteConnection

from tests.e2e.browsers.interface import (
    WAIT_SECONDS,
    Browser,
    PageGone,
    Tab,
    as_script,
    value_of,
    wait_until,
)
from tests.e2e.browsers.programs import Display, Program, command_of, descendants

#: It comes with the library, so it is on nobody's PATH.
_MINI_BROWSER: Final = "webkit2gtk-4.1/MiniBrowser"
_FOLDERS: Final = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
#: A window opens only for somebody who has pressed something.
_BUTTON: Final = """
    const button = document.createElement("button");
    button.id = "duplicate";
    button.onclick = () => { open(location.href); };
    document.body.prepend(button);
"""


class WebKitTab(Tab):
    """A tab of the browser."""

    def __init__(self, browser: WebKit, handle: str) -> None:
        self._browser = browser
        self._handle = handle

    @property
    def _driver(self) -> Remote:
        self._browser.driver.switch_to.window(self._handle)
        return self._browser.driver

    def open(self, url: str) -> None:
        self._driver.get(url)

    def evaluate(self, expression: str) -> Any:
        try:
            answer = self._driver.execute_async_script(as_script(expression))
        except WebDriverException as error:
            raise PageGone(f"{error.msg} in {expression}") from None
        return value_of(answer, expression)

    def reload(self) -> None:
        self._driver.refresh()

    def _step(self, delta: int) -> None:
        driver = self._driver
        if delta < 0:
            driver.back()
        else:
            driver.forward()

    def _processes(self) -> list[int]:
        # Of all pages: nothing tells which is whose.
        return self._browser.web_processes()

    def set_offline(self, offline: bool) -> None:
        # It cannot be told: it notices.
        pass

    def duplicate(self) -> Tab:
        driver = self._driver
        before = set(driver.window_handles)
        driver.execute_script(_BUTTON)
        driver.find_element(By.ID, "duplicate").click()
        (handle,) = wait_until("the copy", lambda: set(driver.window_handles) - before)
        copy = self._browser.adopt(WebKitTab(self._browser, handle))
        copy.wait("the copy's page", "location.href !== 'about:blank'")
        return copy

    def screenshot(self, file: Path) -> None:
        file.write_bytes(self._driver.get_screenshot_as_png())

    def close(self) -> None:
        self._driver.close()


class WebKit(Browser):
    """WebKitGTK's MiniBrowser on a virtual screen."""

    name = "webkit"
    keeps_pages = True

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        binaries = [*Path("/usr/lib").glob(f"*/{_MINI_BROWSER}")]
        assert binaries, f"{_MINI_BROWSER} is not installed: `make test` installs it"
        options = WebKitGTKOptions()
        options.binary_location = str(binaries[0])
        options.add_argument("--automation")
        self._display = Display(directory / "display.log")
        self._program: Program | None = None
        try:
            port = _free_port()
            command = ["WebKitWebDriver", "--host=127.0.0.1", f"--port={port}"]
            variables = {"DISPLAY": self._display.name, **dict.fromkeys(_FOLDERS, str(directory))}
            self._program = Program(command, self.log, variables)
            wait_until("the driver", lambda: _listens(port))
            client = ClientConfig(f"http://127.0.0.1:{port}", timeout=2 * int(WAIT_SECONDS))
            self.driver = Remote(RemoteConnection(client_config=client), options=options)
            self.driver.set_script_timeout(WAIT_SECONDS)
            self.driver.set_page_load_timeout(WAIT_SECONDS)
            self._keeper = self.driver.current_window_handle
        except BaseException:
            self.close()
            raise

    def web_processes(self) -> list[int]:
        """Return the processes that run pages."""
        assert self._program is not None
        return [
            pid for pid in descendants(self._program.pid) if command_of(pid) == "WebKitWebProcess"
        ]

    def _new_tab(self) -> Tab:
        self.driver.switch_to.window(self._keeper)
        self.driver.switch_to.new_window("window")
        return WebKitTab(self, self.driver.current_window_handle)

    def close(self) -> None:
        # No farewell: it would ask its pages, and one of them may hang.
        if self._program is not None:
            self._program.end()
        self._display.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
