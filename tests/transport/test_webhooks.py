"""Webhooks over real HTTP: a backend that is well, fails, hangs, lies, is down; and kill -9."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from gateway.api_keys import ApiKeysFile
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.posting import PostFailed
from gateway.server import Gateway
from gateway.transport.webhook_client import ClientLimits, WebhookClient
from tests.gateway_process import GatewayProcess, program
from tests.transport.client import Clients
from tests.transport.conftest import change, nothing_runs
from tests.transport.test_api import Backend as Operator
from tests.waiting import until
from tests.webhook_receiver import SECRET, Receiver

pytestmark = pytest.mark.gen_test(timeout=120)


@pytest.fixture
def receiver(io_loop: IOLoop) -> Iterator[Receiver]:
    receiver = io_loop.run_sync(started)
    yield receiver
    io_loop.run_sync(receiver.stop)


async def started() -> Receiver:
    return Receiver()


@pytest.fixture
def gateway(
    io_loop: IOLoop,
    settings: Config,
    tmp_path: Path,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Gateway]:
    monkeypatch.setattr("gateway.webhooks._FIRST_PAUSE", 0.02)
    secret_file = tmp_path / "secret"
    secret_file.write_text(SECRET)
    secret_file.chmod(0o600)
    webhooks = {"url": receiver.url, "secret_file": str(secret_file), "max_backoff": 0.1}
    config = change(settings, presence={"grace": 0.05, "settle": 0.01})
    given = dataclasses.asdict(config.webhooks)
    default = dataclasses.asdict(Config().webhooks)
    changed = {key: value for key, value in given.items() if value != default[key]}
    gateway = Gateway(change(config, webhooks=webhooks | changed), tmp_path / "state", {})
    io_loop.run_sync(gateway.start)
    yield gateway
    io_loop.run_sync(gateway.stop)
    io_loop.run_sync(nothing_runs)


async def until_metrics(clients: Clients, *lines: str) -> None:
    """Wait until the metrics have these lines."""
    metrics = ""
    async with asyncio.timeout(20):
        while not all(line in metrics for line in lines):
            metrics = (await clients.fetch("/metrics")).body.decode()


async def test_a_player_is_followed_from_coming_to_going(
    clients: Clients, receiver: Receiver, gateway: Gateway
) -> None:
    player = await clients.player(auth={"guest": True, "name": "Ann"})
    await until(lambda: len(receiver.events) == 2)
    await player.emit("logout", {})
    await until(lambda: len(receiver.events) == 4)
    types = receiver.types(player.true_id)
    assert set(types[:2]) == {"session.new", "player.online"}
    assert set(types[2:]) == {"session.revoked", "player.offline"}
    by_type = {event["type"]: event for event in receiver.events}
    assert by_type["session.new"]["data"] == {
        "session_id": player.session["session_id"],
        "name": "Ann",
        "method": "guest",
        "attributes": {},
    }
    assert by_type["session.revoked"]["data"]["reason"] == "logout"
    assert by_type["player.offline"]["data"] == {}
    await until_metrics(
        clients,
        'gateway_webhooks_total{result="sent"} 4.0',
        "gateway_webhooks_queued 0.0",
        "gateway_webhooks_lag_seconds 0.0",
    )


async def test_a_request_is_json_and_signed_and_goes_to_the_url(
    clients: Clients, receiver: Receiver
) -> None:
    await clients.player()
    await until(lambda: len(receiver.events) == 2)
    for body, headers in receiver.requests:
        assert headers["Content-Type"] == "application/json"
        assert set(json.loads(body)) == {"id", "type", "ts", "true_id", "data"}
        assert abs(int(headers["Webhook-Timestamp"]) - json.loads(body)["ts"]) < 60
        assert SECRET not in str(headers)


async def test_a_player_who_is_back_within_the_grace_was_never_gone(
    clients: Clients, receiver: Receiver, gateway: Gateway
) -> None:
    player = await clients.player()
    await player.link.send("41")
    again = await clients.player(auth={"token": player.session["token"]})
    assert again.session["resumed"]
    await until(lambda: "player.online" in receiver.types())
    await asyncio.sleep(0.2)
    assert receiver.types().count("player.online") == 1
    assert "player.offline" not in receiver.types()


@pytest.mark.expects_warnings
async def test_a_backend_that_fails_gets_everything_later_in_order(
    clients: Clients, receiver: Receiver
) -> None:
    receiver.status = lambda event: 500
    player = await clients.player()
    await until(lambda: len(receiver.requests) > 3)
    await player.emit("logout", {})
    assert receiver.events == []
    receiver.status = lambda event: 204
    await until(lambda: len(receiver.once()) == 4)
    numbers = [int(event["id"].split(".")[1]) for event in receiver.once()]
    assert numbers == sorted(numbers)


@pytest.mark.expects_warnings
@pytest.mark.settings(webhooks={"timeout": 0.2})
async def test_a_backend_that_hangs_is_asked_again(clients: Clients, receiver: Receiver) -> None:
    receiver.hang = True
    await clients.player()
    await until(lambda: receiver.hung >= 2)
    receiver.hang = False
    await until(lambda: len(receiver.once()) == 2)
    await receiver.stop()


@pytest.mark.expects_warnings
async def test_a_backend_that_is_down_misses_nothing(clients: Clients, receiver: Receiver) -> None:
    await receiver.stop()
    players = [await clients.player() for _ in range(5)]
    await until_metrics(
        clients, "gateway_webhooks_circuit_open 1.0", "gateway_webhooks_queued 10.0"
    )
    receiver.start()
    await until(lambda: len(receiver.once()) == 10)
    for player in players:
        assert set(receiver.types(player.true_id)) == {"session.new", "player.online"}


@pytest.mark.expects_warnings
async def test_a_redirect_is_not_followed(clients: Clients, receiver: Receiver) -> None:
    receiver.headers = {"Location": receiver.url}
    receiver.status = lambda event: 307
    await clients.player()
    await until(lambda: len(receiver.requests) >= 3)
    assert receiver.events == []
    receiver.status = lambda event: 200
    await until(lambda: len(receiver.once()) == 2)


@pytest.mark.expects_warnings
@pytest.mark.settings(webhooks={"attempts": 2})
async def test_what_is_refused_is_given_up_and_kept(
    clients: Clients, receiver: Receiver, gateway: Gateway
) -> None:
    receiver.status = lambda event: 400 if event["type"] == "session.new" else 200
    await clients.player()
    await until(lambda: gateway._store.dead_webhooks == 1)
    (dead,) = await gateway._store.list_dead_webhooks(10)
    assert (dead.webhook.event.type, dead.reason) == ("session.new", "HTTP status 400")
    await until(lambda: receiver.types() == ["player.online"])


@pytest.mark.expects_warnings
@pytest.mark.settings(webhooks={"attempts": 2})
async def test_what_was_given_up_is_listed_sent_again_and_forgotten(
    clients: Clients, receiver: Receiver, gateway: Gateway, tmp_path: Path
) -> None:
    keys = ApiKeysFile(tmp_path / "state" / "api-keys")
    operator = Operator(clients, keys.add("operator", frozenset({"admin"}))[1])
    receiver.status = lambda event: 400 if event["type"] == "session.new" else 200
    players = [await clients.player() for _ in range(3)]
    await until(lambda: gateway._store.dead_webhooks == 3)
    listed = await operator.ok("GET", "/webhooks/dead")
    assert listed["dead"] == 3
    assert (await operator.ok("GET", "/webhooks/dead?limit=1"))["webhooks"] == listed["webhooks"][
        :1
    ]
    assert {each["true_id"] for each in listed["webhooks"]} == {each.true_id for each in players}
    one, two, _ = listed["webhooks"]
    assert one["reason"] == "HTTP status 400"
    assert one["data"]["session_id"] in {each.session["session_id"] for each in players}
    # Still refused, it comes back.
    path = f"/webhooks/dead/{one['id']}"
    assert await operator.ok("POST", f"{path}/retry") == {"ok": True, "webhooks": 1}
    await until(lambda: gateway._store.dead_webhooks == 3)
    receiver.status = lambda event: 200
    assert await operator.ok("POST", f"{path}/retry") == {"ok": True, "webhooks": 1}
    await until(lambda: "session.new" in receiver.types())
    (sent,) = (event for event in receiver.events if event["type"] == "session.new")
    assert sent == {key: one[key] for key in ("id", "type", "ts", "true_id", "data")}
    assert await operator.ok("POST", f"{path}/retry") == {"ok": True, "webhooks": 0}
    path = f"/webhooks/dead/{two['id']}"
    assert await operator.ok("DELETE", path) == {"ok": True, "webhooks": 1}
    assert await operator.ok("POST", "/webhooks/dead/retry") == {"ok": True, "webhooks": 1}
    await until(lambda: receiver.types().count("session.new") == 2)
    assert await operator.ok("DELETE", "/webhooks/dead") == {"ok": True, "webhooks": 0}
    assert (await operator.ok("GET", "/webhooks/dead")) == {"webhooks": [], "dead": 0}
    assert [event["type"] for event in receiver.events].count("player.online") == 3


@pytest.mark.settings(mailbox={"retention": 0.05})
async def test_messages_that_expire_unread_are_told(
    clients: Clients, receiver: Receiver, gateway: Gateway
) -> None:
    player = await clients.player()
    await player.link.send("41")
    await until(lambda: "player.offline" in receiver.types())
    sender = await clients.player()
    for number in range(3):
        request = {"target_id": player.true_id, "data": number}
        assert (await sender.call("message", request))["status"] == "queued"
    await asyncio.sleep(0.1)
    await gateway._store.expire(time.time())
    await until(lambda: "message.expired" in receiver.types(player.true_id))
    expired = [event for event in receiver.once() if event["type"] == "message.expired"]
    assert sum(event["data"]["messages"] for event in expired) == 3


# Configuration


async def test_a_url_without_a_secret_is_refused(settings: Config, tmp_path: Path) -> None:
    config = change(settings, webhooks={"url": "https://backend.example"})
    with pytest.raises(ConfigError, match=r"webhooks\.secret_file: must be given"):
        Gateway(config, tmp_path / "state", {})


async def test_the_secret_may_be_a_credential(settings: Config, tmp_path: Path) -> None:
    (tmp_path / "webhook-secret").write_text(SECRET)
    (tmp_path / "webhook-secret").chmod(0o600)
    config = change(settings, webhooks={"url": "https://backend.example"})
    gateway = Gateway(config, tmp_path / "state", {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    await gateway.start()
    await gateway.stop()


async def test_certificates_that_are_none_are_refused(settings: Config, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "ca.pem").write_text("no certificate")
    webhooks = {
        "url": "https://backend.example",
        "secret_file": str(tmp_path / "secret"),
        "ca_file": str(tmp_path / "ca.pem"),
    }
    with pytest.raises(ConfigError, match=r"webhooks\.ca_file: .*ca\.pem cannot be used"):
        Gateway(change(settings, webhooks=webhooks), tmp_path / "state", {})


# HTTPS


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "own.pem"
    subprocess.run(
        [
            *(program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", path, "-out", path.with_suffix(".crt")),
        ],
        check=True,
        capture_output=True,
    )
    return path


async def test_only_a_certificate_that_is_trusted_is_spoken_to(
    certificate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.with_suffix(".crt"), certificate)
    receiver = Receiver(context)
    receiver.status = lambda event: 200
    stranger = WebhookClient(receiver.url, ClientLimits(5.0, 5.0, 1, 65_536), "")
    with pytest.raises(PostFailed, match=r"(?i)certificate"):
        await stranger.post(b"{}", {})
    friend = WebhookClient(
        receiver.url, ClientLimits(5.0, 5.0, 1, 65_536), str(certificate.with_suffix(".crt"))
    )
    # It has no signature, so the backend fails; but it was reached.
    with caplog.at_level("CRITICAL"):
        response = await friend.post(b"{}", {})
    assert response.status == 500
    assert len(receiver.requests) == 1
    for client in (stranger, friend):
        client.close()
    await receiver.stop()
    caplog.clear()


# The gateway dies


async def test_nothing_is_lost_or_out_of_order_when_the_gateway_is_killed(
    tmp_path: Path, receiver: Receiver
) -> None:
    """Players come and go while the gateway is killed again and again, and the backend fails."""
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o600)
    config: dict[str, Any] = {
        "presence": {"grace": 0.3, "settle": 0.1},
        "webhooks": {"url": receiver.url, "secret_file": "secret", "max_backoff": 0.2},
    }
    process = GatewayProcess(tmp_path, config=config)
    sessions: list[tuple[str, str]] = []
    answers = 0

    def status(event: dict[str, Any]) -> int:
        nonlocal answers
        answers += 1
        return 503 if answers % 5 == 0 else 200

    receiver.status = status
    for life in range(6):
        process.start()
        async with Clients(process.url) as clients:
            for _ in range(10):
                player = await clients.player()
                sessions.append((player.true_id, player.session["session_id"]))
                if life % 2:
                    assert (await player.call("logout", {}))["ok"]
            process.kill()
    process.start()
    players = {true_id for true_id, _ in sessions}

    def complete() -> bool:
        told = receiver.once()
        online = {event["true_id"] for event in told if event["type"] == "player.online"}
        offline = {event["true_id"] for event in told if event["type"] == "player.offline"}
        opened = {event["true_id"] for event in told if event["type"] == "session.new"}
        return opened == players and online == offline

    await until(complete, 60)
    process.close()
    new = [
        (event["true_id"], event["data"]["session_id"])
        for event in receiver.once()
        if event["type"] == "session.new"
    ]
    assert sorted(new) == sorted(sessions)
    for true_id in players:
        numbers = [
            int(event["id"].split(".")[1])
            for event in receiver.once()
            if event["true_id"] == true_id
        ]
        assert numbers == sorted(numbers)
        presence = [each for each in receiver.types(true_id) if each.startswith("player.")]
        assert presence in ([], ["player.online", "player.offline"])
    # A player who was connected for a while before the kill was told of.
    assert sum(event["type"] == "player.online" for event in receiver.once()) > len(players) / 2
