"""Firefox over Marionette, which reaches the browser itself and not only its pages."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Final

from tests.e2e.browsers.interface import (
    Browser,
    DiscardableTab,
    PageGone,
    Tab,
    as_script,
    value_of,
    wait_until,
)
from tests.e2e.browsers.marionette import Marionette, MarionetteError
from tests.e2e.browsers.programs import Program

_PREFERENCES: Final = """
user_pref("marionette.port", 0);
user_pref("app.normandy.enabled", false);
user_pref("app.update.auto", false);
user_pref("browser.region.network.url", "");
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("extensions.systemAddon.update.enabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("services.settings.server", "data:,");
user_pref("toolkit.telemetry.server", "data:,");
"""
_COMMAND: Final = (
    "firefox-esr",
    "--headless",
    "--no-remote",
    "--marionette",
    "-remote-allow-system-access",
)


class FirefoxTab(DiscardableTab):
    """A tab of Firefox: one of Marionette's windows."""

    def __init__(self, browser: Firefox, handle: str) -> None:
        self._browser = browser
        self._handle = handle
        self._place = -1

    def _send(self, command: str, **parameters: object) -> Any:
        self._browser.marionette.send("WebDriver:SwitchToWindow", handle=self._handle, focus=False)
        return self._browser.marionette.send(command, **parameters)

    def _chrome(self, script: str) -> Any:
        """Run a script in the browser, with this tab as `gBrowser.selectedTab`."""
        self._browser.marionette.send("WebDriver:SwitchToWindow", handle=self._handle, focus=True)
        return self._browser.chrome(script)

    def open(self, url: str) -> None:
        self._send("WebDriver:Navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        script = as_script(expression)
        try:
            answer = self._send(
                "WebDriver:ExecuteAsyncScript", script=script, args=[], sandbox=None
            )
        except MarionetteError as error:
            raise PageGone(f"{error} in {expression}") from None
        return value_of(answer, expression)

    def reload(self) -> None:
        self._send("WebDriver:Refresh")

    def _step(self, delta: int) -> None:
        self._send("WebDriver:Back" if delta < 0 else "WebDriver:Forward")

    def _processes(self) -> list[int]:
        script = "return gBrowser.selectedBrowser.browsingContext.currentWindowGlobal.osPid"
        return [self._chrome(script)]

    def set_offline(self, offline: bool) -> None:
        self._browser.chrome(f"Services.io.offline = {str(offline).lower()}")

    def hide(self) -> None:
        self._chrome("gBrowser.selectedTab = gBrowser.tabs[0]")
        self.wait("to be hidden", "document.hidden")

    def show(self) -> None:
        self._browser.marionette.send("WebDriver:SwitchToWindow", handle=self._handle, focus=True)
        self.wait("to be visible", "!document.hidden")

    def discard(self) -> None:
        self._place = self._chrome("return [...gBrowser.tabs].indexOf(gBrowser.selectedTab)")
        # The player has switched to another tab.
        self._browser.chrome("gBrowser.selectedTab = gBrowser.tabs[0]")
        script = f"""
            const tab = gBrowser.tabs[{self._place}];
            await gBrowser.prepareDiscardBrowser(tab);
            return gBrowser.discardBrowser(tab) && tab.hasAttribute("pending");
        """
        wait_until("the discard", lambda: self._browser.chrome(script))

    def revive(self) -> None:
        self._browser.chrome(f"gBrowser.selectedTab = gBrowser.tabs[{self._place}]")
        self.wait("the page", "location.href !== 'about:blank'")
        self._wait_loaded()

    def duplicate(self) -> Tab:
        before = self._browser.handles()
        self._chrome("gBrowser.duplicateTab(gBrowser.selectedTab, true)")

        def look() -> set[str]:
            return self._browser.handles() - before

        (handle,) = wait_until("the copy", look)
        copy = self._browser.adopt(FirefoxTab(self._browser, handle))
        copy.wait("the copy's page", "location.href !== 'about:blank'")
        return copy

    def screenshot(self, file: Path) -> None:
        picture = self._send("WebDriver:TakeScreenshot", full=False)
        file.write_bytes(base64.b64decode(picture))

    def close(self) -> None:
        self._send("WebDriver:CloseWindow")


class Firefox(Browser):
    """Headless Firefox."""

    name = "firefox"
    keeps_pages = False

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        profile = directory / "profile"
        profile.mkdir()
        (profile / "user.js").write_text(_PREFERENCES)
        command = [*_COMMAND, "--profile", str(profile), "about:blank"]
        self._program = Program(command, self.log, {"HOME": str(directory)})
        try:
            (port,) = self._program.wait_for_text(profile / "MarionetteActivePort", lines=1)
            self.marionette = Marionette(int(port))
            self._keeper = self.marionette.send("WebDriver:GetWindowHandle")
        except BaseException:
            self._program.end()
            raise

    def chrome(self, script: str) -> Any:
        """Run a script, which may await, in the browser itself."""
        body = f"return (async () => {{ {script} }})()"
        with self.marionette.in_browser():
            return self.marionette.send("WebDriver:ExecuteScript", script=body, args=[])

    def handles(self) -> set[str]:
        """Return the handles of all tabs."""
        return set(self.marionette.send("WebDriver:GetWindowHandles"))

    def _new_tab(self) -> Tab:
        # Marionette knows no way from a tab that is closed.
        self.marionette.send("WebDriver:SwitchToWindow", handle=self._keeper, focus=True)
        return FirefoxTab(
            self, self.marionette.send("WebDriver:NewWindow", type="tab", focus=True)["handle"]
        )

    def close(self) -> None:
        # No farewell: it would ask its pages, and one of them may hang.
        try:
            self.marionette.close()
        finally:
            self._program.end()
