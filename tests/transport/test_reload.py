"""A reload: a running gateway takes over another configuration, and drops nobody."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest

from gateway.auth.users_file import UsersFile
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.messages import TrueId
from gateway.server import Gateway
from tests.transport.client import (
    TRANSPORTS,
    WEBSOCKETS,
    Clients,
    Pair,
    Player,
    connect_refused,
)
from tests.transport.conftest import change

pytestmark = pytest.mark.gen_test(timeout=60)

KEY = "a" * 40
OTHER_KEY = "b" * 40


async def reload(gateway: Gateway, **sections: dict[str, Any]) -> None:
    """Have the gateway take over its configuration with these keys changed."""
    config = change(gateway.config, **sections)
    await gateway.reload(lambda: config)


async def back(clients: Clients, player: Player) -> Player:
    """Come back by the player's token, once the gateway knows that it has gone."""
    await player.link.send("1")
    link = await clients.link("websocket")
    return await Player.log_in(link, {"token": player.session["token"]})


@WEBSOCKETS
async def test_nobody_is_dropped(gateway: Gateway, clients: Clients) -> None:
    pair = await Pair.meet(clients)
    await reload(gateway, limits={"burst": 5}, server={"allowed_origins": ("https://a.example",)})
    await pair.talk()
    assert len(gateway._engine) == 2


@WEBSOCKETS
@pytest.mark.settings(server={"allowed_origins": ("https://old.example",)})
async def test_origins(gateway: Gateway, clients: Clients) -> None:
    async def allowed(origin: str) -> bool:
        response = await clients.engine(headers={"Origin": origin})
        return response.code == 200

    assert (await allowed("https://old.example"), await allowed("https://new.example")) == (
        True,
        False,
    )
    await reload(gateway, server={"allowed_origins": ("https://new.example",)})
    assert (await allowed("https://old.example"), await allowed("https://new.example")) == (
        False,
        True,
    )


@WEBSOCKETS
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_limits_hold_for_connections_that_are_here(
    gateway: Gateway, clients: Clients, transport: str
) -> None:
    player = await clients.player(transport)
    assert (await player.send(player, "x" * 30_000))["ok"]
    await player.event("message")
    limits = {"message_bytes": 20_000, "messages_per_second": 0.001, "burst": 9}
    await reload(gateway, limits=limits)
    receipt = await player.send(player, "x" * 30_000)
    assert receipt["error"]["code"] == "too_large"
    codes = {(await player.send(player, "x"))["ok"] for _ in range(5)}
    assert codes == {True, False}
    # Newcomers are told.
    assert (await clients.player(transport)).session["limits"]["message_bytes"] == 20_000


@WEBSOCKETS
@pytest.mark.settings(limits={"message_bytes": 2048})
async def test_larger_messages_are_taken_from_newcomers(gateway: Gateway, clients: Clients) -> None:
    """Engine.IO tells how large a packet may be when a connection opens."""
    player = await clients.player("websocket")
    await reload(gateway, limits={"message_bytes": 60_000})
    for sender in [await clients.player(transport) for transport in TRANSPORTS]:
        assert (await sender.send(sender, "x" * 50_000))["ok"]
    assert (await player.send(player, "x" * 5_000))["ok"]


@pytest.mark.settings(limits={"connections_per_player": 1})
async def test_limits_on_connections(gateway: Gateway, clients: Clients) -> None:
    player = await clients.player("websocket")
    await reload(gateway, limits={"connections_per_address": 1})
    link = await clients.link("websocket")
    assert await connect_refused(link, {"guest": True}) == "rate_limited"
    await reload(gateway, limits={"connections_per_address": 0, "connections": 1})
    link = await clients.link("websocket")
    assert await connect_refused(link, {"guest": True}) == "server_full"
    assert (await player.send(player, 1))["ok"]


async def test_log_ins_that_are_switched_on_and_off(
    gateway: Gateway, clients: Clients, tmp_path: Path
) -> None:
    guest = await clients.player("websocket")
    UsersFile(tmp_path / "accounts", lambda: TrueId("p_ada")).add("ada", "correct horse battery")
    await reload(
        gateway,
        auth={
            "methods": ("password",),
            "password": change_password(gateway.config, file=str(tmp_path / "accounts")),
        },
    )
    credentials = {"username": "ada", "password": "correct horse battery"}
    assert (await clients.player("websocket", credentials)).true_id == "p_ada"
    link = await clients.link("websocket")
    assert await connect_refused(link, {"guest": True}) == "unsupported"
    # Who was let in comes back.
    assert (await back(clients, guest)).session["outcome"] == "resumed"
    # The accounts' owner is known: messages may wait.
    await gateway._check_accounts()
    await reload(gateway, auth={"methods": ("guest",)})
    assert (await clients.player("websocket")).session["outcome"] == "new"
    link = await clients.link("websocket")
    assert await connect_refused(link, credentials) == "unsupported"


