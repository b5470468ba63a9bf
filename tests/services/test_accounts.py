"""Accounts that come and go while the gateway runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.accounts import Accounts
from gateway.errors import StoreUnavailable
from gateway.mailbox import Draft
from gateway.messages import TrueId
from tests.services.world import World, scenario

ANN, BOB = TrueId("acc-ann"), TrueId("acc-bob")


class File:
    """The accounts, and what follows them."""

    def __init__(self, world: World, executor: ThreadPoolExecutor) -> None:
        self.present: frozenset[TrueId] = frozenset()
        self.accounts = Accounts(lambda: self.present, executor, world.store, world.revocation)

    async def check(self, *present: TrueId) -> None:
        self.present = frozenset(present)
        await self.accounts.check()


async def started(world: World, executor: ThreadPoolExecutor, *present: TrueId) -> File:
    """Return a file with these accounts; the gateway has looked at it once."""
    file = File(world, executor)
    await file.check(*present)
    return file


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=1) as executor:
        yield executor


async def status(world: World, true_id: TrueId) -> str:
    await world.store.expire(world.clock.now)
    results: list[object] = []
    draft = Draft(true_id, None, b"1")
    world.store.append(draft, world.clock.now, lambda draft, result: results.append(result))
    return type(results[0]).__name__


@scenario
async def test_all_accounts_are_known_again_to_another_store(executor: ThreadPoolExecutor) -> None:
    world = World()
    file = await started(world, executor, ANN)
    await world.store.forget([ANN])
    await file.check(ANN)
    assert await status(world, ANN) == "UnknownTarget"
    file.accounts.start_anew()
    await file.check(ANN)
    assert await status(world, ANN) == "Accepted"


@scenario
async def test_an_added_account_can_be_written_to(executor: ThreadPoolExecutor) -> None:
    world = World()
    file = await started(world, executor, ANN)
    assert (await status(world, ANN), await status(world, BOB)) == ("Accepted", "UnknownTarget")
    await file.check(ANN, BOB)
    assert await status(world, BOB) == "Accepted"


@scenario
async def test_a_removed_account_loses_its_sessions(
    executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    world = World()
    file = await started(world, executor, ANN, BOB)
    ann, bob = await world.connect(username="ann"), await world.connect(username="bob")
    for _ in range(2):
        await file.check(BOB)
    assert (ann.closed, bob.closed) == (("account_removed", False), None)
    assert (await world.refused({"token": ann.token})).code == "session_revoked"
    assert f"player {ANN} is gone" in caplog.text
    # Nobody can write to it any more.
    assert (await status(world, ANN), await status(world, BOB)) == ("UnknownTarget", "Accepted")
    await file.check(ANN, BOB)
    assert await status(world, ANN) == "Accepted"


@scenario
async def test_a_file_that_is_away_for_a_moment_ends_nothing(executor: ThreadPoolExecutor) -> None:
    world = World()
    file = await started(world, executor, ANN)
    ann = await world.connect(username="ann")
    for _ in range(3):
        await file.check()
        await file.check(ANN)
    assert ann.closed is None


@scenario
async def test_what_the_store_could_not_do_is_tried_again(executor: ThreadPoolExecutor) -> None:
    world = World()
    file = await started(world, executor, ANN)
    ann = await world.connect(username="ann")
    await file.check()
    world.store.down = True
    with pytest.raises(StoreUnavailable):
        await file.check()
    world.store.down = False
    assert ann.closed is None
    await file.check()
    assert ann.closed == ("account_removed", False)
