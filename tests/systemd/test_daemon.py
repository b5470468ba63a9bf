"""The gateway as a daemon of a systemd that really runs, with players who lose nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import pytest
import yaml

from tests.faults.checker import check
from tests.faults.fleet import Fleet
from tests.faults.link import Link, LinkLost
from tests.faults.player import Pace
from tests.gateway_process import TIMEOUT
from tests.systemd.machine import Machine
from tests.transport.client import Clients, Player

pytestmark = pytest.mark.gen_test(timeout=120)

ADDRESS: Final = ("127.0.0.1", 8080)
URL: Final = "http://127.0.0.1:8080"
PLAYERS: Final = 12
#: Receipts that show that messages flow.
SOME: Final = 60
#: Restarts take a little over four seconds: players come back in three.
CONFIG: Final[dict[str, Any]] = {
    "server": {"shutdown_grace": 10, "reconnects_per_second": 4},
    "mailbox": {"max_messages": 0, "max_bytes": 0, "total_bytes": 0, "dedupe_keys": 1_000_000},
    "limits": {"connections_per_address": 0, "messages_per_second": 0, "burst": 0},
}
WATCHDOG: Final = "[Service]\nWatchdogSec=2s\n"


class Daemon:
    """gateway.service in the machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def show(self, name: str) -> str:
        """Return a property of the unit."""
        return self.machine.run(f"systemctl show --property {name} --value gateway").strip()

    @property
    def restarts(self) -> int:
        """How often systemd has started it again by itself."""
        return int(self.show("NRestarts"))

    @property
    def log(self) -> str:
        """What it has logged since the machine booted."""
        return self.machine.run("journalctl --boot --unit gateway --output cat")

    async def run(self, script: str) -> str:
        """Run a script while players go on."""
        return await asyncio.to_thread(self.machine.run, script)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that only systemd can tell."""
        deadline = time.monotonic() + TIMEOUT
        while not await asyncio.to_thread(condition):
            assert time.monotonic() < deadline, self.log
            await asyncio.sleep(0.1)


@pytest.fixture
def socket_unit(request: pytest.FixtureRequest) -> bool:
    """Whether systemd holds the listening socket."""
    return bool(getattr(request, "param", False))


@pytest.fixture
def daemon(machine: Machine, socket_unit: bool) -> Iterator[Daemon]:
    """The gateway, started, as the page installs it but for its configuration."""
    machine.run(
        "systemctl stop 'gateway*.socket' 'gateway*.service' 2>&1;"
        "rm -rf /etc/systemd/system/gateway*.d /etc/systemd/system/gateway@green.socket"
        " /etc/systemd/system/gateway-nodes.socket /etc/credstore/game-gateway*;"
        "systemctl reset-failed"
    )
    machine.write("/etc/game-gateway/gateway.yaml", yaml.safe_dump(CONFIG))
    machine.write("/run/systemd/system/gateway.service.d/watchdog.conf", WATCHDOG)
    units = "gateway.socket gateway.service" if socket_unit else "gateway.service"
    machine.run(f"systemctl daemon-reload; systemctl start {units}")
    with machine.network():
        yield Daemon(machine)


@contextlib.asynccontextmanager
async def players(seed: int = 1) -> AsyncIterator[Fleet]:
    """Players who write to each other all the time; at the end nothing may be missing."""
    chance = random.Random(seed)
    async with Fleet(PLAYERS, lambda: ADDRESS, Pace(), chance) as fleet:
        await fleet.flows(SOME)
        yield fleet
        await fleet.flows(SOME)
        await fleet.settle(TIMEOUT)
    findings = check(fleet.log)
    assert findings.clean, findings
    assert findings.arrived == fleet.acked


def test_every_command_of_the_page_works(machine: Machine, page: list[str]) -> None:
    assert len(page) > 10
    for block in page[3:]:
        machine.run(block)
    assert (
        machine.run(
            "systemctl is-active gateway gateway@blue gateway@green gateway-node@1 gateway-node@2"
        ).split()
        == ["active"] * 5
    )
    assert machine.run("curl -sf http://127.0.0.1:8080/readyz") == "ok\n"
    states = machine.run("cd /var/lib/private; stat --format '%n %a %U' *").splitlines()
    assert states == [
        *(f"game-gateway{name} 700 game-gateway{name}" for name in ("", "-blue", "-green")),
        *(f"game-gateway-node-{number} 700 game-gateway-nodes" for number in (1, 2)),
    ]
    # Both nodes are on the store, and none that was stopped before.
    assert machine.run("redis-cli zcard 'gw:{0}:nodes'").split() == ["2"]


async def test_it_is_ready_when_systemctl_returns_and_says_how_it_is(daemon: Daemon) -> None:
    async with Clients(URL) as clients:
        assert (await clients.fetch("/readyz")).code == 200
        assert daemon.show("StatusText") == f"Serving {URL}/ (players: 0, connections: 0)"
        await clients.player("websocket")
        await clients.player("polling")
        status = f"Serving {URL}/ (players: 2, connections: 2)"
        await daemon.until(lambda: daemon.show("StatusText") == status)
        assert daemon.show("User") == "game-gateway"
        uid = await daemon.run(f"stat --format %u /proc/{daemon.show('MainPID')}")
        assert int(uid) > 60_000


async def test_a_configuration_that_is_refused_is_not_tried_again(daemon: Daemon) -> None:
    daemon.machine.write("/etc/game-gateway/gateway.yaml", "server: {prot: 1}\n")
    failed = daemon.machine.try_run("systemctl restart gateway")
    assert failed.returncode == 1
    assert (daemon.show("Result"), daemon.show("ExecMainStatus")) == ("exit-code", "2")
    assert 'server.prot: unknown key; did you mean "port"?' in daemon.log
    assert daemon.restarts == 0


@pytest.mark.parametrize("socket_unit", [False, True], indirect=True, ids=["own", "socket"])
async def test_a_restart_loses_nothing(daemon: Daemon) -> None:
    async with players() as fleet:
        connects = fleet.connects
        await daemon.run("systemctl restart gateway")
        await fleet.until("all have come back", lambda: fleet.connects >= connects + PLAYERS)
    assert daemon.restarts == 0
    assert "Traceback" not in daemon.log


async def test_a_reload_drops_nobody_and_says_what_it_did(daemon: Daemon) -> None:
    async with players() as fleet:
        connects, pid = fleet.connects, daemon.show("MainPID")
        config = {**CONFIG, "api": {"burst": 7}, "presence": {"grace": 5}}
        daemon.machine.write("/etc/game-gateway/gateway.yaml", yaml.safe_dump(config))
        await daemon.run("systemctl reload gateway")
        assert "; a restart is needed for presence.grace" in daemon.show("StatusText")
        assert "the configuration was reloaded; changed: api.burst" in daemon.log
        # A file that is refused: systemctl fails, says why, and all goes on as before.
        daemon.machine.write("/etc/game-gateway/gateway.yaml", "server: {prot: 1}\n")
        assert daemon.machine.try_run("systemctl reload gateway").returncode == 1
        assert daemon.show("ActiveState") == "active"
        reason = '/etc/game-gateway/gateway.yaml:1: server.prot: unknown key; did you mean "port"?'
        assert f"the configuration was refused: {reason}" in daemon.show("StatusText")
        assert f"the configuration was refused, all stays as it is: {reason}" in daemon.log
        await fleet.flows(SOME)
        assert fleet.connects == connects
        assert daemon.show("MainPID") == pid
    assert daemon.restarts == 0


async def test_a_stop_and_a_start_lose_nothing(daemon: Daemon) -> None:
    async with players():
        await daemon.run("systemctl stop gateway")
        assert daemon.show("Result") == "success"
        await daemon.run("systemctl start gateway")


async def test_a_kill_loses_nothing(daemon: Daemon) -> None:
    async with players():
        await daemon.run("systemctl kill --kill-who main --signal KILL gateway")
        await daemon.until(lambda: daemon.restarts == 1 and daemon.show("SubState") == "running")


async def test_a_hang_ends_by_the_watchdog_and_loses_nothing(daemon: Daemon) -> None:
    async with players():
        await daemon.run("systemctl kill --kill-who main --signal STOP gateway")
        await daemon.until(lambda: daemon.restarts == 1 and daemon.show("SubState") == "running")
    journal = daemon.machine.run("journalctl --boot --unit gateway --output cat")
    assert "Watchdog timeout (limit 2s)" in journal
    assert "Fatal Python error: Aborted" in journal


async def test_a_full_disk_is_no_reason_to_restart(daemon: Daemon) -> None:
    state = "/var/lib/private/game-gateway"
    await daemon.run(
        f"systemctl stop gateway; mount -t tmpfs -o size=64m,mode=700 small {state};"
        "systemctl start gateway"
    )
    try:
        async with Clients(URL) as clients:
            player = await clients.player("websocket")
            await daemon.run(f"cat /dev/zero > {state}/ballast || true")
            receipt: dict[str, Any] = {"ok": True}
            while receipt["ok"]:
                receipt = await player.send(player, "x" * 10_000)
                player._set_aside.clear()
            assert receipt["error"]["code"] == "unavailable"
            full = "the store is not available"
            await daemon.until(lambda: full in daemon.show("StatusText"))
            pid = daemon.show("MainPID")
            # Longer than the watchdog waits.
            await asyncio.sleep(4)
            assert (daemon.restarts, daemon.show("MainPID")) == (0, pid)
            await daemon.run(f"rm {state}/ballast")
            await daemon.until(lambda: full not in daemon.show("StatusText"))
            assert (await player.send(player, "y"))["ok"]
            assert daemon.show("MainPID") == pid
    finally:
        await daemon.run(f"systemctl stop gateway; umount {state}")


async def test_keys_are_rotated_without_logging_anybody_out(
    daemon: Daemon, page: list[str]
) -> None:
    own, rotate = [block for block in page if "/game-gateway.resume-secret-key" in block]
    for block in (own, rotate):
        async with Clients(URL) as clients:
            player = await clients.player("websocket")
        await daemon.run(block)
        async with Clients(URL) as clients:
            link = await clients.link("websocket")
            back = await Player.log_in(link, {"token": player.session["token"]})
            assert (back.true_id, back.session["outcome"]) == (player.true_id, "resumed")
    keys = await daemon.run("cat /etc/credstore/game-gateway.resume-secret-key")
    assert len(keys.split()) == 3


# Releases


async def _release() -> str:
    """Return the version of the gateway that runs."""
    async with Clients(URL) as clients:
        metrics = (await clients.fetch("/metrics")).body.decode()
    found = re.search(r'^gateway_build_info\{[^}]*\bversion="([^"]+)"', metrics, re.MULTILINE)
    assert found, metrics
    return found[1]


@pytest.mark.parametrize("socket_unit", [True], indirect=True, ids=["socket"])
async def test_an_upgrade_is_rolled_back_with_the_store(daemon: Daemon, page: list[str]) -> None:
    backup = "/var/backups/game-gateway/before-upgrade.db"
    (upgrade,) = [block for block in page if "make install" in block and "restart" in block]
    (rollback,) = [block for block in page if "make rollback" in block]
    (restore,) = [block for block in page if f"{backup}\nsystemctl start" in block]
    await daemon.run(
        f"rm -rf {backup}; make install; systemctl daemon-reload; systemctl restart gateway"
    )
    assert await _release() == "0.1.0"
    async with Clients(URL) as clients:
        player = await clients.player("websocket")

    await daemon.run(upgrade.replace("make install", "make install WHEELS=build/next"))
    assert await _release() == "0.2.0"
    async with Clients(URL) as clients:
        link = await clients.link("websocket")
        upgraded = await Player.log_in(link, {"token": player.session["token"]})
    assert (upgraded.true_id, upgraded.session["outcome"]) == (player.true_id, "resumed")

    failed = await asyncio.to_thread(daemon.machine.try_run, rollback)
    assert failed.returncode == 1
    assert (daemon.show("Result"), daemon.show("ExecMainStatus")) == ("exit-code", "2")
    assert "restore a backup that was made before the upgrade" in daemon.log
    await daemon.run(restore)
    assert await _release() == "0.1.0"
    async with Clients(URL) as clients:
        link = await clients.link("websocket")
        back = await Player.log_in(link, {"token": upgraded.session["token"]})
    assert (back.true_id, back.session["outcome"]) == (player.true_id, "store_reset")
    assert int(await daemon.run(f"stat --format %u /proc/{daemon.show('MainPID')}")) > 60_000


# Socket activation


@pytest.mark.parametrize("socket_unit", [True], indirect=True, ids=["socket"])
async def test_a_connect_starts_the_service(daemon: Daemon) -> None:
    await daemon.run("systemctl stop gateway.service")
    assert daemon.show("ActiveState") == "inactive"
    async with Clients(URL) as clients:
        await clients.player("websocket")
        assert daemon.show("ActiveState") == "active"


async def _connect() -> None:
    """Connect as a new player, with more patience than a restart takes."""
    async with asyncio.timeout(TIMEOUT):
        link = await Link.open(*ADDRESS)
        try:
            async for packet in link.packets():
                if packet[:1] == "0":
                    link.send('40{"guest":true}')
                elif packet[:2] == "42":
                    assert json.loads(packet[2:])[0] == "session"
                    return
                else:
                    assert packet[:2] == "40", packet
        finally:
            link.abort()
    raise LinkLost("closed before the event session")


@pytest.mark.parametrize("socket_unit", [True], indirect=True, ids=["socket"])
async def test_a_restart_refuses_no_connect(daemon: Daemon) -> None:
    connecting: list[asyncio.Task[None]] = []
    async with players():
        restart = asyncio.ensure_future(daemon.run("systemctl restart gateway"))
        while not restart.done():
            connecting.append(asyncio.ensure_future(_connect()))
            await asyncio.sleep(0.02)
        await restart
        await asyncio.gather(*connecting)
    assert len(connecting) > 50


# Boot


@pytest.mark.parametrize("socket_unit", [True], indirect=True, ids=["socket"])
async def test_it_comes_up_with_the_machine_and_its_players_come_back(daemon: Daemon) -> None:
    async with Clients(URL) as clients:
        player = await clients.player("websocket")
    daemon.machine.run("systemctl enable gateway.socket gateway.service")
    daemon.machine.reboot()
    with daemon.machine.network():
        assert daemon.show("ActiveState") == "active"
        async with Clients(URL) as clients:
            link = await clients.link("websocket")
            back = await Player.log_in(link, {"token": player.session["token"]})
        assert (back.true_id, back.session["outcome"]) == (player.true_id, "resumed")
