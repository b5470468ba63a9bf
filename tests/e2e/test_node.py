"""The stock client in Node: each file of node/ is one test here, run by Node's own runner."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.conftest import NODE_TESTS, StartGateway
from tests.e2e.control import Control
from tests.e2e.node_runner import run_node_tests
from tests.gateway_process import GatewayProcess, own_environment

_SECONDS: Final = 90.0
_USERNAME: Final = "ada"
_PASSWORD: Final = "engine-of-many-analyses"
_FILES: Final = sorted(NODE_TESTS.glob("*.test.mjs"))


@pytest.fixture
def node_gateway(file: Path, start_gateway: StartGateway) -> GatewayProcess:
    """Short waits where a test waits for the gateway, but heartbeats far apart."""
    in_memory = file.name.endswith(".memory.test.mjs")
    return start_gateway(
        store={"url": "memory://" if in_memory else "sqlite:///gateway.db"},
        users={_USERNAME: _PASSWORD},
        auth={"methods": ["guest", "password"]},
        resume={"probe_timeout": 0.5},
        presence={"grace": 0.5, "settle": 0},
        limits={"messages_per_second": 0, "burst": 0, "connections_per_player": 4},
    )


@pytest.fixture
def control(node_gateway: GatewayProcess) -> Iterator[Control]:
    """Where the test's script asks for a restart."""
    control = Control(node_gateway)
    yield control
    control.close()


def test_there_are_files() -> None:
    assert _FILES


@pytest.mark.parametrize("file", _FILES, ids=lambda file: file.name.removesuffix(".test.mjs"))
def test_stock_client(
    file: Path, node: str, node_gateway: GatewayProcess, control: Control
) -> None:
    environment = own_environment(
        GATEWAY_URL=node_gateway.url,
        GATEWAY_CONTROL=control.url,
        GATEWAY_USERNAME=_USERNAME,
        GATEWAY_PASSWORD=_PASSWORD,
    )
    passed, output = run_node_tests(node, file.name, environment, _SECONDS)
    if not passed:
        pytest.fail(f"{output}\nThe gateway's log:\n{node_gateway.log}", pytrace=False)
