"""The upgrade from polling to websocket: nothing lost, doubled or out of order on the way."""

from __future__ import annotations

import asyncio

import pytest

from gateway.server import Gateway
from tests.transport.client import (
    SEPARATOR,
    WEBSOCKETS,
    Clients,
    Ended,
    Player,
    Polling,
    WebSocket,
    refusal,
    soon,
)
from tests.waiting import until

pytestmark = [pytest.mark.gen_test, WEBSOCKETS]


async def probe(clients: Clients, polling: Polling) -> WebSocket:
    """Open the websocket and do the probe, up to where the client sends UPGRADE."""
    websocket = WebSocket(await clients.upgrade_request(sid=polling.sid))
    websocket.sid = polling.sid
    await websocket.send("2probe")
    assert await websocket.receive() == "3probe"
    return websocket


async def polling_player(clients: Clients) -> tuple[Player, Polling]:
    player = await clients.player("polling")
    assert isinstance(player.link, Polling)
    return player, player.link


async def ping(player: Player) -> None:
    assert (await player.call("presence_watch", {"true_ids": []}))["ok"]


async def test_no_open_packet_comes_on_the_probe(clients: Clients) -> None:
    _, polling = await polling_player(clients)
    await probe(clients, polling)


async def test_upgraded_session_talks_on_the_websocket(clients: Clients) -> None:
    player, polling = await polling_player(clients)
    player.link = await probe(clients, polling)
    await player.link.send("5")
    await ping(player)


async def test_session_may_log_in_after_the_upgrade(clients: Clients) -> None:
    _, websocket = await clients.upgraded()
    player = await Player.log_in(websocket)
    assert player.session["outcome"] == "new"


async def test_pending_poll_is_answered_with_noop_by_the_probe(clients: Clients) -> None:
    player, polling = await polling_player(clients)
    poll = polling.get()
    player.link = await probe(clients, polling)
    assert (await soon(poll)).body == b"6"
    await player.link.send("5")
    await ping(player)


async def test_without_pending_poll_no_noop_comes(clients: Clients) -> None:
    player, polling = await polling_player(clients)
    player.link = await probe(clients, polling)
    await player.link.send("5")
    await player.link.send('421["presence_watch",{"true_ids":[]}]')
    # The very next frame is the answer.
    assert await player.link.receive() == '431[{"ok":true,"presence":{}}]'


async def test_poll_during_the_probe_is_answered_at_once(clients: Clients) -> None:
    player, polling = await polling_player(clients)
    player.link = await probe(clients, polling)
    assert await polling.poll() == "6"
    await player.link.send("5")
    await ping(player)


async def test_packets_waiting_for_a_poll_move_to_the_websocket(clients: Clients) -> None:
    player, polling = await polling_player(clients)
    await polling.send(*(f'42{i}["presence_watch",{{"true_ids":[]}}]' for i in range(5)))
    player.link = await probe(clients, polling)
    await player.link.send("5")
    for i in range(5):
        assert await player.link.receive() == f'43{i}[{{"ok":true,"presence":{{}}}}]'


async def test_posts_during_the_probe_are_taken(clients: Clients) -> None:
    player, polling = await polling_player(clients)
    player.link = await probe(clients, polling)
    await polling.send('421["presence_watch",{"true_ids":[]}]')
    await player.link.send("5")
    assert await player.link.receive() == '431[{"ok":true,"presence":{}}]'


async def test_messages_during_the_upgrade_come_once_and_in_order(clients: Clients) -> None:
    ann = await clients.player("websocket")
    bob, polling = await polling_player(clients)
    sent = 0
    got: list[int] = []

    async def say_on() -> None:
        nonlocal sent
        while len(got) < 60:
            sent += 1
            assert (await ann.send(bob, sent))["ok"]

    def take(packet: object) -> None:
        if packet != "6":
            assert isinstance(packet, str)
            assert packet.startswith('42["message"'), packet
            got.append(int(packet.partition('"data":')[2].partition(",")[0]))

    talking = asyncio.ensure_future(say_on())
    for _ in range(3):
        for packet in (await polling.poll()).split(SEPARATOR):
            take(packet)
    poll = polling.get()
    websocket = await probe(clients, polling)
    for packet in (await soon(poll)).body.decode().split(SEPARATOR):
        take(packet)
    before = sent
    await until(lambda: sent > before + 2)
    await websocket.send("5")
    while len(got) < 60:
        take(await websocket.receive())
    await soon(talking)
    while len(got) < sent:
        take(await websocket.receive())
    assert got == list(range(1, sent + 1))


async def test_polls_and_posts_after_the_upgrade_are_refused(clients: Clients) -> None:
    player, polling = await polling_player(clients)
    player.link = await probe(clients, polling)
    await player.link.send("5")
    await ping(player)
    assert refusal(await soon(polling.get())) == (400, 1)
    assert refusal(await polling.post("1")) == (400, 1)
    await ping(player)


