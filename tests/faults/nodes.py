"""Several gateways on one Redis under load, for what befalls either."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.faults.fleet import Fleet
from tests.faults.player import Pace
from tests.faults.proxy import Proxy
from tests.faults.scenarios import BACK, Plan, Report, config_of, report_of
from tests.gateway_process import GatewayProcess
from tests.redis_servers import RedisServer, RedisServers

_SECRET: Final = "a key that all nodes share, for tests only"
#: The store gives up on a server that is silent for so long, in seconds.
TIMEOUT: Final = 1.0
#: A node that is silent for so long is dead for the others, in seconds.
LEASE: Final = 2.0


@dataclass(slots=True)
class Stage:
    """What a scenario works with: `master` is the server that is written to.

    `proxy` is between the first node and Redis.
    """

    plan: Plan
    servers: RedisServers
    master: RedisServer
    nodes: list[GatewayProcess]
    fleet: Fleet
    proxy: Proxy
    chance: random.Random
    #: Nodes that players may be sent to.
    serving: list[GatewayProcess]
    faults: int = 0

    def report(self, scenario: str, *notes: str, may_lose: bool = False) -> Report:
        """Judge it: see report_of."""
        return report_of(scenario, self.faults, self.fleet, *notes, may_lose=may_lose)


async def in_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call something that waits: the load goes on meanwhile."""
    return await asyncio.to_thread(call, *arguments)


@asynccontextmanager
async def stage(
    plan: Plan,
    directory: Path,
    build: Callable[[RedisServers], tuple[RedisServer, str]],
    *,
    pace: Pace | None = None,
    may_lose: bool = False,
) -> AsyncIterator[Stage]:
    """Two nodes on the server that `build` starts, and a fleet spread over them.

    `build` returns the master and the URL of the store, empty for the one at the proxy. With
    `may_lose` nodes log an error, if it is that the store has lost something.
    """
    chance = random.Random(plan.seed)
    with RedisServers(directory / "redis") as servers:
        master, url = await in_thread(build, servers)
        async with Proxy(master.port, chance) as proxy, AsyncExitStack() as stack:
            urls = [
                url or f"redis://127.0.0.1:{port}/?timeout={TIMEOUT}"
                for port in (proxy.port, master.port)
            ]
            processes = []
            for number, each in enumerate(urls):
                processes.append(_process(plan, directory / f"node{number}", each))
                await in_thread(processes[-1].start)
                if may_lose:
                    stack.push_async_callback(in_thread, _end, processes[-1])
                else:
                    stack.push_async_exit(partial(in_thread, processes[-1].__exit__))
            serving = [*processes]
            fleet = Fleet(
                plan.players,
                lambda: ("127.0.0.1", chance.choice(serving).port),
                pace or Pace(),
                chance,
            )
            async with fleet:
                await fleet.flows(BACK)
                yield Stage(plan, servers, master, processes, fleet, proxy, chance, serving)


def _end(process: GatewayProcess) -> None:
    process.kill()
    wrong = [
        line
        for line in process.log.splitlines()
        if "Traceback" in line or (" ERROR " in line and "were acknowledged" not in line)
    ]
    assert not wrong, process.log


def _process(plan: Plan, directory: Path, url: str) -> GatewayProcess:
    directory.mkdir(parents=True)
    config = config_of(plan, directory)
    config["store"] = {"url": url, "node_lease": LEASE}
    config["resume"]["secret_keys"] = [_SECRET]
    return GatewayProcess(directory, config=config)
