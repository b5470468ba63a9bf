"""The short version of `python -m tests.faults`: every fault, under load, a few times.

Nothing is lost, doubled or out of order, and there was something to lose.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest

from tests.faults import restart, soak
from tests.faults.proxy import Fault
from tests.faults.scenarios import SCENARIOS, Plan, Report

_PLAYERS: Final = 12
_SEED: Final = 20_240
#: Acks that each fault has to be worth, at least.
_ACKS_PER_FAULT: Final = 50


def run(scenario: str, directory: Path, plan: Plan) -> Report:
    """Run a scenario; all of its faults have to strike, and enough messages to flow."""
    report = asyncio.run(SCENARIOS[scenario](plan, directory))
    assert report.faults >= plan.rounds
    assert report.acked >= _ACKS_PER_FAULT * plan.rounds
    return report


@pytest.mark.parametrize(("scenario", "rounds"), [("kill", 5), ("stop", 3), ("clock", 6)])
def test_nothing_is_lost_doubled_or_out_of_order(
    tmp_path: Path, scenario: str, rounds: int
) -> None:
    report = run(scenario, tmp_path, Plan(rounds, _SEED, _PLAYERS))
    assert report.findings.clean, report.findings
    assert report.findings.arrived == report.acked
    # Each of them broke every link.
    assert report.connects > _PLAYERS * rounds // 2


def test_a_bad_network_loses_doubles_and_reorders_nothing(tmp_path: Path) -> None:
    rounds = 5
    report = run("proxy", tmp_path, Plan(rounds, _SEED, _PLAYERS))
    assert report.findings.clean, report.findings
    assert report.findings.arrived == report.acked
    assert report.faults >= _PLAYERS * rounds
    assert all(fault.name.lower() in report.notes for fault in Fault)


def test_a_full_disk_refuses_and_recovers_by_itself(tmp_path: Path) -> None:
    report = run("disk", tmp_path, Plan(2, _SEED, _PLAYERS))
    assert report.findings.clean, report.findings
    assert report.findings.arrived == report.acked


def test_a_store_that_forgets_is_caught(tmp_path: Path) -> None:
    plan = Plan(1, _SEED, _PLAYERS, store="memory://", settle=2.0)
    report = run("kill", tmp_path, plan)
    assert report.findings.lost
    assert not report.findings.clean
    assert report.findings.arrived < report.acked


@pytest.mark.parametrize("activation", [False, True], ids=["own socket", "socket that stays"])
def test_a_restart_brings_all_players_back(tmp_path: Path, activation: bool) -> None:
    plan = restart.Plan(
        players=150,
        per_second=300,
        activation=activation,
        heed=0.5,
        grace=10.0,
        reconnects_per_second=100,
        seed=_SEED,
    )
    report = asyncio.run(restart.restart(plan, tmp_path))
    assert report.findings.clean, report.findings
    assert report.findings.arrived == report.acked >= 2 * plan.players
    assert report.curve[-1][0] == plan.players
    assert len(report.outages) == plan.players
    # With a socket that stays nobody is refused, who comes too early waits.
    assert not (activation and report.refused)


def test_a_minute_of_everything_at_once_is_clean_and_grows_nothing(tmp_path: Path) -> None:
    report = asyncio.run(soak.soak(60.0, players=12, bots=4, seed=_SEED, directory=tmp_path))
    assert report.findings.clean, report.findings
    assert report.crowd_findings == []
    assert report.acked > 1000
    assert report.room_messages > 200
    assert report.faults > 20
    # Two for each connection at a time, dying ones included, and what the process itself needs.
    assert max(sample.descriptors for sample in report.samples) < 200
    assert report.samples[-1].tasks <= max(sample.tasks for sample in report.samples[:20]) + 5
