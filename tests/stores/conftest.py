"""The stores under test: every test that takes `new_store` or `store` runs on all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from gateway.mailbox import Retention
from gateway.stores.memory import MemoryLimits, MemoryStore

NewStore = Callable[..., MemoryStore]

LIMITS = MemoryLimits(
    mailbox=Retention(max_messages=0, max_bytes=0, retention=0),
    total_bytes=0,
    dedupe_window=100.0,
    dedupe_keys=0,
    sessions=0,
    sessions_per_player=0,
    session_lifetime=1000.0,
    token_lifetime=1000.0,
)


def new_memory_store(**limits: Any) -> MemoryStore:
    numbers = count(1)
    return MemoryStore(replace(LIMITS, **limits), "e1", lambda: f"n{next(numbers)}")


@pytest.fixture(params=[new_memory_store], ids=["memory"])
def new_store(request: pytest.FixtureRequest) -> NewStore:
    """Build an empty store with no limits but those that are given."""
    build: NewStore = request.param
    return build


@pytest.fixture
def store(new_store: NewStore) -> MemoryStore:
    """An empty store without limits."""
    return new_store()
