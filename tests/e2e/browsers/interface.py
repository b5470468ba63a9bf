"""What a test can do to a browser, whichever it is."""

from __future__ import annotations

import json
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, Final

WAIT_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.05
_SCRIPT: Final = """
    const done = arguments[arguments.length - 1];
    Promise.resolve().then(() => (EXPRESSION)).then(
        (value) => done({ value }), (error) => done({ error: String(error) }));
"""


class PageGone(Exception):
    """The page could not be asked: it is being loaded, or its process has ended."""


def wait_until(what: str, condition: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    """Return the condition's value as soon as it is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            value, seen = condition(), None
        except PageGone as error:
            value, seen = None, error
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what}; last: {seen or value!r}")
        time.sleep(_POLL_SECONDS)


def as_script(expression: str) -> str:
    """Return the expression as an asynchronous script of WebDriver's kind."""
    return _SCRIPT.replace("EXPRESSION", expression)


def value_of(answer: dict[str, Any] | None, expression: str) -> Any:
    """Return what such a script has answered. Raises PageGone."""
    if answer is None or "error" in answer:
        raise PageGone(f"{answer and answer['error']} in {expression}")
    return answer.get("value")


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to processes; those that have ended meanwhile need none."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


class Tab(ABC):
    """A tab. Whatever it is asked for, it is this one that answers."""

    #: Processes that `stop` has stopped.
    _stopped: tuple[int, ...] = ()

    @abstractmethod
    def open(self, url: str) -> None:
        """Load a page, and wait until it is there."""

    @abstractmethod
    def evaluate(self, expression: str) -> Any:
        """Return the JSON value of an expression; a promise is awaited. Raises PageGone."""

    @abstractmethod
    def reload(self) -> None:
        """Load the page again, as F5 does, and wait until it is there."""

    @abstractmethod
    def _step(self, delta: int) -> None:
        """Go back (-1) or forward (1)."""

    @abstractmethod
    def _processes(self) -> list[int]:
        """Return the processes that run the page."""

    @abstractmethod
    def duplicate(self) -> Tab:
        """Duplicate the tab, with its sessionStorage."""

    @abstractmethod
    def set_offline(self, offline: bool) -> None:
        """Tell the browser that there is no network, where it can be told."""

    @abstractmethod
    def screenshot(self, file: Path) -> None:
        """Write a picture of the page, a PNG."""

    @abstractmethod
    def close(self) -> None:
        """Close it."""

    def back(self) -> None:
        """Go to the page before, and wait until it is there."""
        self._go(-1)

    def forward(self) -> None:
        """Go to the page after, and wait until it is there."""
        self._go(1)

    def _go(self, delta: int) -> None:
        before = self.evaluate("location.href")
        self._step(delta)
        self.wait("another page", f"location.href !== {json.dumps(before)}")

    def stop(self) -> None:
        """Stop the page's process, as a system does that is short of power."""
        self._stopped = tuple(self._processes())
        assert self._stopped
        signal_all(self._stopped, signal.SIGSTOP)

    def resume(self) -> None:
        """Let the page's process go on."""
        stopped, self._stopped = self._stopped, ()
        signal_all(stopped, signal.SIGCONT)

    def wait(self, what: str, expression: str) -> Any:
        """Wait until an expression is true in the page; return its value."""
        return wait_until(what, lambda: self.evaluate(expression))

    def _wait_loaded(self) -> None:
        self.wait("the page", "document.readyState === 'complete'")


class DiscardableTab(Tab):
    """A tab of a browser that can be told to look at another one, and to discard it."""

    @abstractmethod
    def hide(self) -> None:
        """Look at another tab of its window."""

    @abstractmethod
    def show(self) -> None:
        """Look at it again."""

    @abstractmethod
    def discard(self) -> None:
        """Throw the page away as a browser short of memory does; its tab stays."""

    @abstractmethod
    def revive(self) -> None:
        """Look at a discarded tab again, which loads it."""


class Browser(ABC):
    """A browser with a profile of its own in `directory`."""

    name: ClassVar[str]
    #: Whether it keeps a page with an open websocket for the way back.
    keeps_pages: ClassVar[bool]

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        #: What the browser has to say.
        self.log = directory / f"{self.name}.log"
        self._tabs: list[Tab] = []

    @abstractmethod
    def _new_tab(self) -> Tab:
        """Return an empty tab."""

    @abstractmethod
    def close(self) -> None:
        """End it, and all its processes."""

    def new_tab(self) -> Tab:
        """Return an empty tab."""
        return self.adopt(self._new_tab())

    def adopt(self, tab: Tab) -> Tab:
        """Close this tab, too, at the end of the test."""
        self._tabs.append(tab)
        return tab

    @property
    def tabs(self) -> tuple[Tab, ...]:
        """What the test has opened."""
        return tuple(self._tabs)

    def close_tabs(self) -> None:
        """Close what the test has opened."""
        while self._tabs:
            tab = self._tabs.pop()
            tab.resume()
            tab.set_offline(False)
            tab.close()
