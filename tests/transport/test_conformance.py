"""What the official suites of Engine.IO v4 and Socket.IO v5 ask of a server, in our words.

Runs tests/conformance_server.py as a process of its own: picows and Tornado, with a short and
with a long ping timeout. Where the protocol says that a session is closed, a twin tells why:
it was opened before, is as silent, and yet still lives. So no timeout can have been at work.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from tests.transport.client import (
    SEPARATOR,
    Clients,
    Ended,
    Packet,
    Polling,
    WebSocket,
    refusal,
    soon,
)

pytestmark = pytest.mark.gen_test(timeout=60)

ROOT = Path(__file__).resolve().parents[2]
LINKS = ("polling", "websocket", "upgraded")
ON_EVERY_LINK = pytest.mark.parametrize("kind", LINKS)
Link = Polling | WebSocket


@dataclass(frozen=True)
class Server:
    """A running conformance server. `interval` and `timeout` are its heartbeat's."""

    url: str
    interval: float
    timeout: float


@pytest.fixture(
    scope="module",
    params=[(name, timeout) for name in ("picows", "tornado") for timeout in (0.2, 1.9)],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    websocket, timeout = request.param
    log = tmp_path_factory.mktemp("conformance") / "stderr.log"
    command = [sys.executable, "-m", "tests.conformance_server", "--port", "0"]
    options = ["--ping-interval", "0.3", "--ping-timeout", str(timeout), "--websocket", websocket]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*command, *options],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("Serving http://"), log.read_text()
        yield Server(line.split()[1].rstrip("/"), 0.3, timeout)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    # No traceback and no warning, whatever a client did.
    assert log.read_text() == ""


@pytest.fixture
def engine(server: Server, io_loop: IOLoop) -> Iterator[Clients]:
    """Clients of the raw Engine.IO echo."""
    clients = Clients(server.url, "/engine.io/")
    yield clients
    io_loop.run_sync(clients.close)


@pytest.fixture
def sockets(server: Server, io_loop: IOLoop) -> Iterator[Clients]:
    """Clients of the Socket.IO layer."""
    clients = Clients(server.url)
    yield clients
    io_loop.run_sync(clients.close)


async def open_link(clients: Clients, kind: str) -> Link:
    """Open a session on polling, on websocket, or on polling and then upgraded."""
    return (await clients.upgraded())[1] if kind == "upgraded" else await clients.link(kind)


async def echoes(link: Link, data: str = "still here") -> None:
    """Send a message; it must come back next."""
    await link.send("4" + data)
    assert await link.receive() == "4" + data


async def silent_until_the_end(link: Link) -> list[Packet]:
    """Answer no ping any more; return what came before the server closed, but for pings."""
    link.answers_pings = False
    return [packet for packet in await link.ended() if packet != "2"]


# Engine.IO: handshake


async def test_polling_handshake_answers_with_the_session(engine: Clients, server: Server) -> None:
    response = await engine.engine()
    assert response.code == 200
    assert response.body[:1] == b"0"
    fields = json.loads(response.body[1:])
    assert isinstance(fields.pop("sid"), str)
    assert fields == {
        "upgrades": ["websocket"],
        "pingInterval": 300,
        "pingTimeout": round(server.timeout * 1000),
        "maxPayload": 1_000_000,
    }


async def test_websocket_handshake_answers_with_the_session(
    engine: Clients, server: Server
) -> None:
    fields = (await engine.websocket()).handshake
    assert isinstance(fields.pop("sid"), str)
    assert fields == {
        "upgrades": [],
        "pingInterval": 300,
        "pingTimeout": round(server.timeout * 1000),
        "maxPayload": 1_000_000,
    }


@pytest.mark.parametrize("version", ["", "3", "5", "abc", "4.0"])
async def test_handshake_needs_protocol_version_4(engine: Clients, version: str) -> None:
    assert refusal(await engine.engine(EIO=version)) == (400, 5)
    assert await engine.refused_upgrade(EIO=version) == (400, 5)


