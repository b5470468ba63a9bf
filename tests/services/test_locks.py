"""Locks by key: one at a time for each, and nothing left behind."""

from __future__ import annotations

import asyncio

import pytest

from gateway.locks import KeyedLocks
from tests.services.world import scenario, settled


async def hold(locks: KeyedLocks, key: str, seen: list[str], leave: asyncio.Event) -> None:
    async with locks.hold(key):
        seen.append(key)
        await leave.wait()


@scenario
async def test_a_key_is_held_by_one_at_a_time_and_others_do_not_wait() -> None:
    locks, seen = KeyedLocks(), list[str]()
    leave = [asyncio.Event() for _ in range(3)]
    tasks = [
        asyncio.create_task(hold(locks, key, seen, event))
        for key, event in zip(("a", "a", "b"), leave, strict=True)
    ]
    await settled()
    assert seen == ["a", "b"]
    assert len(locks) == 2
    leave[0].set()
    await settled()
    assert seen == ["a", "b", "a"]
    for event in leave:
        event.set()
    await asyncio.gather(*tasks)
    assert len(locks) == 0


@scenario
async def test_whoever_gives_up_waiting_leaves_nothing_behind() -> None:
    locks, seen, leave = KeyedLocks(), list[str](), asyncio.Event()
    holder, waiter = [asyncio.create_task(hold(locks, "a", seen, leave)) for _ in range(2)]
    await settled()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    leave.set()
    await holder
    assert (seen, len(locks)) == (["a"], 0)