def change_password(config: Config, **keys: Any) -> Any:
    return dataclasses.replace(config.auth.password, **keys)


# Keys


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.touch(mode=0o600)
    write(file, KEY)
    return file


def write(file: Path, *keys: str) -> None:
    file.write_text("".join(f"{key}\n" for key in keys))


@pytest.fixture
def settings(settings: Config, key_file: Path) -> Config:
    return change(settings, resume={"secret_keys": (), "secret_key_file": str(key_file)})


async def test_keys_that_are_rotated(gateway: Gateway, clients: Clients, key_file: Path) -> None:
    player = await clients.player("websocket")
    write(key_file, OTHER_KEY, KEY)
    await reload(gateway)
    player = await back(clients, player)
    assert player.session["outcome"] == "resumed"
    # Its token is signed by the new key now, so that the old one may go.
    write(key_file, OTHER_KEY)
    await reload(gateway)
    player = await back(clients, player)
    assert player.session["outcome"] == "resumed"
    write(key_file, "c" * 40)
    await reload(gateway)
    await player.link.send("1")
    link = await clients.link("websocket")
    assert await connect_refused(link, {"token": player.session["token"]}) == "token_invalid"


# Refused


async def refused(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> str:
    """Return the one complaint in the log, and take it out."""
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert record.levelno == logging.ERROR
    caplog.clear()
    assert gateway._refused
    return record.getMessage()


@pytest.mark.parametrize("damage", [(), ("short",)], ids=["no key", "a short key"])
async def test_a_file_that_is_wrong_changes_nothing_at_all(
    gateway: Gateway,
    clients: Clients,
    key_file: Path,
    caplog: pytest.LogCaptureFixture,
    damage: tuple[str, ...],
) -> None:
    pair = await Pair.meet(clients)
    write(key_file, *damage)
    before = gateway.config
    await reload(gateway, limits={"burst": 1, "messages_per_second": 0.001})
    assert str(key_file) in await refused(gateway, caplog)
    assert gateway.config is before
    for _ in range(3):
        await pair.talk()
    # And once it is mended, all of it holds.
    write(key_file, KEY)
    await reload(gateway, limits={"burst": 7})
    assert gateway.config.limits.burst == 7
    assert not gateway._refused


async def test_what_the_loader_refuses_changes_nothing(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    def load() -> Config:
        raise ConfigError("gateway.yaml:3: server.prot: unknown key")

    before = gateway.config
    await gateway.reload(load)
    assert "gateway.yaml:3: server.prot: unknown key" in await refused(gateway, caplog)
    assert gateway.config is before


async def test_what_contradicts_a_key_that_waits_is_refused(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    """The largest message would not fit the mailbox, which is enlarged only by a restart."""
    await reload(
        gateway,
        limits={"message_bytes": 2_000_000, "send_buffer_bytes": 4_000_000},
        mailbox={"max_bytes": 4_000_000},
    )
    assert "mailbox.max_bytes" in await refused(gateway, caplog)
    assert gateway.config.limits.message_bytes == 65_536


@pytest.mark.expects_warnings
async def test_keys_that_need_a_restart_are_named(
    gateway: Gateway, clients: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    await reload(gateway, server={"ping_interval": 1.0}, store={"url": "memory://"})
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert record.getMessage() == "a restart is needed for server.ping_interval, store.url"
    assert gateway.config.store.url != "memory://"
    assert (await clients.fetch("/readyz")).code == 200


async def test_a_fault_that_nobody_foresaw_is_told_systemd_as_the_end_of_the_reload(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, ...]] = []
    monkeypatch.setattr(gateway._notifier, "notify", lambda *lines: told.append(lines))

    def load() -> Config:
        raise RuntimeError("not foreseen")

    with pytest.raises(RuntimeError):
        await gateway.reload(load)
    assert [lines[0] for lines in told] == ["RELOADING=1", "READY=1"]
