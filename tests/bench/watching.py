"""Everybody watches everybody's presence, and all of it changes all the time.

What matters is what becomes of messages meanwhile: presence has to yield to them.
"""

from __future__ import annotations

import json
import statistics
import time
from itertools import cycle
from typing import Final

from tests.bench import frames
from tests.bench.client import PATIENCE, Client, Load
from tests.bench.scenarios import PAUSE, WARM_UP, Pair, guests
from tests.bench.servers import Meter

#: Changes of each player, just below what a connection may announce.
CHANGES_PER_SECOND: Final = 1.9
#: The answer to more does not fit into the frames that the load can read.
_WATCHED_AT_ONCE: Final = 250
#: How many change between two looks at what has arrived.
_BATCH: Final = 4


def presence(
    load: Load, meter: Meter, seconds: float, count: int
) -> tuple[list[float], list[float], float]:
    """Let `count` players watch each other and flap.

    Returned are latencies of messages between two others, in seconds, in peace and meanwhile;
    then the events `presence` per second.
    """
    ann, bob = load.connect(guests(2))
    pair = Pair(ann, bob, ack=False)
    load.run(WARM_UP)
    pair.latencies.clear()
    load.run(seconds)
    peace, pair.latencies = pair.latencies, []
    clients = load.connect(guests(count))
    ids = [client.session()["true_id"] for client in clients]
    for start in range(0, count, _WATCHED_AT_ONCE):
        watch = event("presence_watch", {"true_ids": ids[start : start + _WATCHED_AT_ONCE]}, ack=1)
        for client in clients:
            client.send(watch)
            load.run(PAUSE)
    # Until all watch all.
    deadline = time.monotonic() + PATIENCE
    while any(client.acked < -(-count // _WATCHED_AT_ONCE) for client in clients):
        load.run(PAUSE)
        if time.monotonic() > deadline:
            raise TimeoutError("not all watch all")
    flapping = Flapping(load, clients)
    flapping.run(WARM_UP)
    pair.latencies.clear()
    before = sum(client.presences for client in clients)
    with meter:
        flapping.run(seconds)
    events = sum(client.presences for client in clients) - before
    return peace, pair.latencies, events / meter.seconds


class Flapping:
    """Players who are hidden and active in turn, one after the other."""

    def __init__(self, load: Load, clients: list[Client]) -> None:
        self._load = load
        self._turns = cycle(
            [(client, state) for state in ("hidden", "active") for client in clients]
        )
        self._pause = _BATCH / (CHANGES_PER_SECOND * len(clients))
        self._packets = {
            state: event("presence_set", {"state": state}) for state in ("hidden", "active")
        }

    def run(self, seconds: float) -> None:
        """Change for so long; a look that took too long is not made up for."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(_BATCH):
                client, state = next(self._turns)
                client.send(self._packets[state])
            self._load.run(self._pause)


def milliseconds(latencies: list[float], percentile: int) -> float:
    """Return a percentile of latencies in seconds, in milliseconds."""
    if len(latencies) < 2:
        raise TimeoutError("no message arrived while it was measured")
    return 1000 * statistics.quantiles(latencies, n=100)[percentile - 1]


def event(name: str, payload: object, ack: int | None = None) -> bytes:
    """Return the frame of an event, with this ack id or none."""
    number = "" if ack is None else ack
    return frames.frame(f'42{number}["{name}",{json.dumps(payload)}]'.encode())
