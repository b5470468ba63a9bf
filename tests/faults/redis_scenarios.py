"""What befalls Redis, its replicas, the network to it and the nodes on it, round by round."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from tests.faults.nodes import TIMEOUT, Stage, in_thread, stage
from tests.faults.player import Pace
from tests.faults.scenarios import BACK, WAITING, Plan, Report, Scenario, until_ready
from tests.redis_servers import RedisServer, RedisServers, free_port, wait_until

#: One refused message must not be overtaken by the next one.
_PACE: Final = Pace(unacked_per_target=1)
_NAME: Final = "games"
#: What Redis may lose when the power fails: it syncs its file once a second.
_SYNC_SECONDS: Final = 1.0
#: What was lost never arrives: how long to wait for the rest, in seconds.
_SETTLE: Final = 6.0
#: Sentinels on a busy machine do nothing for half a minute now and then: TILT. Seconds.
_SENTINELS: Final = 100.0
#: For how long a replica that lags has got nothing, in seconds.
_LAG: Final = 0.5


def _always(servers: RedisServers) -> tuple[RedisServer, str]:
    return servers.start(appendonly="always"), ""


def _everysec(servers: RedisServers) -> tuple[RedisServer, str]:
    return servers.start(appendonly="everysec"), ""


async def node(plan: Plan, directory: Path) -> Report:
    """`kill -9` of one of two nodes: its players go on with the other one."""
    async with stage(plan, directory, _everysec) as on:
        for _ in range(plan.rounds):
            await on.fleet.nap(WAITING)
            await asyncio.sleep(on.chance.uniform(0.0, 0.3))
            victim = on.chance.choice(on.nodes)
            on.serving.remove(victim)
            await in_thread(victim.kill)
            on.faults += 1
            on.fleet.wake()
            # All are online by the other one alone.
            await on.fleet.flows(BACK)
            await in_thread(victim.start)
            on.serving.append(victim)
            # Let some have their connections there before the next one dies.
            on.fleet.shake()
            await on.fleet.flows(BACK)
        await on.fleet.settle(plan.settle)
        return on.report("node")


async def _redis_dies(on: Stage) -> None:
    await on.fleet.nap(WAITING)
    await asyncio.sleep(on.chance.uniform(0.0, 0.3))
    await in_thread(on.master.kill)
    on.faults += 1
    for each in on.nodes:
        await until_ready(each, 503)
    on.fleet.wake()


async def redis_always(plan: Plan, directory: Path) -> Report:
    """`kill -9` and restart of Redis with appendfsync always: nothing is lost."""
    async with stage(plan, directory, _always, pace=_PACE) as on:
        for _ in range(plan.rounds):
            await _redis_dies(on)
            await in_thread(on.master.restart)
            await on.fleet.flows(BACK)
        await on.fleet.settle(plan.settle)
        return on.report("redis-always")


async def redis_everysec(plan: Plan, directory: Path) -> Report:
    """The same with everysec: what the process wrote outlives it, the machine being up."""
    async with stage(plan, directory, _everysec, pace=_PACE, may_lose=True) as on:
        for _ in range(plan.rounds):
            await _redis_dies(on)
            await in_thread(on.master.restart)
            await on.fleet.flows(BACK)
        await on.fleet.settle(_SETTLE)
        return on.report("redis-everysec", may_lose=True)


async def power(plan: Plan, directory: Path) -> Report:
    """The power fails with appendfsync everysec: the last moments of the file are gone.

    Who lacks something is told.
    """
    async with stage(plan, directory, _everysec, pace=_PACE, may_lose=True) as on:
        for _ in range(plan.rounds):
            await on.fleet.nap(WAITING)
            synced = on.master.appendonly_size()
            await asyncio.sleep(on.chance.uniform(0.2, _SYNC_SECONDS))
            await in_thread(on.master.kill)
            on.faults += 1
            on.master.cut_appendonly(synced)
            for each in on.nodes:
                await until_ready(each, 503)
            on.fleet.wake()
            await in_thread(on.master.restart)
            await on.fleet.flows(BACK)
        await on.fleet.settle(_SETTLE)
        return on.report("power", may_lose=True)


async def black_hole(plan: Plan, directory: Path) -> Report:
    """What one node and Redis write to each other vanishes, until it does no more."""
    async with stage(plan, directory, _everysec, pace=_PACE) as on:
        cut_off = on.nodes[0]
        for _ in range(plan.rounds):
            await on.fleet.nap(WAITING)
            on.proxy.vanish()
            on.faults += 1
            await until_ready(cut_off, 503)
            on.serving.remove(cut_off)
            on.fleet.wake()
            # It sends its players away: they go on with the other one.
            await on.fleet.flows(BACK)
            on.proxy.heal()
            await until_ready(cut_off, 200)
            on.serving.append(cut_off)
            on.fleet.shake()
            await on.fleet.flows(BACK)
        await on.fleet.settle(plan.settle)
        return on.report("black-hole")


async def slow(plan: Plan, directory: Path) -> Report:
    """Redis stands still, for less or more than the timeout: what was given up may be done."""
    async with stage(plan, directory, _everysec, pace=_PACE) as on:
        for _ in range(plan.rounds):
            await on.fleet.nap(WAITING)
            with on.master.paused():
                on.faults += 1
                await asyncio.sleep(on.chance.choice((0.5, 1.2, 2.5)) * TIMEOUT)
            for each in on.nodes:
                await until_ready(each, 200)
            on.fleet.wake()
            await on.fleet.flows(BACK)
        await on.fleet.settle(plan.settle)
        return on.report("slow")


async def full(plan: Plan, directory: Path) -> Report:
    """Redis has reached maxmemory: senders are told so, and /readyz says it."""
    async with stage(plan, directory, _everysec, pace=_PACE) as on:
        for _ in range(plan.rounds):
            await on.fleet.nap(WAITING)
            refused = on.fleet.refusals["unavailable"]
            used = on.master.ask("INFO", "memory")["used_memory"]
            on.master.ask("CONFIG", "SET", "maxmemory", used // 2)
            on.faults += 1
            await on.fleet.until(
                "messages are refused as `unavailable`",
                lambda refused=refused: (  # type: ignore[misc]
                    on.fleet.refusals["unavailable"] > refused
                ),
            )
            for each in on.nodes:
                await until_ready(each, 503)
            on.fleet.wake()
            on.master.ask("CONFIG", "SET", "maxmemory", 0)
            for each in on.nodes:
                await until_ready(each, 200)
            await on.fleet.flows(BACK)
        await on.fleet.settle(plan.settle)
        return on.report("full")


class _Replicated:
    """A master, a replica and three Sentinels; who is what changes."""

    def __init__(self, wait: int) -> None:
        self._wait = wait
        self.pair: list[RedisServer] = []

    def build(self, servers: RedisServers) -> tuple[RedisServer, str]:
        master = servers.start(appendonly="everysec")
        replica = servers.replica(master, appendonly="everysec")
        sentinels = servers.sentinels(master, _NAME)
        self.pair = [master, replica]
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in sentinels)
        wait = f"&wait={self._wait}&wait_timeout=0.5" if self._wait else ""
        return master, f"redis+sentinel://{hosts}/{_NAME}?timeout={TIMEOUT}{wait}"

    def fail_over(self, lagging: bool) -> None:
        """Kill the master, and wait until the replica is it.

        If it is `lagging`, it has got nothing for a while. To pause it would not do: what waits
        in its socket comes in afterwards.
        """
        wait_until(self._is_settled, "one is the master, and the other its replica", _SENTINELS)
        master, replica = self.pair
        if lagging:
            replica.ask("REPLICAOF", "127.0.0.1", free_port())
            time.sleep(_LAG)
        master.kill()
        wait_until(
            lambda: replica.ask("ROLE")[0] == b"master", "the replica is the master", _SENTINELS
        )
        self.pair.reverse()

    def _is_settled(self) -> bool:
        # On a busy machine Sentinels replace a master by themselves now and then.
        roles = [each.ask("ROLE")[0] for each in self.pair]
        if roles == [b"slave", b"master"]:
            self.pair.reverse()
        return b"slave" in roles and self.pair[0].replicas_in_step() == 1

    def mend(self) -> None:
        """Start the old master, and make it a replica of the new one, as Sentinels do in time."""
        master, old = self.pair
        old.restart()
        old.ask("REPLICAOF", "127.0.0.1", master.port)
        wait_until(lambda: master.replicas_in_step() == 1, "there is a replica again")


async def _failovers(plan: Plan, directory: Path, name: str, wait: int, *, lagging: bool) -> Report:
    replicated = _Replicated(wait)
    async with stage(plan, directory, replicated.build, pace=_PACE, may_lose=not wait) as on:
        for _ in range(plan.rounds):
            if on.faults and not wait:
                await in_thread(replicated.mend)
            await on.fleet.nap(WAITING)
            await in_thread(replicated.fail_over, lagging)
            on.faults += 1
            on.fleet.wake()
            if wait:
                # Without a replica nothing is acknowledged.
                await in_thread(replicated.mend)
            await on.fleet.flows(BACK)
        await on.fleet.settle(_SETTLE)
        return on.report(name, may_lose=not wait)


async def failover_wait(plan: Plan, directory: Path) -> Report:
    """Sentinels replace the master; with wait=1 nothing is lost, and nothing comes twice."""
    return await _failovers(plan, directory, "failover-wait", 1, lagging=False)


async def lagging_wait(plan: Plan, directory: Path) -> Report:
    """The same while the replica lags: nothing is acknowledged meanwhile."""
    return await _failovers(plan, directory, "lagging-wait", 1, lagging=True)


async def failover(plan: Plan, directory: Path) -> Report:
    """The replica is in step, but nobody waits for it: what is lost, if anything, is told."""
    return await _failovers(plan, directory, "failover", 0, lagging=False)


async def lagging(plan: Plan, directory: Path) -> Report:
    """The same while the replica lags: the last is lost, and who lacks something is told."""
    return await _failovers(plan, directory, "lagging", 0, lagging=True)


SCENARIOS: Final[dict[str, Scenario]] = {
    "node": node,
    "redis-always": redis_always,
    "redis-everysec": redis_everysec,
    "power": power,
    "black-hole": black_hole,
    "slow": slow,
    "full": full,
    "failover-wait": failover_wait,
    "lagging-wait": lagging_wait,
    "failover": failover,
    "lagging": lagging,
}
