"""Mixed load with faults for a long time: `python -m tests.faults.soak --minutes 10`.

Players write to each other and bots of `gateway.client` share a room, through a network that
breaks one third of the time; each minute the gateway is stopped for longer than a heartbeat
allows. Printed is how the process fares: memory, its slope over the second half, descriptors,
tasks, how late the event loop is; and what was lost, doubled or out of order.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.faults.checker import Findings, check
from tests.faults.crowd import Crowd
from tests.faults.fleet import Fleet
from tests.faults.player import Pace
from tests.faults.proxy import Proxy
from tests.gateway_process import GatewayProcess

#: A turn of the load, in seconds, and for how much of it the network breaks.
_TURN: Final = 15.0
_BROKEN: Final = 5.0
_STOP_EVERY: Final = 4  # turns
_PING: Final = 1.0
_SAMPLE: Final = 1.0
_LAG: Final = re.compile(r'^gateway_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.M)
_TASKS: Final = re.compile(r"^gateway_event_loop_tasks (\S+)$", re.M)
_CONFIG: Final = {
    "server": {"ping_interval": _PING, "ping_timeout": _PING},
    # A day's mailboxes must not grow with the run; nobody is behind by so many.
    "mailbox": {"max_messages": 2000, "dedupe_window": 120, "dedupe_keys": 1_000_000},
    "limits": {
        "connections_per_address": 0,
        "messages_per_second": 0,
        "burst": 0,
        "new_sessions_per_minute": 0,
    },
}


@dataclass(frozen=True, slots=True)
class Sample:
    """The process at one moment, `at` seconds from the start; `rss` in bytes."""

    at: float
    rss: int
    descriptors: int
    tasks: int


@dataclass(slots=True)
class Report:
    """What came of it. `lag_p99` and `lag_max` are upper bounds in seconds."""

    samples: list[Sample] = field(default_factory=list)
    acked: int = 0
    room_messages: int = 0
    faults: int = 0
    findings: Findings = field(default_factory=Findings)
    crowd_findings: list[str] = field(default_factory=list)
    lag_p99: float = 0.0
    lag_max: float = 0.0

    @property
    def clean(self) -> bool:
        """Nothing was lost, doubled or out of order."""
        return self.findings.clean and not self.crowd_findings

    @property
    def slope(self) -> float:
        """Growth of memory over the second half, in bytes per minute: least squares."""
        half = self.samples[len(self.samples) // 2 :]
        if len(half) < 2:
            return 0.0
        at = [sample.at for sample in half]
        rss = [sample.rss for sample in half]
        mean_at, mean_rss = sum(at) / len(at), sum(rss) / len(rss)
        above = sum((x - mean_at) * (y - mean_rss) for x, y in zip(at, rss, strict=True))
        below = sum((x - mean_at) ** 2 for x in at)
        return 60 * above / below if below else 0.0


async def soak(seconds: float, players: int, bots: int, seed: int, directory: Path) -> Report:
    """Run for so long."""
    chance = random.Random(seed)
    report = Report()
    with GatewayProcess(directory, config=_CONFIG) as gateway:
        async with (
            Proxy(gateway.port, chance) as proxy,
            Fleet(
                players, lambda: ("127.0.0.1", proxy.port), Pace(per_second=10.0), chance
            ) as fleet,
            Crowd(bots, f"http://127.0.0.1:{proxy.port}", chance) as crowd,
        ):
            sampling = asyncio.create_task(_sample(gateway, report), name="sampling")
            end = time.monotonic() + seconds
            turn = 0
            while time.monotonic() < end:
                turn += 1
                proxy.faulty = True
                await asyncio.sleep(min(_BROKEN, seconds / 3))
                proxy.faulty = False
                proxy.heal()
                if turn % _STOP_EVERY == 0:
                    await _stop(gateway)
                    report.faults += 1
                await asyncio.sleep(max(0.0, min(_TURN - _BROKEN, end - time.monotonic())))
            report.crowd_findings = await crowd.settle()
            report.room_messages = sum(len(bot.heard) for bot in crowd.bots)
            await fleet.settle()
            sampling.cancel()
            await asyncio.gather(sampling, return_exceptions=True)
            report.faults += proxy.faults.total()
        report.acked = fleet.acked
        report.findings = check(fleet.log)
        _, text = await asyncio.to_thread(gateway.get, "/metrics")
        report.lag_p99, report.lag_max = _lag(text)
    return report


async def _stop(gateway: GatewayProcess) -> None:
    os.kill(gateway.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(2.5 * _PING)
    finally:
        os.kill(gateway.pid, signal.SIGCONT)


async def _sample(gateway: GatewayProcess, report: Report) -> None:
    started = time.monotonic()
    proc = Path(f"/proc/{gateway.pid}")
    page = os.sysconf("SC_PAGE_SIZE")
    while True:
        _, text = await asyncio.to_thread(gateway.get, "/metrics")
        found = _TASKS.search(text)
        assert found is not None, "the gateway has no metric gateway_event_loop_tasks"
        report.samples.append(
            Sample(
                time.monotonic() - started,
                int((proc / "statm").read_text().split()[1]) * page,
                len(list((proc / "fd").iterdir())),
                int(float(found[1])),
            )
        )
        await asyncio.sleep(_SAMPLE)


def _lag(text: str) -> tuple[float, float]:
    """Return upper bounds of the 99th percentile and of the whole, in seconds."""
    buckets = [(float(bound), float(count)) for bound, count in _LAG.findall(text)]
    total = buckets[-1][1]
    p99 = next(bound for bound, count in buckets if count >= 0.99 * total)
    return p99, next(bound for bound, count in buckets if count >= total)


def _print(report: Report) -> None:
    samples = report.samples
    first, last = samples[0], samples[-1]
    mebi = 1 << 20
    print(f"{report.acked} messages acknowledged, {report.room_messages} received in the room")
    print(f"{report.faults} faults")
    print(
        f"memory {first.rss / mebi:.1f} to {last.rss / mebi:.1f} MiB, at most "
        f"{max(sample.rss for sample in samples) / mebi:.1f}; "
        f"over the second half {report.slope / mebi:+.3f} MiB a minute"
    )
    for name in ("descriptors", "tasks"):
        values = [getattr(sample, name) for sample in samples]
        print(f"{name} {values[0]} to {values[-1]}, at most {max(values)}")
    print(f"event loop late by {report.lag_p99:g} s at p99, {report.lag_max:g} s at most")
    findings = report.findings
    print(
        f"{len(findings.lost)} lost, {len(findings.doubled)} doubled, "
        f"{len(findings.misordered)} out of order, {len(findings.unexpected)} unexpected"
    )
    for line in [*str(findings).splitlines(), *report.crowd_findings][:20]:
        print(f"    {line}")


def main() -> int:
    """Run the soak; 1 if anything was lost, doubled or out of order."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--players", type=int, default=24)
    parser.add_argument("--bots", type=int, default=8)
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    print(f"{arguments.minutes:g} minutes, --seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="gateway-soak-") as directory:
        report = asyncio.run(
            soak(60 * arguments.minutes, arguments.players, arguments.bots, seed, Path(directory))
        )
    _print(report)
    return 0 if report.clean else 1


if __name__ == "__main__":
    sys.exit(main())
