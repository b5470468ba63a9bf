"""Harm gateways under load and count what got lost: `python -m tests.faults`.

`told` are acknowledged messages that a store has lost and whose players were told so. Scenarios
of Redis have two gateways on it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.faults import redis_scenarios, scenarios
from tests.faults.scenarios import Plan, Report

_SCENARIOS: Final = scenarios.SCENARIOS | redis_scenarios.SCENARIOS

_ROUNDS: Final = 50
_FAILOVERS: Final = 10
_WITH_FAILOVER: Final = frozenset({"failover-wait", "lagging-wait", "failover", "lagging"})

_COLUMNS: Final = (
    ("scenario", 17),
    ("faults", 7),
    ("sent", 8),
    ("acked", 8),
    ("arrived", 8),
    ("again", 6),
    ("lost", 6),
    ("told", 6),
    ("doubled", 8),
    ("misordered", 11),
    ("unexpected", 11),
    ("outage ms", 10),
    ("seconds", 8),
)
#: Of each finding so many are printed.
_SHOWN: Final = 20


def _line(cells: tuple[object, ...]) -> str:
    return "".join(str(cell).rjust(width) for cell, (_, width) in zip(cells, _COLUMNS, strict=True))


def _print(report: Report, seconds: float) -> None:
    findings = report.findings
    print(
        _line(
            (
                report.scenario,
                report.faults,
                report.sent,
                report.acked,
                findings.arrived,
                findings.repeats,
                len(findings.lost),
                findings.told,
                len(findings.doubled),
                len(findings.misordered),
                len(findings.unexpected),
                round(report.longest_outage * 1000),
                round(seconds),
            )
        ),
        " well" if findings.clean else " FAILED",
        f"({report.notes})" if report.notes else "",
        flush=True,
    )
    if not findings.clean:
        for line in str(findings).splitlines()[:_SHOWN]:
            print(f"    {line}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=0,
        help=f"faults of each kind; without it {_ROUNDS}, and {_FAILOVERS} failovers",
    )
    parser.add_argument("--scenarios", nargs="+", choices=_SCENARIOS, default=list(_SCENARIOS))
    parser.add_argument("--players", type=int, default=12)
    parser.add_argument("--seed", type=int, help="repeats the choices of an earlier run")
    parser.add_argument(
        "--store",
        default="",
        help="a store.url instead of sqlite's default; {state} is the state directory",
    )
    return parser.parse_args()


def main() -> int:
    """Run the scenarios one after the other; 1 if any of them found something."""
    arguments = _arguments()
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    print(f"{arguments.players} players, --seed {seed}")
    print(_line(tuple(title for title, _ in _COLUMNS)), flush=True)
    failed = False
    for name in arguments.scenarios:
        rounds = _FAILOVERS if name in _WITH_FAILOVER else _ROUNDS
        plan = Plan(arguments.rounds or rounds, seed, arguments.players, arguments.store)
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="gateway-faults-") as directory:
            try:
                report = asyncio.run(_SCENARIOS[name](plan, Path(directory)))
            except AssertionError as error:
                print(name.rjust(_COLUMNS[0][1]), f" FAILED: {error}", flush=True)
                failed = True
                continue
        _print(report, time.monotonic() - started)
        failed = failed or not report.findings.clean
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
