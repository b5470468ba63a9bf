"""What befalls tabs, in three browsers, with the stock client alone and with the client module.

Afterwards the player is who they were, and has every message once and in order.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.browsers.chromium import ChromiumTab
from tests.e2e.browsers.interface import Browser, DiscardableTab, Tab
from tests.e2e.browsers.network import Network
from tests.e2e.browsers.returns import Returns
from tests.e2e.browsers.writer import Writer
from tests.gateway_process import GatewayProcess

_PAGES: Final = Path(__file__).resolve().parents[1] / "pages"
#: Seconds. A connection that is dead is known to be after both.
_PING: Final = {"ping_interval": 0.5, "ping_timeout": 2.5}


class Player:
    """The player in a tab, who has heard nothing yet, and somebody who writes to them."""

    def __init__(self, tab: Tab, writer: Writer, note: Callable[[str, float], None]) -> None:
        self.tab = tab
        self._writer = writer
        self._note = note
        self._written: list[str] = []
        session = self.wait_session(0)
        self.true_id, self.session_id = session["true_id"], session["session_id"]

    @property
    def sessions(self) -> int:
        """How often the player was told of a session."""
        count: int = self.tab.evaluate("witness.sessions.length")
        return count

    def wait_session(self, known: int) -> dict[str, Any]:
        """Wait until the player is told of a session after these; return it."""
        session: dict[str, Any] = self.tab.wait(
            "a session", f"window.witness?.sessions.at({known}) ?? null"
        )
        return session

    def returns(self, known: int, wake: Callable[[], object], after: str) -> dict[str, Any]:
        """Do what brings the player back; return the session after those that are known."""
        began = time.time()
        wake()
        session = self.wait_session(known)
        self._note(after, session["at"] / 1000 - began)
        return session

    def hear(self, *texts: str) -> None:
        """Have these written, and wait until they are there."""
        self.miss(*texts)
        self.wait_messages()

    def miss(self, *texts: str) -> None:
        """Have these written."""
        self._writer.write(self.true_id, *texts)
        self._written += texts

    def wait_unreachable(self) -> None:
        """Wait until the gateway knows that the player has no connection."""
        self._writer.wait_connections(self.true_id, 0)

    def wait_messages(self, tab: Tab | None = None) -> None:
        """Wait for all that was written: each once, in this order."""
        tab = tab or self.tab
        count = len(self._written)
        tab.wait(f"{count} messages", f"window.witness?.messages.length >= {count}")
        seen = tab.evaluate("witness.messages")
        assert [text for _, text in seen] == self._written
        assert len({id_ for id_, _ in seen}) == count

    def wait_messages_at_least_once(self) -> None:
        """Wait for all that was written, in order; the ids tell what is double."""
        last = self._written[-1]
        self.tab.wait(last, f"window.witness?.messages.at(-1)?.[1] === '{last}'")
        seen = self.tab.evaluate("witness.messages")
        assert [*dict(seen).values()] == self._written

    def assert_back(self, session: dict[str, Any], *, recovered: bool) -> None:
        """The player is the same, missed nothing, and hears what comes next."""
        assert session["true_id"] == self.true_id
        assert session["session_id"] == self.session_id
        assert session["outcome"] == "resumed"
        assert session["recovered"] is recovered
        self.wait_messages()
        self.hear(f"after session {self.sessions}")


StartPlayer = Callable[..., Player]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway that serves the pages of these tests, and soon knows who is gone."""
    config = {
        "server": _PING,
        "presence": {"grace": 3.0, "settle": 0.0},
        "static": {"path": str(_PAGES), "index": "elsewhere.html"},
        "limits": {"new_sessions_per_minute": 0},
    }
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), config=config) as gateway:
        yield gateway


@pytest.fixture
def writer(gateway: GatewayProcess) -> Iterator[Writer]:
    """Somebody who is always there."""
    writer = Writer(gateway.url)
    yield writer
    writer.close()


@pytest.fixture(params=["bare.html", "module.html"])
def page(request: pytest.FixtureRequest) -> str:
    """The page with the client."""
    return str(request.param)


@pytest.fixture
def start_player(
    network: Network, browser: Browser, writer: Writer, page: str, returns: Returns
) -> StartPlayer:
    """Have a player join on a page who is in, and has heard something."""

    def start(query: str = "") -> Player:
        tab = browser.new_tab()
        tab.open(network.url + page + query)

        def note(after: str, seconds: float) -> None:
            returns.note(browser.name, page.removesuffix(".html"), after, seconds)

        player = Player(tab, writer, note)
        player.hear("one", "two")
        return player

    return start


@pytest.fixture
def player(start_player: StartPlayer) -> Player:
    """A player who is in, and has heard something."""
    return start_player()


def test_a_reload_resumes(player: Player, network: Network, page: str) -> None:
    tab, known = player.tab, player.sessions
    tab.open(f"{network.url}elsewhere.html")
    player.miss("three", "four")
    tab.open(network.url + page)
    player.assert_back(player.wait_session(known), recovered=False)

    session = player.returns(player.sessions, tab.reload, "a reload")
    player.assert_back(session, recovered=False)


