"""The systemd unit, by systemd's own judgement, and the notifications it relies on."""

from __future__ import annotations

import configparser
import re
import secrets
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import Config
from tests.gateway_process import ROOT, TIMEOUT, GatewayProcess, own_environment, program
from tests.transport.client import Clients

UNITS = ROOT / "systemd"
UNIT = UNITS / "gateway.service"
TEMPLATE = UNITS / "gateway@.service"
NODE = UNITS / "gateway-node@.service"
SOCKET = UNITS / "gateway.socket"
PROGRAM = "/opt/game-gateway/venv/bin/game-gateway"
#: A descriptor for each connection, and some for files, listeners and the event loop.
SPARE_FILES = 1000


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("systemd-analyze"), *map(str, arguments)],
        env=own_environment(SYSTEMD_COLORS="0", SYSTEMD_PAGER=""),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def copy_unit(tmp_path: Path, source: Path, name: str) -> Path:
    """Copy a unit, and have it name a program which exists."""
    text = source.read_text()
    assert PROGRAM in text
    copy = tmp_path / name
    copy.write_text(text.replace(PROGRAM, "/usr/bin/env"))
    return copy


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    return copy_unit(tmp_path, UNIT, UNIT.name)


@pytest.fixture(params=["gateway.service", "gateway@blue.service", "gateway-node@1.service"])
def any_unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The service, and one made from each template."""
    name, at, _ = request.param.partition("@")
    return copy_unit(tmp_path, UNITS / (f"{name}@.service" if at else name), request.param)


def settings(path: Path = UNIT, section: str = "Service") -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return dict(parser[section])


def seconds(text: str) -> float:
    output = analyze("timespan", text).stdout
    match = re.search(r"^\s*\u03bcs: (\d+)$", output, re.MULTILINE)
    assert match, output
    return int(match[1]) / 1e6


# The file


def test_systemd_finds_nothing_wrong_with_the_unit(any_unit: Path) -> None:
    verified = analyze("verify", any_unit)
    assert (verified.returncode, verified.stdout) == (0, "")


def test_systemd_finds_nothing_wrong_with_the_socket(unit: Path) -> None:
    socket_unit = unit.with_name(SOCKET.name)
    socket_unit.write_text(SOCKET.read_text())
    verified = analyze("verify", socket_unit)
    assert (verified.returncode, verified.stdout) == (0, "")
    socket_unit.write_text(SOCKET.read_text().replace("Backlog", "Backlogs"))
    assert "'Backlogs'" in analyze("verify", socket_unit).stdout


def test_the_template_is_the_service_with_names_of_its_own() -> None:
    changes = (
        ("/etc/game-gateway/%i.yaml", "/etc/game-gateway/gateway.yaml"),
        ("game-gateway-%i", "game-gateway"),
        ("message gateway %i", "message gateway"),
    )
    assert common(TEMPLATE, changes) == UNIT.read_text().split("[Unit]\n", 1)[1]


def test_nodes_are_the_service_with_configuration_and_keys_in_common() -> None:
    keys = "# The keys that sign.*?\nLoadCredential=.*?\n"
    changes = (
        ("/etc/game-gateway/nodes.yaml", "/etc/game-gateway/gateway.yaml"),
        ("game-gateway-node-%i", "game-gateway"),
        ("message gateway, node %i", "message gateway"),
        # For a port that is shared.
        ("User=game-gateway-nodes", "User=game-gateway"),
        (" All nodes share\n# it: the system lets no other user onto a port in use", ""),
        (" (SO_REUSEPORT).\n", "\n"),
    )
    node = re.sub(keys, "", common(NODE, changes), flags=re.DOTALL)
    service = re.sub(keys, "", UNIT.read_text(), flags=re.DOTALL)
    assert node == service.split("[Unit]\n", 1)[1]
    # A node without the keys does not start.
    assert settings(NODE)["LoadCredential"].partition(":")[2].startswith("/")


def common(unit: Path, changes: tuple[tuple[str, str], ...]) -> str:
    """Return a unit, without its first words, with what is its own replaced."""
    text = unit.read_text()
    for own, shared in changes:
        assert own in text
        text = text.replace(own, shared)
    head, _, rest = text.partition("[Unit]\n")
    assert head.startswith("#")
    return rest


@pytest.mark.parametrize(
    ("line", "culprit"),
    [
        ("ProtectEverything=yes", "'ProtectEverything'"),
        ("Restart=sometimes", "sometimes"),
        ("SystemCallFilter=@nonsense", "@nonsense"),
    ],
)
def test_systemd_would_tell_if_something_were_wrong(unit: Path, line: str, culprit: str) -> None:
    unit.write_text(unit.read_text().replace("[Service]\n", f"[Service]\n{line}\n"))
    (complaint,) = analyze("verify", unit).stdout.splitlines()
    assert complaint.startswith(f"{unit}:")
    assert culprit in complaint


def test_the_exposure_is_at_most_1_5_of_10(any_unit: Path) -> None:
    rated = analyze("security", "--offline=true", "--threshold=15", "--no-pager", any_unit)
    assert rated.returncode == 0, rated.stdout
    assert f"Overall exposure level for {any_unit.name}" in rated.stdout


def test_the_threshold_would_tell_a_unit_without_hardening(unit: Path) -> None:
    lines = unit.read_text().splitlines(keepends=True)
    unit.write_text("".join(line for line in lines if not line.startswith("Protect")))
    rated = analyze("security", "--offline=true", "--threshold=15", "--no-pager", unit)
    assert rated.returncode != 0


def test_the_unit_fits_the_default_configuration() -> None:
    service = settings()
    config = Config()
    assert seconds(service["TimeoutStopSec"]) > config.server.shutdown_grace + 5
    assert int(settings(SOCKET, "Socket")["Backlog"]) == config.server.backlog
    address = f"{config.server.host}:{config.server.port}"
    assert settings(SOCKET, "Socket")["ListenStream"] == address
    files = config.limits.connections + 2 * config.limits.forwarded_requests + SPARE_FILES
    assert int(service["LimitNOFILE"]) > files
    assert service["Type"] == "notify"
    assert service["NotifyAccess"] == "main"
    # No credential by absolute path: a missing one would keep the service from starting.
    assert not service["LoadCredential"].partition(":")[2].startswith("/")
    assert service["ExecStart"].endswith(" serve --config /etc/game-gateway/gateway.yaml")


# What it is told while it runs


class Manager:
    """Listens where systemd would: `address` is for NOTIFY_SOCKET."""

    def __init__(self, name: str) -> None:
        self.address = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self._socket.settimeout(TIMEOUT)

    def receive(self) -> tuple[dict[str, str], int]:
        """Return the next assignments, and the process they come from."""
        size = struct.calcsize("3i")
        data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(size))
        ((_, kind, credentials),) = ancillary
        assert kind == socket.SCM_CREDENTIALS
        pid: int = struct.unpack("3i", credentials)[0]
        return dict(line.split("=", 1) for line in data.decode().splitlines()), pid

    def receive_with(self, name: str) -> dict[str, str]:
        """Return the next assignments with this one among them; the status may change between."""
        while name not in (assignments := self.receive()[0]):
            assert assignments.keys() == {"STATUS"}
        return assignments

    def nothing(self) -> bool:
        """Tell whether no assignments are waiting."""
        self._socket.setblocking(False)
        try:
            self._socket.recv(4096)
        except BlockingIOError:
            return True
        finally:
            self._socket.settimeout(TIMEOUT)
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest) -> Iterator[Manager]:
    with tempfile.TemporaryDirectory() as folder:  # socket paths are short
        abstract = f"@game-gateway-test-{secrets.token_hex(8)}"
        manager = Manager(abstract if request.param == "abstract" else f"{folder}/notify")
        yield manager
        manager.close()


@pytest.mark.gen_test(timeout=TIMEOUT)
async def test_systemd_hears_when_players_may_come_and_when_they_must_go(
    manager: Manager, tmp_path: Path
) -> None:
    variables = {"NOTIFY_SOCKET": manager.address, "GATEWAY_SERVER_SHUTDOWN_GRACE": "20"}
    with GatewayProcess(tmp_path, variables=variables) as gateway:
        ready, pid = manager.receive()
        status = f"Serving {gateway.url} (players: 0, connections: 0)"
        assert ready == {"READY": "1", "STATUS": status}
        assert pid == gateway.pid
        assert gateway.get("/readyz") == (200, "ok\n")
        async with Clients(gateway.url) as clients:
            player = await clients.player("polling")
            status = f"Serving {gateway.url} (players: 1, connections: 1)"
            assert manager.receive() == ({"STATUS": status}, gateway.pid)

            gateway.terminate()
            stopping, pid = manager.receive()
            status = "Draining (players: 1, connections: 1)"
            assert stopping == {"STOPPING": "1", "STATUS": status}
            assert pid == gateway.pid
            assert gateway.get("/readyz") == (503, "draining\n")
            await player.event("goaway")
            await player.link.send("41")
            status = "Draining (players: 0, connections: 0)"
            assert manager.receive() == ({"STATUS": status}, gateway.pid)
            # Its last player has gone: it waits no longer.
            gateway.wait()


@pytest.mark.gen_test(timeout=TIMEOUT)
async def test_systemd_hears_of_a_reload_and_what_came_of_it(
    manager: Manager, tmp_path: Path
) -> None:
    config = tmp_path / "gateway.yaml"
    gateway = GatewayProcess(
        tmp_path,
        config={"limits": {"message_bytes": 2048}},
        variables={"NOTIFY_SOCKET": manager.address},
    )
    gateway.start()
    try:
        serving = f"Serving {gateway.url} (players: 0, connections: 0)"
        assert manager.receive()[0] == {"READY": "1", "STATUS": serving}

        def reload() -> str:
            before = time.monotonic_ns() // 1000
            gateway.terminate(signal.SIGHUP)
            reloading = manager.receive_with("RELOADING")
            assert reloading.keys() == {"RELOADING", "MONOTONIC_USEC"}
            assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            ready = manager.receive_with("READY")
            assert ready["READY"] == "1"
            return ready["STATUS"]

        config.write_text("limits: {message_bytes: 4096}\nserver: {backlog: 5}\n")
        assert reload() == f"{serving}; a restart is needed for server.backlog"
        async with Clients(gateway.url) as clients:
            player = await clients.player("websocket")
            assert player.session["limits"]["message_bytes"] == 4096
            assert (await player.send(player, "x" * 4000))["ok"]
        config.write_text("limits: {message_bites: 4096}\n")
        status = reload()
        assert "the configuration was refused: gateway.yaml:1: limits.message_bites:" in status
        assert "changed: limits.message_bytes\n" in gateway.log
        assert "a restart is needed for server.backlog\n" in gateway.log
        assert "the configuration was refused, all stays as it is: gateway.yaml:1:" in gateway.log
        config.write_text("limits: {message_bytes: 4096}\nlog: {level: debug}\n")
        assert "refused" not in reload()
        assert gateway.get("/readyz") == (200, "ok\n")
    finally:
        # Its log has an error, so it has no clean end.
        gateway.kill()


def test_ready_is_told_only_once_connections_are_accepted(manager: Manager, tmp_path: Path) -> None:
    """A gateway that cannot listen never says that it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        variables = {"NOTIFY_SOCKET": manager.address, "GATEWAY_METRICS_LISTEN": address}
        gateway = GatewayProcess(tmp_path, variables=variables)
        with pytest.raises(AssertionError, match="cannot listen"), gateway:
            pass
    assert manager.nothing()


def test_a_manager_that_is_gone_is_no_reason_to_fail(tmp_path: Path) -> None:
    variables = {"NOTIFY_SOCKET": str(tmp_path / "nobody")}
    with GatewayProcess(tmp_path, variables=variables) as gateway:
        assert gateway.get("/readyz") == (200, "ok\n")
        gateway.stop()
        assert gateway.log.count("systemd could not be told") == 2


def test_without_systemd_nothing_is_told(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path) as gateway:
        gateway.stop()
        assert "systemd" not in gateway.log
