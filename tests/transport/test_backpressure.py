"""A client that does not read: its buffer is bounded, nothing reliable is lost, nobody waits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.server import Gateway
from tests.transport.client import WEBSOCKETS, Clients, Pair, Player, Polling, RawWebSocket, soon
from tests.waiting import until

BUDGET = 65_536
PADDING = "x" * 16_000

pytestmark = [
    pytest.mark.gen_test(timeout=60),
    WEBSOCKETS,
    pytest.mark.settings(
        limits={"send_buffer_bytes": BUDGET, "messages_per_second": 0.0, "burst": 0},
        mailbox={"max_messages": 0, "max_bytes": 0},
    ),
]


def buffered(gateway: Gateway) -> int:
    """Return the largest send buffer of any connection."""
    return max(connection.buffered for connection in gateway._engine._connections.values())


def congested(gateway: Gateway) -> bool:
    return b'gateway_limit_hits_total{limit="send_buffer_bytes"}' in gateway.metrics.render()


async def send(ann: Player, target_id: str, number: int, **keys: object) -> dict[str, Any]:
    data = [number, PADDING]
    receipt: dict[str, Any] = await ann.call(
        "message", {"target_id": target_id, "data": data, **keys}
    )
    return receipt


async def stall(gateway: Gateway, ann: Player, target_id: str) -> int:
    """Send until the target's buffers are full, the kernel's too; return how many."""
    number = 0
    while not congested(gateway):
        number += 1
        assert (await send(ann, target_id, number))["ok"]
        assert number < 3000
    return number


async def numbers(raw: RawWebSocket, last: int) -> list[int]:
    """Read messages up to the one with this number; pings are answered."""
    got: list[int] = []
    while not got or got[-1] != last:
        opcode, payload = await raw.receive()
        if opcode != 1:
            continue
        if payload == b"2":
            raw.send(b"3")
        else:
            name, message = json.loads(payload[2:])[:2]
            assert name == "message"
            got.append(message["data"][0])
    return got


async def test_stalled_websocket_catches_up_with_every_message_in_order(
    clients: Clients, gateway: Gateway
) -> None:
    pair = await Pair.meet(clients)
    ann = await clients.player("websocket")
    raw = await clients.raw_websocket(receive_buffer=65_536)
    true_id = (await raw.log_in())["true_id"]
    sent = await stall(gateway, ann, true_id)
    for _ in range(100):
        sent += 1
        receipt = await send(ann, true_id, sent)
        # It is stored, and the connection is there.
        assert (receipt["ok"], receipt["status"]) == (True, "delivered")
        assert buffered(gateway) <= BUDGET + 20_000
    await pair.talk()
    # While it drains, more comes.
    sent += 1
    assert (await send(ann, true_id, sent))["ok"]
    assert await numbers(raw, sent) == list(range(1, sent + 1))
    # It is live again.
    assert (await send(ann, true_id, sent + 1, volatile=True))["status"] == "delivered"
    assert await numbers(raw, sent + 1) == [sent + 1]
    await pair.talk()


async def test_volatile_messages_to_a_stalled_client_are_dropped(
    clients: Clients, gateway: Gateway
) -> None:
    ann = await clients.player("websocket")
    raw = await clients.raw_websocket(receive_buffer=65_536)
    true_id = (await raw.log_in())["true_id"]
    sent = await stall(gateway, ann, true_id)
    for _ in range(20):
        receipt = await send(ann, true_id, -1, volatile=True)
        assert (receipt["status"], receipt["connections"]) == ("dropped", 0)
    assert await numbers(raw, sent) == list(range(1, sent + 1))


async def test_client_that_does_not_poll_catches_up(clients: Clients, gateway: Gateway) -> None:
    ann, bob = await clients.player("websocket"), await clients.player("polling")
    assert isinstance(bob.link, Polling)
    count = 40
    for number in range(1, count + 1):
        assert (await send(ann, bob.true_id, number))["ok"]
        assert buffered(gateway) <= BUDGET + 20_000
    assert congested(gateway)
    # No poll is larger than the budget, either.
    body = await bob.link.poll()
    assert len(body) <= BUDGET + 20_000
    got = [json.loads(packet[2:])[1]["data"][0] for packet in body.split("\x1e")]
    while len(got) < count:
        got.append((await bob.message())[0])
    assert got == list(range(1, count + 1))


async def test_messages_cross_an_upgrade_of_a_congested_session(
    clients: Clients, gateway: Gateway
) -> None:
    ann, bob = await clients.player("websocket"), await clients.player("polling")
    for number in range(1, 31):
        await send(ann, bob.true_id, number)
    assert congested(gateway)
    probe = await clients.upgrade_request(sid=bob.link.sid)
    await probe.write_message("2probe")
    assert await soon(probe.read_message()) == "3probe"
    await probe.write_message("5")
    got = []
    while len(got) < 30:
        packet = await soon(probe.read_message())
        assert isinstance(packet, str)
        got.append(json.loads(packet[2:])[1]["data"][0])
    assert got == list(range(1, 31))


@pytest.mark.settings(limits={"slow_timeout": 0.2})
async def test_client_that_stays_stalled_is_closed_and_may_come_back(
    clients: Clients, gateway: Gateway
) -> None:
    pair = await Pair.meet(clients)
    ann = await clients.player("websocket")
    raw = await clients.raw_websocket(receive_buffer=65_536)
    session = await raw.log_in()
    await stall(gateway, ann, session["true_id"])
    await until(lambda: len(gateway._engine) == 3)
    assert b'reason="slow_consumer"' in gateway.metrics.render()
    await pair.talk()
    again = await clients.player("websocket", {"token": session["token"]})
    assert again.session["resumed"] is True
    assert (await again.message())[0] == 1


@pytest.mark.settings(limits={"slow_timeout": 1.0})
async def test_client_that_drains_in_time_is_not_closed(clients: Clients, gateway: Gateway) -> None:
    ann, bob = await clients.player("websocket"), await clients.player("polling")
    for round_ in range(3):
        for number in range(10):
            await send(ann, bob.true_id, 10 * round_ + number)
        for number in range(10):
            assert (await bob.message())[0] == 10 * round_ + number
    with pytest.raises(TimeoutError):
        await bob.link.receive(1.3)
    assert (await bob.call("presence_watch", {"true_ids": []}))["ok"]
    assert congested(gateway)


@pytest.mark.settings(mailbox={"max_messages": 10})
@pytest.mark.expects_warnings
async def test_client_whose_messages_were_trimmed_is_told_of_the_gap(
    clients: Clients, gateway: Gateway
) -> None:
    ann, bob = await clients.player("websocket"), await clients.player("polling")
    for number in range(1, 41):
        await send(ann, bob.true_id, number)
    assert congested(gateway)
    packets = await bob.link.ended()
    got = [json.loads(str(packet)[2:]) for packet in packets]
    offset = got[-1][2]
    again = await clients.player("polling", {"pid": bob.pid, "offset": offset})
    assert again.session["outcome"] == "trimmed"
    assert again.session["gap"] == {"after": offset, "lost": 40 - 10 - len(got)}
    assert [(await again.message())[0] for _ in range(10)] == list(range(31, 41))


async def test_polling_client_that_asks_and_never_reads_is_dropped(
    clients: Clients, gateway: Gateway
) -> None:
    pair = await Pair.meet(clients)
    greedy = await Player.log_in(await clients.polling())
    link = greedy.link
    assert isinstance(link, Polling)
    ids = ["x" * 100 + str(number) for number in range(500)]
    watch = '423["presence_watch",' + json.dumps({"true_ids": ids}) + "]"
    statuses = [(await link.post(watch)).code for _ in range(40)]
    assert statuses[-1] == 400
    await until(lambda: len(gateway._engine) == 2)
    assert b'gateway_closed_connections_total{reason="slow_consumer"} 1.0' in (
        gateway.metrics.render()
    )
    await pair.talk()


async def test_websocket_client_that_asks_and_never_reads_is_dropped(
    clients: Clients, gateway: Gateway
) -> None:
    pair = await Pair.meet(clients)
    raw = await clients.raw_websocket(receive_buffer=65_536)
    await raw.log_in()
    ids = ["x" * 100 + str(number) for number in range(500)]
    watch = ('423["presence_watch",' + json.dumps({"true_ids": ids}) + "]").encode()
    largest = 0
    while len(gateway._engine) == 3:
        raw.send(watch)
        await pair.talk()
        if len(gateway._engine) == 3:
            largest = max(largest, buffered(gateway))
    # One answer may go beyond the budget, the next one finds it used up.
    assert largest <= 4 * BUDGET
    await pair.talk()
