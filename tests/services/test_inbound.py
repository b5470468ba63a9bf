from __future__ import annotations

import asyncio
from random import Random

from gateway.cut_off import CutOff
from gateway.inbound import PlayersHere
from gateway.mailbox import Draft, StoredMessage
from gateway.messages import SessionId, TrueId
from gateway.nodes import NodeId
from tests.services.world import World, scenario
from tests.waiting import until

OTHER = NodeId("other")


def inbound(world: World, serves: bool = True) -> PlayersHere:
    """The world as other nodes see it; `serves` is whether these have the store."""

    async def asked(node: NodeId) -> bool:
        assert node == OTHER
        return serves

    cut_off = CutOff(world.registry, lambda: [OTHER], asked, lambda: (0.0, 0.0), Random(1), 0.0)
    here = world.registry, world.delivery, world.admission.arrivals, world.rooms
    return PlayersHere(*here, cut_off)


@scenario
async def test_a_message_stored_by_another_node_reaches_all_connections_of_its_players() -> None:
    world = World()
    first, second = await world.guest(), await world.guest()
    message = StoredMessage(1, b"e1.1.1", b'"from":null,"data":"hi","ts":1.0}', 1.0)
    inbound(world).on_message(message, [first.true_id, second.true_id, TrueId("nobody")])
    assert first.data == second.data == ["hi"]


@scenario
async def test_what_was_missed_before_a_message_of_another_node_is_read_from_the_store() -> None:
    world = World()
    client = await world.guest()
    # Stored, and nobody here was told.
    for number in (1, 2):
        draft = Draft(client.true_id, None, b'"from":null,"data":%d,"ts":1.0}' % number)
        world.store.append(draft, world.clock.now, lambda draft, result: None)
    message = StoredMessage(2, b"e1.2.2", b'"from":null,"data":2,"ts":1.0}', 1.0)
    inbound(world).on_message(message, [client.true_id])
    assert client.data == [1, 2]


@scenario
async def test_a_message_that_the_store_has_lost_ends_the_connection() -> None:
    world = World()
    client = await world.guest()
    message = StoredMessage(9, b"e1.9.9", b'"from":null,"data":9,"ts":1.0}', 1.0)
    inbound(world).on_message(message, [client.true_id])
    assert client.closed == ("slow_consumer", True)


@scenario
async def test_an_event_of_another_node_is_written_as_it_is() -> None:
    world = World()
    client = await world.guest()
    inbound(world).on_volatile(client.true_id, b'["message",{"from":null,"data":5,"ts":1.0}]')
    assert client.data == [5]


@scenario
async def test_a_fence_closes_what_is_older_and_nothing_else() -> None:
    world = World()
    client, other = await world.guest(), await world.guest()
    client.link.session.version = 4
    players = inbound(world)
    players.on_fenced(client.true_id, client.session_id, 4)
    players.on_fenced(client.true_id, other.session_id, 9)
    assert client.closed is None
    players.on_fenced(client.true_id, client.session_id, 5)
    assert client.closed == ("taken_over", False)
    assert other.closed is None


@scenario
async def test_an_end_closes_one_session_or_all_for_good() -> None:
    world = World()
    one, other = [await world.connect(username="ann") for _ in range(2)]
    players = inbound(world)
    players.on_ended(one.true_id, one.session_id, "revoked")
    assert one.closed == ("revoked", False)
    assert other.closed is None
    players.on_ended(one.true_id, None, "banned")
    assert other.closed == ("banned", False)


@scenario
async def test_a_probe_is_answered_by_the_client_itself() -> None:
    world = World()
    alive, dead = await world.guest(), await world.guest(alive=False)
    players = inbound(world)
    assert await players.answers(alive.true_id, alive.session_id, 60.0)
    assert not await players.answers(dead.true_id, dead.session_id, 0.01)
    assert not await players.answers(alive.true_id, SessionId("gone"), 60.0)


@scenario
async def test_a_player_goes_on_where_the_store_is_what_it_was() -> None:
    world = World()
    client, other = await world.guest(), await world.guest()
    world.write(client, 1)
    players = inbound(world)
    players.on_doubt(lambda true_id: true_id == client.true_id)
    world.write(client, 2)
    world.write(other, 3)
    assert (client.data, other.data) == ([1], [3])
    (place,) = players.positions(lambda true_id: true_id == client.true_id)
    assert place == (client.true_id, client.link.id, 1, client.last_id.encode())
    players.on_known(place, 2)
    assert client.data == [1, 2]


@scenario
async def test_a_read_that_fails_while_nodes_are_not_heard_is_repeated() -> None:
    world = World()
    client = await world.guest()
    client.room = 1
    world.write(client, 1, 2)
    world.store.slow = True
    client.drain()
    players = inbound(world)
    players.on_doubt(lambda true_id: True)
    world.store.down = True
    world.store.answer_reads()
    world.store.down = False
    assert client.closed is None
    (place,) = players.positions(lambda true_id: True)
    players.on_known(place, 2)
    world.store.answer_reads()
    assert client.data == [1, 2]


@scenario
async def test_a_player_whose_messages_are_lost_comes_back() -> None:
    world = World()
    client = await world.guest()
    world.write(client, 1)
    players = inbound(world)
    players.on_doubt(lambda true_id: True)
    (place,) = players.positions(lambda true_id: True)
    players.on_known(place, None)
    assert client.closed == ("store_replaced", True)
    # It may be gone by the time of the answer.
    players.on_known(place, 1)


@scenario
async def test_where_a_client_is_by_the_id_it_came_back_with() -> None:
    world = World()
    client = await world.guest()
    world.write(client, 1, 2)
    seen = client.last_id
    client.lose()
    back = await world.connect(pid=client.pid, offset=seen)
    (place,) = inbound(world).positions(lambda true_id: True)
    assert place == (client.true_id, back.link.id, 2, seen.encode())
    back.lose()
    await world.connect(token=client.token)
    (place,) = inbound(world).positions(lambda true_id: True)
    assert place.offset == 2


@scenario
async def test_a_session_that_is_gone_without_a_word_sends_its_client_back() -> None:
    world = World()
    client, other = await world.guest(), await world.guest()
    inbound(world).on_session_lost(client.link.session)
    assert client.closed == ("session_lost", True)
    assert other.closed is None


@scenario
async def test_a_node_that_was_cut_off_sends_everybody_away_to_come_back() -> None:
    world = World()
    clients = [await world.guest() for _ in range(3)]
    inbound(world).on_cut_off()
    await until(lambda: not len(world.registry))
    assert [client.closed for client in clients] == [("cut_off", True)] * 3


@scenario
async def test_players_stay_at_a_node_that_is_back_before_they_were_sent_away() -> None:
    world = World()
    client = await world.guest()
    players = inbound(world)
    players.on_cut_off()
    players.on_back()
    await asyncio.sleep(0.1)
    assert client.closed is None