@pytest.mark.parametrize("transport", ["", "abc", "Polling", "webtransport"])
async def test_handshake_needs_a_known_transport(engine: Clients, transport: str) -> None:
    assert refusal(await engine.engine(transport=transport)) == (400, 0)
    assert await engine.refused_upgrade(transport=transport) == (400, 0)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_handshake_needs_get(engine: Clients, method: str) -> None:
    response = await engine.engine(method, "" if method != "DELETE" else None)
    assert response.code in {400, 405}
    assert not response.body.startswith(b"0")


@pytest.mark.parametrize("sid", ["abc", "0", "x" * 500])
async def test_unknown_sid_is_refused(engine: Clients, sid: str) -> None:
    assert refusal(await engine.engine(sid=sid)) == (400, 1)
    assert refusal(await engine.engine("POST", "4x", sid=sid)) == (400, 1)
    assert await engine.refused_upgrade(sid=sid) == (400, 1)


async def test_session_takes_no_other_methods_and_lives_on(engine: Clients) -> None:
    polling = await engine.polling()
    for method in ("PUT", "DELETE", "PATCH"):
        body = "4x" if method != "DELETE" else None
        assert (await engine.engine(method, body, sid=polling.sid)).code in {400, 405}
    await echoes(polling)


# Engine.IO: messages


@ON_EVERY_LINK
@pytest.mark.parametrize("text", ["hello", "", "\u20ac\U0001f600", "b64", "4", "2probe", " "])
async def test_text_message_comes_back(engine: Clients, kind: str, text: str) -> None:
    await echoes(await open_link(engine, kind), text)


@ON_EVERY_LINK
@pytest.mark.parametrize("data", [b"\x01\x02\x03\x04", b"4text", bytes(range(256)), b"\xff" * 999])
async def test_binary_message_comes_back(engine: Clients, kind: str, data: bytes) -> None:
    link = await open_link(engine, kind)
    await link.send(data)
    assert await link.receive() == data


@ON_EVERY_LINK
async def test_several_packets_come_back_in_order(engine: Clients, kind: str) -> None:
    link = await open_link(engine, kind)
    packets: list[Packet] = ["4one", b"\x01\x02", "4two", "4", b"three", "4four"]
    await link.send(*packets)
    assert [await link.receive() for _ in packets] == packets


async def test_several_packets_are_one_poll(engine: Clients) -> None:
    polling = await engine.polling()
    assert (await polling.post(f"4test1{SEPARATOR}4test2{SEPARATOR}bAQIDBA==")).body == b"ok"
    assert await polling.poll() == f"4test1{SEPARATOR}4test2{SEPARATOR}bAQIDBA=="


# Engine.IO: what ends a session


@pytest.mark.parametrize("body", ["", "abc", "7", "0", "4ok\x1eabc", "b???", "\x1e", "4x\x1e"])
async def test_malformed_payload_ends_the_polling_session(engine: Clients, body: str) -> None:
    twin, polling = await engine.polling(), await engine.polling()
    assert refusal(await polling.post(body)) == (400, 3)
    assert refusal(await polling.get()) == (400, 1)
    assert refusal(await polling.post("4x")) == (400, 1)
    await echoes(twin)


@pytest.mark.parametrize("kind", ["websocket", "upgraded"])
@pytest.mark.parametrize("packet", ["", "abc", "7", "0{}", "5", "6", "2probe", "\x1e"])
async def test_malformed_packet_ends_the_websocket_session(
    engine: Clients, kind: str, packet: str
) -> None:
    twin, link = await open_link(engine, kind), await open_link(engine, kind)
    await link.send(packet)
    assert await silent_until_the_end(link) == []
    await echoes(twin)


