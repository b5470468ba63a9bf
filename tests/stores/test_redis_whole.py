"""Two whole stores, put together as for two gateways, on one server and on a Cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count

import pytest

from gateway.messages import ConnectionId, SessionId, TrueId
from gateway.outbox import OutboxLimits
from gateway.session import Session
from gateway.store import Ban
from gateway.store_url import parse_redis_url
from gateway.stores import nonces
from gateway.stores.redis.building import build_redis_store
from gateway.stores.redis.store import RedisStore
from tests.redis_servers import RedisServers
from tests.stores.conftest import LIMITS
from tests.stores.test_redis_nodes import Players
from tests.waiting import run, until

PLAYERS = [TrueId(f"p{number}") for number in range(30)]
_ids = count(1)


@pytest.fixture(params=["one", "cluster"])
def url(request: pytest.FixtureRequest, redis_servers: RedisServers) -> str:
    if request.param == "one":
        return redis_servers.start().url
    return f"{redis_servers.cluster()[0].url}?cluster=1"


@asynccontextmanager
async def two(url: str) -> AsyncIterator[tuple[list[RedisStore], list[Players]]]:
    """Two stores that are open and share the partitions, and who is told what nodes say."""
    limits = replace(LIMITS, outbox=OutboxLimits(enabled=True))
    stores, players = [], []
    for _ in range(2):
        store = build_redis_store(
            parse_redis_url(url),
            limits,
            nonces(),
            lambda reason, number: None,
            lambda concerns: None,
            lambda added, given_up: None,
            lambda kind, seconds: None,
            node_lease=5.0,
            presence_grace=1.0,
            heard=None,
            on_webhooks_lost=lambda numbers: None,
        )
        stores.append(store)
        players.append(Players())
        store.nodes.attach(players[-1])
        await store.open()
    try:
        await until(lambda: len(stores[0]._outbox.partitions) < 200)
        await until(lambda: sum(len(each._outbox.partitions) for each in stores) == 256)
        yield stores, players
    finally:
        for store in stores:
            if store._open:
                await store.close()


def opened(true_id: TrueId) -> Session:
    return Session(
        SessionId(f"{true_id}-s"),
        true_id,
        "Name",
        "guest",
        "pid",
        1.0,
        0,
        0,
        connection_id=ConnectionId(next(_ids)),
    )


async def take_over(store: RedisStore, subject: Session) -> Session:
    found = await store.session(subject.id, subject.true_id)
    assert found is not None
    assert found.elsewhere
    found.connection_id = ConnectionId(next(_ids))
    assert await store.update_session(found)
    store.save_session(found)
    return found


def test_sessions_move_and_end_wherever_they_are(url: str) -> None:
    async def scenario() -> None:
        async with two(url) as (stores, players):
            first, second = stores
            before = [opened(each) for each in PLAYERS]
            for each in before:
                await first.add_session(each)
            after = [await take_over(second, each) for each in before]
            told = players[0].told
            await until(lambda: len(told) == len(PLAYERS))
            # Several servers tell in an order of their own.
            assert {*told} == {("fenced", each.true_id, each.id, each.version) for each in after}
            for each in after[:3]:
                await first.revoke_session(each.id, each.true_id, 2.0, "kicked")
                await first.set_ban(PLAYERS[5], Ban(None, ""))
            ended = [("ended", each.true_id, each.id, "kicked") for each in after[:3]]
            banned = ("ended", PLAYERS[5], None, "banned")
            await until(lambda: {*ended, banned} <= {*players[1].told})
            lost = await second.renew_sessions(range(256))
            assert {each.true_id for each in lost} == {*PLAYERS[:3], PLAYERS[5]}
            assert [await first.is_revoked(each.id, each.true_id, 9.0) for each in after[2:4]] == [
                True,
                False,
            ]

    run(scenario())


def test_webhooks_are_shared_and_left_to_the_other(url: str) -> None:
    async def scenario() -> None:
        async with two(url) as (stores, _):
            first, second = stores
            for number, true_id in enumerate(PLAYERS):
                await stores[number % 2].add_session(opened(true_id))
            found = [await each.webhooks(0, 1000) for each in stores]
            seen = [{webhook.event.true_id for webhook in each} for each in found]
            assert (seen[0] | seen[1], seen[0] & seen[1]) == ({*PLAYERS}, set())
            assert all(seen)
            # What any of them writes from now on is told to the one that sends it.
            for store in stores:
                for true_id in PLAYERS[:15]:
                    session_id = SessionId(f"{true_id}-s")
                    await store.revoke_session(session_id, true_id, 2.0)

            def unread() -> int:
                return sum(len(each._outbox._unread) for each in stores)

            assert unread() <= 15
            await until(lambda: unread() == len({first._partitions.of(p) for p in PLAYERS[:15]}))
            news = [
                await store.webhooks(each[-1].seq, 1000)
                for store, each in zip(stores, found, strict=True)
            ]
            assert sorted(w.event.true_id for each in news for w in each) == sorted(PLAYERS[:15])
            await second.remove_webhooks([each.seq for each in found[1]])
            await first.close()
            await until(lambda: len(second._outbox.partitions) == 256)
            left = await second.webhooks(0, 1000)
            ids = {each.id for each in (*found[0], *news[0], *news[1])}
            assert {each.id for each in left} == ids

    run(scenario())
