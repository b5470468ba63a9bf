"""The seam between stored and live messages: once, in order, and never a silent gap."""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.mailbox import Batch, Hole, Retention, StoredMessage
from gateway.replay import Command, Cursor, CursorState, Lost, Read, Write
from gateway.stores.memory_mailbox import Bounds, Mailbox


def message(offset: int) -> StoredMessage:
    return StoredMessage(offset, b"e.%d.1" % offset, b"1", 0.0)


def batch(*offsets: int, head: int) -> Batch:
    return Batch(tuple(message(offset) for offset in offsets), head)


def write(*offsets: int) -> Write:
    return Write(tuple(message(offset) for offset in offsets))


def live_cursor(position: int = 0) -> Cursor:
    cursor = Cursor(position)
    cursor.on_started()
    cursor.on_batch(position, batch(head=position))
    assert cursor.state is CursorState.LIVE
    return cursor


def test_a_start_without_missed_messages_is_live_after_one_read() -> None:
    cursor = Cursor(4)
    assert cursor.state is CursorState.IDLE
    assert cursor.on_started() == [Read(4)]
    assert cursor.on_batch(4, batch(head=4)) == []
    assert cursor.state is CursorState.LIVE


def test_missed_messages_are_written_until_the_head_is_reached() -> None:
    cursor = Cursor(0)
    cursor.on_started()
    assert cursor.on_batch(0, batch(1, 2, head=3)) == [write(1, 2), Read(2)]
    assert cursor.on_batch(2, batch(3, head=3)) == [write(3)]
    assert cursor.state is CursorState.LIVE


def test_the_very_next_message_is_written_at_once() -> None:
    cursor = live_cursor()
    assert cursor.on_live(1)
    assert cursor.on_live(2)
    assert cursor.position == 2
    assert cursor.on_behind() == []


def test_a_hole_that_nobody_spoke_of_ends_the_connection() -> None:
    hole = Hole(4, 2)
    for told, expected in ((None, [Lost(2)]), (Hole(4, 1), [Lost(2)]), (hole, [write(5)])):
        cursor = Cursor(4, told)
        cursor.on_started()
        assert cursor.on_batch(4, Batch((message(5),), 5, hole)) == expected


def test_a_hole_that_is_behind_does_not_matter() -> None:
    cursor = Cursor(5)
    cursor.on_started()
    assert cursor.on_batch(5, Batch((), 5, Hole(4, 2))) == []
    assert cursor.state is CursorState.LIVE


def test_a_message_that_was_read_already_is_not_written_again() -> None:
    cursor = Cursor(0)
    cursor.on_started()
    assert cursor.on_batch(0, batch(1, 2, head=2)) == [write(1, 2)]
    assert not cursor.on_live(1)
    assert not cursor.on_live(2)
    assert cursor.on_behind() == []
    assert cursor.on_live(3)


def test_a_live_message_before_the_greeting_is_read_later() -> None:
    cursor = Cursor(0)
    assert not cursor.on_live(1)
    assert cursor.on_behind() == []
    assert cursor.on_started() == [Read(0)]
    # The read was answered before that message was stored.
    assert cursor.on_batch(0, batch(head=0)) == [Read(0)]
    assert cursor.on_batch(0, batch(1, head=1)) == [write(1)]


def test_a_store_that_has_lost_what_it_had_ends_the_connection() -> None:
    cursor = live_cursor(3)
    assert not cursor.on_live(6)
    (read,) = cursor.on_behind()
    assert isinstance(read, Read)
    assert cursor.on_batch(read.after, batch(4, head=4), read.head) == [Lost(2)]


def test_a_store_that_is_behind_the_client_ends_the_connection() -> None:
    cursor = Cursor(5)
    (read,) = cursor.on_started()
    assert isinstance(read, Read)
    assert cursor.on_batch(read.after, batch(head=4), read.head) == [Lost(1)]


def test_in_doubt_nothing_is_written_until_the_store_is_known_again() -> None:
    cursor = live_cursor(3)
    cursor.on_doubt()
    assert not cursor.on_live(4)
    assert cursor.on_behind() == []
    assert cursor.on_drained() == []
    cursor.on_congested()
    assert cursor.on_batch(3, batch(4, head=4)) == []
    assert cursor.on_known(5) == [Read(3)]
    assert cursor.on_batch(3, batch(4, 5, head=5)) == [write(4, 5)]
    assert cursor.on_live(6)


