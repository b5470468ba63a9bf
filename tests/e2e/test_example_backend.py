"""A game's backend beside a gateway that is killed: log-ins, messages and webhooks."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.api_keys import ApiKeysFile
from gateway.client import ConnectRefused, GatewayClient, Keys, Message, connect
from gateway.client.api import GatewayApi
from tests.e2e.example_backend import SECRET, TICKETS, ExampleBackend
from tests.gateway_process import GatewayProcess
from tests.waiting import until

pytestmark = pytest.mark.gen_test(timeout=240)

NEWS = 20


class Hero:
    """A player, and what came."""

    def __init__(self, game: GatewayClient) -> None:
        self.game = game
        self.messages: list[Message] = []
        self.lives = 0
        game.on("message", self.messages.append)
        game.on("session", self._on_session)

    def _on_session(self, session: object) -> None:
        self.lives += 1

    def got(self, kind: str) -> list[object]:
        return [message.data for message in self.messages if message.type == kind]


async def test_nothing_is_lost_between_backend_gateway_and_players(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o600)
    key = ApiKeysFile(tmp_path / "api-keys").add("game", frozenset({"send", "read"}))[1]
    backend = ExampleBackend()
    secret = str(tmp_path / "secret")
    config = {
        "auth": {
            "methods": ["webhook"],
            "webhook": {"url": f"{backend.url}/log-in", "secret_file": secret},
        },
        "api": {"keys_file": str(tmp_path / "api-keys")},
        "webhooks": {"url": f"{backend.url}/events", "secret_file": secret},
        "presence": {"grace": 20.0},
    }
    gateway = GatewayProcess(tmp_path, config=config)
    await asyncio.to_thread(gateway.start)
    try:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(backend.stop)
            api = await stack.enter_async_context(GatewayApi(gateway.url, key))
            backend.api = api
            with pytest.raises(ConnectRefused, match="No ticket"):
                async with connect(gateway.url, Keys({"ticket": "forged"})):
                    pass
            heroes: dict[str, Hero] = {}
            for ticket, true_id in TICKETS.items():
                client = connect(gateway.url, Keys({"ticket": ticket}))
                hero = Hero(client)
                await stack.enter_async_context(client)
                assert hero.game.true_id == true_id
                heroes[true_id] = hero

            async def tell(true_id: str) -> None:
                for number in range(NEWS):
                    await api.send(true_id, number, type="news", id=f"{true_id} {number}")
                    await asyncio.sleep(0.05)

            telling = [asyncio.create_task(tell(true_id), name="tell") for true_id in heroes]
            for lives in (2, 3):
                await asyncio.sleep(0.3)
                await asyncio.to_thread(gateway.kill)
                await asyncio.to_thread(gateway.start)
                await until(lambda: all(hero.lives >= lives for hero in heroes.values()))  # noqa: B023
            await asyncio.gather(*telling)
            await until(
                lambda: (
                    all(len(hero.got("news")) >= NEWS for hero in heroes.values())
                    and all(hero.got("welcome") for hero in heroes.values())
                    and all("player.online" in backend.types_of(each) for each in heroes)
                )
            )
            await backend.settled()
            # Resumed by their tokens: nobody was asked again who they are.
            assert Counter(backend.log_ins) == Counter(list(heroes))
            for hero in heroes.values():
                await hero.game.logout()
            await until(
                lambda: (
                    all("player.offline" in backend.types_of(each) for each in heroes)
                    and all("session.revoked" in backend.types_of(each) for each in heroes)
                )
            )
            for true_id, hero in heroes.items():
                assert hero.got("news") == list(range(NEWS))
                assert hero.got("welcome") == ["welcome"]
                types = backend.types_of(true_id)
                assert sorted(types[:2]) == ["player.online", "session.new"]
                assert sorted(types[2:]) == ["player.offline", "session.revoked"]
    finally:
        await asyncio.to_thread(gateway.kill)
