"""Links to servers that are not what they should be: real sockets, answers made up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.errors import ConfigError, StoreUnavailable
from gateway.stores.redis import link as link_module
from gateway.stores.redis.link import NO_PARTITION, Link, pack, settle
from gateway.stores.redis.single import refuse
from tests.stores.redis_client import PUSH, Opened
from tests.waiting import run

INFO = (
    "redis_version:{version}\r\nrole:master\r\nrun_id:r\r\nmaster_replid:m\r\nloading:{loading}\r\n"
)


def bulk(text: str) -> bytes:
    return f"${len(text)}\r\n{text}\r\n".encode()


@asynccontextmanager
async def server(answer: Callable[[bytes], bytes | None]) -> AsyncIterator[int]:
    """Listen, and write what `answer` says to each chunk that comes; None ends the connection."""
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while chunk := await reader.read(65536):
            reply = answer(chunk)
            if reply is None:
                break
            writer.write(reply)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]
        for writer in writers:
            writer.close()
    await asyncio.sleep(0)


async def connected(port: int, timeout: float = 20.0) -> Link:
    loop = asyncio.get_running_loop()
    _, link = await loop.create_connection(lambda: Link(timeout, refuse), "127.0.0.1", port)
    return link


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it does not speak Redis' protocol"),
        (None, "the server ended it"),
    ],
)
def test_a_link_to_something_else_ends_and_says_why(answer: bytes | None, reason: str) -> None:
    async def test() -> None:
        async with server(lambda chunk: answer) as port:
            link = await connected(port)
            asked = [link.ask("PING") for _ in range(3)]
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(each) for each in results} == {StoreUnavailable}
            assert link.ended.result() == reason
            with pytest.raises(StoreUnavailable, match="out of reach"):
                await link.ask("PING")

    run(test())


def test_an_answer_to_nothing_ends_the_link() -> None:
    async def test() -> None:
        async with server(lambda chunk: b"+OK\r\n+AND MORE\r\n") as port:
            link = await connected(port)
            assert await link.ask("PING") == b"OK"
            assert "does not speak" in await link.ended

    run(test())


def test_more_than_may_wait_is_refused_and_the_rest_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "_MAX_CALLS", 10)

    async def test() -> None:
        async with server(lambda chunk: b"+OK\r\n" * chunk.count(b"PING")) as port:
            link = await connected(port)
            full: list[str] = []
            link.on_full = lambda: full.append("calls")
            asked = [asyncio.get_running_loop().create_future() for _ in range(15)]
            for answer in asked:
                link.send((pack(("PING",)), settle(answer), 0, None))
            # What is about the link itself is asked all the same.
            own = await link.ask("PING")
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert own == b"OK"
            assert results[:10] == [b"OK"] * 10
            assert all("too much waits" in str(each) for each in results[10:])
            assert full == ["calls"] * 5
            assert await link.ask("PING") == b"OK"
            link.close()

    run(test())


def test_a_fault_in_who_is_answered_does_not_hurt_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(reply: object) -> None:
        raise RuntimeError("a fault")

    async def test() -> None:
        async with server(lambda chunk: b"+OK\r\n" * chunk.count(b"PING")) as port:
            link = await connected(port)
            link.send((pack(("PING",)), fail, NO_PARTITION, None))
            assert await link.ask("PING") == b"OK"
            assert link.open
            link.close()

    run(test())
    assert "an answer of the store could not be handled" in caplog.text


def hello(version: str, loading: int = 0) -> Callable[[bytes], bytes]:
    about = INFO.format(version=version, loading=loading)
    return lambda chunk: b"*0\r\n" + bulk(about)


# As the two name it.
@pytest.mark.parametrize(
    "mode", ["redis_mode:cluster", "valkey_version:9.1.2\r\nserver_mode:cluster"]
)
def test_a_node_of_a_cluster_is_known_for_one(mode: str) -> None:
    about = INFO.format(version="7.2.4", loading=0) + f"{mode}\r\ncluster_enabled:1\r\n"

    async def test() -> None:
        async with server(lambda chunk: b"*0\r\n" + bulk(about)) as port:
            with pytest.raises(ConfigError, match="it is a node of a Cluster"):
                await Opened(f"redis://127.0.0.1:{port}").redis.open()

    run(test())


def test_an_old_server_is_refused_with_what_is_needed() -> None:
    async def test() -> None:
        async with server(hello("6.2.14")) as port:
            with pytest.raises(ConfigError, match=r"version 6\.2\.14; Redis or Valkey 7 or newer"):
                await Opened(f"redis://127.0.0.1:{port}").redis.open()

    run(test())


def test_a_server_that_still_loads_its_data_is_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        async with (
            server(hello("7.2.4", loading=1)) as port,
            Opened(f"redis://127.0.0.1:{port}") as redis,
        ):
            assert not redis.available

    run(test())
    assert "it is still loading its data" in caplog.text


def test_a_server_that_says_nothing_is_given_up_at_the_start_too() -> None:
    async def test() -> None:
        async with (
            server(lambda chunk: b"") as port,
            Opened(f"redis://127.0.0.1:{port}/?timeout=0.2") as redis,
        ):
            assert not redis.available
            with pytest.raises(StoreUnavailable):
                await redis.ask(0, PUSH, [1])

    run(test())
