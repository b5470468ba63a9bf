"""The client of Redis, against real servers."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import ConfigError, StoreUnavailable
from gateway.store_url import parse_redis_url
from gateway.stores.redis import client as client_module
from gateway.stores.redis import link
from gateway.stores.redis import master as master_module
from gateway.stores.redis.client import Redis
from gateway.stores.redis.scripts import script
from tests.certificates import Authority
from tests.redis_servers import RedisServer, RedisServers
from tests.stores.redis_client import ECHO, GUARD, PUSH, SAY, Opened, events, listening, pushes
from tests.waiting import run, until

#: Answers a part's first word, with what it knows of the batch, and the second.
PARTS = script(
    "parts",
    "local answers = {}\n"
    "for index = 2, #ARGV, 2 do\n"
    "  answers[index - 1] = {KEYS[1], ARGV[1], (#ARGV - 1) / 2, ARGV[index]}\n"
    "  answers[index] = ARGV[index + 1]\n"
    "end\n"
    "return answers",
)
HEAD = ("head",)
FAULTY_PARTS = script("faulty", "return redis.call('INCRBY', prefix, 'x')")
FAULTY = script("faulty", "return redis.call('HGET', prefix .. 'list', 'x')")


def test_a_script_gets_the_prefix_of_its_partition_and_its_arguments(redis_url: str) -> None:
    async def test() -> None:
        async with Opened(redis_url) as redis:
            assert await redis.ask(3, ECHO, ["é", 1.5]) == [
                redis.prefix(3),
                "é".encode(),
                b"1.5",
            ]
            assert redis.prefix(3).endswith(b":{3}:")
            assert redis.available

    run(test())


def test_calls_run_and_are_answered_in_order(redis_url: str) -> None:
    async def test() -> None:
        answers: list[Any] = []
        async with Opened(redis_url) as redis:
            for number in range(1000):
                redis.call(1, PUSH, [number], answers.append)
            await until(lambda: len(answers) == 1000)
            assert answers == [*range(1, 1001)]
            await asyncio.sleep(0)
            kept: Any = None

            def done(reply: Any) -> None:
                nonlocal kept
                kept = reply

            redis.command(1, "LRANGE", redis.prefix(1) + b"list", 0, -1, done=done)
            await until(lambda: kept is not None)
            assert kept == [b"%d" % number for number in range(1000)]

    run(test())


def test_scripts_that_the_server_forgot_are_loaded_and_calls_keep_their_order(
    redis_url: str, redis_server: RedisServer
) -> None:
    async def test() -> None:
        async with Opened(redis_url) as redis:
            await redis.ask(1, PUSH, [0])
            first = pushes(redis, range(1, 100))
            await asyncio.sleep(0)
            redis.command(1, "SCRIPT", "FLUSH", done=lambda reply: None)
            rest = pushes(redis, range(100, 200))
            answers = await asyncio.gather(*first)
            # More is asked while the server is told of the script.
            more = pushes(redis, range(200, 300))
            answers += await asyncio.gather(*rest, *more)
            assert answers == [*range(2, 301)]

    run(test())


def test_scripts_are_loaded_again_also_when_too_much_waits(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with Opened(redis_url) as redis:
            monkeypatch.setattr(link, "_MAX_BYTES", 1000)
            redis.command(1, "SCRIPT", "FLUSH", done=lambda reply: None)
            answers = pushes(redis, range(2))
            # Nothing more is asked until this has its answer.
            large = redis.ask(1, ECHO, ["x" * 100_000, ""])
            await asyncio.gather(*answers, large, return_exceptions=True)
            async with asyncio.timeout(GUARD):
                while True:
                    with suppress(StoreUnavailable):
                        await redis.ask(1, PUSH, [2])
                        break
                    await asyncio.sleep(0.01)

    run(test())


def test_a_fault_of_a_script_is_logged_and_told_as_unavailable(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with Opened(redis_url) as redis:
            await redis.ask(1, PUSH, [0])
            with pytest.raises(StoreUnavailable):
                await redis.ask(1, FAULTY)
            assert await redis.ask(1, PUSH, [1]) == 2
            assert redis.available

    run(test())
    assert "the script faulty failed" in caplog.text


def test_a_server_that_is_killed_and_started_again_is_found_again(
    redis_servers: RedisServers, caplog: pytest.LogCaptureFixture
) -> None:
    server = redis_servers.start(appendonly="always")

    async def test() -> None:
        async with Opened(server.url) as redis:
            assert await redis.ask(1, PUSH, [0]) == 1
            server.kill()
            with pytest.raises(StoreUnavailable):
                await redis.ask(1, PUSH, [1])
            await until(lambda: not redis.available)
            with pytest.raises(StoreUnavailable):
                await redis.ask(1, PUSH, [2])
            server.restart()
            await until(lambda: redis.available)
            assert await redis.ask(1, PUSH, [3]) == 2

    run(test())
    assert caplog.text.count("is back") == 1


def test_a_fault_while_connecting_is_logged_and_it_is_tried_again(
    redis_servers: RedisServers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = redis_servers.start(appendonly="always")
    connect = master_module.connect

    async def faulty(*arguments: Any) -> Any:
        monkeypatch.setattr(master_module, "connect", connect)
        raise RuntimeError("a fault")

    async def test() -> None:
        async with Opened(server.url) as redis:
            assert await redis.ask(1, PUSH, [0]) == 1
            monkeypatch.setattr(master_module, "connect", faulty)
            server.kill()
            server.restart()
            await until(lambda: "connecting to the store failed" in caplog.text)
            await until(lambda: redis.available)
            assert await redis.ask(1, PUSH, [1]) == 2

    run(test())


def test_a_server_that_is_out_of_reach_is_no_error_at_the_start(
    redis_servers: RedisServers,
) -> None:
    server = redis_servers.start()
    server.kill()

    async def test() -> None:
        async with Opened(server.url) as redis:
            assert not redis.available
            with pytest.raises(StoreUnavailable):
                await redis.ask(0, PUSH, [0])
            server.restart()
            await until(lambda: redis.available)
            assert await redis.ask(0, PUSH, [0]) == 1

    run(test())


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_evicts_keys_is_refused(policy: str, redis_servers: RedisServers) -> None:
    server = redis_servers.start("--maxmemory-policy", policy, maxmemory="100mb")

    async def test() -> None:
        with pytest.raises(ConfigError, match="set maxmemory-policy to noeviction"):
            await Redis(parse_redis_url(server.url)).open()

    run(test())


# Channels

ALL = frozenset(range(4))


def test_what_a_script_tells_a_node_is_heard_on_the_partition_where_it_ran(
    redis_url: str,
) -> None:
    async def test() -> None:
        opened = Opened(redis_url)
        heard = listening(opened.redis)
        told = events(opened.redis)
        async with opened as redis:
            assert await redis.ask(2, SAY, ["me", "é", ""]) == 1
            assert await redis.ask(0, SAY, ["nobody", "x", "y"]) == 0
            assert await redis.ask(1, SAY, ["me", "x", "y"]) == 1
            await until(lambda: len(heard) == 2)
        assert heard == [
            (2, b"n:me", b"m\0\0\0\x02\xc3\xa9\0\0\0\0"),
            (1, b"n:me", b"m\0\0\0\x01x\0\0\0\x01y"),
        ]
        assert told[1:] == []  # the start is no event, the end may be

    run(test())


@pytest.mark.parametrize("kind", ["normal", "pubsub"])
def test_a_link_that_broke_is_made_anew_and_channels_are_heard_again_on_the_same_server(
    kind: str, redis_servers: RedisServers
) -> None:
    server = redis_servers.start()

    async def test() -> None:
        opened = Opened(server.url)
        heard = listening(opened.redis)
        told = events(opened.redis)
        async with opened as redis:
            server.ask("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            await until(lambda: len(told) == 2)
            assert told == [("lost", ALL, False), ("restored", ALL, True)]
            assert redis.available
            assert await redis.ask(3, SAY, ["me", "x", "y"]) == 1
            await until(lambda: heard)

    run(test())


def test_a_server_that_was_started_again_is_another_one(redis_servers: RedisServers) -> None:
    server = redis_servers.start()

    async def test() -> None:
        opened = Opened(server.url)
        heard = listening(opened.redis)
        told = events(opened.redis)
        async with opened as redis:
            server.kill()
            await until(lambda: told)
            server.restart()
            await until(lambda: len(told) == 2)
            assert told == [("lost", ALL, False), ("restored", ALL, False)]
            assert await redis.ask(3, SAY, ["me", "x", "y"]) == 1
            await until(lambda: heard)

    run(test())


def test_a_server_that_was_a_replica_meanwhile_is_another_one(
    redis_servers: RedisServers,
) -> None:
    server, other = redis_servers.start(), redis_servers.start()

    async def test() -> None:
        opened = Opened(server.url)
        told = events(opened.redis)
        listening(opened.redis)
        async with opened as redis:
            await redis.ask(1, PUSH, [0])
            server.ask("REPLICAOF", "127.0.0.1", other.port)
            # It goes on talking to us, and keeps our subscriptions: its first refusal tells.
            with pytest.raises(StoreUnavailable):
                await redis.ask(1, PUSH, [0])
            await until(lambda: told)
            assert not redis.available
            server.ask("REPLICAOF", "NO", "ONE")
            await until(lambda: len(told) == 2)
            assert told == [("lost", ALL, False), ("restored", ALL, False)]
            await redis.ask(1, PUSH, [0])

    run(test())


# Batches


def test_parts_of_a_turn_are_one_call_in_its_place(redis_url: str) -> None:
    async def test() -> None:
        async with Opened(redis_url) as redis:
            answers: list[Any] = []
            head = ("head",)

            def take(*answer: Any) -> None:
                answers.append(answer)

            # A server is told of a script that it lacks; what comes next is first then.
            redis.add(0, PARTS, head, (0, ""), 10, take)
            await until(lambda: answers)
            answers.clear()
            for number in range(3):
                redis.add(number, PARTS, head, (number, "é"), 10, take)
            redis.call(1, PUSH, ["between"], take)
            redis.add(2, PARTS, head, (3, 1.5), 10, take)
            # Another head: another batch.
            redis.add(2, PARTS, ("other",), (4, b"x"), 10, take)
            assert not answers
            await until(lambda: len(answers) == 6)
            first, second = redis.prefix(0), redis.prefix(2)
            assert answers == [
                ([first, b"head", 3, b"0"], "é".encode()),
                ([first, b"head", 3, b"1"], "é".encode()),
                ([first, b"head", 3, b"2"], "é".encode()),
                (1,),
                ([second, b"head", 1, b"3"], b"1.5"),
                ([second, b"other", 1, b"4"], b"x"),
            ]

    run(test())


def test_a_batch_is_bounded_by_number_and_bytes(redis_url: str) -> None:
    async def test() -> None:
        async with Opened(redis_url) as redis:
            sizes: list[int] = []
            head = ("head",)

            def take(answer: Any, _: Any) -> None:
                sizes.append(answer[2])

            for number in range(70):
                redis.add(0, PARTS, head, (number, ""), 10, take)
            for number in range(3):
                redis.add(0, PARTS, head, (number, ""), 200_000, take)
            await until(lambda: len(sizes) == 73)
            assert sizes == [32] * 64 + [8] * 8 + [1]

    run(test())


def test_servers_of_a_cluster_get_parts_of_one_partition(redis_servers: RedisServers) -> None:
    servers = redis_servers.cluster()

    async def test() -> None:
        url = f"redis://127.0.0.1:{servers[0].port}/?cluster=1"
        async with Opened(url) as redis:
            answers: list[Any] = []
            for partition in (0, 0, 1, 2, 2, 2, 3):
                redis.add(partition, PARTS, HEAD, (0, ""), 10, lambda *each: answers.append(each))
            await until(lambda: len(answers) == 7)
            found = sorted((answer[0], answer[2]) for answer, _ in answers)
            sizes = {0: 2, 1: 1, 2: 3, 3: 1}
            assert found == sorted(
                (redis.prefix(partition), size)
                for partition, size in sizes.items()
                for _ in range(size)
            )

    run(test())


def test_all_parts_hear_that_a_call_has_failed(
    redis_servers: RedisServers, caplog: pytest.LogCaptureFixture
) -> None:
    server = redis_servers.start()

    async def test() -> None:
        async with Opened(server.url) as redis:
            answers: list[Any] = []

            def take(*answer: Any) -> None:
                answers.append(answer)
                if len(answers) == 1:
                    raise LookupError("the taker's own fault")

            for _ in range(3):
                redis.add(1, FAULTY_PARTS, HEAD, (), 10, take)
            await until(lambda: len(answers) == 3)
            assert all(isinstance(error, StoreUnavailable) for error, _ in answers)
            server.kill()
            await until(lambda: not redis.available)
            for _ in range(3):
                redis.add(1, PARTS, HEAD, (0, ""), 10, take)
            await until(lambda: len(answers) == 6)
            assert all(isinstance(error, StoreUnavailable) for error, _ in answers)

    run(test())
    assert "the taker's own fault" in caplog.text


def test_parts_beyond_the_bound_are_refused_and_counted(
    redis_servers: RedisServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = redis_servers.start()
    monkeypatch.setattr(client_module, "_MAX_PARTS", 40)

    async def test() -> None:
        hit: list[str] = []
        redis = Redis(parse_redis_url(server.url), 4, on_limit=hit.append)
        await redis.open()
        try:
            answers: list[Any] = []
            for _ in range(100):
                redis.add(0, PARTS, HEAD, (0, ""), 10, lambda *each: answers.append(each))
            await until(lambda: len(answers) == 100)
            refused = [each for each, _ in answers if isinstance(each, StoreUnavailable)]
            assert len(refused) == 100 - 64
            assert hit == ["store.calls"] * len(refused)
            redis.add(0, PARTS, HEAD, (0, ""), 10, lambda *each: answers.append(each))
            await until(lambda: len(answers) == 101)
            assert answers[-1] == ([redis.prefix(0), b"head", 1, b"0"], b"")
        finally:
            await redis.close()

    run(test())


# What a server refuses, and one that does not answer


def test_a_full_server_refuses_what_would_grow_and_answers_the_rest(
    redis_servers: RedisServers, caplog: pytest.LogCaptureFixture
) -> None:
    server = redis_servers.start(maxmemory="3mb")
    count = script("count", "return redis.call('LLEN', prefix .. 'list')")

    async def test() -> None:
        async with Opened(server.url) as redis:
            kept, refused = 0, ""
            while not refused:
                try:
                    kept = await redis.ask(1, PUSH, ["x" * 50_000])
                except StoreUnavailable as error:
                    refused = str(error)
            assert "OOM" in refused
            assert not redis.available
            assert await redis.ask(1, count) == kept
            server.ask("CONFIG", "SET", "maxmemory", "100mb")
            await until(lambda: redis.available)
            assert await redis.ask(1, PUSH, ["x"]) == kept + 1

    run(test())
    assert caplog.text.count("takes no writes: OOM") == 1
    assert caplog.text.count("takes writes again") == 1


def test_a_server_that_does_not_answer_is_given_up_after_the_timeout(
    redis_servers: RedisServers, caplog: pytest.LogCaptureFixture
) -> None:
    server = redis_servers.start()

    async def test() -> None:
        async with Opened(f"{server.url}?timeout=0.4") as redis:
            await redis.ask(1, PUSH, [0])
            with server.paused():
                asked = pushes(redis, range(10))
                answers = await asyncio.gather(*asked, return_exceptions=True)
                assert {type(answer) for answer in answers} == {StoreUnavailable}
                assert not redis.available
                with pytest.raises(StoreUnavailable):
                    await redis.ask(1, PUSH, [0])
            await until(lambda: redis.available)
            # What was on its way when it was given up may have been done all the same.
            assert await redis.ask(1, PUSH, [1]) in {2, 12}

    run(test())
    assert "did not answer for 0.4 seconds" in caplog.text


def test_a_silent_link_is_noticed_without_a_call(redis_servers: RedisServers) -> None:
    server = redis_servers.start()

    async def test() -> None:
        async with Opened(f"{server.url}?timeout=0.4") as redis:
            with server.paused():
                await until(lambda: not redis.available)
            await until(lambda: redis.available)

    run(test())


# Replicas


def test_with_wait_what_too_few_replicas_have_is_not_told_as_done(
    redis_servers: RedisServers,
) -> None:
    master = redis_servers.start()
    replica = redis_servers.replica(master)

    async def test() -> None:
        async with Opened(f"{master.url}?wait=1&wait_timeout=0.3") as redis:
            answers = await asyncio.gather(*pushes(redis, range(500)))
            assert answers == [*range(1, 501)]
            assert len(replica.ask("LRANGE", redis.prefix(1) + b"list", 0, -1)) == 500
            with replica.paused():
                failed = await asyncio.gather(*pushes(redis, range(50)), return_exceptions=True)
                assert all(isinstance(each, StoreUnavailable) for each in failed)
                assert "0 of 1 replicas" in str(failed[0])
                assert not redis.available
            await until(lambda: redis.available)
            assert await redis.ask(1, PUSH, [1]) == 551

    run(test())


# Passwords and TLS


def test_a_password_opens_and_a_wrong_one_is_an_error_that_does_not_tell_it(
    redis_servers: RedisServers, caplog: pytest.LogCaptureFixture
) -> None:
    server = redis_servers.start(password="s3cret/?@")

    async def test() -> None:
        host = f"127.0.0.1:{server.port}"
        async with Opened(f"redis://:s3cret%2F%3F%40@{host}") as redis:
            assert await redis.ask(1, PUSH, [1]) == 1
        for wrong in ("redis://:wr0ng@", "redis://"):
            with pytest.raises(ConfigError) as caught:
                await Opened(f"{wrong}{host}").redis.open()
            assert "wr0ng" not in str(caught.value)

    run(test())
    assert "wr0ng" not in caplog.text
    assert "s3cret" not in caplog.text


def test_tls_trusts_the_authority_that_the_url_names(
    redis_servers: RedisServers, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("redis")
    server = redis_servers.start(tls=(certificate, key, authority.ca_file))
    url = f"rediss://127.0.0.1:{server.tls_port}/"
    own = f"certificate_file={certificate}&key_file={key}"

    async def test() -> None:
        async with Opened(f"{url}?ca_file={authority.ca_file}&{own}") as redis:
            assert await redis.ask(1, PUSH, [1]) == 1
        with pytest.raises(ConfigError, match="certificate verify failed"):
            await Opened(f"{url}?{own}").redis.open()
        with pytest.raises(ConfigError, match="file for TLS"):
            Opened(f"{url}?ca_file={tmp_path}/none.pem")

    run(test())


def test_a_server_with_too_many_clients_is_tried_again(redis_servers: RedisServers) -> None:
    server = redis_servers.start("--maxclients", "2")

    async def test() -> None:
        others = [server.client() for _ in range(2)]
        for other in others:
            other.ping()
        async with Opened(server.url) as redis:
            assert not redis.available
            for other in others:
                other.close()
            await until(lambda: redis.available)
            assert await redis.ask(1, PUSH, [1]) == 1

    run(test())
