"""The queue of outgoing messages against a gateway that does whatever it likes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.client.backoff import Backoff
from gateway.client.errors import LinkLost, PlayerChanged, QueueFull, RequestRefused, TimedOut
from gateway.client.outbox import Outbox, snapshot

OK, LATER, NEVER, LOST, ACCEPTED_AND_LOST = range(5)


class Chaos:
    """Answers as it is told, then well; keeps what it accepted, each key once."""

    def __init__(self, outcomes: list[int]) -> None:
        self.outcomes = outcomes
        self.accepted: dict[str, list[int]] = {}
        self.keys: set[str] = set()
        self.asked = 0
        self.flying = self.most = 0
        self.outbox: Outbox | None = None
        self.now = 1_000_000.0

    def clock(self) -> float:
        return self.now

    async def ask(self, event: str, payload: Mapping[str, Any]) -> object:
        outcome = self.outcomes[self.asked] if self.asked < len(self.outcomes) else OK
        self.asked += 1
        self.flying += 1
        self.most = max(self.most, self.flying)
        try:
            await asyncio.sleep(0)
            return self._answer(outcome, payload)
        finally:
            self.flying -= 1

    def _answer(self, outcome: int, payload: Mapping[str, Any]) -> object:
        if outcome == LATER:
            error = {"code": "rate_limited", "message": "later", "retry_after": 0}
            return {"ok": False, "error": error}
        if outcome == NEVER:
            return {"ok": False, "error": {"code": "unknown_target", "message": "nobody"}}
        if outcome in (OK, ACCEPTED_AND_LOST) and payload["id"] not in self.keys:
            self.keys.add(payload["id"])
            self.accepted.setdefault(payload["target_id"], []).append(payload["data"])
        if outcome in (LOST, ACCEPTED_AND_LOST):
            assert self.outbox is not None
            loop = asyncio.get_running_loop()
            self.outbox.stop()
            loop.call_soon(self.outbox.start, 0, 0)
            raise LinkLost("lost")
        return {"ok": True, "id": payload["id"], "status": "queued", "connections": 0}


async def never_cured(room: str) -> bool:
    return False


def make(chaos: Chaos, limit: int = 1000, pipeline: int = 1) -> Outbox:
    outbox = Outbox(chaos.ask, never_cured, limit, pipeline, Backoff(1, 1), chaos.clock)
    chaos.outbox = outbox
    return outbox


def payload(target: str, number: int) -> dict[str, Any]:
    return {"target_id": target, "data": number, "id": f"{target}{number}"}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from("abc"), max_size=40),
    st.lists(st.integers(0, 4), max_size=60),
)
def test_each_message_is_accepted_once_and_in_the_order_of_its_target(
    targets: list[str], outcomes: list[int]
) -> None:
    async def run() -> None:
        chaos = Chaos(outcomes)
        outbox = make(chaos)
        outbox.start(0, 0)
        receipts = []
        for number, target in enumerate(targets):
            receipts.append(outbox.add("message", target, payload(target, number), 1, None))
            if number % 3 == 0:
                await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await outbox.drained()
        await outbox.close()
        sent: dict[str, list[int]] = {}
        refused = 0
        for number, (target, receipt) in enumerate(zip(targets, receipts, strict=True)):
            if isinstance(receipt.exception(), RequestRefused):
                # It may have been accepted before, and the refusal be of a repetition.
                refused += 1
                if number not in chaos.accepted.get(target, []):
                    continue
            sent.setdefault(target, []).append(number)
        assert chaos.accepted == sent
        assert refused <= outcomes.count(NEVER)
        assert len(outbox) == chaos.flying == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_what_waits_and_what_flies_is_bounded() -> None:
    async def run() -> None:
        chaos = Chaos([])
        outbox = make(chaos, limit=600)
        receipts = [
            outbox.add("message", f"t{number}", payload(f"t{number}", 0), 1, None)
            for number in range(600)
        ]
        with pytest.raises(QueueFull):
            outbox.add("message", "one more", payload("x", 0), 1, None)
        outbox.start(0, 0)
        await asyncio.gather(*receipts)
        assert chaos.most == 256
        assert len(outbox) == 0

    asyncio.run(run())


def test_a_busy_target_does_not_keep_others_waiting() -> None:
    async def run() -> None:
        chaos = Chaos([LATER])
        outbox = make(chaos)
        busy = [outbox.add("message", "busy", payload("busy", n), 1, None) for n in range(50)]
        other = outbox.add("message", "other", payload("other", 0), 1, None)
        outbox.start(0, 0)
        await other
        assert sum(receipt.done() for receipt in busy) < 5
        await asyncio.gather(*busy)

    asyncio.run(run())


def test_what_may_have_arrived_is_not_sent_again_once_its_key_is_forgotten() -> None:
    async def run() -> None:
        chaos = Chaos([ACCEPTED_AND_LOST])
        outbox = make(chaos)
        outbox.start(0, 600)
        first, second = (
            outbox.add("message", "a", payload("a", number), 1, None) for number in (1, 2)
        )
        while chaos.asked == 0 or chaos.flying:  # noqa: ASYNC110
            await asyncio.sleep(0)
        outbox.stop()
        # The gateway is away for so long that it no longer knows the key of the first.
        chaos.now += 601
        chaos.keys.clear()
        outbox.start(0, 600)
        with pytest.raises(TimedOut):
            await first
        assert (await second).status == "queued"
        assert chaos.accepted == {"a": [1, 2]}
        await outbox.close()

    asyncio.run(run())


def test_given_up_messages_end_and_are_no_noise() -> None:
    async def run() -> None:
        outbox = make(Chaos([]))
        receipt = outbox.add("message", "a", payload("a", 1), 1, None)
        outbox.reject(PlayerChanged())
        assert isinstance(receipt.exception(), PlayerChanged)
        assert len(outbox) == 0

    asyncio.run(run())


def test_what_is_sent_is_what_was_given() -> None:
    data = {"list": [1, "\u00e9"]}
    copy, size = snapshot(data)
    data["list"].append(2)
    assert copy == {"list": [1, "\u00e9"]}
    assert size == len('{"list":[1,"\u00e9"]}'.encode())
    endless: list[Any] = []
    endless.append(endless)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for bad in (endless, deep, "\ud800"):
        with pytest.raises(ValueError, match="data"):
            snapshot(bad)
