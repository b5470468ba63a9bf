"""Engine.IO over websocket: what is checked before the 101, frames, and how it closes."""

from __future__ import annotations

import json

import pytest

from tests.transport.client import (
    WEBSOCKETS,
    Clients,
    Pair,
    Player,
    refusal,
    soon,
)

pytestmark = [pytest.mark.gen_test, WEBSOCKETS]

# Handshake


@pytest.mark.settings(
    server={"ping_interval": 12.345, "ping_timeout": 6.789}, limits={"message_bytes": 2000}
)
async def test_open_packet_comes_first_and_offers_no_upgrade(clients: Clients) -> None:
    websocket = await clients.websocket()
    fields = dict(websocket.handshake)
    assert len(fields.pop("sid")) >= 20
    assert fields == {
        "upgrades": [],
        "pingInterval": 12345,
        "pingTimeout": 6789,
        "maxPayload": 2000 + 4096,
    }


@pytest.mark.parametrize(
    ("query", "refused"),
    [
        ({"EIO": "3"}, (400, 5)),
        ({"EIO": ""}, (400, 5)),
        ({"transport": ""}, (400, 0)),
        ({"transport": "flash"}, (400, 0)),
        ({"transport": "polling"}, (400, 3)),
        ({"sid": "nobody"}, (400, 1)),
        ({"sid": ""}, (400, 1)),
    ],
)
async def test_bad_query_is_refused_before_any_101(
    clients: Clients, query: dict[str, str], refused: tuple[int, int]
) -> None:
    assert await clients.refused_upgrade(**query) == refused


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://game.example", "https://[::1", "\u00e9"]
)
@pytest.mark.settings(server={"allowed_origins": ("https://game.example",)})
async def test_wrong_origin_is_refused_before_any_101(clients: Clients, origin: str) -> None:
    polling = await clients.polling()
    for query in ({}, {"sid": polling.sid}):
        assert await clients.refused_upgrade({"Origin": origin}, **query) == (403, 4)
    await polling.send('40{"guest":true}')


@pytest.mark.settings(server={"allowed_origins": ("https://game.example",)})
async def test_allowed_and_same_origin_may_connect(clients: Clients) -> None:
    for origin in ("https://game.example", clients.url):
        await Player.log_in(await clients.websocket({"Origin": origin}))


