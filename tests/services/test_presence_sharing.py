"""Presence services of several nodes on one Redis: what watchers are told, wherever they are."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import RequestRefused
from gateway.messages import ListPlayers, TrueId
from tests.redis_servers import RedisServer, RedisServers
from tests.services.presence_scene import SETTLE, Scene
from tests.stores.presence_nodes import ANN, BOB, GRACE
from tests.waiting import run, until


def test_watchers_at_another_node_hear_who_comes_hides_and_goes(redis_url: str) -> None:
    async def scenario() -> None:
        async with Scene(redis_url) as scene:
            a, b = scene.nodes
            eve = b.connect(1, TrueId("eve"), "e")
            known = await scene.watch(b, eve, ANN)
            assert known[ANN] == {
                "true_id": ANN, "state": "offline", "connections": 0, "since": None,
            }  # fmt: skip
            ann = a.connect(1, ANN, "s1", "Ann")
            came = scene.group.clock.now
            await scene.pass_by()
            a.say(ann, "hidden", "afk")
            await scene.pass_by()
            a.lose(ann)
            await scene.pass_by(SETTLE + 1)
            scene.group.clock.now += GRACE
            a.backing.presence.sweep()
            await scene.pass_by()
            assert eve.told() == [("active", 1), ("hidden", 1), ("away", 0), ("offline", 0)]
            assert eve.heard[0]["since"] == came
            assert (eve.heard[1]["name"], eve.heard[1]["status"]) == ("Ann", "afk")
            assert a.gone == [ANN]
            assert b.gone == []

    run(scenario())


@pytest.mark.parametrize("hidden", [False, True])
def test_nobody_sees_a_player_move_to_another_node(redis_url: str, hidden: bool) -> None:
    async def scenario() -> None:
        async with Scene(redis_url) as scene:
            a, b = scene.nodes
            eve = a.connect(1, TrueId("eve"), "e")
            ann = a.connect(2, ANN, "s1")
            if hidden:
                a.say(ann, "hidden")
            await scene.pass_by()
            await scene.watch(a, eve, ANN)
            for number in range(3, 7):
                here, there = (a, b) if number % 2 else (b, a)
                here.lose(ann)
                await scene.pass_by(SETTLE / 4)
                ann = there.connect(number, ANN, "s1")
                await scene.pass_by(SETTLE / 4)
                if hidden:
                    there.say(ann, "hidden")
            await scene.pass_by(SETTLE * 2)
            assert eve.told() == []
            known = await scene.watch(b, b.connect(9, BOB, "b"), ANN)
            assert known[ANN]["state"] == ("hidden" if hidden else "active")
            assert known[ANN]["connections"] == 1

    run(scenario())


def test_a_hidden_page_that_says_nothing_at_its_new_node_is_active_after_a_time(
    redis_url: str,
) -> None:
    async def scenario() -> None:
        async with Scene(redis_url) as scene:
            a, b = scene.nodes
            eve = a.connect(1, TrueId("eve"), "e")
            ann = a.connect(2, ANN, "s1")
            a.say(ann, "hidden")
            await scene.pass_by()
            await scene.watch(a, eve, ANN)
            a.lose(ann)
            b.connect(3, ANN, "s1")
            await scene.pass_by(SETTLE / 2)
            assert eve.told() == []
            await scene.pass_by(SETTLE)
            assert eve.told() == [("active", 1)]

    run(scenario())


def test_a_hidden_page_that_is_active_at_once_at_its_new_node_is_active(redis_url: str) -> None:
    async def scenario() -> None:
        async with Scene(redis_url) as scene:
            a, b = scene.nodes
            eve = a.connect(1, TrueId("eve"), "e")
            ann = a.connect(2, ANN, "s1")
            a.say(ann, "hidden")
            await scene.pass_by()
            await scene.watch(a, eve, ANN)
            a.lose(ann)
            ann = b.connect(3, ANN, "s1")
            # What the node says is under way.
            scene.monotonic.now += 0.1
            scene.timers.run()
            b.say(ann, "active")
            await scene.pass_by(SETTLE / 2)
            assert eve.told() == [("active", 1)]

    run(scenario())


def test_tabs_at_several_nodes_are_one_player(redis_url: str) -> None:
    async def scenario() -> None:
        async with Scene(redis_url) as scene:
            a, b = scene.nodes
            eve = a.connect(1, TrueId("eve"), "e")
            await scene.watch(a, eve, ANN)
            first, second = a.connect(2, ANN, "s1"), b.connect(2, ANN, "s2")
            await scene.pass_by()
            a.say(first, "hidden")
            await scene.pass_by(1.0)
            assert eve.told()[-1] == ("active", 2)
            b.say(second, "hidden")
            await scene.pass_by(1.0)
            assert eve.told()[-1] == ("hidden", 2)
            a.lose(first, left=True)
            await scene.pass_by(1.0)
            assert eve.told()[-1] == ("hidden", 1)
            b.lose(second, left=True)
            await scene.pass_by(1.0)
            assert eve.told()[-1] == ("offline", 0)

    run(scenario())


def test_a_change_while_the_answer_is_under_way_is_in_it_or_told_after_it(redis_url: str) -> None:
    async def scenario() -> None:
        async with Scene(redis_url) as scene:
            a, b = scene.nodes
            for number in range(20):
                player = TrueId(f"p{number}")
                ann = a.connect(number, player, "s1")
                await scene.pass_by()
                eve = b.connect(100 + number, TrueId(f"eve{number}"), "e")
                a.say(ann, "active", "busy")
                scene.monotonic.now += 1.0
                scene.timers.run()
                answers = b.ask_to_watch(eve, player)
                await until(lambda answers=answers: answers)
                assert eve.heard == []
                await scene.pass_by(0.5)
                known = answers[0][player].get("status")
                told = [each["status"] for each in eve.heard]
                assert [known, *told] in (["busy"], [None, "busy"])

    run(scenario())


def test_who_watches_no_more_is_told_no_more_and_neither_is_the_node(
    redis_url: str, redis_server: RedisServer
) -> None:
    async def scenario() -> None:
        async with Scene(redis_url, partitions=1) as scene:
            _, b = scene.nodes
            eve, zoe = b.connect(1, TrueId("eve"), "e"), b.connect(2, TrueId("zoe"), "z")
            await scene.watch(b, eve, ANN, BOB)
            # The second one is answered at once: the node knows.
            assert b.ask_to_watch(zoe, ANN)[0][ANN]["state"] == "offline"
            b.service.unwatch(eve, [ANN])
            b.lose(zoe)
            # Before the answer, and with the connection gone before it.
            b.ask_to_watch(eve, TrueId("c"))
            b.service.unwatch(eve, [TrueId("c")])
            mia = b.connect(3, TrueId("mia"), "m")
            late = b.ask_to_watch(mia, TrueId("d"))
            b.lose(mia)
            await until(lambda: late)
            await scene.pass_by(1.0)
            prefix = b.backing.redis.prefix(0)
            assert redis_server.ask("KEYS", prefix + b"w:*") == [prefix + b"w:bob"]
            assert b.service.watched_by(eve) == {BOB}

    run(scenario())


def test_watching_is_bounded_also_while_it_is_asked(redis_url: str) -> None:
    async def scenario() -> None:
        async with Scene(redis_url) as scene:
            _, b = scene.nodes
            eve = b.connect(1, TrueId("eve"), "e")
            b.ask_to_watch(eve, ANN, BOB)
            with pytest.raises(RequestRefused, match="3 at most"):
                b.ask_to_watch(eve, TrueId("c"), TrueId("d"))

    run(scenario())


def test_the_list_has_players_of_all_nodes(redis_url: str) -> None:
    async def scenario() -> None:
        async with Scene(redis_url) as scene:
            _, b = scene.nodes
            for number in range(10):
                node = scene.nodes[number % 2]
                node.connect(number, TrueId(f"p{number}"), "s", f"Player {number}")
            await scene.pass_by()
            pages: list[Any] = []
            cursor = None
            found = {}
            while True:
                b.service.list_players(ListPlayers(3, cursor), pages.append)
                await until(lambda: len(pages))
                page = pages.pop()
                assert page["online"] == 10
                found.update({each["true_id"]: each["name"] for each in page["players"]})
                cursor = page["cursor"]
                if cursor is None:
                    break
            assert found == {f"p{number}": f"Player {number}" for number in range(10)}

    run(scenario())


def test_players_of_all_masters_of_a_cluster_are_watched_and_listed(
    redis_servers: RedisServers,
) -> None:
    async def scenario() -> None:
        masters = redis_servers.cluster()
        async with Scene(f"{masters[0].url}?cluster=1", partitions=16) as scene:
            a, b = scene.nodes
            watchers = {}
            players = [TrueId(f"p{number}") for number in range(24)]
            for number, player in enumerate(players):
                watchers[player] = b.connect(100 + number, TrueId(f"w{number}"), "w")
                known = await scene.watch(b, watchers[player], player)
                assert known[player]["state"] == "offline"
            for number, player in enumerate(players):
                a.connect(number, player, "s1")
            await scene.pass_by()
            await until(lambda: all(each.told() == [("active", 1)] for each in watchers.values()))
            pages: list[Any] = []
            b.service.list_players(ListPlayers(200, None), pages.append)
            await until(lambda: pages)
            found = [each["true_id"] for each in pages[0]["players"]]
            assert sorted(found) == sorted(
                [*players, *(each.true_id for each in watchers.values())]
            )

    run(scenario())


def test_what_was_missed_while_redis_was_away_is_told_afterwards(
    redis_servers: RedisServers,
) -> None:
    async def scenario() -> None:
        server = redis_servers.start(appendonly="always")
        async with Scene(server.url) as scene:
            a, b = scene.nodes
            eve = b.connect(1, TrueId("eve"), "e")
            ann = a.connect(1, ANN, "s1")
            await scene.pass_by()
            await scene.watch(b, eve, ANN, BOB)
            server.kill()
            a.say(ann, "hidden")
            scene.monotonic.now += 1.0
            scene.timers.run()
            answers = b.ask_to_watch(eve, TrueId("c"))
            await until(lambda: answers)
            assert isinstance(answers[0], RequestRefused)
            assert answers[0].code == "unavailable"
            server.start()
            await until(lambda: a.backing.redis.available and b.backing.redis.available)

            def tick() -> bool:
                scene.monotonic.now += 0.1
                scene.timers.run()
                return eve.told() == [("hidden", 1)]

            await until(tick)

    run(scenario())


def test_what_redis_has_lost_is_said_again(redis_servers: RedisServers) -> None:
    async def scenario() -> None:
        server = redis_servers.start()
        async with Scene(server.url) as scene:
            a, b = scene.nodes
            eve = b.connect(1, TrueId("eve"), "e")
            ann = a.connect(1, ANN, "s1")
            a.say(ann, "hidden")
            await scene.pass_by()
            known = await scene.watch(b, eve, ANN)
            assert known[ANN]["state"] == "hidden"
            server.kill()
            server.start()
            await until(lambda: a.backing.redis.available and b.backing.redis.available)

            def tick() -> bool:
                scene.monotonic.now += 0.1
                scene.timers.run()
                return eve.told()[-1:] == [("hidden", 1)]

            # For a moment it is nowhere, as nobody has said so yet.
            await until(tick)
            a.say(ann, "active")
            await until(lambda: tick() or eve.told()[-1:] == [("active", 1)])

    run(scenario())
