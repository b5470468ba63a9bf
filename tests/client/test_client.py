"""The client against a gateway in this process, which ends every task of its own."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.client import (
    ClientClosed,
    ConnectRefused,
    FileStorage,
    Guest,
    MemoryStorage,
    Message,
    Password,
    Presence,
    QueueFull,
    RequestRefused,
    StateChange,
    StorageInUse,
    TimedOut,
    connect,
)
from gateway.server import Gateway
from tests.client.players import drop_all, make, nothing_is_left, player, soon, take
from tests.gateway_process import ROOT
from tests.waiting import until

pytestmark = pytest.mark.gen_test(timeout=90)


async def test_messages_and_receipts(base_url: str) -> None:
    async with player(base_url, Guest("Ada")) as ada, player(base_url) as bob:
        receipt = await soon(ada.send(bob.true_id, {"n": 1}, type="move"))
        assert (receipt.status, receipt.connections, receipt.duplicate) == ("delivered", 1, False)
        (message,) = await take(bob.messages(), 1)
        assert message == Message(
            {"n": 1}, message.ts, sender=ada.true_id, id=receipt.id, type="move"
        )
        assert ada.session is not None
        assert (ada.session.name, ada.session.outcome) == ("Ada", "new")
        assert not hasattr(ada.session, "token")
    nothing_is_left()


async def test_order_and_exactly_once_over_lost_connections(
    base_url: str, gateway: Gateway
) -> None:
    async with player(base_url) as ada, player(base_url) as bob:
        messages = bob.messages()
        receipts = []
        got: list[Any] = []
        for cut in range(10):
            receipts += [ada.send(bob.true_id, cut * 10 + n) for n in range(10)]
            got += [message.data for message in await take(messages, 3)]
            drop_all(gateway)
        got += [message.data for message in await take(messages, 70)]
        assert got == list(range(100))
        done = [await soon(receipt) for receipt in receipts]
        assert len({receipt.id for receipt in done}) == 100
    nothing_is_left()


async def test_handlers_hear_messages_one_after_the_other(base_url: str) -> None:
    heard: list[Any] = []
    done = asyncio.Event()

    async def slow(message: Message) -> None:
        heard.append(("begin", message.data))
        await asyncio.sleep(0)
        heard.append(("end", message.data))
        if message.data == 2:
            done.set()

    async with player(base_url) as ada:
        off = ada.on("message", slow)
        for number in range(3):
            ada.send(ada.true_id, number)
        await soon(done.wait())
        assert heard == [(what, number) for number in range(3) for what in ("begin", "end")]
        with pytest.raises(RuntimeError, match="use one of the two"):
            ada.messages()
        # Without a handler messages wait for the next one, and are not swallowed.
        off()
        await soon(ada.send(ada.true_id, "kept"))
        assert [message.data for message in await take(ada.messages(), 1)] == ["kept"]
    nothing_is_left()


@pytest.mark.expects_warnings
async def test_the_fault_of_a_handler_is_logged_and_the_rest_goes_on(
    base_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Any] = []

    def fail(message: Message) -> None:
        raise KeyError("mine")

    async with player(base_url) as ada:
        ada.on("message", fail)
        ada.on("message", lambda message: heard.append(message.data))
        await soon(ada.send(ada.true_id, 1))
        await soon(ada.send(ada.true_id, 2))
        await until(lambda: heard == [1, 2])
    faults = [record for record in caplog.records if record.exc_info]
    assert len(faults) == 2
    assert {record.name for record in faults} == {"gateway.client.core"}
    for phase in ("setup", "call"):
        caplog.get_records(phase).clear()
    caplog.clear()


async def test_a_handler_may_close_the_client(base_url: str, tmp_path: Path) -> None:
    async with player(base_url, storage=FileStorage(tmp_path / "ada")) as ada:

        async def stop(message: Message) -> None:
            await ada.close()

        ada.on("message", stop)
        # The message may be here before its receipt.
        ada.send(ada.true_id, "stop")
        await soon(ada.wait_closed())
    async with player(base_url, storage=FileStorage(tmp_path / "ada")) as ada:
        await soon(ada.send(ada.true_id, "next"))
        assert [message.data for message in await take(ada.messages(), 1)] == ["next"]
    nothing_is_left()


async def test_only_handlers_of_messages_may_be_coroutines(base_url: str) -> None:
    async def handler(presence: Presence) -> None: ...

    client = make(base_url)
    with pytest.raises(TypeError, match="plain functions"):
        client.on("presence", handler)
    with pytest.raises(ValueError, match="known are message, session"):
        client.on("mesage", handler)  # type: ignore[call-overload]
    client.messages()
    with pytest.raises(RuntimeError, match="use one of the two"):
        client.on("message", print)


# What is kept


class Crash(Exception):
    """A process ends in the middle of its work."""


@asynccontextmanager
async def crashing() -> AsyncIterator[None]:
    with contextlib.suppress(Crash):
        yield
        raise AssertionError


async def test_what_was_not_handled_comes_again_in_the_next_process(
    base_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "bob"
    async with player(base_url) as ada:
        bob = make(base_url, storage=FileStorage(file))
        async with crashing(), bob:
            true_id = bob.true_id
            for number in range(5):
                await soon(ada.send(true_id, number))
            await take(bob.messages(), 3)
            raise Crash
        await soon(ada.send(true_id, 5))
        async with make(base_url, storage=FileStorage(file)) as bob:
            assert bob.session is not None
            assert (bob.true_id, bob.session.resumed) == (true_id, True)
            # The third was in hand.
            assert [message.data for message in await take(bob.messages(), 4)] == [2, 3, 4, 5]
        await soon(ada.send(true_id, 6))
        async with make(base_url, storage=FileStorage(file)) as bob:
            # This time the block was left in peace.
            assert [message.data for message in await take(bob.messages(), 1)] == [6]
    nothing_is_left()


async def test_messages_that_nobody_handled_are_said_to_be_lost(base_url: str) -> None:
    storage = MemoryStorage()
    lost: list[Any] = []
    async with player(base_url) as ada:
        bob = make(base_url, storage=storage)
        async with crashing(), bob:
            true_id = bob.true_id
            await soon(ada.send(true_id, 0))
            await take(bob.messages(), 1)
            raise Crash
        bob = make(base_url, storage=storage)
        bob.on("lost", lost.append)
        async with bob:
            assert bob.true_id == true_id
            assert [(each.gap.after, each.gap.lost) for each in lost] == [(None, None)]


async def test_the_token_is_in_a_file_for_the_owner_only(base_url: str, tmp_path: Path) -> None:
    file = tmp_path / "ada"
    async with player(base_url, storage=FileStorage(file)) as ada:
        assert file.stat().st_mode & 0o777 == 0o600
        with pytest.raises(StorageInUse):
            await soon(make(base_url, storage=FileStorage(file)).start())
        await soon(ada.logout())
        assert not file.exists()
        with pytest.raises(ClientClosed, match="logged_out"):
            ada.send("p_x", 1)
    nothing_is_left()


@pytest.mark.settings(auth={"methods": ("guest",)})
async def test_two_clients_of_one_player_both_get_every_message(
    base_url: str, gateway: Gateway
) -> None:
    # As two processes of one account: each with a session of its own.
    storages = (MemoryStorage(), MemoryStorage())
    async with player(base_url, storage=storages[0]) as one:
        record = storages[0]._record
        assert record is not None
        storages[1].save(record, durable=True)
        async with player(base_url, storage=storages[1]) as two, player(base_url) as ada:
            assert one.true_id == two.true_id
            assert one.session is not None
            assert two.session is not None
            assert one.session.session_id != two.session.session_id
            streams = one.messages(), two.messages()
            for cut in range(3):
                for number in range(5):
                    ada.send(one.true_id, cut * 5 + number)
                drop_all(gateway)
                for stream in streams:
                    assert [message.data for message in await take(stream, 5)] == [
                        cut * 5 + number for number in range(5)
                    ]
    nothing_is_left()


# Bounds


async def test_what_the_inbox_has_no_room_for_waits_in_the_mailbox(base_url: str) -> None:
    async with player(base_url) as ada, player(base_url, inbox=10) as bob:
        for number in range(60):
            ada.send(bob.true_id, number)
        await soon(ada.drained())
        await until(lambda: bob._core.inbox.overflowed)
        assert len(bob._core.inbox) == 10
        got = []
        messages = bob.messages()
        for _ in range(60):
            (message,) = await take(messages, 1)
            got.append(message.data)
            # A handler that waits for a receipt in between is the usual one.
            await soon(bob.send(ada.true_id, message.data))
            assert len(bob._core.inbox) <= 10
        assert got == list(range(60))
        assert [each.data for each in await take(ada.messages(), 60)] == got
    nothing_is_left()


async def test_the_queue_is_bounded_and_empties_itself(base_url: str, gateway: Gateway) -> None:
    async with player(base_url) as bob, player(base_url, queue=3) as ada:
        states: list[str] = []
        ada.on("state", lambda change: states.append(change.state))
        drop_all(gateway)
        await until(lambda: states[:1] == ["away"])
        receipts = [ada.send(bob.true_id, number) for number in range(3)]
        with pytest.raises(QueueFull, match="3 wait already"):
            ada.send(bob.true_id, 3)
        assert ada.queued == 3
        assert {(await soon(receipt)).status for receipt in receipts} <= {"delivered", "queued"}
        assert ada.queued == 0
        assert [message.data for message in await take(bob.messages(), 3)] == [0, 1, 2]


async def test_a_cancelled_receipt_withdraws_its_message(base_url: str, gateway: Gateway) -> None:
    async with player(base_url) as ada:
        drop_all(gateway)
        await until(lambda: not ada.connected)
        first, second = ada.send(ada.true_id, 1), ada.send(ada.true_id, 2)
        first.cancel()
        await soon(second)
        assert [message.data for message in await take(ada.messages(), 1)] == [2]
        assert ada.queued == 0


async def test_a_message_is_given_up_after_its_time(base_url: str, gateway: Gateway) -> None:
    async with player(base_url, reconnect_delay=20, reconnect_delay_max=20) as ada:
        drop_all(gateway)
        await until(lambda: not ada.connected)
        with pytest.raises(TimedOut):
            await soon(ada.send(ada.true_id, 1, timeout=0.01))
        with pytest.raises(TimedOut):
            await soon(ada.request("players", timeout=0.01))
        waiting = ada.send(ada.true_id, 2)
        asking = asyncio.create_task(ada.players())
        await asyncio.sleep(0)
        await soon(ada.close())
        for each in (waiting, asking):
            with pytest.raises(ClientClosed):
                await soon(each)
    nothing_is_left()


async def test_the_same_key_is_accepted_once(base_url: str) -> None:
    async with player(base_url) as ada:
        first = await soon(ada.send(ada.true_id, 1, id="once"))
        again = await soon(ada.send(ada.true_id, 1, id="once"))
        assert (again.duplicate, again.id) == (True, first.id)


async def test_volatile_messages_are_now_or_never(base_url: str, gateway: Gateway) -> None:
    async with player(base_url) as ada:
        # Until its history is read a connection takes none.
        await soon(ada.send(ada.true_id, 0))
        messages = ada.messages()
        await take(messages, 1)
        assert (await soon(ada.send(ada.true_id, 1, volatile=True))).status == "delivered"
        (message,) = await take(messages, 1)
        assert (message.data, message.id) == (1, None)
        # Nor do they pile up in front of a connection that is busy.
        many = [ada.send(ada.true_id, n, volatile=True) for n in range(2000)]
        assert len(ada._core._tasks) <= 1000
        assert {(await soon(each)).status for each in many} >= {"dropped"}
        drop_all(gateway)
        await until(lambda: not ada.connected)
        assert (await soon(ada.send(ada.true_id, 2, volatile=True))).status == "dropped"
    nothing_is_left()


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"x", TypeError), ({"a": {1, 2}}, TypeError), (float("nan"), ValueError)],
)
async def test_data_that_is_not_json_is_refused_at_once(
    base_url: str, data: object, error: type[Exception]
) -> None:
    async with player(base_url) as ada:
        with pytest.raises(error, match="data"):
            ada.send(ada.true_id, data)
        assert ada.queued == 0


async def test_data_that_is_too_large_never_leaves(base_url: str) -> None:
    async with player(base_url) as ada:
        # More than a stack has room for: each is settled as it is looked at.
        receipts = [ada.send(ada.true_id, "x" * 65_536) for _ in range(800)]
        for receipt in receipts:
            with pytest.raises(RequestRefused) as refused:
                await soon(receipt)
            assert (refused.value.code, refused.value.field) == ("too_large", "data")
        assert ada.connected


async def test_what_is_refused_says_why(base_url: str) -> None:
    async with player(base_url) as ada:
        with pytest.raises(RequestRefused) as refused:
            await soon(ada.send("p_nobody", 1))
        assert refused.value.code == "unknown_target"
        with pytest.raises(RequestRefused) as refused:
            await soon(ada.request("players", {"limit": 0}))
        assert (refused.value.code, refused.value.field) == ("bad_request", "limit")


@pytest.mark.settings(limits={"messages_per_second": 50.0, "burst": 5})
async def test_requests_wait_for_as_long_as_the_gateway_asks(base_url: str) -> None:
    async with player(base_url) as ada:
        answers = await soon(asyncio.gather(*(ada.players() for _ in range(20))))
        assert len(answers) == 20


# Presence


async def test_presence_is_watched_and_said_over_reconnects(
    base_url: str, gateway: Gateway
) -> None:
    async with player(base_url, Guest("Ada")) as ada, player(base_url, Guest("Bob")) as bob:
        seen: list[Presence] = []
        ada.on("presence", seen.append)
        known = await soon(ada.watch([bob.true_id, bob.true_id, "p_nobody"]))
        assert (known[bob.true_id].state, known[bob.true_id].name) == ("active", "Bob")
        assert known["p_nobody"].state == "offline"
        await soon(bob.set_presence("hidden", status="lunch"))
        await until(lambda: any(each.status == "lunch" for each in seen))
        seen.clear()
        drop_all(gateway)
        await until(lambda: any((each.state, each.status) == ("hidden", "lunch") for each in seen))
        await soon(ada.unwatch([bob.true_id, "p_nobody"]))
        seen.clear()
        await soon(bob.set_presence("active"))
        page = await soon(ada.players())
        states = {each.true_id: each.state for each in page.players}
        assert (states, page.online) == ({ada.true_id: "active", bob.true_id: "active"}, 2)
        assert seen == []
    nothing_is_left()


# Ends


async def test_a_refusal_that_is_final_is_an_error(base_url: str) -> None:
    with pytest.raises(ConnectRefused) as refused:
        await soon(make(base_url, Password("ada", "secret")).start())
    assert refused.value.code == "unsupported"
    assert "secret" not in repr(Password("ada", "secret"))
    nothing_is_left()


async def test_log_out_ends_the_session_for_good(base_url: str) -> None:
    storage = MemoryStorage()
    states: list[StateChange] = []
    async with player(base_url, storage=storage) as ada:
        before = ada.true_id
        ada.on("state", states.append)
        messages = ada.messages()
        await soon(ada.logout(everywhere=True))
        with pytest.raises(StopAsyncIteration):
            await soon(anext(messages))
        await soon(ada.wait_closed())
    assert states == [StateChange("closed", "logged_out")]
    async with player(base_url, storage=storage) as ada:
        assert ada.true_id != before
    nothing_is_left()


@pytest.mark.expects_warnings
async def test_a_client_that_is_cancelled_leaves_nothing(base_url: str) -> None:
    entered = asyncio.Event()

    async def bot() -> None:
        async with connect(base_url, Guest()) as game:
            entered.set()
            async for _ in game.messages():
                raise AssertionError

    task = asyncio.create_task(bot())
    await soon(entered.wait())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    nothing_is_left()
    # Also while it waits for a gateway that is not there.
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), connect("http://127.0.0.1:9", Guest()):
            raise AssertionError
    nothing_is_left()


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("gateway.example", "like https://"),
        ("ftp://gateway.example", "like https://"),
        ("https://ada:secret@gateway.example", "use `auth`"),
        ("https://gateway.example/socket.io/", "into `path`"),
    ],
)
async def test_a_bad_url_is_refused_with_the_fix(url: str, fix: str) -> None:
    with pytest.raises(ValueError, match=fix) as refused:
        connect(url, Guest())
    assert "secret" not in str(refused.value)


async def test_without_aiohttp_the_error_names_the_extra() -> None:
    script = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from gateway.client import Guest, connect\n"
        "try: connect('http://x', Guest())\n"
        "except ImportError as error: print(error)\n"
        "loaded = {name for name in sys.modules if name.startswith('gateway.')}\n"
        "print(sorted(name for name in loaded if not name.startswith('gateway.client')))\n"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "gateway.client needs aiohttp: pip install 'game-gateway[client]'",
        "[]",
    ]