async def test_second_poll_at_a_time_ends_the_session(engine: Clients) -> None:
    twin, polling = await engine.polling(), await engine.polling()
    first, second = polling.get(), polling.get()
    answers = [await soon(first), await soon(second)]
    # They may have reached the server in either order.
    assert sorted(answer.code for answer in answers) == [200, 400]
    assert {answer.body for answer in answers if answer.code == 200} == {b"1"}
    assert refusal(await polling.get()) == (400, 1)
    await echoes(twin)


async def test_cancelled_poll_ends_the_session(engine: Clients) -> None:
    twin, polling = await engine.polling(), await engine.polling()
    poll = await polling.open_poll()
    # A poll that the server holds makes any other one the second.
    await echoes(twin)
    await poll.abandon()
    while (response := await polling.post("4x")).code == 200:
        assert response.body == b"ok"
        await asyncio.sleep(0.005)
    assert refusal(response) == (400, 1)
    await echoes(twin)


async def test_close_packet_ends_the_polling_session_and_frees_the_poll(engine: Clients) -> None:
    twin, polling = await engine.polling(), await engine.polling()
    poll = await polling.open_poll()
    # The server has the poll: its echo is what answers it.
    await polling.send("4x")
    assert await poll.response() == (200, b"4x")
    poll = await polling.open_poll()
    await asyncio.sleep(0.02)
    await polling.send("1")
    status, body = await poll.response()
    assert (status, body) in {(200, b"6"), (400, body)}
    assert refusal(await polling.get()) == (400, 1)
    await echoes(twin)


@pytest.mark.parametrize("kind", ["websocket", "upgraded"])
async def test_close_packet_ends_the_websocket_session(engine: Clients, kind: str) -> None:
    twin, link = await open_link(engine, kind), await open_link(engine, kind)
    await link.send("1")
    assert await silent_until_the_end(link) == []
    await echoes(twin)


# Engine.IO: heartbeat, on all links side by side, for it takes time


async def test_client_that_answers_pings_stays(engine: Clients) -> None:
    async def beat(kind: str) -> None:
        link = await open_link(engine, kind)
        link.answers_pings = False
        for _ in range(3):
            assert await link.receive() == "2"
            await link.send("3")
        link.answers_pings = True
        await echoes(link)

    await asyncio.gather(*map(beat, LINKS))


async def test_client_that_does_not_answer_is_closed_after_the_timeout(
    engine: Clients, server: Server
) -> None:
    async def fall_silent(kind: str) -> None:
        answering = await open_link(engine, kind)
        waiting = asyncio.ensure_future(answering.receive(15))
        began = time.monotonic()
        silent = await open_link(engine, kind)
        silent.answers_pings = False
        assert await silent.receive() == "2"
        assert await silent_until_the_end(silent) == []
        assert time.monotonic() - began >= server.interval + server.timeout
        assert refusal(await engine.engine("POST", "3", sid=silent.sid)) == (400, 1)
        # The one beside it, which answers, is here all the time.
        await answering.send("4still here")
        assert await waiting == "4still here"

    await asyncio.gather(*map(fall_silent, LINKS))


# Engine.IO: upgrade


async def test_upgrade_moves_the_session_to_the_websocket(engine: Clients) -> None:
    polling = await engine.polling()
    poll = await polling.open_poll()
    probe = WebSocket(await engine.upgrade_request(sid=polling.sid))
    await probe.send("2probe")
    assert await probe.receive() == "3probe"
    # What waits on polling is let go, so that the client may be done with it.
    assert await poll.response() == (200, b"6")
    await probe.send("5")
    await echoes(probe)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_polling_requests_after_the_upgrade_are_ignored(engine: Clients, method: str) -> None:
    _, upgraded = await engine.upgraded()
    await echoes(upgraded)
    body = "4x" if method == "POST" else None
    assert (await engine.engine(method, body, sid=upgraded.sid)).code == 400
    await echoes(upgraded)


@pytest.mark.parametrize("kind", ["websocket", "upgraded"])
async def test_websocket_requests_for_a_websocket_session_are_ignored(
    engine: Clients, kind: str
) -> None:
    link = await open_link(engine, kind)
    await echoes(link)
    assert (await engine.refused_upgrade(sid=link.sid))[0] == 400
    await echoes(link)


