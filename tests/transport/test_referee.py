"""The example of an extension, in a gateway of its own, with python-socketio's own clients."""

from __future__ import annotations

import ast
import asyncio
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import socketio

from tests.gateway_process import ROOT, GatewayProcess
from tests.transport.client import SOON, soon

FOLDER = ROOT / "config" / "extensions"
REFEREE = "/referee"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    config = {"extensions": ["referee"], "extensions_path": str(FOLDER)}
    with GatewayProcess(tmp_path, config=config) as process:
        yield process


class Competitor:
    """A player at the table; what the match's room is told waits in `moves`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session: dict[str, Any] = {}
        self.offset = ""
        self.moves: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.client = socketio.AsyncClient()

    async def connect(self) -> None:
        """Come, or come back by the token as a page does after a reload."""
        self.client = client = socketio.AsyncClient(reconnection=False)
        greeted = asyncio.Event()

        async def on_session(session: dict[str, Any]) -> None:
            self.session = session
            greeted.set()

        async def on_message(message: dict[str, Any]) -> None:
            assert message["from"] is None
            assert message["type"] == "move"
            self.offset = message["id"]
            await self.moves.put(message["data"])

        client.on("session", on_session)
        client.on("message", on_message)
        who: dict[str, object] = {"guest": True}
        if self.session:
            who = {"token": self.session["token"], "offset": self.offset}
        await client.connect(
            self.url,
            auth={**who, "recovery": False},
            namespaces=["/", REFEREE],
            transports=["websocket"],
            wait_timeout=SOON,
        )
        await soon(greeted.wait())

    async def call(self, event: str, *data: object) -> dict[str, Any]:
        answer: dict[str, Any] = await self.client.call(
            event, data, namespace=REFEREE, timeout=SOON
        )
        return answer

    async def move(self, cell: object) -> dict[str, Any]:
        return await self.call("move", {"match": "final", "cell": cell})

    async def refused(self, cell: object) -> str:
        answer = await self.move(cell)
        assert answer["ok"] is False
        return str(answer["error"]["message"])

    async def told(self) -> tuple[int, str, int]:
        """Return cell, mark and number of the next move that the room is told."""
        move = await soon(self.moves.get())
        return move["cell"], move["mark"], move["number"]

    async def vanish(self) -> None:
        """Lose the connection without a word."""
        await self.client.eio.disconnect(abort=True)
        await self.client.shutdown()


def test_two_players_play_a_match_and_one_of_them_loses_the_connection_in_the_middle(
    gateway: GatewayProcess,
) -> None:
    asyncio.run(match(gateway.url))


async def match(url: str) -> None:
    ann, bob, cat = [Competitor(url) for _ in range(3)]
    for each in (ann, bob, cat):
        await each.connect()
    assert (await ann.call("sit", {"match": "final"}))["you"] == "X"
    assert await ann.refused(0) == "the other place is empty yet"
    assert (await bob.call("sit", {"match": "final"}))["you"] == "O"
    assert matches(url) == 1
    full = await cat.call("sit", {"match": "final"})
    assert full["error"]["message"] == "both places are taken"
    assert await cat.refused(0) == "you have no place in this match"

    assert await bob.refused(0) == "it is not your turn"
    assert (await ann.move(4))["turn"] == "O"
    for each in (ann, bob):
        assert await each.told() == (4, "X", 1)
    assert await bob.refused(4) == "the cell is taken"
    for nonsense in (9, -1, "4", None, True, 1.5, [], {}):
        assert await bob.refused(nonsense) == "cell must be a number from 0 to 8"
    for arguments in ((), (1, 2), ("final",), (None,), ({"match": ""},)):
        answer = await bob.call("move", *arguments)
        assert answer["error"]["code"] == "bad_request"
    assert (await bob.move(0))["ok"]
    assert await ann.told() == await bob.told() == (0, "O", 2)

    # Bob's page is reloaded while Ann moves.
    true_id = bob.session["true_id"]
    await bob.vanish()
    assert (await ann.move(2))["ok"]
    assert await ann.told() == (2, "X", 3)
    assert await ann.refused(6) == "it is not your turn"
    await bob.connect()
    assert bob.session["true_id"] == true_id
    assert await bob.told() == (2, "X", 3)
    again = await bob.call("sit", {"match": "final"})
    assert (again["you"], again["turn"]) == ("O", "O")
    assert again["board"] == ["O", "", "X", "", "X", "", "", "", ""]
    assert (await bob.move(8))["ok"]
    assert await ann.told() == await bob.told() == (8, "O", 4)

    won = await ann.move(6)
    assert (won["winner"], won["turn"]) == ("X", None)
    assert await ann.told() == await bob.told() == (6, "X", 5)
    assert await bob.refused(1) == "you have no place in this match"
    assert matches(url) == 0
    for each in (ann, bob, cat):
        assert each.moves.empty()
        await each.client.disconnect()
        await each.client.shutdown()


def matches(url: str) -> int:
    with urllib.request.urlopen(f"{url}ext/referee/matches", timeout=SOON) as response:
        return int(json.load(response)["matches"])


def test_extensions_of_ours_import_nothing_else_of_the_gateway() -> None:
    files = list(FOLDER.glob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert not name.startswith("gateway") or name == "gateway.extension"
