"""Rooms over real sockets, on every transport."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.server import Gateway
from tests.transport.client import TRANSPORTS, WEBSOCKETS, Clients, Player
from tests.waiting import until

pytestmark = [pytest.mark.gen_test(timeout=60), WEBSOCKETS]


async def join(player: Player, room: str = "r") -> int:
    answer = await player.call("join", {"room": room})
    assert answer["ok"], answer
    members: int = answer["members"]
    return members


async def messages(player: Player, count: int) -> list[Any]:
    """Return the data of the next messages; events of rooms come in between."""
    found = []
    while len(found) < count:
        packet = player._set_aside[0] if player._set_aside else ""
        if packet.startswith('42["room"'):
            player._set_aside.popleft()
        elif packet:
            found.append(await player.message())
        else:
            player._set_aside.append(str(await player.link.receive()))
    return found


async def test_all_members_get_the_same_messages_in_the_same_order(clients: Clients) -> None:
    players = [await clients.player(transport) for transport in TRANSPORTS * 2]
    for number, player in enumerate(players):
        assert await join(player) == number + 1
    for number in range(20):
        sender = players[number % len(players)]
        receipt = await sender.call("publish", {"room": "r", "data": [number, "ü☃"]})
        assert (receipt["status"], receipt["connections"]) == ("delivered", len(players))
    expected = [[number, "ü☃"] for number in range(20)]
    for player in players:
        assert await messages(player, 20) == expected


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_who_comes_and_goes_is_told(clients: Clients, transport: str) -> None:
    ann, bob = await clients.player(transport), await clients.player(transport)
    await join(ann)
    assert await ann.event("room") == [{"room": "r", "joined": ann.true_id, "members": 1}]
    await join(bob)
    assert await ann.event("room") == [{"room": "r", "joined": bob.true_id, "members": 2}]
    assert (await bob.call("leave", {"room": "r"})) == {"ok": True, "members": 1}
    assert await ann.event("room") == [{"room": "r", "left": bob.true_id, "members": 1}]
    refused = await bob.call("members", {"room": "r"})
    assert refused["error"]["code"] == "not_member"
    page = await ann.call("members", {"room": "r"})
    assert (page["members"], page["players"][0]["true_id"]) == (1, ann.true_id)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_publish_right_behind_the_join_is_a_members(
    clients: Clients, transport: str
) -> None:
    ann = await clients.player(transport)
    await ann.emit("join", {"room": "r"})
    receipt = await ann.call("publish", {"room": "r", "data": 1})
    assert receipt["ok"], receipt
    assert await messages(ann, 1) == [1]


async def test_a_volatile_message_has_no_id(clients: Clients) -> None:
    players = [await clients.player(transport) for transport in TRANSPORTS]
    for player in players:
        await join(player)
    volatile = {"room": "r", "data": 1, "volatile": True, "key": "position"}
    receipt = await players[0].call("publish", volatile)
    assert (receipt["id"], receipt["status"], receipt["connections"]) == (None, "delivered", 2)
    for player in players:
        await player.call("members", {"room": "r"})
        packets = [packet for packet in player._set_aside if packet.startswith('42["message"')]
        assert len(packets) == 1
        assert '"id"' not in packets[0]
        assert packets[0].endswith("}]")


@pytest.mark.settings(presence={"grace": 0.2})
async def test_a_member_who_does_not_come_back_is_gone_after_the_grace(
    clients: Clients, gateway: Gateway
) -> None:
    ann, bob = await clients.player("websocket"), await clients.player("websocket")
    await join(ann)
    await join(bob)
    assert gateway._rooms.members("r") == (ann.true_id, bob.true_id)
    await ann.link.send("1")
    await until(lambda: gateway._rooms.members("r") == (bob.true_id,))
    metrics = (await clients.fetch("/metrics")).body.decode()
    assert "gateway_rooms 1.0" in metrics
    assert "gateway_room_members 1.0" in metrics


@pytest.mark.settings(rooms={"open": False})
async def test_closed_rooms_are_filled_by_the_game(clients: Clients, gateway: Gateway) -> None:
    ann = await clients.player("websocket")
    refused = await ann.call("join", {"room": "r"})
    assert refused["error"]["code"] == "forbidden"
    await gateway._rooms.add("r", ann.session["true_id"])
    assert await join(ann) == 1
