"""Volatile state over real sockets: one client stalls, one is hidden, one keeps up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.server import Gateway
from tests.transport.client import Clients, Player, RawWebSocket

BUDGET = 65_536
KEYS = 10
ROUNDS = 400
PADDING = "x" * 4000

pytestmark = [
    pytest.mark.gen_test(timeout=60),
    pytest.mark.settings(
        limits={"send_buffer_bytes": BUDGET, "slow_timeout": 0.0, "messages_per_second": 0.0}
        | {"burst": 0},
        # Who joins is no matter here.
        rooms={"announce": 1},
    ),
]


async def update(sender: Player, number: int, key: int) -> None:
    """Publish a value of a key to the room."""
    data = {"key": key, "number": number, "padding": PADDING}
    payload = {"room": "arena", "data": data, "volatile": True, "key": str(key), "echo": False}
    await sender.emit("publish", payload)


async def read_all(raw: RawWebSocket, stored: int) -> list[Any]:
    """Return the data of what comes, up to the last value of each key and the last message."""
    found: list[Any] = []
    missing: set[object] = {*range(KEYS), "stored"}
    while missing:
        opcode, payload = await raw.receive()
        assert opcode == 1
        name, message = json.loads(payload[2:])[:2]
        assert name == "message"
        data = message["data"]
        found.append(data)
        if isinstance(data, int):
            missing -= {"stored"} if data == stored - 1 else set()
        elif data["number"] == ROUNDS - 1:
            missing.remove(data["key"])
    return found


async def test_a_stalled_and_a_hidden_client_catch_up_with_the_latest_of_each_key(
    clients: Clients, gateway: Gateway
) -> None:
    ann: Player = await clients.player("websocket")
    active, hidden = await clients.player("websocket"), await clients.player("websocket")
    stalled = await clients.raw_websocket(receive_buffer=BUDGET)
    stalled_id = (await stalled.log_in())["true_id"]
    for member in (ann, active, hidden):
        assert (await member.call("join", {"room": "arena"}))["ok"]
    stalled.send(b'421["join",{"room":"arena"}]')
    assert json.loads((await stalled.receive())[1][3:]) == [{"ok": True, "members": 4}]
    ann._set_aside.clear()
    assert (await hidden.call("presence_set", {"state": "hidden"}))["ok"]
    stored = 0
    for number in range(ROUNDS):
        for key in range(KEYS):
            await update(ann, number, key)
        if number % 10 == 0:
            for target_id in (stalled_id, hidden.true_id):
                message = {"target_id": target_id, "data": stored}
                assert (await ann.call("message", message))["ok"]
            stored += 1
        # Nobody else has to wait for them, and nothing is left out.
        told = [await active.message() for _ in range(KEYS)]
        assert [(data["number"], data["key"]) for data in told] == [
            (number, key) for key in range(KEYS)
        ]
    metrics = gateway.metrics.render()
    assert b'gateway_kept_volatile_total{reason="behind"}' in metrics

    # The stalled one wakes up: every message, and the latest of each key; nothing goes back.
    found = await read_all(stalled, stored)
    assert [data for data in found if isinstance(data, int)] == list(range(stored))
    for key in range(KEYS):
        numbers = [d["number"] for d in found if not isinstance(d, int) and d["key"] == key]
        assert numbers == sorted(set(numbers))
        assert len(numbers) < ROUNDS / 2
    last = found[-KEYS:]
    assert [(data["number"], data["key"]) for data in last] == [
        (ROUNDS - 1, key) for key in range(KEYS)
    ]

    # The hidden one had every message meanwhile; its state comes at once when it is active.
    assert [await hidden.message() for _ in range(stored)] == list(range(stored))
    assert (await hidden.call("presence_set", {"state": "active"}))["ok"]
    told = [await hidden.message() for _ in range(KEYS)]
    assert [(data["number"], data["key"]) for data in told] == [
        (ROUNDS - 1, key) for key in range(KEYS)
    ]
    # Both are up to date now: one more update is all there is.
    await update(ann, ROUNDS, 0)
    assert (await hidden.message())["number"] == ROUNDS
    _, payload = await stalled.receive()
    assert json.loads(payload[2:])[1]["data"]["number"] == ROUNDS
