"""Delivery: what becomes of a message, and what its sender is told."""

from __future__ import annotations

import pytest
from msgspec import Raw

from gateway.delivery import Outgoing
from gateway.errors import RequestRefused
from gateway.mailbox import Draft, Position, StoredMessage
from gateway.messages import Receipt, SendMessage, TrueId
from tests.services.world import World, scenario

ANN = TrueId("acc-ann")
BOB = TrueId("acc-bob")


def known(world: World) -> World:
    world.store.know([ANN, BOB])
    return world


def send(
    world: World, data: bytes = b"1", *, sender: TrueId | None = ANN, **fields: object
) -> Receipt | RequestRefused:
    request = SendMessage(str(fields.pop("target_id", BOB)), Raw(data), **fields)  # type: ignore[arg-type]
    results: list[Receipt | RequestRefused] = []
    world.delivery.send(sender, request, results.append)
    (result,) = results
    return result


def refused(result: Receipt | RequestRefused) -> tuple[str, str | None]:
    assert isinstance(result, RequestRefused)
    return result.code, result.field


@scenario
async def test_a_message_to_a_player_who_is_not_here_is_queued() -> None:
    world = known(World())
    receipt = send(world)
    assert receipt == Receipt(ok=True, id="e1.1.n1", status="queued", connections=0)
    assert world.metric("messages", "queued") == 1
    assert (await world.connect(username="bob")).data == [1]


@scenario
async def test_a_message_to_a_player_who_is_here_is_delivered() -> None:
    world = known(World())
    bob = await world.connect(username="bob")
    receipt = send(world, b'{ "a":1}')
    assert receipt == Receipt(ok=True, id="e1.1.n1", status="delivered", connections=1)
    assert world.metric("messages", "delivered") == 1
    assert bob.data == [{"a": 1}]


@scenario
async def test_the_sender_is_told_after_the_target() -> None:
    world = known(World())
    bob = await world.connect(username="bob")
    seen: list[list[object]] = []
    world.delivery.send(ANN, SendMessage(BOB, Raw(b"1")), lambda receipt: seen.append(bob.data))
    assert seen == [[1]]


@scenario
async def test_a_repeated_message_is_accepted_once() -> None:
    world = known(World())
    bob = await world.connect(username="bob")
    first = send(world, id="key")
    again = send(world, b"2", id="key")
    assert first == Receipt(ok=True, id="e1.1.n1", status="delivered", connections=1)
    assert again == Receipt(
        ok=True, id="e1.1.n1", status="delivered", connections=1, duplicate=True
    )
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
    world = known(World())
    send(world, id="key")
    assert refused(send(world, id="key", target_id=ANN)) == ("bad_request", "id")
    assert world.store.head(ANN) == 0


@scenario
async def test_more_ids_than_can_be_remembered_have_to_wait() -> None:
    world = known(World(dedupe_keys=1, dedupe_window=60.0))
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
    world = known(World())
    bob = await world.connect(username="bob")
    receipt = send(world, volatile=True, id="key", type="move")
    assert receipt == Receipt(ok=True, id=None, status="delivered", connections=1)
    assert bob.events[-1] == [
        "message",
        {"from": ANN, "data": 1, "ts": world.clock.now, "type": "move"},
    ]
    assert world.store.head(BOB) == 0
    assert send(world, id="key").duplicate is False  # type: ignore[union-attr]


@pytest.mark.parametrize("target_id", [BOB, "nobody"])
@scenario
async def test_a_volatile_message_to_nobody_here_is_dropped(target_id: str) -> None:
    world = known(World())
    receipt = send(world, volatile=True, target_id=target_id)
    assert receipt == Receipt(ok=True, id=None, status="dropped", connections=0)
    assert world.metric("messages", "dropped") == 1


@scenario
async def test_a_volatile_message_counts_the_connections_that_took_it() -> None:
    world = known(World())
    slow, fast = [await world.connect(username="bob") for _ in range(2)]
    slow.room = 1
    send(world, b'"a"')
    receipt = send(world, b'"b"', volatile=True)
    assert receipt == Receipt(ok=True, id=None, status="delivered", connections=1)
    assert (slow.data, fast.data) == (["a"], ["a", "b"])


@pytest.mark.parametrize("volatile", [False, True])
@scenario
async def test_data_that_is_too_large_is_refused(volatile: bool) -> None:
    world = known(World(message_bytes=10))
    assert isinstance(send(world, b'"12345678"', volatile=volatile), Receipt)
    assert refused(send(world, b'"123456789"', volatile=volatile)) == ("too_large", "data")
    assert world.metric("limit_hits", "message_bytes") == 1


@scenario
async def test_a_message_to_a_stranger_is_refused() -> None:
    world = known(World())
    assert refused(send(world, target_id="nobody")) == ("unknown_target", "target_id")


@scenario
async def test_a_full_store_refuses_and_asks_to_wait() -> None:
    world = known(World(total_bytes=1000))
    result = send(world, b"1" * 2000)
    assert refused(result) == ("mailbox_full", None)
    assert result.retry_after is not None  # type: ignore[union-attr]
    assert world.metric("limit_hits", "mailbox.total_bytes") == 1


@scenario
async def test_a_store_that_is_down_refuses_and_asks_to_wait() -> None:
    world = known(World())
    bob = await world.connect(username="bob")
    world.store.down = True
    result = send(world)
    assert refused(result) == ("unavailable", None)
    assert result.retry_after is not None  # type: ignore[union-attr]
    assert bob.data == []
    # Volatile messages need no store.
    assert isinstance(send(world, volatile=True), Receipt)


def test_a_message_is_encoded_once_in_each_form() -> None:
    draft = Draft(BOB, None, b"1", "chat", "hall")
    outgoing = Outgoing.stored(StoredMessage(Position("e", 1, "n"), draft, 5.0))
    plain = outgoing.payload(offset=False)
    assert plain == (
        b'["message",{"id":"e.1.n","from":null,"data":1,"ts":5.0,"room":"hall","type":"chat"}]'
    )
    assert outgoing.payload(offset=True) == plain[:-1] + b',"e.1.n"]'
    assert outgoing.payload(offset=False) is plain
    assert outgoing.payload(offset=True) is outgoing.payload(offset=True)
