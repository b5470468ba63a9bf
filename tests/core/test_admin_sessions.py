from __future__ import annotations

from itertools import count

from gateway.admin_sessions import AdminSessions
from gateway.api_keys import ApiKey

ANN = ApiKey("ann", frozenset({"admin"}), "1" * 64)
BOB = ApiKey("bob", frozenset({"admin"}), "2" * 64)


class World:
    """Sessions whose clock, tokens and keys are set by hand."""

    def __init__(self, limit: int = 0) -> None:
        self.now = 50.0
        self.keys = {ANN, BOB}
        self.hits = 0
        numbers = count()
        self.sessions = AdminSessions(
            60.0,
            limit,
            lambda key: key in self.keys,
            self._hit,
            lambda: self.now,
            lambda: f"token-{next(numbers)}",
        )

    def _hit(self) -> None:
        self.hits += 1


def test_a_session_is_that_of_its_key_until_it_is_closed() -> None:
    world = World()
    ann, bob = world.sessions.open(ANN), world.sessions.open(BOB)
    assert (world.sessions.key_of(ann), world.sessions.key_of(bob)) == (ANN, BOB)
    world.sessions.close(ann)
    world.sessions.close("never was")
    assert (world.sessions.key_of(ann), world.sessions.key_of(bob)) == (None, BOB)


def test_a_token_that_is_none_opens_nothing() -> None:
    world = World()
    token = world.sessions.open(ANN)
    for wrong in ("", token[:-1], token + "x", "\ud800"):
        assert world.sessions.key_of(wrong) is None


def test_a_session_ends_after_its_lifetime_whatever_is_done_with_it() -> None:
    world = World()
    token = world.sessions.open(ANN)
    world.now += 59.9
    assert world.sessions.key_of(token) == ANN
    world.now += 0.1
    assert world.sessions.key_of(token) is None
    assert len(world.sessions) == 0


def test_a_session_ends_with_its_key() -> None:
    world = World()
    token = world.sessions.open(ANN)
    world.keys.remove(ANN)
    assert world.sessions.key_of(token) is None
    world.keys.add(ANN)
    assert world.sessions.key_of(token) is None


def test_one_session_too_many_ends_the_oldest() -> None:
    world = World(limit=2)
    first, second, third = (world.sessions.open(ANN) for _ in range(3))
    assert world.sessions.key_of(first) is None
    assert {world.sessions.key_of(token) for token in (second, third)} == {ANN}
    assert world.hits == 1


def test_sessions_that_have_ended_take_no_place() -> None:
    world = World(limit=2)
    world.sessions.open(ANN)
    world.sessions.open(ANN)
    world.now += 60
    token = world.sessions.open(BOB)
    assert (len(world.sessions), world.hits) == (1, 0)
    assert world.sessions.key_of(token) == BOB
