"""Messages to rooms while servers of Redis die, come back and are replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateway.membership import Memberships
from gateway.store import Published
from tests.redis_servers import RedisServer, RedisServers
from tests.stores.publishers import PLAYERS, ROOM, World, agree, settle, world
from tests.stores.test_redis_topology import cluster_url, sentinel_url
from tests.waiting import run, until

#: How many messages each player sends.
MESSAGES = 30


async def play(
    subject: World, break_it: Callable[[Callable[[], int]], Awaitable[None]]
) -> list[list[bytes]]:
    """Let all players publish at once until all is acknowledged, while something breaks.

    `break_it` gets a function that tells how many messages are acknowledged. Returns what each
    player has in the end.
    """
    for true_id in PLAYERS:
        await subject.nodes[0].join(true_id)
    await agree(subject)
    acknowledged: list[bytes] = []

    async def publish(place: int) -> None:
        node = subject.nodes[place % len(subject.nodes)]
        for number in range(MESSAGES):
            body = b"%d.%d" % (place, number)
            sender, key = PLAYERS[place], body.decode()
            while not isinstance(await node.publish(body, sender=sender, key=key), Published):  # noqa: ASYNC110 - it tries again
                await asyncio.sleep(0.05)
            acknowledged.append(body)

    await asyncio.gather(
        break_it(lambda: len(acknowledged)), *(publish(place) for place in range(len(PLAYERS)))
    )
    await settle(subject)
    boxes = await subject.nodes[0].read_all()
    assert len(acknowledged) == MESSAGES * len(PLAYERS)
    for box in boxes:
        assert set(acknowledged) <= set(box)
    return boxes


def assert_whole(boxes: list[list[bytes]]) -> None:
    """All have the same, each message once."""
    for box in boxes:
        assert box == boxes[0]
        assert len(set(box)) == len(box) == MESSAGES * len(PLAYERS)


def test_a_server_that_dies_and_comes_back_with_its_data_loses_and_doubles_nothing(
    redis_servers: RedisServers,
) -> None:
    server = redis_servers.start(appendonly="always")

    async def scenario() -> None:
        async with world(server, 3) as subject:

            async def break_it(done: Callable[[], int]) -> None:
                for count in (100, 200):
                    await until(lambda count=count: done() >= count)  # type: ignore[misc]
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)

            assert_whole(await play(subject, break_it))
            assert len(subject.nodes[2].store.memberships.members_of(ROOM)) == len(PLAYERS)

    run(scenario())


def test_a_failover_to_a_replica_that_has_consented_loses_and_doubles_nothing(
    redis_servers: RedisServers,
) -> None:
    master = redis_servers.start()
    replicas = [redis_servers.replica(master) for _ in range(2)]
    sentinels = redis_servers.sentinels(master, "games")

    def masters() -> list[RedisServer]:
        return [each for each in replicas if each.ask("ROLE")[0] == b"master"]

    async def scenario() -> None:
        url = f"{sentinel_url(sentinels)}?wait=1&wait_timeout=2"
        async with world(master, 3, url) as subject:

            async def break_it(done: Callable[[], int]) -> None:
                await until(lambda: done() >= 100)
                master.kill()
                await until(masters)
                subject.servers[:] = masters()

            assert_whole(await play(subject, break_it))
            await agree(subject)

    run(scenario())


def test_the_masters_of_a_cluster_share_the_members_of_a_room(
    redis_servers: RedisServers,
) -> None:
    nodes = redis_servers.cluster()

    async def scenario() -> None:
        owners = (nodes[1], nodes[2])
        async with world(nodes[0], 3, cluster_url(nodes), owners) as subject:

            async def break_it(done: Callable[[], int]) -> None:
                await until(lambda: done() >= 100)
                # The others wait for what it does not take.
                with nodes[1].paused():
                    await asyncio.sleep(0.5)

            assert_whole(await play(subject, break_it))

    run(scenario())


def test_a_server_that_has_lost_its_data_is_empty_for_all_nodes(
    redis_servers: RedisServers,
) -> None:
    server = redis_servers.start()

    async def scenario() -> None:
        async with world(server, 2) as subject:
            for true_id in PLAYERS:
                await subject.nodes[0].join(true_id)
            await agree(subject)
            before = subject.nodes[1].store.memberships
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)

            def memberships() -> list[Memberships]:
                return [each.store.memberships for each in subject.nodes]

            await until(lambda: [each.count for each in memberships()] == [0, 0])
            assert subject.nodes[1].store.memberships is before
            assert [each.believed for each in subject.nodes] == [set(), set()]
            await subject.nodes[1].join(PLAYERS[0])
            await until(lambda: [each.count for each in memberships()] == [1, 1])

    run(scenario())
