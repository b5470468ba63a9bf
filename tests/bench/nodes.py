"""`python -m tests.bench.nodes`: several nodes on one Redis, beside Node's with its adapters.

All processes share the cores that there are, so rates say little by themselves. What a message
costs is processor time, of the nodes and of Redis: that is printed beside each rate, and it is
what scales. Each round runs every peer once for each scenario; printed are medians and the
median of the ratios to Node with the streams adapter, round by round.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.bench import frames, scenarios
from tests.bench.client import Client, Load
from tests.bench.servers import CONFIG, PEERS, Server, allow_many_files, serving
from tests.gateway_process import GatewayProcess, own_environment, program
from tests.redis_servers import RedisServer

NAMES: Final = ("gateway", "streams", "classic", "streams-recovery")
REFERENCE: Final = "streams"
#: Only these remember who was connected, and what they missed.
RESUMING: Final = ("gateway", "streams-recovery")
#: With so few under way nothing waits for anything else.
QUIET_PAIRS: Final = 8
Figures = dict[str, float]


@dataclass
class Cluster:
    """Running nodes and their Redis."""

    redis: Server
    nodes: list[Server] = field(default_factory=list)
    kills: list[Callable[[], None]] = field(default_factory=list)


@contextmanager
def running(peer: str, count: int, appendonly: str, *, sharded: bool = False) -> Iterator[Cluster]:
    """Start a Redis and so many nodes of a peer on it; end them afterwards.

    One that is `sharded` is a Cluster of one master: the gateway asks it as it asks many.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(
            RedisServer(folder / "redis", appendonly=appendonly, cluster=sharded)
        )
        if sharded:
            redis.own_all_slots()
        cluster = Cluster(Server(redis.pid, redis.url))
        url = f"{redis.url}?cluster=1" if sharded else redis.url
        for number in range(count):
            start = _start_gateway if peer == "gateway" else _start_node
            server, kill = start(stack, peer, folder / f"node{number}", url)
            cluster.nodes.append(server)
            cluster.kills.append(kill)
        yield cluster


def _start_gateway(
    stack: ExitStack, peer: str, folder: Path, redis: str
) -> tuple[Server, Callable[[], None]]:
    folder.mkdir()
    config: dict[str, Any] = {
        **CONFIG,
        "store": {"url": redis},
        "resume": {"secret_keys": ["a key that all nodes of the benchmark share"]},
        "mailbox": {"max_messages": 1000},
    }
    gateway = GatewayProcess(folder, config=config)
    gateway.start()
    alive = True

    def kill() -> None:
        nonlocal alive
        if alive:
            alive = False
            gateway.kill()

    stack.callback(kill)
    return Server(gateway.pid, gateway.url), kill