async def test_poll_pending_at_the_upgrade_is_answered(clients: Clients) -> None:
    # A client that did not wait for its last poll.
    player, polling = await polling_player(clients)
    websocket = WebSocket(await clients.upgrade_request(sid=polling.sid))
    poll = polling.get()
    await websocket.send("2probe", "5")
    assert await websocket.receive() == "3probe"
    assert (await soon(poll)).code in {200, 400}
    player.link = websocket
    await ping(player)


async def test_second_websocket_of_a_session_is_refused(clients: Clients) -> None:
    player, polling = await polling_player(clients)
    websocket = await probe(clients, polling)
    assert await clients.refused_upgrade(sid=polling.sid) == (400, 3)
    player.link = websocket
    await player.link.send("5")
    await ping(player)
    assert await clients.refused_upgrade(sid=polling.sid) == (400, 1)
    await ping(player)


@pytest.mark.parametrize("packet", ["2", "5", "6", "2Probe", "1", "x", "", '42["a"]', b"2probe"])
async def test_wrong_first_packet_ends_the_probe_alone(
    clients: Clients, packet: str | bytes
) -> None:
    player, polling = await polling_player(clients)
    websocket = WebSocket(await clients.upgrade_request(sid=polling.sid))
    await websocket.send(packet)
    assert await websocket.ended() == []
    await ping(player)


@pytest.mark.parametrize("packet", ["2probe", "4", '42["a"]', "6", b"5"])
async def test_wrong_packet_after_the_probe_ends_the_probe_alone(
    clients: Clients, packet: str | bytes
) -> None:
    player, polling = await polling_player(clients)
    websocket = await probe(clients, polling)
    await websocket.send(packet)
    assert await websocket.ended() == []
    await ping(player)


@pytest.mark.parametrize("probed", [False, True])
async def test_given_up_probe_leaves_the_session_on_polling(clients: Clients, probed: bool) -> None:
    player, polling = await polling_player(clients)
    if probed:
        websocket = await probe(clients, polling)
    else:
        websocket = WebSocket(await clients.upgrade_request(sid=polling.sid))
    websocket.connection.close()
    with pytest.raises(Ended):
        await websocket.receive()
    # Messages still come by polls, which wait again, and a new probe may follow.
    ann = await clients.player("websocket")
    poll = polling.get()
    await asyncio.wait([poll], timeout=0.05)
    assert not poll.done()
    await ann.send(player, 1)
    assert b'"data":1' in (await soon(poll)).body
    player.link = await probe(clients, polling)
    await player.link.send("5")
    await ping(player)


@pytest.mark.settings(limits={"message_bytes": 1024})
async def test_oversized_frame_on_the_probe(clients: Clients) -> None:
    _, polling = await polling_player(clients)
    websocket = await probe(clients, polling)
    await websocket.send("x" * 10_000)
    await websocket.ended()


async def test_probe_that_does_nothing_is_given_up(clients: Clients, gateway: Gateway) -> None:
    player, polling = await polling_player(clients)
    upgrades = gateway._engine.upgrades
    upgrades._duration = 0.1
    websocket = WebSocket(await clients.upgrade_request(sid=polling.sid))
    assert await websocket.ended() == []
    await ping(player)


# Closing in every state


@pytest.mark.parametrize("state", ["opened", "probed", "polling", "upgraded"])
@pytest.mark.parametrize("by", ["gateway", "client"])
async def test_session_may_end_in_every_state(
    clients: Clients, gateway: Gateway, state: str, by: str
) -> None:
    player, polling = await polling_player(clients)
    websocket = poll = None
    if state == "opened":
        websocket = WebSocket(await clients.upgrade_request(sid=polling.sid))
    elif state == "probed":
        websocket = await probe(clients, polling)
    elif state == "upgraded":
        websocket = player.link = await probe(clients, polling)
        await websocket.send("5")
        await ping(player)
    else:
        poll = polling.get()
        connection = gateway._engine.connection(polling.sid)
        await until(lambda: connection._poll is not None)
    await player.link.send("1" if by == "client" else '429["logout",{}]')
    if websocket is not None:
        # The probe is closed too.
        left = await websocket.ended()
        assert left == ([] if state != "upgraded" or by == "client" else ['439[{"ok":true}]', "41"])
    if poll is not None:
        assert (await soon(poll)).body == (b"6" if by == "client" else b'439[{"ok":true}]')
    if by == "gateway" and state != "upgraded":
        rest = await polling.ended()
        assert rest[-1:] == ["41"]
    await until(lambda: len(gateway._engine) == 0)
    assert refusal(await soon(polling.get())) == (400, 1)
    assert await clients.refused_upgrade(sid=polling.sid) == (400, 1)
