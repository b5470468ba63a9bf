"""The short version of `python -m tests.faults` for gateways on Redis: every fault, a few times."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest

from tests.faults.redis_scenarios import SCENARIOS
from tests.faults.scenarios import Plan, Report

_PLAYERS: Final = 12
_SEED: Final = 20_240


def run(scenario: str, directory: Path, rounds: int) -> Report:
    """Run a scenario; all of its faults have to strike, and all that was acked has to be found.

    What the store has lost has to have been told to who lacks it.
    """
    report = asyncio.run(SCENARIOS[scenario](Plan(rounds, _SEED, _PLAYERS), directory))
    assert report.faults == rounds
    assert report.findings.clean, report.findings
    assert report.acked >= 100 * rounds
    assert report.findings.arrived + report.findings.told == report.acked
    return report


@pytest.mark.parametrize(
    ("scenario", "rounds"),
    [
        ("node", 1),
        ("redis-always", 2),
        ("black-hole", 1),
        ("slow", 2),
        ("full", 1),
        ("failover-wait", 1),
        ("lagging-wait", 1),
    ],
)
def test_nothing_that_was_acknowledged_is_lost(tmp_path: Path, scenario: str, rounds: int) -> None:
    assert run(scenario, tmp_path, rounds).findings.told == 0


def test_who_lacks_something_that_redis_had_not_on_its_disk_is_told(tmp_path: Path) -> None:
    assert run("power", tmp_path, 2).findings.told > 0


def test_a_failover_loses_nothing_unsaid(tmp_path: Path) -> None:
    run("failover", tmp_path, 1)


def test_who_lacks_something_that_a_lagging_replica_had_not_is_told(tmp_path: Path) -> None:
    assert run("lagging", tmp_path, 1).findings.told > 0
