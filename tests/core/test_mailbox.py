"""A mailbox in memory: dense offsets, limits, reading, and whether a position is still good."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.mailbox import Draft, Located, Position, Retention, StoredMessage
from gateway.messages import TrueId
from gateway.stores.memory_mailbox import Bounds, Mailbox

NO_LIMITS = Retention(max_messages=0, max_bytes=0, retention=0)
#: What a message without data counts.
OVERHEAD = StoredMessage(1, b"e.1.1", b"", 0.0).size


def filled(count: int, size: int = 0) -> Mailbox:
    """Messages 1 to `count`, appended at the times 1 to `count`, with nonces a1, a2..."""
    mailbox = Mailbox()
    for number in range(1, count + 1):
        mailbox.append(b"e", 0xA0 + number, b"x" * size, float(number))
    return mailbox


def offsets(mailbox: Mailbox, after: int = 0, limit: int = 100, max_bytes: int = 0) -> list[int]:
    batch = mailbox.read(after, limit, max_bytes)
    assert batch.head == mailbox.head
    return [message.offset for message in batch.messages]


# Positions


def test_a_position_is_written_and_read() -> None:
    position = Position("e1", 42, "a0f")
    assert str(position) == "e1.42.a0f"
    assert Position.parse("e1.42.a0f") == position


@pytest.mark.parametrize(
    "text",
    [
        "",
        "e1.42",
        "e1.42.n.x",
        "e1.-1.n",
        "e1.+1.n",
        "e1.042.n",
        "e1.1_0.n",
        "e1.4 2.n",
        "e1.\u0664\u0662.n",
        "E1.42.n",
        "e1.42.N",
        ".42.n",
        "e1..n",
        "e1.42.n\n",
        " e1.42.n",
        "e1.9999999999999999999.n",
        f"{'e' * 17}.1.n",
        f"e.1.{'n' * 17}",
    ],
)
def test_other_texts_are_no_positions(text: str) -> None:
    assert Position.parse(text) is None


@given(text=st.text() | st.from_regex(r"[a-z0-9.]{0,24}", fullmatch=True))
@settings(deadline=None)
def test_a_text_is_a_position_only_in_the_form_that_the_gateway_writes(text: str) -> None:
    position = Position.parse(text)
    assert position is None or str(position) == text


# Appending and reading


def test_offsets_begin_at_one_and_leave_no_hole() -> None:
    mailbox = Mailbox()
    messages = [mailbox.append(b"e", 1, b"1", 0.0) for _ in range(3)]
    assert [message.offset for message in messages] == [1, 2, 3]
    assert (mailbox.first, mailbox.head, len(mailbox)) == (1, 3, 3)


def test_an_appended_message_is_what_was_given() -> None:
    message = Mailbox().append(b"e", 0xAB, b"[1]", 7.0)
    assert message == StoredMessage(1, b"e.1.ab", b"[1]", 7.0)
    assert message.size == OVERHEAD + 3


def test_a_message_counts_what_its_draft_said_it_would() -> None:
    draft = Draft(TrueId("ann"), TrueId("bob"), b"[1]", "key")
    assert draft.size == Mailbox().append(b"e", 1, draft.body, 0.0).size


@given(offset=st.integers(1, 20), nonce=st.integers(0, 2**40 - 1))
@settings(deadline=None)
def test_the_id_of_a_message_is_its_position(offset: int, nonce: int) -> None:
    mailbox = Mailbox()
    mailbox.head = offset - 1
    message = mailbox.append(b"e1", nonce, b"1", 0.0)
    position = Position("e1", offset, f"{nonce:x}")
    assert message.id.decode() == str(position)
    assert Position.parse(message.id.decode()) == position
    assert mailbox.locate(position, "e1") is Located.HERE


def test_an_empty_mailbox_begins_one_past_its_head() -> None:
    mailbox = Mailbox()
    assert (mailbox.first, mailbox.head, mailbox.size) == (1, 0, 0)
    assert offsets(mailbox) == []
    for number in range(3):
        mailbox.append(b"e", 1, b"1", float(number))
    mailbox.trim(Bounds(Retention(0, 0, retention=1.0), 100.0))
    assert (mailbox.first, mailbox.head, mailbox.size, len(mailbox)) == (4, 3, 0, 0)
    assert mailbox.append(b"e", 1, b"1", 100.0).offset == 4


@pytest.mark.parametrize(
    ("after", "limit", "expected"),
    [
        (0, 100, [1, 2, 3, 4, 5]),
        (2, 100, [3, 4, 5]),
        (2, 2, [3, 4]),
        (5, 100, []),
        (99, 100, []),
        (0, 0, []),
    ],
)
def test_reading_starts_after_an_offset(after: int, limit: int, expected: list[int]) -> None:
    assert offsets(filled(5), after, limit) == expected


def test_reading_stops_before_its_bytes_are_exceeded() -> None:
    mailbox = filled(5, size=100)
    size = OVERHEAD + 100
    assert offsets(mailbox, max_bytes=3 * size) == [1, 2, 3]
    assert offsets(mailbox, max_bytes=3 * size - 1) == [1, 2]


def test_one_message_is_read_whatever_its_size() -> None:
    assert offsets(filled(5, size=1000), after=1, max_bytes=1) == [2]


def test_reading_what_was_trimmed_begins_at_the_oldest_kept() -> None:
    mailbox = filled(5)
    mailbox.trim(Bounds(Retention(2, 0, 0), 5.0))
    assert offsets(mailbox, after=1) == [4, 5]


# Trimming


@pytest.mark.parametrize(
    ("limits", "now", "kept"),
    [
        (NO_LIMITS, 1e9, [1, 2, 3, 4, 5]),
        (Retention(3, 0, 0), 5.0, [3, 4, 5]),
        (Retention(0, 2 * (OVERHEAD + 10), 0), 5.0, [4, 5]),
        (Retention(0, 2 * (OVERHEAD + 10) - 1, 0), 5.0, [5]),
        (Retention(0, 1, 0), 5.0, []),
        (Retention(0, 0, 2.0), 5.0, [3, 4, 5]),
        (Retention(0, 0, 2.0), 5.5, [4, 5]),
        (Retention(4, 3 * (OVERHEAD + 10), 2.0), 5.0, [3, 4, 5]),
    ],
)
def test_the_oldest_messages_go_first(limits: Retention, now: float, kept: list[int]) -> None:
    mailbox = filled(5, size=10)
    expired, trimmed = mailbox.trim(Bounds(limits, now))
    assert offsets(mailbox) == kept
    assert expired == sum(
        limits.retention > 0 and ts < now - limits.retention for ts in range(1, 6)
    )
    assert expired + trimmed == 5 - len(kept)
    assert mailbox.size == len(kept) * (OVERHEAD + 10)
    assert mailbox.head == 5


# Locating


@pytest.mark.parametrize(
    ("position", "located"),
    [
        (Position("e", 5, "a5"), Located.HERE),
        (Position("e", 3, "a3"), Located.HERE),
        (Position("e", 2, "a2"), Located.HERE),  # gone itself, but all after it is here
        (Position("e", 1, "a1"), Located.TRIMMED),
        (Position("e", 0, ""), Located.TRIMMED),
        (Position("e", 6, "a6"), Located.FOREIGN),
        (Position("e", 4, "a5"), Located.FOREIGN),
        (Position("other", 4, "a4"), Located.FOREIGN),
        (Position("other", 0, ""), Located.FOREIGN),
    ],
)
def test_a_position_is_here_or_trimmed_or_foreign(position: Position, located: Located) -> None:
    mailbox = filled(5)
    mailbox.trim(Bounds(Retention(3, 0, 0), 5.0))
    assert mailbox.locate(position, "e") is located


def test_the_beginning_of_an_empty_mailbox_is_here() -> None:
    assert Mailbox().locate(Position("e", 0, ""), "e") is Located.HERE
    assert Mailbox().locate(Position("e", 1, "n"), "e") is Located.FOREIGN


class MailboxAgainstModel(RuleBasedStateMachine):
    """The model keeps every message ever and counts how many are gone from its front."""

    def __init__(self) -> None:
        super().__init__()
        self.mailbox = Mailbox()
        self.ever: list[StoredMessage] = []
        self.gone = 0
        self.now = 0.0

    @property
    def kept(self) -> list[StoredMessage]:
        return self.ever[self.gone :]

    @rule(size=st.integers(0, 300), nonce=st.sampled_from([10, 11, 12]), later=st.floats(0, 9))
    def append(self, size: int, nonce: int, later: float) -> None:
        self.now += later
        message = self.mailbox.append(b"e", nonce, b"x" * size, self.now)
        self.ever.append(message)
        assert message == StoredMessage(
            len(self.ever), b"e.%d.%x" % (len(self.ever), nonce), b"x" * size, self.now
        )

    @rule(
        max_messages=st.integers(0, 6),
        max_bytes=st.integers(0, 2000),
        retention=st.floats(0, 20),
        later=st.floats(0, 9),
    )
    def trim(self, max_messages: int, max_bytes: int, retention: float, later: float) -> None:
        self.now += later
        gone = self.gone
        old = sum(bool(retention) and each.ts < self.now - retention for each in self.kept)
        expired, trimmed = self.mailbox.trim(
            Bounds(Retention(max_messages, max_bytes, retention), self.now)
        )

        def fits(kept: list[StoredMessage]) -> bool:
            return not kept or (
                not (max_messages and len(kept) > max_messages)
                and not (max_bytes and sum(message.size for message in kept) > max_bytes)
                and not (retention and kept[0].ts < self.now - retention)
            )

        while not fits(self.kept):
            self.gone += 1
        # What that freed is for the invariant.
        assert (expired, trimmed) == (old, self.gone - gone - old)

    @rule(
        max_messages=st.integers(0, 12),
        max_bytes=st.sampled_from([0, 300, 900, 2000]),
        length=st.integers(0, 300),
    )
    def excess(self, max_messages: int, max_bytes: int, length: int) -> None:
        size = Draft(TrueId("ann"), None, b"x" * length).size
        kept = [message.size for message in self.kept]
        while kept and (
            (max_messages and len(kept) + 1 > max_messages)
            or (max_bytes and sum(kept) + size > max_bytes)
        ):
            del kept[0]
        freed = self.mailbox.size - sum(kept)
        assert self.mailbox.excess(Retention(max_messages, max_bytes, 0), size) == freed

    @rule(offset=st.integers(0, 30))
    def drop_through(self, offset: int) -> None:
        size = sum(message.size for message in self.kept)
        freed = self.mailbox.drop_through(offset)
        self.gone = max(self.gone, min(offset, len(self.ever)))
        assert freed == size - sum(message.size for message in self.kept)

    @rule(
        after=st.integers(0, 30), limit=st.integers(1, 10), max_bytes=st.sampled_from([0, 300, 900])
    )
    def read(self, after: int, limit: int, max_bytes: int) -> None:
        expected: list[StoredMessage] = []
        size = 0
        for message in self.kept:
            if message.offset <= after:
                continue
            size += message.size
            if len(expected) == limit or (expected and max_bytes and size > max_bytes):
                break
            expected.append(message)
        assert list(self.mailbox.read(after, limit, max_bytes).messages) == expected

    @rule(
        epoch=st.sampled_from(["e", "e", "e", "f"]),
        offset=st.integers(0, 30),
        nonce=st.sampled_from(["a", "b", "c"]),
    )
    def locate(self, epoch: str, offset: int, nonce: str) -> None:
        if epoch != "e" or offset > len(self.ever):
            expected = Located.FOREIGN
        elif offset < self.gone:
            expected = Located.TRIMMED
        elif offset == self.gone or self.ever[offset - 1].id.endswith(f".{nonce}".encode()):
            expected = Located.HERE
        else:
            expected = Located.FOREIGN
        assert self.mailbox.locate(Position(epoch, offset, nonce), "e") is expected

    @invariant()
    def sizes_and_offsets_agree(self) -> None:
        assert self.mailbox.size == sum(message.size for message in self.kept)
        assert len(self.mailbox) == len(self.kept)
        assert self.mailbox.head == len(self.ever)
        assert self.mailbox.first == self.gone + 1


TestMailboxAgainstModel = MailboxAgainstModel.TestCase
TestMailboxAgainstModel.settings = settings(deadline=None, max_examples=60)
