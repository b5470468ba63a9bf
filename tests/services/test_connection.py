"""A player's connection: what its client may ask, and what is written to it when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ProtocolViolation
from gateway.messages import TrueId, encode
from tests.services.world import ADDRESS, INTERVAL, Client, World, scenario, settled


def error_of(ack: dict[str, object]) -> tuple[object, object]:
    """Return code and field of a refusal."""
    assert ack["ok"] is False
    error = ack["error"]
    assert isinstance(error, dict)
    return error["code"], error.get("field")


# message


@scenario
async def test_a_message_is_delivered_and_acknowledged() -> None:
    world = World()
    ann, bob = await world.guest("Ann"), await world.guest("Bob")
    receipt = ann.call("message", {"target_id": bob.true_id, "data": {"x": [1]}, "type": "chat"})
    assert receipt == {
        "ok": True,
        "id": "e1.1.1",
        "status": "delivered",
        "connections": 1,
        "duplicate": False,
    }
    assert bob.events[-1] == [
        "message",
        {
            "id": "e1.1.1",
            "from": ann.true_id,
            "type": "chat",
            "data": {"x": [1]},
            "ts": world.clock.now,
        },
        "e1.1.1",
    ]
    assert ann.messages == []


@scenario
async def test_a_client_that_opted_out_gets_no_trailing_offset() -> None:
    world = World()
    client = await world.connect(guest=True, recovery=False)
    world.write(client, "a")
    client.lose()
    world.write(client, "b")
    client = await world.connect(pid=client.pid, recovery=False)
    assert client.data == ["a", "b"]
    assert [len(event) for event in client.events[1:]] == [2, 2]
    assert client.last_id == "e1.2.2"


@scenario
async def test_no_event_without_offset_ends_in_a_string() -> None:
    world = World()
    client = await world.guest()
    client.call("presence_watch", {"true_ids": [client.true_id]})
    client.emit("presence_set", {"state": "hidden"})
    client.emit("nonsense")
    client.emit("presence_set", {"state": "active"})
    client.emit("message", {"target_id": client.true_id, "data": "text", "volatile": True})
    world.pass_by()
    names = sorted(event[0] for event in client.events)
    assert names == ["error", "message", "presence", "session"]
    assert all(len(event) == 2 and isinstance(event[1], dict) for event in client.events)


@scenario
async def test_a_message_reaches_every_connection_of_its_target() -> None:
    world = World()
    devices = [await world.connect(username="bob") for _ in range(3)]
    ann = await world.guest()
    assert ann.call("message", {"target_id": "acc-bob", "data": 1})["connections"] == 3
    assert [device.data for device in devices] == [[1], [1], [1]]
    assert len({device.last_id for device in devices}) == 1


@scenario
async def test_a_message_without_ack_is_answered_only_when_it_is_refused() -> None:
    world = World()
    ann = await world.guest()
    ann.emit("message", {"target_id": ann.true_id, "data": 1})
    assert (ann.acks, ann.data, ann.payloads("error")) == ({}, [1], [])
    ann.emit("message", {"target_id": "nobody", "data": 1})
    (error,) = ann.payloads("error")
    assert (error["code"], error["field"], error["event"]) == (
        "unknown_target",
        "target_id",
        "message",
    )


@scenario
async def test_the_receipt_of_a_message_that_is_stored_after_the_close_goes_nowhere() -> None:
    world = World()
    ann = await world.guest()
    pending: list[Callable[[], None]] = []
    append = world.store.append
    world.store.append = lambda *asked: pending.append(partial(append, *asked))  # type: ignore[method-assign]
    assert ann.call("message", {"target_id": ann.true_id, "data": 1}) is None
    ann.emit("message", {"target_id": "nobody", "data": 1})
    assert ann.call("message", {"target_id": "nobody", "data": 1}) is None
    ann.lose()
    for answer in pending:
        answer()
    assert (ann.acks, ann.messages, ann.payloads("error")) == ({}, [], [])
    # It was accepted all the same.
    assert (await world.connect(pid=ann.pid)).data == [1]


@scenario
async def test_receipts_come_with_the_ack_ids_of_their_messages() -> None:
    world = World()
    ann = await world.guest()
    pending: list[Callable[[], None]] = []
    append = world.store.append
    world.store.append = lambda *asked: pending.append(partial(append, *asked))  # type: ignore[method-assign]
    for ack_id, target_id in ((5, ann.true_id), (None, ann.true_id), (6, "nobody")):
        ann.link.receive(encode(["message", {"target_id": target_id, "data": 1}]), ack_id)
    assert ann.acks == {}
    for answer in pending:
        answer()
    assert {ack_id: ack["ok"] for ack_id, ack in ann.acks.items()} == {5: True, 6: False}
    assert ann.acks[5]["id"] == "e1.1.1"


@scenario
async def test_a_message_written_unlike_stock_clients_do_is_the_same_message() -> None:
    ann = await World().guest()
    ann.link.receive(b' [ "message" , {"target_id":"%b","data":1} ] ' % ann.true_id.encode(), 5)
    assert ann.acks[5]["ok"]
    assert ann.data == [1]


# presence


@scenario
async def test_presence_is_set_and_watchers_are_told() -> None:
    world = World()
    ann, eve = await world.guest("Ann"), await world.guest("Eve")
    known = eve.call("presence_watch", {"true_ids": [ann.true_id, "nobody"]})
    assert known["ok"]
    assert known["presence"][ann.true_id]["state"] == "active"
    assert known["presence"]["nobody"]["state"] == "offline"
    world.clock.now += 1
    assert ann.call("presence_set", {"state": "hidden", "status": "brb"}) == {"ok": True}
    world.pass_by()
    assert eve.payloads("presence") == [
        {
            "true_id": ann.true_id,
            "name": "Ann",
            "state": "hidden",
            "connections": 1,
            "since": world.clock.now,
            "status": "brb",
        }
    ]
    assert ann.payloads("presence") == []


@scenario
async def test_who_unwatches_hears_no_more() -> None:
    world = World()
    ann, eve = await world.guest("Ann"), await world.guest("Eve")
    eve.call("presence_watch", {"true_ids": [ann.true_id]})
    assert eve.call("presence_unwatch", {"true_ids": [ann.true_id]}) == {"ok": True, "presence": {}}
    ann.emit("presence_set", {"state": "hidden"})
    world.pass_by()
    assert eve.payloads("presence") == []


@scenario
async def test_watching_has_a_limit_on_different_players() -> None:
    world = World(max_watched=2)
    eve = await world.guest()
    assert eve.call("presence_watch", {"true_ids": ["a", "b", "a"]})["ok"]
    assert eve.call("presence_watch", {"true_ids": ["b"]})["ok"]
    assert error_of(eve.call("presence_watch", {"true_ids": ["b", "c"]})) == (
        "too_large",
        "true_ids",
    )
    assert world.presence.watched_by(eve.link) == {"a", "b"}
    assert world.metric("limit_hits", "presence.max_watched") == 1


# players


@scenario
async def test_players_are_listed_in_pages() -> None:
    world = World()
    names = ["Ann", "Bob", "Eve"]
    clients = [await world.guest(name) for name in names]
    page = clients[0].call("players", {"limit": 2})
    assert [player["name"] for player in page["players"]] == ["Ann", "Bob"]
    assert (page["ok"], page["online"]) == (True, 3)
    page = clients[0].call("players", {"limit": 2, "cursor": page["cursor"]})
    assert [player["name"] for player in page["players"]] == ["Eve"]
    assert page["cursor"] is None
    assert len(clients[0].call("players")["players"]) == 3


@pytest.mark.parametrize("cursor", ["", "x", "-1", "\u0663", "1.5", "9" * 33])
@scenario
async def test_a_cursor_that_is_none_of_ours_is_refused_or_the_beginning(cursor: str) -> None:
    client = await World().guest()
    ack = client.call("players", {"cursor": cursor})
    assert ack["ok"] if cursor == "" else error_of(ack) == ("bad_request", "cursor")


@scenario
async def test_listing_can_be_switched_off() -> None:
    client = await World(listing=False).guest()
    assert error_of(client.call("players")) == ("forbidden", None)


# logout


@scenario
async def test_a_logout_is_acknowledged_then_closes_for_good() -> None:
    world = World()
    eve, ann = await world.guest("Eve"), await world.guest("Ann")
    eve.call("presence_watch", {"true_ids": [ann.true_id]})
    assert ann.call("logout") is None
    await settled()
    assert ann.acks == {1: {"ok": True}}
    assert ann.closed == ("logout", False)
    world.pass_by()
    assert [payload["state"] for payload in eve.payloads("presence")] == ["offline"]
    for auth in ({"pid": ann.pid}, {"token": ann.token}):
        assert (await world.refused(auth)).code == "session_revoked"


@scenario
async def test_a_logout_leaves_other_sessions_of_the_player() -> None:
    world = World()
    first, second = [await world.connect(username="ann") for _ in range(2)]
    first.call("logout")
    await settled()
    assert second.closed is None
    second.lose()
    assert (await world.connect(token=second.token)).greeting["resumed"]


@scenario
async def test_a_logout_everywhere_ends_all_sessions_of_the_player_only() -> None:
    world = World()
    first, second, third = [await world.connect(username="ann") for _ in range(3)]
    bob = await world.connect(username="bob")
    third.lose()
    first.call("logout", {"everywhere": True})
    await settled()
    assert first.acks == {1: {"ok": True}}
    assert (first.closed, second.closed) == (("logout", False), ("logout", False))
    for client in (first, second, third):
        assert (await world.refused({"token": client.token})).code == "session_revoked"
    assert bob.closed is None
    assert world.look(TrueId("acc-ann"))["state"] == "offline"


# What is refused


@pytest.mark.parametrize(
    ("name", "arguments", "field"),
    [
        ("message", [], "target_id"),
        ("message", [{"target_id": "ann"}], "data"),
        ("message", [{"target_id": 7, "data": 1}], "target_id"),
        ("message", [{"target_id": "ann", "data": 1, "volatile": "yes"}], "volatile"),
        ("message", ["text"], None),
        ("message", [{"target_id": "ann", "data": 1}, {}], None),
        ("presence_set", [{"state": "away"}], "state"),
        ("presence_set", [], "state"),
        ("presence_watch", [{"true_ids": "ann"}], "true_ids"),
        ("presence_watch", [{"true_ids": ["a"] * 1001}], "true_ids"),
        ("presence_unwatch", [{}], "true_ids"),
        ("players", [{"limit": "all"}], "limit"),
        ("logout", [{"everywhere": 1}], "everywhere"),
        ("logout", [{}, {}], None),
    ],
)
@scenario
async def test_a_wrong_payload_is_refused_by_ack_or_error(
    name: str, arguments: list[object], field: str | None
) -> None:
    world = World()
    client = await world.guest()
    assert error_of(client.call(name, *arguments)) == ("bad_request", field)
    assert client.payloads("error") == []
    client.emit(name, *arguments)
    (error,) = client.payloads("error")
    assert (error["code"], error["event"], error.get("field")) == ("bad_request", name, field)
    assert world.metric("refused_requests", "bad_request") == 2
    await settled()
    assert client.closed is None


@pytest.mark.parametrize("name", ["connect", "disconnect", "session", "error", "", "x" * 500])
@scenario
async def test_an_unknown_event_is_refused_and_the_known_ones_are_named(name: str) -> None:
    client = await World().guest()
    assert "presence_watch" in client.call(name, {})["error"]["message"]
    client.emit(name, {}, {})
    assert client.payloads("error")[0]["event"] == name[:64]
    assert client.closed is None


@pytest.mark.parametrize("name", ["message", "logout", "unknown"])
@scenario
async def test_json_that_is_nested_too_deeply_is_refused(name: str) -> None:
    client = await World().guest()
    deep = b"[" * 100_000 + b"]" * 100_000
    array = b'["%b",{"target_id":"ann","data":%b}]' % (name.encode(), deep)
    client.link.receive(array, 1)
    assert error_of(client.acks[1]) == ("bad_request", None)


@pytest.mark.parametrize("array", [b"", b"{}", b"[]", b"[1]", b'["message",{]', b'["logout"'])
@scenario
async def test_what_is_no_event_breaks_the_protocol(array: bytes) -> None:
    client = await World().guest()
    with pytest.raises(ProtocolViolation):
        client.link.receive(array, None)


@given(array=st.binary() | st.text().map(str.encode))
@settings(deadline=None, max_examples=50)
def test_whatever_comes_in_what_goes_out_is_good(array: bytes) -> None:
    @scenario
    async def check() -> None:
        client = await World().guest()
        for text in (array, b'["message",{"target_id":"e1-g1","data":' + array + b"}]"):
            try:
                client.link.receive(text, 1)
            except ProtocolViolation:
                client.acks.clear()

    check()


@scenario
async def test_too_many_events_are_refused_until_there_is_room_again() -> None:
    world = World(messages_per_second=2.0, burst=3.0)
    client = await world.guest()
    message = {"target_id": client.true_id, "data": 1}
    assert [client.call("message", message)["ok"] for _ in range(3)] == [True] * 3
    refused = client.call("message", message)
    assert error_of(refused) == ("rate_limited", None)
    assert refused["error"]["retry_after"] == 0.5
    client.emit("presence_set", {"state": "hidden"})
    assert client.payloads("error")[0]["code"] == "rate_limited"
    assert world.metric("limit_hits", "messages_per_second") == 2
    world.monotonic.now += 0.5
    assert client.call("message", message)["ok"]
    assert len(client.messages) == 4


@scenario
async def test_every_connection_has_a_rate_of_its_own() -> None:
    world = World(messages_per_second=1.0, burst=1.0)
    clients = [await world.connect(username="ann") for _ in range(2)]
    assert [client.call("players")["ok"] for client in clients * 2] == [True, True, False, False]


# Congestion


@scenario
async def test_reliable_messages_wait_while_congested_and_follow_in_order() -> None:
    world = World()
    client = await world.guest()
    client.room = 2
    world.write(client, *range(90))
    assert client.data == [0, 1]
    assert world.metric("limit_hits", "send_buffer_bytes") == 1
    client.drain()
    world.write(client, 90)
    assert client.data == list(range(91))
    assert client.closed is None


@scenario
async def test_catching_up_may_be_congested_again() -> None:
    world = World()
    client = await world.guest()
    client.room = 1
    world.write(client, *range(90))
    client.drain(room=1)
    # A batch that was begun is written to its end.
    assert client.data == list(range(65))
    client.drain(room=1)
    world.write(client, 90)
    assert client.data == list(range(90))
    client.drain()
    assert client.data == list(range(91))


@scenario
async def test_a_congested_connection_does_not_hold_up_others() -> None:
    world = World()
    slow, fast = [await world.connect(username="ann") for _ in range(2)]
    slow.room = 1
    world.write(slow, "a", "b", "c")
    assert (slow.data, fast.data) == (["a"], ["a", "b", "c"])
    slow.drain()
    assert slow.data == ["a", "b", "c"]


@scenario
async def test_a_client_that_is_full_by_its_greeting_catches_up() -> None:
    world = World()
    client = await world.guest()
    client.lose()
    world.write(client, "a", "b")
    back = await world.connect(pid=client.pid, room=1)
    back.drain()
    world.write(client, "c")
    assert back.data == ["a", "b", "c"]


@scenario
async def test_volatile_messages_are_dropped_while_congested() -> None:
    world = World()
    ann, bob = await world.guest("Ann"), await world.guest("Bob")
    volatile = {"target_id": bob.true_id, "data": 1, "volatile": True}
    assert ann.call("message", volatile) == {
        "ok": True,
        "id": None,
        "status": "delivered",
        "connections": 1,
        "duplicate": False,
    }
    assert "id" not in bob.messages[0]
    bob.room = 1
    assert ann.call("message", volatile)["status"] == "delivered"
    assert ann.call("message", volatile)["status"] == "dropped"
    bob.drain()
    assert len(bob.messages) == 2
    assert ann.call("message", volatile)["status"] == "delivered"


@scenario
async def test_presence_is_caught_up_after_congestion_by_its_latest_state() -> None:
    world = World()
    ann, eve = await world.guest("Ann"), await world.guest("Eve")
    eve.call("presence_watch", {"true_ids": [ann.true_id]})
    eve.room = 1
    world.write(eve, "a", "b")
    for status in ("1", "2", "3"):
        ann.emit("presence_set", {"state": "active", "status": status})
        world.pass_by(INTERVAL)
    assert eve.payloads("presence") == []
    eve.drain()
    world.pass_by(INTERVAL)
    assert [payload["status"] for payload in eve.payloads("presence")] == ["3"]
    assert eve.data == ["a", "b"]
    eve.drain()
    world.pass_by(INTERVAL)
    assert len(eve.payloads("presence")) == 1


@scenario
async def test_presence_alone_may_fill_the_send_buffer() -> None:
    world = World()
    ann, eve = await world.guest("Ann"), await world.guest("Eve")
    eve.call("presence_watch", {"true_ids": [ann.true_id]})
    eve.room = 2
    for number in range(10):
        ann.emit("presence_set", {"state": "active", "status": str(number)})
        world.pass_by(INTERVAL)
    assert [payload["status"] for payload in eve.payloads("presence")] == ["0", "1"]
    eve.drain()
    world.write(eve, "a")
    world.pass_by()
    assert [payload["status"] for payload in eve.payloads("presence")] == ["0", "1", "9"]
    assert eve.data == ["a"]


@scenario
async def test_messages_trimmed_before_they_were_written_end_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    client = await world.guest()
    client.room = 1
    world.write(client, *range(103))
    client.drain()
    assert client.data == [0]
    assert client.closed == ("slow_consumer", True)
    assert "fell 2 trimmed messages behind" in caplog.text
    back = await world.connect(pid=client.pid, offset=client.last_id)
    assert back.resumed == (True, "trimmed", 100, {"after": client.last_id, "lost": 2})
    assert back.data == list(range(3, 103))


@scenario
async def test_messages_during_a_slow_replay_keep_their_order() -> None:
    world = World()
    client = await world.guest()
    client.lose()
    world.write(client, *range(90))
    world.store.slow = True
    back = await world.connect(pid=client.pid)
    world.write(client, 90)
    assert back.data == []
    world.store.answer_reads()
    world.write(client, 91)
    assert back.data == list(range(92))


@scenario
async def test_an_answer_of_the_store_after_the_close_is_ignored() -> None:
    world = World()
    client = await world.guest()
    client.lose()
    world.write(client, "a")
    world.store.slow = True
    back = await world.connect(pid=client.pid)
    back.link.close("logout", reconnect=False)
    world.store.answer_reads()
    assert back.data == []


# The store fails


def down(world: World) -> None:
    world.store.down = True


def up(world: World) -> None:
    world.store.down = False


@scenario
async def test_a_replay_that_cannot_be_read_ends_the_connection_and_the_client_comes_back() -> None:
    world = World()
    client = await world.guest()
    client.lose()
    world.write(client, *range(3))
    world.store.slow = True
    back = await world.connect(pid=client.pid)
    down(world)
    world.store.answer_reads()
    assert back.data == []
    assert back.closed == ("store_unavailable", True)
    assert world.metric("closed_connections", "store_unavailable") == 1
    assert len(world.registry) == 0
    up(world)
    world.store.slow = False
    again = await world.connect(pid=client.pid)
    assert again.data == [0, 1, 2]


@scenario
async def test_a_replay_that_fails_in_the_middle_goes_on_from_there() -> None:
    world = World()
    client = await world.guest()
    client.lose()
    world.write(client, *range(90))
    world.store.slow = True
    back = await world.connect(pid=client.pid)
    world.store.reads.pop(0)()
    assert back.data == list(range(64))
    down(world)
    world.store.answer_reads()
    assert back.closed == ("store_unavailable", True)
    up(world)
    world.store.slow = False
    again = await world.connect(pid=client.pid, offset=back.last_id)
    assert again.resumed == (True, "resumed", 26, None)
    assert again.data == list(range(64, 90))


@scenario
async def test_a_congested_client_that_cannot_be_caught_up_comes_back() -> None:
    world = World()
    client = await world.guest()
    client.room = 1
    world.write(client, "a", "b")
    down(world)
    client.drain()
    assert client.data == ["a"]
    assert client.closed == ("store_unavailable", True)
    up(world)
    back = await world.connect(pid=client.pid, offset=client.last_id)
    assert back.data == ["b"]


@scenario
async def test_a_read_that_fails_after_the_close_changes_nothing() -> None:
    world = World()
    client = await world.guest()
    client.lose()
    world.store.slow = True
    back = await world.connect(pid=client.pid)
    back.lose()
    down(world)
    world.store.answer_reads()
    assert back.closed is None
    assert world.metric("closed_connections", "store_unavailable") == 0


@scenario
async def test_a_client_that_is_up_to_date_needs_no_store() -> None:
    world = World()
    ann, bob = await world.guest("Ann"), await world.guest("Bob")
    down(world)
    assert ann.call("message", {"target_id": bob.true_id, "data": 1, "volatile": True})["ok"]
    refusal = ann.call("message", {"target_id": bob.true_id, "data": 2})
    assert error_of(refusal) == ("unavailable", None)
    ann.emit("message", {"target_id": bob.true_id, "data": 3})
    (error,) = ann.payloads("error")
    assert (error["code"], error["event"]) == ("unavailable", "message")
    assert error_of(ann.call("logout") or await answered(ann)) == ("unavailable", None)
    assert (ann.closed, bob.closed, bob.data) == (None, None, [1])


async def answered(client: Client) -> dict[str, object]:
    """Return the newest ack, once everybody had a turn."""
    await settled()
    ack: dict[str, object] = client.acks[max(client.acks)]
    return ack


# Heartbeat


async def confirmed(world: World, client: Client) -> list[object]:
    """Break the connection and return what a client with a token only gets again."""
    client.lose()
    return (await world.connect(token=client.token)).data


@scenario
async def test_a_pong_confirms_what_was_written_before_its_ping() -> None:
    world = World()
    client = await world.guest()
    world.write(client, "a")
    client.link.on_ping_sent()
    world.write(client, "b")
    client.link.on_pong()
    assert await confirmed(world, client) == ["b"]


@scenario
async def test_a_ping_confirms_nothing() -> None:
    world = World()
    client = await world.guest()
    world.write(client, "a")
    client.link.on_ping_sent()
    assert await confirmed(world, client) == ["a"]


@scenario
async def test_a_pong_that_nobody_asked_for_confirms_nothing() -> None:
    world = World()
    client = await world.guest()
    world.write(client, "a")
    client.link.on_pong()
    client.heartbeat()
    world.write(client, "b")
    client.link.on_pong()
    client.link.on_pong()
    assert await confirmed(world, client) == ["b"]


@scenario
async def test_the_pong_of_an_earlier_ping_does_not_confirm_by_a_later_one() -> None:
    world = World()
    client = await world.guest()
    world.write(client, "a")
    client.link.on_ping_sent()
    world.write(client, "b")
    client.link.on_ping_sent()  # a probe, while the heartbeat's pong is on its way
    client.link.on_pong()
    assert client.link.session.confirmed == 1
    client.link.on_pong()
    assert client.link.session.confirmed == 2


@scenario
async def test_what_waits_in_the_mailbox_is_not_confirmed() -> None:
    world = World()
    client = await world.guest()
    client.room = 1
    world.write(client, "a", "b")
    client.heartbeat()
    assert await confirmed(world, client) == ["b"]


@scenario
async def test_a_probe_is_answered_by_a_pong_or_not_in_time_or_not_at_all() -> None:
    world = World()
    client = await world.guest()
    assert await client.link.answers(60.0)
    client.alive = False
    assert not await client.link.answers(0.0)
    client.lose()
    assert not await client.link.answers(60.0)
    assert client.pings == 2


@scenario
async def test_a_pong_that_was_under_way_already_answers_no_probe() -> None:
    world = World()
    client = await world.guest(alive=False)
    client.link.on_ping_sent()
    probe = asyncio.create_task(client.link.answers(60.0))
    await settled()
    client.link.on_pong()
    await settled()
    assert not probe.done()
    client.link.on_pong()
    assert await probe


@scenario
async def test_the_pong_to_a_ping_from_before_the_log_in_confirms_nothing() -> None:
    world = World()
    first = await world.guest()
    world.write(first, "a", "b")
    first.lose()
    client = Client(alive=False)
    client.pings = 1
    client.admitted(await world.admission.admit({"pid": first.pid}, ADDRESS, client))
    assert client.data == ["a", "b"]
    probe = asyncio.create_task(client.link.answers(60.0))
    await settled()
    client.link.on_pong()
    await settled()
    assert not probe.done()
    assert client.link.session.confirmed == 0
    client.link.on_pong()
    assert await probe
    assert client.link.session.confirmed == 2


# Closing


@scenario
async def test_a_closed_connection_is_forgotten_and_says_nothing() -> None:
    world = World()
    client = await world.guest()
    world.clock.now += 5
    client.link.close("kicked", reconnect=True)
    client.link.close("again", reconnect=False)
    assert client.closed == ("kicked", True)
    assert len(world.registry) == 0
    assert world.metric("closed_connections", "kicked") == 1
    assert world.metric("closed_connections", "again") == 0
    session = client.link.session
    assert (session.connection_id, session.last_seen) == (None, world.clock.now)
    client.emit("players")
    client.link.send("goaway", {})
    client.link.on_drained()
    client.link.on_pong()
    assert json.dumps(client.events).count("goaway") == 0
