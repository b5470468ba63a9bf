"""Engine.IO over long-polling: handshake, polls, posts, and what breaks the protocol."""

from __future__ import annotations

import json

import pytest
from tornado.httpclient import AsyncHTTPClient

from tests.transport.client import (
    SEPARATOR,
    Clients,
    Ended,
    Polling,
    endpoint,
    refusal,
    soon,
)

pytestmark = pytest.mark.gen_test


# Handshake


@pytest.mark.settings(
    server={"ping_interval": 12.345, "ping_timeout": 6.789}, limits={"message_bytes": 2000}
)
async def test_handshake_tells_the_session_its_terms(
    http_client: AsyncHTTPClient, base_url: str
) -> None:
    response = await http_client.fetch(f"{base_url}/socket.io/?EIO=4&transport=polling")
    body = response.body.decode()
    assert body[0] == "0"
    fields = json.loads(body[1:])
    assert len(fields.pop("sid")) >= 20
    assert fields == {
        "upgrades": ["websocket"],
        "pingInterval": 12345,
        "pingTimeout": 6789,
        "maxPayload": 2000 + 4096,
    }
    assert response.headers["Content-Type"] == "text/plain; charset=UTF-8"
    assert response.headers["Cache-Control"] == "no-store"
    assert "Server" not in response.headers


async def test_every_handshake_is_a_session_of_its_own(clients: Clients) -> None:
    sids = {(await clients.polling()).sid for _ in range(20)}
    assert len(sids) == 20


async def test_handshake_without_final_slash_is_no_route(clients: Clients) -> None:
    assert (await clients.fetch("/socket.io?EIO=4&transport=polling")).code == 404


@pytest.mark.parametrize("version", ["", "3", "5", "four", "4.0", "44"])
async def test_handshake_of_another_version_is_refused(clients: Clients, version: str) -> None:
    assert refusal(await clients.engine(EIO=version)) == (400, 5)


@pytest.mark.parametrize("transport", ["", "carrier-pigeon", "POLLING", "polling,websocket"])
async def test_unknown_transport_is_refused(clients: Clients, transport: str) -> None:
    assert refusal(await clients.engine(transport=transport)) == (400, 0)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "HEAD", "TRACE"])
async def test_other_methods_are_refused(clients: Clients, method: str) -> None:
    polling = await clients.polling()
    for sid in ("", polling.sid):
        response = await clients.engine(method, sid=sid)
        assert response.code == 405
        assert b"Traceback" not in (response.body or b"")
    await polling.send("40{}")


async def test_handshake_must_be_a_get(clients: Clients) -> None:
    assert refusal(await clients.engine("POST", "40")) == (400, 2)


async def test_websocket_transport_without_upgrade_is_refused(clients: Clients) -> None:
    assert refusal(await clients.engine(transport="websocket")) == (400, 3)


@pytest.mark.parametrize("sid", ["x", "a" * 5000, "\u00e9", "../..", "'\"<"])
async def test_unknown_sid_is_refused_alike_for_both_methods(clients: Clients, sid: str) -> None:
    assert refusal(await clients.engine(sid=sid)) == (400, 1)
    assert refusal(await clients.engine("POST", "40", sid=sid)) == (400, 1)


async def test_query_that_is_not_utf8_is_refused(clients: Clients) -> None:
    response = await clients.fetch("/socket.io/?EIO=4&transport=polling&sid=%ff")
    assert response.code == 400
    assert b"Traceback" not in response.body


# Polls and posts


async def test_post_is_answered_ok_and_its_packets_are_taken_in_order(clients: Clients) -> None:
    polling = await clients.polling()
    response = await polling.post(
        SEPARATOR.join(
            ['40{"guest":true}', *(f'42{i}["presence_set",{{"state":1}}]' for i in range(5))]
        )
    )
    assert (response.code, response.body) == (200, b"ok")
    assert response.headers["Content-Type"].startswith("text/")
    # The CONNECT is still being decided on when the events come: they break the protocol.
    assert '42["error"' in await polling.poll()


