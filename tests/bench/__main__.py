"""`python -m tests.bench`: the gateway beside its peers, in one run, and the ratios.

Each round runs every peer once for each scenario, the server alone on one core and the load
on another. Printed are medians over the rounds, their spread, and the median of the ratios to
Node's plain Socket.IO, round by round. Machines differ: only the ratios mean something.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.bench import scenarios
from tests.bench.servers import LOAD_CORE, Server, running

PEERS = ("gateway", "plain", "recovery", "uws", "stock")
REFERENCE = "plain"
Scenario = Callable[[Server, argparse.Namespace], Awaitable[dict[str, float]]]


async def _direct(server: Server, options: argparse.Namespace) -> dict[str, float]:
    return {"direct, messages/s": await scenarios.direct(server, options.seconds, ack=False)}


async def _receipts(server: Server, options: argparse.Namespace) -> dict[str, float]:
    return {"direct with receipts": await scenarios.direct(server, options.seconds, ack=True)}


async def _crowd(server: Server, options: argparse.Namespace) -> dict[str, float]:
    rate = await scenarios.crowd(server, options.seconds, options.idle)
    return {f"direct among {options.idle} idle": rate}


async def _fan_out(server: Server, options: argparse.Namespace) -> dict[str, float]:
    return {"fan-out, deliveries/s": await scenarios.fan_out(server, options.seconds)}


async def _connects(server: Server, options: argparse.Namespace) -> dict[str, float]:
    return {"connects/s": await scenarios.connects(server, options.connects)}


async def _resumes(server: Server, options: argparse.Namespace) -> dict[str, float]:
    return {"resumes/s": await scenarios.resumes(server, options.connects)}


async def _idle(server: Server, options: argparse.Namespace) -> dict[str, float]:
    memory, cpu = await scenarios.idle(server, options.idle, options.seconds * 10)
    return {f"KiB for each of {options.idle} idle": memory, "CPU % of them": 100 * cpu}


SCENARIOS: dict[str, Scenario] = {
    "direct": _direct,
    "receipts": _receipts,
    "crowd": _crowd,
    "fan-out": _fan_out,
    "connects": _connects,
    "resumes": _resumes,
    "idle": _idle,
}


@dataclass
class Series:
    """The figures of one peer in one measure, a round each."""

    values: list[float | None] = field(default_factory=list)
    server_cpu: list[float] = field(default_factory=list)
    load_cpu: list[float] = field(default_factory=list)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--connects", type=int, default=2000)
    parser.add_argument("--idle", type=int, default=5000, help="idle connections")
    parser.add_argument("--peers", nargs="+", default=PEERS, metavar="PEER")
    parser.add_argument("--scenarios", nargs="+", default=SCENARIOS, choices=SCENARIOS)
    options = parser.parse_args()
    _prepare()
    results: dict[str, dict[str, Series]] = {}
    for number in range(1, options.rounds + 1):
        for scenario in options.scenarios:
            for peer in options.peers:
                print(f"round {number}: {scenario}, {peer}", file=sys.stderr, flush=True)
                _measure(results, scenario, peer, number, options)
    _print(results, options.peers)
    return 0


def _prepare() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, {LOAD_CORE})


def _measure(
    results: dict[str, dict[str, Series]],
    scenario: str,
    peer: str,
    number: int,
    options: argparse.Namespace,
) -> None:
    with running(peer) as server:
        cpu, load, start = server.cpu(), time.process_time(), time.perf_counter()
        try:
            figures = asyncio.run(SCENARIOS[scenario](server, options))
        except (OSError, TimeoutError) as error:
            print(f"{peer} failed in {scenario}: {error}", file=sys.stderr)
            return
        wall = time.perf_counter() - start
        shares = ((server.cpu() - cpu) / wall, (time.process_time() - load) / wall)
    for measure, value in figures.items():
        series = results.setdefault(measure, {}).setdefault(peer, Series())
        series.values += [None] * (number - 1 - len(series.values))
        series.values.append(value)
        series.server_cpu.append(shares[0])
        series.load_cpu.append(shares[1])


def _print(results: dict[str, dict[str, Series]], peers: list[str]) -> None:
    for measure, row in results.items():
        print(f"\n{measure}")
        reference = row[REFERENCE].values if REFERENCE in row else []
        for peer in peers:
            if peer not in row:
                print(f"  {peer:16} failed")
                continue
            series = row[peer]
            values = [value for value in series.values if value is not None]
            ratios = [
                value / other
                for value, other in zip(series.values, reference, strict=False)
                if value is not None and other
            ]
            ratio = f"x{statistics.median(ratios):5.2f}" if ratios else "      "
            print(
                f"  {peer:16} {statistics.median(values):10,.1f}  "
                f"({min(values):,.1f} to {max(values):,.1f})  {ratio}  "
                f"server {100 * statistics.median(series.server_cpu):3.0f}% "
                f"load {100 * statistics.median(series.load_cpu):3.0f}% of a core"
            )


if __name__ == "__main__":
    sys.exit(main())
