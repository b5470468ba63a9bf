"""Sending webhooks: order, tries, the circuit, and what is given up; clocks are given."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from gateway.errors import StoreUnavailable
from gateway.messages import TrueId
from gateway.metrics import Metrics
from gateway.outbox import OutboxLimits, Webhook, presence_changed
from gateway.posting import PostFailed, Response, sign
from gateway.stores.memory import MemoryStore
from gateway.webhooks import Webhooks, WebhookSettings
from tests.services.world import LIMITS, scenario

ANN, BOB = TrueId("ann"), TrueId("bob")
SETTINGS = WebhookSettings(concurrency=4, attempts=3, max_backoff=0.02, retention=1000.0)


class Store(MemoryStore):
    down = False

    async def webhooks(self, after: int, limit: int) -> tuple[Webhook, ...]:
        if self.down:
            raise StoreUnavailable("down")
        return await super().webhooks(after, limit)

    async def remove_webhooks(self, numbers: Any) -> None:
        if self.down:
            raise StoreUnavailable("down")
        await super().remove_webhooks(numbers)


class Scene:
    """A gateway's webhooks, and the backend that takes them."""

    def __init__(self, settings: WebhookSettings) -> None:
        limits = replace(LIMITS, outbox=OutboxLimits(enabled=True))
        self.store = Store(limits, "e1", count(1), lambda *_: None, self._on_webhooks)
        self.metrics = Metrics()
        self.now = 100.0
        #: What came in, as (true_id, number of the event).
        self.got: list[tuple[str, int]] = []
        self.tried: list[tuple[str, int]] = []
        self.answer: Callable[[str, int], Response] = lambda true_id, number: Response(204)
        self.gate: asyncio.Event | None = None
        self.most = self.out = 0
        self.webhooks = Webhooks(
            self.store,
            self._post,
            ["secret"],
            settings,
            self.metrics,
            lambda: self.now,
            asyncio.get_running_loop().time,
            lambda: 0.0,
        )

    def _on_webhooks(self, added: int, given_up: int) -> None:
        self.webhooks.wake()

    async def _post(self, body: bytes, headers: dict[str, str]) -> Response:
        self.out += 1
        self.most = max(self.most, self.out)
        try:
            if self.gate is not None:
                await self.gate.wait()
            else:
                await asyncio.sleep(0)
            event = json.loads(body)
            what = (event["true_id"], int(event["ts"]))
            self.tried.append(what)
            response = self.answer(*what)
            if response.status < 300:
                self.got.append(what)
            return response
        finally:
            self.out -= 1

    def report(self, true_id: TrueId, number: int) -> None:
        self.store.outbox.add(presence_changed(true_id, True, float(number)))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(15):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.002)

    async def quiet(self) -> None:
        """Wait until nothing waits any more."""
        await self.until(lambda: not self.store.queued_webhooks and not self.out)

    def counted(self, result: str) -> int:
        return self.metrics._webhooks[result]


@asynccontextmanager
async def scene(**changes: Any) -> AsyncIterator[Scene]:
    running = Scene(replace(SETTINGS, **changes))
    task = asyncio.create_task(running.webhooks.run())
    try:
        yield running
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.webhooks._FIRST_PAUSE", 0.005)
    monkeypatch.setattr("gateway.webhooks._STORE_PAUSE", 0.005)


def test_a_signature_is_over_timestamp_and_body() -> None:
    header = sign(b'{"a":1}', "1700000000", ["one", "two"])
    expected = [
        hmac.new(secret, b'1700000000.{"a":1}', hashlib.sha256).hexdigest()
        for secret in (b"one", b"two")
    ]
    assert header == f"v1={expected[0]},v1={expected[1]}"


@scenario
async def test_webhooks_of_a_player_are_sent_one_after_the_other() -> None:
    async with scene() as now:
        for number in range(50):
            for true_id in (ANN, BOB):
                now.report(true_id, number)
        await now.quiet()
        for true_id in (ANN, BOB):
            assert [number for each, number in now.got if each == true_id] == list(range(50))
        assert now.counted("sent") == 100
        assert now.most == 2


@scenario
async def test_players_do_not_wait_for_each_other_and_no_more_are_under_way_than_allowed() -> None:
    async with scene(concurrency=3) as now:
        now.gate = asyncio.Event()
        for number in range(10):
            now.report(TrueId(f"p{number}"), number)
        await now.until(lambda: now.out == 3)
        now.gate.set()
        await now.quiet()
        assert now.most == 3


