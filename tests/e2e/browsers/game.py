"""The game at `/` as a player has it; what its page tells tests is listed in static/app.js."""

from __future__ import annotations

import json
from typing import Any, Final

from tests.e2e.browsers.interface import Tab
from tests.e2e.collecting import COLLECT
from tests.e2e.places import Places

_JOIN: Final = """
    (() => {
        const form = document.getElementById("login-form");
        form.querySelector("#name").value = NAME;
        form.requestSubmit();
    })()
"""
_SAY: Final = """
    (() => {
        document.getElementById("text").value = TEXT;
        document.getElementById("chat-form").requestSubmit();
    })()
"""
_LINES: Final = """
    Array.from(document.querySelectorAll("#messages li"), (row) =>
        [`${row.dataset.from} ${row.dataset.key}`, row.querySelector(".text").textContent])
"""


#: Holds an arrow until the player is so many units away from where they were.
_RUN: Final = """
    new Promise((done) => {
        const { dataset } = document.documentElement;
        const arena = document.getElementById("arena");
        const begin = Number(dataset.x);
        const code = begin < 800 ? "ArrowRight" : "ArrowLeft";
        const tell = (type) =>
            arena.dispatchEvent(new KeyboardEvent(type, { code, bubbles: true }));
        tell("keydown");
        const look = () => {
            if (Math.abs(Number(dataset.x) - begin) < UNITS) return setTimeout(look, 30);
            tell("keyup");
            done();
        };
        look();
    })
"""
_TICK: Final = "Number(document.documentElement.dataset.tick)"
_REST: Final = "document.documentElement.dataset.moving === 'false'"


class GamePlayer(Places):
    """A guest in the game."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab

    @classmethod
    def join(cls, tab: Tab, url: str, name: str) -> GamePlayer:
        """Open the game and come in."""
        tab.open(url)
        tab.wait("the door", "document.getElementById('login-form')?.checkVisibility()")
        tab.evaluate(_JOIN.replace("NAME", json.dumps(name)))
        player = cls(tab)
        player.wait_live("")
        return player

    def hook(self, name: str) -> str:
        """Return what the page says of itself; empty: nothing yet."""
        value: str = self.tab.evaluate(f"document.documentElement.dataset.{name} ?? ''")
        return value

    def wait_live(self, socket_id: str, after: str = "joining") -> None:
        """Wait for a connection that is not this one, and for the score board."""
        self.tab.wait(
            f"a live connection after {after}",
            "(({connection, socketId, synced}) => connection === 'live' && synced === 'true' &&"
            f" socketId && socketId !== '{socket_id}')(document.documentElement.dataset)",
        )

    @property
    def who(self) -> tuple[str, str]:
        """The ids of player and session."""
        return self.hook("trueId"), self.hook("sessionId")

    @property
    def score(self) -> int:
        """The player's points."""
        return int(self.hook("score") or 0)

    def collect(self) -> int:
        """Run to a spark; return the score when it is settled."""
        self.tab.evaluate(f"({COLLECT})(1)")
        return self.settled()

    def settled(self) -> int:
        """Wait until the player rests and nothing is claimed any more; return the score."""
        self.tab.wait(
            "the player to rest",
            "(({moving, claimed}) => moving === 'false' && claimed === '0')"
            "(document.documentElement.dataset)",
        )
        return self.score

    def run(self, units: int = 100) -> tuple[int, int]:
        """Run to the side; return where the player is then."""
        before = int(self.hook("tick"))
        self.tab.evaluate(_RUN.replace("UNITS", str(units)))
        self.tab.wait("the player to rest", f"{_REST} && {_TICK} > {before + 2}")
        return self.place

    def wait_place(self, true_id: str, place: tuple[int, int]) -> None:
        """Wait until this page shows another player there."""
        others = "JSON.parse(document.documentElement.dataset.others || '{}')"
        self.tab.wait(f"{true_id} at {place}", f"String({others}['{true_id}']) === '%d,%d'" % place)

    def wait_row(self, true_id: str, condition: str) -> None:
        """Wait until a condition holds for somebody's `row` of the score board."""
        row = f"document.querySelector('#players li[data-true-id={true_id}]')"
        self.tab.wait(condition, f"((row) => row && {condition})({row})")

    def say(self, text: str) -> None:
        """Say something."""
        self.tab.evaluate(_SAY.replace("TEXT", json.dumps(text)))

    def wait_lines(self, *texts: str) -> None:
        """Wait for exactly these lines in the chat, each once, in this order."""
        self.tab.wait(f"{len(texts)} lines", f"{_LINES}.length >= {len(texts)}")
        lines: list[Any] = self.tab.evaluate(_LINES)
        assert [text for _, text in lines] == [*texts]
        assert len({key for key, _ in lines}) == len(texts)
