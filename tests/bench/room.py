"""A room in which everybody moves: volatile state from all to all, sixty times a second.

What matters is that a member who does not read and one who is hidden cost the others nothing.
"""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Final

from tests.bench import frames
from tests.bench.client import Client, Load
from tests.bench.scenarios import WARM_UP, guests
from tests.bench.servers import Meter
from tests.bench.watching import event

MEMBERS: Final = 50
UPDATES_PER_SECOND: Final = 60
#: Beside the time in it; two seconds of all updates are more than the system buffers for one.
_PADDING: Final = "x" * 800
#: Members who send between two looks at what has arrived.
_BATCH: Final = 5
_PAUSE: Final = _BATCH / (MEMBERS * UPDATES_PER_SECOND)
#: Of a look, in seconds, also when the next updates are due already.
_SHORTEST: Final = 0.0002
_TIME: Final = b'"sent":'
#: How long a member who does not read may take to fill all buffers on the way, in seconds.
_PATIENCE: Final = 30.0


class Room:
    """Members who all send their position, and the latencies of what the first ones get."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self.clients = load.connect(guests(MEMBERS))
        join = event("join", {"room": "arena"})
        for client in self.clients:
            client.send(join)
        load.run(WARM_UP)
        #: From a sender's write to a member's read, in seconds.
        self.latencies: list[float] = []
        for client in self.clients[:2]:
            client.last = b""
            client.on_each = self._on_each
        self._next = 0

    def _on_each(self, message: bytes) -> None:
        at = message.index(_TIME) + len(_TIME)
        self.latencies.append(time.perf_counter() - float(message[at : message.index(b",", at)]))

    def run(self, seconds: float) -> None:
        """Let all members move for so long; a look that took too long is not made up for."""
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            for client in self.clients[self._next : self._next + _BATCH]:
                client.send(_update())
            self._next = (self._next + _BATCH) % MEMBERS
            self._load.run(max(began + _PAUSE - time.perf_counter(), _SHORTEST))

    def measured(self, seconds: float) -> list[float]:
        """Let them move and return the latencies meanwhile."""
        self.run(WARM_UP)
        self.latencies = []
        self.run(seconds)
        return self.latencies


def room(load: Load, meter: Meter, seconds: float) -> tuple[list[float], list[float], float]:
    """Latencies with all members reading; then with one stalled and one hidden beside them.

    Also returned are the deliveries per second of the latter. Latencies are in seconds.
    """
    members = Room(load)
    peace = members.measured(seconds)
    stalled, hidden = members.clients[-2:]
    hidden.send(event("presence_set", {"state": "hidden"}))
    load.stall(stalled)
    deadline = time.monotonic() + _PATIENCE
    while not _kept(meter.server.url, "behind"):
        members.run(0.5)
        if time.monotonic() > deadline:
            raise TimeoutError("a member who does not read was never behind")
    if not _kept(meter.server.url, "hidden"):
        raise ConnectionError("a hidden member got everything")
    counts = _received(members.clients)
    with meter:
        meanwhile = members.measured(seconds)
    return peace, meanwhile, (_received(members.clients) - counts) / meter.seconds


def _received(clients: list[Client]) -> int:
    return sum(client.received for client in clients)


def _kept(url: str, reason: str) -> bool:
    """Tell whether the gateway has kept a value for somebody, for this reason."""
    with urllib.request.urlopen(f"{url}metrics") as response:
        return f'gateway_kept_volatile_total{{reason="{reason}"}}'.encode() in response.read()


def _update() -> bytes:
    data = f'{{"sent":{time.perf_counter():.6f},"padding":"{_PADDING}"}}'
    head = json.dumps({"room": "arena", "volatile": True, "key": "position"})[:-1]
    return frames.frame(f'42["publish",{head},"data":{data}}}]'.encode())
