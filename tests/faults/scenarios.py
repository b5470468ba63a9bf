"""The scenarios: each does one kind of harm to a gateway under load, round by round."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.faults.checker import Findings, check
from tests.faults.disk import SmallDisk
from tests.faults.fleet import WAIT_SECONDS, Fleet
from tests.faults.player import Pace
from tests.faults.proxy import Proxy
from tests.gateway_process import GatewayProcess

#: Seconds. Dead links show soon; SIGSTOP lasts longer than both together.
PING_INTERVAL: Final = 0.5
PING_TIMEOUT: Final = 0.5
_PROBE_TIMEOUT: Final = 0.4
#: Longer than the clock jumps: a repeated message is accepted once within this window only.
_DEDUPE_WINDOW: Final = 24 * 3600.0
#: Acks that show that the load is back after a fault.
BACK: Final = 60
#: Messages that wait for players who are away when a fault strikes.
WAITING: Final = 10
#: Share of the kills that hit a gateway whose players are still on their way back.
_HASTE: Final = 0.25
_FAKETIME: Final = "/usr/lib/{machine}-linux-gnu/faketime/libfaketime.so.1"
#: A clock that has just been set may differ from the wish by so much. Seconds.
_CLOCK_SLACK: Final = 60.0
#: Where the clock is set to, relative to the true time. Seconds.
_CLOCKS: Final = (3600.0, 0.0, -3600.0, -3595.0, -3600.0, 0.0, 1.0, -1.0)
_DISK_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """How to run a scenario.

    `store` is the gateway's `store.url`, empty for its default; `{state}` in it stands for the
    state directory. `settle` is how long the last messages may take to arrive, in seconds.
    """

    rounds: int
    seed: int = 1
    players: int = 12
    store: str = ""
    settle: float = WAIT_SECONDS


@dataclass(frozen=True, slots=True)
class Report:
    """What a scenario did and found. `longest_outage` is in seconds."""

    scenario: str
    faults: int
    sent: int
    acked: int
    connects: int
    longest_outage: float
    findings: Findings
    notes: str


@dataclass(slots=True)
class _Stage:
    """What a scenario works with."""

    plan: Plan
    gateway: GatewayProcess
    fleet: Fleet
    proxy: Proxy | None
    chance: random.Random
    faults: int = 0

    def report(self, scenario: str, *notes: str) -> Report:
        return report_of(scenario, self.faults, self.fleet, *notes)


def report_of(
    scenario: str, faults: int, fleet: Fleet, *notes: str, may_lose: bool = False
) -> Report:
    """Judge a fleet that has settled; see check about `may_lose`."""
    refused = (f"{count} {code}" for code, count in sorted(fleet.refusals.items()))
    return Report(
        scenario,
        faults,
        len(fleet.log.sent),
        fleet.acked,
        fleet.connects,
        fleet.longest_outage,
        check(fleet.log, may_lose=may_lose),
        ", ".join([*notes, *(f"refused {each}" for each in refused)]),
    )


def config_of(plan: Plan, directory: Path) -> dict[str, Any]:
    config: dict[str, Any] = {
        "server": {"ping_interval": PING_INTERVAL, "ping_timeout": PING_TIMEOUT},
        "resume": {"probe_timeout": _PROBE_TIMEOUT},
        # Nothing may be trimmed: what is missing then was lost.
        "mailbox": {
            "max_messages": 0,
            "max_bytes": 0,
            "total_bytes": 0,
            "dedupe_window": _DEDUPE_WINDOW,
            "dedupe_keys": 1_000_000,
        },
        "limits": {
            "connections_per_address": 0,
            "messages_per_second": 0,
            "burst": 0,
            "new_sessions_per_minute": 0,
        },
    }
    if plan.store:
        config["store"] = {"url": plan.store.format(state=directory / "var")}
    return config


@asynccontextmanager
async def _stage(
    plan: Plan,
    directory: Path,
    *,
    through_proxy: bool = False,
    pace: Pace | None = None,
    variables: dict[str, str] | None = None,
    may_complain: bool = False,
) -> AsyncIterator[_Stage]:
    """A gateway under load; unless it `may_complain`, its end and its log have to be clean."""
    chance = random.Random(plan.seed)
    gateway = GatewayProcess(directory, config=config_of(plan, directory), variables=variables)
    with _serving(gateway, may_complain=may_complain):
        async with Proxy(gateway.port, chance) as proxy:
            port = proxy.port if through_proxy else gateway.port
            address = ("127.0.0.1", port)
            fleet = Fleet(plan.players, lambda: address, pace or Pace(), chance)
            async with fleet:
                await fleet.flows(BACK)
                yield _Stage(plan, gateway, fleet, proxy if through_proxy else None, chance)


@contextmanager
def _serving(gateway: GatewayProcess, *, may_complain: bool) -> Iterator[None]:
    if not may_complain:
        with gateway:
            yield
        return
    gateway.start()
    try:
        yield
    finally:
        gateway.kill()


async def kill(plan: Plan, directory: Path) -> Report:
    """SIGKILL at random moments, some of them while players are still coming back.

    A third of the players are away: messages that were acked wait for them.
    """
    async with _stage(plan, directory) as stage:
        for _ in range(plan.rounds):
            await stage.fleet.nap(WAITING)
            await asyncio.sleep(stage.chance.uniform(0.0, 0.3))
            await asyncio.to_thread(stage.gateway.kill)
            stage.faults += 1
            await asyncio.to_thread(stage.gateway.start)
            stage.fleet.wake()
            if stage.chance.random() >= _HASTE:
                await stage.fleet.flows(BACK)
        await stage.fleet.settle(plan.settle)
        return stage.report("kill")


async def stop(plan: Plan, directory: Path) -> Report:
    """SIGSTOP for longer than any heartbeat allows, then SIGCONT."""
    async with _stage(plan, directory) as stage:
        for _ in range(plan.rounds):
            connects = stage.fleet.connects
            os.kill(stage.gateway.pid, signal.SIGSTOP)
            try:
                longer = stage.chance.uniform(0.2, 1.0)
                await asyncio.sleep(PING_INTERVAL + PING_TIMEOUT + longer)
                stage.faults += 1
            finally:
                os.kill(stage.gateway.pid, signal.SIGCONT)
            wanted = connects + plan.players
            await stage.fleet.until(
                "every player has come back",
                lambda wanted=wanted: stage.fleet.connects >= wanted,  # type: ignore[misc]
            )
            await stage.fleet.flows(BACK)
        await stage.fleet.settle(plan.settle)
        return stage.report("stop")


async def proxy(plan: Plan, directory: Path) -> Report:
    """A bad network between: every connection breaks, a round is one fault per player."""
    async with _stage(plan, directory, through_proxy=True) as stage:
        network = stage.proxy
        assert network is not None
        network.faulty = True
        for round_ in range(1, plan.rounds + 1):
            wanted = round_ * plan.players
            await stage.fleet.until(
                f"{wanted} faults",
                lambda wanted=wanted: network.faults.total() >= wanted,  # type: ignore[misc]
            )
        network.heal()
        stage.faults = network.faults.total()
        await stage.fleet.flows(BACK)
        await stage.fleet.settle(plan.settle)
        kinds = (f"{count} {fault.name.lower()}" for fault, count in network.faults.items())
        return stage.report("proxy", *kinds)


async def clock(plan: Plan, directory: Path) -> Report:
    """The wall clock jumps while links break, so that players resume under another time."""
    offset = directory / "clock"
    _set_clock(offset, 0.0)
    variables = _faked_by(offset)
    async with _stage(plan, directory, through_proxy=True, variables=variables) as stage:
        assert stage.proxy is not None
        for round_ in range(plan.rounds):
            seconds = _CLOCKS[round_ % len(_CLOCKS)]
            _set_clock(offset, seconds)
            stage.proxy.cut_all()
            # Every player has got a message that the gateway dated by its new clock.
            await stage.fleet.until(
                f"the gateway's clock is {seconds:+.0f} s",
                lambda seconds=seconds: all(  # type: ignore[misc]
                    abs(player.clock_error - seconds) < _CLOCK_SLACK
                    for player in stage.fleet.players
                ),
            )
            stage.faults += 1
            await stage.fleet.flows(BACK)
        await stage.fleet.settle(plan.settle)
        return stage.report("clock")


def _faked_by(offset: Path) -> dict[str, str]:
    """Return the variables that make a process read its wall clock by way of this file."""
    library = _FAKETIME.format(machine=os.uname().machine)
    assert Path(library).exists(), "faketime is not installed: `make test` installs it"
    return {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        # Timers must go on: only the wall clock jumps.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def _set_clock(file: Path, seconds: float) -> None:
    """Set the gateway's clock, at once: it must never read half a line."""
    new = file.with_suffix(".new")
    new.write_text(f"{seconds:+.3f}\n")
    new.replace(file)


