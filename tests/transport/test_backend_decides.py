"""The game's backend decides who somebody is and where they may go: over real sockets."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import socketio
from tornado.ioloop import IOLoop

from gateway.api_keys import SCOPES, ApiKeysFile
from gateway.config import Config
from gateway.server import Gateway
from tests.questioned_backend import SECRET, QuestionedBackend, response
from tests.transport.client import TRANSPORTS, WEBSOCKETS, Clients, Player, soon
from tests.transport.conftest import change, nothing_runs
from tests.waiting import until

pytestmark = pytest.mark.gen_test(timeout=60)

ADA = {"true_id": "u-1", "name": "Ada", "attributes": {"team": "red"}}


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir()
    return path


@pytest.fixture
def secret_file(tmp_path: Path) -> str:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def backend(io_loop: IOLoop) -> Iterator[QuestionedBackend]:
    """Who players are by their ticket, and which rooms they may join."""
    backend = QuestionedBackend()

    def answer(question: dict[str, Any]) -> object:
        if question["type"] == "join":
            return {"allow": question["attributes"].get("team") == question["room"]}
        if question["auth"].get("ticket") == "good":
            return ADA
        return response(401, {"error": {"code": "bad_credentials", "message": "Unknown ticket"}})

    backend.answer = answer
    io_loop.run_sync(backend.start)
    yield backend
    io_loop.run_sync(backend.stop)


@pytest.fixture
def gateway(
    io_loop: IOLoop,
    request: pytest.FixtureRequest,
    settings: Config,
    backend: QuestionedBackend,
    state_dir: Path,
    secret_file: str,
) -> Iterator[Gateway]:
    webhook = {"url": backend.url, "secret_file": secret_file, "timeout": 2.0}
    for mark in reversed(list(request.node.iter_markers("webhook"))):
        webhook |= mark.kwargs
    config = change(
        settings,
        auth={
            "methods": ("webhook", "guest"),
            "webhook": type(settings.auth.webhook)(**webhook),
        },
        rooms={"open": False, "webhook": type(settings.rooms.webhook)(**webhook)},
    )
    gateway = Gateway(config, state_dir, {})
    io_loop.run_sync(gateway.start)
    yield gateway
    io_loop.run_sync(gateway.stop)
    io_loop.run_sync(nothing_runs)


async def log_in(clients: Clients, transport: str = "websocket", **auth: object) -> Player:
    return await Player.log_in(await clients.link(transport), auth or {"ticket": "good"})


async def refused(clients: Clients, transport: str = "websocket", **auth: object) -> Any:
    """Return what a refused CONNECT is told."""
    link = await clients.link(transport)
    await link.send("40" + json.dumps(auth or {"ticket": "good"}))
    packet = str(await link.receive())
    assert packet.startswith("44"), packet
    return json.loads(packet[2:])


@WEBSOCKETS
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_player_is_who_the_backend_says(
    clients: Clients, backend: QuestionedBackend, transport: str
) -> None:
    player = await log_in(clients, transport)
    said = {key: player.session[key] for key in ("true_id", "name", "attributes", "outcome")}
    assert said == {**ADA, "outcome": "new"}
    assert backend.questions == [
        {"type": "auth", "auth": {"ticket": "good"}, "address": "127.0.0.1"}
    ]
    headers, body = backend.requests[0]
    signed = headers["webhook-timestamp"].encode() + b"." + body
    digest = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert headers["webhook-signature"] == f"v1={digest}"


async def test_what_only_the_gateway_understands_is_not_handed_on(
    clients: Clients, backend: QuestionedBackend
) -> None:
    await log_in(clients, ticket="good", pid="stale", offset="old", recovery=False)
    assert backend.questions[0]["auth"] == {"ticket": "good"}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_whom_the_backend_refuses_is_told_why(clients: Clients, transport: str) -> None:
    told = await refused(clients, transport, ticket="bad")
    data = {"code": "bad_credentials", "reconnect": False, "retry_after": None}
    assert told == {"message": "Unknown ticket", "data": data}
    guest = await log_in(clients, transport, guest=True)
    assert guest.true_id.startswith("p_")
    # On the same connection, too, with something better.
    link = await clients.link(transport)
    await link.send('40{"ticket":"bad"}')
    assert str(await link.receive()).startswith("44")
    assert (await Player.log_in(link, {"ticket": "good"})).true_id == "u-1"


@pytest.mark.expects_warnings
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_outage_stops_newcomers_and_nobody_else(
    clients: Clients, backend: QuestionedBackend, transport: str
) -> None:
    player = await log_in(clients, transport)
    other = await log_in(clients, transport, guest=True)
    asked = len(backend.questions)
    await backend.stop()
    for _ in range(8):
        told = await refused(clients, transport)
        assert told["data"]["code"] == "unavailable"
        assert told["data"]["reconnect"]
        assert told["data"]["retry_after"] >= 1
    metrics = (await clients.fetch("/metrics")).body.decode()
    assert "gateway_auth_webhook_circuit_open 1.0" in metrics
    assert 'gateway_auth_webhook_questions_total{result="failed"} 5.0' in metrics
    assert 'gateway_auth_webhook_questions_total{result="not_asked"} 3.0' in metrics
    # Who has a session comes back: by token after a reload, and by pid after a lost link.
    await player.link.send("1")
    await other.send(player, "waited")
    again = await log_in(clients, transport, token=player.session["token"])
    assert (again.true_id, again.session["resumed"]) == ("u-1", True)
    assert again.session["attributes"] == {"team": "red"}
    assert await again.message() == "waited"
    await again.link.send("1")
    back = await log_in(clients, transport, pid=again.pid, ticket="stale")
    assert (back.session["outcome"], back.pid) == ("resumed", again.pid)
    assert len(backend.questions) == asked
    # The backend is back: so are newcomers, after the pause at most.
    await backend.start()

    async with asyncio.timeout(30):
        answer = ""
        while not answer.startswith("40"):
            link = await clients.link(transport)
            await link.send('40{"ticket":"good"}')
            answer = str(await link.receive())


@pytest.mark.expects_warnings
@pytest.mark.webhook(timeout=0.5, connect_timeout=0.5)
async def test_a_backend_that_hangs_holds_nobody_up_for_long(
    clients: Clients, backend: QuestionedBackend
) -> None:
    backend.hang = True
    told = await soon(refused(clients))
    assert told["data"]["code"] == "unavailable"
    assert (await log_in(clients, guest=True)).true_id
    backend.release()
    assert (await log_in(clients)).true_id == "u-1"


@pytest.mark.expects_warnings
@pytest.mark.parametrize(
    "raw",
    [
        b"garbage\r\n\r\n",
        response(200, b"<html>"),
        response(200, {"true_id": ["u-1"]}),
        response(200, b"x" * 100_000),
        response(302, ADA, "Location: http://127.0.0.1:1/"),
        response(500, ADA),
    ],
    ids=["garbage", "html", "types", "huge", "redirect", "fault"],
)
async def test_an_answer_that_is_none_lets_nobody_in(
    clients: Clients, backend: QuestionedBackend, raw: bytes
) -> None:
    backend.answer = lambda question: raw
    told = await refused(clients)
    assert told["data"]["code"] == "unavailable"
    assert "html" not in told["message"]


async def test_a_client_that_does_not_wait_leaves_nothing_behind(
    clients: Clients, backend: QuestionedBackend, gateway: Gateway
) -> None:
    backend.hang = True
    link = await clients.link("websocket")
    await link.send('40{"ticket":"good"}')
    await until(lambda: backend.hung == 1)
    await link.send("1")
    backend.release()
    await clients.until_connections(0)
    assert gateway._store.session_count == 0
    assert (await log_in(clients)).session["outcome"] == "new"


async def test_the_backend_is_asked_after_a_reload_by_the_new_rules(
    clients: Clients, backend: QuestionedBackend, gateway: Gateway
) -> None:
    backend.answer = lambda question: {"true_id": "jwt:7"}
    webhook = dataclasses.replace(gateway.config.auth.webhook, accept_other_ids=True)
    config = change(gateway.config, auth={"webhook": webhook})
    await gateway.reload(lambda: config)
    assert (await log_in(clients)).true_id == "jwt:7"
    without = change(config, auth={"methods": ("guest",)})
    await gateway.reload(lambda: without)
    assert (await refused(clients))["data"]["code"] == "bad_credentials"
    await gateway.reload(lambda: config)
    assert (await log_in(clients)).true_id == "jwt:7"
    assert len(backend.questions) == 2


async def test_attributes_are_seen_through_the_api(clients: Clients, state_dir: Path) -> None:
    _, key = ApiKeysFile(state_dir / "api-keys").add("backend", frozenset(SCOPES))
    player = await log_in(clients)
    headers = {"Authorization": f"Bearer {key}"}
    answer = await clients.fetch("/api/v1/players/u-1", headers=headers)
    assert answer.code == 200, answer.body
    seen = json.loads(answer.body)
    assert [(each["name"], each["attributes"]) for each in seen["sessions"]] == [
        ("Ada", {"team": "red"})
    ]
    assert player.session["session_id"] == seen["sessions"][0]["session_id"]


async def test_a_stock_client_logs_in_and_joins(gateway: Gateway, base_url: str) -> None:
    client = socketio.AsyncClient()
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    client.on("session", told.set_result)
    client.on("room", lambda payload: None)
    try:
        auth = {"ticket": "good", "recovery": False}
        await client.connect(base_url, auth=auth, wait_timeout=15)
        assert (await soon(told))["true_id"] == "u-1"
        assert await client.call("join", {"room": "red"}, timeout=15) == {"ok": True, "members": 1}
    finally:
        await client.disconnect()
    stranger = socketio.AsyncClient()
    errors: list[Any] = []
    stranger.on("connect_error", errors.append)
    with pytest.raises(socketio.exceptions.ConnectionError):
        await stranger.connect(base_url, auth={"ticket": "bad"}, wait_timeout=15)
    await stranger.disconnect()
    assert [error["message"] for error in errors] == ["Unknown ticket"]


# Rooms


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_backend_says_who_may_join(
    clients: Clients, backend: QuestionedBackend, transport: str
) -> None:
    player = await log_in(clients, transport)
    assert await player.call("join", {"room": "red"}) == {"ok": True, "members": 1}
    error = (await player.call("join", {"room": "blue"}))["error"]
    assert (error["code"], error["field"]) == ("forbidden", "room")
    joins = [question for question in backend.questions if question["type"] == "join"]
    assert joins == [
        {"type": "join", "true_id": "u-1", "room": room, "attributes": {"team": "red"}}
        for room in ("red", "blue")
    ]
    assert (await player.call("publish", {"room": "red", "data": 1}))["ok"]
    # A member is not asked about again.
    assert await player.call("join", {"room": "red"}) == {"ok": True, "members": 1}
    assert len(backend.questions) == 3


@pytest.mark.expects_warnings
async def test_nobody_joins_while_the_backend_is_away_and_members_stay(
    clients: Clients, backend: QuestionedBackend
) -> None:
    player = await log_in(clients)
    assert (await player.call("join", {"room": "red"}))["ok"]
    assert (await player.call("join", {"room": "blue"}))["error"]["code"] == "forbidden"
    await backend.stop()
    for _ in range(7):
        error = (await player.call("join", {"room": "blue"}))["error"]
        assert (error["code"], error["retry_after"] >= 1) == ("unavailable", True)
    assert (await player.call("publish", {"room": "red", "data": 1}))["ok"]
    metrics = (await clients.fetch("/metrics")).body.decode()
    assert 'gateway_rooms_webhook_questions_total{result="allowed"} 1.0' in metrics
    assert 'gateway_rooms_webhook_questions_total{result="refused"} 1.0' in metrics
    assert 'gateway_rooms_webhook_questions_total{result="failed"} 5.0' in metrics
    assert 'gateway_rooms_webhook_questions_total{result="not_asked"} 2.0' in metrics
    # One of both may be away without the other.
    assert "gateway_rooms_webhook_circuit_open 1.0" in metrics
    assert "gateway_auth_webhook_circuit_open 0.0" in metrics
    assert "gateway_auth_webhook_seconds_count 1.0" in metrics
