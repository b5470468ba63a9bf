"""Delivery: what becomes of a message, and what its sender is told."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
from msgspec import Raw

from gateway.delivery import Delivery, LiveMessage
from gateway.errors import RequestRefused
from gateway.mailbox import Retention
from gateway.messages import Receipt, SendMessage, TrueId
from gateway.nodes import Alone
from tests.services.world import Sender, World, scenario

ANN = TrueId("acc-ann")
BOB = TrueId("acc-bob")


async def known(world: World) -> World:
    await world.store.know([ANN, BOB])
    return world


def send(
    world: World, data: bytes = b"1", *, sender: TrueId | None = ANN, **fields: object
) -> Receipt | RequestRefused:
    request = SendMessage(str(fields.pop("target_id", BOB)), Raw(data), **fields)  # type: ignore[arg-type]
    origin = Sender()
    world.delivery.send(sender, request, origin, 7)
    ((result, ack_id),) = origin.told
    assert ack_id == 7
    return result


def refused(result: Receipt | RequestRefused) -> tuple[str, str | None]:
    assert isinstance(result, RequestRefused)
    return result.code, result.field


@scenario
async def test_a_message_to_a_player_who_is_not_here_is_queued() -> None:
    world = await known(World())
    receipt = send(world)
    assert receipt == Receipt(ok=True, id="e1.1.1", status="queued", connections=0)
    assert world.metric("messages", "queued") == 1
    assert (await world.connect(username="bob")).data == [1]


@scenario
async def test_a_message_to_a_player_who_is_here_is_delivered() -> None:
    world = await known(World())
    bob = await world.connect(username="bob")
    receipt = send(world, b'{ "a":1}')
    assert receipt == Receipt(ok=True, id="e1.1.1", status="delivered", connections=1)
    assert world.metric("messages", "delivered") == 1
    assert bob.data == [{"a": 1}]


@scenario
async def test_the_sender_is_told_after_the_target() -> None:
    world = await known(World())
    bob = await world.connect(username="bob")
    seen: list[list[object]] = []

    class Watching(Sender):
        def on_receipt(self, receipt: Receipt, ack_id: int) -> None:
            seen.append(bob.data)

    world.delivery.send(ANN, SendMessage(BOB, Raw(b"1")), Watching(), 1)
    assert seen == [[1]]


@scenario
async def test_a_repeated_message_is_accepted_once() -> None:
    world = await known(World())
    bob = await world.connect(username="bob")
    first = send(world, id="key")
    again = send(world, b"2", id="key")
    assert first == Receipt(ok=True, id="e1.1.1", status="delivered", connections=1)
    assert again == Receipt(ok=True, id="e1.1.1", status="delivered", connections=1, duplicate=True)
    assert bob.data == [1]
    assert world.metric("messages", "duplicate") == 1
    assert send(world, sender=BOB, id="key", target_id=ANN).duplicate is False  # type: ignore[union-attr]


@scenario
async def test_a_repeated_message_is_known_over_reconnects() -> None:
    world = World()
    ann = await world.connect(username="ann")
    message = {"target_id": ann.true_id, "data": 1, "id": "key"}
    assert ann.call("message", message)["duplicate"] is False
    ann.lose()
    ann = await world.connect(pid=ann.pid)
    assert ann.call("message", message)["duplicate"] is True
    assert ann.data == [1]


@scenario
async def test_the_same_id_for_another_target_is_a_mistake() -> None:
    world = await known(World())
    send(world, id="key")
    assert refused(send(world, id="key", target_id=ANN)) == ("bad_request", "id")
    assert await world.head(ANN) == 0


@scenario
async def test_more_ids_than_can_be_remembered_have_to_wait() -> None:
    world = await known(World(dedupe_keys=1, dedupe_window=60.0))
    send(world, id="a")
    world.clock.now += 20
    result = send(world, id="b")
    assert refused(result) == ("rate_limited", None)
    assert world.metric("limit_hits", "mailbox.dedupe_keys") == 1
    assert isinstance(send(world), Receipt)
    world.clock.now += result.retry_after  # type: ignore[union-attr, operator]
    assert isinstance(send(world, id="b"), Receipt)


@scenario
async def test_a_volatile_message_is_stored_nowhere() -> None:
    world = await known(World())
    bob = await world.connect(username="bob")
    receipt = send(world, volatile=True, id="key", type="move")
    assert receipt == Receipt(ok=True, id=None, status="delivered", connections=1)
    assert bob.events[-1] == [
        "message",
        {"from": ANN, "data": 1, "ts": world.clock.now, "type": "move"},
    ]
    assert await world.head(BOB) == 0
    assert send(world, id="key").duplicate is False  # type: ignore[union-attr]


@pytest.mark.parametrize("target_id", [BOB, "nobody"])
@scenario
async def test_a_volatile_message_to_nobody_here_is_dropped(target_id: str) -> None:
    world = await known(World())
    receipt = send(world, volatile=True, target_id=target_id)
    assert receipt == Receipt(ok=True, id=None, status="dropped", connections=0)
    assert world.metric("messages", "dropped") == 1


@scenario
async def test_a_volatile_message_counts_the_connections_that_took_it() -> None:
    world = await known(World())
    slow, fast = [await world.connect(username="bob") for _ in range(2)]
    slow.room = 1
    send(world, b'"a"')
    receipt = send(world, b'"b"', volatile=True)
    assert receipt == Receipt(ok=True, id=None, status="delivered", connections=1)
    assert (slow.data, fast.data) == (["a"], ["a", "b"])


@pytest.mark.parametrize("volatile", [False, True])
@scenario
async def test_data_that_is_too_large_is_refused(volatile: bool) -> None:
    world = await known(World(message_bytes=10))
    assert isinstance(send(world, b'"12345678"', volatile=volatile), Receipt)
    assert refused(send(world, b'"123456789"', volatile=volatile)) == ("too_large", "data")
    assert world.metric("limit_hits", "message_bytes") == 1


@scenario
async def test_a_message_to_a_stranger_is_refused() -> None:
    world = await known(World())
    assert refused(send(world, target_id="nobody")) == ("unknown_target", "target_id")


@scenario
async def test_a_full_store_refuses_and_asks_to_wait() -> None:
    world = await known(World(total_bytes=1000))
    result = send(world, b"1" * 2000)
    assert refused(result) == ("mailbox_full", None)
    assert result.retry_after is not None  # type: ignore[union-attr]
    assert world.metric("limit_hits", "mailbox.total_bytes") == 1


@scenario
async def test_a_store_that_is_down_refuses_and_asks_to_wait() -> None:
    world = await known(World())
    bob = await world.connect(username="bob")
    world.store.down = True
    result = send(world)
    assert refused(result) == ("unavailable", None)
    assert result.retry_after is not None  # type: ignore[union-attr]
    assert bob.data == []
    # Volatile messages need no store.
    assert isinstance(send(world, volatile=True), Receipt)


@pytest.mark.parametrize("volatile", [False, True])
@scenario
async def test_a_sender_without_ack_is_told_refusals_only(volatile: bool) -> None:
    world = await known(World(message_bytes=10))
    origin = Sender()
    for target_id in (ANN, BOB):
        request = SendMessage(target_id, Raw(b"1"), id="key", volatile=volatile)
        world.delivery.send(ANN, request, origin)
        if target_id == ANN:
            # Nor that the store had it already.
            world.delivery.send(ANN, request, origin)
    world.delivery.send(ANN, SendMessage(BOB, Raw(b"1" * 11), volatile=volatile), origin)
    codes = [(told.code, ack_id) for told, ack_id in origin.told]  # type: ignore[union-attr]
    # A volatile message keeps no id, so there is none to be used twice.
    assert codes == ([] if volatile else [("bad_request", None)]) + [("too_large", None)]


@scenario
async def test_every_refusal_by_the_store_is_told_without_ack() -> None:
    world = await known(World(dedupe_keys=1, total_bytes=1000))
    origin = Sender()
    for target_id, size, key in (
        (BOB, 1, "a"),
        (BOB, 1, "b"),
        ("nobody", 1, None),
        (BOB, 2000, None),
    ):
        world.delivery.send(ANN, SendMessage(target_id, Raw(b"1" * size), id=key), origin)
    world.store.down = True
    world.delivery.send(ANN, SendMessage(BOB, Raw(b"1")), origin)
    assert [(told.code, ack_id) for told, ack_id in origin.told] == [  # type: ignore[union-attr]
        ("rate_limited", None),
        ("unknown_target", None),
        ("mailbox_full", None),
        ("unavailable", None),
    ]


@scenario
async def test_a_message_needs_no_origin() -> None:
    world = await known(World(message_bytes=10))
    bob = await world.connect(username="bob")
    for target_id, size in ((BOB, 1), ("nobody", 1), (BOB, 11)):
        for volatile in (False, True):
            request = SendMessage(target_id, Raw(b"1" * size), volatile=volatile)
            world.delivery.send(None, request)
    assert bob.data == [1, 1]


class Recorder:
    """A Recipient that keeps what it is offered."""

    def __init__(self) -> None:
        self.offered: list[LiveMessage] = []
        self.volatile: list[bytes] = []

    def offer(self, message: LiveMessage) -> None:
        self.offered.append(message)

    def offer_volatile(self, array: bytes, key: Hashable | None = None) -> bool:
        assert key is None
        self.volatile.append(array)
        return True


@scenario
async def test_a_message_is_encoded_once_for_all_connections() -> None:
    world = await known(World())
    recipients = [Recorder(), Recorder()]
    delivery = Delivery(
        world.store, lambda true_id: tuple(recipients), world.metrics, world.clock, 0, Alone()
    )
    for volatile in (False, True):
        delivery.send(None, SendMessage(BOB, Raw(b"1"), "chat", volatile=volatile))
    (first,), (second,) = [recipient.offered for recipient in recipients]
    assert first is second
    body = b'"from":null,"data":1,"ts":1000000.000,"type":"chat"}'
    assert (first.offset, first.id, first.skip) == (1, b"e1.1.1", None)
    assert first.array == b'["message",{"id":"e1.1.1",' + body + b',"e1.1.1"]'
    assert first.without_offset() == b'["message",{"id":"e1.1.1",' + body + b"]"
    assert first.without_offset() is first.without_offset()
    (first_volatile,), (second_volatile,) = [recipient.volatile for recipient in recipients]
    assert first_volatile is second_volatile
    assert first_volatile == b'["message",{' + body + b"]"


@scenario
async def test_the_time_of_a_message_is_told_in_milliseconds() -> None:
    world = await known(World())
    bob = await world.connect(username="bob")
    told = []
    for now in (1_000_000.0, 1_000_000.0004, 1_000_000.25, 1_000_000.2571, 999_999.999):
        world.clock.now = now
        send(world, volatile=True)
        send(world)
        told += bob.messages[-2:]
    expected = [1_000_000.0, 1_000_000.0, 1_000_000.25, 1_000_000.257, 999_999.999]
    assert [message["ts"] for message in told] == [ts for ts in expected for _ in range(2)]
    # Whoever comes later is told the same.
    later = await world.connect(pid=bob.pid)
    assert [message["ts"] for message in later.messages] == expected


# A mailbox that is full


def full(result: Receipt | RequestRefused) -> bool:
    if isinstance(result, Receipt):
        return False
    assert (result.code, result.field) == ("mailbox_full", None)
    assert result.retry_after is not None
    return True


@scenario
async def test_a_full_mailbox_refuses_until_its_player_has_confirmed_some() -> None:
    world = await known(World(refuse_when_full=True, mailbox=Retention(2, 0, 0)))
    assert [full(send(world, b"%d" % number)) for number in range(4)] == [False, False, True, True]
    assert world.metric("limit_hits", "mailbox.max_messages") == 2
    assert world.metric("dropped_messages", "trimmed") == 0
    # Others have room of their own, and volatile messages need none.
    assert not full(send(world, target_id=ANN))
    assert not full(send(world, volatile=True))
    bob = await world.connect(username="bob")
    assert bob.data == [0, 1]
    assert full(send(world, b"4"))
    bob.heartbeat()
    assert [full(send(world, b"%d" % number)) for number in (5, 6, 7)] == [False, False, True]
    assert bob.data == [0, 1, 5, 6]


@scenario
async def test_a_full_mailbox_has_room_again_once_its_messages_are_too_old() -> None:
    world = await known(World(refuse_when_full=True, mailbox=Retention(1, 0, 100.0)))
    assert [full(send(world)) for _ in range(2)] == [False, True]
    world.clock.now += 101
    assert not full(send(world))
    assert world.metric("dropped_messages", "expired") == 1


@scenario
async def test_a_mailbox_that_is_full_by_its_bytes_names_that_limit() -> None:
    world = await known(World(refuse_when_full=True, mailbox=Retention(0, 1000, 0)))
    assert [full(send(world, b"1" * 400)) for _ in range(2)] == [False, True]
    assert world.metric("limit_hits", "mailbox.max_messages") == 0
    assert world.metric("limit_hits", "mailbox.max_bytes") == 1


# Messages that nobody has read


@scenario
async def test_messages_that_a_full_mailbox_drops_unread_are_counted() -> None:
    world = await known(World(mailbox=Retention(3, 0, 0)))
    bob = await world.connect(username="bob")
    world.write(BOB, *range(3))
    bob.heartbeat()
    world.write(BOB, *range(3))
    # These had arrived.
    assert world.metric("dropped_messages", "trimmed") == 0
    world.write(BOB, *range(2))
    assert world.metric("dropped_messages", "trimmed") == 2
    bob.heartbeat()
    world.write(BOB, *range(4))
    assert world.metric("dropped_messages", "trimmed") == 3
    assert world.metric("dropped_messages", "expired") == 0


@scenario
async def test_messages_that_become_too_old_unread_are_counted() -> None:
    world = await known(World(mailbox=Retention(0, 0, 100.0)))
    bob = await world.connect(username="bob")
    world.write(BOB, "a", "b")
    bob.heartbeat()
    world.write(BOB, "c")
    await world.time_passes(100)
    assert world.metric("dropped_messages", "expired") == 0
    await world.time_passes(1)
    assert world.metric("dropped_messages", "expired") == 1
    assert world.metric("dropped_messages", "trimmed") == 0


@scenario
async def test_messages_that_an_append_finds_too_old_are_counted_as_expired() -> None:
    world = await known(World(mailbox=Retention(0, 0, 100.0)))
    world.write(BOB, "a")
    world.clock.now += 101
    world.write(BOB, "b")
    assert world.metric("dropped_messages", "trimmed") == 0
    assert world.metric("dropped_messages", "expired") == 1
