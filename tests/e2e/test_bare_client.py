"""The shortest client there is: twenty lines around the stock client, in Chromium."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.e2e.browser import Browser, Page
from tests.e2e.conftest import StartGateway
from tests.gateway_process import GatewayProcess

_PAGES: Final = Path(__file__).resolve().parent / "pages"
_ROWS: Final = (
    "return Array.from(document.querySelectorAll('#messages li'), (row) => row.innerText)"
)
#: A player for one message, on the page of another: connects, sends, waits for the receipt.
_SEND: Final = """
    const [target, data, done] = arguments;
    import("/vendor/socket.io.esm.min.js").then(async ({ io }) => {
        window.other ??= io({ forceNew: true, auth: { guest: true, name: "Other" } });
        done(await window.other.emitWithAck("message", { target_id: target, data }));
    });
"""


class BarePage(Page):
    """pages/bare.html"""

    @property
    def true_id(self) -> str:
        """The player's id."""
        return self.text("true-id")

    def wait_joined(self) -> str:
        """Wait for the player's id and return it."""
        true_id: str = self.wait("a true_id", lambda: self.true_id)
        return true_id

    def write_to(self, true_id: str, data: str) -> str:
        """Send a message from a second player of this page; return the receipt's status."""
        receipt = self.driver.execute_async_script(_SEND, true_id, data)
        assert receipt["ok"], receipt
        status: str = receipt["status"]
        return status

    def wait_rows(self, *rows: str) -> None:
        """Wait for exactly these messages in this order."""
        wanted = list(rows)
        self.wait(f"the messages {wanted}", lambda: len(self.script(_ROWS)) >= len(wanted))
        assert self.script(_ROWS) == wanted


@pytest.fixture
def gateway(start_gateway: StartGateway) -> GatewayProcess:
    """A gateway that serves the bare page instead of its own."""
    return start_gateway(static={"path": str(_PAGES), "index": "bare.html"})


@pytest.fixture
def bare(browser: Browser, gateway: GatewayProcess) -> BarePage:
    """The page, joined."""
    page = BarePage(browser, browser.new_window())
    page.open(gateway.url)
    page.wait_joined()
    return page


@pytest.fixture
def writer(browser: Browser, gateway: GatewayProcess) -> BarePage:
    """A page from which other players write."""
    page = BarePage(browser, browser.new_window())
    page.open(gateway.url)
    page.wait_joined()
    return page


def test_a_frozen_page_comes_back_by_itself(bare: BarePage, writer: BarePage) -> None:
    true_id = bare.true_id
    assert writer.write_to(true_id, "before") == "delivered"
    rows = ["before"]
    bare.wait_rows(*rows)
    for freeze in (1, 2):
        bare.freeze()
        rows.append(f"meanwhile {freeze}")
        assert writer.write_to(true_id, rows[-1]) in {"delivered", "queued"}
        bare.thaw()
        bare.wait_rows(*rows)
        assert bare.freezes == freeze
        rows.append(f"after {freeze}")
        assert writer.write_to(true_id, rows[-1]) == "delivered"
        bare.wait_rows(*rows)
        assert bare.true_id == true_id


def test_a_page_frozen_before_its_first_message_loses_none(
    bare: BarePage, writer: BarePage
) -> None:
    true_id = bare.true_id
    bare.freeze()
    for text in ("one", "two"):
        assert writer.write_to(true_id, text) in {"delivered", "queued"}
    bare.thaw()
    bare.wait_rows("one", "two")
    assert bare.true_id == true_id


def test_a_reload_resumes_by_the_token_in_the_tab(bare: BarePage, writer: BarePage) -> None:
    true_id = bare.true_id
    writer.write_to(true_id, "before")
    bare.wait_rows("before")
    url = bare.script("return location.href")
    bare.open("about:blank")
    assert writer.write_to(true_id, "meanwhile") in {"delivered", "queued"}
    bare.open(url)
    assert bare.wait_joined() == true_id
    bare.wait_rows("meanwhile")
    bare.reload()
    assert bare.wait_joined() == true_id
    writer.write_to(true_id, "after")
    bare.wait_rows("after")
    token = bare.stored()["token"]
    connects = [item.body for item in bare.browser.sent(bare.handle) if item.body.startswith("40")]
    assert len(connects) == 3
    assert all('"token"' in packet and '"guest"' not in packet for packet in connects[1:])
    assert token not in "".join(connects)
