"""Chromium over its DevTools protocol.

Not over chromedriver, which attaches itself to every tab: Chromium does not discard a tab that
is being looked into.
"""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path
from typing import Any, Final

import websocket

from tests.e2e.browsers.interface import (
    WAIT_SECONDS,
    Browser,
    DiscardableTab,
    PageGone,
    Tab,
    wait_until,
)
from tests.e2e.browsers.programs import Program

_SWITCHES: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--enable-logging=stderr",
    "--remote-debugging-port=0",
)
#: Opens pages such as chrome://discards, which are closed by default.
_LOCAL_STATE: Final = {"internal_only_uis_enabled": True}
#: Presses a button in the row of chrome://discards whose tab has this title; returns the row.
_DISCARDS: Final = """
    (({title, button}) => {
        const table = document.querySelector("discards-main")?.shadowRoot
            .querySelector("discards-tab")?.shadowRoot;
        const row = Array.from(table?.querySelectorAll("tbody tr") ?? [])
            .find((row) => row.querySelector(".title-cell")?.textContent.trim() === title);
        const all = Array.from(row?.querySelectorAll("[is=action-link]") ?? []);
        all.find((link) => link.textContent.trim() === `[${button}]`)?.click();
        return row?.textContent ?? "";
    })
"""


class DevToolsError(PageGone):
    """The browser refused a command."""