# Socket.IO


async def connect(link: Link, namespace: str = "", auth: object = None) -> None:
    """Connect to a namespace, whose handler answers with the payload."""
    address = f"{namespace}," if namespace else ""
    await link.send(f"40{address}" + ("" if auth is None else json.dumps(auth)))
    answer = str(await link.receive())
    assert answer.startswith(f"40{address}{{"), answer
    fields = json.loads(answer[2 + len(address) :])
    assert isinstance(fields["sid"], str)
    assert fields["sid"] != link.sid
    assert await event(link, namespace) == ["auth", {} if auth is None else auth]


async def event(link: Link, namespace: str = "") -> Any:
    """Return the array of the next packet, an event."""
    head = f"42{namespace}," if namespace else "42"
    packet = str(await link.receive())
    assert packet.startswith(head), packet
    return json.loads(packet[len(head) :])


async def answers(link: Link, namespace: str = "") -> None:
    """Send an event; its answer must come next."""
    address = f"{namespace}," if namespace else ""
    await link.send(f'42{address}["message","still here"]')
    assert await event(link, namespace) == ["message-back", "still here"]


async def connected(sockets: Clients, kind: str, *namespaces: str) -> Link:
    link = await open_link(sockets, kind)
    for namespace in namespaces:
        await connect(link, namespace)
    return link


async def ends_at_once(link: Link, twin: Link) -> None:
    """See that the server closes, with no more words than what was wrong, and not by a timeout."""
    for packet in await silent_until_the_end(link):
        assert str(packet).startswith('42["error",{"code":"bad_request"')
    # Not even the connect timeout is over.
    await connect(twin)


async def send(link: Link, *packets: Packet) -> None:
    """Send packets of which one may already end a polling session."""
    for packet in packets:
        try:
            await link.send(packet)
        except Ended:
            return


NAMESPACES = pytest.mark.parametrize("namespace", ["", "/custom"], ids=["main", "custom"])


@ON_EVERY_LINK
@NAMESPACES
@pytest.mark.parametrize("auth", [None, {}, {"token": "123"}, {"deep": [{"\u20ac": None}]}])
async def test_connect(sockets: Clients, kind: str, namespace: str, auth: object) -> None:
    await connect(await open_link(sockets, kind), namespace, auth)


@ON_EVERY_LINK
async def test_main_namespace_may_be_named(sockets: Clients, kind: str) -> None:
    link = await open_link(sockets, kind)
    await link.send("40/,")
    assert str(await link.receive()).startswith("40{")


@ON_EVERY_LINK
@pytest.mark.parametrize("namespace", ["/random", "/customs", "/Custom", "/custom/1"])
async def test_unknown_namespace_is_refused_alone(
    sockets: Clients, kind: str, namespace: str
) -> None:
    link = await open_link(sockets, kind)
    await link.send(f"40{namespace},")
    assert await link.receive() == f'44{namespace},{{"message":"Invalid namespace"}}'
    await connect(link)
    await answers(link)


@ON_EVERY_LINK
@pytest.mark.parametrize(
    "packet",
    ["4", "4abc", "40abc", "40{", '40""', "40[]", "47", "4-", "40/custom,abc"],
)
async def test_invalid_connect_closes(sockets: Clients, kind: str, packet: str) -> None:
    twin, link = await open_link(sockets, kind), await open_link(sockets, kind)
    await send(link, packet)
    await ends_at_once(link, twin)


async def test_client_that_never_connects_is_closed(sockets: Clients) -> None:
    async def wait(kind: str) -> None:
        other = await connected(sockets, kind, "")
        waiting = asyncio.ensure_future(other.receive(15))
        began = time.monotonic()
        # It answers pings: it is not for them that it is closed.
        assert await (await open_link(sockets, kind)).ended() == []
        assert time.monotonic() - began >= 1.0
        await other.send('42["message",1]')
        assert await waiting == '42["message-back",1]'

    await asyncio.gather(*map(wait, LINKS))


