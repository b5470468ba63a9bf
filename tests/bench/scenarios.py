"""The scenarios: each runs against one server and returns figures. Times are in seconds."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from tests.bench.client import LoadClient, connect_many
from tests.bench.servers import Server

CLIENTS = 100
IN_FLIGHT = 4
RECEIVERS = 1000
DATA = "x" * 64
AT_ONCE = 200


def guests(count: int) -> list[dict[str, Any]]:
    """Return the auth payloads of so many new players; our peers ignore them."""
    return [{"guest": True, "name": "load"} for _ in range(count)]


def message(target: str, ack: bool) -> bytes:
    """Return the packet of a message to a player."""
    payload = json.dumps({"target_id": target, "data": DATA})
    return f'42{"1" if ack else ""}["message",{payload}]'.encode()


async def direct(server: Server, seconds: float, ack: bool) -> float:
    """Messages per second: a ring of clients, each with four messages under way to the next."""
    clients = await connect_many(server.url, guests(CLIENTS), AT_ONCE)
    for index, client in enumerate(clients):
        target = clients[(index + 1) % CLIENTS]
        packet = message(client.session.result() and target.session.result()["true_id"], ack)
        target.on_message = lambda sender=client, packet=packet: sender.send(packet)
        for _ in range(IN_FLIGHT):
            client.send(packet)
    rate = await _rate(clients, seconds)
    _close(clients)
    return rate


async def crowd(server: Server, seconds: float, count: int) -> float:
    """Messages per second as in `direct`, while so many others are connected and idle."""
    others = await connect_many(server.url, guests(count), AT_ONCE)
    rate = await direct(server, seconds, ack=False)
    _close(others)
    return rate


async def fan_out(server: Server, seconds: float) -> float:
    """Deliveries per second: one sender to a player with a thousand connections."""
    first = await connect_many(server.url, guests(2), 2)
    sender, player = first
    session = player.session.result()
    auths = [{"token": session["token"], "player": session["true_id"]}] * (RECEIVERS - 1)
    receivers = [player, *await connect_many(server.url, auths, AT_ONCE)]
    packet = message(session["true_id"], False)
    waiting = [0]

    def on_message() -> None:
        waiting[0] -= 1
        if waiting[0] <= RECEIVERS:
            waiting[0] += RECEIVERS
            sender.send(packet)

    for receiver in receivers:
        receiver.on_message = on_message
    waiting[0] = 2 * RECEIVERS
    sender.send(packet)
    sender.send(packet)
    rate = await _rate(receivers, seconds)
    _close([sender, *receivers])
    return rate


async def connects(server: Server, count: int) -> float:
    """Connects per second, from the TCP connect to the event `session`."""
    start = time.perf_counter()
    clients = await connect_many(server.url, guests(count), AT_ONCE)
    rate = count / (time.perf_counter() - start)
    _close(clients)
    return rate


async def resumes(server: Server, count: int) -> float:
    """Resumes per second, by token, of players whose connections were cut."""
    clients = await connect_many(server.url, guests(count), AT_ONCE)
    auths = [
        {"token": session["token"], "player": session["true_id"]}
        for session in (client.session.result() for client in clients)
    ]
    _close(clients)
    await asyncio.sleep(1)
    start = time.perf_counter()
    clients = await connect_many(server.url, auths, AT_ONCE)
    rate = count / (time.perf_counter() - start)
    _close(clients)
    return rate


async def idle(server: Server, count: int, seconds: float) -> tuple[float, float]:
    """KiB of RSS per idle connection, and the CPU share of all of them with heartbeats."""
    before = server.rss()
    clients = await connect_many(server.url, guests(count), AT_ONCE)
    await asyncio.sleep(2)
    memory = (server.rss() - before) / count / 1024
    cpu = server.cpu()
    await asyncio.sleep(seconds)
    share = (server.cpu() - cpu) / seconds
    _close(clients)
    return memory, share


async def _rate(clients: list[LoadClient], seconds: float) -> float:
    await asyncio.sleep(1)
    before, start = sum(client.received for client in clients), time.perf_counter()
    await asyncio.sleep(seconds)
    received = sum(client.received for client in clients) - before
    return received / (time.perf_counter() - start)


def _close(clients: list[LoadClient]) -> None:
    for client in clients:
        client.close()
