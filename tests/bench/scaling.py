"""`python -m tests.bench.scaling`: what players and messages cost, and what a million would.

One node and two nodes are measured; from that the cost on three nodes, with other players and
targets on all of them, is computed and then measured, too: the arithmetic is right if both
agree. With the same arithmetic the size of a large installation is printed. It exits with 1 when
a prediction is off by more than the tolerance.

A message from one node to another costs `sent` on the first and `told` on the second. Of k nodes
with targets anywhere, (k - 1) / k of all messages go to another node.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import redis

from tests.bench import frames, scenarios
from tests.bench.client import Client, Load
from tests.bench.nodes import Cluster, Meter, connect, running
from tests.bench.servers import Server, allow_many_files

#: Of each sender, one after the other; drawn alike in every run.
TARGETS: Final = 20
CHANCE: Final = random.Random(1)
#: Rooms of each player who is measured.
MEMBERSHIPS: Final = 8
MIB: Final = 1024**2
GIB: Final = 1024**3


@dataclass(frozen=True)
class Costs:
    """Processor time in microseconds, memory and traffic in bytes.

    `node_sent` and `redis_sent` are for a message whose target is on its sender's node,
    `node_told` and `redis_told` what comes on top when it is on another one. `network` is what
    Redis reads and writes for a message.
    """

    node_sent: float
    node_told: float
    redis_sent: float
    redis_told: float
    node_player: float
    redis_player: float
    redis_message: float
    network_sent: float
    network_told: float


@dataclass(frozen=True)
class Traffic:
    """What was measured of some messages: per message, see Costs."""

    node: float
    redis: float
    network: float
    rate: float


@dataclass(frozen=True)
class RoomCosts:
    """Of a room of `scenarios.RECEIVERS` members, the same units as in Costs.

    `node_change` is the time that each `join` takes on every node, `node_membership` the memory;
    `node_copy` and `redis_copy` what each member's copy of a message takes.
    """

    node_change: float
    node_membership: float
    node_copy: float
    redis_copy: float


class Info:
    """What Redis says of itself."""

    def __init__(self, server: Server) -> None:
        self._client = redis.Redis.from_url(server.url)

    def memory(self) -> int:
        """Bytes of all data."""
        return int(self._client.info("memory")["used_memory"])

    def network(self) -> int:
        """Bytes read and written so far."""
        stats = self._client.info("stats")
        return int(stats["total_net_input_bytes"]) + int(stats["total_net_output_bytes"])

    def close(self) -> None:
        self._client.close()


class Sender:
    """A player who has `scenarios.IN_FLIGHT` messages under way, to one target after the other."""

    def __init__(self, client: Client, targets: Sequence[str]) -> None:
        self._client = client
        self._packets = [frames.message(target, scenarios.DATA, ack=True) for target in targets]
        self._next = self._acked = 0

    def start(self) -> None:
        """Send the first ones."""
        self._acked = self._client.acked
        for _ in range(scenarios.IN_FLIGHT):
            self._send()

    def go_on(self) -> None:
        """Send another one for each that was accepted meanwhile."""
        accepted, self._acked = self._client.acked - self._acked, self._client.acked
        for _ in range(accepted):
            self._send()

    def _send(self) -> None:
        self._client.send(self._packets[self._next % len(self._packets)])
        self._next += 1


def exchange(
    cluster: Cluster,
    load: Load,
    senders: Sequence[Sender],
    clients: Sequence[Client],
    seconds: float,
) -> Traffic:
    """Let the senders send for so long, and measure."""
    info = Info(cluster.redis)
    for sender in senders:
        sender.start()
    _run(load, senders, scenarios.WARM_UP)
    accepted, network = sum(each.acked for each in clients), info.network()
    meter = Meter(cluster)
    with meter:
        _run(load, senders, seconds)
    count = sum(each.acked for each in clients) - accepted
    network = info.network() - network
    info.close()
    if not count:
        raise TimeoutError("no message was accepted")
    return Traffic(
        1e6 * meter.nodes / count, 1e6 * meter.redis / count, network / count, count / meter.seconds
    )


def _run(load: Load, senders: Sequence[Sender], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        load.run(0.002)
        for sender in senders:
            sender.go_on()


def measure(options: argparse.Namespace) -> Costs:
    """Measure what one node and what two nodes need."""
    with (
        running("gateway", 1, options.appendonly, sharded=True) as cluster,
        Load(cluster.nodes[0].url) as load,
    ):
        info = Info(cluster.redis)
        node = cluster.nodes[0]
        # What the first ones cost is not theirs: buffers, scripts, pages of the allocators.
        connect(load, cluster.nodes, options.players // 4)
        memory, resident = info.memory(), node.rss()
        clients = connect(load, cluster.nodes, options.players)
        redis_player = (info.memory() - memory) / options.players
        node_player = (node.rss() - resident) / options.players
        memory = info.memory()
        stored = store(load, clients, options.stored)
        redis_message = (info.memory() - memory) / stored
        alone = exchange(cluster, load, _to_all(clients), clients, options.seconds)
        info.close()
    with (
        running("gateway", 2, options.appendonly, sharded=True) as cluster,
        Load(cluster.nodes[0].url) as load,
    ):
        clients = connect(load, cluster.nodes, options.players)
        ids = [client.session()["true_id"] for client in clients]
        # Every other player is at the other node.
        senders = [
            Sender(client, CHANCE.choices(ids[1 - number % 2 :: 2], k=TARGETS))
            for number, client in enumerate(clients[: scenarios.CLIENTS])
        ]
        across = exchange(cluster, load, senders, clients, options.seconds)
    return Costs(
        node_sent=alone.node,
        node_told=across.node - alone.node,
        redis_sent=alone.redis,
        redis_told=across.redis - alone.redis,
        node_player=node_player,
        redis_player=redis_player,
        redis_message=redis_message,
        network_sent=alone.network,
        network_told=across.network - alone.network,
    )


def _to_all(clients: Sequence[Client]) -> list[Sender]:
    ids = [client.session()["true_id"] for client in clients]
    return [
        Sender(client, CHANCE.choices(ids, k=TARGETS)) for client in clients[: scenarios.CLIENTS]
    ]


def store(load: Load, clients: Sequence[Client], each: int) -> int:
    """Send every player so many messages; return how many that are."""
    ids = [client.session()["true_id"] for client in clients]
    for start in range(0, len(clients), 200):
        some = range(start, min(start + 200, len(clients)))
        for number in some:
            packet = frames.message(ids[number], scenarios.DATA, ack=True)
            clients[number].send(packet * each)
        wanted = dict.fromkeys(some, each)
        scenarios.wait(load, [clients[number] for number in wanted], each)
    return each * len(clients)


def measure_rooms(options: argparse.Namespace) -> RoomCosts:
    """Measure what rooms need; the second node has no players, and hears of everything."""
    with (
        running("gateway", 2, options.appendonly, sharded=True) as cluster,
        Load(cluster.nodes[0].url) as load,
    ):
        witness = cluster.nodes[1]
        clients = connect(load, cluster.nodes[:1], scenarios.RECEIVERS)
        scenarios.ask(load, clients, [frames.join("warm-up")] * len(clients))
        resident, cpu = witness.rss(), witness.cpu()
        for number in range(MEMBERSHIPS):
            scenarios.ask(load, clients, [frames.join(f"room-{number}")] * len(clients))
        changes = MEMBERSHIPS * len(clients)
        cpu, resident = witness.cpu() - cpu, witness.rss() - resident
        meter = Meter(cluster)
        with meter:
            for number in range(options.published):
                clients[0].send(frames.publish("room-0", scenarios.DATA, False))
                scenarios.wait(load, clients, number + 1)
        copies = options.published * len(clients)
        return RoomCosts(
            node_change=1e6 * cpu / changes,
            node_membership=resident / changes,
            node_copy=1e6 * meter.each[0] / copies,
            redis_copy=1e6 * meter.redis / copies,
        )


def predict(costs: Costs, nodes: int) -> Traffic:
    """Return what a message costs with targets anywhere on so many nodes."""
    elsewhere = (nodes - 1) / nodes
    return Traffic(
        costs.node_sent + elsewhere * costs.node_told,
        costs.redis_sent + elsewhere * costs.redis_told,
        costs.network_sent + elsewhere * costs.network_told,
        0.0,
    )


def check(costs: Costs, options: argparse.Namespace) -> bool:
    """Compare what is predicted for three nodes with what they need; tell whether it agrees."""
    nodes, players = 3, 2 * options.players
    with (
        running("gateway", nodes, options.appendonly, sharded=True) as cluster,
        Load(cluster.nodes[0].url) as load,
    ):
        info = Info(cluster.redis)
        connect(load, cluster.nodes, options.players // 4)
        memory = info.memory()
        clients = connect(load, cluster.nodes, players)
        stored = store(load, clients, options.stored)
        memory = info.memory() - memory
        found = exchange(cluster, load, _to_all(clients), clients, options.seconds)
        info.close()
    expected = predict(costs, nodes)
    pairs = {
        "us of the nodes per message": (expected.node, found.node),
        "us of Redis per message": (expected.redis, found.redis),
        "bytes to and from Redis per message": (expected.network, found.network),
        f"MiB of Redis for {players} players, {stored} messages": (
            (players * costs.redis_player + stored * costs.redis_message) / MIB,
            memory / MIB,
        ),
    }
    print(f"\n{nodes} nodes, {players} players:             predicted    measured    ratio")
    good = True
    for name, (predicted, measured) in pairs.items():
        ratio = measured / predicted
        good &= abs(ratio - 1) <= options.tolerance
        print(f"  {name:52} {predicted:9.1f} {measured:11.1f} {ratio:8.2f}")
    return good


def extrapolate(costs: Costs, options: argparse.Namespace) -> None:
    """Print what an installation of this size needs."""
    players, rate = options.target, options.target * options.rate
    many = predict(costs, 1000)
    by_time = rate * many.node / 1e6 / options.load
    by_memory = players * costs.node_player / (options.node_memory * GIB)
    nodes = math.ceil(max(by_time, by_memory))
    masters = math.ceil(rate * many.redis / 1e6 / options.load)
    memory = players * (costs.redis_player + options.kept * costs.redis_message) / GIB
    network = 8 * rate * many.network / 1e6
    print(
        f"\n{players} players, each with {options.rate} messages a second to targets anywhere and"
    )
    print(f"{options.kept} messages kept; no core is used to more than {options.load:.0%}:")
    for name, value, note in (
        ("messages per second", rate, ""),
        ("nodes", nodes, f"{by_time:.1f} by time, {by_memory:.1f} by memory; a core each"),
        ("players per node", players / nodes, ""),
        ("masters of Redis", masters, "a core each; and their replicas"),
        ("GiB of Redis", memory, f"{memory / masters:.2f} for each master"),
        ("Mbit/s of Redis", network, f"{network / masters:.0f} for each master"),
    ):
        print(f"  {name:20} {value:12,.1f}  {note}")


def main() -> int:
    """Measure, predict, check, extrapolate."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scaling", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--players", type=int, default=1000, help="who are measured")
    parser.add_argument("--stored", type=int, default=20, help="messages for each of them")
    parser.add_argument("--published", type=int, default=50, help="messages to a room")
    parser.add_argument("--appendonly", default="everysec", choices=["no", "everysec", "always"])
    parser.add_argument("--tolerance", type=float, default=1 / 3, help="of the predictions")
    parser.add_argument("--target", type=int, default=1_000_000, help="players to compute for")
    parser.add_argument("--rate", type=float, default=0.2, help="messages of each per second")
    parser.add_argument("--kept", type=int, default=20, help="messages kept for each")
    parser.add_argument("--load", type=float, default=0.5, help="how far cores are to be used")
    parser.add_argument("--node-memory", type=float, default=4.0, help="GiB for each node")
    options = parser.parse_args()
    allow_many_files()
    costs = measure(options)
    print("Measured on one node and on two:")
    for name, value in {**vars(costs), **vars(measure_rooms(options))}.items():
        print(f"  {name:16} {value:10.1f}")
    good = check(costs, options)
    extrapolate(costs, options)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
