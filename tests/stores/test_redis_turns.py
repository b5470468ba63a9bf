"""Senders' turns: begun and answered in the order in which they were asked."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.messages import TrueId
from gateway.stores.redis.turns import Turns

ANN, BOB = TrueId("ann"), TrueId("bob")


class World:
    """Turns that begin, and are answered by hand."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.begun: list[Any] = []
        self.answers: dict[Any, Any] = {}
        self.told: list[Any] = []

    def take(self, name: Any, sender: TrueId = ANN, *, blocks: bool = False) -> bool:
        def start(done: Any) -> None:
            self.begun.append(name)
            self.answers[name] = done

        return self.turns.take(
            sender, lambda draft, result: self.told.append((draft, result)), start, blocks=blocks
        )

    def answer(self, name: Any) -> None:
        self.answers.pop(name)(name, "ok")


def test_answers_wait_for_those_that_were_asked_before() -> None:
    world = World()
    for name in "abc":
        assert world.take(name)
    assert world.begun == ["a", "b", "c"]
    world.answer("c")
    world.answer("b")
    assert world.told == []
    world.answer("a")
    assert world.told == [("a", "ok"), ("b", "ok"), ("c", "ok")]
    assert ANN not in world.turns


def test_what_follows_one_that_blocks_begins_with_its_answer() -> None:
    world = World()
    world.take("a")
    world.take("b", blocks=True)
    world.take("c")
    world.take("d", blocks=True)
    world.take("e")
    world.take("x", BOB)
    assert world.begun == ["a", "b", "x"]
    world.answer("b")
    assert world.begun == ["a", "b", "x", "c", "d"]
    world.answer("d")
    assert world.begun[-1] == "e"


def test_so_many_may_wait(monkeypatch: Any) -> None:
    monkeypatch.setattr("gateway.stores.redis.turns._MAX_WAITING", 2)
    world = World()
    assert [world.take(name, blocks=True) for name in "abcd"] == [True, True, True, False]
    # Who waits for nobody is not concerned.
    assert world.take("x", BOB)
    world.answer("a")
    assert world.take("d", blocks=True)
    for name in "bcdx":
        world.answer(name)
    assert [draft for draft, _ in world.told] == ["a", "b", "c", "d", "x"]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([ANN, BOB]))), st.randoms())
def test_whatever_comes_first_all_are_told_in_order(
    asked: list[tuple[bool, TrueId]], random: Any
) -> None:
    world = World()
    for number, (blocks, sender) in enumerate(asked):
        world.take((sender, number), sender, blocks=blocks)
    while world.answers:
        world.answer(random.choice(list(world.answers)))
    for sender in (ANN, BOB):
        mine = [(each, number) for number, (_, each) in enumerate(asked) if each == sender]
        assert [draft for draft, _ in world.told if draft[0] == sender] == mine
        assert [name for name in world.begun if name[0] == sender] == mine
        assert sender not in world.turns
