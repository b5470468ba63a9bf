"""`python -m tests.bench`: the gateway beside its peers, in one run, and the ratios.

Each round runs every peer once for each scenario, the server alone on one core and the load
on another. Printed are medians over the rounds, their spread, and the median of the ratios to
Node's plain Socket.IO, round by round, and the shares that server and load had of their cores
during the measurement. Machines differ: only the ratios mean something.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.bench import room, scenarios, watching
from tests.bench.client import Load
from tests.bench.servers import LOAD_CORE, Meter, allow_many_files, running

PEERS = ("gateway", "gateway-sqlite", "plain", "recovery", "uws", "stock")
#: What others are compared with: the first of them that has the measure.
REFERENCES = ("plain", "recovery")
#: The others forget who was connected, and what they missed.
REPLAYING = ("gateway", "gateway-sqlite", "recovery")
#: The others know no presence and no volatile state.
WATCHING = ("gateway", "gateway-sqlite")
ABLE: dict[str, Sequence[str]] = {"replay": REPLAYING, "presence": WATCHING, "room": WATCHING}
Figures = dict[str, float]
Scenario = Callable[[Load, Meter, argparse.Namespace], Figures]


def _direct(load: Load, meter: Meter, options: argparse.Namespace) -> Figures:
    rate, latencies = scenarios.direct(load, meter, options.seconds, ack=False)
    hundredths = statistics.quantiles(latencies, n=100)
    return {
        "direct, messages/s": rate,
        "direct, ms at p50": 1000 * hundredths[49],
        "direct, ms at p99": 1000 * hundredths[98],
    }


def _receipts(load: Load, meter: Meter, options: argparse.Namespace) -> Figures:
    rate, _ = scenarios.direct(load, meter, options.seconds, ack=True)
    return {"direct with receipts": rate}


def _crowd(load: Load, meter: Meter, options: argparse.Namespace) -> Figures:
    rate = scenarios.crowd(load, meter, options.seconds, options.idle)
    return {f"direct among {options.idle} idle": rate}


def _fan_out(load: Load, meter: Meter, options: argparse.Namespace) -> Figures:
    return {"fan-out, deliveries/s": scenarios.fan_out(load, meter, options.seconds)}


def _publish(members: int, volatile: bool = False) -> Scenario:
    name = f"{'volatile ' if volatile else ''}publish to {members}, deliveries/s"

    def run(load: Load, meter: Meter, options: argparse.Namespace) -> Figures:
        return {name: scenarios.publish(load, meter, options.seconds, members, volatile)}

    return run


def _connects(load: Load, meter: Meter, options: argparse.Namespace) -> Figures:
    return {"connects/s": scenarios.connects(load, meter, options.connects)}


def _resumes(load: Load, meter: Meter, options: argparse.Namespace) -> Figures:
    return {"resumes/s": scenarios.resumes(load, meter, options.connects)}


def _replay(load: Load, meter: Meter, options: argparse.Namespace) -> Figures:
    return {"replayed to 1000, messages/s": scenarios.replay(load, meter, 1000)}


def _idle(load: Load, meter: Meter, options: argparse.Namespace) -> Figures:
    memory, cpu = scenarios.idle(load, meter, options.idle, options.seconds * 10)
    return {f"KiB for each of {options.idle} idle": memory, "CPU % of them": 100 * cpu}


def _presence(load: Load, meter: Meter, options: argparse.Namespace) -> Figures:
    peace, flapping, events = watching.presence(load, meter, options.seconds, options.watchers)
    before, meanwhile = watching.milliseconds(peace, 99), watching.milliseconds(flapping, 99)
    return {
        f"presence among {options.watchers}, events/s": events,
        "messages, ms at p99 before": before,
        "messages, ms at p50 meanwhile": watching.milliseconds(flapping, 50),
        "messages, ms at p99 meanwhile": meanwhile,
        "messages/s meanwhile": len(flapping) * scenarios.IN_FLIGHT / meter.seconds,
    }


def _room(load: Load, meter: Meter, options: argparse.Namespace) -> Figures:
    peace, meanwhile, rate = room.room(load, meter, options.seconds)
    before, after = watching.milliseconds(peace, 99), watching.milliseconds(meanwhile, 99)
    return {
        "room, ms at p99, all read": before,
        "room, ms at p99, one stalled, one hidden": after,
        "room, ratio of the two": after / before,
        "room, deliveries/s, one stalled, one hidden": rate,
    }


SCENARIOS: dict[str, Scenario] = {
    "direct": _direct,
    "receipts": _receipts,
    "crowd": _crowd,
    "fan-out": _fan_out,
    "publish": _publish(1000),
    "publish-large": _publish(10_000),
    "publish-volatile": _publish(1000, volatile=True),
    "connects": _connects,
    "resumes": _resumes,
    "replay": _replay,
    "idle": _idle,
    "presence": _presence,
    "room": _room,
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
    parser.add_argument("--watchers", type=int, default=1000, help="players who watch each other")
    parser.add_argument("--peers", nargs="+", default=PEERS, choices=PEERS)
    parser.add_argument("--scenarios", nargs="+", default=SCENARIOS, choices=SCENARIOS)
    options = parser.parse_args()
    _prepare()
    results: dict[str, dict[str, Series]] = {}
    good = True
    for number in range(1, options.rounds + 1):
        for scenario in options.scenarios:
            for peer in options.peers:
                if peer not in ABLE.get(scenario, options.peers):
                    continue
                print(f"round {number}: {scenario}, {peer}", file=sys.stderr, flush=True)
                good &= _measure(results, scenario, peer, number, options)
    _print(results, options.peers)
    return 0 if good else 1


def _prepare() -> None:
    allow_many_files()
    os.sched_setaffinity(0, {LOAD_CORE})


def _measure(
    results: dict[str, dict[str, Series]],
    scenario: str,
    peer: str,
    number: int,
    options: argparse.Namespace,
) -> bool:
    """Measure once; say why and return false if the server or a connection failed."""
    try:
        with running(peer) as server, Load(server.url) as load:
            meter = Meter(server)
            figures = SCENARIOS[scenario](load, meter, options)
    except OSError as error:
        print(f"{peer} failed in {scenario}: {error}", file=sys.stderr)
        return False
    for measure, value in figures.items():
        series = results.setdefault(measure, {}).setdefault(peer, Series())
        series.values += [None] * (number - 1 - len(series.values))
        series.values.append(value)
        series.server_cpu.append(meter.server_share)
        series.load_cpu.append(meter.load_share)
    return True


def _print(results: dict[str, dict[str, Series]], peers: list[str]) -> None:
    for measure, row in results.items():
        print(f"\n{measure}")
        reference = next((row[name].values for name in REFERENCES if name in row), [])
        for peer in peers:
            if peer not in row:
                # It has failed, or has nothing of the kind.
                print(f"  {peer:16} -")
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
