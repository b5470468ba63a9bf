"""The game at `/` in headless Chromium: two play, by keyboard and touch, and it fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.conftest import OpenPage
from tests.e2e.game_page import GamePage

_SIZES: Final = {"phone": (390, 844), "desktop": (1440, 900)}
_BOX: Final = """
    const element = document.getElementById(arguments[0]);
    element.scrollIntoView();
    const {left, right, width, height} = element.getBoundingClientRect();
    return {left, right, width, height};
"""


def test_two_see_each_other_play(ada: GamePage, bob: GamePage) -> None:
    ada_id, bob_id = ada.true_id, bob.true_id
    assert ada_id != bob_id
    scores = {ada_id: ada.collect(), bob_id: bob.collect(2)}
    for page in (ada, bob):
        page.wait_scores(scores)
    assert {row["name"] for row in ada.board().values()} == {"Ada", "Bob"}
    # Each is where it says it is.
    for page, other in ((ada, bob), (bob, ada)):
        place, other_id = other.place, other.true_id
        page.wait("the other's place", lambda: page.place_of(other_id) == place)  # noqa: B023
    ada.say("hello Bob")
    bob.wait_texts("hello Bob")
    assert bob.lines()[0]["from"] == ada_id
    assert bob.lines()[0]["name"] == "Ada"
    bob.say("hello Ada")
    for page in (ada, bob):
        page.wait_texts("hello Bob", "hello Ada")


def test_a_newcomer_learns_the_score(ada: GamePage, open_page: OpenPage) -> None:
    true_id, score = ada.true_id, ada.collect(2)
    late = open_page()
    late.join("Late")
    late_id = late.true_id
    late.wait_scores({true_id: score, late_id: 0})
    place = ada.place
    late.wait("the other's place", lambda: late.place_of(true_id) == place)
    late_score = late.collect()
    ada.wait_scores({true_id: score, late_id: late_score})


def test_a_dash_into_somebody_takes_points(ada: GamePage, bob: GamePage) -> None:
    ada_id, score = ada.true_id, ada.collect(2)
    bob_id = bob.true_id
    bob.wait("the points", lambda: bob.scores()[ada_id] == score)
    bob.focus_arena()

    def chase() -> bool:
        place = bob.place_of(ada_id)
        assert place is not None
        x, y = bob.place
        dx, dy = place[0] - x, place[1] - y
        bob.go(dx, dy)
        if abs(dx) + abs(dy) < 130:
            bob.tap_key("Space")
        return ada.score < score

    ada.wait("the loss", chase)
    bob.press()
    bob.wait_rest()
    both = bob.scores()
    assert both[ada_id] < score
    # What she lost he has, beside what he found on the way.
    assert both[bob_id] >= score - both[ada_id]
    ada.wait_scores(both)


def test_who_sleeps_is_shown_asleep(ada: GamePage, bob: GamePage) -> None:
    true_id = ada.true_id
    ada.freeze()
    bob.wait("the sleep", lambda: bob.board()[true_id]["state"] in {"away", "hidden"})
    ada.thaw()
    ada.wait_live()
    bob.wait("the return", lambda: bob.board()[true_id]["state"] == "active")


def test_keys_move_the_player_and_only_in_the_arena(ada: GamePage) -> None:
    ada.focus_arena()
    x, y = ada.wait_place()
    key = "ArrowRight" if x < 800 else "ArrowLeft"
    ada.press(key)
    ada.wait("steps", lambda: abs(ada.place[0] - x) > 60)
    ada.press()
    ada.wait_rest()
    ada.press("ArrowDown" if y < 500 else "ArrowUp")
    ada.wait("steps", lambda: abs(ada.place[1] - y) > 60)
    ada.press()
    ada.wait_rest()
    place = ada.place
    # Enter goes to the chat, where keys are letters; Escape comes back.
    ada.tap_key("Enter")
    assert ada.script("return document.activeElement.id") == "text"
    ada.find("text").send_keys("wasd a d")
    ada.press("ArrowRight")
    ada.press()
    ada.wait_rest()
    assert ada.place == place
    ada.tap_key("Escape")
    assert ada.script("return document.activeElement.id") == "arena"
    assert ada.find("dash").get_attribute("aria-disabled") == "false"
    ada.press("ArrowRight" if place[0] < 800 else "ArrowLeft")
    ada.tap_key("Space")
    ada.wait("the dash", lambda: ada.find("dash").get_attribute("aria-disabled") == "true")
    ada.press()


def test_a_finger_moves_the_player(ada: GamePage) -> None:
    ada.resize(390, 844, mobile=True)
    ada.cdp("Emulation.setTouchEmulationEnabled", enabled=True)
    ada.script("scrollTo(0, 0)")
    x, _ = ada.wait_place()
    step = 60 if x < 800 else -60
    ada.touch("touchStart", 190, 300)
    ada.touch("touchMove", 190 + step, 300)
    ada.wait("steps", lambda: (ada.place[0] - x) * step > 60 * abs(step))
    ada.touch("touchEnd")
    ada.wait_rest()
    assert ada.script("return scrollY") == 0
    place = ada.place
    # A tap alone moves nothing; two dash.
    for _ in range(2):
        ada.touch("touchStart", 190, 300)
        ada.touch("touchEnd")
    ada.wait("the dash", lambda: ada.find("dash").get_attribute("aria-disabled") == "true")
    ada.wait_rest()
    assert ada.place != place
    ada.wait("breath", lambda: ada.find("dash").get_attribute("aria-disabled") == "false")
    ada.find("dash").click()
    ada.wait("the dash", lambda: ada.find("dash").get_attribute("aria-disabled") == "true")


def test_rounds_end_and_begin_by_themselves(open_page: OpenPage) -> None:
    page = open_page("?player=new&round=20")
    page.join("Ada")
    page.wait("the play", lambda: page.hook("phase") == "play" and int(page.hook("left")) > 5)
    score, round_ = page.collect(), page.hook("round")
    page.wait("the break", lambda: page.hook("phase") == "break")
    if page.hook("round") == round_:
        words = f"You win with {score} point"
        page.wait("the result", lambda: words in page.text("banner-title"))
        assert page.hook("nearest") == ""
    page.wait("the next round", lambda: page.hook("phase") == "play")
    assert page.hook("round") > round_
    assert page.score == 0
    assert page.scores() == {page.true_id: 0}


def test_matches_are_apart(ada: GamePage, open_page: OpenPage) -> None:
    other = open_page("?player=new&match=Somewhere%20else")
    other.join("Eve")
    assert other.hook("match") == "somewhere-else"
    assert other.text("match-name") == "somewhere-else"
    other.say("anybody?")
    other.wait_texts("anybody?")
    assert set(other.board()) == {other.true_id}
    ada.say("here")
    ada.wait_texts("here")
    assert set(ada.board()) == {ada.true_id}


def test_everything_can_be_told_by_a_screen_reader(ada: GamePage) -> None:
    ada.say("hello")
    ada.wait_texts("hello")
    tree: dict[str, Any] = ada.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})
    named = {"button", "textbox", "radio", "application", "log", "heading", "region"}
    nodes = [node for node in tree["nodes"] if not node["ignored"]]
    for node in nodes:
        if node["role"]["value"] in named:
            assert node["name"]["value"], node
    roles = [node["role"]["value"] for node in nodes]
    assert roles.count("application") == roles.count("log") == 1
    assert roles.count("status") == 2
    live = "return document.getElementById('scroller').ariaLive"
    ada.wait("the chat to be read out", lambda: ada.script(live) == "polite")
    ada.press_button("drop")
    ada.wait("words", lambda: "Connection lost" in ada.text("announcer"))


def test_the_content_security_policy_is_in_force(ada: GamePage) -> None:
    """No test of this file meets a violation (see the fixture); here is one on purpose."""
    ada.script("""
        window.violations = [];
        document.addEventListener("securitypolicyviolation", (event) => {
            window.violations.push(event.effectiveDirective);
        });
        const image = new Image();
        image.src = "http://127.0.0.1:9/elsewhere.png";
    """)
    assert ada.wait("the violation", lambda: ada.script("return window.violations")) == ["img-src"]
    assert ada.browser.complaints() != []
    ada.browser.forget_complaints()


@pytest.mark.parametrize("size", _SIZES)
def test_the_page_fits(
    ada: GamePage, bob: GamePage, open_page: OpenPage, screenshots: Path, size: str
) -> None:
    width, height = _SIZES[size]
    door = open_page()
    for page in (door, ada):
        page.resize(width, height, mobile=size == "phone")
    ada.say("Shall we cross the river here?")
    bob.say("It is deep. There is a bridge to the north, an hour from the mill.")
    bob.say("unbroken-" * 26)
    ada.wait("the lines", lambda: len(ada.lines()) == 3)
    ada.collect()
    ada.script("document.getElementById('panel').open = true")
    for scheme in ("light", "dark"):
        for name, page in (("door", door), ("game", ada)):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            page.cdp("Emulation.setEmulatedMedia", features=features)
            assert page.overflow() <= 0
            page.script("scrollTo(0, 0)")
            page.screenshot(screenshots / f"{size}-{name}-{scheme}.png")
    for id_ in ("arena", "dash", "text", "send", "invite", "drop", "logout", "logout-everywhere"):
        box = ada.script(_BOX, id_)
        assert box["left"] >= 0, id_
        assert box["right"] <= width, id_
        assert min(box["width"], box["height"]) >= 24, id_
    ada.screenshot(screenshots / f"{size}-end.png")


def test_it_can_be_played_with_reduced_motion(ada: GamePage) -> None:
    features = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    ada.cdp("Emulation.setEmulatedMedia", features=features)
    assert ada.collect() > 0