async def disk(plan: Plan, directory: Path) -> Report:
    """The store's disk is full until senders and /readyz say so, then there is room again."""
    # One refused message must not be overtaken by the next one.
    pace = Pace(unacked_per_target=1)
    with SmallDisk(directory / "var", _DISK_BYTES) as small:
        async with _stage(plan, directory, pace=pace, may_complain=True) as stage:
            slowest = 0.0
            for _ in range(plan.rounds):
                await stage.fleet.nap(WAITING)
                refused = stage.fleet.refusals["unavailable"]
                small.fill()
                try:
                    await stage.fleet.until(
                        "messages are refused as `unavailable`",
                        lambda refused=refused: (  # type: ignore[misc]
                            stage.fleet.refusals["unavailable"] > refused
                        ),
                    )
                    await until_ready(stage.gateway, 503)
                    # Those who come back now have to wait.
                    stage.fleet.wake()
                    stage.faults += 1
                finally:
                    small.free()
                freed = time.monotonic()
                await until_ready(stage.gateway, 200)
                await stage.fleet.flows(BACK)
                slowest = max(slowest, time.monotonic() - freed)
            await stage.fleet.settle(plan.settle)
            return stage.report("disk", f"well again in {slowest:.1f} s")


async def until_ready(gateway: GatewayProcess, status: int) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while (answer := await asyncio.to_thread(gateway.get, "/readyz"))[0] != status:
        assert time.monotonic() < deadline, f"/readyz says {answer}, not {status}"
        await asyncio.sleep(0.02)


Scenario = Callable[[Plan, Path], Coroutine[Any, Any, Report]]
SCENARIOS: Final[dict[str, Scenario]] = {
    "kill": kill,
    "stop": stop,
    "proxy": proxy,
    "clock": clock,
    "disk": disk,
}