def test_a_head_that_was_told_before_the_doubt_is_forgotten() -> None:
    cursor = live_cursor(3)
    assert not cursor.on_live(9)
    cursor.on_doubt()
    (read,) = cursor.on_known(3)
    assert isinstance(read, Read)
    assert cursor.on_batch(3, batch(head=3), read.head) == []
    assert cursor.on_live(4)


def test_who_learns_that_the_head_is_further_reads() -> None:
    cursor = live_cursor(3)
    assert cursor.on_known(3) == []
    assert cursor.on_known(5) == [Read(3)]
    assert cursor.on_known(6) == []
    assert cursor.on_batch(3, batch(4, 5, head=5)) == [write(4, 5), Read(5)]


def test_a_client_that_is_not_greeted_yet_has_nothing_to_doubt() -> None:
    cursor = Cursor(3)
    cursor.on_doubt()
    assert cursor.state is CursorState.IDLE
    assert cursor.on_known(5) == []
    assert cursor.on_started() == [Read(3)]


def test_a_live_message_during_a_read_is_read_too() -> None:
    cursor = Cursor(0)
    cursor.on_started()
    assert not cursor.on_live(3)
    assert cursor.on_behind() == []
    assert cursor.on_batch(0, batch(1, 2, head=2)) == [write(1, 2), Read(2)]
    assert cursor.on_batch(2, batch(3, head=3)) == [write(3)]


def test_a_message_that_is_not_the_next_one_is_fetched_with_those_before_it() -> None:
    cursor = live_cursor()
    assert not cursor.on_live(3)
    assert cursor.on_behind() == [Read(0)]
    assert cursor.on_behind() == []
    assert cursor.on_batch(0, batch(1, 2, 3, head=3)) == [write(1, 2, 3)]


def test_messages_trimmed_before_they_were_read_are_lost() -> None:
    cursor = Cursor(2)
    cursor.on_started()
    assert cursor.on_batch(2, batch(6, 7, head=7)) == [Lost(3)]


def test_messages_are_lost_even_when_none_is_left() -> None:
    cursor = Cursor(2)
    cursor.on_started()
    assert cursor.on_batch(2, batch(head=7)) == [Lost(5)]


def test_nothing_is_written_while_congested_and_the_rest_is_read_after_it() -> None:
    cursor = live_cursor()
    assert cursor.on_live(1)
    cursor.on_congested()
    assert not cursor.on_live(2)
    assert cursor.on_behind() == []
    assert cursor.on_drained() == [Read(1)]
    assert cursor.on_drained() == []
    assert cursor.on_batch(1, batch(2, head=2)) == [write(2)]
    assert cursor.state is CursorState.LIVE


def test_a_batch_that_comes_while_congested_is_ignored_and_read_again() -> None:
    cursor = Cursor(0)
    cursor.on_started()
    cursor.on_congested()
    assert cursor.on_batch(0, batch(1, head=1)) == []
    assert cursor.on_drained() == [Read(0)]
    assert cursor.on_batch(0, batch(1, head=1)) == [write(1)]


def test_the_answer_to_a_read_that_was_asked_twice_is_taken_once() -> None:
    cursor = Cursor(0)
    cursor.on_started()
    cursor.on_congested()
    assert cursor.on_drained() == [Read(0)]
    assert cursor.on_batch(0, batch(1, head=1)) == [write(1)]
    assert cursor.on_batch(0, batch(1, head=1)) == []
    assert cursor.position == 1


def test_congestion_and_drain_before_the_greeting_start_nothing() -> None:
    cursor = Cursor(0)
    cursor.on_congested()
    assert cursor.state is CursorState.IDLE
    assert cursor.on_drained() == []
    assert cursor.on_started() == [Read(0)]


