"""The game at `/` as a player sees it; what its page tells tests is listed in static/app.js."""

from __future__ import annotations

import json
import time
from typing import Final

from selenium.webdriver.common.by import By

from tests.e2e.browser import Page, Sent
from tests.e2e.collecting import COLLECT
from tests.e2e.places import Places

#: Rounds so long that none ends while a test looks at scores.
_LENGTHS: Final = range(3600, 1800, -60)
_LEFT: Final = 600
_LINES: Final = """
    return Array.from(document.querySelectorAll("#messages li"), (row) => ({
        ...row.dataset,
        name: row.querySelector(".peer").textContent,
        text: row.querySelector(".text").textContent,
    }));
"""
_BOARD: Final = """
    return Object.fromEntries(Array.from(document.querySelectorAll("#players li"), (row) =>
        [row.dataset.trueId, {...row.dataset, name: row.querySelector(".name").textContent}]));
"""
_KEYS: Final = {
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    "Space": 32,
    "Enter": 13,
    "Escape": 27,
}
#: Seconds.
_COLLECT_SECONDS: Final = 60
#: Units: nearer than that it is not steered in this direction.
_NEAR: Final = 14
#: Units and seconds: who comes no further than that goes around the stone in the way, for a while.
_STEP: Final = 24
_STUCK: Final = 0.7
_DETOUR: Final = 0.6


def long_round() -> int:
    """Return a length of rounds, in seconds, of which the present one has enough left."""
    now = time.time()
    return next(length for length in _LENGTHS if 60 < now % length < length - _LEFT)