@ON_EVERY_LINK
@NAMESPACES
async def test_disconnect_from_one_namespace_leaves_the_other(
    sockets: Clients, kind: str, namespace: str
) -> None:
    other = "" if namespace else "/custom"
    link = await connected(sockets, kind, "", "/custom")
    await link.send("41" + (f"{namespace}," if namespace else ""))
    await answers(link, other)
    # And it may be connected to again.
    await connect(link, namespace)
    await answers(link, namespace)


@ON_EVERY_LINK
@NAMESPACES
async def test_event_after_disconnect_closes(sockets: Clients, kind: str, namespace: str) -> None:
    twin = await open_link(sockets, kind)
    link = await connected(sockets, kind, namespace)
    address = f"{namespace}," if namespace else ""
    await send(link, f"41{address}", f'42{address}["message",1]')
    await ends_at_once(link, twin)


@ON_EVERY_LINK
@pytest.mark.parametrize(
    "packet",
    [
        '42["message"]',
        '42/custom,["message"]',
        '421["message-with-ack",1]',
        "41",
        "431[]",
        '51-["x"]',
    ],
)
async def test_packet_before_connect_closes(sockets: Clients, kind: str, packet: str) -> None:
    twin, link = await open_link(sockets, kind), await open_link(sockets, kind)
    await send(link, packet)
    await ends_at_once(link, twin)


@ON_EVERY_LINK
async def test_event_for_a_namespace_not_connected_to_closes(sockets: Clients, kind: str) -> None:
    twin = await open_link(sockets, kind)
    link = await connected(sockets, kind, "")
    await send(link, '42/custom,["message",1]')
    await ends_at_once(link, twin)


ARGUMENTS = [[], [1, "2", {"3": [True]}], [None], ["\u20ac\U0001f600\x1f", [[]], -1.5]]


@ON_EVERY_LINK
@NAMESPACES
@pytest.mark.parametrize("arguments", ARGUMENTS)
async def test_text_event(
    sockets: Clients, kind: str, namespace: str, arguments: list[object]
) -> None:
    link = await connected(sockets, kind, namespace)
    address = f"{namespace}," if namespace else ""
    await link.send(f"42{address}" + json.dumps(["message", *arguments]))
    assert await event(link, namespace) == ["message-back", *arguments]


@ON_EVERY_LINK
@NAMESPACES
@pytest.mark.parametrize("ack_id", ["0", "456", "999999999999999"])
async def test_text_event_with_ack(
    sockets: Clients, kind: str, namespace: str, ack_id: str
) -> None:
    link = await connected(sockets, kind, namespace)
    address = f"{namespace}," if namespace else ""
    await link.send(f'42{address}{ack_id}["message-with-ack",1,"2",{{"3":[false]}}]')
    answer = str(await link.receive())
    head = f"43{address}{ack_id}"
    assert answer.startswith(head)
    assert json.loads(answer[len(head) :]) == [1, "2", {"3": [False]}]


HOLES = '{"_placeholder":true,"num":0},{"a":{"_placeholder":true,"num":1}}'


@ON_EVERY_LINK
@NAMESPACES
async def test_binary_event(sockets: Clients, kind: str, namespace: str) -> None:
    link = await connected(sockets, kind, namespace)
    address = f"{namespace}," if namespace else ""
    await link.send(f'452-{address}["message",{HOLES}]', b"\x01\x02\x03", b"\x04\x05")
    answer = str(await link.receive())
    head = f"452-{address}"
    assert answer.startswith(head), answer
    assert json.loads(answer[len(head) :]) == ["message-back", *json.loads(f"[{HOLES}]")]
    assert [await link.receive(), await link.receive()] == [b"\x01\x02\x03", b"\x04\x05"]
    await answers(link, namespace)