@scenario
async def test_what_fails_is_sent_again_and_the_players_next_waits_for_it() -> None:
    async with scene() as now:
        failures = iter([Response(500), Response(302), Response(503)])
        now.answer = lambda true_id, number: (
            next(failures, Response(200)) if (true_id, number) == ("ann", 1) else Response(200)
        )
        for number in range(3):
            now.report(ANN, number)
        now.report(BOB, 7)
        await now.quiet()
        assert [number for true_id, number in now.got if true_id == "ann"] == [0, 1, 2]
        assert now.tried.count(("ann", 1)) == 4
        assert (now.counted("failed"), now.counted("sent")) == (3, 4)


@scenario
async def test_what_the_backend_refuses_is_given_up_and_holds_up_nothing() -> None:
    async with scene() as now:
        now.answer = lambda true_id, number: Response(422 if number == 1 else 200)
        for number in range(3):
            now.report(ANN, number)
        await now.quiet()
        assert [number for _, number in now.got] == [0, 2]
        assert now.tried.count(("ann", 1)) == SETTINGS.attempts
        (dead,) = now.store.outbox.list_dead(10)
        assert (dead.webhook.event.ts, dead.reason) == (1.0, "HTTP status 422")
        assert now.counted("dead") == 1
        assert not now.webhooks.circuit_open


@scenario
async def test_a_fault_of_ours_is_logged_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async with scene() as now:
        faults = iter([RuntimeError("a bug")])

        def answer(true_id: str, number: int) -> Response:
            for fault in faults:
                raise fault
            return Response(200)

        now.answer = answer
        now.report(ANN, 1)
        now.report(ANN, 2)
        await now.quiet()
        assert now.got == [("ann", 1), ("ann", 2)]
    assert "could not be sent" in caplog.text


@scenario
async def test_only_refusals_count_as_such() -> None:
    async with scene() as now:
        answers = iter([Response(500)] * 5 + [Response(400)] * 2 + [Response(200)])
        now.answer = lambda true_id, number: next(answers)
        now.report(ANN, 1)
        await now.quiet()
        assert (now.got, now.store.dead_webhooks) == ([("ann", 1)], 0)


@scenario
async def test_a_backend_that_is_down_is_left_alone_and_loses_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "gateway.webhooks")
    async with scene(max_backoff=0.05) as now:
        down = True

        def answer(true_id: str, number: int) -> Response:
            if down:
                raise PostFailed("connection refused")
            return Response(200)

        now.answer = answer
        for number in range(20):
            now.report(TrueId(f"p{number % 10}"), number)
        await now.until(lambda: now.webhooks.circuit_open)
        tried = len(now.tried)
        assert tried <= 5 + SETTINGS.concurrency
        await now.until(lambda: len(now.tried) > tried)
        assert now.store.queued_webhooks == 20
        down = False
        await now.quiet()
        assert sorted(number for _, number in now.got) == list(range(20))
        assert not now.webhooks.circuit_open
        assert now.counted("dead") == 0
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "the backend takes no webhooks, so they wait: connection refused",
        "the backend takes webhooks again",
    ]


@scenario
async def test_a_backend_that_asks_for_rest_gets_it() -> None:
    async with scene() as now:
        now.answer = lambda true_id, number: Response(429, 3600.0)
        now.report(ANN, 1)
        now.report(BOB, 2)
        await now.until(lambda: now.webhooks.circuit_open and not now.out)
        tried = len(now.tried)
        now.report(TrueId("cid"), 3)
        await asyncio.sleep(0.05)
        assert len(now.tried) == tried <= 2


@scenario
async def test_what_is_too_old_is_given_up() -> None:
    async with scene(retention=10.0) as now:
        now.answer = lambda true_id, number: Response(500)
        now.report(ANN, 95)
        await now.until(lambda: len(now.tried) > 1)
        assert now.store.dead_webhooks == 0
        assert 4.0 < now.webhooks.lag < 6.0
        now.now = 106.0
        await now.quiet()
        (dead,) = now.store.outbox.list_dead(10)
        assert dead.reason == "HTTP status 500"
        assert now.webhooks.lag == 0.0


@scenario
async def test_a_store_that_is_away_is_waited_for() -> None:
    async with scene() as now:
        now.store.down = True
        now.report(ANN, 1)
        await asyncio.sleep(0.02)
        assert now.got == []
        now.store.down = False
        await now.quiet()
        assert now.got == [("ann", 1)]


@scenario
async def test_more_than_fits_into_memory_is_sent_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.webhooks._WINDOW", 7)
    async with scene() as now:
        for number in range(100):
            now.report(TrueId(f"p{number % 3}"), number)
        await now.quiet()
        for player in range(3):
            numbers = [number for each, number in now.got if each == f"p{player}"]
            assert numbers == list(range(player, 100, 3))