class GamePage(Places, Page):
    """The page that the gateway serves at `/`."""

    _held: frozenset[str] = frozenset()
    _last_step: tuple[tuple[int, int], float] = ((0, 0), 0.0)
    _detour_until = 0.0

    def join(self, name: str) -> None:
        """Join as a guest."""
        self.wait_door()
        field = self.find("name")
        field.clear()
        field.send_keys(name)
        self.find("login-submit").click()
        self.wait_live()
        self.wait_synced()

    def wait_door(self) -> None:
        """Wait for the form that asks who is there."""
        self.wait("the login form", lambda: self.find("login-form").is_displayed())

    def choose(self, mode: str) -> None:
        """Choose how to join: guest or password."""
        self.wait_door()
        self.driver.find_element(By.CSS_SELECTOR, f"label:has(#mode-{mode})").click()

    def log_in(self, username: str, password: str) -> None:
        """Join with a password."""
        self.choose("password")
        self.find("username").send_keys(username)
        self.find("password").send_keys(password)
        self.find("login-submit").click()

    # How things stand

    def hook(self, name: str) -> str:
        """Return what the page says of itself; empty: nothing yet."""
        value: str = self.script(
            "return document.documentElement.dataset[arguments[0]] ?? ''", name
        )
        return value

    @property
    def state(self) -> str:
        """The connection's state."""
        return self.hook("connection")

    @property
    def true_id(self) -> str:
        """The player's id."""
        return self.hook("trueId")

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self.hook("sessionId")

    @property
    def socket_id(self) -> str:
        """The connection's id, empty without one."""
        return self.hook("socketId")

    @property
    def score(self) -> int:
        """The player's points."""
        return int(self.hook("score") or 0)

    def board(self) -> dict[str, dict[str, str]]:
        """Return the score board: name, score and state by true_id."""
        board: dict[str, dict[str, str]] = self.script(_BOARD)
        return board

    def scores(self) -> dict[str, int]:
        """Return the score board's points by true_id."""
        return {true_id: int(row["score"]) for true_id, row in self.board().items()}

    def token(self) -> str:
        """Return the resume token that the tab keeps."""
        (record,) = [value for key, value in self.stored().items() if '"token"' in value]
        token: str = json.loads(record)["token"]
        return token

    def wait_live(self, other_than: str = "") -> str:
        """Wait for a connection with a socket id other than this one; return its id."""

        def look() -> str | None:
            socket_id = self.socket_id
            live = self.state == "live" and socket_id not in {"", other_than}
            return socket_id if live else None

        new: str = self.wait("a live connection", look)
        return new

    def wait_synced(self) -> None:
        """Wait until the score board is complete."""
        self.wait("the score", lambda: self.hook("synced") == "true")

    def wait_connections(self, count: int) -> None:
        """Wait until the page shows so many connections of its player."""
        self.wait(f"{count} connections", lambda: self.hook("connections") == str(count))

    def wait_scores(self, scores: dict[str, int]) -> None:
        """Wait until the score board has these points."""
        self.wait(f"the scores {scores}", lambda: self.scores() == scores)

    # Play

    def press(self, *keys: str) -> None:
        """Hold these keys down, and no others; real ones, that go to what has the focus."""
        wanted = frozenset(keys)
        changes = [(key, "keyUp") for key in self._held - wanted]
        changes += [(key, "keyDown") for key in wanted - self._held]
        for key, kind in changes:
            code = _KEYS[key]
            self.cdp("Input.dispatchKeyEvent", type=kind, code=key, windowsVirtualKeyCode=code)
        self._held = wanted

    def tap_key(self, key: str) -> None:
        """Press a key and let go of it."""
        for kind in ("rawKeyDown", "keyUp"):
            code = _KEYS[key]
            self.cdp(
                "Input.dispatchKeyEvent", type=kind, code=key, key=key, windowsVirtualKeyCode=code
            )

    def touch(self, kind: str, *place: int) -> None:
        """Let a finger do something, at this place of the window."""
        points = [{"x": place[0], "y": place[1]}] if place else []
        self.cdp("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    def press_button(self, id_: str) -> None:
        """Press a button of the panel, which may be closed."""
        self.script("document.getElementById('panel').open = true")
        self.find(id_).click()

    def wait_place(self) -> tuple[int, int]:
        """Wait until the player is in the arena; return where."""
        self.wait("the player's place", lambda: self.hook("x"))
        return self.place

    def focus_arena(self) -> None:
        """Keys go to the game, though another window may be in front."""
        self.cdp("Emulation.setFocusEmulationEnabled", enabled=True)
        self.script("document.getElementById('arena').focus()")

    def freeze(self) -> None:
        """Freeze the page; one that believes that it has the focus would not be frozen."""
        self.press()
        self.cdp("Emulation.setFocusEmulationEnabled", enabled=False)
        super().freeze()

    def thaw(self) -> None:
        """Let the page run again, and be looked at: without a screen it would stay hidden."""
        super().thaw()
        self.cdp("Emulation.setFocusEmulationEnabled", enabled=True)

    def steer(self, dx: float, dy: float) -> None:
        """Hold the arrows for this direction."""
        keys = []
        if abs(dx) > _NEAR:
            keys.append("ArrowRight" if dx > 0 else "ArrowLeft")
        if abs(dy) > _NEAR:
            keys.append("ArrowDown" if dy > 0 else "ArrowUp")
        # Who stands on top of a spark has to move to catch it.
        self.press(*keys or ["ArrowRight"])

    def go(self, dx: float, dy: float) -> None:
        """Hold the arrows for this direction, or for a while those for a way around."""
        now, (x, y), (last, since) = time.monotonic(), self.place, self._last_step
        if abs(x - last[0]) + abs(y - last[1]) > _STEP or now - since > 2 * _STUCK:
            self._last_step = ((x, y), now)
        elif now - since > _STUCK:
            self._detour_until = now + _DETOUR
        if now < self._detour_until:
            dx, dy = -dy, dx
        self.steer(dx, dy)

    def go_to_spark(self) -> None:
        """Run to the nearest spark, if there is one."""
        nearest = self.hook("nearest")
        if nearest:
            self.go(*map(int, nearest.split()))
        else:
            self.press()

    def collect(self, points: int = 1) -> int:
        """Run after sparks until there are so many points more; return the score."""
        self.focus_arena()
        self.driver.set_script_timeout(_COLLECT_SECONDS)
        self.driver.execute_async_script(f"({COLLECT})(arguments[0]).then(arguments[1])", points)
        return self.wait_rest()

    def wait_rest(self) -> int:
        """Wait until the player stands still and all claims are settled; return the score."""
        before = int(self.hook("tick"))

        def look() -> bool:
            # What the page says may be of before the keys were let go.
            later = int(self.hook("tick")) > before + 2
            return later and (self.hook("moving"), self.hook("claimed")) == ("false", "0")

        self.wait("the player to rest", look)
        return self.score

    # Talk

    def say(self, text: str) -> None:
        """Say something."""
        field = self.find("text")
        field.send_keys(text)
        self.find("send").click()

    def lines(self) -> list[dict[str, str]]:
        """Return what was said: from, key, status, missed, name and text."""
        lines: list[dict[str, str]] = self.script(_LINES)
        return lines

    def wait_texts(self, *texts: str) -> None:
        """Wait for exactly these lines, each once, in this order, all of them arrived."""
        wanted = list(texts)

        def look() -> bool:
            lines = self.lines()
            return len(lines) >= len(wanted) and all(line["status"] == "done" for line in lines)

        self.wait(f"the lines {wanted}", look)
        assert [line["text"] for line in self.lines()] == wanted
        keys = [line["key"] for line in self.lines()]
        assert len(set(keys)) == len(keys)


def duplicate(page: GamePage) -> GamePage:
    """Duplicate the tab: the copy begins with a copy of sessionStorage."""
    driver = page.driver
    before = set(driver.window_handles)
    page.script("window.open(location.href)")
    (handle,) = page.wait("the new tab", lambda: set(driver.window_handles) - before)
    return GamePage(page.browser, handle)


def sent_after_connect(page: GamePage) -> list[Sent]:
    """What the page sent after its first CONNECT, which carried what was typed."""
    sent = page.browser.sent(page.handle)
    first = next(index for index, item in enumerate(sent) if item.body.startswith("40"))
    return sent[first + 1 :]


def connects(sent: list[Sent]) -> list[str]:
    """The CONNECT packets of these."""
    return [item.body for item in sent if item.body.startswith("40")]


def assert_never_sent(page: GamePage, *secrets: str) -> None:
    """After the first CONNECT none of these words leaves the page."""
    for item in sent_after_connect(page):
        for secret in secrets:
            assert secret not in item.body
            assert secret not in item.url
