"""The client against a gateway that says what it is told to, over real websockets."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.client import (
    ClientError,
    ConnectRefused,
    GatewayClient,
    Guest,
    Jwt,
    LinkLost,
    MemoryStorage,
    PlayerChanged,
    Refusal,
    Rejoined,
    RequestRefused,
    StateChange,
    StorageMismatch,
    link,
)
from gateway.errors import CONNECT_CODES
from tests.client.players import (
    Peer,
    ScriptedGateway,
    greeting,
    make,
    nothing_is_left,
    refusal,
    soon,
    take,
)
from tests.waiting import until

#: RFC 6455, section 1.3.
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

pytestmark = [pytest.mark.gen_test(timeout=90), pytest.mark.expects_warnings]


@asynccontextmanager
async def meeting(
    scripted: ScriptedGateway, client: GatewayClient, **session: Any
) -> AsyncIterator[Peer]:
    """Start a client and greet it; end both, and look for what they left."""
    starting = asyncio.create_task(client.start())
    try:
        peer = await scripted.peer()
        await peer.greet(**session)
        await soon(starting)
        yield peer
    finally:
        starting.cancel()
        await soon(client.close())
    nothing_is_left()


# Connecting


async def test_what_is_presented() -> None:
    async with ScriptedGateway().running() as scripted:
        client = make(scripted.url, Guest("Ada"))
        async with meeting(scripted, client) as first:
            assert first.auth == {"guest": True, "name": "Ada", "recovery": False}
            await first.event("message", {"id": "m1", "from": None, "data": 1, "ts": 1.0})
            await first.close()
            peer = await scripted.peer()
            # Received is enough: it waits in the inbox.
            assert peer.auth == {"token": "token-1", "recovery": False, "offset": "m1"}
            await peer.greet(token="token-2", resumed=True, outcome="resumed")
            await until(lambda: client.connected)
            await peer.close()
            peer = await scripted.peer()
            assert peer.auth["token"] == "token-2"


@pytest.mark.parametrize("code", [code for code, again in CONNECT_CODES.items() if not again])
async def test_a_refused_log_in_is_final(code: str) -> None:
    async with ScriptedGateway().running() as scripted:
        client = make(scripted.url)
        refusals: list[Refusal] = []
        client.on("refused", refusals.append)
        starting = asyncio.create_task(client.start())
        peer = await scripted.peer()
        await peer.send(refusal(code, reconnect=False, retry_after=7))
        with pytest.raises(ConnectRefused) as refused:
            await soon(starting)
        assert (refused.value.code, refused.value.retry_after) == (code, 7)
        assert refusals == [Refusal(code, f"refused: {code}", False, 7.0, True)]
        assert client.state == "closed"
        with pytest.raises(ConnectRefused):
            await soon(client.wait_closed())
        nothing_is_left()


@pytest.mark.parametrize(
    "code",
    [code for code, again in CONNECT_CODES.items() if not again and code != "banned"],
)
async def test_a_refused_token_is_forgotten_and_credentials_are_shown(code: str) -> None:
    async with ScriptedGateway().running() as scripted:
        tokens = iter(("first", "second"))
        client = make(scripted.url, lambda: Jwt(next(tokens)))
        async with meeting(scripted, client) as first:
            assert first.auth["jwt"] == "first"
            await first.close()
            peer = await scripted.peer()
            await peer.send(refusal(code, reconnect=False))
            peer = await scripted.peer()
            assert peer.auth == {"jwt": "second", "recovery": False}
            await peer.greet()
            await until(lambda: client.connected)


async def test_a_banned_player_does_not_come_back_as_another() -> None:
    async with ScriptedGateway().running() as scripted:
        client = make(scripted.url)
        async with meeting(scripted, client) as first:
            waiting = client.send("p_2", 1)
            messages = client.messages()
            await first.close()
            peer = await scripted.peer()
            await peer.send(refusal("banned", reconnect=False))
            for each in (client.wait_closed(), waiting, anext(messages)):
                with pytest.raises(ConnectRefused, match="banned"):
                    await soon(each)


@pytest.mark.parametrize("code", [code for code, again in CONNECT_CODES.items() if again])
async def test_a_refusal_for_now_is_waited_out(code: str) -> None:
    async with ScriptedGateway().running() as scripted:
        client = make(scripted.url, reconnect_delay=0.001, reconnect_delay_max=0.001)
        starting = asyncio.create_task(client.start())
        peer = await scripted.peer()
        refused_at = asyncio.get_running_loop().time()
        await peer.send(refusal(code, reconnect=True, retry_after=0.4))
        peer = await scripted.peer()
        assert peer.at - refused_at >= 0.4
        await peer.greet()
        await soon(starting)
        await soon(client.close())
        nothing_is_left()


async def test_goaway_is_waited_out_and_the_message_is_sent_again() -> None:
    async with ScriptedGateway().running() as scripted:
        client = make(scripted.url, reconnect_delay=0.001, reconnect_delay_max=0.001)
        states: list[StateChange] = []
        client.on("state", states.append)
        async with meeting(scripted, client) as first:
            receipt = client.send("p_2", "x")
            _, name, payload = await first.received()
            gone_at = asyncio.get_running_loop().time()
            await first.event("goaway", {"reason": "draining", "reconnect_in": 0.5})
            peer = await scripted.peer()
            assert peer.at - gone_at >= 0.5
            await peer.greet(resumed=True, outcome="resumed")
            ack, again, second = await peer.received()
            assert (name, payload) == (again, second)
            assert payload["id"]
            await peer.ack(ack, {"ok": True, "id": "m", "status": "queued", "connections": 0})
            assert (await soon(receipt)).status == "queued"
        assert states[:3] == [
            StateChange("live", ""),
            StateChange("away", "draining"),
            StateChange("live", ""),
        ]


async def test_a_server_that_never_greets_is_left() -> None:
    async with ScriptedGateway().running() as scripted:
        client = make(scripted.url, connect_timeout=0.2)
        starting = asyncio.create_task(client.start())
        await scripted.peer()
        peer = await scripted.peer()
        await peer.send('40{"sid":"x"}', '42["session",{"nonsense":true}]')
        peer = await scripted.peer()
        await peer.greet()
        await soon(starting)
        await soon(client.close())
        nothing_is_left()


async def test_credentials_that_cannot_be_had_are_asked_for_again() -> None:
    asked: list[str] = []

    async def auth() -> Guest:
        asked.append("")
        if len(asked) < 3:
            raise OSError("the identity provider is away")
        return Guest()

    async with ScriptedGateway().running() as scripted:
        client = make(scripted.url, auth)
        faults: list[Any] = []
        client.on("error", faults.append)
        async with meeting(scripted, client):
            assert len(asked) == 3
            assert [fault.code for fault in faults] == ["auth_failed"] * 2


# What a lost store and another player mean


async def test_after_a_lost_store_the_old_offset_is_forgotten() -> None:
    storage = MemoryStorage()
    async with ScriptedGateway().running() as scripted:
        client = make(scripted.url, storage=storage)
        lost: list[Any] = []
        client.on("lost", lost.append)
        async with meeting(scripted, client) as first:
            await first.event("message", {"id": "a1", "from": None, "data": 1, "ts": 1})
            messages = client.messages()
            await take(messages, 1)
            await first.close()
            peer = await scripted.peer()
            assert peer.auth["offset"] == "a1"
            gap = {"after": "a1", "lost": None}
            await peer.greet(token="token-2", outcome="store_reset", gap=gap)
            await peer.event("message", {"id": "b1", "from": None, "data": 2, "ts": 2})
            # Handling the old one must not bring its offset back.
            await take(messages, 1)
            assert storage._record is not None
            assert storage._record.offset is None
            assert [each.outcome for each in lost] == ["store_reset"]
            await peer.close()
            peer = await scripted.peer()
            assert peer.auth == {"token": "token-2", "recovery": False, "offset": "b1"}
            await peer.greet(token="token-3", resumed=True, outcome="resumed")


async def test_what_has_no_receipt_is_not_sent_in_another_players_name() -> None:
    async with ScriptedGateway().running() as scripted:
        client = make(scripted.url)
        async with meeting(scripted, client) as first:
            receipt = client.send("p_2", 1)
            await first.received()
            await first.close()
            peer = await scripted.peer()
            await peer.send(refusal("token_expired", reconnect=False))
            peer = await scripted.peer()
            await peer.greet(true_id="p_new")
            with pytest.raises(PlayerChanged):
                await soon(receipt)
            assert client.true_id == "p_new"


async def test_a_token_is_shown_to_the_gateway_that_gave_it_only() -> None:
    storage = MemoryStorage()
    async with ScriptedGateway().running() as one, ScriptedGateway().running() as two:
        async with meeting(one, make(one.url, storage=storage)):
            pass
        with pytest.raises(StorageMismatch):
            await soon(make(two.url, storage=storage).start())
        assert two.peers.empty()
        async with meeting(one, make(one.url, storage=storage)) as peer:
            assert peer.auth["token"] == "token-1"


# Sending


async def test_refused_for_now_keeps_the_order() -> None:
    async with ScriptedGateway().running() as scripted:
        client = make(scripted.url)
        async with meeting(scripted, client) as peer:
            receipts = [client.send("p_2", number) for number in range(3)]
            order = []
            refused = False
            while len(order) < 3:
                ack, _, payload = await peer.received()
                if payload["data"] == 1 and not refused:
                    refused = True
                    error = {"code": "rate_limited", "message": "later", "retry_after": 0.05}
                    await peer.ack(ack, {"ok": False, "error": error})
                    continue
                order.append(payload["data"])
                await peer.ack(ack, {"ok": True, "id": f"m{ack}", "status": "delivered"})
            assert order == [0, 1, 2]
            assert refused
            for receipt in receipts:
                assert (await soon(receipt)).status == "delivered"


@pytest.mark.parametrize("answer", [{"ok": False}, {"ok": True}, [], "no", 7])
async def test_an_answer_that_is_none_is_an_error_and_no_traceback(answer: Any) -> None:
    async with ScriptedGateway().running() as scripted:
        client = make(scripted.url)
        async with meeting(scripted, client) as peer:
            receipt = client.send("p_2", 1)
            ack, _, _ = await peer.received()
            await peer.ack(ack, answer)
            with pytest.raises(RequestRefused) as refused:
                await soon(receipt)
            assert refused.value.code == "unknown"
            asking = asyncio.create_task(client.players())
            ack, _, _ = await peer.received()
            await peer.ack(ack, answer)
            with pytest.raises(ClientError):
                await soon(asking)
            assert client.connected


async def test_what_is_published_and_asked_of_rooms() -> None:
    async with ScriptedGateway().running() as scripted:
        client = make(scripted.url)
        changes: list[Any] = []
        client.on("room", changes.append)
        async with meeting(scripted, client) as peer:
            joining = asyncio.create_task(client.join("lobby"))
            ack, name, payload = await peer.received()
            assert (name, payload) == ("join", {"room": "lobby"})
            await peer.ack(ack, {"ok": True, "members": 3})
            assert (await soon(joining)).members == 3
            receipt = client.publish("lobby", [1], type="move", key="k", echo=False, id="once")
            ack, name, payload = await peer.received()
            assert (name, payload) == (
                "publish",
                {
                    "room": "lobby",
                    "type": "move",
                    "key": "k",
                    "echo": False,
                    "data": [1],
                    "id": "once",
                },
            )
            await peer.ack(ack, {"ok": True, "id": "m", "status": "delivered", "connections": 2})
            assert (await soon(receipt)).connections == 2
            await peer.event("room", {"room": "lobby", "joined": "p_2", "members": 4})
            await until(lambda: bool(changes))
            assert (changes[0].joined, changes[0].members) == ("p_2", 4)


async def test_a_log_out_that_nobody_hears_of_still_forgets_the_token() -> None:
    storage = MemoryStorage()
    async with ScriptedGateway().running() as scripted:
        client = make(scripted.url, storage=storage)
        async with meeting(scripted, client) as peer:
            leaving = asyncio.create_task(client.logout())
            _, name, _ = await peer.received()
            assert name == "logout"
            await peer.close()
            with pytest.raises(LinkLost):
                await soon(leaving)
            assert client.state == "closed"
            assert storage._record is None


async def answer(peer: Any, event: str, payload: Any, reply: dict[str, Any]) -> None:
    ack, name, received = await peer.received()
    assert (name, received) == (event, payload)
    await peer.ack(ack, reply)


def no(code: str) -> dict[str, Any]:
    return {"ok": False, "error": {"code": code, "message": "no"}}


async def test_a_room_is_joined_again_where_the_membership_has_ended() -> None:
    asked, lobby = {"room": "lobby", "limit": 1}, {"room": "lobby"}
    page = {"ok": True, "room": "lobby", "members": 2, "players": []}
    async with ScriptedGateway().running() as scripted:
        client = make(scripted.url)
        told: list[Any] = []
        for event in ("room", "rejoined", "error"):
            client.on(event, told.append)  # type: ignore[call-overload]
        async with meeting(scripted, client) as first:
            joining = asyncio.create_task(client.join("lobby"))
            await answer(first, "join", lobby, {"ok": True, "members": 1})
            await soon(joining)
            # The gateway says so.
            receipt = client.publish("lobby", 1, id="once")
            publish = {"room": "lobby", "data": 1, "id": "once"}
            await answer(first, "publish", publish, no("not_member"))
            await answer(first, "members", asked, no("not_member"))
            await answer(first, "join", lobby, {"ok": True, "members": 1})
            await answer(first, "publish", publish, {"ok": True, "id": "m", "status": "queued"})
            await soon(receipt)
            assert told == [Rejoined("lobby", 1)]
            # It lasts: nothing is to be done.
            await first.close()
            peer = await scripted.peer()
            await peer.greet(resumed=True, outcome="resumed")
            await answer(peer, "members", asked, page)
            # It ended; the connection is lost before that is known, and again before it is cured.
            await peer.close()
            peer = await scripted.peer()
            await peer.greet(resumed=True, outcome="resumed")
            assert (await peer.received())[1:] == ("members", asked)
            await peer.close()
            peer = await scripted.peer()
            await peer.greet(resumed=True, outcome="resumed")
            await answer(peer, "members", asked, no("not_member"))
            assert (await peer.received())[1:] == ("join", lobby)
            await peer.close()
            peer = await scripted.peer()
            await peer.greet(resumed=True, outcome="resumed")
            await answer(peer, "members", asked, no("not_member"))
            await answer(peer, "join", lobby, {"ok": True, "members": 3})
            await until(lambda: len(told) == 2)
            assert told[1] == Rejoined("lobby", 3)
            # The room is no longer open to this player.
            await peer.close()
            peer = await scripted.peer()
            await peer.greet(outcome="expired")
            await answer(peer, "members", asked, no("not_member"))
            await answer(peer, "join", lobby, no("forbidden"))
            await until(lambda: len(told) == 4)
            assert (told[2].code, told[3].room, told[3].left) == ("forbidden", "lobby", "p_1")
            refused = client.publish("lobby", 2, id="never")
            publish = {"room": "lobby", "data": 2, "id": "never"}
            await answer(peer, "publish", publish, no("not_member"))
            with pytest.raises(RequestRefused, match="not_member"):
                await soon(refused)


async def test_a_peer_that_takes_nothing_any_more_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its socket stays open and its buffers are full: neither side sees an end."""
    # The heartbeat has to tell.
    monkeypatch.setattr(link, "_WRITE_SECONDS", 1000)
    held: list[asyncio.StreamWriter] = []

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        key = re.search(rb"(?i)sec-websocket-key: (\S+)", head)
        assert key is not None
        accept = base64.b64encode(hashlib.sha1(key[1] + _MAGIC).digest())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        opening = {"sid": "e", "upgrades": [], "pingInterval": 200, "pingTimeout": 200}
        session = json.dumps(["session", greeting(limits={"message_bytes": 0})])
        for text in ("0" + json.dumps(opening), '40{"sid":"x"}', "42" + session):
            data = text.encode()
            writer.write(struct.pack("!BBH", 0x81, 126, len(data)) + data)
        # And from now on it reads nothing.
        reader._transport.pause_reading()  # type: ignore[attr-defined]

    server = await asyncio.start_server(stall, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = make(f"http://127.0.0.1:{port}")
    await soon(client.start())
    states: list[str] = []
    client.on("state", lambda change: states.append(change.state))
    for number in range(20):
        client.send(f"p_{number}", "x" * 1_000_000)
    await until(lambda: client._core.connection.backlog > 10)
    await until(lambda: len(held) > 1 and states[:1] == ["away"])
    await soon(client.close())
    nothing_is_left()
    server.close()
    for writer in held:
        writer.transport.abort()
    await asyncio.sleep(0)
