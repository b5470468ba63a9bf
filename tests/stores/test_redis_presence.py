"""What the store makes of what several nodes say of players, and whom it tells."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from gateway.errors import RequestRefused
from gateway.messages import SessionId, TrueId
from gateway.presence_store import Change, Entry, Found, Tab
from gateway.stores.redis import bus
from gateway.stores.redis.scripts import Script
from tests.redis_servers import RedisServer
from tests.stores.conftest import NewStore, RedisDriver
from tests.stores.presence_nodes import ANN, BOB, GRACE, Backing, Group, Node, nodes_of
from tests.stores.test_store import session
from tests.waiting import run, until


class Nodes:
    """Nodes on one Redis, open in `async with`."""

    def __init__(
        self,
        url: str,
        *names: str,
        partitions: int = 2,
        grace: float = GRACE,
        webhooks: bool = False,
    ) -> None:
        self.group = Group(*names, partitions=partitions)
        self.clock = self.group.clock
        self._backings = [Backing(url, name, self.group, grace, webhooks) for name in names]
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> list[Node]:
        return await self._stack.enter_async_context(nodes_of(self.group, self._backings))

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


async def heard(node: Node, *told: tuple[TrueId, str, int]) -> None:
    """Wait until the node was told exactly this."""
    await until(lambda: len(node.told) >= len(told))
    assert node.told == list(told)


def test_a_player_is_what_all_nodes_say_together(redis_url: str) -> None:
    async def scenario() -> None:
        group = Nodes(redis_url, "a", "b")
        async with group as (a, b):
            assert await b.seen(ANN) == ("offline", 0, None)
            came = group.clock.now
            await a.say(ANN, "s1 hidden")
            assert await b.seen(ANN) == ("hidden", 1, came)
            group.clock.now += 1
            await b.say(ANN, "s2", "s3 hidden")
            assert await a.seen(ANN) == ("active", 3, came + 1)
            group.clock.now += 1
            await b.say(ANN, "s2 hidden")
            assert await a.seen(ANN) == ("hidden", 2, came + 2)
            group.clock.now += 1
            await a.say(ANN, at=came + 2.5)
            assert await a.seen(ANN) == ("hidden", 1, came + 2)
            await b.say(ANN, at=came + 2.75)
            assert await a.seen(ANN) == ("away", 0, came + 2.75)

    run(scenario())


def test_the_newest_name_and_status_count(redis_url: str) -> None:
    async def scenario() -> None:
        group = Nodes(redis_url, "a", "b")
        async with group as (a, b):
            await a.say(ANN, "s1", name="Ann", status="playing")
            group.clock.now += 1
            found = await b.say(ANN, "s2", name="Anna")
            assert found.seen is not None
            assert (found.seen.name, found.seen.status) == ("Anna", "playing")
            await a.say(ANN)
            group.clock.now += 1
            await b.say(ANN)
            # Who is back within the grace has it still.
            found = await a.say(ANN, "s1", name="Anna")
            assert found.seen is not None
            assert (found.seen.state, found.seen.status) == ("active", "playing")

    run(scenario())


def test_a_session_that_moves_is_one_tab_all_the_time(redis_url: str) -> None:
    async def scenario() -> None:
        async with Nodes(redis_url, "a", "b", "c") as (a, b, c):
            await a.say(ANN, "s1")
            await c.watch(ANN)
            await b.say(ANN, "s1 new")
            assert await c.seen(ANN) == ("active", 1, a.clock.now)
            # What the first node says late, of a tab that it does not know to be lost.
            await a.say(ANN, "s1 lost", "s2 hidden")
            await a.say(ANN, "s2 hidden")
            await a.say(ANN)
            await heard(c, (ANN, "active", 2), (ANN, "active", 1))

    run(scenario())


@pytest.mark.parametrize("said", ["hidden", "active"])
def test_a_hidden_tab_that_moves_is_hidden_until_its_page_says_otherwise(
    redis_url: str, said: str
) -> None:
    async def scenario() -> None:
        async with Nodes(redis_url, "a", "b", "c") as (a, b, c):
            await a.say(ANN, "s1 hidden")
            await c.watch(ANN)
            found = await b.say(ANN, "s1 new")
            assert found.adopted == ["s1"]
            assert await c.seen(ANN) == ("hidden", 1, a.clock.now)
            # It has not heard of that when it writes again.
            assert (await b.say(ANN, "s1 new")).adopted == ["s1"]
            await a.say(ANN)
            await b.say(ANN, f"s1 {said}")
            assert await c.seen(ANN) == (said, 1, a.clock.now)
            await c.backing.settled()
            assert c.told == ([] if said == "hidden" else [(ANN, "active", 1)])

    run(scenario())


def test_the_node_that_has_a_sessions_connection_has_the_tab(
    redis_url: str, redis_server: RedisServer
) -> None:
    async def scenario() -> None:
        async with Nodes(redis_url, "a", "b", partitions=1) as (a, b):
            prefix = a.redis.prefix(0).decode()
            redis_server.ask("HSET", f"{prefix}s:ann", "s1", '{"node":"b"}')
            await b.say(ANN, "s1 hidden")
            await a.say(ANN, "s1", "s2 hidden")
            assert await a.seen(ANN) == ("hidden", 2, a.clock.now)
            redis_server.ask("HSET", f"{prefix}s:ann", "s1", '{"node":"a"}')
            await a.say(ANN, "s1", "s2 hidden")
            assert await a.seen(ANN) == ("active", 2, a.clock.now)
            await b.say(ANN, "s1 hidden")
            assert await a.seen(ANN) == ("active", 2, a.clock.now)

    run(scenario())


def test_watchers_on_other_nodes_are_told_what_changes_and_nothing_else(redis_url: str) -> None:
    async def scenario() -> None:
        async with Nodes(redis_url, "a", "b") as (a, b):
            assert (await b.watch(ANN, BOB))[ANN].seen is None
            await a.say(ANN, "s1")
            await a.say(ANN, "s1")
            await a.say(BOB, "s1", name="Bob")
            await b.say(ANN, "s2 hidden")
            await a.say(ANN, left=True)
            await b.say(ANN, left=True)
            await heard(b, (ANN, "active", 1), (BOB, "active", 1), (ANN, "hidden", 1))
            b.presence.unwatch([ANN])
            await a.say(ANN, "s1")
            await a.say(BOB, name="Bob", left=True)
            await until(lambda: len(b.told) > 3)
            assert b.told[3:] == [(BOB, "offline", 0)]
            assert a.told == []

    run(scenario())


def test_a_node_that_listens_no_more_is_told_no_more(
    redis_url: str, redis_server: RedisServer
) -> None:
    async def scenario() -> None:
        async with Nodes(redis_url, "a", "b", partitions=1) as (a, b):
            await b.watch(ANN, BOB)
            watchers = a.redis.prefix(0).decode() + "w:ann"
            channel = a.redis.prefix(0).decode() + "n:b"
            assert redis_server.ask("PUBSUB", "SHARDCHANNELS", channel) != []
            await b.redis.close()
            await until(lambda: redis_server.ask("PUBSUB", "SHARDCHANNELS", channel) == [])
            assert redis_server.ask("SCARD", watchers) == 1
            await a.say(ANN, "s1")
            assert redis_server.ask("SCARD", watchers) == 0

    run(scenario())


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [b"ann"],
        [b"ann", b"1", b"x", b"0"],
        [b"ann", b"x", b"", b"0"],
        [b"\xff", b"1", b"", b"0"],
    ],
)
def test_what_no_node_would_tell_is_an_error(redis_url: str, fields: list[bytes]) -> None:
    async def scenario() -> None:
        async with Nodes(redis_url, "a") as (a,):
            with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
                a.presence.on_told(bus.PRESENCE, 0, fields)
            assert a.told == []

    run(scenario())


def test_who_is_away_is_gone_after_the_grace_and_not_sooner(redis_url: str) -> None:
    async def scenario() -> None:
        group = Nodes(redis_url, "a", "b")
        async with group as (a, b):
            lost = group.clock.now
            await a.say(ANN, "s1")
            await b.watch(ANN)
            await a.say(ANN, at=lost)
            group.clock.now = lost + GRACE - 0.1
            await a.sweep()
            assert await a.seen(ANN) == ("away", 0, lost)
            group.clock.now = lost + GRACE
            await b.sweep()
            assert (a.gone, b.gone) == ([], [])
            await a.sweep()
            assert await a.seen(ANN) == ("offline", 0, None)
            await heard(b, (ANN, "away", 0), (ANN, "offline", 0))
            # Told again until the memberships have ended.
            await a.sweep()
            assert (a.gone, b.gone) == ([ANN, ANN], [])
            a.presence.ended(ANN)
            await a.backing.settled()
            await a.sweep()
            assert a.gone == [ANN, ANN]

    run(scenario())


def test_who_is_back_in_time_is_not_gone(redis_url: str) -> None:
    async def scenario() -> None:
        group = Nodes(redis_url, "a", "b")
        async with group as (a, b):
            await a.say(ANN, "s1")
            await a.say(ANN)
            group.clock.now += GRACE - 1
            await b.say(ANN, "s1")
            group.clock.now += GRACE
            await a.sweep()
            assert (await a.seen(ANN))[0] == "active"
            assert a.gone == []

    run(scenario())


def test_who_leaves_the_last_node_is_offline_at_once(redis_url: str) -> None:
    async def scenario() -> None:
        async with Nodes(redis_url, "a", "b") as (a, b):
            await a.say(ANN, "s1")
            await b.say(ANN, "s2")
            await b.say(ANN, left=True)
            assert await a.seen(ANN) == ("active", 1, a.clock.now)
            await a.say(ANN, left=True)
            assert await a.seen(ANN) == ("offline", 0, None)
            await a.sweep()
            assert a.gone == [ANN]

    run(scenario())


@pytest.mark.parametrize("left_behind", [False, True])
def test_who_has_a_connection_at_another_node_has_not_left_and_is_not_gone(
    redis_url: str, redis_server: RedisServer, left_behind: bool
) -> None:
    async def scenario() -> None:
        group = Nodes(redis_url, "a", "b", partitions=1)
        async with group as (a, _):
            await a.say(ANN, "s1")
            # Its session is at the other node, which has not said so yet.
            routes = a.redis.prefix(0).decode() + "r:ann"
            redis_server.ask("HSET", routes, "b", 1)
            await a.say(ANN, left=True)
            assert (await a.seen(ANN))[0] == "away"
            group.clock.now += GRACE
            await a.sweep()
            assert (await a.seen(ANN))[0] == "away"
            group.clock.now += 31.0 if left_behind else 0.0
            group.group.live -= set() if left_behind else {"b"}
            group.clock.now += 1
            await a.sweep()
            assert (await a.seen(ANN))[0] == "offline"
            assert a.gone == [ANN]

    run(scenario())


def test_who_came_and_went_before_it_was_written_is_gone_all_the_same(redis_url: str) -> None:
    async def scenario() -> None:
        group = Nodes(redis_url, "a", "b", webhooks=True)
        async with group as (a, b):
            await b.watch(ANN, BOB)
            await a.say(ANN, left=True)
            await a.say(BOB)
            await a.sweep()
            assert a.gone == [ANN]
            group.clock.now += GRACE
            a.gone.clear()
            a.presence.ended(ANN)
            await a.backing.settled()
            await a.sweep()
            assert a.gone == [BOB]
            # Nobody was told that they were here.
            assert b.told == []
            assert a.backing.webhooks == 0

    run(scenario())


def test_members_who_are_nowhere_are_gone_after_the_grace(redis_url: str) -> None:
    async def scenario() -> None:
        group = Nodes(redis_url, "a", "b")
        async with group as (a, b):
            await a.say(ANN, "s1")
            await b.expect(ANN, BOB)
            group.clock.now += GRACE - 1
            await b.expect(BOB)
            await a.sweep()
            assert a.gone == []
            group.clock.now += 1
            await a.sweep()
            assert a.gone == [BOB]
            assert (await a.seen(ANN))[0] == "active"

    run(scenario())


def test_the_players_of_a_node_that_died_are_away_then_gone(
    redis_url: str, redis_server: RedisServer
) -> None:
    async def scenario() -> None:
        group = Nodes(redis_url, "a", "b", "c")
        async with group as (a, b, c):
            await b.watch(BOB)
            await b.say(ANN, "s1")
            await c.say(BOB, "s1", name="Bob")
            await b.say(BOB, "s2", name="Bob")
            await c.watch(ANN, BOB)
            group.group.dies(b.name)
            await a.sweep()
            # It may be younger than the list: the next list says whether it is there.
            assert (await a.seen(ANN))[0] == "active"
            group.group.is_listed()
            died = group.clock.now
            await a.sweep()
            assert await a.seen(ANN) == ("away", 0, died)
            assert await a.seen(BOB) == ("active", 1, died)
            await until(lambda: len(c.told) == 2)
            assert sorted(c.told) == [(ANN, "away", 0), (BOB, "active", 1)]
            group.clock.now += GRACE
            await a.sweep()
            assert a.gone == [ANN]
            for partition in range(2):
                prefix = a.redis.prefix(partition).decode()
                left = redis_server.ask("KEYS", f"{prefix}*n:b")
                assert left == []
                assert redis_server.ask("SISMEMBER", f"{prefix}pn", "b") == 0
            # Then it is not spoken of any more.
            await a.sweep()
            await a.sweep()
            assert a.presence._missing == {}

    run(scenario())


def test_a_node_that_was_taken_for_dead_hears_of_it(redis_url: str) -> None:
    async def scenario() -> None:
        group = Nodes(redis_url, "a", "b")
        async with group as (a, b):
            await b.say(ANN, "s1")
            group.group.dies(b.name)
            await a.sweep()
            group.group.is_listed()
            await a.sweep()
            await until(lambda: b.dropped == [ANN])
            await b.say(ANN, "s1")
            assert (await a.seen(ANN))[0] == "active"

    run(scenario())


def test_a_node_that_is_not_in_the_list_yet_is_not_taken_for_dead(redis_url: str) -> None:
    async def scenario() -> None:
        group = Nodes(redis_url, "a", "b")
        async with group as (a, b):
            group.group.live = frozenset({"a"})
            await b.say(ANN, "s1")
            for _ in range(3):
                await a.sweep()
            group.group.live = frozenset({"a", "b"})
            group.group.is_listed()
            for _ in range(3):
                await a.sweep()
            assert await a.seen(ANN) == ("active", 1, group.clock.now)

    run(scenario())


def test_pages_have_all_players_once_and_how_many_are_here(redis_url: str) -> None:
    async def scenario() -> None:
        async with Nodes(redis_url, "a", "b", partitions=16) as nodes:
            players = [TrueId(f"p{number}") for number in range(50)]
            for number, true_id in enumerate(players):
                await nodes[number % 2].say(true_id, "s1")
            await nodes[0].say(players[0])
            await nodes[0].say(players[2], left=True)
            expected = sorted(set(players) - {players[2]})
            await nodes[1].totals.look()
            assert nodes[1].presence.online == 48
            for limit in (1, 7, 49, 200):
                found: list[TrueId] = []
                cursor, pages = None, 0
                while True:
                    page, cursor = await nodes[1].page(limit, cursor)
                    found += [true_id for true_id, _ in page]
                    pages += 1
                    assert len(page) <= limit
                    if cursor is None:
                        break
                assert sorted(found) == expected
                assert pages == -(-49 // limit)

    run(scenario())


def test_a_page_asks_only_partitions_that_may_have_players(redis_url: str) -> None:
    async def scenario() -> None:
        async with Nodes(redis_url, "a", "b", partitions=64) as (a, b):
            asked: list[int] = []
            call = b.backing.partitions.call

            def counted(partition: int, script: Script, args: Any, done: Any) -> None:
                if script.name == "presence_page":
                    asked.append(partition)
                call(partition, script, args, done)

            b.backing.partitions.call = counted  # type: ignore[method-assign]
            assert await b.page(10) == ([], None)
            assert asked == [0]
            await a.say(ANN, "s1")
            await b.totals.look()
            # Its own players are there without a look.
            await b.say(BOB, "s1", name="Bob")
            asked.clear()
            page, cursor = await b.page(10)
            assert sorted(each for each, _ in page) == [ANN, BOB]
            assert cursor is None
            assert len(asked) <= 3

    run(scenario())


@pytest.mark.parametrize("cursor", ["x", "1", "1.", ".1", "-1.0", "16.0", "1.1.1", "٣.1"])
def test_a_cursor_of_somebody_else_is_refused(redis_url: str, cursor: str) -> None:
    async def scenario() -> None:
        async with Nodes(redis_url, "a", partitions=16) as (a,):
            with pytest.raises(RequestRefused, match="cursor"):
                await a.page(10, cursor)

    run(scenario())


def test_coming_and_going_is_reported_once_whatever_the_nodes(
    redis_url: str, redis_server: RedisServer
) -> None:
    async def scenario() -> None:
        group = Nodes(redis_url, "a", "b", partitions=1, webhooks=True)
        async with group as (a, b):
            outbox = a.redis.prefix(0).decode() + "o"

            def reported() -> list[bytes]:
                entries = redis_server.ask("XRANGE", outbox, "-", "+")
                return [entry[1][b"kind"] for entry in entries]

            await a.say(ANN, "s1")
            await b.say(ANN, "s1 new")
            await a.say(ANN)
            await b.say(ANN)
            group.clock.now += GRACE - 1
            await a.say(ANN, "s1 new")
            assert reported() == [b"player.online"]
            await a.say(ANN)
            group.clock.now += GRACE
            for _ in range(2):
                await a.sweep()
            assert reported() == [b"player.online", b"player.offline"]
            await b.say(ANN, "s1")
            await b.say(ANN, left=True)
            assert [each.decode()[7:] for each in reported()] == ["online", "offline"] * 2
            assert (a.backing.webhooks, b.backing.webhooks) == (2, 2)

    run(scenario())


def test_who_was_reported_online_by_nodes_that_are_gone_for_long_is_reported_offline(
    redis_url: str, redis_server: RedisServer
) -> None:
    async def scenario() -> None:
        group = Nodes(redis_url, "a", partitions=1, webhooks=True)
        async with group as (a,):
            prefix = a.redis.prefix(0).decode()
            redis_server.ask("SADD", f"{prefix}here", "ann")
            await a.sweep()
            group.clock.now += GRACE
            await a.sweep()
            assert redis_server.ask("EXISTS", f"{prefix}here") == 0
            assert redis_server.ask("XLEN", f"{prefix}o") == 1

    run(scenario())


class GoneOnly:
    """A PresenceListener that notes who is gone."""

    def __init__(self) -> None:
        self.gone: list[TrueId] = []

    def on_seen(self, true_id: TrueId, found: Found, at: float) -> None:
        raise AssertionError("nobody is watched")

    def on_dropped(self, true_id: TrueId) -> None:
        raise AssertionError("no node died")

    def on_restored(self, concerns: Callable[[TrueId], bool], *, complete: bool) -> None:
        raise AssertionError("nothing was lost")

    def on_gone(self, true_id: TrueId) -> None:
        self.gone.append(true_id)


def test_who_is_gone_is_not_who_may_be_forgotten(nodes: NewStore) -> None:
    store = nodes()
    assert isinstance(store, RedisDriver)
    presence, listener = store.store.presence, GoneOnly()
    presence.attach(listener)

    def say(entry: Entry | None, *, left: bool) -> None:
        change = Change(ANN, entry, 1.0, left)
        store.answered(lambda done: presence.write([change], lambda _, found: done(found)))

    def sweep() -> None:
        presence.sweep()
        store.check()

    # One of two sessions ends: the player is here all the same.
    store.add_session(session(1, connected=True))
    store.add_session(session(2))
    say(Entry("Ann", 1.0, None, 0.0, [Tab(SessionId("s1"), "active", True)]), left=False)
    store.revoke_session(SessionId("s2"), 1.0)
    sweep()
    assert listener.gone == []
    # Until their memberships have ended they are told of, also when others have expired.
    say(None, left=True)
    store.expire(2.0)
    sweep()
    assert listener.gone == [ANN]

    async def end() -> None:
        presence.ended(ANN)

    store.run(end())
    sweep()
    sweep()
    assert listener.gone == [ANN]