class DevTools:
    """A connection to the browser. Commands go to the browser, or to the page of a session."""

    def __init__(self, url: str) -> None:
        self._socket = websocket.create_connection(url, WAIT_SECONDS, suppress_origin=True)
        self._numbers = itertools.count(1)

    def send(self, method: str, session: str | None = None, **parameters: object) -> Any:
        """Return the answer to a command. Raises DevToolsError."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        self._socket.send(json.dumps(message))
        while (answer := json.loads(self._socket.recv())).get("id") != number:
            pass  # an event
        if "error" in answer:
            raise DevToolsError(f"{method}: {answer['error']}")
        return answer["result"]

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class ChromiumTab(DiscardableTab):
    """A tab of Chromium: a target, and our session with it."""

    def __init__(self, browser: Chromium, target: str) -> None:
        self._browser = browser
        self._target = target
        self._session = ""
        #: The tab that is looked at instead.
        self._cover: ChromiumTab | None = None
        self._attach()

    def _attach(self) -> None:
        answer = self._browser.tools.send(
            "Target.attachToTarget", targetId=self._target, flatten=True
        )
        self._session = answer["sessionId"]
        # Offline is said to a page only while its network is watched.
        self._send("Network.enable")

    def _send(self, method: str, **parameters: object) -> Any:
        return self._browser.tools.send(method, self._session, **parameters)

    def open(self, url: str) -> None:
        answer = self._send("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        self._wait_loaded()

    def evaluate(self, expression: str) -> Any:
        return self._evaluate(expression)

    def _evaluate(self, expression: str, **parameters: object) -> Any:
        answer = self._send(
            "Runtime.evaluate",
            expression=f"({expression})",
            returnByValue=True,
            awaitPromise=True,
            **parameters,
        )
        failure = answer.get("exceptionDetails")
        if failure is not None:
            text = failure.get("exception", {}).get("description") or failure["text"]
            raise PageGone(f"{text} in {expression}")
        return answer["result"].get("value")

    def reload(self) -> None:
        before = self.evaluate("performance.timeOrigin")
        self._send("Page.reload")
        self.wait("the reload", f"performance.timeOrigin !== {before}")
        self._wait_loaded()

    def _step(self, delta: int) -> None:
        history = self._send("Page.getNavigationHistory")
        entry = history["entries"][history["currentIndex"] + delta]
        self._send("Page.navigateToHistoryEntry", entryId=entry["id"])

    def _processes(self) -> list[int]:
        # Of all pages: the protocol does not tell which is whose.
        processes = self._browser.tools.send("SystemInfo.getProcessInfo")["processInfo"]
        return [process["id"] for process in processes if process["type"] == "renderer"]

    def freeze(self) -> None:
        """Freeze the page, as the browser does with tabs in the background."""
        self._send("Page.setWebLifecycleState", state="frozen")

    def thaw(self) -> None:
        """Let the page run again."""
        self._send("Page.setWebLifecycleState", state="active")

    def set_offline(self, offline: bool) -> None:
        if self._session:
            self._send(
                "Network.emulateNetworkConditions",
                offline=offline,
                latency=0,
                downloadThroughput=-1,
                uploadThroughput=-1,
            )

    def hide(self) -> None:
        self._cover = ChromiumTab(self._browser, self._browser.new_page("about:blank"))
        self.wait("to be hidden", "document.hidden")

    def show(self) -> None:
        self._browser.tools.send("Target.activateTarget", targetId=self._target)
        if self._cover is not None:
            self._cover.close()
            self._cover = None
        self.wait("to be visible", "!document.hidden")

    def discard(self) -> None:
        title = f"to discard {self._target}"
        self.evaluate(f"document.title = {json.dumps(title)}")
        before = self._browser.pages()
        self._browser.tools.send("Target.detachFromTarget", sessionId=self._session)
        self._session = ""
        # In front of the tab, as the one that a player has switched to.
        with_buttons = ChromiumTab(self._browser, self._browser.new_page("chrome://discards/"))
        order = json.dumps({"title": title, "button": "Urgent Discard"})
        with_buttons.wait("the tab's row", f"{_DISCARDS}({order})")
        look = json.dumps({"title": title, "button": ""})
        with_buttons.wait("the discard", f"{_DISCARDS}({look}).includes('discarded (urgent)')")
        (self._target,) = self._browser.pages().keys() - before.keys() - {with_buttons._target}
        with_buttons.close()

    def revive(self) -> None:
        self._browser.tools.send("Target.activateTarget", targetId=self._target)
        self._attach()
        self._wait_loaded()
        assert self.evaluate("document.wasDiscarded")

    def duplicate(self) -> Tab:
        before = self._browser.pages()
        # What the menu's "Duplicate" does cannot be reached; this copies sessionStorage, too.
        self._evaluate("void open(location.href)", userGesture=True)

        def look() -> set[str]:
            return self._browser.pages().keys() - before.keys()

        (target,) = wait_until("the copy", look)
        copy = self._browser.adopt(ChromiumTab(self._browser, target))
        copy.wait("the copy's page", "location.href !== 'about:blank'")
        return copy

    def screenshot(self, file: Path) -> None:
        picture = self._send("Page.captureScreenshot", format="png")["data"]
        file.write_bytes(base64.b64decode(picture))

    def close(self) -> None:
        if self._cover is not None:
            self._cover.close()
        self._browser.tools.send("Target.closeTarget", targetId=self._target)


class Chromium(Browser):
    """Headless Chromium."""

    name = "chromium"
    keeps_pages = True

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        profile = directory / "profile"
        profile.mkdir()
        (profile / "Local State").write_text(json.dumps(_LOCAL_STATE))
        command = ["chromium", *_SWITCHES, f"--user-data-dir={profile}", "about:blank"]
        self._program = Program(command, self.log, {"HOME": str(directory)})
        try:
            port, path = self._program.wait_for_text(profile / "DevToolsActivePort", lines=2)
            self.tools = DevTools(f"ws://127.0.0.1:{port}{path}")
        except BaseException:
            self._program.end()
            raise

    def new_page(self, url: str, *, window: bool = False) -> str:
        """Open a page, in a window of its own or in the one in front; return its target's id."""
        answer = self.tools.send("Target.createTarget", url=url, newWindow=window)
        target: str = answer["targetId"]
        return target

    def pages(self) -> dict[str, str]:
        """Return the address of each page by its target's id."""
        targets = self.tools.send("Target.getTargets")["targetInfos"]
        return {item["targetId"]: item["url"] for item in targets if item["type"] == "page"}

    def _new_tab(self) -> Tab:
        return ChromiumTab(self, self.new_page("about:blank", window=True))

    def close(self) -> None:
        try:
            self.tools.close()
        finally:
            self._program.end()
