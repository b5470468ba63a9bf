"""Two gateways on one Redis, behind a proxy that sends each request to the next one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.control import Control
from tests.e2e.node_runner import run_node_tests
from tests.gateway_process import GatewayProcess, own_environment
from tests.proxies import Proxy
from tests.redis_servers import RedisServer

_SECONDS: Final = 200.0
_GRACE: Final = "10"
#: A restart of each node, one after the other, as after an upgrade.
_ROLLING: Final = "terminate-0,wait-0,start-0,terminate-1,wait-1,start-1"
_KILLED: Final = "kill-0,start-0,kill-1,start-1"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis", appendonly="everysec") as server:
        yield server


@pytest.fixture
def nodes(tmp_path: Path, redis: RedisServer) -> Iterator[list[GatewayProcess]]:
    nodes: list[GatewayProcess] = []
    try:
        for number in range(2):
            folder = tmp_path / f"node-{number}"
            folder.mkdir()
            config: dict[str, Any] = {
                "server": {"trusted_proxies": ["127.0.0.1"], "reconnects_per_second": 10},
                "store": {"url": redis.url},
                "resume": {"secret_keys": ["k" * 40], "probe_timeout": 0.5},
                "limits": {"messages_per_second": 0, "burst": 0},
            }
            variables = {"GATEWAY_SERVER_SHUTDOWN_GRACE": _GRACE}
            node = GatewayProcess(folder, config=config, variables=variables)
            node.start()
            nodes.append(node)
        yield nodes
    except BaseException:
        for node in nodes:
            node.kill()
        raise
    for node in nodes:
        node.close()


@pytest.fixture
def proxy(
    request: pytest.FixtureRequest, tmp_path: Path, nodes: list[GatewayProcess]
) -> Iterator[Proxy]:
    folder = tmp_path / "proxy"
    folder.mkdir()
    name = getattr(request, "param", "nginx")
    proxy = Proxy(folder, name, *(f"127.0.0.1:{node.port}" for node in nodes))
    yield proxy
    proxy.stop()


@pytest.fixture
def control(nodes: list[GatewayProcess]) -> Iterator[Control]:
    control = Control(*nodes)
    yield control
    control.close()


def play(
    node: str, nodes: list[GatewayProcess], proxy: Proxy, control: Control, **variables: str
) -> str:
    """Run the stock clients; return what they print."""
    environment: Mapping[str, str] = own_environment(
        GATEWAY_URL=f"https://localhost:{proxy.port}",
        GATEWAY_CONTROL=control.url,
        NODE_EXTRA_CA_CERTS=str(proxy.authority.ca_file),
        **variables,
    )
    passed, output = run_node_tests(node, "nodes/mesh.test.mjs", environment, _SECONDS)
    if not passed:
        logs = "\n".join(each.log for each in nodes)
        pytest.fail(f"{output}\nThe gateways' logs:\n{logs}", pytrace=False)
    return output


def metric(node: GatewayProcess, name: str) -> float:
    """Return the sum of a metric over its labels."""
    status, text = node.get("/metrics")
    assert status == 200
    return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)))


def forwarded(node: GatewayProcess, result: str) -> float:
    return metric(node, f'gateway_forwarded_requests_total{{result="{result}"}}')


@pytest.mark.parametrize(
    ("proxy", "transports"),
    [
        ("nginx", "polling"),
        ("nginx", "polling,websocket"),
        ("nginx", "websocket"),
        ("caddy", "polling"),
        ("caddy", "polling,websocket"),
    ],
    indirect=["proxy"],
)
def test_clients_need_not_stay_at_a_node(
    node: str, nodes: list[GatewayProcess], proxy: Proxy, control: Control, transports: str
) -> None:
    play(node, nodes, proxy, control, GATEWAY_TRANSPORTS=transports, GATEWAY_MESSAGES="200")
    for each in nodes:
        assert metric(each, "gateway_messages_total") > 100
        answered = metric(each, "gateway_forwarded_requests_total")
        # A client that begins with a websocket asks for nothing else.
        assert (answered > 0) == ("polling" in transports)
        if transports == "polling":
            assert answered > 200


@pytest.mark.parametrize(
    ("proxy", "transports", "events"),
    [
        ("nginx", "polling", _ROLLING),
        ("nginx", "polling", _KILLED),
        ("nginx", "polling,websocket", _ROLLING),
        ("nginx", "polling,websocket", _KILLED),
        ("caddy", "polling", _ROLLING),
    ],
    indirect=["proxy"],
)
def test_nodes_may_go_and_come(
    node: str,
    nodes: list[GatewayProcess],
    proxy: Proxy,
    control: Control,
    transports: str,
    events: str,
) -> None:
    output = play(
        node,
        nodes,
        proxy,
        control,
        GATEWAY_TRANSPORTS=transports,
        GATEWAY_MESSAGES="500",
        GATEWAY_EVENTS=events,
    )
    returns = re.search(r"(\d+) returns", output)
    assert returns is not None
    assert int(returns[1]) > 0
