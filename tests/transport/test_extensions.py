"""Extensions: stock python-socketio handlers on our engine, beside the gateway's namespace."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import socketio
from socketio import async_manager, async_server, base_manager, base_server
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets
from tornado.web import Application

from gateway.admission import Admission
from gateway.errors import RequestRefused
from gateway.metrics import Metrics
from gateway.server import Gateway
from gateway.transport.engine import Engine
from gateway.transport.extensions import (
    _MAX_PENDING,
    _MAX_RUNNING,
    ExtensionRules,
    ExtensionServer,
    _Facade,
)
from gateway.transport.handler import EngineHandler
from gateway.transport.interfaces import EngineSettings
from gateway.transport.peer import PeerPolicy
from gateway.transport.picows import PicowsWebSockets
from gateway.transport.socketio import SocketIOServer
from tests.conformance_server import new_sid
from tests.transport.client import TRANSPORTS, Clients, Ended, Player, Polling, WebSocket, soon
from tests.transport.conftest import nothing_runs
from tests.waiting import until

pytestmark = pytest.mark.gen_test
SETTINGS = EngineSettings(
    ping_interval=25,
    ping_timeout=20,
    max_payload=100_000,
    connections=0,
    connections_per_address=0,
    send_buffer_bytes=0,
    slow_timeout=0,
)
Link = Polling | WebSocket


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


class World:
    """A server with an extension on `/` (without a gateway) and on `/chat`; notes what happens."""

    def __init__(
        self,
        admission: Admission | None,
        rules: ExtensionRules = ExtensionRules(),  # noqa: B008
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.limits: list[str] = []
        self.io = ExtensionServer(new_sid, rules, self.limits.append)
        self.sids: list[str] = []
        self.seen: list[Any] = []
        for namespace in ("/", "/chat"):
            self.io.on("connect", self._on_connect, namespace=namespace)
            self.io.on("disconnect", self._on_disconnect(namespace), namespace=namespace)
            self.io.on("echo", self._on_echo, namespace=namespace)
            self.io.on("note", self._on_note, namespace=namespace)
            self.io.on("fail", self._on_fail, namespace=namespace)
        self.picows = PicowsWebSockets(SETTINGS.max_payload, 0, self.loop)
        self.socketio = SocketIOServer(admission, self.io, 0, new_sid, self.loop)
        self.engine = Engine(SETTINGS, self.socketio.accept, Metrics(), new_sid, self.loop)
        parts = {
            "engine": self.engine,
            "peers": PeerPolicy(["*"], "", []),
            "picows": self.picows,
        }
        routes = [("/socket.io/", EngineHandler, parts)]
        self.http = HTTPServer(Application(routes, log_function=lambda handler: None))
        sockets = bind_sockets(0, "127.0.0.1")
        self.http.add_sockets(sockets)
        self.clients = Clients(f"http://127.0.0.1:{sockets[0].getsockname()[1]}")

    async def _on_connect(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        self.sids.append(sid)
        if auth:
            await auth_error(auth)

    def _on_disconnect(self, namespace: str) -> Any:
        async def on_disconnect(sid: str, reason: str) -> None:
            self.seen.append((namespace, sid, reason))

        return on_disconnect

    async def _on_echo(self, sid: str, *arguments: Any) -> tuple[Any, ...]:
        return arguments

    async def _on_note(self, sid: str, *arguments: Any) -> None:
        self.seen.append(arguments)

    async def _on_fail(self, sid: str, *arguments: Any) -> None:
        raise KeyError("oops")

    async def connect(self, transport: str, namespace: str = "/chat") -> tuple[Link, str]:
        """Return a connected client's link, and its sid."""
        link = await self.clients.link(transport)
        return link, await self.join(link, namespace)

    async def join(self, link: Link, namespace: str = "/chat") -> str:
        await link.send(f"40{namespace},")
        packet = str(await link.receive())
        assert packet.startswith("40" + ("" if namespace == "/" else f"{namespace},")), packet
        sid: str = json.loads(packet[packet.index("{") :])["sid"]
        return sid

    async def close(self) -> None:
        await self.clients.close()
        self.http.stop()
        await self.socketio.close()
        self.engine.close()
        await asyncio.sleep(0)
        await self.io.shutdown()
        await self.http.close_all_connections()
        self.picows.close()


