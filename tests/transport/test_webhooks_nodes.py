"""Webhooks of two gateways on one Redis: each is sent by one of them, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from tests.gateway_process import GatewayProcess
from tests.transport.client import Clients
from tests.waiting import until
from tests.webhook_receiver import SECRET, Receiver

pytestmark = pytest.mark.gen_test(timeout=120)


@pytest.fixture
def receiver(io_loop: IOLoop) -> Iterator[Receiver]:
    async def started() -> Receiver:
        return Receiver()

    receiver = io_loop.run_sync(started)
    yield receiver
    io_loop.run_sync(receiver.stop)


@pytest.fixture
def processes(tmp_path: Path, receiver: Receiver, redis_url: str) -> Iterator[list[GatewayProcess]]:
    """Two gateways on one Redis, of which the test may kill the first."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    config: dict[str, Any] = {
        "store": {"url": redis_url, "node_lease": 1},
        "resume": {"secret_keys": ["k" * 40]},
        "webhooks": {"url": receiver.url, "secret_file": str(secret), "max_backoff": 0.2},
    }
    started = []
    with ExitStack() as stack:
        for number in range(2):
            folder = tmp_path / f"node{number}"
            folder.mkdir()
            started.append(GatewayProcess(folder, config=config))
        started[0].start()
        stack.enter_context(started[1])
        yield started


async def players(processes: list[GatewayProcess], number: int) -> list[str]:
    """Let players come and log out, each at another gateway than the one before."""
    true_ids = []
    for process in processes:
        async with Clients(process.url) as clients:
            for _ in range(number // len(processes)):
                player = await clients.player()
                true_ids.append(player.true_id)
                assert (await player.call("logout", {}))["ok"]
    return true_ids


def sessions(receiver: Receiver, true_id: str) -> list[str]:
    return [each for each in receiver.types(true_id) if each.startswith("session.")]


async def test_each_is_sent_once_and_when_a_gateway_dies_by_the_other(
    processes: list[GatewayProcess], receiver: Receiver
) -> None:
    whole = ["session.new", "session.revoked"]
    first = await players(processes, 30)
    await until(lambda: all(sessions(receiver, each) == whole for each in first))
    assert len(receiver.events) == len(receiver.once())
    # What waits is both gateways' to send.
    receiver.status = lambda event: 503
    then = await players(processes, 30)
    processes[0].kill()
    receiver.status = lambda event: 204
    await until(lambda: all(sessions(receiver, each) == whole for each in then), 60)
    async with Clients(processes[1].url) as clients:
        await until_sent(clients)
    last = await players(processes[1:], 10)
    await until(lambda: all(sessions(receiver, each) == whole for each in last))
    # In the order in which it happened, and under ids that do not change.
    for true_id in (*first, *then, *last):
        assert len({each["id"] for each in receiver.events if each["true_id"] == true_id}) == len(
            receiver.types(true_id)
        )


async def until_sent(clients: Clients) -> None:
    """Wait until no webhook waits in the store."""
    waiting = True
    while waiting:
        metrics = (await clients.fetch("/metrics")).body.decode()
        waiting = "gateway_webhooks_queued 0.0\n" not in metrics


async def test_a_gateway_that_stops_leaves_them_to_the_other(
    processes: list[GatewayProcess], receiver: Receiver
) -> None:
    receiver.status = lambda event: 503
    true_ids = await players(processes, 20)
    processes[0].terminate()
    processes[0].wait()
    receiver.status = lambda event: 204
    await until(lambda: all(len(sessions(receiver, each)) == 2 for each in true_ids), 60)
    assert len(receiver.events) == len(receiver.once())
