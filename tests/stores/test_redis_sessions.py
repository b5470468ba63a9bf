"""Sessions in Redis, as several nodes see them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from gateway.errors import StoreUnavailable
from gateway.messages import ConnectionId, SessionId, TrueId
from gateway.session import Session
from gateway.store import Ban, SessionChanged, SessionsFull
from gateway.stores.redis import bus
from tests.redis_servers import RedisServer, RedisServers
from tests.stores.conftest import ANN, BOB, Listing, NewStore, RedisDriver, redis_store
from tests.stores.test_store import accepted, connect, session

S1 = SessionId("s1")
BOTH = ("node1", "node2")


@pytest.fixture
def pair(nodes: NewStore) -> tuple[RedisDriver, RedisDriver]:
    """Two nodes that know each other."""
    first, second = (nodes(node=node, listing=Listing(*BOTH)) for node in BOTH)
    assert isinstance(first, RedisDriver)
    assert isinstance(second, RedisDriver)
    return first, second


class Listener:
    """What a node is told, as kind and fields."""

    def __init__(self, pubsub: Any, channel: bytes) -> None:
        self._pubsub = pubsub
        pubsub.ssubscribe(channel)
        assert self._next()["type"] == "ssubscribe"

    def _next(self) -> Any:
        message = self._pubsub.get_sharded_message(timeout=20.0)
        assert message is not None
        return message

    def heard(self) -> tuple[bytes, list[bytes]]:
        return bus.decode(self._next()["data"])

    def heard_nothing(self) -> bool:
        return self._pubsub.get_sharded_message(timeout=0.0) is None


@contextmanager
def listening(server: RedisServer, store: RedisDriver, node: str) -> Iterator[Listener]:
    channel = store.store._redis.prefix(0) + b"n:" + node.encode()
    with server.client() as client, client.pubsub() as pubsub:
        yield Listener(pubsub, channel)


def routes(server: RedisServer, store: RedisDriver, true_id: str = "ann") -> dict[bytes, bytes]:
    key = store.store._redis.prefix(store.store._partitions.of(true_id)) + b"r:" + true_id.encode()
    found: dict[bytes, bytes] = server.ask("HGETALL", key)
    return found


def found(store: RedisDriver, session_id: SessionId = S1, true_id: TrueId = ANN) -> Session:
    session = store.session(session_id, true_id)
    assert session is not None
    return session


def save(store: RedisDriver, *subjects: Session) -> None:
    """Save sessions, and wait until that was asked."""

    async def ask() -> None:
        for subject in subjects:
            store.store.save_session(subject)
        with suppress(StoreUnavailable):
            await store.store.check()

    store.run(ask())


def disconnect(store: RedisDriver, subject: Session) -> None:
    subject.connection_id = None
    save(store, subject)


def take_over(store: RedisDriver, number: int) -> Session:
    """Resume the session at this node, as admission does."""
    subject = found(store)
    kept = replace(subject, generation=subject.generation + 1, connection_id=ConnectionId(number))
    assert store.update_session(kept)
    subject.generation, subject.version = kept.generation, kept.version
    subject.connection_id = ConnectionId(number)
    save(store, subject)
    return subject


# Takeover


def test_a_session_is_taken_over_by_another_node(
    pair: tuple[RedisDriver, RedisDriver], redis_server: RedisServer
) -> None:
    first, second = pair
    here = session(connected=True)
    first.add_session(here)
    assert (here.node, here.elsewhere, found(first) is here) == ("node1", False, True)
    there = found(second)
    assert (there.node, there.elsewhere, there.connection_id) == ("node1", True, None)
    assert (there == replace(here, connection_id=None), there.version) == (True, here.version)
    with listening(redis_server, first, "node1") as listener:
        there = take_over(second, 7)
        version = str(there.version).encode()
        assert listener.heard() == (b"f", [b"ann", b"s1", version, b"taken_over"])
    assert there.version > here.version
    assert routes(redis_server, first) == {b"node2": b"1"}
    assert (found(second) is there, there.elsewhere) == (True, False)
    # The first node is told, closes its connection, and has nothing to say of the session.
    assert found(first).elsewhere
    here.connection_id, here.last_seen = None, 99.0
    save(first, here)
    assert (found(first).node, found(first).last_seen) == ("node2", 0.0)
    assert routes(redis_server, first) == {b"node2": b"1"}
    disconnect(second, there)
    assert (found(first).node, routes(redis_server, first)) == ("", {})


def test_what_the_fenced_connection_confirmed_counts_for_the_player(
    pair: tuple[RedisDriver, RedisDriver],
) -> None:
    first, second = pair
    here = session(connected=True)
    first.add_session(here)
    for _ in range(3):
        accepted(first.append())
    take_over(second, 7)
    here.confirm(2)
    save(first, here)
    assert first.look(ANN).confirmed == 2
    assert (found(second).confirmed, found(first).node) == (0, "node2")


def test_a_session_comes_back_to_the_node_that_lost_it(
    pair: tuple[RedisDriver, RedisDriver], redis_server: RedisServer
) -> None:
    first, second = pair
    old = session(connected=True)
    first.add_session(old)
    there = take_over(second, 1)
    back = take_over(first, 2)
    assert back is not old
    # Late words of both connections that were closed.
    for store, late in ((first, old), (second, there)):
        disconnect(store, late)
    assert (found(second).node, found(first) is back) == ("node1", True)
    assert routes(redis_server, first) == {b"node1": b"1"}


def test_a_fenced_connection_does_not_get_the_session_back_when_its_successor_is_gone(
    pair: tuple[RedisDriver, RedisDriver], redis_server: RedisServer
) -> None:
    first, second = pair
    old = session(connected=True)
    first.add_session(old)
    disconnect(second, take_over(second, 1))
    old.confirm(1)
    save(first, old)
    assert (found(second).node, routes(redis_server, first)) == ("", {})


def test_of_two_updates_from_one_version_one_is_kept(
    pair: tuple[RedisDriver, RedisDriver], redis_server: RedisServer
) -> None:
    first, second = pair
    first.add_session(session())
    here, there = found(first), found(second)
    here.generation, here.connection_id = 2, ConnectionId(1)
    assert first.update_session(here)
    there.connection_id = ConnectionId(1)
    with pytest.raises(SessionChanged):
        second.update_session(there)
    # It does not stand for the session.
    disconnect(second, there)
    assert (found(second).generation, found(second).node) == (2, "node1")
    assert take_over(second, 3).generation == 3
    assert routes(redis_server, first) == {b"node2": b"1"}


def test_an_object_in_use_learns_what_another_node_has_changed(
    pair: tuple[RedisDriver, RedisDriver],
) -> None:
    first, second = pair
    here = session(connected=True)
    first.add_session(here)
    there = found(second)
    there.generation, there.pid = 5, "another"
    assert second.update_session(there)
    assert here.generation == 1
    assert found(first) is here
    assert first.sessions_of(ANN)[0] is here
    assert (here.generation, here.pid, here.node) == (5, "another", "node1")
    assert here.version == there.version


def test_a_session_is_opened_once(pair: tuple[RedisDriver, RedisDriver]) -> None:
    first, second = pair
    first.add_session(session(connected=True))
    again = session(connected=True)
    with pytest.raises(SessionChanged):
        second.add_session(again)
    disconnect(second, again)
    assert (found(second).node, second.session_count) == ("node1", 1)


def test_a_session_that_may_be_in_use_after_an_error_is_not(
    redis_servers: RedisServers,
) -> None:
    server = redis_servers.start(appendonly="everysec")
    with redis_store(f"{server.url}?timeout=1") as store:
        store.add_session(session(1))
        subject = found(store)
        newcomer = session(2, BOB, connected=True)
        with server.paused():
            # They are asked and have no answer: both are done when it runs again.
            with pytest.raises(StoreUnavailable):
                store.update_session(replace(subject, connection_id=ConnectionId(7)))
            with pytest.raises(StoreUnavailable):
                store.add_session(newcomer)
        newcomer.connection_id = None
        save(store, subject, newcomer)
        until_available(store)
        until_saved(store)
        assert routes(server, store) == routes(server, store, "bob") == {}
        assert [each.node for each in store.sessions_of(ANN)] == [""]
        assert [each.node for each in store.sessions_of(BOB)] in ([], [""])
        store.expire(5000.0)
        assert store.session_count == 0


def until_available(store: RedisDriver) -> None:
    """Wait until the store answers again."""

    async def check() -> None:
        while True:
            try:
                await store.store.check()
            except StoreUnavailable:
                await asyncio.sleep(0.01)
                continue
            return

    store.run(check())


def until_saved(store: RedisDriver) -> None:
    """Wait until nothing is left to be saved."""

    async def wait() -> None:
        while store.store._sessions.unsaved:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    store.run(wait())


def test_what_could_not_be_saved_is_saved_later(redis_servers: RedisServers) -> None:
    server = redis_servers.start(appendonly="always")
    with redis_store(server.url) as store:
        subject = session(connected=True)
        store.add_session(subject)
        for _ in range(3):
            accepted(store.append())
        server.kill()
        for offset in (1, 2, 3):
            subject.confirm(offset)
            save(store, subject)
        with pytest.raises(StoreUnavailable):
            store.look(ANN)
        disconnect(store, subject)
        server.restart()
        until_available(store)
        until_saved(store)
        assert store.look(ANN).confirmed == 3
        assert (found(store).confirmed, found(store).node) == (3, "")


# Limits, and nodes that are dead


@pytest.mark.parametrize("limit", ["sessions", "sessions_per_player"])
def test_a_session_of_a_dead_node_makes_room(nodes: NewStore, limit: str) -> None:
    first = nodes(node="node1", listing=Listing(*BOTH))
    first.add_session(session(1, connected=True))
    careful = nodes(node="node2", listing=Listing(*BOTH), **{limit: 1})
    with pytest.raises(SessionsFull):
        careful.add_session(session(2, connected=True))
    unsure = nodes(node="node2", listing=Listing("node2", died=["node1"]), **{limit: 1})
    unsure.store._dead_nodes.listing.live = None
    with pytest.raises(SessionsFull):
        unsure.add_session(session(2, connected=True))
    widowed = nodes(node="node2", listing=Listing("node2", died=["node1"]), **{limit: 1})
    widowed.add_session(session(2, connected=True))
    assert widowed.ids() == ["s2"]


def test_sessions_of_a_dead_node_grow_old_from_its_death(
    nodes: NewStore, redis_server: RedisServer
) -> None:
    first = nodes(node="node1", listing=Listing(*BOTH))
    for number in range(1, 4):
        first.add_session(session(number, connected=True))
    second = nodes(node="node2", listing=Listing(*BOTH))
    second.add_session(session(9, BOB, connected=True))
    second.expire(5000.0)
    assert routes(redis_server, first) == {b"node1": b"3"}
    second.store._dead_nodes.listing = Listing("node2", died=["node1"])
    second.expire(5000.0)
    assert routes(redis_server, first) == {}
    assert [each.node for each in second.sessions_of(ANN)] == ["", "", ""]
    second.expire(6000.0)
    assert second.ids() == ["s1", "s2", "s3"]
    second.expire(6000.5)
    assert (second.ids(), second.ids(BOB)) == ([], ["s9"])


def test_a_node_is_not_dead_because_it_is_not_in_the_list_yet(
    nodes: NewStore, redis_server: RedisServer
) -> None:
    first = nodes(node="node1")
    first.add_session(session(connected=True))
    listing = Listing("node2")
    second = nodes(node="node2", listing=listing, sessions_per_player=1)
    for _ in range(3):
        second.expire(1.0)
        with pytest.raises(SessionsFull):
            second.add_session(session(2))
    assert routes(redis_server, first) == {b"node1": b"1"}
    # A list of before it was met says nothing, and in a later one it is.
    listing.listed = second.loop.time()
    listing.live = frozenset(BOTH)
    second.expire(1.0)
    assert routes(redis_server, first) == {b"node1": b"1"}
    # Now it is missing from one of after it was met.
    listing.live = frozenset({"node2"})
    second.expire(1.0)
    assert routes(redis_server, first) == {}
    second.add_session(session(2))
    assert second.ids() == ["s2"]


def test_more_sessions_than_one_call_expires_go(
    nodes: NewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.stores.redis.sessions._EXPIRED", 2)
    first = nodes(node="node1", listing=Listing(*BOTH))
    for number in range(5):
        first.add_session(session(number, connected=number % 2 == 0))
    for number in range(5):
        first.set_ban(TrueId(f"p{number}"), Ban(10.0, ""))
    second = nodes(node="node2", listing=Listing("node2", died=["node1"]))
    second.expire(1000.5)
    assert [each.node for each in second.sessions_of(ANN)] == [""] * 3
    second.expire(2001.0)
    assert second.session_count == 0
    assert [each.ban_of(TrueId("p1"), 0.0) for each in (first, second)] == [None, None]


def test_a_full_store_makes_room_in_whichever_partition_has_any(nodes: NewStore) -> None:
    store = nodes(partitions=16, sessions=3)
    players = {store.store._partitions.of(each): each for each in map(str, range(100))}
    assert len(players) == 16
    ids = [TrueId(each) for each in players.values()]
    for number, last_seen in ((0, 5.0), (1, 3.0), (2, 4.0)):
        store.add_session(session(number, ids[number], last_seen=last_seen))
    store.looked()
    store.add_session(session(3, ids[3], connected=True))
    assert [store.ids(each) for each in ids[:4]] == [["s0"], [], ["s2"], ["s3"]]
    for number in (0, 2):
        connect(store, found(store, SessionId(f"s{number}"), ids[number]), 7)
    store.looked()
    with pytest.raises(SessionsFull):
        store.add_session(session(4, ids[4]))
    assert store.session_count == 3


# Revocations and bans


def test_a_revocation_is_seen_by_all_nodes(
    pair: tuple[RedisDriver, RedisDriver], redis_server: RedisServer
) -> None:
    first, second = pair
    here = session(connected=True)
    first.add_session(here)
    first.add_session(session(2, connected=True))
    with listening(redis_server, first, "node1") as listener:
        second.revoke_session(S1, 10.0, "logout")
        assert listener.heard() == (b"x", [b"ann", b"s1", b"logout"])
        # Nobody is told of one that is not in use.
        second.revoke_session(SessionId("never"), 10.0)
        first.revoke_session(SessionId("s2"), 10.0)
        assert listener.heard_nothing()
    for store in pair:
        assert store.session(S1) is None
        assert store.is_revoked(S1, ANN, 50.0)
    disconnect(first, here)
    assert (first.ids(), routes(redis_server, first)) == ([], {})


def test_a_token_that_another_node_has_revoked_opens_nothing(
    pair: tuple[RedisDriver, RedisDriver],
) -> None:
    first, second = pair
    first.revoke_player(ANN, 10.0)
    first.revoke_session(S1, 20.0)
    for number, issued_at in ((2, 9.0), (2, 10.0), (1, 99.0)):
        with pytest.raises(SessionChanged):
            second.add_session(session(number, connected=True), issued_at)
    second.add_session(session(2, connected=True), 11.0)
    # Somebody who logs in has no token.
    second.add_session(session(3, connected=True))
    assert second.ids() == ["s2", "s3"]


def test_a_player_whom_another_node_has_banned_gets_no_connection(
    pair: tuple[RedisDriver, RedisDriver], redis_server: RedisServer
) -> None:
    first, second = pair
    first.add_session(session(1))
    first.add_session(session(2, connected=True))
    with listening(redis_server, first, "node1") as listener:
        second.set_ban(ANN, Ban(10.0, "rude"))
        assert listener.heard() == (b"x", [b"ann", b"", b"banned"])
        first.set_ban(BOB, Ban(None, ""))
        assert listener.heard_nothing()
    assert first.ban_of(ANN, 9.0) == Ban(10.0, "rude")
    subject = found(first)
    subject.connection_id = ConnectionId(1)
    with pytest.raises(SessionChanged):
        first.update_session(subject)
    for true_id in (ANN, BOB):
        with pytest.raises(SessionChanged):
            first.add_session(session(3, true_id, connected=True))
        # The game's backend may mint tokens for later.
        first.add_session(session(4, true_id))
    subject.last_seen = 10.0
    assert first.update_session(subject)
    second.set_ban(BOB, None)
    first.add_session(session(3, BOB, connected=True))


# After a node was cut off


def test_a_node_renews_what_it_has(
    pair: tuple[RedisDriver, RedisDriver], redis_server: RedisServer
) -> None:
    first, second = pair
    mine = [session(number, connected=True) for number in range(1, 5)]
    for each in mine:
        first.add_session(each)
    other = session(9, BOB, connected=True)
    first.add_session(other)
    # It did not hear of these, and its route was dropped.
    take_over(second, 7)
    second.revoke_session(SessionId("s2"), 1.0)
    prefix = first.store._redis.prefix(0)
    redis_server.ask("DEL", prefix + b"r:bob")
    redis_server.ask("HDEL", prefix + b"r:ann", "node1")
    lost = first.run(first.store.renew_sessions({0}))
    assert [each.id for each in lost] == ["s1", "s2"]
    assert lost[0] is mine[0]
    assert routes(redis_server, first) == {b"node1": b"2", b"node2": b"1"}
    assert routes(redis_server, first, "bob") == {b"node1": b"1"}
    assert first.run(first.store.renew_sessions({0})) == []
    assert first.run(first.store.renew_sessions(set())) == []


def test_a_session_that_is_resumed_while_it_is_renewed_is_not_lost(
    pair: tuple[RedisDriver, RedisDriver],
) -> None:
    first, _ = pair
    here = session(connected=True)
    first.add_session(here)

    async def resume() -> None:
        kept = replace(here, connection_id=ConnectionId(7))
        assert await first.store.update_session(kept)
        here.version = kept.version

    async def renew() -> list[Session]:
        _, lost = await asyncio.gather(resume(), first.store.renew_sessions({0}))
        return lost

    assert first.run(renew()) == []
    assert found(first) is here


def test_a_node_that_did_not_hear_of_a_ban_has_no_session_of_the_player(
    pair: tuple[RedisDriver, RedisDriver], redis_server: RedisServer
) -> None:
    first, second = pair
    mine, other = session(1, connected=True), session(9, BOB, connected=True)
    first.add_session(mine)
    first.add_session(other)
    # Its channels had ended, so its routes were dropped: nobody tells it.
    prefix = first.store._redis.prefix(0)
    redis_server.ask("DEL", prefix + b"r:ann", prefix + b"r:bob")
    with listening(redis_server, first, "node1") as listener:
        second.set_ban(ANN, Ban(None, "cheats"))
        second.set_ban(BOB, Ban(1.0, "it is over"))
        assert listener.heard_nothing()
    lost = first.run(first.store.renew_sessions({0}))
    assert [each is mine for each in lost] == [True]
    # The session waits for the end of the ban.
    disconnect(first, mine)
    assert found(second).node == ""
    second.set_ban(ANN, None)
    assert take_over(second, 7).id == S1
    assert routes(redis_server, first) == {b"node2": b"1"}
    assert first.run(first.store.renew_sessions({0})) == []


def test_a_node_that_was_taken_for_dead_has_its_sessions_again(
    nodes: NewStore, redis_server: RedisServer
) -> None:
    first = nodes(node="node1", listing=Listing(*BOTH))
    subjects = [session(number, connected=True) for number in (1, 2)]
    for each in subjects:
        first.add_session(each)
    second = nodes(node="node2", listing=Listing("node2", died=["node1"]))
    second.expire(1.0)
    assert routes(redis_server, first) == {}
    assert first.run(first.store.renew_sessions({0})) == []
    assert routes(redis_server, first) == {b"node1": b"2"}
    second.expire(1.0)
    # Whoever asks for one finds out, too.
    assert found(first) is subjects[0]
    assert first.sessions_of(ANN) == tuple(subjects)
    assert [each.node for each in second.sessions_of(ANN)] == ["node1", "node1"]
    assert routes(redis_server, first) == {b"node1": b"2"}


def test_a_session_that_nobody_has_is_let_go(
    pair: tuple[RedisDriver, RedisDriver], redis_server: RedisServer
) -> None:
    first, second = pair
    here = session(1, connected=True)
    first.add_session(here)
    # As after a failover that has lost what was said last: there is no such connection.
    stray = session(2, connected=True)
    first.add_session(stray)
    first.store._sessions.dropped(stray.id)
    # This one is on its way in.
    first.add_session(session(3))
    coming = found(first, SessionId("s3"))
    assert first.update_session(replace(coming, connection_id=ConnectionId(9)))
    second.expire(1.0)
    assert routes(redis_server, first) == {b"node1": b"3"}
    first.expire(1.0)
    first.check()
    assert {each.id: each.node for each in second.sessions_of(ANN)} == {
        "s1": "node1",
        "s2": "",
        "s3": "node1",
    }
    assert routes(redis_server, first) == {b"node1": b"2"}
