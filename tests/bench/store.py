"""`python -m tests.bench.store`: the stores alone, in one process, without a network.

The event loop's thread submits, as the gateway's does. `accepted/s` is measured with a fixed
number of messages in flight, the latencies at a fixed offered rate; "busy" is the same with a
loop that computes all the time that it is not submitting. For --rows, a store is filled and
its disk size, memory and time to open again are printed. With --room all players are in one
room and every message is to it: each of their copies counts.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from gateway.mailbox import Draft, Retention, RoomDraft
from gateway.membership import RoomLimits
from gateway.messages import TrueId
from gateway.store import Accepted, Published, Store, StoreLimits
from gateway.stores import build_store

BODY = b"x" * 200
LIMITS = StoreLimits(
    mailbox=Retention(1000, 1_048_576, 604_800.0),
    refuse_when_full=False,
    total_bytes=0,
    dedupe_window=600.0,
    dedupe_keys=65_536,
    sessions=0,
    sessions_per_player=0,
    session_lifetime=86_400.0,
    token_lifetime=86_400.0,
    rooms=RoomLimits(),
)
STORES = {
    "memory": "memory://",
    "sqlite NORMAL": "sqlite:///bench.db?synchronous=NORMAL",
    "sqlite FULL": "sqlite:///bench.db?synchronous=FULL",
}


def burn(seconds: float) -> None:
    """Compute in Python."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


class Load:
    """Appends to `mailboxes` players in turn; with `keys` each message has a key."""

    #: How many copies of a message are stored.
    copies = 1

    def __init__(self, store: Store, mailboxes: int, keys: bool) -> None:
        self.store = store
        self.players = [TrueId(f"p{number}") for number in range(mailboxes)]
        self.keys = keys
        self.numbers = count()
        self.submitted = 0
        self.accepted = 0
        self.refused = 0
        self.latencies: list[float] = []

    async def prepare(self) -> None:
        await self.store.know(self.players)

    def submit(self) -> None:
        number = next(self.numbers)
        key = f"k{number}" if self.keys else None
        asked = time.perf_counter()

        def done(_: Any, result: Any) -> None:
            if isinstance(result, (Accepted, Published)):
                self.accepted += self.copies
                self.latencies.append(time.perf_counter() - asked)
            else:
                self.refused += self.copies

        self.submitted += self.copies
        self.ask(number, key, done)

    def ask(self, number: int, key: str | None, done: Callable[[Any, Any], None]) -> None:
        players = self.players
        draft = Draft(players[number % len(players)], players[number * 7 % len(players)], BODY, key)
        self.store.append(draft, time.time(), done)

    @property
    def in_flight(self) -> int:
        return self.submitted - self.accepted - self.refused

    async def drain(self) -> None:
        # A counter tells the end, no event: what is measured should not pay for one.
        while self.in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


class RoomLoad(Load):
    """Publishes to a room of all the players."""

    async def prepare(self) -> None:
        self.copies = len(self.players)
        for player in self.players:
            joined = asyncio.get_running_loop().create_future()
            self.store.join("room", player, joined.set_result)
            await joined

    def ask(self, number: int, key: str | None, done: Callable[[Any, Any], None]) -> None:
        sender = self.players[number % len(self.players)]
        self.store.publish(RoomDraft("room", sender, BODY, key), time.time(), done)


def load_of(store: Store, options: argparse.Namespace) -> Load:
    kind = RoomLoad if options.room else Load
    return kind(store, options.mailboxes, options.keys)


