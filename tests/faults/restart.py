"""Restart a gateway with many players connected: `python -m tests.faults.restart`.

The players are connections of this process that do on the wire what the stock client does, with
its defaults for coming back; a share of them heeds `goaway`, as the gateway's own client module
does. Messages flow all the time. Printed is when they come back, how the new process fares, and
whether anything was lost, doubled or out of order.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import random
import re
import resource
import socket
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.faults.checker import Findings, check
from tests.faults.fleet import Fleet
from tests.faults.player import STOCK, Pace, Patience
from tests.gateway_process import GatewayProcess

_GOAWAY: Final = dataclasses.replace(STOCK, heeds_goaway=True)
#: Width of a row of the curve, in seconds.
STEP: Final = 0.5
#: How long the last player may take to come back, and the last message to arrive. Seconds.
_PATIENCE: Final = 120.0
_LAG: Final = re.compile(r'^gateway_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.M)
_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do.

    `per_second` messages are sent in all. With `activation` the listening socket outlives the
    gateway, as under gateway.socket. `heed` is the share of players that heed `goaway`.
    """

    players: int
    per_second: float
    activation: bool
    heed: float
    grace: float = 10.0
    reconnects_per_second: float = 500.0
    seed: int = 1


@dataclass(slots=True)
class Report:
    """What came of it. Times are in seconds since the signal."""

    players: int
    sent: int
    acked: int
    findings: Findings
    #: When the old process had ended, when the new one served, when the last player was back.
    ended: float
    serving: float
    back: float
    #: How many were connected at the end of each step, and how many greetings fell into it.
    curve: list[tuple[int, int]] = field(default_factory=list)
    #: How long each player was away, in order.
    outages: list[float] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    #: Upper bounds of the new process's event loop lag: of 99 % of its timers, and of all.
    lag_p99: float = 0.0
    lag_max: float = 0.0


def _config(plan: Plan) -> dict[str, Any]:
    return {
        "server": {
            "shutdown_grace": plan.grace,
            "reconnects_per_second": plan.reconnects_per_second,
        },
        # Nothing may be trimmed: what is missing then was lost.
        "mailbox": {"max_messages": 0, "max_bytes": 0, "total_bytes": 0},
        "limits": {"connections_per_address": 0, "new_sessions_per_minute": 0},
    }


async def restart(plan: Plan, directory: Path) -> Report:
    """Carry out the plan."""
    chance = random.Random(plan.seed)
    pace = Pace(per_second=plan.per_second / plan.players, burst=1)

    def patience(number: int) -> Patience:
        return _GOAWAY if number <= plan.heed * plan.players else STOCK

    with ExitStack() as stack:
        sockets = {}
        if plan.activation:
            listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
            sockets["players"] = stack.enter_context(listening)
        gateway = GatewayProcess(
            directory,
            config=_config(plan),
            variables={"GATEWAY_SERVER_SHUTDOWN_GRACE": str(plan.grace)},
            sockets=sockets,
        )
        stack.enter_context(gateway)
        address = ("127.0.0.1", gateway.port)
        async with Fleet(plan.players, lambda: address, pace, chance, patience) as fleet:
            await fleet.flows(plan.players)
            report = await _restart(gateway, fleet, plan)
            await fleet.flows(plan.players)
            await fleet.settle(_PATIENCE)
        report.sent, report.acked = len(fleet.log.sent), fleet.acked
        report.findings = check(fleet.log)
        report.refused = dict(fleet.refusals)
        return report


async def _restart(gateway: GatewayProcess, fleet: Fleet, plan: Plan) -> Report:
    report = Report(plan.players, 0, 0, Findings(), 0.0, 0.0, 0.0)
    before = fleet.connects
    started = time.monotonic()

    async def replace() -> None:
        gateway.terminate()
        await asyncio.to_thread(gateway.wait)
        report.ended = time.monotonic() - started
        await asyncio.to_thread(gateway.start)
        report.serving = time.monotonic() - started

    replacing = asyncio.ensure_future(replace())
    counted = before
    while not replacing.done() or not fleet.all_online or fleet.connects < before + plan.players:
        assert time.monotonic() < started + _PATIENCE, f"not all came back: {fleet.state()}"
        await asyncio.sleep(started + STEP * (len(report.curve) + 1) - time.monotonic())
        online = sum(player.online for player in fleet.players)
        report.curve.append((online, fleet.connects - counted))
        counted = fleet.connects
    await replacing
    report.back = time.monotonic() - started
    report.outages = sorted(player.longest_outage for player in fleet.players)
    metrics = (await asyncio.to_thread(gateway.get, "/metrics"))[1]
    buckets = [(float(bound), float(count)) for bound, count in _LAG.findall(metrics)]
    everything = buckets[-1][1]
    report.lag_p99 = next(bound for bound, count in buckets if count >= 0.99 * everything)
    report.lag_max = next(bound for bound, count in buckets if count == everything)
    return report


def _print(report: Report) -> None:
    print(f"{'seconds':>10}{'connected':>11}{'came back':>11}")
    for step, (online, came) in enumerate(report.curve, 1):
        print(f"{step * STEP:>10.1f}{online:>11}{came:>11}")
    outages = report.outages
    print(
        f"old process ended after {report.ended:.1f} s, new one served after "
        f"{report.serving:.1f} s, all {report.players} back after {report.back:.1f} s\n"
        f"a player was away for {outages[len(outages) // 2]:.1f} s (median), "
        f"{outages[-1]:.1f} s (longest)\n"
        f"event loop lag of the new process: 99 % within {report.lag_p99 * 1000:.0f} ms, "
        f"all within {report.lag_max * 1000:.0f} ms\n"
        f"refused: {report.refused or 'nobody'}\n"
        f"{report.sent} messages sent, {report.acked} acknowledged, "
        f"{report.findings.arrived} arrived, {report.findings.repeats} again to bare tokens; "
        f"lost {len(report.findings.lost)}, doubled {len(report.findings.doubled)}, "
        f"out of order {len(report.findings.misordered)}, "
        f"unexpected {len(report.findings.unexpected)}",
        flush=True,
    )
    for line in str(report.findings).splitlines()[:_SHOWN]:
        print(f"    {line}")


def main() -> int:
    """Run it; 1 if something was lost, doubled, out of order or unexpected."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.restart", description=__doc__)
    parser.add_argument("--players", type=int, default=2000)
    parser.add_argument("--messages", type=float, default=1000.0, help="per second, in all")
    parser.add_argument("--heed", type=float, default=0.0, help="share that heeds goaway")
    parser.add_argument("--activation", action="store_true", help="the listening socket stays")
    parser.add_argument("--grace", type=float, default=10.0, help="server.shutdown_grace")
    parser.add_argument("--rate", type=float, default=500.0, help="server.reconnects_per_second")
    arguments = parser.parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    plan = Plan(
        arguments.players,
        arguments.messages,
        arguments.activation,
        arguments.heed,
        arguments.grace,
        arguments.rate,
    )
    with tempfile.TemporaryDirectory(prefix="gateway-restart-") as directory:
        report = asyncio.run(restart(plan, Path(directory)))
    _print(report)
    return int(not report.findings.clean)


if __name__ == "__main__":
    sys.exit(main())