async def test_several_packets_of_one_post_are_answered_in_one_poll(clients: Clients) -> None:
    player = await clients.player("polling")
    assert isinstance(player.link, Polling)
    await player.link.send(*(f'42{i}["presence_watch",{{"true_ids":[]}}]' for i in range(8)))
    packets = (await player.link.poll()).split(SEPARATOR)
    assert packets == [f'43{i}[{{"ok":true,"presence":{{}}}}]' for i in range(8)]


async def test_poll_waits_until_there_is_something(clients: Clients) -> None:
    player = await clients.player("polling")
    assert isinstance(player.link, Polling)
    poll = player.link.get()
    await player.link.send('427["presence_watch",{"true_ids":[]}]')
    assert (await soon(poll)).body == b'437[{"ok":true,"presence":{}}]'


async def test_text_beyond_ascii_survives_both_ways(clients: Clients) -> None:
    ann, bob = await clients.player("polling"), await clients.player("polling")
    text = "\u00e9\u4e2d\U0001f600\u2028\\u001e\t"
    await ann.send(bob, {"text": text})
    assert await bob.message() == {"text": text}


async def test_separator_inside_json_arrives_escaped(clients: Clients) -> None:
    ann, bob = await clients.player("polling"), await clients.player("polling")
    await ann.link.send(f'42["message",{{"target_id":"{bob.true_id}","data":"a\\u001eb"}}]')
    assert await bob.message() == "a\x1eb"


async def test_binary_packets_come_in_base64(clients: Clients) -> None:
    player = await clients.player("polling")
    placeholder = '{"_placeholder":true,"num":0}'
    await player.link.send(f'451-["message",{placeholder}]', b"\x00\x1e\xff")
    (error,) = await player.event("error")
    assert error["code"] == "bad_request"
    # The attachment was recognised, so the session goes on.
    assert (await player.call("presence_watch", {"true_ids": []}))["ok"]


async def test_second_poll_at_a_time_ends_the_session(clients: Clients) -> None:
    polling = await clients.polling()
    first = polling.get()
    second = await soon(polling.get())
    # Which of the two came first, the network decides.
    answers = [await soon(first), second]
    assert sorted(answer.code for answer in answers) == [200, 400]
    assert {answer.code: answer.body for answer in answers}[200] == b"1"
    assert refusal(await soon(polling.get())) == (400, 1)
    assert refusal(await polling.post("40")) == (400, 1)


async def test_hanging_up_on_a_poll_ends_the_session(clients: Clients) -> None:
    polling = await clients.polling()
    poll = await polling.open_poll()
    # The next poll of a session that is still open would be refused as a second one; so wait
    # for what the gateway itself says of its connections.
    await clients.until_connections(1)
    await poll.abandon()
    await clients.until_connections(0)
    assert refusal(await polling.post("40")) == (400, 1)


async def test_answered_poll_may_be_hung_up_on(clients: Clients) -> None:
    player = await clients.player("polling")
    assert isinstance(player.link, Polling)
    await player.link.send('421["presence_watch",{"true_ids":[]}]')
    poll = await player.link.open_poll()
    assert (await poll.response())[0] == 200
    await poll.abandon()
    assert (await player.call("presence_watch", {"true_ids": []}))["ok"]


# The end


async def test_close_packet_answers_the_pending_poll_with_noop(clients: Clients) -> None:
    polling = await clients.polling()
    poll = await polling.open_poll()
    # A later request's answer: the gateway has the poll now.
    await clients.connections()
    await polling.send("1")
    assert await poll.response() == (200, b"6")
    assert refusal(await soon(polling.get())) == (400, 1)


async def test_close_packet_without_poll_ends_the_session(clients: Clients) -> None:
    polling = await clients.polling()
    await polling.send("1")
    assert refusal(await polling.post("40")) == (400, 1)
    await clients.until_connections(0)


async def test_packets_behind_a_close_packet_are_not_taken(clients: Clients) -> None:
    ann, bob = await clients.player("polling"), await clients.player("websocket")
    assert isinstance(ann.link, Polling)
    message = f'42["message",{{"target_id":"{bob.true_id}","data":%d}}]'
    assert (await ann.link.post(SEPARATOR.join((message % 1, "1", message % 2)))).code == 200
    assert await bob.message() == 1
    assert (await bob.call("presence_watch", {"true_ids": []}))["ok"]
    assert not bob._set_aside


