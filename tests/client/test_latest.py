"""Latest values by the client: of each key the newest arrives, whatever becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.client import (
    ClientClosed,
    GatewayClient,
    Message,
    PlayerChanged,
    QueueFull,
    RequestRefused,
)
from gateway.client.backoff import Backoff
from gateway.client.errors import LinkLost
from gateway.client.latest import Latest
from gateway.server import Gateway
from tests.client.players import drop_all, nothing_is_left, player, soon
from tests.waiting import run, until

pytestmark = [pytest.mark.gen_test(timeout=120), pytest.mark.expects_warnings]

ROOM = "duel"


async def join(*members: GatewayClient) -> list[Message]:
    """Let them be members of a room; return what the last one hears there from now on."""
    heard: list[Message] = []
    for member in members:
        await soon(member.join(ROOM))
    members[-1].on("message", heard.append)
    return heard


async def test_the_last_value_of_a_key_arrives_and_no_older_one_after_it(base_url: str) -> None:
    async with player(base_url) as ada, player(base_url) as bob:
        heard = await join(ada, bob)
        receipts = []
        for number in range(1000):
            receipts.append(ada.volatile(ROOM, "position", number))
            if number % 50 == 0:
                await asyncio.sleep(0)
        await until(lambda: bool(heard) and heard[-1].data == 999)
        assert {(await soon(receipt)).status for receipt in receipts} == {"delivered", "dropped"}
        values = [message.data for message in heard]
        assert values == sorted(set(values))
        assert len(values) < 1000
        assert {(message.id, message.room) for message in heard} == {(None, ROOM)}
    nothing_is_left()


async def test_who_was_away_sends_the_latest_of_each_key(base_url: str, gateway: Gateway) -> None:
    async with player(base_url) as ada, player(base_url) as bob:
        heard = await join(ada, bob)
        drop_all(gateway)
        await until(lambda: not ada.connected)
        receipts = [
            ada.volatile(ROOM, key, f"{key}{number}") for number in range(5) for key in ("x", "y")
        ]
        await soon(ada.publish(ROOM, "end"))
        for receipt in receipts:
            await soon(receipt)
        await until(lambda: bool(heard) and heard[-1].data == "end")
        # The other one may have been away, too.
        assert {message.data for message in heard} <= {"x4", "y4", "end"}
        statuses = [receipt.result().status for receipt in receipts]
        assert statuses[:8] == ["dropped"] * 8
    nothing_is_left()


async def test_a_refusal_that_is_final_raises_for_who_looks(base_url: str) -> None:
    async with player(base_url) as ada:
        await join(ada)
        ada.volatile(ROOM, "big", "x" * 70_000)
        for data, key, room, code in (
            ("x" * 70_000, "big", ROOM, "too_large"),
            (1, "k" * 65, ROOM, "bad_request"),
            (1, "key", "another", "not_member"),
        ):
            with pytest.raises(RequestRefused) as refused:
                await soon(ada.volatile(room, key, data))
            assert refused.value.code == code
        with pytest.raises(TypeError):
            ada.volatile(ROOM, "key", object())
        await ada.close()
        with pytest.raises(ClientClosed):
            ada.volatile(ROOM, "key", 1)
    nothing_is_left()


class Scripted:
    """Answers each question as it is told, and keeps what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = [*answers]
        self.asked: list[Any] = []
        self.crowded = 0
        self.latest = Latest(self.ask, self.cure, lambda: self.crowded, 3, Backoff(1, 1))

    async def ask(self, event: str, payload: Mapping[str, Any]) -> object:
        self.asked.append(payload["data"])
        answer = self.answers.pop(0) if self.answers else {"ok": True, "status": "delivered"}
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def cure(self, room: str) -> bool:
        self.asked.append("cure")
        return True

    def set(self, key: str, data: object) -> Any:
        return self.latest.set((ROOM, key), {"data": data}, 1)


def refusal(code: str) -> dict[str, Any]:
    return {"ok": False, "error": {"code": code, "message": "no", "retry_after": 0}}


def test_what_is_refused_for_now_is_tried_again_with_the_newest_value() -> None:
    async def scenario() -> None:
        gateway = Scripted(refusal("rate_limited"), refusal("not_member"))
        gateway.latest.start(0)
        first = gateway.set("x", 1)
        await asyncio.sleep(0)
        second = gateway.set("x", 2)
        assert [(await soon(each)).status for each in (first, second)] == ["dropped", "delivered"]
        assert gateway.asked == [1, 2, "cure", 2]
        await gateway.latest.close()

    run(scenario())


def test_the_newest_value_goes_over_the_next_connection_and_an_older_one_does_not() -> None:
    async def scenario() -> None:
        # Neither is answered before the connection is lost, and started again at once.
        gateway = Scripted(None, None)
        gateway.latest.start(0)
        first = gateway.set("x", 1)
        await asyncio.sleep(0)
        second = gateway.set("x", 2)
        await asyncio.sleep(0)
        gateway.latest.stop()
        gateway.latest.start(0)
        assert [(await soon(each)).status for each in (first, second)] == ["dropped", "delivered"]
        assert gateway.asked == [1, 2, 2]
        # A loss that is told by the answer alone.
        gateway.answers = [LinkLost("lost")]
        third = gateway.set("x", 3)
        await until(lambda: gateway.asked[-1] == 3)
        gateway.latest.stop()
        gateway.latest.start(0)
        assert (await soon(third)).status == "delivered"
        await gateway.latest.close()

    run(scenario())


def test_what_waits_is_bounded_and_a_crowded_way_is_waited_for() -> None:
    async def scenario() -> None:
        gateway = Scripted()
        gateway.crowded = 17
        gateway.latest.start(0)
        receipts = [gateway.set(f"key{number}", number) for number in range(3)]
        receipts.append(gateway.set("key2", "newer"))
        with pytest.raises(QueueFull):
            gateway.set("key3", 3)
        assert gateway.asked == []
        receipts[0].cancel()
        await asyncio.sleep(0)
        gateway.crowded = 0
        assert (await soon(receipts[3])).status == "delivered"
        assert gateway.asked == [1, "newer"]
        assert receipts[2].result().status == "dropped"
        gateway.latest.stop()
        last = gateway.set("key3", 3)
        gateway.latest.reject(PlayerChanged())
        assert isinstance(last.exception(), PlayerChanged)
        await gateway.latest.close()

    run(scenario())
