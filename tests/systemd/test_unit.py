"""The systemd unit, by systemd's own judgement, and the notifications it relies on."""

from __future__ import annotations

import configparser
import re
import secrets
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import Config
from tests.gateway_process import ROOT, TIMEOUT, GatewayProcess, own_environment, program
from tests.transport.client import Clients

UNIT = ROOT / "systemd" / "gateway.service"
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


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """A copy that names a program which exists."""
    text = UNIT.read_text()
    assert text.count(PROGRAM) == 1
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace(PROGRAM, "/usr/bin/env"))
    return copy


def settings() -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return dict(parser["Service"])


def seconds(text: str) -> float:
    output = analyze("timespan", text).stdout
    match = re.search(r"^\s*\u03bcs: (\d+)$", output, re.MULTILINE)
    assert match, output
    return int(match[1]) / 1e6


# The file


def test_systemd_finds_nothing_wrong_with_the_unit(unit: Path) -> None:
    verified = analyze("verify", unit)
    assert (verified.returncode, verified.stdout) == (0, "")


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


def test_the_exposure_is_at_most_1_5_of_10(unit: Path) -> None:
    rated = analyze("security", "--offline=true", "--threshold=15", "--no-pager", unit)
    assert rated.returncode == 0, rated.stdout
    assert "Overall exposure level for gateway.service" in rated.stdout


def test_the_threshold_would_tell_a_unit_without_hardening(unit: Path) -> None:
    lines = unit.read_text().splitlines(keepends=True)
    unit.write_text("".join(line for line in lines if not line.startswith("Protect")))
    rated = analyze("security", "--offline=true", "--threshold=15", "--no-pager", unit)
    assert rated.returncode != 0


def test_the_unit_fits_the_default_configuration() -> None:
    service = settings()
    config = Config()
    assert seconds(service["TimeoutStopSec"]) > config.server.shutdown_grace + 5
    assert int(service["LimitNOFILE"]) > config.limits.connections + SPARE_FILES
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
        assert ready == {"READY": "1", "STATUS": f"Serving {gateway.url}"}
        assert pid == gateway.pid
        assert gateway.get("/readyz") == (200, "ok\n")
        async with Clients(gateway.url) as clients:
            player = await clients.player("polling")
            assert manager.nothing()

            gateway.terminate()
            stopping, pid = manager.receive()
            assert stopping == {"STOPPING": "1", "STATUS": "Draining 1 connections"}
            assert pid == gateway.pid
            assert gateway.get("/readyz") == (503, "draining\n")
            await player.event("goaway")
            await player.link.send("41")
            # Its last player has gone: it waits no longer.
            gateway.wait()


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
