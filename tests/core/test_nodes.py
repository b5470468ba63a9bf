from __future__ import annotations

import asyncio

from gateway.messages import SessionId, TrueId
from gateway.nodes import Alone, Arrivals, NodeId
from gateway.session import Session

ANN = TrueId("ann")
TAB = SessionId("s1")
OTHER_TAB = SessionId("s2")


def test_an_arrival_hears_what_is_said_of_its_own_session() -> None:
    arrivals = Arrivals()
    with arrivals.enter(ANN, TAB) as mine, arrivals.enter(ANN, OTHER_TAB) as other:
        arrivals.on_fenced(ANN, TAB, 7)
        arrivals.on_ended(ANN, OTHER_TAB, "revoked")
    assert (mine.fenced, mine.ended) == (7, None)
    assert (other.fenced, other.ended) == (0, "revoked")


def test_the_end_of_all_sessions_is_that_of_each() -> None:
    arrivals = Arrivals()
    with arrivals.enter(ANN, TAB) as one, arrivals.enter(ANN, OTHER_TAB) as other:
        arrivals.on_ended(ANN, None, "banned")
        arrivals.on_ended(TrueId("bob"), None, "revoked")
    assert (one.ended, other.ended) == ("banned", "banned")


def test_the_newest_fence_counts_whatever_the_order_they_come_in() -> None:
    arrivals = Arrivals()
    with arrivals.enter(ANN, TAB) as arrival:
        arrivals.on_fenced(ANN, TAB, 7)
        arrivals.on_fenced(ANN, TAB, 5)
    assert arrival.fenced == 7


def test_nothing_is_kept_of_an_arrival_that_is_over() -> None:
    arrivals = Arrivals()
    with arrivals.enter(ANN, TAB) as first, arrivals.enter(ANN, TAB) as second:
        assert len(arrivals) == 2
    assert len(arrivals) == 0
    arrivals.on_ended(ANN, None, "banned")
    assert first.ended is second.ended is None


def test_where_there_is_one_gateway_nothing_is_elsewhere() -> None:
    told: list[int] = []
    alone = Alone()
    alone.send_volatile(ANN, b"[]", told.append)
    assert told == [0]
    assert asyncio.run(alone.disconnect(ANN, "kicked")) == 0
    assert alone.alone
    assert alone.trouble is None
    session = Session(TAB, ANN, "Ann", "guest", "pid", 0.0, 0, 0, node="another")
    assert not alone.has(session)
    alone.announce("127.0.0.1:9000")
    assert alone.address_of(NodeId("another")) is None
