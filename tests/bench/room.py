"""A room in which everybody moves: volatile state from all to all, sixty times a second.

What matters is that a member who does not read and one who is hidden cost the others nothing, and
that both have every stored message and the latest state of all in the end.
"""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Final

from tests.bench.client import PATIENCE, Client, Load
from tests.bench.scenarios import WARM_UP, guests
from tests.bench.servers import Meter
from tests.bench.watching import event

MEMBERS: Final = 50
UPDATES_PER_SECOND: Final = 60
#: Beside the time in it; two seconds of all updates are more than the system buffers for one.
_PADDING: Final = "x" * 800
#: Of a member who does not read, in bytes.
_BUFFER: Final = 65_536
#: Members who send between two looks at what has arrived.
_BATCH: Final = 5
_PAUSE: Final = _BATCH / (MEMBERS * UPDATES_PER_SECOND)
#: Of a look, in seconds, also when the next updates are due already.
_SHORTEST: Final = 0.0002
_TIME: Final = b'"sent":'
#: Stored messages that come to the room while one member does not read and one is hidden.
_STORED: Final = 100
#: How long a member who does not read may take to fill all buffers on the way, in seconds.
_PATIENCE: Final = 30.0


class Room:
    """Members who all send their position, and the latencies of what the first ones get."""

    def __init__(self, load: Load) -> None:
        self._load = load
        # The one before the last will not read for a while.
        self.clients = load.connect(guests(MEMBERS - 2))
        self.clients += load.connect(guests(1), _BUFFER) + load.connect(guests(1))
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
    _catch_up(load, members, stalled, hidden)
    return peace, meanwhile, (_received(members.clients) - counts) / meter.seconds


def _catch_up(load: Load, members: Room, stalled: Client, hidden: Client) -> None:
    """Let both come back. Raises ConnectionError unless they get what they have to."""
    *movers, _, _ = members.clients
    for client in movers:
        # Latencies are not looked at any more.
        client.on_each = None
    views = {name: View(client) for name, client in (("stalled", stalled), ("hidden", hidden))}
    for number in range(_STORED):
        movers[0].send(_publish({"stored": number}))
        members.run(0.01)
    for client in movers:
        client.send(_update(last=True))
    hidden.send(event("presence_set", {"state": "active"}))
    load.resume(stalled)
    deadline = time.monotonic() + PATIENCE
    while not all(view.complete(len(movers)) for view in views.values()):
        load.run(0.1)
        if time.monotonic() > deadline:
            raise ConnectionError(
                "; ".join(f"the {name} one has {view}" for name, view in views.items())
            )


class View:
    """What a member has of the room from now on."""

    def __init__(self, client: Client) -> None:
        self._stored: list[int] = []
        #: Whether the latest state of each member is the last.
        self._last: dict[str, bool] = {}
        client.last = b""
        client.on_each = self._on_each

    def _on_each(self, event: bytes) -> None:
        message = json.loads(event[2:])[1]
        data = message["data"]
        if "stored" in data:
            self._stored.append(data["stored"])
        else:
            self._last[message["from"]] = data["last"]

    def complete(self, movers: int) -> bool:
        """Tell whether every stored message came once and in order, and all members' last state."""
        return self._stored == [*range(_STORED)] and sum(self._last.values()) == movers

    def __str__(self) -> str:
        return (
            f"the stored messages {self._stored} and the last state of {sum(self._last.values())}"
        )


def _received(clients: list[Client]) -> int:
    return sum(client.received for client in clients)


def _kept(url: str, reason: str) -> bool:
    """Tell whether the gateway has kept a value for somebody, for this reason."""
    with urllib.request.urlopen(f"{url}metrics") as response:
        return f'gateway_kept_volatile_total{{reason="{reason}"}}'.encode() in response.read()


def _update(*, last: bool = False) -> bytes:
    sent = round(time.perf_counter(), 6)
    data = {"sent": sent, "last": last, "padding": _PADDING}
    return _publish(data, volatile=True, key="position")


def _publish(data: dict[str, object], **more: object) -> bytes:
    return event("publish", {"room": "arena", **more, "data": data})
