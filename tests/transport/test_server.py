"""The gateway as a whole: start, drain, stop; and as a process that gets signals."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError

from gateway.auth.users_file import UsersFile
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.lifecycle import serve
from gateway.messages import TrueId
from gateway.server import Gateway
from tests.gateway_process import GatewayProcess
from tests.transport.client import (
    TRANSPORTS,
    WEBSOCKETS,
    Clients,
    Ended,
    Player,
    connect_refused,
    refusal,
    soon,
)
from tests.transport.conftest import change, nothing_runs
from tests.waiting import until

pytestmark = pytest.mark.gen_test(timeout=60)


# Start


async def test_start_says_where_it_serves(gateway: Gateway, clients: Clients) -> None:
    assert gateway.url == clients.url + "/"
    assert (await clients.fetch("/readyz")).code == 200


@pytest.mark.parametrize(
    ("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("localhost", "localhost"), ("::1", "[::1]")]
)
async def test_url_is_one_to_click_on(tmp_path: Path, host: str, shown: str) -> None:
    config = change(Config(), server={"host": host, "port": 0})
    gateway = Gateway(config, tmp_path, {})
    await gateway.start()
    try:
        port = gateway.url.rstrip("/").rpartition(":")[2]
        assert gateway.url == f"http://{shown}:{port}/"
        assert int(port) > 0
    finally:
        await gateway.stop()
        await nothing_runs()


@pytest.mark.settings(server={"public_url": "https://play.example"})
async def test_public_url_is_what_is_told(gateway: Gateway) -> None:
    assert gateway.url == "https://play.example"


# Tornado leaves the socket that it could not bind to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
async def test_port_that_is_taken(gateway: Gateway, tmp_path: Path) -> None:
    port = int(gateway.url.rstrip("/").rpartition(":")[2])
    second = Gateway(change(gateway.config, server={"port": port}), tmp_path / "second", {})
    with pytest.raises(OSError, match="Address already in use"):
        await second.start()
    gc.collect()


async def test_missing_index_of_the_own_directory_is_a_clear_error(tmp_path: Path) -> None:
    config = change(Config(), server={"port": 0}, static={"path": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"static\.path: there is no index\.html in"):
        await Gateway(config, tmp_path / "state", {}).start()


# Accounts


@pytest.mark.settings(auth={"methods": ("guest", "password")})
async def test_accounts_come_and_go_while_it_runs(
    gateway: Gateway, clients: Clients, tmp_path: Path
) -> None:
    names = iter(("p_ada",))
    users = UsersFile(tmp_path / "state" / "users", lambda: TrueId(next(names)))
    guest = await clients.player("websocket")
    message = {"target_id": "p_ada", "data": 1}
    assert (await guest.call("message", message))["error"]["code"] == "unknown_target"
    users.add("ada", "correct horse battery")
    await gateway._check_accounts()
    assert (await guest.call("message", message))["status"] == "queued"
    credentials = {"username": "ada", "password": "correct horse battery"}
    ada = await clients.player("websocket", credentials)
    users.remove("ada")
    for _ in range(2):
        await gateway._check_accounts()
    await soon(ended(ada.link))
    link = await clients.link("websocket")
    assert await connect_refused(link, {"token": ada.session["token"]}) == "session_revoked"


# Mailboxes


async def queued(clients: Clients, number: int) -> list[str]:
    """Send messages to a player who is away; return what became of each."""
    away, sender = [await clients.player("websocket") for _ in range(2)]
    await away.link.send("1")
    await soon(ended(away.link))
    message = {"target_id": away.true_id, "data": 1}
    receipts = [await sender.call("message", message) for _ in range(number)]
    return [receipt.get("status") or receipt["error"]["code"] for receipt in receipts]


@pytest.mark.settings(mailbox={"max_messages": 2, "when_full": "refuse"})
async def test_full_mailbox_refuses_when_that_is_configured(clients: Clients) -> None:
    assert await queued(clients, 4) == ["queued", "queued", "mailbox_full", "mailbox_full"]
    text = (await clients.fetch("/metrics")).body.decode()
    assert 'gateway_limit_hits_total{limit="mailbox.max_messages"} 2.0' in text
    assert 'gateway_dropped_messages_total{reason="trimmed"} 0.0' in text


@pytest.mark.settings(mailbox={"max_messages": 2})
async def test_full_mailbox_drops_its_oldest_by_default_and_counts_them(clients: Clients) -> None:
    assert await queued(clients, 4) == ["queued"] * 4
    text = (await clients.fetch("/metrics")).body.decode()
    assert 'gateway_dropped_messages_total{reason="trimmed"} 2.0' in text


async def test_gateway_whose_store_is_away_is_not_ready(gateway: Gateway, clients: Clients) -> None:
    gateway._store.available = False  # type: ignore[misc]
    response = await clients.fetch("/readyz")
    assert (response.code, b"store" in response.body) == (503, True)
    gateway._store.available = True  # type: ignore[misc]
    assert (await clients.fetch("/readyz")).code == 200


# Drain


@pytest.mark.settings(server={"shutdown_grace": 300.0, "reconnects_per_second": 0.1})
async def test_drain_asks_everyone_to_leave_at_another_moment(
    gateway: Gateway, clients: Clients
) -> None:
    players = [await clients.player(transport) for transport in TRANSPORTS * 4]
    idle = await clients.link("websocket")
    draining = asyncio.ensure_future(gateway.drain())
    delays = []
    for player in players:
        (goaway,) = await player.event("goaway")
        assert goaway["reason"] == "draining"
        delays.append(goaway["reconnect_in"])
    assert sorted(delays) == [11.0, 21.0, 31.0, 41.0, 51.0, 61.0, 71.0, 81.0]
    assert (await clients.fetch("/readyz")).code == 503
    assert (await clients.fetch("/healthz")).code == 200
    # Newcomers are turned away, those who are here may still talk.
    await idle.send('40{"guest":true}')
    packet = str(await idle.receive())
    data = json.loads(packet[2:])["data"]
    assert (packet[:2], data["code"], data["reconnect"]) == ("44", "draining", True)
    # A stock client that comes back by itself would not try again after a refusal.
    returning = await clients.link("websocket")
    await returning.send(f'40{{"pid":"{players[0].pid}"}}')
    assert await returning.ended() == []
    assert (await players[0].send(players[1], "bye"))["status"] == "delivered"
    assert await players[1].message() == "bye"
    assert not draining.done()
    # It waits no longer than for the last one to go.
    for player in players:
        await player.link.send("1")
    await soon(draining)


@pytest.mark.settings(server={"shutdown_grace": 0.2})
async def test_drain_waits_no_longer_than_the_grace(gateway: Gateway, clients: Clients) -> None:
    player = await clients.player("websocket")
    await soon(gateway.drain())
    assert (await player.event("goaway"))[0]["reason"] == "draining"
    assert (await player.call("presence_watch", {"true_ids": []}))["ok"]


@pytest.mark.settings(server={"shutdown_grace": 300.0, "reconnects_per_second": 4})
async def test_drain_closes_who_stays_in_the_order_of_the_returns(
    gateway: Gateway, clients: Clients
) -> None:
    players = [await clients.player(transport) for transport in TRANSPORTS * 3]
    left: list[float] = []

    async def stay(player: Player) -> None:
        (goaway,) = await player.event("goaway")
        # Stock clients take that for a lost link, and come back by themselves.
        assert await player.link.ended() == []
        left.append(goaway["reconnect_in"])

    staying = [asyncio.ensure_future(stay(player)) for player in players]
    await soon(gateway.drain())
    await soon(asyncio.gather(*staying))
    assert sorted(left) == [1.25, 1.5, 1.75, 2.0, 2.25, 2.5]
    assert left == sorted(left)
    text = (await clients.fetch("/metrics")).body.decode()
    assert 'gateway_closed_connections_total{reason="draining"} 6.0' in text


@pytest.mark.settings(
    server={"shutdown_grace": 60.0, "reconnects_per_second": 0},
    limits={"messages_per_second": 0, "burst": 0},
)
async def test_who_is_sent_away_has_a_receipt_for_each_message_that_was_kept(
    gateway: Gateway, clients: Clients
) -> None:
    player = await clients.player("websocket")
    draining = asyncio.ensure_future(gateway.drain())
    await player.event("goaway")
    kept = 0

    async def read() -> None:
        nonlocal kept
        with contextlib.suppress(Ended):
            while True:
                packet = str(await player.link.receive())
                kept += packet.startswith("43") and json.loads(packet[packet.index("[") :])[0]["ok"]

    reading = asyncio.ensure_future(read())
    with contextlib.suppress(Ended):
        while not reading.done():
            message = {"target_id": player.true_id, "data": "x"}
            await player.emit("message", message, ack="1")
            await asyncio.sleep(0)
    await soon(draining)
    await soon(reading)
    assert kept
    assert (await gateway._store.view(player.true_id)).head == kept


async def test_drain_of_an_empty_gateway_is_over_at_once(gateway: Gateway) -> None:
    await soon(gateway.drain())


# Stop


def sockets() -> set[str]:
    """Return the sockets that this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