def _start_node(
    stack: ExitStack, peer: str, folder: Path, redis: str
) -> tuple[Server, Callable[[], None]]:
    process = stack.enter_context(
        subprocess.Popen(
            [program("node"), str(PEERS / "server.mjs"), peer, redis],
            env=own_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    )
    stack.callback(process.kill)
    return Server(process.pid, serving(process)), process.kill


class Meter:
    """Time, and the processor time of the nodes and of Redis, while its `with` lasts."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.seconds = self.nodes = self.redis = 0.0
        self.each: list[float] = []
        self._before: tuple[float, list[float], float] = (0.0, [], 0.0)

    def _read(self) -> tuple[float, list[float], float]:
        cluster = self._cluster
        return time.perf_counter(), [each.cpu() for each in cluster.nodes], cluster.redis.cpu()

    def __enter__(self) -> None:
        self._before = self._read()

    def __exit__(self, *_: object) -> None:
        then, nodes, redis = self._before
        now, nodes_now, redis_now = self._read()
        self.seconds = now - then
        self.each = [after - before for before, after in zip(nodes, nodes_now, strict=True)]
        self.nodes = sum(self.each)
        self.redis = redis_now - redis


def connect(load: Load, nodes: Sequence[Server], count: int) -> list[Client]:
    """Connect players, one after the other to the next node."""
    shares: list[list[Client]] = []
    for number, node in enumerate(nodes):
        load.use(node.url)
        shares.append(load.connect(scenarios.guests(len(range(number, count, len(nodes))))))
    return [shares[number % len(nodes)][number // len(nodes)] for number in range(count)]


def _exchange(
    cluster: Cluster, nodes: Sequence[Server], pairs: int, seconds: float, *, ack: bool
) -> tuple[float, Meter, list[float]]:
    """Return messages per second in a ring over these nodes, its cost, and latencies."""
    with Load(nodes[0].url) as load:
        clients = connect(load, nodes, pairs)
        targets = clients[1:] + clients[:1]
        ring = [scenarios.Pair(*pair, ack) for pair in zip(clients, targets, strict=True)]
        load.run(scenarios.WARM_UP)
        for pair in ring:
            pair.latencies.clear()
        meter = Meter(cluster)
        before = sum(client.received for client in clients)
        with meter:
            load.run(seconds)
        count = sum(client.received for client in clients) - before
        if not count:
            raise TimeoutError("no message arrived")
        return count, meter, [latency for pair in ring for latency in pair.latencies]


def across(peer: str, options: argparse.Namespace) -> Figures:
    """Every message goes from one node to the other."""
    with running(peer, 2, options.appendonly) as cluster:
        count, meter, _ = _exchange(
            cluster, cluster.nodes, scenarios.CLIENTS, options.seconds, ack=True
        )
        _, _, quiet = _exchange(cluster, cluster.nodes, QUIET_PAIRS, options.seconds, ack=False)
    hundredths = statistics.quantiles(quiet, n=100)
    return {
        "across two nodes, messages/s": count / meter.seconds,
        "across two nodes, us of the nodes per message": 1e6 * meter.nodes / count,
        "across two nodes, us of Redis per message": 1e6 * meter.redis / count,
        "across two nodes, ms at p50, few under way": 1000 * hundredths[49],
        "across two nodes, ms at p99, few under way": 1000 * hundredths[98],
    }


def accepted(peer: str, options: argparse.Namespace) -> Figures:
    """One node, all of its own: what a message costs it until its sender is told."""
    with running(peer, 1, options.appendonly) as cluster:
        count, meter, _ = _exchange(
            cluster, cluster.nodes, scenarios.CLIENTS, options.seconds, ack=True
        )
    return {
        "on one node, messages/s": count / meter.seconds,
        "on one node, messages per second of its processor": count / meter.nodes,
        "on one node, us of Redis per message": 1e6 * meter.redis / count,
    }


def bystanders(peer: str, options: argparse.Namespace) -> Figures:
    """Messages between players of one node, with others that have none of the targets."""
    figures: Figures = {}
    for nodes in (1, 2, 4):
        with running(peer, nodes, options.appendonly) as cluster:
            if nodes > 1:
                with Load(cluster.nodes[1].url) as others:
                    connect(others, cluster.nodes[1:], 10 * (nodes - 1))
                    count, meter, _ = _exchange(
                        cluster, cluster.nodes[:1], scenarios.CLIENTS, options.seconds, ack=False
                    )
            else:
                count, meter, _ = _exchange(
                    cluster, cluster.nodes, scenarios.CLIENTS, options.seconds, ack=False
                )
        figures[f"{nodes} nodes, us of the busy node per message"] = 1e6 * meter.each[0] / count
        others_cost = 1e6 * sum(meter.each[1:]) / count
        figures[f"{nodes} nodes, us of the others per message"] = others_cost
        figures[f"{nodes} nodes, us of Redis per message"] = 1e6 * meter.redis / count
    return figures


def storm(peer: str, options: argparse.Namespace) -> Figures:
    """A node is killed and its players resume on the other one."""
    with running(peer, 2, options.appendonly) as cluster, Load(cluster.nodes[0].url) as load:
        clients = load.connect(scenarios.guests(options.players))
        for client in clients:
            client.last = b""
        # A stock client presents the offset of the last event that it has received.
        targets = [client.session()["true_id"] for client in clients]
        for start in range(0, len(targets), 200):
            for target, client in zip(
                targets[start : start + 200], clients[start : start + 200], strict=True
            ):
                client.send(frames.message(target, scenarios.DATA, ack=False))
            scenarios.wait(load, clients[start : start + 200], 1)
        packets = [frames.connect(client.recovery()) for client in clients]
        cluster.kills[0]()
        load.close(clients)
        load.use(cluster.nodes[1].url)
        began = time.perf_counter()
        cpu = cluster.nodes[1].cpu()
        load.connect(packets)
        seconds = time.perf_counter() - began
        cpu = cluster.nodes[1].cpu() - cpu
    return {
        f"{options.players} resume elsewhere, per second": options.players / seconds,
        f"{options.players} resume elsewhere, us of the node each": 1e6 * cpu / options.players,
    }


SCENARIOS: Final = {
    "across": across,
    "accepted": accepted,
    "bystanders": bystanders,
    "storm": storm,
}


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.nodes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--players", type=int, default=5000, help="who resume elsewhere")
    parser.add_argument("--appendonly", default="everysec", choices=["no", "everysec", "always"])
    parser.add_argument("--peers", nargs="+", default=NAMES, choices=NAMES, metavar="PEER")
    parser.add_argument("--scenarios", nargs="+", default=SCENARIOS, choices=SCENARIOS)
    options = parser.parse_args()
    allow_many_files()
    results: dict[str, dict[str, list[float | None]]] = {}
    good = True
    for number in range(options.rounds):
        for name in options.scenarios:
            for peer in options.peers:
                if name == "storm" and peer not in RESUMING:
                    continue
                print(f"round {number + 1}: {name}, {peer}", file=sys.stderr, flush=True)
                try:
                    figures = SCENARIOS[name](peer, options)
                except (OSError, AssertionError) as error:
                    print(f"{peer} failed in {name}: {error}", file=sys.stderr)
                    good = False
                    continue
                for measure, value in figures.items():
                    values = results.setdefault(measure, {}).setdefault(peer, [])
                    values += [None] * (number - len(values))
                    values.append(value)
    _print(results)
    return 0 if good else 1


def _print(results: dict[str, dict[str, list[float | None]]]) -> None:
    for measure, row in results.items():
        print(f"\n{measure}")
        reference = row.get(REFERENCE, [])
        for peer, series in row.items():
            values = [value for value in series if value is not None]
            ratios = [
                value / other
                for value, other in zip(series, reference, strict=False)
                if value is not None and other
            ]
            ratio = f"x{statistics.median(ratios):5.2f}" if ratios else ""
            spread = f"({min(values):,.2f} to {max(values):,.2f})"
            print(f"  {peer:18} {statistics.median(values):12,.2f}  {spread}  {ratio}")


if __name__ == "__main__":
    sys.exit(main())