async def rate(load: Load, seconds: float, in_flight: int, busy: bool) -> float:
    """Accepted messages in a second."""
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(min(200, (in_flight - load.in_flight) // load.copies)):
            load.submit()
        if busy:
            burn(0.001)
        await asyncio.sleep(0 if busy or load.in_flight < in_flight else 0.0005)
    await load.drain()
    return load.accepted / (time.perf_counter() - start)


async def latency(load: Load, seconds: float, offered: int, busy: bool) -> tuple[float, float]:
    """p50 and p99 of the answers, in milliseconds."""
    start = time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        while load.submitted < offered * passed:
            load.submit()
        if busy:
            burn(0.001)
        await asyncio.sleep(0 if busy else 0.0005)
    await load.drain()
    found = sorted(load.latencies)
    return found[len(found) // 2] * 1000, found[len(found) * 99 // 100] * 1000


async def measured(url: str, options: argparse.Namespace, measure: Callable[[Load], Any]) -> Any:
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        store = build_store(url, LIMITS, folder, lambda *_: None)
        await store.open()
        load = load_of(store, options)
        await load.prepare()
        result = await measure(load)
        await store.close()
        if load.refused:
            print(f"  {load.refused} messages were refused")
        return result
    finally:
        shutil.rmtree(folder)


def memory() -> int:
    """Resident size of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


async def fill(options: argparse.Namespace) -> None:
    """Fill a store with `rows` messages in each mailbox, and open it again."""
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        before = memory()
        store = build_store(STORES["sqlite NORMAL"], LIMITS, folder, lambda *_: None)
        await store.open()
        load = load_of(store, options)
        await load.prepare()
        start = time.perf_counter()
        while load.submitted < options.rows * options.mailboxes:
            for _ in range(min(200, max(1, (4000 - load.in_flight) // load.copies))):
                load.submit()
            load.latencies.clear()
            await asyncio.sleep(0.0005)
        await load.drain()
        spent = time.perf_counter() - start
        print(f"{load.accepted} messages in {spent:.1f} s, RSS {before} -> {memory()} MiB")
        await store.close()
        size = sum(file.stat().st_size for file in folder.iterdir())  # noqa: ASYNC240
        start = time.perf_counter()
        store = build_store(STORES["sqlite NORMAL"], LIMITS, folder, lambda *_: None)
        await store.open()
        print(
            f"on disk {size / 2**20:.0f} MiB, {size / load.accepted:.0f} bytes a message; "
            f"opens in {time.perf_counter() - start:.2f} s; store.bytes {store.bytes}"
        )
        start = time.perf_counter()
        await store.expire(time.time() + 700_000)
        print(f"all of it expires in {time.perf_counter() - start:.1f} s")
        await store.close()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.store", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--mailboxes", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=2000)
    parser.add_argument("--offered", type=int, default=10_000)
    parser.add_argument("--room", action="store_true", help="publish to all mailboxes at once")
    parser.add_argument("--keys", action="store_true", help="every message has a key")
    parser.add_argument("--stores", nargs="*", choices=STORES, default=list(STORES))
    parser.add_argument(
        "--switch",
        type=float,
        nargs="*",
        default=[0.0002],
        help="as the gateway sets it, or others",
    )
    parser.add_argument("--folder", default=None, help="where the files are made")
    parser.add_argument("--rows", type=int, help="fill mailboxes instead")
    options = parser.parse_args()
    if options.rows:
        asyncio.run(fill(options))
        return
    print(f"{'store':14} {'switch':>7} {'loop':5} {'accepted/s':>11} {'p50 ms':>8} {'p99 ms':>8}")
    for interval in options.switch:
        sys.setswitchinterval(interval)
        for name in options.stores:
            url = STORES[name]
            for busy in (False, True):

                async def fast(load: Load, busy: bool = busy) -> float:
                    return await rate(load, options.seconds, options.in_flight, busy)

                async def steady(load: Load, busy: bool = busy) -> tuple[float, float]:
                    return await latency(load, options.seconds, options.offered, busy)

                accepted = asyncio.run(measured(url, options, fast))
                p50, p99 = asyncio.run(measured(url, options, steady))
                print(
                    f"{name:14} {interval:7} {'busy' if busy else 'idle':5} {accepted:11.0f} "
                    f"{p50:8.2f} {p99:8.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
