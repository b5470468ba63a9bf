"""A reader that stalls under load, in a real gateway: memory stays bounded, others see nothing.

A control run in which nobody stalls comes first; everything is compared with it. By default
both together take about 10 seconds, with GATEWAY_STALL_SECONDS=60 a minute.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.gateway_process import GatewayProcess
from tests.transport.client import Clients, Pair, Player, RawWebSocket

SECONDS = float(os.environ.get("GATEWAY_STALL_SECONDS", "10"))
BUDGET = 1024 * 1024
#: Room for what tells two runs of the same load apart besides the stalled reader. Measured: six
#: control runs of 2,000 messages were within 12 KiB of each other.
NOISE = 1024 * 1024
PADDING = "x" * 4000
PAIRS = 4
#: More messages than the kernel and the gateway may hold for a reader, however slow the machine.
LEAST = 3000

CONFIG = {
    "server": {"ping_interval": 600.0},
    "mailbox": {"max_messages": 0, "max_bytes": 0, "total_bytes": 0},
    "limits": {
        "send_buffer_bytes": BUDGET,
        "messages_per_second": 0.0,
        "burst": 0,
        "slow_timeout": 0.0,
    },
}

pytestmark = pytest.mark.gen_test(timeout=10 * SECONDS + 150)


@dataclass
class Run:
    """What a run came to. Sizes in bytes, durations in seconds."""

    sent: int
    elapsed: float
    growth: int
    #: How long each exchange of the bystanders took.
    latencies: list[float]

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.elapsed

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.latencies, n=100)[-1]


def memory(gateway: GatewayProcess, name: str) -> int:
    """Return VmRSS, now, or VmHWM, its peak."""
    status = Path(f"/proc/{gateway.pid}/status").read_text()
    found = re.search(rf"{name}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


async def read(raw: RawWebSocket, got: list[int], last: list[int]) -> None:
    """Note the numbers of the messages that come, up to the one in `last`."""
    while not last or got[-1:] != last:
        opcode, payload = await raw.receive()
        assert opcode == 1
        name, message = json.loads(payload[2:])[:2]
        assert name == "message"
        got.append(message["data"][0])


async def send(ann: Player, target_id: str, seconds: float, count: int) -> int:
    """Send for so long and at least LEAST, or `count` messages if given; return how many."""
    sent, deadline = 0, time.monotonic() + seconds
    while sent < count if count else (sent < LEAST or time.monotonic() < deadline):
        message: dict[str, Any] = {"target_id": target_id, "data": [sent, PADDING]}
        receipt = await ann.call("message", message)
        # Whether or not it reads: the message is stored and its connection is there.
        assert (receipt["ok"], receipt["status"]) == (True, "delivered")
        sent += 1
    return sent


async def talk(pair: Pair, latencies: list[float]) -> None:
    while True:
        began = time.monotonic()
        await pair.talk()
        latencies.append(time.monotonic() - began)


async def load(cwd: Path, seconds: float, count: int, *, stalled: bool) -> Run:
    """Run a gateway in which one sends to another, who reads or not, and pairs talk."""
    with GatewayProcess(cwd, config=CONFIG) as gateway:
        clients = Clients(gateway.url.rstrip("/"))
        pairs = [
            Pair(await clients.player("websocket"), await clients.player("websocket"))
            for _ in range(PAIRS)
        ]
        ann = await clients.player("websocket")
        raw = await clients.raw_websocket(receive_buffer=65_536)
        target_id = (await raw.log_in())["true_id"]
        for pair in pairs:
            await pair.talk()
        before = memory(gateway, "VmRSS")
        latencies: list[float] = []
        got: list[int] = []
        last: list[int] = []
        background = [asyncio.ensure_future(talk(pair, latencies)) for pair in pairs]
        reading = None if stalled else asyncio.ensure_future(read(raw, got, last))
        began = time.monotonic()
        sent = await send(ann, target_id, seconds, count)
        elapsed = time.monotonic() - began
        growth = memory(gateway, "VmHWM") - before
        for task in background:
            task.cancel()
        for result in await asyncio.gather(*background, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError), result
        if reading is None:
            metrics = (await clients.fetch("/metrics")).body
            assert b'gateway_limit_hits_total{limit="send_buffer_bytes"}' in metrics
            assert got == []
            # It wakes up, and has every message in order.
            reading = asyncio.ensure_future(read(raw, got, last))
        # One more ends the reading.
        last.append(sent)
        await ann.call("message", {"target_id": target_id, "data": [sent, ""]})
        await asyncio.wait_for(reading, seconds * 3 + 20)
        assert got == list(range(sent + 1))
        await clients.close()
    return Run(sent, elapsed, growth, latencies)


async def test_stalled_reader_costs_its_budget_and_nobody_else(tmp_path: Path) -> None:
    for name in ("control", "stalled"):
        (tmp_path / name).mkdir()
    control = await load(tmp_path / "control", SECONDS / 2, 0, stalled=False)
    stalled = await load(tmp_path / "stalled", SECONDS / 2, control.sent, stalled=True)
    # Far more was sent than the kernel and the gateway may hold for the reader.
    assert stalled.sent * len(PADDING) > 4 * BUDGET
    # Both runs store the same messages, so what is left is the reader's.
    assert stalled.growth - control.growth < 2 * BUDGET + NOISE
    assert stalled.elapsed < 4 * control.elapsed
    assert stalled.rate > control.rate / 4
    assert stalled.p99 < 5 * control.p99 + 0.1