class Seam(RuleBasedStateMachine):
    """A cursor on a store that answers when it likes, but in the order it was asked.

    What a read returns is decided at any time between question and answer; that a message
    was stored is told any time later; the transport may be full after every message.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mailbox = Mailbox()
        for _ in range(3):
            self.mailbox.append(b"e", 1, b"1", 0.0)
        self.trimmed = 0
        self.cursor = Cursor(1)
        self.written: list[int] = []
        self.questions: deque[tuple[Read, Batch | None]] = deque()
        self.untold: deque[int] = deque()
        self.room = 3
        self.full = False
        self.limit = 2
        self.lost: int | None = None

    def write(self, offset: int) -> None:
        self.written.append(offset)
        self.room -= 1
        if self.room <= 0:
            self.full = True
            self.cursor.on_congested()

    def execute(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Write(messages):
                    for each in messages:
                        self.write(each.offset)
                case Read():
                    self.questions.append((command, None))
                case Lost(count):
                    self.lost = count

    def batch_after(self, after: int) -> Batch:
        return self.mailbox.read(after, self.limit, 0)

    alive = precondition(lambda self: self.lost is None)

    @alive
    @precondition(lambda self: self.cursor.state is CursorState.IDLE)
    @rule()
    def start(self) -> None:
        self.execute(self.cursor.on_started())

    @rule()
    def append(self) -> None:
        stored = self.mailbox.append(b"e", 1, b"1", 0.0)
        self.untold.append(stored.offset)

    @alive
    @precondition(lambda self: self.untold)
    @rule()
    def tell(self) -> None:
        offset = self.untold.popleft()
        if self.cursor.on_live(offset):
            self.write(offset)
        else:
            self.execute(self.cursor.on_behind())

    @alive
    @precondition(lambda self: self.questions)
    @rule()
    def look_up(self) -> None:
        """The store fixes what it will answer to all questions so far."""
        self.questions = deque(
            (read, found if found is not None else self.batch_after(read.after))
            for read, found in self.questions
        )

    @alive
    @precondition(lambda self: self.questions)
    @rule()
    def answer(self) -> None:
        read, found = self.questions.popleft()
        batch = found or self.batch_after(read.after)
        self.execute(self.cursor.on_batch(read.after, batch, read.head))

    @alive
    @precondition(lambda self: self.full)
    @rule(room=st.integers(1, 5))
    def drain(self, room: int) -> None:
        self.full = False
        self.room = room
        self.execute(self.cursor.on_drained())

    @alive
    @rule(keep=st.integers(1, 4))
    def trim(self, keep: int) -> None:
        self.mailbox.trim(Bounds(Retention(keep, 0, 0), 0.0))

    @alive
    @rule(limit=st.integers(1, 4))
    def answer_by(self, limit: int) -> None:
        self.limit = limit

    @invariant()
    def written_once_in_order(self) -> None:
        assert self.written == list(range(2, 2 + len(self.written)))
        assert self.cursor.position == 1 + len(self.written)

    @invariant()
    def nothing_is_waited_for_in_vain(self) -> None:
        if self.cursor.state is CursorState.READING and self.lost is None:
            assert any(read.after == self.cursor.position for read, _ in self.questions)
        if self.cursor.state is CursorState.CONGESTED:
            assert self.full
        if self.cursor.state is CursorState.LIVE:
            # Everything that the cursor was told of is written.
            assert self.cursor.head == self.cursor.position

    @invariant()
    def only_what_was_trimmed_is_lost(self) -> None:
        if self.lost is not None:
            assert self.lost > 0
            assert self.cursor.position + self.lost < self.mailbox.first

    def teardown(self) -> None:
        if self.cursor.state is CursorState.IDLE:
            self.start()
        while self.lost is None and (self.questions or self.untold or self.full):
            self.written_once_in_order()
            self.nothing_is_waited_for_in_vain()
            if self.full:
                self.drain(1)
            elif self.questions:
                self.answer()
            else:
                self.tell()
        self.written_once_in_order()
        self.only_what_was_trimmed_is_lost()
        if self.lost is None:
            assert self.cursor.state is CursorState.LIVE
            assert self.cursor.position == self.mailbox.head


TestSeam = Seam.TestCase
TestSeam.settings = settings(deadline=None, max_examples=200, stateful_step_count=40)
