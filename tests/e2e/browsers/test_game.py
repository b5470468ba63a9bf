"""The game at `/` in three browsers: who comes back plays on, with every point."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.browsers.chromium import Chromium, ChromiumTab
from tests.e2e.browsers.game import GamePlayer
from tests.e2e.browsers.interface import Browser, DiscardableTab, wait_until
from tests.e2e.browsers.network import Network
from tests.e2e.browsers.returns import Returns
from tests.e2e.game_page import long_round
from tests.gateway_process import GatewayProcess


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway that soon knows who is gone."""
    config = {"server": {"ping_interval": 0.5, "ping_timeout": 2.5}}
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), config=config) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def companion(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Somebody else's browser."""
    browser = Chromium(tmp_path_factory.mktemp("companion"))
    yield browser
    browser.close()


@pytest.fixture
def match() -> str:
    """A match of this test alone, whose round does not end meanwhile."""
    return f"?match=test-{secrets.token_hex(4)}&round={long_round()}"


@pytest.fixture
def bob(companion: Browser, gateway: GatewayProcess, match: str) -> Iterator[GamePlayer]:
    """A player whom nothing befalls."""
    yield GamePlayer.join(companion.new_tab(), gateway.url + match, "Bob")
    companion.close_tabs()


@pytest.fixture
def ada(browser: Browser, network: Network, bob: GamePlayer, match: str) -> GamePlayer:
    """The player in the browser that is tested."""
    return GamePlayer.join(browser.new_tab(), network.url + match, "Ada")


class Disturbances:
    """What can befall a tab: each is begun, and what ends it is returned."""

    def __init__(self, ada: GamePlayer, bob: GamePlayer, network: Network) -> None:
        self._tab = ada.tab
        self._network = network
        self._bob = bob
        self._true_id, _ = ada.who

    def all(self) -> Iterator[Callable[[], Callable[[], object]]]:
        """Yield what can befall this browser's tabs."""
        yield self.left
        yield self.stopped
        yield self.cut_off
        if isinstance(self._tab, ChromiumTab):
            yield self.frozen
        if isinstance(self._tab, DiscardableTab):
            yield self.discarded
        yield self.reloaded

    def left(self) -> Callable[[], object]:
        """Another page is looked at."""
        self._tab.open(f"{self._network.url}healthz")
        return self._tab.back

    def stopped(self) -> Callable[[], object]:
        """The page's process is stopped, until the gateway has noticed."""
        self._tab.stop()
        self._wait_away()
        return self._tab.resume

    def cut_off(self) -> Callable[[], object]:
        """There is no network, until the gateway has noticed."""
        self._network.take_away()
        self._tab.set_offline(True)
        self._wait_away()

        def back() -> None:
            self._network.give_back()
            self._tab.set_offline(False)

        return back

    def frozen(self) -> Callable[[], object]:
        """The browser freezes the page."""
        assert isinstance(self._tab, ChromiumTab)
        self._tab.freeze()
        return self._tab.thaw

    def discarded(self) -> Callable[[], object]:
        """The browser discards the page."""
        assert isinstance(self._tab, DiscardableTab)
        self._tab.discard()
        return self._tab.revive

    def reloaded(self) -> Callable[[], object]:
        """The page is loaded again."""
        return self._tab.reload

    def _wait_away(self) -> None:
        self._bob.wait_row(self._true_id, "row.dataset.state === 'away'")


def test_whatever_befalls_the_tab_the_player_plays_on(
    ada: GamePlayer, bob: GamePlayer, network: Network
) -> None:
    lines: list[str] = []
    who, score = ada.who, ada.collect()
    for disturbance in Disturbances(ada, bob, network).all():
        name = disturbance.__name__
        socket_id = ada.hook("socketId")
        end = disturbance()
        lines += [f"{name}, {number}" for number in range(2)]
        for text in lines[-2:]:
            bob.say(text)
        bob.wait_lines(*lines)
        end()
        ada.wait_live(socket_id, after=name)
        assert ada.who == who, name
        ada.wait_lines(*lines)
        wait_until(f"the score after {name}", lambda: ada.score == score)
        lines.append(f"back after {name}")
        ada.say(lines[-1])
        for player in (ada, bob):
            player.wait_lines(*lines)
    score = ada.collect()
    bob.wait_row(who[0], f"row.dataset.score === '{score}'")


def test_two_browsers_play_through_restarts_of_the_gateway(
    ada: GamePlayer,
    bob: GamePlayer,
    gateway: GatewayProcess,
    browser: Browser,
    returns: Returns,
    screenshots: Path,
) -> None:
    players = (ada, bob)
    (ada_id, _), (bob_id, _) = who = [player.who for player in players]
    scores = {ada_id: ada.collect(), bob_id: bob.collect()}
    lines: list[str] = []

    def shot(when: str) -> None:
        for player, name in ((ada, "ada"), (bob, "bob")):
            player.tab.screenshot(screenshots / f"{browser.name}-{name}-{when}.png")

    def assert_same_match() -> None:
        for player in players:
            player.wait_lines(*lines)
            for true_id, score in scores.items():
                player.wait_row(true_id, f"row.dataset.score === '{score}'")
        ada.wait_place(bob_id, bob.place)
        bob.wait_place(ada_id, ada.place)

    assert_same_match()
    for end in (gateway.stop, gateway.kill):
        shot(f"before-{end.__name__}")
        sockets = [player.hook("socketId") for player in players]
        end()
        ended = time.time()
        for player in players:
            player.tab.wait("the loss", "document.documentElement.dataset.connection === 'away'")
        # The game goes on: who runs runs, and what is said waits for the way back.
        before = ada.place
        assert ada.run() != before
        lines.append(f"without a gateway, by {end.__name__}")
        ada.say(lines[-1])
        shot(f"meanwhile-{end.__name__}")
        gateway.start()
        away = time.time() - ended
        for player, socket_id in zip(players, sockets, strict=True):
            player.wait_live(socket_id, after=end.__name__)
            outage = int(player.hook("blink")) / 1000
            returns.note(browser.name, "game", f"a {end.__name__}", max(0.0, outage - away))
        assert [player.who for player in players] == who
        # Who ran may have caught something on the way, which counts now.
        kept, scores[ada_id] = scores[ada_id], ada.settled()
        assert scores[ada_id] >= kept
        assert_same_match()
        bob.run()
        lines.append(f"after {end.__name__}")
        bob.say(lines[-1])
        scores.update({bob_id: bob.settled(), ada_id: ada.collect()})
        assert_same_match()
        shot(f"after-{end.__name__}")


# Of WebKitGTK's windows each is always seen here: nothing manages them.
@pytest.mark.parametrize("keeper", ["chromium", "firefox"], indirect=True)
def test_a_tab_in_the_background_is_hidden_and_catches_up(ada: GamePlayer, bob: GamePlayer) -> None:
    (ada_id, _), (bob_id, _) = ada.who, bob.who
    assert isinstance(ada.tab, DiscardableTab)
    socket_id, before = ada.hook("socketId"), bob.run()
    ada.wait_place(bob_id, before)
    ada.tab.hide()
    bob.wait_row(ada_id, "row.dataset.state === 'hidden'")
    place = bob.run()
    bob.say("are you looking?")
    # What is said comes all the same; of where the others are, the latest is kept.
    ada.wait_lines("are you looking?")
    assert ada.place_of(bob_id) == before != place
    ada.tab.show()
    ada.wait_place(bob_id, place)
    bob.wait_row(ada_id, "row.dataset.state === 'active'")
    assert ada.hook("socketId") == socket_id


def test_a_duplicated_tab_plays_the_same_player(ada: GamePlayer, bob: GamePlayer) -> None:
    true_id, session_id = ada.who
    score = ada.collect()
    copy = GamePlayer(ada.tab.duplicate())
    copy.wait_live(ada.hook("socketId"))
    assert copy.who[0] == true_id
    assert copy.who[1] != session_id
    wait_until("the score", lambda: copy.score == score)
    bob.say("to both")
    for player in (ada, copy):
        player.wait_lines("to both")
    assert ada.who == (true_id, session_id)
