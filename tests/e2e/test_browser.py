"""The game at `/` in headless Chromium: what happens to tabs, connections and the gateway."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import pytest

from tests.e2e.game_page import (
    GamePage,
    assert_never_sent,
    connects,
    duplicate,
    sent_after_connect,
)
from tests.gateway_process import GatewayProcess

_FREEZE_ROUNDS: Final = int(os.environ.get("GATEWAY_FREEZE_ROUNDS") or 3)


@pytest.mark.parametrize("freeze_round", range(1, _FREEZE_ROUNDS + 1))
def test_a_frozen_page_comes_back_as_the_same_player_with_the_same_score(
    ada: GamePage, bob: GamePage, freeze_round: int
) -> None:
    true_id, session_id = ada.true_id, ada.session_id
    score, bob_id = ada.collect(), bob.true_id
    expected = ["before"]
    bob.say("before")
    ada.wait_texts(*expected)
    # Once on the connection that was upgraded, once on the one that came after.
    for freeze in (1, 2):
        socket_id, place = ada.socket_id, ada.place
        ada.freeze()
        meanwhile = [f"round {freeze_round}, freeze {freeze}, line {n}" for n in (1, 2)]
        for text in meanwhile:
            bob.say(text)
        expected += meanwhile
        bob.wait_texts(*expected)
        bob_score = bob.collect()
        ada.thaw()
        ada.wait_live(other_than=socket_id)
        assert ada.freezes == freeze, "the page was not frozen"
        assert (ada.true_id, ada.session_id) == (true_id, session_id)
        assert ada.hook("outcome") == "resumed"
        assert int(ada.hook("missed")) >= len(meanwhile)
        ada.wait_texts(*expected)
        assert [line["missed"] for line in ada.lines()[-2:]] == ["true", "true"]
        for page in (ada, bob):
            page.wait_scores({true_id: score, bob_id: bob_score})
        assert ada.place == place
        ada.wait_connections(1)
        expected.append(f"after {freeze}")
        bob.say(expected[-1])
        ada.wait_texts(*expected)
    assert ada.collect() > score

    assert_never_sent(ada, '"guest"')
    later = connects(sent_after_connect(ada))
    assert len(later) == 2
    assert all('"token"' in packet and '"pid"' in packet for packet in later)


def test_a_reload_goes_on_where_the_player_was(ada: GamePage, bob: GamePage) -> None:
    true_id, session_id, socket_id = ada.true_id, ada.session_id, ada.socket_id
    bob_id = bob.true_id
    score = ada.collect()
    place = ada.place
    bob.say("before")
    ada.wait_texts("before")
    ada.say("mine")
    bob.wait_texts("before", "mine")
    # The page is gone while somebody plays on.
    ada.driver.get("about:blank")
    for text in ("meanwhile 1", "meanwhile 2"):
        bob.say(text)
    bob.wait_texts("before", "mine", "meanwhile 1", "meanwhile 2")
    bob_score = bob.collect()
    ada.driver.back()
    ada.wait_live(other_than=socket_id)
    ada.wait_texts("before", "mine", "meanwhile 1", "meanwhile 2")
    ada.wait_scores({true_id: score, bob_id: bob_score})

    socket_id = ada.socket_id
    ada.reload()
    ada.wait_live(other_than=socket_id)
    assert (ada.true_id, ada.session_id) == (true_id, session_id)
    assert ada.hook("outcome") == "resumed"
    ada.wait_scores({true_id: score, bob_id: bob_score})
    assert ada.place == place
    bob.say("after")
    ada.wait_texts("before", "mine", "meanwhile 1", "meanwhile 2", "after")
    assert_never_sent(ada, '"guest"')


def test_a_player_who_was_alone_keeps_the_score_over_a_reload(ada: GamePage) -> None:
    true_id, score, socket_id = ada.true_id, ada.collect(2), ada.socket_id
    ada.reload()
    ada.wait_live(other_than=socket_id)
    ada.wait_scores({true_id: score})


def test_a_duplicated_tab_is_the_same_player_on_a_second_connection(
    ada: GamePage, bob: GamePage
) -> None:
    true_id, token, score = ada.true_id, ada.token(), ada.collect()
    driver = ada.driver
    before = set(driver.window_handles)
    # What the copy starts with, read before the page's script can change it.
    url = ada.script("window.copy = window.open('/favicon.svg'); return location.href")
    (handle,) = ada.wait("the new tab", lambda: set(driver.window_handles) - before)
    copy = GamePage(ada.browser, handle)
    copy.wait("the picture", lambda: copy.script("return location.pathname") == "/favicon.svg")
    assert copy.token() == token
    copy.open(url)
    copy.wait_live()
    copy.wait_synced()

    assert copy.true_id == ada.true_id == true_id
    assert copy.session_id != ada.session_id
    assert copy.token() != ada.token()
    for page in (ada, copy):
        page.wait_connections(2)
        assert page.state == "live"
        assert page.scores()[true_id] == score
    bob.say("to both")
    for page in (ada, copy):
        page.wait_texts("to both")

    # The one that is steered leads, the other follows.
    for leader, follower in ((copy, ada), (ada, copy)):
        start = follower.place
        leader.focus_arena()
        leader.press("ArrowRight" if start[0] < 800 else "ArrowLeft")
        follower.wait("the other tab's steps", moved_from(follower, start, 100))
        leader.press()
        assert follower.hook("leads") == "false"
        assert leader.hook("leads") == "true"

    # The copy has a token of its own now: both can be loaded again.
    for page in (copy, ada):
        socket_id, session_id = page.socket_id, page.session_id
        page.reload()
        page.wait_live(other_than=socket_id)
        assert page.session_id == session_id
        page.wait_texts("to both")
    bob.say("still both")
    for page in (ada, copy):
        page.wait_texts("to both", "still both")


def moved_from(page: GamePage, start: tuple[int, int], units: int) -> Callable[[], bool]:
    """Return what tells whether the player is so far from there, to the left or right."""
    return lambda: abs(page.place[0] - start[0]) >= units


def test_closing_one_tab_leaves_the_other_in_the_match(ada: GamePage, bob: GamePage) -> None:
    true_id = ada.true_id
    copy = duplicate(ada)
    copy.wait_live()
    copy.wait_connections(2)
    ada.close()
    copy.wait_connections(1)
    bob.say("who is left?")
    copy.wait_texts("who is left?")
    assert copy.true_id == true_id
    assert bob.board()[true_id]["state"] == "active"


def test_the_drop_button_shows_a_return(ada: GamePage, bob: GamePage) -> None:
    true_id, socket_id, score = ada.true_id, ada.socket_id, ada.collect()
    assert ada.text("blink") == "none"
    ada.press_button("drop")
    bob.say("while you were away")
    ada.wait_live(other_than=socket_id)
    assert ada.true_id == true_id
    ada.wait_texts("while you were away")
    assert ada.scores()[true_id] == score
    assert ada.text("blink").endswith(" s")
    assert int(ada.hook("blink")) > 0


def test_who_plays_on_without_a_connection_loses_nothing(
    ada: GamePage, bob: GamePage, gateway: GatewayProcess
) -> None:
    true_id, socket_id, score = ada.true_id, ada.socket_id, ada.score
    gateway.kill()
    ada.wait("the loss", lambda: ada.state == "away")
    ada.focus_arena()

    def claims() -> bool:
        ada.go_to_spark()
        return ada.hook("claimed") != "0"

    ada.wait("a spark", claims)
    ada.press()
    ada.say("written offline")
    assert [line["status"] for line in ada.lines()] == ["waiting"]
    gateway.start()
    ada.wait_live(other_than=socket_id)
    bob.wait_texts("written offline")
    ada.wait_texts("written offline")
    ada.wait("the points", lambda: ada.hook("claimed") == "0")
    assert ada.wait_rest() > score
    bob.wait("the same points", lambda: bob.scores()[true_id] == ada.score)


def test_two_play_through_restarts_of_the_gateway(
    ada: GamePage,
    bob: GamePage,
    gateway: GatewayProcess,
    record_property: Callable[[str, object], None],
) -> None:
    pages = (ada, bob)
    ids = [page.true_id for page in pages]
    sessions = [page.session_id for page in pages]
    scores = {page.true_id: page.collect() for page in pages}
    expected: list[str] = []
    for end in (gateway.stop, gateway.kill):
        sockets = [page.socket_id for page in pages]
        end()
        for page in pages:
            page.wait("the loss", lambda: page.state == "away")  # noqa: B023
            assert page.find("arena").is_displayed()
        # One has something to say while there is no gateway.
        expected.append(f"in the middle of {end.__name__}")
        ada.say(expected[-1])
        gateway.start()
        for page, socket_id in zip(pages, sockets, strict=True):
            page.wait_live(other_than=socket_id)
            blink = int(page.hook("blink"))
            record_property(f"blink_ms_{end.__name__}", blink)
            assert 0 < blink < 20_000
            assert page.hook("outcome") == "resumed"
        for page in pages:
            page.wait_texts(*expected)
            page.wait_scores(scores)
        expected.append(f"after {end.__name__}")
        bob.say(expected[-1])
        scores[ids[0]] = ada.collect()
        for page in pages:
            page.wait_texts(*expected)
            page.wait_scores(scores)
    assert [page.true_id for page in pages] == ids
    assert [page.session_id for page in pages] == sessions
