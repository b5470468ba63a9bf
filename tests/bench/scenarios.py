"""The scenarios: each runs against one server and returns figures. Times are in seconds."""

from __future__ import annotations

import time
from typing import Final

from tests.bench import frames
from tests.bench.client import AT_ONCE, PATIENCE, Client, Load
from tests.bench.servers import Meter

CLIENTS: Final = 100
IN_FLIGHT: Final = 4
RECEIVERS: Final = 1000
MISSED: Final = 100
ROOM: Final = "room"
#: Where the mailboxes of a room's members stand.
PLACES: Final = 4
DATA: Final = "x" * 64
#: Of the reads in `fan_out`, in seconds: short beside the thousand deliveries that the server
#: has still to make when the next message is sent.
PAUSE: Final = 0.001
#: What comes before the measurement.
WARM_UP: Final = 1.0


def guests(count: int) -> list[bytes]:
    """Return the CONNECT of so many new players; our peers ignore what is in it."""
    return [frames.connect({"guest": True, "name": "load"})] * count


def resuming(clients: list[Client]) -> list[bytes]:
    """Return CONNECTs that resume sessions: the gateway reads the token, its peers the player."""
    sessions = [client.session() for client in clients]
    return [
        frames.connect({"token": session["token"], "player": session["true_id"]})
        for session in sessions
    ]


class Pair:
    """A sender and its target: each message that arrives is followed by another.

    Those that arrive in one chunk are followed in one write. One of those under way is timed.
    """

    def __init__(self, sender: Client, target: Client, ack: bool) -> None:
        packet = frames.message(target.session()["true_id"], DATA, ack)
        self._send = sender.send
        self._packets = [packet * count for count in range(IN_FLIGHT + 1)]
        self._before = IN_FLIGHT
        self._sent = time.perf_counter()
        #: From the write to the read, in seconds.
        self.latencies: list[float] = []
        target.on_messages = self._on_messages
        sender.send(self._packets[IN_FLIGHT])

    def _on_messages(self, count: int) -> None:
        self._before -= count
        if self._before <= 0:
            # The last one of those we write now comes when all that are under way have come.
            now = time.perf_counter()
            self.latencies.append(now - self._sent)
            self._before, self._sent = IN_FLIGHT, now
        self._send(self._packets[count])


def direct(load: Load, meter: Meter, seconds: float, ack: bool) -> tuple[float, list[float]]:
    """Messages per second: a ring of clients, each with four messages under way to the next.

    Also returned are latencies in seconds, of about every fourth message.
    """
    clients = load.connect(guests(CLIENTS))
    targets = clients[1:] + clients[:1]
    pairs = [Pair(*pair, ack) for pair in zip(clients, targets, strict=True)]
    load.run(WARM_UP)
    for pair in pairs:
        pair.latencies.clear()
    rate = _rate(load, clients, meter, seconds)
    load.close(clients)
    return rate, [latency for pair in pairs for latency in pair.latencies]


def crowd(load: Load, meter: Meter, seconds: float, count: int) -> float:
    """Messages per second as in `direct`, while so many others are connected and idle."""
    load.connect(guests(count))
    return direct(load, meter, seconds, ack=False)[0]


def fan_out(load: Load, meter: Meter, seconds: float) -> float:
    """Deliveries per second: one sender to a player with a thousand connections."""
    sender, player = load.connect(guests(2))
    receivers = [player, *load.connect(resuming([player]) * (RECEIVERS - 1))]
    packet = frames.message(player.session()["true_id"], DATA, ack=False)
    return _fan_out(load, meter, seconds, sender, packet, receivers)


def publish(load: Load, meter: Meter, seconds: float, members: int, volatile: bool) -> float:
    """Deliveries per second: one member of a room to so many, itself among them.

    Neighbours have had different numbers of messages before, as in games: their mailboxes do
    not stand at one place.
    """
    clients = load.connect(guests(members))
    ask(load, clients, [frames.join(ROOM)] * members)
    for place in range(1, PLACES):
        some = [each for number, each in enumerate(clients) if number % PLACES >= place]
        targets = [each.session()["true_id"] for each in some]
        ask(load, some, [frames.message(target, DATA, ack=True) for target in targets])
    packet = frames.publish(ROOM, DATA, volatile)
    return _fan_out(load, meter, seconds, clients[0], packet, clients)


