"""Socket.IO v5 on the namespace `/`: CONNECT and its refusals, events, acks, bad packets."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from gateway.server import Gateway
from gateway.tokens import Tokens
from tests.transport.client import (
    GUEST,
    TRANSPORTS,
    Clients,
    Ended,
    Pair,
    Player,
    Polling,
    WebSocket,
)
from tests.waiting import until

pytestmark = [pytest.mark.gen_test, pytest.mark.parametrize("transport", TRANSPORTS)]

KEYS = ("k" * 40,)


async def connect(clients: Clients, transport: str, auth: object) -> str:
    """Send a CONNECT on a new connection and return the answer."""
    link = await clients.link(transport)
    await link.send("40" + json.dumps(auth))
    packet = await link.receive()
    assert isinstance(packet, str)
    return packet


async def refused(clients: Clients, transport: str, auth: object) -> dict[str, Any]:
    """Send a CONNECT that is refused; return its `data`."""
    packet = await connect(clients, transport, auth)
    assert packet[:2] == "44", packet
    payload = json.loads(packet[2:])
    assert set(payload) == {"message", "data"}
    assert payload["message"]
    assert set(payload["data"]) == {"code", "reconnect", "retry_after"}
    data: dict[str, Any] = payload["data"]
    return data


async def ping(player: Player) -> None:
    assert (await player.call("presence_watch", {"true_ids": []}))["ok"]


async def error_then_end(link: Polling | WebSocket | Any, *before: str) -> dict[str, Any]:
    """Take the event `error` that tells of broken protocol, after which the gateway closes."""
    packets = await link.ended()
    assert packets[:-1] == list(before)
    name, payload = json.loads(packets[-1][2:])
    assert packets[-1][:2] == "42"
    assert name == "error"
    assert set(payload) == {"code", "message", "event"}
    assert payload["message"]
    return payload  # type: ignore[no-any-return]


# CONNECT


async def test_connect_is_answered_with_sid_and_pid_then_session(
    clients: Clients, transport: str
) -> None:
    link = await clients.link(transport)
    await link.send('40{"guest":true,"name":"Ann"}')
    packet = await link.receive()
    assert isinstance(packet, str)
    assert packet[:2] == "40"
    connected = json.loads(packet[2:])
    assert set(connected) == {"sid", "pid"}
    # The Engine.IO sid is a secret of the transport; Socket.IO's is another.
    assert connected["sid"] != link.sid
    greeting = await link.receive()
    assert isinstance(greeting, str)
    name, session = json.loads(greeting[2:])
    assert name == "session"
    assert session["name"] == "Ann"
    assert session["outcome"] == "new"
    assert session["resumed"] is False
    assert (session["missed"], session["gap"]) == (0, None)
    assert session["connections"] == 1
    assert session["token_expires_in"] == 604800
    assert {"true_id", "session_id", "token", "limits"} <= set(session)


@pytest.mark.parametrize("packet", ['40/,{"guest":true}', '40/?x=1,{"guest":true}'])
async def test_main_namespace_may_be_named(clients: Clients, transport: str, packet: str) -> None:
    link = await clients.link(transport)
    await link.send(packet)
    assert str(await link.receive()).startswith("40{")


async def test_every_guest_is_another_player(clients: Clients, transport: str) -> None:
    players = [await clients.player(transport) for _ in range(3)]
    assert len({player.true_id for player in players}) == 3
    assert len({player.sid for player in players}) == 3
    assert len({player.pid for player in players}) == 3


@pytest.mark.parametrize(
    "auth",
    [
        None,
        {},
        [],
        [1],
        "guest",
        7,
        True,
        {"guest": False},
        {"guest": "yes"},
        {"guest": True, "name": 7},
        {"guest": True, "name": ""},
        {"guest": True, "name": "x" * 10_000},
        {"guest": True, "name": "a\nb"},
        {"guest": True, "token": 7},
        {"guest": True, "pid": []},
        {"guest": True, "offset": {}},
        {"guest": True, "recovery": "no"},
        {"name": "Ann"},
    ],
)
async def test_bad_credentials(clients: Clients, transport: str, auth: object) -> None:
    data = await refused(clients, transport, auth)
    assert data == {"code": "bad_credentials", "reconnect": False, "retry_after": None}


async def test_connect_without_payload_has_no_credentials(clients: Clients, transport: str) -> None:
    link = await clients.link(transport)
    await link.send("40")
    packet = str(await link.receive())
    assert packet[:2] == "44"
    assert json.loads(packet[2:])["data"]["code"] == "bad_credentials"


@pytest.mark.parametrize("auth", [{"jwt": "x.y.z"}, {"username": "ann", "password": "x"}])
async def test_method_that_is_not_enabled_is_unsupported(
    clients: Clients, transport: str, auth: dict[str, str]
) -> None:
    data = await refused(clients, transport, auth)
    assert data == {"code": "unsupported", "reconnect": False, "retry_after": None}


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "\u00e9", "x" * 50_000])
async def test_foreign_token_is_invalid(clients: Clients, transport: str, token: str) -> None:
    data = await refused(clients, transport, {"token": token, "guest": True})
    assert data == {"code": "token_invalid", "reconnect": False, "retry_after": None}


async def test_truncated_and_changed_tokens_are_invalid(clients: Clients, transport: str) -> None:
    token = (await clients.player(transport)).session["token"]
    for bad in (token[:-1], token[1:], token + "x", token.swapcase(), token.partition(".")[0]):
        assert (await refused(clients, transport, {"token": bad}))["code"] == "token_invalid"


@pytest.mark.settings(resume={"secret_keys": KEYS})
async def test_token_past_its_lifetime_has_expired(clients: Clients, transport: str) -> None:
    player = await clients.player(transport)
    month_ago = Tokens(KEYS, 604800, lambda: time.time() - 30 * 86400)
    token = month_ago.sign_token(
        player.true_id,  # type: ignore[arg-type]
        player.session["session_id"],
        1,
        "e",
        "Ann",
        "guest",
    )
    assert (await refused(clients, transport, {"token": token}))["code"] == "token_expired"


@pytest.mark.expects_warnings
async def test_old_token_is_theft_and_ends_the_session(clients: Clients, transport: str) -> None:
    first = await clients.player(transport)
    await first.link.send("1")
    second = await clients.player(transport, {"token": first.session["token"]})
    assert second.session["resumed"] is True
    assert second.true_id == first.true_id
    await second.link.send("1")
    third = await clients.player(transport, {"token": second.session["token"]})
    data = await refused(clients, transport, {"token": first.session["token"]})
    assert data == {"code": "token_reused", "reconnect": False, "retry_after": None}
    assert await third.link.ended() == ["41"]
    data = await refused(clients, transport, {"token": third.session["token"]})
    assert data["code"] == "session_revoked"
    assert (await refused(clients, transport, {"pid": third.pid}))["code"] == "session_revoked"


async def test_session_is_revoked_by_logout(clients: Clients, transport: str) -> None:
    player = await clients.player(transport)
    assert await player.call("logout", {}) == {"ok": True}
    assert await player.link.ended() == ["41"]
    data = await refused(clients, transport, {"token": player.session["token"]})
    assert data == {"code": "session_revoked", "reconnect": False, "retry_after": None}


@pytest.mark.settings(limits={"sessions": 1})
async def test_server_full(clients: Clients, transport: str) -> None:
    await clients.player(transport)
    data = await refused(clients, transport, GUEST)
    assert data["code"] == "server_full"
    assert data["reconnect"] is True
    assert data["retry_after"] > 0


@pytest.mark.settings(
    limits={"connections_per_player": 1}, resume={"probe_timeout": 2.0, "secret_keys": KEYS}
)
async def test_player_with_too_many_connections_is_rate_limited(
    clients: Clients, transport: str, gateway: Gateway
) -> None:
    player = await clients.player(transport)
    other = gateway._tokens.sign_token(
        player.true_id,  # type: ignore[arg-type]
        "s_gone",  # type: ignore[arg-type]
        1,
        "e",
        "Ann",
        "guest",
    )
    data = await refused(clients, transport, {"token": other})
    assert data["code"] == "rate_limited"
    assert data["reconnect"] is True
    assert data["retry_after"] > 0
    await ping(player)


async def test_draining(clients: Clients, transport: str, gateway: Gateway) -> None:
    player = await clients.player(transport)
    gateway.admission.draining = True
    for auth in (GUEST, {"token": player.session["token"]}):
        data = await refused(clients, transport, auth)
        assert data["code"] == "draining"
        assert data["reconnect"] is True
        assert data["retry_after"] > 0
    # A stock client that is refused would not come back by itself; one that is cut does.
    with pytest.raises(Ended):
        await refused(clients, transport, {"pid": player.pid})
    await ping(player)


async def test_refused_client_may_try_again_on_the_same_connection(
    clients: Clients, transport: str
) -> None:
    link = await clients.link(transport)
    await link.send("40{}")
    assert str(await link.receive()).startswith("44")
    await Player.log_in(link)


@pytest.mark.parametrize("packet", ["40{}", "40/nowhere,"])
async def test_endless_attempts_are_cut_off(clients: Clients, transport: str, packet: str) -> None:
    link = await clients.link(transport)

    async def insist() -> None:
        for _ in range(20):
            await link.send(packet)
            await link.receive()

    with pytest.raises(Ended):
        await insist()


# Coming back


async def test_pid_and_offset_resume_without_loss_or_double(
    clients: Clients, transport: str
) -> None:
    ann, bob = await clients.player(transport), await clients.player(transport)
    await ann.send(bob, 1)
    await ann.send(bob, 2)
    message, offset = await bob.event("message")
    assert message["data"] == 1
    assert message["id"] == offset
    # The link is still open and has the second message written into it.
    again = await clients.player(transport, {"pid": bob.pid, "offset": offset})
    assert again.pid == bob.pid
    assert again.session["outcome"] == "resumed"
    assert again.session["missed"] == 1
    assert await again.message() == 2
    await ann.send(again, 3)
    assert await again.message() == 3
    assert (await bob.link.ended())[-1] == "41"


@pytest.mark.settings(resume={"probe_timeout": 3.0})
async def test_duplicated_tab_gets_a_session_of_its_own(clients: Clients, transport: str) -> None:
    player = await clients.player(transport)
    link = await clients.link(transport)
    await link.send(f'40{{"token":"{player.session["token"]}"}}')
    # The original answers the probe by reading on.
    await ping(player)
    packets = [str(await link.receive()) for _ in range(2)]
    session = json.loads(packets[1][2:])[1]
    assert session["true_id"] == player.true_id
    assert session["session_id"] != player.session["session_id"]
    assert session["connections"] == 2
    await ping(player)


@pytest.mark.settings(resume={"probe_timeout": 0.15})
async def test_silent_original_is_taken_over(clients: Clients, transport: str) -> None:
    player = await clients.player(transport)
    again = await clients.player(transport, {"token": player.session["token"]})
    assert again.session["session_id"] == player.session["session_id"]
    assert again.session["resumed"] is True
    assert again.session["connections"] == 1
    player.link.answers_pings = False
    assert [packet for packet in await player.link.ended() if packet != "2"] == ["41"]


@pytest.mark.settings(resume={"probe_timeout": 60.0})
async def test_original_that_leaves_while_it_is_probed_makes_room_at_once(
    clients: Clients, transport: str
) -> None:
    player = await clients.player(transport)
    player.link.answers_pings = False
    link = await clients.link(transport)
    await link.send(f'40{{"token":"{player.session["token"]}"}}')
    # The probe is under way.
    assert await player.link.receive() == "2"
    await player.link.send("1")
    assert str(await link.receive()).startswith("40{")
    session = json.loads(str(await link.receive())[2:])[1]
    assert session["session_id"] == player.session["session_id"]
    assert session["connections"] == 1


@pytest.mark.settings(resume={"probe_timeout": 60.0})
async def test_newcomer_that_leaves_while_the_original_is_probed_changes_nothing(
    clients: Clients, transport: str, gateway: Gateway
) -> None:
    player = await clients.player(transport)
    player.link.answers_pings = False
    link = await clients.link(transport)
    await link.send(f'40{{"token":"{player.session["token"]}"}}')
    assert await player.link.receive() == "2"
    await link.send("1")
    await until(lambda: len(gateway._engine) == 1)
    await player.link.send("3")
    await ping(player)
    assert not gateway.admission._locks


# Events and acks


async def test_ack_ids_come_back_as_they_were(clients: Clients, transport: str) -> None:
    player = await clients.player(transport)
    for ack_id in (0, 1, 999_999_999_999_999):
        await player.link.send(f'42{ack_id}["presence_watch",{{"true_ids":[]}}]')
        assert await player.link.receive() == f'43{ack_id}[{{"ok":true,"presence":{{}}}}]'


async def test_event_may_name_the_namespace(clients: Clients, transport: str) -> None:
    player = await clients.player(transport)
    await player.link.send('42/,5["presence_watch",{"true_ids":[]}]')
    assert await player.link.receive() == '435[{"ok":true,"presence":{}}]'


async def test_event_without_ack_has_no_answer(clients: Clients, transport: str) -> None:
    player = await clients.player(transport)
    await player.emit("presence_watch", {"true_ids": []})
    await ping(player)
    assert not player._set_aside


async def test_white_space_in_json_is_no_fault(clients: Clients, transport: str) -> None:
    ann, bob = await clients.player(transport), await clients.player(transport)
    await ann.link.send(f'42 [ "message" , {{ "target_id" : "{bob.true_id}" , "data" : 1 }} ]')
    assert await bob.message() == 1


async def test_ack_of_the_client_is_ignored(clients: Clients, transport: str) -> None:
    player = await clients.player(transport)
    await player.link.send("431[]", '430["x"]', "43/,7[{}]")
    await ping(player)


NAMES = ["", "unknown", "connect", "disconnect", "connect_error", "error", "session", "__proto__"]
NAMES += ["disconnecting", "newListener", "removeListener", "x" * 60_000, "\U0001f600", "a\x00b"]


@pytest.mark.parametrize("name", NAMES)
async def test_unknown_and_reserved_names_are_refused_and_nothing_else_happens(
    clients: Clients, transport: str, name: str
) -> None:
    player = await clients.player(transport)
    for arguments in ([], [{}], [{"sid": "x"}, {}]):
        await player.emit(name, *arguments)
        (error,) = await player.event("error")
        assert error["code"] == "bad_request"
        assert error["message"].startswith("unknown event")
        assert error["event"] == name[:64]
        answer = await player.call(name, *arguments)
        assert answer["ok"] is False
        assert answer["error"]["code"] == "bad_request"
        assert len(json.dumps(answer)) < 1000
    await ping(player)


WRONG: list[list[object]] = [[], ["x"], [7], [None], [[]], [{}, {}], [{"x": 1}]]
WRONG += [[{"true_ids": "x"}], [{"true_ids": [7]}]]


@pytest.mark.parametrize("name", ["message", "presence_set", "presence_watch"])
async def test_wrong_types_are_refused_by_ack_and_by_error(
    clients: Clients, transport: str, name: str
) -> None:
    player = await clients.player(transport)
    for arguments in WRONG:
        answer = await player.call(name, *arguments)
        assert answer["ok"] is False
        assert answer["error"]["code"] == "bad_request"
        await player.emit(name, *arguments)
        (error,) = await player.event("error")
        assert (error["code"], error["event"]) == ("bad_request", name)
    await ping(player)


async def test_deep_json_is_refused(clients: Clients, transport: str) -> None:
    player = await clients.player(transport)
    deep = "[" * 20_000 + "]" * 20_000
    for body in (
        f'["message",{{"target_id":"x","data":{deep}}}]',
        f'["presence_watch",{deep}]',
        f'["unknown",{deep}]',
    ):
        await player.link.send(f"421{body}")
        packet = str(await player.link.receive())
        assert packet.startswith("431[")
        assert json.loads(packet[3:])[0]["error"]["code"] == "bad_request"
    await ping(player)


async def test_deep_json_in_connect_is_refused(clients: Clients, transport: str) -> None:
    link = await clients.link(transport)
    await link.send("40" + "[" * 30_000 + "]" * 30_000)
    assert (await error_then_end(link))["code"] == "bad_request"


@pytest.mark.settings(limits={"messages_per_second": 1.0, "burst": 3})
async def test_too_many_events_are_refused_with_the_time_to_wait(
    clients: Clients, transport: str
) -> None:
    player = await clients.player(transport)
    answers = [await player.call("presence_watch", {"true_ids": []}) for _ in range(6)]
    assert [answer["ok"] for answer in answers][:3] == [True] * 3
    error = answers[-1]["error"]
    assert error["code"] == "rate_limited"
    assert 0 < error["retry_after"] <= 3


# DISCONNECT


@pytest.mark.parametrize("packet", ["41", "41/,"])
async def test_disconnect_leaves_the_namespace_and_a_new_connect_may_follow(
    clients: Clients, transport: str, packet: str, gateway: Gateway
) -> None:
    player = await clients.player(transport)
    await player.link.send(packet)
    await until(lambda: gateway._registry.players == 0)
    again = await Player.log_in(player.link, {"token": player.session["token"]})
    assert again.true_id == player.true_id
    await ping(again)


@pytest.mark.settings(limits={"connect_timeout": 1.0})
async def test_client_that_only_disconnects_is_closed_in_the_end(
    clients: Clients, transport: str
) -> None:
    player = await clients.player(transport)
    await player.link.send("41")
    assert await player.link.ended() == []


async def test_event_after_disconnect_breaks_the_protocol(clients: Clients, transport: str) -> None:
    player = await clients.player(transport)
    await player.link.send("41")
    await player.link.send('42["presence_watch",{"true_ids":[]}]')
    await error_then_end(player.link)


# What breaks the protocol


@pytest.mark.parametrize(
    "packet",
    [
        '42["message",{}]',
        '421["message",{}]',
        "41",
        "431[]",
        '451-["a",{"_placeholder":true,"num":0}]',
        "44{}",
        "4",
        "49",
        "4x",
        "40{",
        "40{]",
        '40{"guest":true}}',
        "40nonsense",
        '40/,{"guest":',
        "40\x00",
        "42/other,[]",
    ],
)
async def test_first_packet_must_be_a_connect(
    clients: Clients, transport: str, packet: str
) -> None:
    link = await clients.link(transport)
    await link.send(packet)
    assert (await error_then_end(link))["code"] == "bad_request"


@pytest.mark.parametrize(
    "packet",
    [
        '40{"guest":true}',
        "4",
        "47",
        "49[]",
        "4x",
        "42",
        "42{}",
        '42"message"',
        "42[]",
        "42[7]",
        "42[null]",
        '42[["message"]]',
        "42[",
        '42["message"',
        '42["message",{]',
        '42["message",]',
        '42["message",{"target_id":"x","data":nul}]',
        '42["message",{"target_id":"x","data":{"a":1,}}]',
        "42NaN",
        '42["presence_set",NaN]',
        '42-5["message",{}]',
        '421-["message",{}]',
        '42/other,["message",{}]',
        "41/other,",
        "43[]",
        "431",
        "431{}",
        "431[",
        '431"x"',
        "44{}",
        '44{"message":"x"}',
        "45",
        "45[]",
        '45-["a"]',
        '45x-["a"]',
        '459999999-["a"]',
        '4511-["a"]',
        "4611-1[]",
        '42٣["message",{}]',
    ],
)
async def test_malformed_packet_is_answered_by_error_and_ends_the_session(
    clients: Clients, transport: str, packet: str
) -> None:
    player = await clients.player(transport)
    await player.link.send(packet)
    assert (await error_then_end(player.link))["code"] == "bad_request"


@pytest.mark.parametrize("digits", [16, 20, 400, 5000])
async def test_huge_ack_id_ends_the_session(clients: Clients, transport: str, digits: int) -> None:
    player = await clients.player(transport)
    await player.link.send("42" + "9" * digits + '["presence_watch",{"true_ids":[]}]')
    assert (await error_then_end(player.link))["code"] == "bad_request"


async def test_second_connect_while_the_first_is_decided_ends_the_session(
    clients: Clients, transport: str
) -> None:
    link = await clients.link(transport)
    await link.send('40{"guest":true}', '40{"guest":true}')
    packets = [str(packet) for packet in await link.ended()]
    assert packets[-1].startswith('42["error"')


# Other namespaces


@pytest.mark.parametrize("namespace", ["/admin", "/x/y", "/\U0001f600", "/" + "x" * 100])
async def test_other_namespaces_are_refused(
    clients: Clients, transport: str, namespace: str
) -> None:
    link = await clients.link(transport)
    await link.send(f'40{namespace},{{"guest":true}}')
    assert await link.receive() == f'44{namespace},{{"message":"Invalid namespace"}}'
    player = await Player.log_in(link)
    await link.send(f"40{namespace},")
    assert await link.receive() == f'44{namespace},{{"message":"Invalid namespace"}}'
    await ping(player)


async def test_query_of_a_namespace_is_no_part_of_its_name(
    clients: Clients, transport: str
) -> None:
    link = await clients.link(transport)
    await link.send("40/admin?token=1,{}")
    assert await link.receive() == '44/admin,{"message":"Invalid namespace"}'


# Binary


PLACEHOLDER = '{"_placeholder":true,"num":%d}'


@pytest.mark.parametrize("attachments", [1, 3, 10])
async def test_binary_event_is_refused_and_its_attachments_are_swallowed(
    clients: Clients, transport: str, attachments: int
) -> None:
    player = await clients.player(transport)
    data = ",".join(PLACEHOLDER % i for i in range(attachments))
    await player.link.send(f'45{attachments}-["message",{data}]', *[b"\x00"] * attachments)
    (error,) = await player.event("error")
    assert error["code"] == "bad_request"
    await player.link.send(f'45{attachments}-77["message",{data}]', *[b""] * attachments)
    packet = str(await player.link.receive())
    assert packet.startswith("4377[")
    assert json.loads(packet[4:])[0]["error"]["code"] == "bad_request"
    await ping(player)


async def test_binary_ack_and_its_attachments_are_swallowed(
    clients: Clients, transport: str
) -> None:
    player = await clients.player(transport)
    await player.link.send(f"461-3[{PLACEHOLDER % 0}]", b"\xff")
    await ping(player)


async def test_binary_event_without_attachments(clients: Clients, transport: str) -> None:
    player = await clients.player(transport)
    await player.link.send('450-["message",{}]')
    assert (await player.event("error"))[0]["code"] == "bad_request"
    await ping(player)


async def test_text_between_attachments_ends_the_session(clients: Clients, transport: str) -> None:
    player = await clients.player(transport)
    await player.link.send(f'452-["message",{PLACEHOLDER % 0}]', b"\x00")
    await player.event("error")
    await player.link.send('42["presence_watch",{"true_ids":[]}]')
    await error_then_end(player.link)


@pytest.mark.parametrize("logged_in", [False, True])
async def test_attachment_of_no_event_ends_the_session(
    clients: Clients, transport: str, logged_in: bool
) -> None:
    link = await clients.link(transport)
    if logged_in:
        await Player.log_in(link)
    await link.send(b"\x00\x01")
    await error_then_end(link)


async def test_broken_protocol_harms_nobody_else(clients: Clients, transport: str) -> None:
    pair = await Pair.meet(clients)
    for packet in ("49", "42[", '451-["a"]', "40{}", b"\x00"):
        player = await clients.player(transport)
        await player.link.send(packet)
        await pair.talk()
