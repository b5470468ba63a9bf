"""The Python client of the HTTP API against a real gateway."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from gateway.api_keys import SCOPES, ApiKeysFile
from gateway.client import LinkLost, RequestRefused, TimedOut
from gateway.client.api import GatewayApi
from gateway.config import Config
from gateway.server import Gateway
from tests.transport.client import Clients, connect_refused
from tests.transport.conftest import nothing_runs

pytestmark = pytest.mark.gen_test(timeout=60)


@pytest.fixture
def key(tmp_path: Path) -> str:
    (tmp_path / "state").mkdir()
    return ApiKeysFile(tmp_path / "state" / "api-keys").add("test", frozenset(SCOPES))[1]


@pytest.fixture
def gateway(io_loop: IOLoop, settings: Config, tmp_path: Path, key: str) -> Iterator[Gateway]:
    gateway = Gateway(settings, tmp_path / "state", {})
    io_loop.run_sync(gateway.start)
    yield gateway
    io_loop.run_sync(gateway.stop)
    io_loop.run_sync(nothing_runs)


@pytest.fixture
def connected(base_url: str, key: str) -> Callable[..., GatewayApi]:
    return lambda **options: GatewayApi(base_url, key, **options)


async def test_a_message_has_a_receipt_and_counts_once(
    clients: Clients, connected: Callable[..., GatewayApi]
) -> None:
    player = await clients.player()
    async with connected() as api:
        sent = await api.send(player.true_id, {"coins": 5}, type="reward", id="r-1")
        again = await api.send(player.true_id, {"coins": 5}, type="reward", id="r-1")
    message, _ = await player.event("message")
    assert (sent.id, sent.status, sent.connections) == (message["id"], "delivered", 1)
    assert (again.id, again.duplicate) == (sent.id, True)
    assert (message["from"], message["type"], message["data"]) == (None, "reward", {"coins": 5})


async def test_everybody_is_reached(clients: Clients, connected: Callable[..., GatewayApi]) -> None:
    players = [await clients.player() for _ in range(3)]
    async with connected() as api:
        sent = await api.send_all("news")
        assert (sent.players, sent.refused, sent.connections) == (3, 0, 3)
        for player in players:
            assert await player.message() == "news"
        assert (await api.send_all(1, volatile=True)).status == "delivered"


async def test_players_are_minted_looked_at_and_thrown_out(
    clients: Clients, connected: Callable[..., GatewayApi]
) -> None:
    async with connected() as api:
        minted = await api.mint("a/b?c", {"name": "Ada", "team": "red"})
        assert minted.token not in repr(minted)
        player = await clients.player(auth={"token": minted.token})
        found = await api.player("a/b?c")
        assert (found.true_id, found.state, found.name) == ("a/b?c", "active", "Ada")
        (session,) = found.sessions
        assert (session.session_id, session.connected) == (minted.session_id, True)
        assert session.attributes == {"name": "Ada", "team": "red"}
        assert (found.mailbox.messages, found.ban) == (0, None)
        assert [each.true_id async for each in api.players()] == ["a/b?c"]
        assert (await api.ban("a/b?c", reason="cheating")).reason == "cheating"
        await player.link.ended()
        assert (await api.player("a/b?c")).ban is not None
        await api.lift_ban("a/b?c")
        assert await api.revoke("a/b?c", minted.session_id) == 1
        assert await api.revoke("a/b?c") == 0
    link = await clients.link("websocket")
    assert await connect_refused(link, {"token": player.session["token"]}) == "session_revoked"


async def test_rooms_are_filled_and_spoken_to(
    clients: Clients, connected: Callable[..., GatewayApi], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.client.api._PAGE", 2)
    players = [await clients.player() for _ in range(3)]
    ids = [player.true_id for player in players]
    async with connected() as api:
        assert [await api.add_member("a/b", true_id) for true_id in ids] == [1, 2, 3]
        assert [member.true_id async for member in api.members("a/b")] == ids
        assert (await api.player(ids[0])).rooms == ("a/b",)
        assert (await api.publish("a/b", "hello", type="t")).connections == 3
        assert await api.remove_member("a/b", ids[0]) == 2
    for player in players:
        while (event := await player.event("room"))[0]["members"] != 3:
            assert event
        assert await player.message() == "hello"


async def test_all_pages_are_read(
    clients: Clients, connected: Callable[..., GatewayApi], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.client.api._PAGE", 2)
    players = [(await clients.player()).true_id for _ in range(5)]
    async with connected() as api:
        assert [each.true_id async for each in api.players()] == players


async def test_a_refusal_names_code_and_field(connected: Callable[..., GatewayApi]) -> None:
    async with connected() as api:
        with pytest.raises(RequestRefused) as caught:
            await api.send("nobody", 1)
        assert (caught.value.code, caught.value.field) == ("unknown_target", "target_id")
        with pytest.raises(RequestRefused) as caught:
            await api.mint("a b")
        assert (caught.value.code, caught.value.field) == ("bad_request", "true_id")


async def test_a_wrong_key_is_refused_and_not_shown(base_url: str, gateway: Gateway) -> None:
    api = GatewayApi(base_url, "gk_wrong")
    assert "gk_wrong" not in repr(api)
    async with api:
        with pytest.raises(RequestRefused) as caught:
            await api.player("x")
    assert caught.value.code == "unauthorized"
    assert "gk_wrong" not in str(caught.value)


@pytest.mark.settings(api={"requests_per_second": 5.0, "burst": 1})
async def test_who_is_asked_to_wait_waits(connected: Callable[..., GatewayApi]) -> None:
    async with connected() as api:
        for _ in range(3):
            assert [each async for each in api.players()] == []
    async with connected(patience=0.0) as api:
        calls = [api.mint("x") for _ in range(10)]
        codes = {
            answer.code
            for answer in await asyncio.gather(*calls, return_exceptions=True)
            if isinstance(answer, RequestRefused)
        }
    assert codes == {"rate_limited"}


@asynccontextmanager
async def broken(answer: bytes | None) -> AsyncIterator[str]:
    """A server that hangs up, or answers nonsense."""

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        if answer is not None:
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


async def test_a_gateway_that_is_away_is_tried_again_for_a_while() -> None:
    async with broken(None) as url, GatewayApi(url, "gk_x", patience=0.5) as api:
        with pytest.raises(LinkLost):
            await api.player("x")
    nonsense = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\nConnection: close\r\n\r\n<h1>"
    async with broken(nonsense) as url, GatewayApi(url, "gk_x", patience=0.5) as api:
        with pytest.raises(RequestRefused) as caught:
            await api.player("x")
        assert caught.value.code == "unavailable"
        assert "502" in str(caught.value)


async def test_a_gateway_that_hangs_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        async with GatewayApi(url, "gk_x", timeout=0.1, patience=0.0) as api:
            with pytest.raises(TimedOut):
                await api.player("x")


async def test_it_is_used_as_a_context_manager() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await GatewayApi("http://127.0.0.1:1", "gk_x").player("x")
