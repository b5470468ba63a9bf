"""Bad input gets a clear coded error and disturbs nobody else.

A pair of players keeps talking through each case. That no traceback and no warning is
logged is checked for every test of this folder.
"""

from __future__ import annotations

import contextlib
import gc
import json
from typing import Any

import pytest

from gateway.errors import CONNECT_CODES, REQUEST_CODES
from tests.transport.client import (
    TRANSPORTS,
    Clients,
    Ended,
    Pair,
    Player,
    Polling,
    refusal,
)

pytestmark = [pytest.mark.gen_test, pytest.mark.parametrize("transport", TRANSPORTS)]

MEGABYTE = "x" * 1_000_000


async def answer(link: Any) -> dict[str, Any]:
    """Return the error in the next packet, however it comes: refusal, ack or event."""
    packet = await link.receive()
    assert isinstance(packet, str)
    assert len(packet) < 2000
    assert "Traceback" not in packet
    payload = json.loads(packet[packet.index("{") if packet[1] == "4" else packet.index("[") :])
    if packet[:2] == "44":
        assert payload["message"]
        error: dict[str, Any] = payload["data"]
        assert error["code"] in CONNECT_CODES
        return error
    error = payload[1] if packet[:2] == "42" else payload[0]["error"]
    assert error["code"] in REQUEST_CODES
    assert error["message"]
    return error


async def bystanders(pair: Pair) -> None:
    """See that the others go on, and that nothing failed unseen."""
    await pair.talk()
    gc.collect(1)
    await pair.talk()


EVENTS = {
    "malformed array": '42["message",{"target_id":',
    "malformed object": '42["message",{"target_id":"x","data":{]}]',
    "no JSON": "42hello",
    "no array": '42{"message":1}',
    "no name": "42[]",
    "name is a number": "42[1,{}]",
    "unknown event": '42["teleport",{"x":1}]',
    "reserved event": '42["disconnect"]',
    "unknown event with ack": '427["teleport",{"x":1}]',
    "no payload": '42["message"]',
    "payload is null": '421["message",null]',
    "payload is text": '421["message","hello"]',
    "payload is an array": '421["message",[]]',
    "two payloads": '421["message",{"target_id":"x","data":1},{}]',
    "target is a number": '421["message",{"target_id":7,"data":1}]',
    "target is empty": '421["message",{"target_id":"","data":1}]',
    "target is nobody": '421["message",{"target_id":"p_nobody","data":1}]',
    "bracket too many": '421["message",{}]]',
    "data is missing": '421["message",{"target_id":"x"}]',
    "unknown key": '421["message",{"target_id":"x","data":1,"colour":2}]',
    "id is a number": '421["message",{"target_id":"x","data":1,"id":5}]',
    "volatile is text": '421["message",{"target_id":"x","data":1,"volatile":"yes"}]',
    "state is unknown": '421["presence_set",{"state":"asleep"}]',
    "status is long": '421["presence_set",{"state":"active","status":"' + "x" * 5000 + '"}]',
    "deep": '421["message",{"target_id":"x","data":' + "[" * 5000 + "]" * 5000 + "}]",
    "too many watched": '421["presence_watch",{"true_ids":[%s"x"]}]' % ('"x",' * 1000),
    "long event name": '421["%s"]' % ("n" * 60_000),
    "long key": '421["message",{"%s":1}]' % ("k" * 60_000),
    "infinite ack id": '42%s["message",{}]' % ("1" * 4000),
    "binary event": '450-["message",{}]',
    "unknown packet": "48[]",
    "data too large": '421["message",{"target_id":"x","data":"%s"}]' % ("x" * 66_000),
}


@pytest.mark.parametrize("packet", EVENTS.values(), ids=EVENTS)
async def test_bad_event(clients: Clients, transport: str, packet: str) -> None:
    pair = await Pair.meet(clients)
    player = await clients.player(transport)
    await player.link.send(packet)
    await pair.talk()
    await answer(player.link)
    await bystanders(pair)
    # Whoever sent it can go on, on this connection or the next one.
    try:
        assert (await player.call("presence_watch", {"true_ids": []}))["ok"]
    except Ended:
        await clients.player(transport, {"token": player.session["token"]})


CONNECTS = {
    "malformed": ('40{"guest":', "bad_request"),
    "no object": ('40"guest"', "bad_credentials"),
    "deep": ("40" + "[" * 30_000, "bad_request"),
    "no credentials": ("40{}", "bad_credentials"),
    "name is a number": ('40{"guest":true,"name":5}', "bad_credentials"),
    "name is an object": ('40{"guest":true,"name":{}}', "bad_credentials"),
    "name is long": ('40{"guest":true,"name":"%s"}' % ("n" * 60_000), "bad_credentials"),
    "name has controls": ('40{"guest":true,"name":"a\\u0000b"}', "bad_credentials"),
    "key is long": ('40{"%s":true}' % ("k" * 60_000), "bad_credentials"),
    "token is a number": ('40{"token":5}', "bad_credentials"),
    "token is foreign": ('40{"token":"eyJhbGciOiJub25lIn0.e30.x"}', "token_invalid"),
    "token is long": ('40{"token":"%s"}' % ("t" * 60_000), "token_invalid"),
    "token is a surrogate": ('40{"token":"\\ud800"}', "bad_credentials"),
    "pid is an array": ('40{"pid":[]}', "bad_credentials"),
    "pid is foreign": ('40{"pid":"abc","offset":"x"}', "bad_credentials"),
    "offset is a number": ('40{"guest":true,"offset":5}', "bad_credentials"),
    "password": ('40{"username":"root","password":"x"}', "unsupported"),
}