@pytest.mark.parametrize("page", ["bare.html"], indirect=True)
def test_a_reload_with_a_bare_token_loses_nothing(
    start_player: StartPlayer, network: Network, page: str
) -> None:
    player = start_player("?token-only")
    tab, known = player.tab, player.sessions
    tab.open(f"{network.url}elsewhere.html")
    player.miss("three", "four")
    tab.open(f"{network.url}{page}?token-only")
    session = player.wait_session(known)
    assert session["outcome"] == "resumed"
    assert session["session_id"] == player.session_id
    player.wait_messages_at_least_once()
    player.miss("five")
    player.wait_messages_at_least_once()


def test_the_way_back_resumes(player: Player, browser: Browser, network: Network) -> None:
    tab, known = player.tab, player.sessions
    tab.open(f"{network.url}elsewhere.html")
    player.miss("three", "four")
    session = player.returns(known, tab.back, "the way back")
    kept = tab.evaluate("witness.returns") == 1
    assert kept == browser.keeps_pages
    player.assert_back(session, recovered=kept)

    known = player.sessions
    tab.forward()
    player.miss("five")
    tab.back()
    player.assert_back(player.wait_session(known), recovered=kept)


def test_a_page_that_was_stopped_for_longer_than_the_ping_timeout_resumes(player: Player) -> None:
    tab, known = player.tab, player.sessions
    tab.stop()
    player.wait_unreachable()
    player.miss("three", "four")
    session = player.returns(known, tab.resume, "a long stop")
    player.assert_back(session, recovered=True)


def test_a_page_that_was_stopped_for_a_moment_misses_nothing(player: Player) -> None:
    player.tab.stop()
    player.miss("three", "four")
    player.tab.resume()
    player.wait_messages()
    player.hear("five")
    assert player.tab.evaluate("witness.sessions.at(-1).true_id") == player.true_id


@pytest.mark.parametrize("page", ["module.html"], indirect=True)
def test_a_room_is_joined_again_whose_membership_ended_while_the_page_was_stopped(
    start_player: StartPlayer, writer: Writer
) -> None:
    room = f"room-{secrets.token_hex(4)}"
    writer.join(room)
    player = start_player(f"?room={room}")
    tab, known = player.tab, player.sessions
    writer.wait_members(room, player.true_id)
    tab.stop()
    # What came meanwhile, heartbeats too, waits in the browser: to the page it is news.
    writer.wait_members(room)
    writer.publish(room, "missed")
    tab.resume()
    player.wait_session(known)
    writer.wait_members(room, player.true_id)
    tab.wait("the news", "witness.rejoins.length === 1")
    writer.publish(room, "heard")
    tab.wait("the message", "witness.messages.at(-1)[1] === 'heard'")
    assert "missed" not in [text for _, text in tab.evaluate("witness.messages")]


def test_a_time_without_network_is_survived(player: Player, network: Network) -> None:
    tab, known = player.tab, player.sessions
    network.take_away()
    tab.set_offline(True)
    player.wait_unreachable()
    player.miss("three", "four")

    def wake() -> None:
        network.give_back()
        tab.set_offline(False)

    session = player.returns(known, wake, "no network")
    player.assert_back(session, recovered=True)


# WebKitGTK discards no tabs, and ends its driver's session when a page's process is killed.
@pytest.mark.parametrize("keeper", ["chromium", "firefox"], indirect=True)
def test_a_discarded_tab_resumes(player: Player) -> None:
    tab, known = player.tab, player.sessions
    assert isinstance(tab, DiscardableTab)
    tab.discard()
    player.miss("three", "four")
    session = player.returns(known, tab.revive, "a discard")
    player.assert_back(session, recovered=False)


def test_a_duplicated_tab_has_a_session_of_its_own(
    player: Player, writer: Writer, browser: Browser
) -> None:
    tab, known = player.tab, player.sessions
    copy = tab.duplicate()
    session = copy.wait(
        "its session", f"window.witness?.sessions.length > {known} && witness.sessions.at(-1)"
    )
    assert session["true_id"] == player.true_id
    assert session["session_id"] != player.session_id
    writer.wait_connections(player.true_id, 2)
    player.hear("to both")
    player.wait_messages(copy)

    # Each of them can be loaded again, and is who it was.
    for either, session_id in ((copy, session["session_id"]), (tab, player.session_id)):
        told = either.evaluate("witness.sessions.length")
        either.reload()
        again = either.wait(
            "a session", f"window.witness?.sessions.length > {told} && witness.sessions.at(-1)"
        )
        assert again["session_id"] == session_id
        assert again["true_id"] == player.true_id
    player.hear("still both")
    player.wait_messages(copy)


@pytest.mark.parametrize("keeper", ["chromium"], indirect=True)
def test_a_tab_that_the_browser_has_frozen_resumes(player: Player) -> None:
    tab = player.tab
    assert isinstance(tab, ChromiumTab)
    for text, after in (("three", "a freeze"), ("four", "another freeze")):
        known = player.sessions
        tab.freeze()
        player.miss(text)
        session = player.returns(known, tab.thaw, after)
        player.assert_back(session, recovered=True)
