"""The game's door in headless Chromium: guests, passwords, and ways out."""

from __future__ import annotations

from typing import Final

from tests.e2e.browser import Browser
from tests.e2e.conftest import OpenPage, StartGateway
from tests.e2e.game_page import GamePage, connects, duplicate

_USERNAME: Final = "quillfeather"
_PASSWORD: Final = "Engine-of-many-analyses-1843"
_NAME: Final = "Ada-Quillfeather"


def test_logout_forgets_the_player(ada: GamePage, bob: GamePage) -> None:
    true_id = ada.true_id
    bob.say("secret")
    ada.wait_texts("secret")
    ada.press_button("logout")
    ada.wait_door()
    ada.wait("the reason", lambda: "logged out" in ada.text("login-reason"))
    assert ada.stored() == {}
    assert ada.lines() == []
    ada.reload()
    ada.join(_NAME)
    assert ada.true_id != true_id
    assert ada.lines() == []
    bob.wait("the player to be gone", lambda: true_id not in bob.board())


def test_logout_everywhere_ends_all_tabs(ada: GamePage) -> None:
    copy = duplicate(ada)
    copy.wait_live()
    ada.wait_connections(2)
    ada.press_button("logout-everywhere")
    for page in (ada, copy):
        page.wait_door()
        assert page.stored() == {}
    copy.wait("the reason", lambda: "logged out" in copy.text("login-reason"))


def test_a_password_is_sent_once_and_kept_nowhere(
    browser: Browser, start_gateway: StartGateway
) -> None:
    gateway = start_gateway(users={_USERNAME: _PASSWORD}, auth={"methods": ["guest", "password"]})
    page = GamePage(browser, browser.new_window())
    page.open(gateway.url)
    page.log_in(_USERNAME, "not-the-password")
    page.wait("the refusal", lambda: "not accepted" in page.text("login-reason"))
    page.wait_door()
    page.find("password").clear()
    page.find("password").send_keys(_PASSWORD)
    page.find("login-submit").click()
    page.wait_live()
    page.wait_synced()
    true_id, socket_id = page.true_id, page.socket_id
    assert page.text("own-name") == _USERNAME

    page.freeze()
    page.thaw()
    socket_id = page.wait_live(other_than=socket_id)
    page.press_button("drop")
    socket_id = page.wait_live(other_than=socket_id)
    page.reload()
    page.wait_live(other_than=socket_id)
    assert page.true_id == true_id

    assert [_PASSWORD in packet for packet in connects(browser.sent(page.handle))].count(True) == 1
    sent = browser.sent(page.handle)
    (login,) = [index for index, item in enumerate(sent) if _PASSWORD in item.body]
    assert sent[login].body.startswith("40")
    for item in sent[login + 1 :]:
        assert "password" not in item.body
        assert _PASSWORD not in item.url
    later = connects(sent[login + 1 :])
    assert len(later) == 3
    assert all('"token"' in packet for packet in later)
    assert not any(_PASSWORD in value for value in page.stored().values())
    assert _PASSWORD not in page.script("return JSON.stringify(localStorage)")
    assert page.script("return document.cookie") == ""
    assert page.find("password").get_attribute("value") == ""

    second = GamePage(browser, browser.new_window())
    second.open(gateway.url)
    second.log_in(_USERNAME, _PASSWORD)
    second.wait_live()
    assert second.true_id == true_id
    page.wait_connections(2)


def test_a_way_of_joining_that_is_not_enabled_is_refused_in_clear_words(
    open_page: OpenPage,
) -> None:
    page = open_page()
    page.log_in(_USERNAME, _PASSWORD)
    page.wait("the refusal", lambda: "does not offer this way" in page.text("login-reason"))
    page.wait_door()
    assert page.find("password").get_attribute("value") == ""
    assert page.stored() == {}
    # What is left is the other one.
    assert not page.find("modes").is_displayed()
    page.join(_NAME)
    assert page.text("own-name") == _NAME