@pytest.mark.parametrize(
    "body",
    [
        "",
        SEPARATOR,
        "9",
        "x",
        "abc",
        "0{}",
        "2",
        "2probe",
        "3probe",
        "5",
        "6",
        "11",
        "bAAA",
        "b!!!!",
        "b\u00e9",
        "b A==",
        f"40{SEPARATOR}",
        f"{SEPARATOR}40",
        "1:41:4",
    ],
)
async def test_malformed_payload_is_refused_and_ends_the_session(
    clients: Clients, body: str
) -> None:
    polling = await clients.polling()
    poll = await polling.open_poll()
    await clients.connections()
    assert refusal(await polling.post(body)) == (400, 3)
    assert await poll.response() == (200, b"1")
    assert refusal(await soon(polling.get())) == (400, 1)
    await clients.until_connections(0)


async def test_body_that_is_not_utf8_is_refused_and_ends_the_session(clients: Clients) -> None:
    polling = await clients.polling()
    assert refusal(await polling.post(b'42["\xff\xfe"]')) == (400, 3)
    with pytest.raises(Ended):
        await polling.receive()


@pytest.mark.settings(limits={"message_bytes": 1024})
async def test_body_of_the_announced_size_is_taken_and_no_byte_more(clients: Clients) -> None:
    polling = await clients.polling()
    most = polling.handshake["maxPayload"]
    padding = most - len('40{"guest":true,"recovery":true,"x":""}')
    body = '40{"guest":true,"recovery":true,"x":"%s"}'
    assert (await polling.post(body % ("x" * padding))).code == 200
    assert isinstance(packet := await polling.receive(), str)
    assert packet[:2] == "40"
    other = await clients.polling()
    assert refusal(await other.post(body % ("x" * (padding + 1)))) == (413, 3)


@pytest.mark.settings(limits={"message_bytes": 1024})
@pytest.mark.parametrize("size", [6000, 1_000_000, 20_000_000])
@pytest.mark.parametrize("logged_in", [False, True])
async def test_oversized_body_is_refused_in_words_and_ends_the_session(
    clients: Clients, size: int, logged_in: bool
) -> None:
    polling = await clients.polling()
    if logged_in:
        await polling.send('40{"guest":true}')
        for head in ("40", "42"):
            packet = await polling.receive()
            assert isinstance(packet, str)
            assert packet[:2] == head
    poll = polling.get()
    response = await polling.post("4" + "x" * size)
    assert response.code in {413, 599}
    if size < 8_000_000:
        assert refusal(response) == (413, 3)
    packet = (await soon(poll)).body.decode()
    if logged_in:
        name, error = json.loads(packet[2:])
        assert packet[:2] == "42"
        assert (name, error["code"]) == ("error", "too_large")
    else:
        assert packet[:2] == "44"
        assert json.loads(packet[2:])["data"]["code"]
    with pytest.raises(Ended):
        await polling.receive()


@pytest.mark.settings(limits={"message_bytes": 1024})
async def test_oversized_chunked_body_is_refused(clients: Clients) -> None:
    polling = await clients.polling()
    stream = await clients.stream()
    stream.write(
        f"POST {endpoint(sid=polling.sid)} HTTP/1.1\r\nHost: x\r\n"
        "Transfer-Encoding: chunked\r\n\r\n".encode()
    )
    chunk = b"800\r\n" + b"x" * 0x800 + b"\r\n"
    for _ in range(4):
        stream.write(chunk)
    stream.write(b"0\r\n\r\n")
    assert (await stream.response())[0] == 413
    await polling.ended()


@pytest.mark.settings(limits={"message_bytes": 1024})
async def test_oversized_body_of_no_session_is_refused(clients: Clients) -> None:
    assert refusal(await clients.engine("POST", "x" * 9000, sid="nobody")) == (413, 3)


@pytest.mark.settings(limits={"message_bytes": 1024})
async def test_body_that_never_comes_leaves_the_session_alone(clients: Clients) -> None:
    player = await clients.player("polling")
    stream = await clients.stream()
    stream.write(
        f"POST {endpoint(sid=player.link.sid)} HTTP/1.1\r\nHost: x\r\n"
        "Content-Length: 100\r\n\r\n42".encode()
    )
    await stream.drain()
    await stream.abandon()
    assert (await player.call("presence_watch", {"true_ids": []}))["ok"]


