"""The client against a gateway of its own process that is killed, and a network that is cut."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from gateway.client import FileStorage, Goaway, Guest, Password, StateChange
from tests.client.players import nothing_is_left, player, soon, take
from tests.faults.proxy import Proxy
from tests.gateway_process import GatewayProcess
from tests.waiting import until

pytestmark = [pytest.mark.gen_test(timeout=200), pytest.mark.expects_warnings]

CUTS = 20
QUICK_PINGS = {"server": {"ping_interval": 0.5, "ping_timeout": 0.5}}


async def test_nothing_is_lost_doubled_or_out_of_order_over_kills(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path) as gateway:
        async with player(gateway.url) as ada, player(gateway.url) as bob:
            receipts, got = [], []
            messages = bob.messages()
            for kill in range(3):
                receipts += [ada.send(bob.true_id, kill * 20 + number) for number in range(20)]
                got += await take(messages, 5)
                await asyncio.to_thread(gateway.kill)
                await until(lambda: not ada.connected and not bob.connected)
                receipts.append(ada.send(bob.true_id, f"while it was away {kill}"))
                await asyncio.to_thread(gateway.start)
            got += await take(messages, 63 - 15)
            expected: list[Any] = []
            for kill in range(3):
                expected += range(kill * 20, kill * 20 + 20)
                expected.append(f"while it was away {kill}")
            assert [message.data for message in got] == expected
            ids = {(await soon(receipt)).id for receipt in receipts}
            assert ids == {message.id for message in got}
        nothing_is_left()


async def test_nothing_is_lost_doubled_or_out_of_order_over_cuts(tmp_path: Path) -> None:
    chance = random.Random(20)
    with GatewayProcess(tmp_path, config=QUICK_PINGS) as gateway:
        async with Proxy(gateway.port, chance) as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            async with player(url, Guest("Ada")) as ada, player(url, Guest("Bob")) as bob:
                sent: dict[str, list[Any]] = {ada.true_id: [], bob.true_id: []}
                got: dict[str, list[Any]] = {ada.true_id: [], bob.true_id: []}
                for each in (ada, bob):
                    heard = got[each.true_id]
                    each.on("message", lambda message, heard=heard: heard.append(message.data))
                for cut in range(CUTS):
                    for _ in range(chance.randint(1, 20)):
                        for one, other in ((ada, bob), (bob, ada)):
                            number = len(sent[other.true_id])
                            one.send(other.true_id, number)
                            sent[other.true_id].append(number)
                    await asyncio.sleep(chance.uniform(0, 0.05))
                    proxy.cut_all()
                    if cut % 2:
                        await until(lambda: ada.connected and bob.connected)
                await soon(ada.drained())
                await soon(bob.drained())
                await until(lambda: [*map(len, got.values())] == [*map(len, sent.values())])
                assert got == sent
                assert ada.queued == bob.queued == 0
            nothing_is_left()


async def test_every_kind_of_fault_is_survived(tmp_path: Path) -> None:
    chance = random.Random(7)
    with GatewayProcess(tmp_path, config=QUICK_PINGS) as gateway:
        async with Proxy(gateway.port, chance) as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            async with (
                player(url, connect_timeout=2.0) as ada,
                player(url, connect_timeout=2.0) as bob,
            ):
                proxy.faulty = True
                receipts = []
                messages = bob.messages()
                got: list[Any] = []
                while proxy.faults.total() < CUTS:
                    receipts += [ada.send(bob.true_id, len(receipts) + n) for n in range(3)]
                    await asyncio.sleep(0.1)
                proxy.heal()
                got = [message.data for message in await take(messages, len(receipts))]
                assert got == list(range(len(receipts)))
                assert len({(await soon(receipt)).id for receipt in receipts}) == len(receipts)
            nothing_is_left()


async def test_a_gateway_that_stops_is_left_and_waited_for(tmp_path: Path) -> None:
    variables = {"GATEWAY_SERVER_SHUTDOWN_GRACE": "2"}
    with GatewayProcess(tmp_path, variables=variables) as gateway:
        loop = IOLoop.current().asyncio_loop
        async with player(gateway.url) as ada:
            states: list[tuple[str, float]] = []
            goaways: list[Goaway] = []

            def note(change: StateChange) -> None:
                states.append((change.state, loop.time()))

            ada.on("state", note)
            ada.on("goaway", goaways.append)
            gateway.terminate()
            await until(lambda: bool(goaways))
            receipt = ada.send(ada.true_id, "kept")
            # It stops at once: who was asked to leave has left.
            await asyncio.to_thread(gateway.wait)
            await asyncio.to_thread(gateway.start)
            assert (await soon(receipt)).status == "delivered"
            assert [state for state, _ in states] == ["away", "live"]
            wait = goaways[0].reconnect_in
            assert wait is not None
            assert states[1][1] - states[0][1] >= wait
        nothing_is_left()


async def test_a_bot_goes_on_after_its_own_restart_and_the_gateways(tmp_path: Path) -> None:
    variables = {"GATEWAY_AUTH_METHODS": "guest,password"}
    with GatewayProcess(tmp_path, variables=variables) as gateway:
        true_id = await asyncio.to_thread(gateway.add_user, "backend", "a long password")
        auth = Password("backend", "a long password")
        file = tmp_path / "bot"
        async with player(gateway.url) as ada:
            async with player(gateway.url, auth, storage=FileStorage(file)) as bot:
                assert bot.true_id == true_id
                await soon(ada.send(true_id, 1))
                await take(bot.messages(), 1)
                bot._core.inbox.settle()
            await soon(ada.send(true_id, 2))
            await asyncio.to_thread(gateway.kill)
            await asyncio.to_thread(gateway.start)
            await soon(ada.send(true_id, 3))
            async with player(gateway.url, auth, storage=FileStorage(file)) as bot:
                assert bot.session is not None
                assert (bot.session.resumed, bot.session.missed) == (True, 2)
                assert [each.data for each in await take(bot.messages(), 2)] == [2, 3]
        nothing_is_left()


async def test_two_clients_of_one_account_both_get_everything_over_cuts(tmp_path: Path) -> None:
    variables = {"GATEWAY_AUTH_METHODS": "guest,password"}
    with GatewayProcess(tmp_path, variables=variables) as gateway:
        true_id = await asyncio.to_thread(gateway.add_user, "backend", "a long password")
        auth = Password("backend", "a long password")
        async with Proxy(gateway.port, random.Random(1)) as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            async with player(url, auth) as one, player(url, auth) as two, player(url) as ada:
                assert one.true_id == two.true_id == true_id
                streams = [one.messages(), two.messages()]
                for cut in range(5):
                    for number in range(10):
                        ada.send(true_id, cut * 10 + number)
                    proxy.cut_all()
                for stream in streams:
                    assert [each.data for each in await take(stream, 50)] == list(range(50))
        nothing_is_left()
