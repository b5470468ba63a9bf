"""Benchmarks, in short: that they run to their end, and what holds anywhere.

Figures are not looked at: this machine may be busy with anything.
"""

from __future__ import annotations

import subprocess
import sys

from tests.gateway_process import ROOT, own_environment


def bench(module: str, *arguments: str) -> str:
    """Run a benchmark and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.bench.{module}", *arguments],
        cwd=ROOT,
        env=own_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_in_a_room_of_fifty_who_stalls_or_hides_misses_nothing_that_counts() -> None:
    # The benchmark fails unless they do.
    options = ("--rounds", "1", "--seconds", "0.5", "--scenarios", "room")
    out = bench("__main__", *options, "--peers", "gateway-sqlite")
    lines = out.partition("room, ms at p99, one stalled, one hidden\n")[2].splitlines()
    assert lines[0].split()[0] == "gateway-sqlite"
    assert float(lines[0].split()[1].replace(",", "")) > 0


def test_nodes_are_measured_in_all_scenarios() -> None:
    out = bench(
        "nodes",
        *("--rounds", "1", "--seconds", "0.5", "--players", "300", "--peers", "gateway"),
    )
    for measure in (
        "across two nodes, messages/s",
        "on one node, messages per second of its processor",
        "4 nodes, us of the others per message",
        "300 resume elsewhere, per second",
    ):
        lines = out.partition(f"{measure}\n")[2].splitlines()
        assert lines, measure
        assert lines[0].startswith("  gateway "), measure


def test_what_three_nodes_cost_follows_from_what_one_and_two_do() -> None:
    # Twice as much would be another law; less than that may be another load on the machine.
    out = bench("scaling", "--seconds", "1", "--players", "300", "--tolerance", "0.95")
    assert "GiB of Redis" in out
    assert "MiB of Redis for 600 players, 12000 messages" in out