@scenario
async def test_what_was_given_up_is_found_again_and_nothing_else_sent_twice() -> None:
    async with scene(concurrency=1) as now:
        now.gate = asyncio.Event()
        for number in range(4):
            now.report("ann", number)
        await now.until(lambda: now.out == 1)
        # While the first is under way and the others wait; with a number below theirs.
        taken = now.store.outbox._webhooks.pop(2)
        now.webhooks.drop([2])
        now.store.outbox._webhooks[2] = taken
        now.store.outbox._webhooks.move_to_end(2, last=False)
        now.webhooks.look_again()
        await asyncio.sleep(0.02)
        now.gate.set()
        await now.quiet()
        assert sorted(now.got) == [("ann", number) for number in range(4)]


@scenario
async def test_a_fault_is_logged_and_the_sending_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene() as now:
        webhooks = now.store.webhooks
        faults = 0

        async def faulty(after: int, limit: int) -> tuple[Webhook, ...]:
            nonlocal faults
            faults += 1
            raise RuntimeError("a fault")

        monkeypatch.setattr(now.store, "webhooks", faulty)
        now.report("ann", 1)
        await now.until(lambda: faults > 1)
        monkeypatch.setattr(now.store, "webhooks", webhooks)
        await now.quiet()
        assert now.got == [("ann", 1)]
    assert caplog.text.count("sending webhooks failed") == 1


@scenario
async def test_another_store_starts_anew() -> None:
    async with scene() as now:
        now.gate = asyncio.Event()
        now.report(ANN, 1)
        await now.until(lambda: now.out == 1)
        now.store.outbox._webhooks.clear()
        now.store.outbox._seq = 0
        now.report(ANN, 2)
        now.webhooks.start_anew()
        now.gate.set()
        await now.quiet()
        assert now.got[-1] == ("ann", 2)
        assert now.store.queued_webhooks == 0


@pytest.mark.parametrize("status", [204, 400, 500])
@scenario
async def test_what_another_gateway_sends_is_left_alone(status: int) -> None:
    async with scene(attempts=1) as now:
        now.gate = asyncio.Event()
        now.answer = lambda true_id, number: Response(status if true_id == "ann" else 204)
        for number in (1, 2):
            now.report(ANN, number)
        now.report(BOB, 3)
        await now.until(lambda: now.out == 2)
        numbers = [each.seq for each in await now.store.webhooks(0, 10)]
        now.webhooks.drop([*numbers[:2], 999])
        now.gate.set()
        await now.until(lambda: now.store.queued_webhooks == 2 and not now.out)
        now.report(BOB, 4)
        await now.until(lambda: ("bob", 4) in now.got)
        assert now.tried == [("ann", 1), ("bob", 3), ("bob", 4)]
        assert now.store.dead_webhooks == 0
        # It comes to this gateway again.
        now.answer = lambda true_id, number: Response(204)
        now.webhooks.start_anew()
        await now.quiet()
        assert now.got[-2:] == [("ann", 1), ("ann", 2)]


@scenario
async def test_what_waits_for_its_next_try_is_left_alone_too() -> None:
    async with scene(max_backoff=60.0) as now:
        now.answer = lambda true_id, number: Response(500 if true_id == "ann" else 204)
        now.report(ANN, 1)
        await now.until(lambda: now.counted("failed") == 1 and not now.out)
        now.webhooks.drop([each.seq for each in await now.store.webhooks(0, 10)])
        now.answer = lambda true_id, number: Response(204)
        # The same player's, as another gateway's would be after a while.
        now.report(ANN, 2)
        await now.until(lambda: ("ann", 2) in now.got)
        assert now.tried == [("ann", 1), ("ann", 2)]


@scenario
async def test_what_is_under_way_at_the_end_is_kept() -> None:
    async with scene() as now:
        now.gate = asyncio.Event()
        now.report(ANN, 1)
        await now.until(lambda: now.out == 1)
    assert now.store.queued_webhooks == 1
    assert now.out == 0


def test_a_reason_does_not_break_the_log(caplog: pytest.LogCaptureFixture) -> None:
    @scenario
    async def run() -> None:
        async with scene(retention=1.0) as now:
            now.now = 1000.0

            def answer(true_id: str, number: int) -> Response:
                raise PostFailed("no\nroute\x1b[31m")

            now.answer = answer
            now.report(ANN, 1)
            await now.quiet()
            (dead,) = now.store.outbox.list_dead(10)
            assert dead.reason == "no?route?[31m"

    with caplog.at_level(logging.WARNING):
        run()
    assert "player.online of ann) is given up: no?route?[31m" in caplog.text
