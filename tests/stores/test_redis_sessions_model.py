"""Sessions that several nodes resume, lose and end: Redis keeps who has which, whatever happens."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.messages import ConnectionId, SessionId, TrueId
from gateway.session import Session
from gateway.store import SessionChanged, SessionsFull
from tests.redis_servers import RedisServer
from tests.stores.conftest import Listing, RedisDriver, redis_store
from tests.stores.test_store import session

PLAYERS = [TrueId("ann"), TrueId("b\0b")]
NODES = 2
numbers = st.integers(0, 2)
picks = st.integers(0, 11)
places = st.integers(0, NODES - 1)


def owner(number: int) -> TrueId:
    return PLAYERS[number % len(PLAYERS)]


def some(machine: Sessions) -> bool:
    """Whether there are sessions."""
    return bool(machine.expected)


def connected(machine: Sessions) -> bool:
    """Whether there are connections."""
    return any(machine.here)


class Sessions(RuleBasedStateMachine):
    """Nodes that share a store. A connection that another one has replaced closes some time."""

    server: RedisServer
    client: Any
    serial = count()

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"sessions{next(self.serial)}"
        self.listing = Listing()
        self.connection_ids = count(1)
        self.names = [self.name() for _ in range(NODES)]
        self.nodes = [self.build(each) for each in self.names]
        #: What is connected, by node and session: objects as connections have them.
        self.here: list[dict[int, list[Session]]] = [{} for _ in range(NODES)]
        #: Which node has the session, None for none; sessions that are not there are missing.
        self.expected: dict[int, str | None] = {}

    def name(self) -> str:
        name = f"n{next(self.serial)}"
        assert self.listing.live is not None
        self.listing.live |= {name}
        return name

    def build(self, name: str) -> RedisDriver:
        url = f"{self.server.url}?prefix={self.prefix}"
        return redis_store(url, node=name, listing=self.listing, sessions=2, session_lifetime=100.0)

    def connect(self, place: int, number: int, subject: Session) -> None:
        """Put a connection in place, as admission does: those of before on this node close."""
        old = self.here[place].pop(number, [])
        self.here[place][number] = [subject]
        self.save(place, subject)
        self.expected[number] = self.names[place]
        for each in old:
            if each is not subject:
                each.connection_id = None
                self.save(place, each)

    def save(self, place: int, subject: Session) -> None:
        driver = self.nodes[place]

        async def ask() -> None:
            driver.store.save_session(subject)

        driver.run(ask())

    @initialize()
    def begin(self) -> None:
        """Each node has a session."""
        for place in range(NODES):
            self.open(place, place, True)

    @rule(place=places, number=numbers, connected=st.booleans())
    def open(self, place: int, number: int, connected: bool) -> None:
        driver = self.nodes[place]
        subject = session(number, owner(number))
        if connected:
            subject.connection_id = ConnectionId(next(self.connection_ids))
        idle = [each for each, node in self.expected.items() if node is None]
        try:
            driver.add_session(subject)
        except SessionChanged:
            assert number in self.expected
            return
        except SessionsFull:
            assert (len(self.expected), idle) == (2, [])
            return
        assert number not in self.expected
        if len(self.expected) == 2:
            found = {each for each in idle if self.record(each) is None}
            assert len(found) == 1
            del self.expected[found.pop()]
        self.expected[number] = None
        if connected:
            self.connect(place, number, subject)

    def picked(self, pick: int) -> int:
        """Return the number of a session."""
        return sorted(self.expected)[pick % len(self.expected)]

    def picked_here(self, pick: int) -> tuple[int, int]:
        """Return the place and the session of connections."""
        found = [(place, number) for place, mine in enumerate(self.here) for number in mine]
        return found[pick % len(found)]

    @precondition(some)
    @rule(place=places, pick=picks, rival=st.booleans())
    def resume(self, place: int, pick: int, rival: bool) -> None:
        """Take a session over, while another node may do the same."""
        self.take_over(place, self.picked(pick), 1 - place if rival else None)

    def take_over(self, place: int, number: int, rival: int | None) -> None:
        driver = self.nodes[place]
        subject = driver.session(SessionId(f"s{number}"), owner(number))
        assert subject is not None
        expected = self.expected[number]
        assert subject.node == (expected or "")
        assert (subject.connection_id is not None) == (expected == self.names[place])
        if rival is not None:
            self.take_over(rival, number, None)
        kept = replace(subject, connection_id=ConnectionId(next(self.connection_ids)))
        if rival is not None:
            with pytest.raises(SessionChanged):
                driver.update_session(kept)
            return
        assert driver.update_session(kept)
        subject.connection_id, subject.version = kept.connection_id, kept.version
        self.connect(place, number, subject)

    @precondition(some)
    @rule(place=places, pick=picks)
    def fail_to_resume(self, place: int, pick: int) -> None:
        """Take a session over and give it up, as admission does after an error."""
        number = self.picked(pick)
        driver = self.nodes[place]
        subject = driver.session(SessionId(f"s{number}"), owner(number))
        assert subject is not None
        if subject.connection_id is not None:
            return
        assert driver.update_session(replace(subject, connection_id=ConnectionId(7)))
        driver.store._sessions.claim(subject.id)
        self.save(place, subject)
        self.expected[number] = None

    @precondition(connected)
    @rule(pick=picks)
    def lose(self, pick: int) -> None:
        """A connection breaks, or is closed because another node has the session."""
        self.close(*self.picked_here(pick))

    def close(self, place: int, number: int) -> None:
        for subject in self.here[place].pop(number, []):
            subject.connection_id = None
            self.save(place, subject)
            if self.expected.get(number) == self.names[place]:
                self.expected[number] = None

    @precondition(connected)
    @rule(pick=picks)
    def confirm(self, pick: int) -> None:
        """A connection says something, though another node may have the session."""
        place, number = self.picked_here(pick)
        for subject in self.here[place].get(number, []):
            subject.confirm(subject.confirmed + 1)
            self.save(place, subject)

    @precondition(some)
    @rule(place=places, pick=picks)
    def revoke(self, place: int, pick: int) -> None:
        number = self.picked(pick)
        self.nodes[place].revoke_session(SessionId(f"s{number}"), 1.0, true_id=owner(number))
        self.expected.pop(number, None)

    @rule(place=places)
    def renew(self, place: int) -> None:
        """A node says anew what it has, and closes what it has not."""
        driver = self.nodes[place]
        lost = driver.run(driver.store.renew_sessions({0}))
        mine = self.here[place]
        for subject in lost:
            number = int(subject.id.removeprefix("s"))
            assert self.expected.get(number) != self.names[place]
            assert subject in mine[number]
            self.close(place, number)

    @rule(place=places)
    def die(self, place: int) -> None:
        """A node is gone, and says nothing."""
        name = self.names[place]
        self.nodes[place].close()
        assert self.listing.live is not None
        self.listing.live -= {name}
        self.listing.died |= {name}
        self.names[place] = self.name()
        self.nodes[place] = self.build(self.names[place])
        self.here[place] = {}
        self.nodes[place].expire(1.0)
        for number, node in self.expected.items():
            if node == name:
                self.expected[number] = None

    @rule(place=places)
    def grow_old(self, place: int) -> None:
        """Sessions without connection expire."""
        self.nodes[place].expire(1000.0)
        self.expected = {each: node for each, node in self.expected.items() if node is not None}

    # What Redis has

    def ask(self, *words: str | bytes | int | float) -> Any:
        command, key, *rest = words
        return self.client.execute_command(command, f"{self.prefix}:{{0}}:{key}", *rest)

    def record(self, number: int) -> Any:
        found = self.ask("HGET", f"s:{owner(number)}", f"s{number}")
        return None if found is None else msgspec.json.decode(found)

    @invariant()
    def everything_fits(self) -> None:
        for node in self.nodes:
            node.check()
        records = {number: self.record(number) for number in range(3)}
        nodes = {number: each["node"] for number, each in records.items() if each is not None}
        assert nodes == {number: node or "" for number, node in self.expected.items()}
        assert int(self.ask("HGET", "n", "sessions") or 0) == len(nodes)
        members = {number: f"{owner(number)}\0s{number}" for number in nodes}
        idle = [members[number] for number, node in nodes.items() if not node]
        busy = [f"{node}\0{members[number]}" for number, node in nodes.items() if node]
        for key, expected in (("idle", idle), ("busy", busy)):
            found = self.ask("ZRANGE", key, 0, -1)
            assert sorted(found) == sorted(each.encode() for each in expected)
        for true_id in PLAYERS:
            counts = Counter(
                node for number, node in nodes.items() if node and owner(number) == true_id
            )
            found = self.ask("HGETALL", f"r:{true_id}")
            assert {key.decode(): int(each) for key, each in found.items()} == counts

    def teardown(self) -> None:
        for driver in self.nodes:
            with contextlib.suppress(Exception):
                driver.close()


@pytest.fixture(scope="module", autouse=True)
def server(redis_server: RedisServer) -> Iterator[None]:
    """Let the machine find the server."""
    with redis_server.client() as client:
        Sessions.server, Sessions.client = redis_server, client
        yield


TestSessions = Sessions.TestCase
TestSessions.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)