async def test_session_of_one_transport_does_not_poll_on_the_other(clients: Clients) -> None:
    websocket = await clients.websocket()
    assert refusal(await clients.engine(sid=websocket.sid)) == (400, 1)
    assert refusal(await clients.engine("POST", "40", sid=websocket.sid)) == (400, 1)
    await websocket.send('40{"guest":true}')
    assert str(await websocket.receive()).startswith("40")


async def test_last_packets_are_fetched_before_the_close(clients: Clients) -> None:
    player = await clients.player("polling")
    assert isinstance(player.link, Polling)
    await player.link.send('429["logout",{}]')
    packets = await player.link.ended()
    assert packets == ['439[{"ok":true}]', "41"]


# CORS and origins


@pytest.mark.settings(server={"allowed_origins": ("https://game.example",)})
@pytest.mark.parametrize("origin", ["https://game.example", "https://GAME.example"])
async def test_allowed_origin_gets_cors_headers(clients: Clients, origin: str) -> None:
    response = await clients.engine(headers={"Origin": origin})
    assert response.code == 200
    assert response.headers["Access-Control-Allow-Origin"] == origin
    assert response.headers["Access-Control-Allow-Credentials"] == "true"
    assert "Origin" in response.headers["Vary"]


async def test_same_origin_may_always_connect(clients: Clients) -> None:
    assert (await clients.engine(headers={"Origin": clients.url})).code == 200


@pytest.mark.settings(server={"public_url": "https://play.example"})
async def test_public_url_may_connect(clients: Clients) -> None:
    assert (await clients.engine(headers={"Origin": "https://play.example"})).code == 200


@pytest.mark.settings(server={"allowed_origins": ("*",)})
async def test_star_allows_any_origin_by_its_name(clients: Clients) -> None:
    response = await clients.engine(headers={"Origin": "https://any.example"})
    assert response.headers["Access-Control-Allow-Origin"] == "https://any.example"


WRONG_ORIGINS = [
    "https://evil.example",
    "http://game.example",
    "https://game.example:444",
    "https://game.example.evil.example",
    "https://evilgame.example",
    "null",
    "",
    "file://",
    "https://game.example/",
    "https://[::1",
    "\u00e9",
]


@pytest.mark.settings(server={"allowed_origins": ("https://game.example",)})
@pytest.mark.parametrize("origin", WRONG_ORIGINS)
async def test_wrong_origin_is_refused_for_every_method(clients: Clients, origin: str) -> None:
    polling = await clients.polling()
    for method, body, sid in (
        ("GET", None, ""),
        ("GET", None, polling.sid),
        ("POST", "1", polling.sid),
        ("OPTIONS", None, ""),
    ):
        response = await clients.engine(method, body, {"Origin": origin}, sid=sid)
        assert refusal(response) == (403, 4)
        assert "Access-Control-Allow-Origin" not in response.headers
    await polling.send('40{"guest":true}')


async def test_request_without_origin_gets_no_cors_headers(clients: Clients) -> None:
    response = await clients.engine()
    assert not [name for name in response.headers if name.startswith("Access-Control")]


@pytest.mark.settings(server={"allowed_origins": ("https://game.example",)})
async def test_preflight_of_an_allowed_origin(clients: Clients) -> None:
    response = await clients.engine(
        "OPTIONS",
        headers={
            "Origin": "https://game.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        },
    )
    assert response.code == 204
    assert response.headers["Access-Control-Allow-Origin"] == "https://game.example"
    assert "POST" in response.headers["Access-Control-Allow-Methods"]
    assert response.headers["Access-Control-Allow-Headers"].lower() == "content-type"


@pytest.mark.settings(server={"allowed_origins": ("https://game.example",)})
async def test_refusals_are_readable_for_an_allowed_origin(clients: Clients) -> None:
    response = await clients.engine(headers={"Origin": "https://game.example"}, sid="nobody")
    assert refusal(response) == (400, 1)
    assert response.headers["Access-Control-Allow-Origin"] == "https://game.example"