@ON_EVERY_LINK
@NAMESPACES
async def test_binary_event_with_ack(sockets: Clients, kind: str, namespace: str) -> None:
    link = await connected(sockets, kind, namespace)
    address = f"{namespace}," if namespace else ""
    await link.send(f'452-{address}789["message-with-ack",{HOLES}]', b"\x01\x02\x03", b"\x04\x05")
    answer = str(await link.receive())
    head = f"462-{address}789"
    assert answer.startswith(head), answer
    assert json.loads(answer[len(head) :]) == json.loads(f"[{HOLES}]")
    assert [await link.receive(), await link.receive()] == [b"\x01\x02\x03", b"\x04\x05"]
    await answers(link, namespace)


@ON_EVERY_LINK
async def test_several_namespaces_at_once(sockets: Clients, kind: str) -> None:
    link = await open_link(sockets, kind)
    await link.send("40", '40/custom,{"n":1}', "40/random,")
    expected = {
        "40",
        "40/custom",
        '42["auth",{}]',
        '42/custom,["auth",{"n":1}]',
        '44/random,{"message":"Invalid namespace"}',
    }
    got = [str(await link.receive()) for _ in expected]
    # Within a namespace the order is fixed.
    for answer, auth in (("40{", '42["auth"'), ("40/custom,", "42/custom,")):
        order = [packet.startswith(answer) for packet in got if packet.startswith((answer, auth))]
        assert order == [True, False]
    assert {
        packet.split(",{")[0].split("{")[0] if packet[1] == "0" else packet for packet in got
    } == (expected)
    for namespace in ("", "/custom", ""):
        await answers(link, namespace)


INVALID = {
    "unknown type": ["4abc"],
    "type out of range": ["47"],
    "no type": ["4"],
    "CONNECT twice": ["40"],
    "CONNECT_ERROR": ['44{"message":"x"}'],
    "event without payload": ["42"],
    "event is an object": ["42{}"],
    "event is a text": ['42"message"'],
    "event is cut off": ['42["message",1'],
    "event has more behind it": ['42["message",1]]'],
    "event has no name": ["42[]"],
    "event's name is a number": ["42[1]"],
    "reserved name": ['42["connect",{},{}]'],
    "other reserved name": ['42["disconnect"]'],
    "ack id is a text": ['42abc["message-with-ack",1]'],
    "ack id is negative": ['42-1["message-with-ack",1]'],
    "ack id is broken": ['421.5["message-with-ack",1]'],
    "ack without id": ["43[]"],
    "ack is an object": ["431{}"],
    "ack without payload": ["431"],
    "DISCONNECT with payload": ["41[]"],
    "binary event without count": ['45["message",{"_placeholder":true,"num":0}]', b"x"],
    "binary count is a text": ['45a-["message",{"_placeholder":true,"num":0}]', b"x"],
    "text event with count": ['421-["message",{"_placeholder":true,"num":0}]', b"x"],
    "unexpected binary": [b"\x01\x02"],
    "binary behind all attachments": ['451-["message",{"_placeholder":true,"num":0}]', b"x", b"y"],
    "text instead of an attachment": [
        '451-["message",{"_placeholder":true,"num":0}]',
        '42["message",1]',
    ],
    "attachment out of range": ['451-["message",{"_placeholder":true,"num":1}]', b"x"],
    "namespace without slash": ['42custom,["message",1]'],
}


@ON_EVERY_LINK
@pytest.mark.parametrize("packets", [pytest.param(p, id=name) for name, p in INVALID.items()])
async def test_invalid_packet_closes(sockets: Clients, kind: str, packets: list[Any]) -> None:
    twin = await open_link(sockets, kind)
    link = await connected(sockets, kind, "")
    await send(link, *packets)
    link.answers_pings = False
    for packet in await silent_until_the_end(link):
        # What was in order before is answered.
        assert str(packet).startswith(('42["error",', '451-["message-back"', "b'"))
    await connect(twin)