@WEBSOCKETS
async def test_stop_leaves_nothing_open(settings: Config, tmp_path: Path) -> None:
    gc.collect()
    before = sockets()
    gateway = Gateway(settings, tmp_path / "state", {})
    await gateway.start()
    clients = Clients(gateway.url.rstrip("/"))
    links = [(await clients.player(transport)).link for transport in TRANSPORTS]
    links += [await clients.link(transport) for transport in TRANSPORTS]
    _, upgraded = await clients.upgraded()
    probing = await clients.polling()
    await clients.upgrade_request(sid=probing.sid)
    polls = [link.get() for link in links if hasattr(link, "get")]
    waiting = [gateway._engine.connection(link.sid) for link in links if hasattr(link, "get")]
    await until(lambda: all(connection._poll is not None for connection in waiting))
    await gateway.stop()
    for poll in polls:
        assert (await soon(poll)).body in {b"1", b""}
    for link in (*links, upgraded):
        if not hasattr(link, "get"):
            assert await link.ended() == []
    await clients.close()
    await nothing_runs()
    gc.collect()
    assert sockets() <= before
    assert len(gateway._engine) == 0
    assert gateway._registry.players == 0


# Tornado's own websockets give up on the closing handshake after five seconds.
async def test_stop_does_not_wait_for_clients_that_do_not_answer(
    settings: Config, tmp_path: Path
) -> None:
    gateway = Gateway(settings, tmp_path / "state", {})
    await gateway.start()
    clients = Clients(gateway.url.rstrip("/"))
    raw = await clients.raw_websocket()
    await raw.log_in()
    await asyncio.wait_for(gateway.stop(), 2)
    await nothing_runs()
    await clients.close()


