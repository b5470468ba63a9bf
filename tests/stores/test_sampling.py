"""How long a store takes is looked at now and then, and once more after the clock was set back."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from gateway.mailbox import Draft, RoomDraft
from gateway.messages import TrueId
from gateway.stores.memory import MemoryStore
from gateway.stores.sqlite import SqliteStore
from tests.stores.conftest import LIMITS, Driver

ANN = TrueId("ann")


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_one_message_in_a_while_is_timed(kind: str, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []

    def on_latency(kind: str, seconds: float) -> None:
        told.append((kind, seconds))

    def build(on_dropped: object) -> MemoryStore | SqliteStore:
        if kind == "memory":
            return MemoryStore(LIMITS, "e1", count(1), lambda *_: None, on_latency=on_latency)
        path = tmp_path / "gateway.db"
        return SqliteStore(path, "NORMAL", LIMITS, count(1), lambda *_: None, on_latency=on_latency)

    with Driver(build) as driver:
        driver.know([ANN])
        driver.answered(lambda done: driver.store.join("lobby", ANN, done))

        def append(now: float) -> None:
            driver.answered(lambda done: driver.store.append(Draft(ANN, None, b"1"), now, done))

        def publish(now: float) -> None:
            draft = RoomDraft("lobby", ANN, b"1")
            driver.answered(lambda done: driver.store.publish(draft, now, done))

        for now in (100.0, 100.001, 100.002, 100.02, 100.021):
            append(now)
            publish(now)
        assert [kind for kind, _ in told] == ["message", "publish", "message", "publish"]
        assert all(0 < seconds < 60 for _, seconds in told)
        append(50.0)
        assert len(told) == 4
        driver.expire(50.0)
        append(50.0)
        assert len(told) == 5
        assert driver.message_count == 12