def ask(load: Load, clients: list[Client], packets: list[bytes]) -> None:
    """Let each client send its packet, and wait for all acks."""
    for start in range(0, len(clients), AT_ONCE):
        some = clients[start : start + AT_ONCE]
        wanted = [client.acked + 1 for client in some]
        for client, packet in zip(some, packets[start : start + AT_ONCE], strict=True):
            client.send(packet)
        deadline = time.monotonic() + PATIENCE
        while any(client.acked < count for client, count in zip(some, wanted, strict=True)):
            load.run(0.001)
            if time.monotonic() > deadline:
                raise TimeoutError("events were not acknowledged")


def _fan_out(
    load: Load,
    meter: Meter,
    seconds: float,
    sender: Client,
    packet: bytes,
    receivers: list[Client],
) -> float:
    """Return the rate at which a packet reaches all receivers; two of them are under way."""
    waiting = 2 * len(receivers)

    def on_messages(count: int) -> None:
        nonlocal waiting
        waiting -= count
        if waiting <= len(receivers):
            waiting += len(receivers)
            sender.send(packet)

    for receiver in receivers:
        receiver.on_messages = on_messages
    sender.send(packet * 2)
    load.run(WARM_UP, PAUSE)
    return _rate(load, receivers, meter, seconds, PAUSE)


def connects(load: Load, meter: Meter, count: int) -> float:
    """Connects per second, from the TCP connect to the event `session`."""
    with meter:
        load.connect(guests(count))
    return count / meter.seconds


def resumes(load: Load, meter: Meter, count: int) -> float:
    """Resumes per second, by token, of players whose connections were cut."""
    clients = load.connect(guests(count))
    packets = resuming(clients)
    load.close(clients)
    time.sleep(1)
    with meter:
        load.connect(packets)
    return count / meter.seconds


def replay(load: Load, meter: Meter, count: int) -> float:
    """Messages per second to so many who come back, each to a hundred that it has missed."""
    clients = load.connect(guests(count))
    (sender,) = load.connect(guests(1))
    for client in clients:
        client.last = b""
    targets = [client.session()["true_id"] for client in clients]
    _send_all(load, sender, targets)
    wait(load, clients, 1)
    packets = [frames.connect(client.recovery()) for client in clients]
    load.close(clients)
    for _ in range(MISSED):
        _send_all(load, sender, targets)
    with meter:
        wait(load, load.connect(packets), MISSED)
    return count * MISSED / meter.seconds


def _send_all(load: Load, sender: Client, targets: list[str]) -> None:
    """Send each a message, and wait until all are accepted."""
    accepted = sender.acked + len(targets)
    deadline = time.monotonic() + PATIENCE
    for start in range(0, len(targets), AT_ONCE):
        some = targets[start : start + AT_ONCE]
        sender.send(b"".join(frames.message(target, DATA, ack=True) for target in some))
        while sender.acked < accepted - len(targets) + start + len(some):
            load.run(0.001)
            if time.monotonic() > deadline:
                raise TimeoutError("messages were not accepted")


def wait(load: Load, clients: list[Client], count: int) -> None:
    """Wait until each has so many messages."""
    deadline = time.monotonic() + PATIENCE
    while any(client.received < count for client in clients):
        load.run(0.01)
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all have received {count} messages")


def idle(load: Load, meter: Meter, count: int, seconds: float) -> tuple[float, float]:
    """KiB of RSS per idle connection, and the CPU share of all of them with heartbeats."""
    before = meter.server.rss()
    load.connect(guests(count))
    load.run(2)
    memory = (meter.server.rss() - before) / count / 1024
    with meter:
        load.run(seconds)
    return memory, meter.server_share


def _rate(
    load: Load, clients: list[Client], meter: Meter, seconds: float, pause: float = 0.0
) -> float:
    """Return the messages per second that arrive; they must still do so in the second half."""
    counts = [_received(clients)]
    with meter:
        for _ in range(2):
            load.run(seconds / 2, pause)
            counts.append(_received(clients))
    if counts[2] == counts[1]:
        raise TimeoutError(f"no message arrived within {seconds / 2:.1f} s")
    return (counts[2] - counts[0]) / meter.seconds


def _received(clients: list[Client]) -> int:
    return sum(client.received for client in clients)
