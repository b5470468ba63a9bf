"""Rooms by the client, against a real gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.client import Guest, Rejoined, RequestRefused, RoomChange
from gateway.client.rooms import Rooms
from gateway.server import Gateway
from tests.client.players import drop_all, nothing_is_left, player, soon, take
from tests.gateway_process import GatewayProcess
from tests.waiting import until

pytestmark = [pytest.mark.gen_test(timeout=120), pytest.mark.expects_warnings]


async def test_members_hear_each_other_in_one_order_over_lost_connections(
    base_url: str, gateway: Gateway
) -> None:
    async with player(base_url, Guest("Ada")) as ada, player(base_url, Guest("Bob")) as bob:
        changes: list[RoomChange] = []
        ada.on("room", changes.append)
        assert (await soon(ada.join("lobby"))).members == 1
        assert (await soon(bob.join("lobby"))).members == 2
        await until(lambda: any(change.joined == bob.true_id for change in changes))
        page = await soon(ada.members("lobby"))
        assert (page.room, page.members, page.cursor) == ("lobby", 2, None)
        assert {each.true_id: each.name for each in page.players} == {
            ada.true_id: "Ada",
            bob.true_id: "Bob",
        }
        streams = ada.messages(), bob.messages()
        receipts = []
        heard: tuple[list[Any], list[Any]] = ([], [])
        for cut in range(5):
            for number in range(5):
                receipts.append(ada.publish("lobby", ["ada", cut * 5 + number]))
                receipts.append(bob.publish("lobby", ["bob", cut * 5 + number]))
            await asyncio.sleep(0)
            drop_all(gateway)
            for stream, each in zip(streams, heard, strict=True):
                each += [(message.room, *message.data) for message in await take(stream, 10)]
        assert heard[0] == heard[1]
        for name in ("ada", "bob"):
            assert [each[2] for each in heard[0] if each[1] == name] == list(range(25))
        assert {each[0] for each in heard[0]} == {"lobby"}
        for receipt in receipts:
            assert (await soon(receipt)).connections >= 0
        await soon(bob.leave("lobby"))
        await until(lambda: any(change.left == bob.true_id for change in changes))
        with pytest.raises(RequestRefused) as refused:
            await soon(bob.publish("lobby", 1))
        assert refused.value.code == "not_member"
    nothing_is_left()


async def test_without_echo_the_sender_does_not_hear_it(base_url: str) -> None:
    async with player(base_url) as ada, player(base_url) as bob:
        await soon(ada.join("lobby"))
        await soon(bob.join("lobby"))
        await soon(ada.publish("lobby", 1, echo=False))
        await soon(ada.publish("lobby", 2))
        assert [message.data for message in await take(ada.messages(), 1)] == [2]
        messages = bob.messages()
        assert [message.data for message in await take(messages, 2)] == [1, 2]
        receipt = await soon(ada.publish("lobby", 3, volatile=True, key="position", echo=False))
        assert receipt.status == "delivered"
        (latest,) = await take(messages, 1)
        assert (latest.data, latest.room, latest.id) == (3, "lobby", None)


async def test_a_gateway_that_forgot_everything_is_joined_again(tmp_path: Path) -> None:
    variables = {"GATEWAY_STORE_URL": "memory://"}
    with GatewayProcess(tmp_path, variables=variables) as gateway:
        async with player(gateway.url) as ada:
            await soon(ada.join("lobby"))
            lost: list[Any] = []
            ada.on("lost", lost.append)
            await asyncio.to_thread(gateway.kill)
            receipt = ada.publish("lobby", "kept")
            await asyncio.to_thread(gateway.start)
            assert (await soon(receipt)).status == "delivered"
            (message,) = await take(ada.messages(), 1)
            assert (message.data, message.room) == ("kept", "lobby")
            assert (await soon(ada.members("lobby"))).members == 1
            assert [each.outcome for each in lost] == ["store_reset"]
        nothing_is_left()


@pytest.mark.settings(presence={"grace": 0.2, "settle": 0.0})
async def test_who_was_away_until_the_membership_ended_is_told_so(
    base_url: str, gateway: Gateway
) -> None:
    delays = {"reconnect_delay": 2.0, "reconnect_delay_max": 2.0}
    async with player(base_url, Guest("Ada"), **delays) as ada, player(base_url) as bob:
        told: list[Any] = []
        ada.on("rejoined", told.append)
        changes: list[RoomChange] = []
        bob.on("room", changes.append)
        await soon(bob.join("lobby"))
        await soon(ada.join("lobby"))
        drop_all(gateway)
        await until(lambda: any(change.left == ada.true_id for change in changes))
        await soon(bob.publish("lobby", "missed", echo=False))
        await until(lambda: bool(told))
        assert told == [Rejoined("lobby", 2)]
        await soon(bob.publish("lobby", "heard", echo=False))
        (message,) = await take(ada.messages(), 1)
        assert message.data == "heard"
    nothing_is_left()


async def test_a_room_is_not_lost_to_refusals_for_now() -> None:
    def later(event: str) -> RequestRefused:
        return RequestRefused("unavailable", f"{event}: not now", retry_after=0.0)

    outcomes: list[RequestRefused | dict[str, Any]] = [
        {"ok": True, "members": 1},
        later("members"),
        later("members"),
        RequestRefused("not_member", "join first"),
        later("join"),
        {"ok": True, "members": 2},
    ]
    asked: list[str] = []
    told: list[object] = []

    async def request(event: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        asked.append(event)
        outcome = outcomes.pop(0)
        if isinstance(outcome, RequestRefused):
            raise outcome
        return outcome

    rooms = Rooms(request, lambda event, value: told.append(value))
    await rooms.join("lobby")
    await soon(rooms.restore())
    assert asked == ["join", *["members"] * 3, *["join"] * 2]
    assert told == [Rejoined("lobby", 2)]
