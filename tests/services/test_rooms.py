"""Rooms around real services: joining, publishing, and when a membership ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import Raw

from gateway.errors import RequestRefused
from gateway.joining import ClosedRooms
from gateway.mailbox import Retention
from gateway.membership import RoomLimits
from gateway.messages import Publish, Receipt, TrueId, encode
from gateway.nodes import Alone, VolatileKey
from tests.services.world import GRACE, Client, Sender, World, scenario, settled

ROOM = "match 1"


def error(answer: Any) -> tuple[str, str | None]:
    assert answer["ok"] is False
    return answer["error"]["code"], answer["error"].get("field")


async def party(world: World, *names: str) -> list[Client]:
    """Return guests who have joined one room, in this order."""
    clients = [await world.guest(name) for name in names]
    for client in clients:
        assert client.call("join", {"room": ROOM})["ok"]
        for each in clients:
            each.events = [event for event in each.events if event[0] != "room"]
    return clients


# Joining and leaving


@scenario
async def test_a_join_is_acknowledged_with_the_members_and_told_to_all() -> None:
    world = World()
    ann, bob = await world.guest("Ann"), await world.guest("Bob")
    assert ann.call("join", {"room": ROOM}) == {"ok": True, "members": 1}
    assert bob.call("join", {"room": ROOM}) == {"ok": True, "members": 2}
    joined = {"room": ROOM, "joined": bob.true_id, "members": 2}
    assert ann.payloads("room")[-1] == joined
    assert bob.payloads("room") == [joined]
    assert ann.call("leave", {"room": ROOM}) == {"ok": True, "members": 1}
    left = {"room": ROOM, "left": ann.true_id, "members": 1}
    assert bob.payloads("room")[-1] == left
    # The player's own tabs learn of it, too.
    assert ann.payloads("room")[-1] == left
    bob.call("leave", {"room": ROOM})
    assert len(world.store.memberships) == 0


@scenario
async def test_joining_twice_changes_nothing_and_tells_nobody() -> None:
    world = World()
    ann, bob = await party(world, "Ann", "Bob")
    assert ann.call("join", {"room": ROOM}) == {"ok": True, "members": 2}
    assert ann.payloads("room") == bob.payloads("room") == []


@scenario
async def test_who_is_not_in_a_room_cannot_leave_publish_or_look() -> None:
    world = World()
    (ann,) = await party(world, "Ann")
    eve = await world.guest("Eve")
    for name, payload in (
        ("leave", {"room": ROOM}),
        ("members", {"room": ROOM}),
        ("publish", {"room": ROOM, "data": 1}),
        ("publish", {"room": ROOM, "data": 1, "volatile": True}),
        ("publish", {"room": "no such room", "data": 1}),
    ):
        assert error(eve.call(name, payload)) == ("not_member", "room")
    assert ann.messages == []
    eve.emit("publish", {"room": ROOM, "data": 1})
    assert eve.payloads("error")[-1]["event"] == "publish"


@pytest.mark.parametrize("room", ["", "x" * 129, "a\nb", "a\0", "\x7f", "\x85"])
@scenario
async def test_a_room_has_a_name_that_can_be_shown(room: str) -> None:
    world = World()
    ann = await world.guest()
    assert error(ann.call("join", {"room": room})) == ("bad_request", "room")
    assert len(world.store.memberships) == 0


@scenario
async def test_names_are_any_other_text() -> None:
    world = World()
    ann = await world.guest()
    for room in (" ", "x" * 128, "Lobby №1 ☃", '"]}', ann.true_id):
        assert ann.call("join", {"room": room})["ok"]
        assert ann.call("publish", {"room": room, "data": room})["status"] == "delivered"
    assert [message["room"] for message in ann.messages] == ann.data


@scenario
async def test_limits_are_told_and_counted() -> None:
    world = World(rooms=RoomLimits(max_members=1, per_player=2, rooms=2))
    ann, bob = await world.guest("Ann"), await world.guest("Bob")
    for room in ("a", "b"):
        ann.call("join", {"room": room})
    assert error(ann.call("join", {"room": "c"})) == ("too_large", "room")
    assert error(bob.call("join", {"room": "a"})) == ("too_large", "room")
    refused = bob.call("join", {"room": "c"})
    assert error(refused) == ("rate_limited", "room")
    assert refused["error"]["retry_after"] > 0
    for limit in ("per_player", "max_members", "rooms"):
        assert world.metric("limit_hits", f"rooms.{limit}") == 1


@scenario
async def test_large_rooms_tell_nobody_who_comes_and_goes() -> None:
    world = World(announce=2)
    ann, bob, eve = await party(world, "Ann", "Bob", "Eve")
    assert eve.call("leave", {"room": ROOM})["members"] == 2
    assert [each.payloads("room") for each in (ann, bob)] == [
        [{"room": ROOM, "left": eve.true_id, "members": 2}]
    ] * 2
    eve.call("join", {"room": ROOM})
    assert len(ann.payloads("room")) == 1
    assert eve.payloads("room")[1:] == []


@scenario
async def test_members_come_in_pages() -> None:
    world = World()
    ann, bob, eve = await party(world, "Ann", "Bob", "Eve")
    eve.lose()
    bob.call("presence_set", {"state": "hidden"})
    world.monotonic.now += GRACE / 2
    world.timers.run()
    first = ann.call("members", {"room": ROOM, "limit": 2})
    assert first["players"] == [
        {"true_id": ann.true_id, "name": "Ann", "state": "active"},
        {"true_id": bob.true_id, "name": "Bob", "state": "hidden"},
    ]
    assert (first["ok"], first["room"], first["members"]) == (True, ROOM, 3)
    last = ann.call("members", {"room": ROOM, "limit": 2, "cursor": first["cursor"]})
    assert last["players"] == [{"true_id": eve.true_id, "name": "Eve", "state": "away"}]
    assert (last["members"], last["cursor"]) == (3, None)
    assert error(ann.call("members", {"room": ROOM, "cursor": "x"})) == ("bad_request", "cursor")


# Policies


@scenario
async def test_a_closed_room_takes_whom_the_backend_puts_in() -> None:
    world = World(policy=ClosedRooms())
    ann, bob = await world.guest("Ann"), await world.guest("Bob")
    assert await world.rooms.add(ROOM, ann.true_id) == 1
    assert ann.payloads("room") == [{"room": ROOM, "joined": ann.true_id, "members": 1}]
    assert bob.call("join", {"room": ROOM}) is None
    await settled()
    assert error(bob.acks[1]) == ("forbidden", "room")
    # A member may say so again.
    assert ann.call("join", {"room": ROOM}) == {"ok": True, "members": 1}
    assert world.rooms.members(ROOM) == (ann.true_id,)
    assert world.rooms.rooms_of(ann.true_id) == (ROOM,)
    assert await world.rooms.remove(ROOM, ann.true_id) == 0
    assert await world.rooms.remove(ROOM, ann.true_id) == 0
    assert ann.payloads("room")[1:] == [{"room": ROOM, "left": ann.true_id, "members": 0}]
    assert error(ann.call("publish", {"room": ROOM, "data": 1})) == ("not_member", "room")


@scenario
async def test_a_policy_may_take_its_time_and_fail(caplog: pytest.LogCaptureFixture) -> None:
    answers: dict[str, Any] = {"yes": True, "no": False, "broken": OSError("no secret")}
    answers["busy"] = RequestRefused("rate_limited", "later", None, 2.0)

    class Policy:
        async def may_join(self, true_id: TrueId, room: str, attributes: str) -> bool:
            await asyncio.sleep(0)
            answer = answers[room]
            if isinstance(answer, Exception):
                raise answer
            return bool(answer)

    world = World(policy=Policy())
    ann = await world.guest()
    for room in answers:
        assert ann.call("join", {"room": room}) is None
        await settled()
    assert ann.acks[1] == {"ok": True, "members": 1}
    assert [error(ann.acks[number])[0] for number in (2, 3, 4)] == [
        "forbidden",
        "unavailable",
        "rate_limited",
    ]
    assert "no secret" not in str(ann.acks)
    assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR"]
    assert world.rooms.rooms_of(ann.true_id) == ("yes",)


@scenario
async def test_a_store_that_is_down_changes_nothing() -> None:
    world = World()
    (ann,) = await party(world, "Ann")
    world.store.down = True
    for name, payload in (
        ("join", {"room": "other"}),
        ("leave", {"room": ROOM}),
        ("publish", {"room": ROOM, "data": 1}),
    ):
        assert error(ann.call(name, payload))[0] == "unavailable"
    with pytest.raises(RequestRefused, match="try again"):
        await world.rooms.add(ROOM, TrueId("other"))
    world.store.down = False
    assert world.rooms.rooms_of(ann.true_id) == (ROOM,)
    assert ann.payloads("room") == []


# When it ends


@scenario
async def test_a_player_who_is_away_stays_for_the_grace() -> None:
    world = World()
    ann, bob = await party(world, "Ann", "Bob")
    ann.lose()
    world.monotonic.now += GRACE - 1
    world.rooms.expire()
    assert bob.payloads("room") == []
    world.monotonic.now += 2
    world.rooms.expire()
    assert bob.payloads("room") == [{"room": ROOM, "left": ann.true_id, "members": 1}]
    again = await world.connect(token=ann.token)
    assert error(again.call("publish", {"room": ROOM, "data": 1}))[0] == "not_member"


@scenario
async def test_a_player_who_is_back_in_time_stays() -> None:
    world = World()
    ann, bob = await party(world, "Ann", "Bob")
    ann.lose()
    world.monotonic.now += GRACE - 1
    again = await world.connect(token=ann.token)
    world.monotonic.now += GRACE + 1
    world.rooms.expire()
    again.lose()
    world.monotonic.now += GRACE - 1
    world.rooms.expire()
    assert bob.payloads("room") == []
    assert world.rooms.members(ROOM) == (ann.true_id, bob.true_id)


@scenario
async def test_the_last_log_out_ends_it_at_once() -> None:
    world = World()
    ann, bob = await party(world, "Ann", "Bob")
    second = await world.connect(token=ann.token)
    assert second.session_id != ann.session_id
    second.emit("logout", {})
    await settled()
    assert bob.payloads("room") == []
    ann.emit("logout", {})
    await settled()
    assert bob.payloads("room") == [{"room": ROOM, "left": ann.true_id, "members": 1}]


@scenario
async def test_whom_the_backend_adds_while_away_has_the_grace_from_then_on() -> None:
    world = World()
    ann = await world.guest()
    ann.lose()
    world.monotonic.now += GRACE
    await world.rooms.add(ROOM, ann.true_id)
    world.monotonic.now += GRACE - 1
    world.rooms.expire()
    assert world.rooms.members(ROOM) == (ann.true_id,)
    world.monotonic.now += 2
    world.rooms.expire()
    assert world.rooms.members(ROOM) == ()


@scenario
async def test_what_was_found_in_a_store_has_the_grace_from_the_start_on() -> None:
    world = World()
    ann, bob = await party(world, "Ann", "Bob")
    world.monotonic.now += 10 * GRACE
    # The next gateway, over the same store: nobody is connected yet.
    after = World()
    after.monotonic.now = world.monotonic.now
    after.store.memberships = world.store.memberships
    after.rooms.expire()
    assert after.rooms.members(ROOM) == (ann.true_id, bob.true_id)
    after.monotonic.now += GRACE + 1
    after.rooms.expire()
    assert after.rooms.members(ROOM) == ()


@scenario
async def test_an_end_that_the_store_cannot_keep_is_tried_again() -> None:
    world = World()
    (ann,) = await party(world, "Ann")
    ann.lose()
    world.monotonic.now += GRACE + 1
    world.store.down = True
    world.rooms.expire()
    assert world.rooms.members(ROOM) == (ann.true_id,)
    world.store.down = False
    world.rooms.expire()
    assert world.rooms.members(ROOM) == ()


# Messages


@scenario
async def test_every_member_gets_it_and_the_sender_too() -> None:
    world = World()
    ann, bob, eve = await party(world, "Ann", "Bob", "Eve")
    tab = await world.connect(token=ann.token)
    eve.lose()
    receipt = bob.call("publish", {"room": ROOM, "data": {"x": 1}, "type": "move"})
    assert receipt["ok"]
    assert (receipt["status"], receipt["connections"], receipt["duplicate"]) == (
        "delivered",
        3,
        False,
    )
    assert receipt["id"] == bob.last_id
    for client in (ann, tab, bob):
        (message,) = client.messages
        assert (message["from"], message["room"]) == (bob.true_id, ROOM)
        assert (message["type"], message["data"]) == ("move", {"x": 1})
        assert client.events[-1][2] == message["id"]
    assert ann.last_id == tab.last_id
    again = await world.connect(token=eve.token)
    assert again.resumed == (True, "resumed", 1, None)
    assert again.data == [{"x": 1}]
    assert (world.metric("messages", "delivered"), world.metric("messages", "queued")) == (2, 1)


@scenario
async def test_nobody_connected_is_queued() -> None:
    world = World()
    (ann,) = await party(world, "Ann")
    ann.lose()
    sender = Sender()
    world.delivery.publish(None, Publish(ROOM, Raw(b"1")), None, sender, 7)
    assert sender.told == [(Receipt(True, None, "queued", 0), 7)]


@scenario
async def test_the_same_id_is_accepted_once() -> None:
    world = World()
    ann, bob = await party(world, "Ann", "Bob")
    first = ann.call("publish", {"room": ROOM, "data": 1, "id": "a"})
    again = ann.call("publish", {"room": ROOM, "data": 1, "id": "a"})
    assert again == {**first, "duplicate": True}
    assert ann.data == bob.data == [1]
    ann.call("join", {"room": "other"})
    for name, payload in (
        ("publish", {"room": "other", "data": 1, "id": "a"}),
        ("message", {"target_id": bob.true_id, "data": 1, "id": "a"}),
    ):
        assert error(ann.call(name, payload)) == ("bad_request", "id")


@scenario
async def test_without_echo_the_session_that_published_is_passed_over() -> None:
    world = World()
    ann, bob = await party(world, "Ann", "Bob")
    tab = await world.connect(token=ann.token)
    receipt = ann.call("publish", {"room": ROOM, "data": 1, "echo": False})
    assert (receipt["ok"], receipt["connections"]) == (True, 3)
    assert (ann.data, tab.data, bob.data) == ([], [1], [1])
    assert receipt["id"] == tab.last_id
    bob.call("publish", {"room": ROOM, "data": 2})
    assert ann.data == [2]


@pytest.mark.parametrize("known", [True, False])
@scenario
async def test_nor_does_it_come_after_a_reconnect(known: bool) -> None:
    world = World()
    ann, bob = await party(world, "Ann", "Bob")
    bob.call("publish", {"room": ROOM, "data": 0})
    offset = {"offset": ann.last_id} if known else {}
    ann.call("publish", {"room": ROOM, "data": 1, "echo": False})
    bob.call("publish", {"room": ROOM, "data": 2})
    ann.lose()
    bob.call("publish", {"room": ROOM, "data": 3})
    again = await world.connect(pid=ann.pid, **offset)
    expected = [2, 3] if known else [0, 2, 3]
    assert again.resumed == (True, "resumed", len(expected), None)
    assert again.data == expected
    assert again.closed is None
    # Another session of the player's has never seen it.
    other = await world.connect(token=again.token, offset=ann.messages[0]["id"])
    assert other.session_id != ann.session_id
    assert other.data == [1, 2, 3]


@scenario
async def test_a_stalled_member_passes_over_it_too_when_it_reads_again() -> None:
    world = World()
    ann, bob = await party(world, "Ann", "Bob")
    ann.room = 1
    bob.call("publish", {"room": ROOM, "data": 0})
    ann.call("publish", {"room": ROOM, "data": 1, "echo": False})
    bob.call("publish", {"room": ROOM, "data": 2})
    assert ann.data == [0]
    ann.drain()
    assert ann.data == [0, 2]
    ann.heartbeat()
    (session,) = await world.sessions(ann.true_id)
    assert session.confirmed == 3


@scenario
async def test_a_volatile_message_is_stored_nowhere() -> None:
    world = World()
    ann, bob, eve = await party(world, "Ann", "Bob", "Eve")
    eve.lose()
    publish = {"room": ROOM, "data": 1, "volatile": True, "key": "pos"}
    assert ann.call("publish", publish) == {
        "ok": True,
        "id": None,
        "status": "delivered",
        "connections": 2,
        "duplicate": False,
    }
    assert ann.call("publish", {**publish, "echo": False})["connections"] == 1
    assert (ann.data, bob.data) == ([1], [1, 1])
    assert all("id" not in message and message["room"] == ROOM for message in bob.messages)
    assert len(bob.events[-1]) == 2
    assert await world.head(bob.true_id) == 0
    bob.lose()
    assert ann.call("publish", {**publish, "echo": False})["status"] == "dropped"


@scenario
async def test_a_volatile_key_names_sender_room_and_key() -> None:
    keys: list[object] = []

    class Recipient:
        def offer_volatile(self, array: bytes, key: object = None) -> bool:
            keys.append(key)
            return True

    world = World()
    (ann,) = await party(world, "Ann")
    world.delivery._connections_of = lambda true_id: (Recipient(),)  # type: ignore[assignment,return-value]
    for more in ({}, {"key": "pos"}):
        ann.call("publish", {"room": ROOM, "data": 1, "volatile": True, **more})
    assert keys == [None, (ann.true_id, ROOM, "pos")]


@scenario
async def test_a_key_is_for_volatile_messages() -> None:
    world = World()
    (ann,) = await party(world, "Ann")
    payload = {"room": ROOM, "data": 1, "key": "pos"}
    assert error(ann.call("publish", payload)) == ("bad_request", "key")
    # The long way, for a client that writes its JSON otherwise.
    ann.link.receive(b'[ "publish",' + encode(payload) + b"]", 9)
    assert error(ann.acks[9]) == ("bad_request", "key")
    assert ann.messages == []


@scenario
async def test_a_message_that_is_too_large_is_refused() -> None:
    world = World(message_bytes=10)
    (ann,) = await party(world, "Ann")
    ann.emit("publish", {"room": ROOM, "data": "x" * 20})
    told = ann.payloads("error")[-1]
    assert (told["code"], told["field"], told["event"]) == ("too_large", "data", "publish")


@scenario
async def test_a_full_mailbox_blocks_nobody_and_its_player_is_told() -> None:
    world = World(mailbox=Retention(2, 0, 0), refuse_when_full=True)
    ann, bob = await party(world, "Ann", "Bob")
    for number in range(2):
        bob.call("publish", {"room": ROOM, "data": number})
        bob.heartbeat()
    last = ann.last_id
    receipt = bob.call("publish", {"room": ROOM, "data": 2})
    assert (receipt["ok"], receipt["connections"]) == (True, 1)
    assert bob.data == [0, 1, 2]
    assert ann.closed == ("slow_consumer", True)
    assert world.metric("limit_hits", "mailbox.max_messages") == 1
    assert world.metric("dropped_messages", "refused") == 1
    again = await world.connect(pid=ann.pid, offset=last)
    assert again.resumed == (True, "trimmed", 0, {"after": None, "lost": 1})
    # What it has shown to have makes room.
    bob.heartbeat()
    bob.call("publish", {"room": ROOM, "data": 3})
    assert again.data == [3]
    again.lose()
    once_more = await world.connect(pid=ann.pid, offset=again.last_id)
    assert once_more.resumed == (True, "resumed", 0, None)


@scenario
async def test_who_was_away_is_told_of_what_did_not_fit() -> None:
    world = World(mailbox=Retention(1, 0, 0), refuse_when_full=True)
    ann, bob = await party(world, "Ann", "Bob")
    ann.lose()
    for number in range(3):
        bob.call("publish", {"room": ROOM, "data": number})
        bob.heartbeat()
    again = await world.connect(token=ann.token)
    assert again.resumed == (True, "trimmed", 1, {"after": None, "lost": 2})
    assert again.data == [0]
    assert again.closed is None


# Other nodes


class Others(Alone):
    """Nodes that have `members` of every room, and keep what they are told."""

    alone = False  # type: ignore[assignment]

    def __init__(self, members: int = 0) -> None:
        self.members = members
        self.shown: list[tuple[str, int]] = []
        self.published: list[tuple[str, bytes, VolatileKey | None]] = []

    def show_room(self, room: str, members: int) -> None:
        self.shown.append((room, members))

    def publish_volatile(
        self, room: str, array: bytes, key: VolatileKey | None, done: Callable[[int], None]
    ) -> None:
        self.published.append((room, array, key))
        done(self.members)


@scenario
async def test_other_nodes_are_shown_rooms_with_members_who_are_here() -> None:
    others = Others()
    world = World(nodes=others)
    ann, bob = await party(world, "Ann", "Bob")
    assert others.shown == [(ROOM, 1), (ROOM, 2)]
    others.shown.clear()
    # A second connection of the same player, and a member who is not here, change nothing.
    again = await world.connect(token=ann.token)
    await world.rooms.add(ROOM, TrueId("away"))
    ann.lose()
    assert others.shown == []
    again.lose()
    assert others.shown == [(ROOM, 1)]
    back = await world.connect(token=again.token)
    bob.call("leave", {"room": ROOM})
    assert others.shown[1:] == [(ROOM, 2), (ROOM, 1)]
    back.lose()
    assert others.shown[3:] == [(ROOM, 0)]


@scenario
async def test_who_comes_and_goes_through_another_node_is_told_here() -> None:
    others = Others()
    world = World(nodes=others, announce=3)
    ann, bob = await party(world, "Ann", "Bob")
    world.rooms.on_changed(ROOM, TrueId("eve"), True, 3)
    joined = {"room": ROOM, "joined": "eve", "members": 3}
    assert ann.payloads("room") == bob.payloads("room") == [joined]
    world.rooms.on_changed(ROOM, TrueId("eve"), False, 2)
    assert ann.payloads("room")[1:] == [{"room": ROOM, "left": "eve", "members": 2}]
    # In a large room only the player's own connections are told.
    others.shown.clear()
    world.rooms.on_changed(ROOM, bob.true_id, False, 4)
    assert len(ann.payloads("room")) == 2
    assert bob.payloads("room")[2:] == [{"room": ROOM, "left": bob.true_id, "members": 4}]
    world.rooms.on_changed(ROOM, bob.true_id, True, 4)
    assert others.shown == [(ROOM, 1), (ROOM, 2)]


@scenario
async def test_a_volatile_message_goes_to_members_at_other_nodes() -> None:
    others = Others(members=3)
    world = World(nodes=others)
    ann, bob = await party(world, "Ann", "Bob")
    payload = {"room": ROOM, "data": 1, "volatile": True, "echo": False, "key": "k"}
    receipt = ann.call("publish", payload)
    assert (receipt["status"], receipt["connections"]) == ("delivered", 4)
    ((room, array, key),) = others.published
    assert (room, key) == (ROOM, (ann.true_id, ROOM, "k"))
    assert (ann.data, bob.data) == ([], [1])
    # And there it is handed to all who are members.
    there = World()
    eve, dan = await party(there, "Eve", "Dan")
    there.delivery.offer_to_room(room, array, key)
    assert eve.data == dan.data == [1]


@scenario
async def test_a_volatile_message_that_only_others_may_get_is_not_dropped() -> None:
    for members, status in ((0, "dropped"), (1, "delivered")):
        world = World(nodes=Others(members))
        (ann,) = await party(world, "Ann")
        receipt = ann.call("publish", {"room": ROOM, "data": 1, "volatile": True, "echo": False})
        assert (receipt["status"], receipt["connections"]) == (status, members)


@scenario
async def test_a_hole_that_another_node_has_made_is_told() -> None:
    world = World(mailbox=Retention(1, 0, 0), refuse_when_full=True)
    ann, bob = await party(world, "Ann", "Bob")
    world.delivery.tell_holes([bob.true_id, TrueId("nobody")])
    await settled()
    assert ann.closed is None
    assert bob.closed is not None
