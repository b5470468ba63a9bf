"""The watchdog: pings only while the event loop turns and the store answers."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gateway.errors import StoreUnavailable
from gateway.watchdog import Watchdog


class Store:
    """Answers as it is told."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.answers = True
        self.checks = 0

    async def check(self) -> None:
        self.checks += 1
        if self.error is not None:
            raise self.error
        if not self.answers:
            await asyncio.get_running_loop().create_future()


def beats(store: Store, seconds: float, count: int = 1) -> int:
    """Return how many of so many beats were pings."""
    pings: list[None] = []

    async def run() -> None:
        watchdog = Watchdog(seconds, store.check, lambda: pings.append(None))
        for _ in range(count):
            await watchdog.beat()

    asyncio.run(run())
    return len(pings)


def test_a_store_that_answers_is_worth_a_ping() -> None:
    store = Store()
    assert beats(store, 60, count=3) == 3
    assert store.checks == 3


def test_a_store_that_cannot_write_has_answered() -> None:
    store = Store()
    store.error = StoreUnavailable("the disk is full")
    assert beats(store, 60) == 1


def test_without_an_answer_there_is_no_ping(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    store.answers = False
    assert beats(store, 0.02, count=3) == 0
    # It is said once.
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.ERROR, "gateway.watchdog")
    assert "the store has not answered" in record.getMessage()


def test_pings_go_on_once_the_store_answers_again() -> None:
    store = Store()
    pings: list[None] = []

    async def run() -> None:
        watchdog = Watchdog(0.02, store.check, lambda: pings.append(None))
        for store.answers in (True, False, True):
            await watchdog.beat()

    asyncio.run(run())
    assert len(pings) == 2


def test_an_error_of_another_kind_is_no_answer() -> None:
    store = Store()
    store.error = RuntimeError("not foreseen")
    with pytest.raises(RuntimeError):
        beats(store, 60)


def test_a_beat_and_its_patience_fit_in_the_time() -> None:
    watchdog = Watchdog(30, Store().check, lambda: None)
    assert watchdog.interval + watchdog._patience < 30