async def test_stopped_gateway_takes_no_connection(settings: Config, tmp_path: Path) -> None:
    gateway = Gateway(settings, tmp_path / "state", {})
    await gateway.start()
    port = int(gateway.url.rstrip("/").rpartition(":")[2])
    await gateway.stop()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_stop_while_a_client_is_admitted(settings: Config, tmp_path: Path) -> None:
    config = change(settings, resume={"probe_timeout": 60.0})
    gateway = Gateway(config, tmp_path / "state", {})
    await gateway.start()
    clients = Clients(gateway.url.rstrip("/"))
    player = await clients.player("websocket")
    player.link.answers_pings = False
    link = await clients.link("websocket")
    await link.send(f'40{{"token":"{player.session["token"]}"}}')
    assert await player.link.receive() == "2"
    await asyncio.wait_for(gateway.stop(), 2)
    assert await link.ended() == []
    await clients.close()
    await nothing_runs()


# Signals


async def test_second_signal_stops_at_once(settings: Config, tmp_path: Path) -> None:
    gateway = Gateway(change(settings, server={"shutdown_grace": 60.0}), tmp_path / "state", {})
    urls: asyncio.Queue[str] = asyncio.Queue()
    serving = asyncio.ensure_future(serve(gateway, urls.put_nowait, lambda: gateway.config))
    clients = Clients((await soon(urls.get())).rstrip("/"))
    player = await clients.player("websocket")
    os.kill(os.getpid(), signal.SIGTERM)
    assert (await player.event("goaway"))[0]["reason"] == "draining"
    assert not serving.done()
    os.kill(os.getpid(), signal.SIGTERM)
    await soon(serving)
    await clients.close()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.remove_signal_handler(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_process_drains_on_a_signal_and_exits_with_0(
    tmp_path: Path, number: signal.Signals
) -> None:
    variables = {"GATEWAY_SERVER_SHUTDOWN_GRACE": "10"}
    with GatewayProcess(tmp_path, variables=variables) as process:
        async with Clients(process.url) as clients:
            players = [await clients.player(transport) for transport in TRANSPORTS]
            process.terminate(number)
            for player in players:
                assert (await player.event("goaway"))[0]["reason"] == "draining"
                await player.link.send("1")
            await soon(asyncio.to_thread(process.wait))
        assert process.out == f"Serving {process.url}\n"
        assert "stopped" in process.log


async def test_process_closes_whoever_stays(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path) as process:
        async with Clients(process.url) as clients:
            players = [await clients.player(transport) for transport in TRANSPORTS]
            poll = await players[0].link.open_poll()  # type: ignore[attr-defined]
            # The gateway has the poll by then.
            assert (await clients.fetch("/healthz")).code == 200
            process.terminate()
            assert (await poll.response())[1].startswith(b'42["goaway"')
            packets = await soon(ended(players[1].link))
            assert str(packets[0]).startswith('42["goaway"')
            await soon(asyncio.to_thread(process.wait))


async def ended(link: Any) -> list[Any]:
    """Return what came until the gateway closed, by a packet or by going away."""
    packets = []
    with contextlib.suppress(Ended, OSError, HTTPClientError):
        while True:
            packets.append(await link.receive())
    return packets


async def test_tokens_outlive_a_restart_but_the_memory_store_says_it_is_new(
    tmp_path: Path,
) -> None:
    with GatewayProcess(tmp_path, config={"store": {"url": "memory://"}}) as process:
        async with Clients(process.url) as clients:
            before = await clients.player("websocket")
            process.stop()
        process.start()
        async with Clients(process.url) as clients:
            link = await clients.link("websocket")
            after = await Player.log_in(link, {"token": before.session["token"]})
            assert after.true_id == before.true_id
            assert after.session["outcome"] == "store_reset"
            assert refusal(await clients.engine(sid=before.link.sid)) == (400, 1)