HANDSHAKE = {
    "Host": "x",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


@pytest.mark.parametrize(
    "changed",
    [
        {"Sec-WebSocket-Version": "12"},
        {"Sec-WebSocket-Version": ""},
        {"Sec-WebSocket-Key": None},
        {"Sec-WebSocket-Key": "short"},
        {"Connection": "keep-alive"},
        {"Connection": None},
        {"Upgrade": None},
        {"Upgrade": "h2c"},
    ],
)
async def test_malformed_handshake_is_refused_and_leaves_nothing(
    clients: Clients, changed: dict[str, str | None]
) -> None:
    stream = await clients.stream()
    lines = [f"{name}: {value}" for name, value in {**HANDSHAKE, **changed}.items() if value]
    head = ["GET /socket.io/?EIO=4&transport=websocket HTTP/1.1", *lines, "", ""]
    stream.write("\r\n".join(head).encode())
    status, body = await stream.response()
    assert 400 <= status < 500
    assert b"Traceback" not in body
    await clients.until_connections(0)


async def test_handshake_by_another_method_is_refused(clients: Clients) -> None:
    stream = await clients.stream()
    lines = [f"{name}: {value}" for name, value in HANDSHAKE.items()]
    head = ["POST /socket.io/?EIO=4&transport=websocket HTTP/1.1", *lines]
    stream.write("\r\n".join([*head, "Content-Length: 0", "", ""]).encode())
    assert (await stream.response())[0] == 400


async def test_compression_is_not_negotiated(clients: Clients) -> None:
    stream = await clients.stream()
    lines = [f"{name}: {value}" for name, value in HANDSHAKE.items()]
    lines.append("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
    head = ["GET /socket.io/?EIO=4&transport=websocket HTTP/1.1", *lines]
    stream.write("\r\n".join([*head, "", ""]).encode())
    answer = (await stream.head()).lower()
    assert answer.startswith("http/1.1 101 ")
    assert "sec-websocket-extensions" not in answer
    assert "server:" not in answer


async def test_frames_sent_with_the_handshake_are_not_lost(clients: Clients) -> None:
    stream = await clients.stream()
    lines = [f"{name}: {value}" for name, value in HANDSHAKE.items()]
    head = ["GET /socket.io/?EIO=4&transport=websocket HTTP/1.1", *lines]
    payload = b'40{"guest":true}'
    frame = bytes((0x81, 0x80 | len(payload), 0, 0, 0, 0)) + payload
    stream.write("\r\n".join([*head, "", ""]).encode() + frame)
    await stream.head()
    text = b""
    while b'42["session"' not in text:
        text += await soon(stream.reader.read(4096))
    assert b"40{" in text


# Frames


async def test_every_packet_is_a_frame_of_its_own(clients: Clients) -> None:
    player = await clients.player("websocket")
    for i in range(20):
        await player.link.send(f'42{i}["presence_watch",{{"true_ids":[]}}]')
    for i in range(20):
        assert await player.link.receive() == f'43{i}[{{"ok":true,"presence":{{}}}}]'


async def test_text_beyond_ascii_survives_both_ways(clients: Clients) -> None:
    ann, bob = await clients.player("websocket"), await clients.player("websocket")
    text = "\u00e9\u4e2d\U0001f600\u2028\\u001e\t"
    await ann.send(bob, {"text": text})
    assert await bob.message() == {"text": text}


async def test_large_messages_arrive_whole(clients: Clients) -> None:
    ann, bob = await clients.player("websocket"), await clients.player("websocket")
    for size in (100, 125, 126, 4000, 60_000, 65_000):
        receipt = await ann.send(bob, "x" * size)
        assert receipt["ok"], receipt
        assert await bob.message() == "x" * size


async def test_fragmented_message_is_put_together(clients: Clients) -> None:
    raw = await clients.raw_websocket()
    await raw.log_in()
    raw.send(b'421["presence_', 1, first=0)
    raw.send(b"", 0, first=0)
    raw.send(b"between", 9)
    raw.send(b'watch",{"true_ids":[]}]', 0)
    assert await raw.receive() == (10, b"between")
    assert await raw.receive() == (1, b'431[{"ok":true,"presence":{}}]')


@pytest.mark.parametrize("packet", ["", "9", "x", "0{}", "2", "2probe", "3probe", "5", "6", "11"])
async def test_invalid_packet_ends_the_session(clients: Clients, packet: str) -> None:
    websocket = await clients.websocket()
    await websocket.send(packet)
    assert await websocket.ended() == []
    await clients.until_connections(0)


async def test_binary_frame_outside_an_event_is_answered_and_ends(clients: Clients) -> None:
    player = await clients.player("websocket")
    await player.link.send(b"\x00\x01")
    (error,) = await player.event("error")
    assert error["code"] == "bad_request"
    assert await player.link.ended() == []


@pytest.mark.parametrize(
    ("first", "opcode", "payload"),
    [
        pytest.param(0xC0, 1, b"40", id="rsv1"),
        pytest.param(0xA0, 1, b"40", id="rsv2"),
        pytest.param(0x80, 3, b"40", id="reserved opcode"),
        pytest.param(0x80, 11, b"40", id="reserved control opcode"),
        pytest.param(0x80, 0, b"40", id="continuation of nothing"),
        pytest.param(0x00, 9, b"", id="fragmented ping"),
        pytest.param(0x80, 9, b"x" * 200, id="long ping"),
        pytest.param(0x80, 1, b"42\xff\xfe", id="no utf-8"),
        pytest.param(0x80, 8, b"\x03", id="close of one byte"),
    ],
)
async def test_malformed_frame_ends_that_session_alone(
    clients: Clients, first: int, opcode: int, payload: bytes
) -> None:
    pair = await Pair.meet(clients)
    raw = await clients.raw_websocket()
    await raw.log_in()
    raw.send(payload, opcode, first)
    await raw.ended()
    await pair.talk()
    await clients.until_connections(2)


async def test_unmasked_frame_harms_nobody_else(clients: Clients) -> None:
    pair = await Pair.meet(clients)
    raw = await clients.raw_websocket()
    await raw.log_in()
    raw.stream.write(b"\x81\x02xx")
    await raw.ended()
    await pair.talk()


# Sizes


@pytest.mark.settings(limits={"message_bytes": 1024})
async def test_frame_of_the_announced_size_is_taken(clients: Clients) -> None:
    websocket = await clients.websocket()
    head = '40{"guest":true,"x":"'
    room = websocket.handshake["maxPayload"] - len(head) - 2
    await websocket.send(head + "x" * room + '"}')
    assert str(await websocket.receive()).startswith("40")


@pytest.mark.settings(limits={"message_bytes": 1024})
@pytest.mark.parametrize("size", [6000, 100_000, 3_000_000])
async def test_oversized_frame_before_connect_is_refused_and_closed(
    clients: Clients, size: int
) -> None:
    websocket = await clients.websocket()
    await websocket.send("4" + "x" * size)
    packets = await websocket.ended()
    assert len(packets) == 1
    packet = str(packets[0])
    assert packet[:2] == "44"
    assert json.loads(packet[2:])["data"]["code"]
    assert websocket.close_code == 1009


@pytest.mark.settings(limits={"message_bytes": 1024})
@pytest.mark.parametrize("size", [6000, 100_000, 3_000_000])
async def test_oversized_frame_of_a_player_is_an_error_and_closed(
    clients: Clients, size: int
) -> None:
    player = await clients.player("websocket")
    await player.link.send('42["message","' + "x" * size + '"]')
    (error,) = await player.event("error")
    assert error["code"] == "too_large"
    assert await player.link.ended() == []
    assert player.link.close_code == 1009  # type: ignore[attr-defined]


@pytest.mark.settings(limits={"message_bytes": 1024})
async def test_oversized_message_in_fragments_is_refused(clients: Clients) -> None:
    raw = await clients.raw_websocket()
    await raw.log_in()
    raw.send(b"42", 1, first=0)
    for _ in range(10):
        raw.send(b"x" * 1000, 0, first=0)
    opcode, payload = await raw.receive()
    assert (opcode, payload[:10]) == (1, b'42["error"')
    assert b'"too_large"' in payload
    assert await raw.close_code() == 1009


@pytest.mark.settings(limits={"message_bytes": 1024})
async def test_frame_that_announces_far_too_much_is_refused_before_it_is_all_here(
    clients: Clients,
) -> None:
    pair = await Pair.meet(clients)
    raw = await clients.raw_websocket()
    await raw.log_in()
    raw.stream.write(raw.head(2**40) + bytes(200_000))
    assert b'"too_large"' in (await raw.receive())[1]
    assert await raw.close_code() == 1009
    await pair.talk()


# The end


@pytest.mark.parametrize("how", ["packet", "close frame", "end of stream"])
@pytest.mark.parametrize("logged_in", [False, True])
async def test_client_may_leave_in_any_way(clients: Clients, how: str, logged_in: bool) -> None:
    raw = await clients.raw_websocket()
    if logged_in:
        await raw.log_in()
    else:
        assert (await raw.receive())[1][:1] == b"0"
    if how == "packet":
        raw.send(b"1")
        assert await raw.close_code() == 1000
    elif how == "close frame":
        raw.send(b"\x03\xe8", 8)
        assert await raw.close_code() == 1000
    else:
        await raw.stream.abandon()
    await clients.until_connections(0)


async def test_close_by_the_gateway_is_a_packet_and_a_close_frame(clients: Clients) -> None:
    raw = await clients.raw_websocket()
    await raw.log_in()
    raw.send(b'425["logout",{}]')
    frames = [await raw.receive() for _ in range(3)]
    assert frames == [(1, b'435[{"ok":true}]'), (1, b"41"), (1, b"1")]
    assert await raw.close_code() == 1000
    raw.send(b"\x03\xe8", 8)
    assert await raw.stream.rest() == b""


async def test_packets_after_a_close_packet_are_not_taken(clients: Clients) -> None:
    ann, bob = await clients.player("websocket"), await clients.player("websocket")
    message = f'42["message",{{"target_id":"{bob.true_id}","data":%d}}]'
    await ann.link.send(message % 1, "1", message % 2)
    assert await ann.link.ended() == []
    assert await bob.message() == 1
    assert (await bob.call("presence_watch", {"true_ids": []}))["ok"]
    assert not bob._set_aside


async def test_sid_of_a_websocket_takes_no_second_one(clients: Clients) -> None:
    player = await clients.player("websocket")
    assert await clients.refused_upgrade(sid=player.link.sid) == (400, 1)
    assert refusal(await clients.engine(sid=player.link.sid)) == (400, 1)
    assert (await player.call("presence_watch", {"true_ids": []}))["ok"]


async def test_path_decides_what_is_a_websocket(clients: Clients) -> None:
    stream = await clients.stream()
    lines = [f"{name}: {value}" for name, value in HANDSHAKE.items()]
    stream.write("\r\n".join(["GET /healthz HTTP/1.1", *lines, "", ""]).encode())
    assert await stream.response() == (200, b"ok\n")
