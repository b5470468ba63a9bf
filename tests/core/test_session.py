"""The rules of a session that need no IO: token generations, and where replay starts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ConnectRefused
from gateway.mailbox import Hole, Located, Position
from gateway.messages import SessionId, TrueId
from gateway.session import Gap, ReplayStart, Session, replay_start


def session(generation: int = 1) -> Session:
    return Session(
        id=SessionId("s1"),
        true_id=TrueId("ann"),
        name="Ann",
        method="guest",
        pid="pid",
        last_seen=0.0,
        start=0,
        confirmed=0,
        generation=generation,
    )


# Generations


def test_the_newest_token_rotates() -> None:
    subject = session(generation=5)
    assert subject.present(5) == 6


def test_the_token_before_it_is_answered_by_the_newest_again() -> None:
    subject = session(generation=5)
    for _ in range(3):
        assert subject.present(4) == 5


def test_the_token_before_it_is_spent_once_the_newest_was_used() -> None:
    subject = session(generation=5)
    for presented in (4, 5, 5):  # the reply to the first 5 was lost
        subject.generation = subject.present(presented)
    with pytest.raises(ConnectRefused) as caught:
        subject.present(4)
    assert caught.value.code == "token_reused"
    assert not caught.value.reconnect


@pytest.mark.parametrize("generation", [-1, 0, 3, 6, 100])
def test_any_other_generation_is_theft_and_changes_nothing(generation: int) -> None:
    subject = session(generation=5)
    with pytest.raises(ConnectRefused, match="revoked"):
        subject.present(generation)
    assert subject == session(generation=5)


@pytest.mark.parametrize("generation", [4, 5])
def test_presenting_a_token_changes_nothing_by_itself(generation: int) -> None:
    # The caller first has the store keep the new generation.
    subject = session(generation=5)
    assert [subject.present(generation) for _ in range(2)] == [generation + 1] * 2
    assert subject == session(generation=5)


@given(lost=st.lists(st.booleans(), max_size=50))
@settings(deadline=None)
def test_a_client_that_uses_its_newest_token_is_never_taken_for_a_thief(lost: list[bool]) -> None:
    subject = session()
    held = 1
    for reply_lost in lost:
        subject.generation = subject.present(held)
        if not reply_lost:
            held = subject.generation
        assert subject.generation - held in {0, 1}


@given(uses=st.lists(st.sampled_from(["owner", "thief"]), max_size=50))
@settings(deadline=None)
def test_a_copied_token_ends_the_session_once_both_have_moved_on(uses: list[str]) -> None:
    subject = session()
    held = {"owner": 1, "thief": 1}
    for who in uses:
        current = subject.generation
        try:
            subject.generation = subject.present(held[who])
        except ConnectRefused:
            assert held[who] < current - 1
            return
        assert held[who] >= current - 1
        held[who] = subject.generation


# Confirmed


@given(offsets=st.lists(st.integers(0, 100)))
@settings(deadline=None)
def test_what_is_confirmed_never_goes_back(offsets: list[int]) -> None:
    subject = session()
    for offset in offsets:
        subject.confirm(offset)
    assert subject.confirmed == max(offsets, default=0)


# Replay


def start(
    presented: str | None = None,
    *,
    located: Located = Located.HERE,
    wanted: int = 0,
    first: int = 1,
    hole: Hole | None = None,
) -> ReplayStart:
    return replay_start(
        presented=Position.parse(presented) if presented is not None else None,
        presented_text=presented,
        located=located,
        wanted=wanted,
        first=first,
        hole=hole,
    )


def test_without_an_offset_replay_starts_where_the_session_says() -> None:
    assert start(wanted=7, first=3) == ReplayStart(7, "resumed", None)


def test_an_offset_wins_over_what_the_session_says() -> None:
    assert start("e.5.n", wanted=7) == ReplayStart(5, "resumed", None, 5)
    assert start("e.9.n", wanted=7) == ReplayStart(9, "resumed", None, 9)


def test_nothing_is_lost_when_the_next_message_is_the_oldest_kept() -> None:
    assert start("e.5.n", first=6) == ReplayStart(5, "resumed", None, 5)
    assert start(wanted=5, first=6) == ReplayStart(5, "resumed", None)


def test_trimmed_messages_are_counted() -> None:
    assert start("e.5.n", located=Located.TRIMMED, first=9) == ReplayStart(
        8, "trimmed", Gap("e.5.n", 3), 5
    )
    assert start(wanted=5, first=9) == ReplayStart(8, "trimmed", Gap(None, 3))


def test_an_offset_of_another_store_replays_all_and_says_so() -> None:
    assert start("e.5.n", located=Located.FOREIGN, first=3, wanted=9) == ReplayStart(
        2, "store_reset", Gap("e.5.n", None)
    )


@pytest.mark.parametrize("text", ["", "5", "not ours", "e.5", "e.05.n"])
def test_an_offset_that_is_none_of_ours_replays_all_and_says_so(text: str) -> None:
    assert start(text, located=Located.FOREIGN, first=3, wanted=9) == ReplayStart(
        2, "store_reset", Gap(text, None)
    )


@given(
    presented=st.none() | st.integers(0, 20),
    located=st.sampled_from(Located),
    wanted=st.integers(0, 20),
    first=st.integers(1, 20),
)
@settings(deadline=None)
def test_what_is_neither_replayed_nor_had_is_always_told(
    presented: int | None, located: Located, wanted: int, first: int
) -> None:
    text = None if presented is None else f"e.{presented}.n"
    begin = start(text, located=located, wanted=wanted, first=first)
    assert begin.after >= first - 1
    if begin.gap is None:
        assert begin.outcome == "resumed"
        assert begin.after == (wanted if presented is None else presented)
    else:
        assert begin.after == first - 1
        assert begin.gap.after == text
        if begin.gap.lost is not None:
            had = wanted if presented is None else presented
            assert begin.gap.lost == begin.after - had > 0


def test_a_hole_behind_the_client_is_a_gap() -> None:
    hole = Hole(7, 2)
    assert start(wanted=7, hole=hole) == ReplayStart(7, "trimmed", Gap(None, 2))
    assert start("e.5.n", hole=hole) == ReplayStart(5, "trimmed", Gap(None, 2), 5)
    assert start(wanted=8, hole=hole) == ReplayStart(8, "resumed", None)


def test_a_hole_counts_with_what_was_trimmed() -> None:
    assert start(wanted=5, first=9, hole=Hole(7, 2)) == ReplayStart(8, "trimmed", Gap(None, 5))
    assert start(wanted=8, first=10, hole=Hole(7, 2)) == ReplayStart(9, "trimmed", Gap(None, 1))