async def auth_error(auth: Any) -> None:
    """Fail as the payload of a CONNECT asks for."""
    if "refuse" in auth:
        raise socketio.exceptions.ConnectionRefusedError(auth["refuse"])
    if "fail" in auth:
        raise ValueError("a fault of the handler")
    if "sleep" in auth:
        await asyncio.sleep(60)


@pytest.fixture
def world(io_loop: IOLoop) -> Iterator[World]:
    async def build() -> World:
        return World(None)

    world = io_loop.run_sync(build)
    yield world
    io_loop.run_sync(world.close)
    io_loop.run_sync(nothing_runs)


async def alive(link: Link, namespace: str = "/chat") -> None:
    await link.send(f'42{namespace},77["echo"]')
    assert str(await link.receive()).endswith("77[]")


def forgotten(world: World) -> bool:
    """Tell whether nothing is kept of any client."""
    facade: _Facade = world.io.eio
    rooms = any(room for namespace in world.io.manager.rooms.values() for room in namespace)
    return not (facade.peers or facade._sessions or world.io.environ or rooms)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Take what was logged above debug."""
    texts = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    caplog.clear()
    return texts


# Events and acks


async def test_handler_gets_arguments_and_answers(world: World, transport: str) -> None:
    link, _ = await world.connect(transport)
    await link.send('42/chat,12["echo",1,{"a":[null]},"\u20ac"]')
    assert await link.receive() == '43/chat,12[1,{"a":[null]},"\\u20ac"]'
    await link.send('42/chat,["note","x"]')
    await until(lambda: world.seen == [("x",)])


async def test_events_are_handled_in_order(world: World, transport: str) -> None:
    link, _ = await world.connect(transport)
    await link.send(*(f'42/chat,["note",{i}]' for i in range(200)))
    await until(lambda: len(world.seen) == 200)
    assert world.seen == [(i,) for i in range(200)]


async def test_binary_goes_both_ways(world: World, transport: str) -> None:
    link, sid = await world.connect(transport)
    hole = '{"_placeholder":true,"num":%d}'
    await link.send(f'452-/chat,["note",{hole % 1},{{"a":{hole % 0}}}]', b"zero", b"one")
    await until(lambda: world.seen == [(b"one", {"a": b"zero"})])
    await world.io.emit("blob", {"b": b"\x00\xff", "n": 1}, to=sid, namespace="/chat")
    packet = str(await link.receive())
    assert packet.startswith("451-/chat,[")
    assert json.loads(packet[10:]) == ["blob", {"b": {"_placeholder": True, "num": 0}, "n": 1}]
    assert await link.receive() == b"\x00\xff"


async def test_binary_event_of_no_attachments_is_an_event(world: World, transport: str) -> None:
    link, _ = await world.connect(transport)
    await link.send('450-/chat,5["echo",1]')
    assert await link.receive() == "43/chat,5[1]"
    await alive(link)


async def test_unknown_event_has_no_answer(world: World, transport: str) -> None:
    link, _ = await world.connect(transport)
    await link.send('42/chat,1["nobody listens"]')
    await alive(link)


async def test_server_calls_the_client(world: World, transport: str) -> None:
    link, sid = await world.connect(transport)
    call = asyncio.ensure_future(world.io.call("ask", 7, to=sid, namespace="/chat"))
    packet = str(await link.receive())
    assert (packet[:8], packet[-9:]) == ("42/chat,", '["ask",7]')
    ack_id = packet[8:-9]
    await link.send(f'43/chat,{ack_id}["yes",1]')
    assert await soon(call) == ("yes", 1)
    # An ack without a call is nothing to talk about.
    await link.send(f'43/chat,{ack_id}["yes",1]', "43/chat,999[]")
    await alive(link)


async def test_client_answers_a_call_with_binary(world: World, transport: str) -> None:
    link, sid = await world.connect(transport)
    call = asyncio.ensure_future(world.io.call("ask", to=sid, namespace="/chat"))
    ack_id = str(await link.receive())[8:-7]
    await link.send(f'461-/chat,{ack_id}[{{"_placeholder":true,"num":0}}]', b"\x01")
    assert await soon(call) == b"\x01"
    call = asyncio.ensure_future(world.io.call("ask", to=sid, namespace="/chat"))
    ack_id = str(await link.receive())[8:-7]
    await link.send(f"460-/chat,{ack_id}[2]")
    assert await soon(call) == 2


async def test_call_that_is_not_answered_times_out(world: World, transport: str) -> None:
    _, sid = await world.connect(transport)
    with pytest.raises(socketio.exceptions.TimeoutError):
        await world.io.call("ask", to=sid, namespace="/chat", timeout=0.02)


# Rooms and sessions


async def test_rooms(world: World, transport: str) -> None:
    (ann, ann_sid), (bob, bob_sid), (cat, _) = [await world.connect(transport) for _ in range(3)]
    for sid in (ann_sid, bob_sid):
        await world.io.enter_room(sid, "red", namespace="/chat")
    assert set(world.io.rooms(ann_sid, "/chat")) == {"red", ann_sid}
    await world.io.emit("hi", 1, room="red", namespace="/chat")
    await world.io.emit("hi", 2, room="red", skip_sid=ann_sid, namespace="/chat")
    await world.io.leave_room(bob_sid, "red", namespace="/chat")
    await world.io.emit("hi", 3, room="red", namespace="/chat")
    await world.io.close_room("red", namespace="/chat")
    await world.io.emit("hi", 4, room="red", namespace="/chat")
    await world.io.emit("hi", 5, namespace="/chat")
    for link, numbers in ((ann, (1, 3, 5)), (bob, (1, 2, 5)), (cat, (5,))):
        for number in numbers:
            assert await link.receive() == f'42/chat,["hi",{number}]'


async def test_session_is_the_clients_and_the_namespaces(world: World, transport: str) -> None:
    link, sid = await world.connect(transport)
    main = await world.join(link, "/")
    _, other = await world.connect(transport)
    await world.io.save_session(sid, {"name": "ann"}, namespace="/chat")
    async with world.io.session(sid, namespace="/chat") as session:
        session["age"] = 7
    assert await world.io.get_session(sid, namespace="/chat") == {"name": "ann", "age": 7}
    assert await world.io.get_session(main) == {}
    assert await world.io.get_session(other, namespace="/chat") == {}


async def test_environ_and_transport(world: World, transport: str) -> None:
    link, sid = await world.connect(transport)
    environ = world.io.get_environ(sid, namespace="/chat")
    assert environ == {"REMOTE_ADDR": "127.0.0.1", "gateway.sid": link.sid}
    assert world.io.transport(sid, namespace="/chat") == transport


# The end


async def test_server_disconnect_leaves_the_other_namespace(world: World, transport: str) -> None:
    link, sid = await world.connect(transport)
    await world.join(link, "/")
    await world.io.disconnect(sid, namespace="/chat")
    assert await link.receive() == "41/chat,"
    assert world.seen == [("/chat", sid, "server disconnect")]
    await alive(link, "/")
    # It may come back.
    assert await world.join(link) != sid
    await alive(link)


async def test_client_disconnects_from_a_namespace(world: World, transport: str) -> None:
    link, sid = await world.connect(transport)
    await world.join(link, "/")
    await link.send("41/chat,")
    await alive(link, "/")
    assert world.seen == [("/chat", sid, "client disconnect")]


@pytest.mark.parametrize("how", ["by the client", "by the server", "by a fault"])
async def test_every_namespace_is_told_of_the_end_once(
    world: World, transport: str, how: str
) -> None:
    link, sid = await world.connect(transport)
    main = await world.join(link, "/")
    if how == "by the client":
        await link.send("1")
        reason = "transport close"
    elif how == "by the server":
        world.engine.connection(link.sid).close("the reason")
        reason = "the reason"
    else:
        await link.send("4?")
        reason = "parse error"
    await link.ended()
    await until(lambda: len(world.seen) == 2)
    assert set(world.seen) == {("/chat", sid, reason), ("/", main, reason)}
    await until(lambda: forgotten(world))
    await world.io.emit("hi", namespace="/chat")


async def test_client_that_leaves_while_it_is_connected(world: World, transport: str) -> None:
    link = await world.clients.link(transport)
    await link.send('40/chat,{"sleep":1}')
    await until(lambda: len(world.sids) == 1)
    await link.send("1")
    await until(lambda: bool(world.seen) and forgotten(world))
    assert world.seen == [("/chat", world.sids[0], "transport close")]


# Refusals and faults


async def test_handler_refuses_a_client(world: World, transport: str) -> None:
    link = await world.clients.link(transport)
    await link.send('40/chat,{"refuse":"not you"}')
    assert await link.receive() == '44/chat,{"message":"not you"}'
    await world.join(link)
    await alive(link)
    assert world.seen == []


@pytest.mark.parametrize("namespace", ["/chats", "/", "/chat/"])
async def test_only_namespaces_with_handlers_are_there(
    world: World, transport: str, namespace: str
) -> None:
    world.io.handlers.pop("/")
    link, _ = await world.connect(transport)
    await link.send(f"40{namespace},")
    head = "44" if namespace == "/" else f"44{namespace},"
    assert await link.receive() == head + '{"message":"Invalid namespace"}'
    await alive(link)


async def test_half_a_surrogate_pair_in_connect_is_refused(world: World, transport: str) -> None:
    link = await world.clients.link(transport)
    await link.send('40/chat,{"name":"\\ud83d"}')
    packet = str(await link.receive())
    assert packet.startswith("44/chat,{")
    assert json.loads(packet[8:])["data"]["code"] == "bad_credentials"
    await world.join(link)
    await alive(link)


HOLE = '{"_placeholder":true,"num":%s}'


@pytest.mark.parametrize(
    "packets",
    [
        pytest.param([f'451-/chat,["note",{HOLE % number}]', b"x"], id=f"placeholder {number}")
        for number in ("1", "-2", '"0"', "0.5", "null", "[0]", "{}", "1e9")
    ]
    + [
        pytest.param(packets, id=name)
        for name, packets in {
            "event is an object": ["42/chat,{}"],
            "connect": ['42/chat,["connect",{}]'],
            "disconnect": ['42/chat,["disconnect","x"]'],
            "disconnect, binary": ['451-/chat,["disconnect",1]', b"x"],
            "name is a placeholder": [f"451-/chat,[{HOLE % 0}]", b"disconnect"],
            "other namespace": ['42/,["note",1]'],
            "not connected": ['42/none,["note",1]'],
            "connected already": ["40/chat,"],
            "payload of connect is an array": ["40/,[]"],
            "eleven attachments": ['4511-/chat,["note"]'],
            "thousand attachments": ['451000-/chat,["note"]'],
            "text between attachments": ['452-/chat,["note"]', b"x", '42/chat,["note"]'],
            "attachment of no packet": [b"x"],
            "binary ack is an object": ["461-/chat,1{}", b"x"],
            "deep": ['42/chat,["note",%s]' % ("[" * 30_000 + "]" * 30_000)],
        }.items()
    ],
)
async def test_malformed_packet_ends_the_connection(
    world: World, transport: str, packets: list[Any]
) -> None:
    other, _ = await world.connect(transport)
    link, sid = await world.connect(transport)
    with contextlib.suppress(Ended):
        for packet in packets:
            await link.send(packet)
    assert all(str(packet).startswith('42["error",') for packet in await link.ended())
    await until(lambda: len(world.seen) > 0)
    # No handler saw anything of it but the end.
    ((namespace, told, reason), *_) = world.seen
    assert (namespace, told, reason) == ("/chat", sid, "parse error")
    await alive(other)


@pytest.mark.expects_warnings
async def test_handler_that_fails_is_logged_once_and_the_connection_lives(
    world: World, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    link, _ = await world.connect(transport)
    for _ in range(3):
        await link.send('42/chat,3["fail",1]')
        assert refusal_of(str(await link.receive()), "43/chat,3") == "unavailable"
    await link.send('42/chat,["fail",1]')
    await alive(link)
    (text,) = errors(caplog)
    assert text == "World._on_fail, a handler of /chat, failed"
    assert "oops" not in text


@pytest.mark.expects_warnings
async def test_failures_are_logged_again_after_a_minute_with_their_number(
    world: World, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    world.io.failures._monotonic = lambda: now
    link, _ = await world.connect(transport)
    await link.send(*(['42/chat,["fail",1]'] * 3))
    await alive(link)
    now = 60.0
    await link.send('42/chat,["fail",1]')
    await alive(link)
    first, second = errors(caplog)
    assert second == first + ", and 2 times before since this was last logged"


async def test_wrong_number_of_arguments_is_told_to_the_client_alone(
    world: World, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def pair(sid: str, one: Any, two: Any) -> Any:
        return [one, two]

    world.io.on("pair", pair, namespace="/chat")
    link, _ = await world.connect(transport)
    for arguments in ("", ",1", ",1,2,3"):
        await link.send(f'42/chat,3["pair"{arguments}]')
        assert refusal_of(str(await link.receive()), "43/chat,3") == "bad_request"
    await link.send('42/chat,3["pair",1,2]')
    assert await link.receive() == "43/chat,3[[1,2]]"
    assert errors(caplog) == []


@pytest.mark.expects_warnings
async def test_an_answer_that_cannot_be_sent_is_a_fault_of_the_handler(
    world: World, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def odd(sid: str) -> Any:
        return {1, 2}

    world.io.on("odd", odd, namespace="/chat")
    link, _ = await world.connect(transport)
    await link.send('42/chat,3["odd"]')
    assert refusal_of(str(await link.receive()), "43/chat,3") == "unavailable"
    await alive(link)
    assert len(errors(caplog)) == 1


async def test_handler_refuses_an_event_with_a_code(
    world: World, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(sid: str) -> None:
        raise RequestRefused("forbidden", "not your turn", "cell")

    world.io.on("refuse", refuse, namespace="/chat")
    link, _ = await world.connect(transport)
    await link.send('42/chat,3["refuse"]')
    packet = str(await link.receive())
    error = {"code": "forbidden", "message": "not your turn", "field": "cell"}
    assert json.loads(packet.removeprefix("43/chat,3")) == [{"ok": False, "error": error}]
    assert errors(caplog) == []


async def test_handlers_of_a_client_that_run_at_once_have_a_limit(
    world: World, transport: str
) -> None:
    go = asyncio.Event()

    async def wait(sid: str) -> None:
        await go.wait()

    world.io.on("wait", wait, namespace="/chat")
    link, _ = await world.connect(transport)
    await link.send(*(f'42/chat,{i}["wait"]' for i in range(_MAX_RUNNING + 1)))
    packet = str(await link.receive())
    assert refusal_of(packet, f"43/chat,{_MAX_RUNNING}") == "rate_limited"
    go.set()
    assert await link.receive() == "43/chat,0[]"
    await until(lambda: not world.io._running)


async def test_events_of_a_client_have_the_rate_of_all_events(transport: str) -> None:
    world = World(None, ExtensionRules(events_per_second=0.001, burst=2))
    link, _ = await world.connect(transport)
    for number in (1, 2):
        await link.send(f'42/chat,{number}["echo"]')
        assert await link.receive() == f"43/chat,{number}[]"
    hole = '{"_placeholder":true,"num":0}'
    await link.send(f'451-/chat,3["echo",{hole}]', b"x")
    assert refusal_of(str(await link.receive()), "43/chat,3") == "rate_limited"
    assert world.limits == ["messages_per_second"]
    await world.close()


def refusal_of(packet: str, head: str) -> str:
    """Return the code of a refusal in an ack."""
    assert packet.startswith(head + "[")
    (answer,) = json.loads(packet.removeprefix(head))
    assert answer["ok"] is False
    assert "oops" not in packet
    return str(answer["error"]["code"])


@pytest.mark.expects_warnings
async def test_connect_handler_that_fails_is_logged_once_and_refuses_its_client(
    world: World, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    link = await world.clients.link(transport)
    for _ in range(2):
        await link.send('40/chat,{"fail":1}')
        packet = str(await link.receive())
        assert packet.startswith("44/chat,")
        data = json.loads(packet.removeprefix("44/chat,"))["data"]
        assert (data["code"], data["reconnect"]) == ("unavailable", True)
    await world.join(link)
    await alive(link)
    assert errors(caplog) == ["World._on_connect, a handler of /chat, failed"]


@pytest.mark.expects_warnings
async def test_disconnect_handler_that_fails_is_logged_once_and_leaves_nothing(
    world: World, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(sid: str, reason: str) -> None:
        raise RuntimeError("oops")

    link, _ = await world.connect(transport)
    await world.join(link, "/")
    world.io.on("disconnect", fail, namespace="/chat")
    await link.send("1")
    await link.ended()
    await until(lambda: forgotten(world))
    assert [namespace for namespace, *_ in world.seen] == ["/"]
    (text,) = errors(caplog)
    assert text.endswith("fail, a handler of /chat, failed")


async def test_packets_wait_for_a_slow_handler_up_to_a_limit(world: World, transport: str) -> None:
    def packets(count: int) -> list[str]:
        return ['40/,{"sleep":1}', *(f'42/chat,["note",{i}]' for i in range(count))]

    patient, _ = await world.connect(transport)
    await patient.send(*packets(_MAX_PENDING - 1))
    link, sid = await world.connect(transport)
    # The POST itself is answered ok: nothing is wrong with its form.
    await link.send(*packets(_MAX_PENDING + 2))
    await link.ended()
    await until(lambda: ("/chat", sid, "parse error") in world.seen)
    assert world.engine.connection(patient.sid).open


# Beside the gateway


async def test_gateway_and_extension_share_a_connection(
    io_loop: IOLoop, gateway: Gateway, transport: str
) -> None:
    world = World(gateway.admission)
    link = await world.clients.link(transport)
    player = await Player.log_in(link)
    sid = await world.join(link)
    assert (await player.send(player, "hello"))["ok"]
    assert await player.message() == "hello"
    await alive(link)
    # The gateway takes no binary; attachments go to whom their packet named.
    await link.send('451-["message",1]', b"x", '451-/chat,["note",1]', b"y")
    assert (await player.event("error"))[0]["code"] == "bad_request"
    await until(lambda: world.seen == [(1,)])
    # Leaving one leaves the other, either way round.
    await link.send("41/chat,")
    assert (await player.call("presence_watch", {"true_ids": []}))["ok"]
    assert world.seen[1:] == [("/chat", sid, "client disconnect")]
    sid = await world.join(link)
    await link.send("41")
    await alive(link)
    again = await Player.log_in(link, {"pid": player.pid})
    # The gateway's end of a session is the connection's end.
    await again.emit("logout", {})
    assert "1" not in await link.ended()
    await until(lambda: len(world.seen) == 3)
    assert world.seen[2][:2] == ("/chat", sid)
    await until(lambda: forgotten(world))
    await world.close()


async def test_a_namespace_for_players_waits_for_the_player(
    io_loop: IOLoop, gateway: Gateway, transport: str
) -> None:
    world = World(gateway.admission, ExtensionRules(players_only=True))
    link = await world.clients.link(transport)
    await link.send("40/chat,")
    await until(lambda: len(world.io.eio.peers) == 1)
    assert world.sids == []
    await link.send('40{"guest":true}')
    packets = [str(await link.receive()) for _ in range(3)]
    assert [packet[:8] for packet in packets] == ['40{"sid"', '42["sess', "40/chat,"]
    (sid,) = world.sids
    true_id = json.loads(packets[1][2:])[1]["true_id"]
    assert world.io.player_of(sid, "/chat") == true_id
    await alive(link)
    # Who leaves `/` leaves it, too, and comes back with it.
    await link.send("41")
    assert await link.receive() == "41/chat,"
    assert world.seen == [("/chat", sid, "server disconnect")]
    assert world.io.player_of(sid, "/chat") is None
    await link.send("40/chat,", '40{"guest":true}')
    packets = [str(await link.receive()) for _ in range(3)]
    assert packets[2].startswith("40/chat,")
    other = json.loads(packets[1][2:])[1]["true_id"]
    assert world.io.player_of(world.sids[-1], "/chat") == other != true_id
    await link.send("1")
    await until(lambda: forgotten(world))
    await world.close()


# python-socketio's private parts


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


async def test_python_socketio_has_what_extensions_touch() -> None:
    server = socketio.AsyncServer
    assert parameters(server._engineio_server_class) == ["self"]
    assert parameters(server._trigger_event) == ["self", "event", "namespace", "args"]
    assert inspect.iscoroutinefunction(server._trigger_event)
    handling = ["self", "server", "sid", "eio_sid", "data", "namespace", "id"]
    assert parameters(server._handle_event_internal) == handling
    assert inspect.iscoroutinefunction(server._handle_event_internal)
    assert parameters(server._send_packet) == ["self", "eio_sid", "pkt"]
    for find in (server._get_event_handler, server._get_namespace_handler):
        assert parameters(find)[-2:] == ["namespace", "args"]
    # What it registers with the engine, and how the engine calls it.
    assert parameters(server._handle_eio_connect) == ["self", "eio_sid", "environ"]
    assert parameters(server._handle_eio_message) == ["self", "eio_sid", "data"]
    assert parameters(server._handle_eio_disconnect) == ["self", "eio_sid", "reason"]
    ours = ExtensionServer(new_sid)
    assert isinstance(ours.eio, _Facade)
    assert set(ours.eio.handlers) == {"connect", "message", "disconnect"}
    for name in ("environ", "handlers", "namespace_handlers", "_binary_packet"):
        assert getattr(ours, name) == {}
    assert {"logger", "json", "async_handlers"} <= set(parameters(base_server.BaseServer.__init__))
    assert ours.async_handlers is True
    assert server.reserved_events == ["connect", "disconnect"]
    assert parameters(ours.manager.get_namespaces) == []
    assert parameters(ours.manager.sid_from_eio_sid) == ["eio_sid", "namespace"]
    assert parameters(ours.manager.eio_sid_from_sid) == ["sid", "namespace"]
    assert parameters(ours.manager.disconnect) == ["sid", "namespace", "kwargs"]
    assert inspect.iscoroutinefunction(ours.manager.disconnect)


async def test_python_socketio_asks_the_engine_for_nothing_else() -> None:
    used = {
        node.attr
        for module in (async_server, base_server, async_manager, base_manager)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "eio"
    }
    # These two are for those who let python-socketio have the HTTP requests.
    assert used == {
        "async_mode",
        "attach",
        "create_event",
        "generate_id",
        "get_session",
        "handle_request",
        "on",
        "send",
        "send_packet",
        "shutdown",
        "sleep",
        "start_background_task",
        "transport",
    }
    for name in used - {"attach", "handle_request", "generate_id"}:
        assert hasattr(_Facade, name), name