@pytest.mark.parametrize(("packet", "code"), CONNECTS.values(), ids=CONNECTS)
async def test_bad_connect(clients: Clients, transport: str, packet: str, code: str) -> None:
    pair = await Pair.meet(clients)
    link = await clients.link(transport)
    await link.send(packet)
    await pair.talk()
    assert (await answer(link))["code"] == code
    await bystanders(pair)


async def test_truncated_tokens_of_another(clients: Clients, transport: str) -> None:
    pair = await Pair.meet(clients)
    token = pair.ann.session["token"]
    for part in (token[:-1], token[: len(token) // 2], token[:10], pair.ann.pid):
        link = await clients.link(transport)
        await link.send("40" + json.dumps({"token": part}))
        assert (await answer(link))["code"] == "token_invalid"
        await pair.talk()
    # A pid that is no pid counts for nothing.
    link = await clients.link(transport)
    await link.send("40" + json.dumps({"pid": pair.ann.pid[:-1], "guest": True}))
    packet = str(await link.receive())
    assert packet[:2] == "40"
    assert json.loads(packet[2:])["pid"] != pair.ann.pid
    await bystanders(pair)


@pytest.mark.parametrize("offset", ["x", "..", "a.1.b", "0.999999999.0", "\u0661", "x" * 10_000])
async def test_foreign_offset_says_that_the_store_was_reset(
    clients: Clients, transport: str, offset: str
) -> None:
    pair = await Pair.meet(clients)
    player = await clients.player(transport)
    again = await clients.player(transport, {"pid": player.pid, "offset": offset})
    assert again.session["outcome"] == "store_reset"
    await bystanders(pair)


@pytest.mark.settings(limits={"message_bytes": 4_000_000})
@pytest.mark.parametrize("key", ["name", "token", "pid", "offset", "username"])
async def test_megabyte_where_it_is_allowed_to_arrive(
    clients: Clients, transport: str, key: str
) -> None:
    pair = await Pair.meet(clients)
    link = await clients.link(transport)
    await link.send("40" + json.dumps({"guest": True, key: MEGABYTE}))
    await pair.talk()
    packet = str(await link.receive())
    assert packet[:2] in {"40", "44"}
    assert len(packet) < 5000
    if packet[:2] == "40":
        # A foreign pid or offset is no fault of a new player; nothing of it is repeated.
        greeting = str(await link.receive())
        assert greeting.startswith('42["session"')
    await bystanders(pair)


@pytest.mark.parametrize("logged_in", [False, True])
async def test_megabyte_name_is_too_large(
    clients: Clients, transport: str, logged_in: bool
) -> None:
    pair = await Pair.meet(clients)
    link = await clients.link(transport)
    if logged_in:
        await Player.log_in(link)
    packet = "40" + json.dumps({"guest": True, "name": MEGABYTE})
    if isinstance(link, Polling):
        assert refusal(await link.post(packet)) == (413, 3)
    else:
        await link.send(packet)
    await pair.talk()
    code = (await answer(link))["code"]
    assert code == ("too_large" if logged_in else "bad_credentials")
    with pytest.raises(Ended):
        await link.receive()
    await bystanders(pair)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "javascript:alert(1)", "[" * 99]
)
async def test_wrong_origin(clients: Clients, transport: str, origin: str) -> None:
    pair = await Pair.meet(clients)
    headers = {"Origin": origin}
    if transport == "polling":
        assert refusal(await clients.engine(headers=headers)) == (403, 4)
    else:
        assert await clients.refused_upgrade(headers) == (403, 4)
    await bystanders(pair)


JUNK = [
    b"\x00" * 100,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\n\r\n",
    b"POST /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\nContent-Length: 9e9\r\n\r\n",
    b"POST /socket.io/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /socket.io/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /socket.io/?EIO=4&transport=polling&sid=x HTTP/1.1\r\nHost: a\r\n"
    b"Content-Length: \xb2\r\n\r\n1",
    b"POST /socket.io/?EIO=4&transport=polling&sid=x HTTP/1.1\r\nHost: a\r\n"
    b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n1",
    b"GET /%00%ff%2e%2e/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


@pytest.mark.parametrize("junk", JUNK)
async def test_junk_instead_of_http(clients: Clients, transport: str, junk: bytes) -> None:
    pair = await Pair.meet(clients)
    stream = await clients.stream()
    stream.write(junk)
    await pair.talk()
    if transport == "polling":
        stream._writer.write_eof()
        assert b"Traceback" not in await stream.rest()
    else:
        await stream.abandon()
    await bystanders(pair)


async def test_junk_on_a_session(clients: Clients, transport: str) -> None:
    pair = await Pair.meet(clients)
    for packet in ("", "4", "x" * 5000, "\x00", b"\xff" * 5000, "\U0010ffff", "\x1e" * 50, "{}"):
        player = await clients.player(transport)
        with contextlib.suppress(Ended):
            await player.link.send(packet)
        await player.link.ended()
        await pair.talk()
    await bystanders(pair)
