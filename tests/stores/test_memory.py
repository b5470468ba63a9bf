"""What every store promises: mailboxes, idempotency keys, sessions and revocations."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.errors import GatewayError
from gateway.mailbox import (
    Accepted,
    Batch,
    Draft,
    KeysFull,
    KeyTaken,
    Located,
    MailboxFull,
    Position,
    Retention,
    StoredMessage,
    UnknownTarget,
)
from gateway.messages import ConnectionId, SessionId, TrueId
from gateway.session import Session, SessionsFull
from gateway.stores import memory
from gateway.stores.memory import KEY_BYTES, MemoryStore
from tests.stores.conftest import NewStore, new_memory_store

ANN, BOB = TrueId("ann"), TrueId("bob")
#: What a message without data counts.
OVERHEAD = StoredMessage(Position("e", 1, "n"), Draft(ANN, None, b""), 0.0).size


def wait(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


def answered(ask: Callable[[Callable[[Any], None]], None]) -> Any:
    """Ask something that answers by a callback, and wait for the answer."""

    async def asked() -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        ask(answer.set_result)
        return await answer

    return wait(asked())


def append(
    store: MemoryStore,
    data: bytes = b"1",
    *,
    target: TrueId = ANN,
    sender: TrueId | None = BOB,
    key: str | None = None,
    now: float = 0.0,
) -> Accepted | GatewayError:
    draft = Draft(target, sender, data, key=key)
    result: Accepted | GatewayError = answered(lambda done: store.append(draft, now, done))
    return result


def accepted(result: Accepted | GatewayError) -> Accepted:
    assert isinstance(result, Accepted)
    return result


def read(
    store: MemoryStore, true_id: TrueId = ANN, after: int = 0, limit: int = 100, max_bytes: int = 0
) -> list[bytes]:
    batch: Batch = answered(lambda done: store.read(true_id, after, limit, max_bytes, done))
    assert batch.head == store.head(true_id)
    offsets = [message.position.offset for message in batch.messages]
    assert offsets == list(range(offsets[0], offsets[0] + len(offsets))) if offsets else True
    return [message.draft.data for message in batch.messages]


def session(
    number: int = 1, true_id: TrueId = ANN, *, last_seen: float = 0.0, connected: bool = False
) -> Session:
    return Session(
        id=SessionId(f"s{number}"),
        true_id=true_id,
        name="Name",
        method="guest",
        pid=f"pid{number}",
        last_seen=last_seen,
        start=0,
        confirmed=0,
        connection_id=ConnectionId(number) if connected else None,
    )


def ids(store: MemoryStore, true_id: TrueId = ANN) -> list[str]:
    return [each.id for each in wait(store.sessions_of(true_id))]


# Mailboxes


def test_a_message_is_kept_for_a_known_player(store: MemoryStore) -> None:
    store.know([ANN])
    result = accepted(append(store, b"[1]", now=5.0))
    assert result.message is not None
    assert result.message.draft == Draft(ANN, BOB, b"[1]")
    assert result.message.ts == 5.0
    assert result.message_id == str(result.message.position)
    assert result.message.position.epoch == store.epoch
    assert not result.duplicate
    assert read(store) == [b"[1]"]


def test_a_player_with_a_session_is_known(store: MemoryStore) -> None:
    wait(store.add_session(session()))
    assert isinstance(append(store), Accepted)


def test_a_message_to_a_stranger_is_kept_nowhere(store: MemoryStore) -> None:
    assert isinstance(append(store), UnknownTarget)
    assert (store.head(ANN), store.first(ANN), read(store)) == (0, 1, [])


def test_every_player_has_a_mailbox_of_their_own(store: MemoryStore) -> None:
    store.know([ANN, BOB])
    append(store, b"1", target=ANN)
    append(store, b"2", target=BOB)
    append(store, b"3", target=ANN)
    assert (read(store, ANN), read(store, BOB)) == ([b"1", b"3"], [b"2"])
    assert (store.head(ANN), store.head(BOB)) == (2, 1)


def test_messages_are_read_in_batches(store: MemoryStore) -> None:
    store.know([ANN])
    for number in range(5):
        append(store, b"%d" % number)
    assert read(store, after=1, limit=2) == [b"1", b"2"]
    assert read(store, max_bytes=2 * (OVERHEAD + 1)) == [b"0", b"1"]
    assert read(store, max_bytes=1) == [b"0"]
    assert read(store, after=5) == []


def test_the_oldest_messages_make_room(new_store: NewStore) -> None:
    store = new_store(mailbox=Retention(3, 0, 0))
    store.know([ANN])
    for number in range(5):
        append(store, b"%d" % number)
    assert read(store) == [b"2", b"3", b"4"]
    assert (store.first(ANN), store.head(ANN)) == (3, 5)


def test_old_messages_go_with_time(new_store: NewStore) -> None:
    store = new_store(mailbox=Retention(0, 0, 10.0))
    store.know([ANN])
    append(store, b"1", now=0.0)
    append(store, b"2", now=5.0)
    store.expire(10.0)
    assert read(store) == [b"1", b"2"]
    store.expire(11.0)
    assert read(store) == [b"2"]
    store.expire(100.0)
    assert read(store) == []
    assert (store.first(ANN), store.head(ANN)) == (3, 2)


def test_positions_are_located(new_store: NewStore) -> None:
    store = new_store(mailbox=Retention(2, 0, 0))
    store.know([ANN])
    positions = []
    for _ in range(4):
        message = accepted(append(store)).message
        assert message is not None
        positions.append(message.position)
    assert [store.locate(ANN, position) for position in positions] == [
        Located.TRIMMED,
        Located.HERE,
        Located.HERE,
        Located.HERE,
    ]
    newest = positions[-1]
    for foreign in (
        Position("e0", newest.offset, newest.nonce),
        Position(newest.epoch, newest.offset, "other"),
        Position(newest.epoch, newest.offset + 1, newest.nonce),
    ):
        assert store.locate(ANN, foreign) is Located.FOREIGN
    assert store.locate(BOB, newest) is Located.FOREIGN


def test_nonces_differ(store: MemoryStore) -> None:
    store.know([ANN])
    messages = [accepted(append(store)).message for _ in range(10)]
    assert len({message.position.nonce for message in messages if message is not None}) == 10


def test_all_mailboxes_together_have_a_limit(new_store: NewStore) -> None:
    store = new_store(total_bytes=2 * (OVERHEAD + 10))
    store.know([ANN, BOB])
    assert isinstance(append(store, b"x" * 10, target=ANN), Accepted)
    assert isinstance(append(store, b"x" * 11, target=BOB), MailboxFull)
    assert isinstance(append(store, b"x" * 10, target=BOB), Accepted)
    assert isinstance(append(store, b"", target=BOB), MailboxFull)
    assert (store.head(ANN), store.head(BOB)) == (1, 1)
    assert store.bytes == 2 * (OVERHEAD + 10)


# Room for new messages: what has arrived everywhere goes first


def confirm(store: MemoryStore, subject: Session, offset: int) -> None:
    subject.confirm(offset)
    store.save_session(subject)


def test_messages_that_all_sessions_have_make_room(new_store: NewStore) -> None:
    store = new_store(total_bytes=4 * OVERHEAD)
    store.know([BOB])
    first, second = session(1), session(2)
    for each in (first, second):
        wait(store.add_session(each))
    positions = [accepted(append(store, b"")).message_id for _ in range(4)]
    confirm(store, first, 4)
    assert isinstance(append(store, b"", target=BOB), MailboxFull)
    confirm(store, second, 2)
    assert isinstance(append(store, b"", target=BOB), Accepted)
    assert (store.first(ANN), store.bytes) == (3, 3 * OVERHEAD)
    known = [Position.parse(text) for text in positions]
    assert [store.locate(ANN, each) for each in known if each is not None] == [
        Located.TRIMMED,
        Located.HERE,
        Located.HERE,
        Located.HERE,
    ]


def test_a_session_that_is_gone_holds_nothing_back(new_store: NewStore) -> None:
    store = new_store(total_bytes=2 * OVERHEAD)
    store.know([BOB])
    first, second = session(1), session(2)
    for each in (first, second):
        wait(store.add_session(each))
    append(store, b"")
    append(store, b"")
    confirm(store, first, 1)
    assert isinstance(append(store, b"", target=BOB), MailboxFull)
    wait(store.revoke_session(second.id, 0.0))
    assert isinstance(append(store, b"", target=BOB), Accepted)
    # Without any session it is what the player has confirmed, by whichever.
    wait(store.revoke_session(first.id, 0.0))
    assert (store.first(ANN), store.head(ANN)) == (2, 2)
    assert isinstance(append(store, b"", target=BOB), MailboxFull)


def test_no_more_goes_than_is_needed(new_store: NewStore) -> None:
    players = [TrueId(f"p{number}") for number in range(3)]
    store = new_store(total_bytes=3 * OVERHEAD)
    store.know([ANN])
    for number, true_id in enumerate(players):
        subject = session(number, true_id)
        wait(store.add_session(subject))
        append(store, b"", target=true_id)
        confirm(store, subject, 1)
    for expected in ([2, 1, 1], [2, 2, 1], [2, 2, 2]):
        append(store, b"")
        assert [store.first(true_id) for true_id in players] == expected
    assert isinstance(append(store, b""), MailboxFull)


def test_what_the_mailbox_drops_for_a_message_is_room_for_it(new_store: NewStore) -> None:
    store = new_store(mailbox=Retention(2, 3 * OVERHEAD, 50.0), total_bytes=2 * OVERHEAD)
    store.know([ANN, BOB])
    append(store, b"")
    append(store, b"")
    append(store, b"")
    assert (store.first(ANN), store.head(ANN), store.bytes) == (2, 3, 2 * OVERHEAD)
    # Nothing is lost for a message that does not fit after all.
    assert isinstance(append(store, b"x"), MailboxFull)
    assert (store.first(ANN), store.bytes) == (2, 2 * OVERHEAD)
    # But what is too old is gone anyway.
    assert isinstance(append(store, b"x", now=51.0), Accepted)
    assert (store.first(ANN), store.bytes) == (4, OVERHEAD + 1)


# Idempotency keys


def test_the_same_key_is_accepted_once(store: MemoryStore) -> None:
    store.know([ANN, BOB])
    first = accepted(append(store, b"1", key="k"))
    again = accepted(append(store, b"2", key="k", now=100.0))
    assert again == Accepted(first.message_id, None, True)
    assert read(store) == [b"1"]


def test_a_key_belongs_to_its_sender(store: MemoryStore) -> None:
    store.know([ANN, BOB])
    append(store, b"1", sender=ANN, key="k")
    append(store, b"2", sender=BOB, key="k")
    append(store, b"3", sender=None, key="k")
    append(store, b"4", sender=None, key="k")
    assert read(store) == [b"1", b"2", b"3", b"4"]


def test_a_key_is_forgotten_after_its_window(store: MemoryStore) -> None:
    store.know([ANN, BOB])
    append(store, b"1", key="k", now=0.0)
    append(store, b"2", key="k", now=100.5)
    append(store, b"3", key="k", now=150.0)
    assert read(store) == [b"1", b"2"]


def test_no_key_is_forgotten_inside_the_window_however_many_there_are(
    new_store: NewStore,
) -> None:
    store = new_store(dedupe_keys=2)
    store.know([ANN, BOB])
    append(store, b"1", key="a", now=0.0)
    append(store, b"2", key="b", now=30.0)
    refused = append(store, b"3", key="c", now=40.0)
    assert isinstance(refused, KeysFull)
    assert refused.retry_after == 60.0
    # Known keys are answered, messages without one and other senders' go on.
    assert accepted(append(store, key="a", now=40.0)).duplicate
    append(store, b"4", now=40.0)
    append(store, b"5", sender=ANN, key="c", now=40.0)
    append(store, b"6", key="c", now=100.5)
    assert read(store) == [b"1", b"2", b"4", b"5", b"6"]


def test_a_key_is_good_for_one_target(store: MemoryStore) -> None:
    store.know([ANN, BOB])
    append(store, b"1", key="k")
    assert isinstance(append(store, b"2", target=BOB, key="k"), KeyTaken)
    assert read(store, BOB) == []
    assert accepted(append(store, b"3", key="k")).duplicate
    assert not accepted(append(store, b"4", target=BOB, key="k", now=100.5)).duplicate


def test_keys_count_until_they_expire(store: MemoryStore) -> None:
    store.know([ANN, BOB])
    append(store, b"", key="k")
    append(store, b"", key="k")
    assert store.bytes == OVERHEAD + KEY_BYTES
    store.expire(100.0)
    assert store.bytes == OVERHEAD + KEY_BYTES
    store.expire(100.5)
    assert store.bytes == OVERHEAD


def test_a_full_store_takes_no_keys(new_store: NewStore) -> None:
    store = new_store(total_bytes=OVERHEAD + KEY_BYTES - 1)
    store.know([ANN, BOB])
    assert isinstance(append(store, b"", key="k"), MailboxFull)
    assert isinstance(append(store, b""), Accepted)


def test_a_player_with_keys_is_not_forgotten(store: MemoryStore) -> None:
    store.know([ANN])
    wait(store.add_session(session(1, BOB)))
    append(store, key="k", now=0.0)
    wait(store.revoke_session(SessionId("s1"), 0.0))
    store.expire(50.0)
    wait(store.add_session(session(2, BOB)))
    assert accepted(append(store, key="k", now=50.0)).duplicate


def test_a_window_of_zero_remembers_no_keys(new_store: NewStore) -> None:
    store = new_store(dedupe_window=0.0)
    store.know([ANN, BOB])
    assert [accepted(append(store, key="k")).duplicate for _ in range(2)] == [False, False]


def test_a_refused_message_leaves_its_key_free(new_store: NewStore) -> None:
    store = new_store(total_bytes=OVERHEAD + KEY_BYTES + 10)
    store.know([ANN, BOB])
    assert isinstance(append(store, b"x" * 11, key="k"), MailboxFull)
    assert not accepted(append(store, b"x", key="k")).duplicate


# Sessions


def test_a_session_is_kept(store: MemoryStore) -> None:
    assert wait(store.session(SessionId("s1"))) is None
    wait(store.add_session(session()))
    assert wait(store.session(SessionId("s1"))) == session()


def test_sessions_of_a_player_come_longest_unseen_first(store: MemoryStore) -> None:
    for number, last_seen in ((1, 5.0), (2, 3.0), (3, 4.0)):
        wait(store.add_session(session(number, last_seen=last_seen)))
    wait(store.add_session(session(4, BOB)))
    assert ids(store) == ["s2", "s3", "s1"]
    assert ids(store, BOB) == ["s4"]
    assert ids(store, TrueId("nobody")) == []


def test_what_any_session_confirmed_is_kept_beyond_it(store: MemoryStore) -> None:
    assert wait(store.confirmed_of(ANN)) == 0
    first, second = session(1), session(2)
    for each, offset in ((first, 5), (second, 3)):
        wait(store.add_session(each))
        each.confirm(offset)
        store.save_session(each)
    assert wait(store.confirmed_of(ANN)) == 5
    second.confirm(7)
    wait(store.revoke_session(second.id, 0.0))
    assert wait(store.confirmed_of(ANN)) == 7


def test_all_sessions_together_have_a_limit(new_store: NewStore) -> None:
    store = new_store(sessions=2)
    wait(store.add_session(session(1, connected=True)))
    wait(store.add_session(session(2, BOB, connected=True)))
    with pytest.raises(SessionsFull):
        wait(store.add_session(session(3, TrueId("eve"))))
    assert isinstance(append(store, target=TrueId("eve")), UnknownTarget)
    wait(store.revoke_session(SessionId("s1"), 0.0))
    wait(store.add_session(session(3, TrueId("eve"))))
    assert store.session_count == 2


def test_a_player_at_the_limit_loses_the_session_longest_unseen(new_store: NewStore) -> None:
    store = new_store(sessions_per_player=3)
    for number, last_seen, connected in ((1, 1.0, True), (2, 3.0, False), (3, 2.0, False)):
        wait(store.add_session(session(number, last_seen=last_seen, connected=connected)))
    wait(store.add_session(session(4, last_seen=9.0)))
    assert ids(store) == ["s1", "s2", "s4"]
    # It was not revoked: its token opens a new one.
    assert not wait(store.is_revoked(SessionId("s3"), ANN, 1.0))


def connect(store: MemoryStore, subject: Session, number: int | None) -> None:
    """The session gets a connection or, with None, loses it."""
    subject.connection_id = None if number is None else ConnectionId(number)
    store.save_session(subject)


def test_beyond_all_sessions_the_one_longest_without_connection_goes(
    new_store: NewStore,
) -> None:
    store = new_store(sessions=3)
    first, second, third = [session(n, TrueId(f"p{n}")) for n in (1, 2, 3)]
    for each in (first, second, third):
        wait(store.add_session(each))
        connect(store, each, 7)
    for each in (third, first, second):
        connect(store, each, None)
    # It is here again, and leaves again later than the second.
    connect(store, third, 8)
    connect(store, third, None)
    connect(store, third, None)
    kept = [(first, second, third), (second, third), (third,), ()]
    for number, left in enumerate(kept):
        for each in (first, second, third):
            assert (wait(store.session(each.id)) is not None) == (each in left)
        newcomer = session(10 + number, TrueId(f"new{number}"))
        if left:
            wait(store.add_session(newcomer))
            connect(store, newcomer, 9)
    assert store.session_count == 3
    # It was not revoked, and a late word about it brings nothing back.
    assert not wait(store.is_revoked(first.id, first.true_id, 1.0))
    store.save_session(first)
    with pytest.raises(SessionsFull):
        wait(store.add_session(session(20, BOB)))
    assert store.session_count == 3


def test_the_limit_of_the_player_comes_first(new_store: NewStore) -> None:
    store = new_store(sessions=3, sessions_per_player=2)
    wait(store.add_session(session(1, BOB)))
    wait(store.add_session(session(2)))
    wait(store.add_session(session(3)))
    wait(store.add_session(session(4)))
    assert (ids(store), ids(store, BOB)) == (["s3", "s4"], ["s1"])


def test_a_session_in_use_makes_no_room(new_store: NewStore) -> None:
    store = new_store(sessions_per_player=1)
    wait(store.add_session(session(1, connected=True)))
    with pytest.raises(SessionsFull):
        wait(store.add_session(session(2)))
    assert ids(store) == ["s1"]


def test_sessions_expire_when_they_are_not_in_use(store: MemoryStore) -> None:
    wait(store.add_session(session(1)))
    wait(store.add_session(session(2, connected=True)))
    store.expire(1000.0)
    assert ids(store) == ["s1", "s2"]
    store.expire(1000.5)
    assert ids(store) == ["s2"]


def test_a_guest_without_sessions_is_forgotten_when_the_last_message_is_too_old(
    new_store: NewStore,
) -> None:
    store = new_store(mailbox=Retention(0, 0, 2000.0))
    wait(store.add_session(session(1)))
    append(store, b"1", now=500.0)
    store.expire(2500.0)
    assert ids(store) == []
    assert read(store) == [b"1"]
    store.expire(2500.5)
    assert isinstance(append(store), UnknownTarget)
    assert store.bytes == 0


def test_a_player_who_is_known_no_more_is_forgotten_like_a_guest(new_store: NewStore) -> None:
    store = new_store(mailbox=Retention(0, 0, 10.0))
    store.know([ANN])
    append(store, b"1", now=0.0)
    store.forget([ANN, BOB])
    store.expire(5.0)
    assert read(store) == [b"1"]
    store.expire(15.0)
    assert isinstance(append(store), UnknownTarget)


def test_a_player_known_for_good_keeps_messages_without_sessions(store: MemoryStore) -> None:
    wait(store.add_session(session(1)))
    append(store, b"1")
    store.know([ANN])
    store.expire(1000.5)
    append(store, b"2")
    assert read(store) == [b"1", b"2"]


# Revocations


def test_a_revoked_session_is_gone_and_remembered(store: MemoryStore) -> None:
    wait(store.add_session(session(1)))
    wait(store.add_session(session(2)))
    wait(store.revoke_session(SessionId("s1"), 10.0))
    assert wait(store.session(SessionId("s1"))) is None
    assert wait(store.is_revoked(SessionId("s1"), ANN, 5.0))
    assert not wait(store.is_revoked(SessionId("s2"), ANN, 5.0))
    assert ids(store) == ["s2"]


def test_an_unknown_session_can_be_revoked(store: MemoryStore) -> None:
    wait(store.revoke_session(SessionId("s9"), 10.0))
    wait(store.revoke_session(SessionId("s9"), 11.0))
    assert wait(store.is_revoked(SessionId("s9"), ANN, 5.0))


def test_a_revocation_is_remembered_until_no_token_is_left(store: MemoryStore) -> None:
    wait(store.revoke_session(SessionId("s1"), 10.0))
    store.expire(1010.9)
    assert wait(store.is_revoked(SessionId("s1"), ANN, 10.0))
    store.expire(1011.1)
    assert not wait(store.is_revoked(SessionId("s1"), ANN, 10.0))


def test_what_no_longer_fits_is_remembered_by_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_MAX_REVOCATIONS", 2)
    store = new_memory_store()
    for number in range(1, 5):
        wait(store.revoke_session(SessionId(f"s{number}"), number * 10.0))
    for number in range(1, 5):
        assert wait(store.is_revoked(SessionId(f"s{number}"), ANN, number * 10.0 - 1))
    # Any token this old may be one of those.
    assert wait(store.is_revoked(SessionId("other"), ANN, 20.0))
    assert not wait(store.is_revoked(SessionId("other"), ANN, 21.0))
    assert not wait(store.is_revoked(SessionId("other"), ANN, float("inf")))


def test_a_revoked_player_has_no_tokens_from_before(store: MemoryStore) -> None:
    wait(store.add_session(session(1)))
    wait(store.revoke_player(ANN, 10.0))
    for issued_at, revoked in ((9.0, True), (10.0, True), (11.0, False)):
        assert wait(store.is_revoked(SessionId("gone"), ANN, issued_at)) is revoked
        assert not wait(store.is_revoked(SessionId("gone"), BOB, issued_at))
    assert ids(store) == ["s1"]
    wait(store.revoke_player(ANN, 20.0))
    store.expire(1011.5)
    assert wait(store.is_revoked(SessionId("gone"), ANN, 15.0))
    store.expire(1021.5)
    assert not wait(store.is_revoked(SessionId("gone"), ANN, 15.0))


def test_players_that_no_longer_fit_are_remembered_by_their_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "_MAX_REVOCATIONS", 2)
    store = new_memory_store()
    for number in range(1, 4):
        wait(store.revoke_player(TrueId(f"p{number}"), number * 10.0))
    for number in range(1, 4):
        assert wait(store.is_revoked(SessionId("s"), TrueId(f"p{number}"), number * 10.0))
    assert wait(store.is_revoked(SessionId("s"), ANN, 10.0))
    assert not wait(store.is_revoked(SessionId("s"), ANN, 11.0))


# Sizes


class Sizes(RuleBasedStateMachine):
    """Whatever happens, the store's size is that of its messages, and within its limit."""

    players = st.sampled_from([ANN, BOB])
    total = 3000

    def __init__(self) -> None:
        super().__init__()
        self.store = new_memory_store(
            mailbox=Retention(5, 2000, 50.0), total_bytes=self.total, sessions=6
        )
        self.now = 0.0

    @rule(true_id=players, size=st.integers(0, 500), key=st.none() | st.sampled_from("abc"))
    def append(self, true_id: TrueId, size: int, key: str | None) -> None:
        before = self.store.bytes
        draft = Draft(true_id, ANN, b"x" * size, key=key)
        results: list[object] = []
        self.store.append(draft, self.now, results.append)
        if not (isinstance(results[0], Accepted) and results[0].message):
            # Old keys may go, and what has arrived.
            assert self.store.bytes <= before

    @rule(number=st.integers(0, 9), offset=st.integers(0, 20), connected=st.booleans())
    def confirm(self, number: int, offset: int, connected: bool) -> None:
        subject = wait(self.store.session(SessionId(f"s{number}")))
        if subject is not None:
            if subject.connection_id is not None:
                subject.last_seen = self.now
            subject.connection_id = ConnectionId(number) if connected else None
            subject.confirm(min(offset, self.store.head(subject.true_id)))
            self.store.save_session(subject)

    @rule(number=st.integers(0, 9))
    def log_in(self, number: int) -> None:
        true_id = (ANN, BOB)[number % 2]
        if wait(self.store.session(SessionId(f"s{number}"))) is None:
            with contextlib.suppress(SessionsFull):
                wait(self.store.add_session(session(number, true_id, last_seen=self.now)))

    @rule(number=st.integers(0, 9))
    def revoke(self, number: int) -> None:
        wait(self.store.revoke_session(SessionId(f"s{number}"), self.now))

    @rule(seconds=st.sampled_from([1.0, 30.0, 999.0]))
    def expire(self, seconds: float) -> None:
        self.now += seconds
        self.store.expire(self.now)

    @invariant()
    def sizes_agree(self) -> None:
        size = 0
        for true_id in (ANN, BOB):
            batches: list[Batch] = []
            self.store.read(true_id, 0, 1000, 0, batches.append)
            size += sum(message.size for message in batches[0].messages)
        keys = sum(len(player.sent) for player in self.store._players.values())
        assert self.store.bytes == size + keys * KEY_BYTES <= self.total

    @invariant()
    def the_idle_are_those_without_connection(self) -> None:
        idle = {key for key, each in self.store._sessions.items() if each.connection_id is None}
        assert idle == self.store._idle.keys()
        seen = [each.last_seen for each in self.store._idle.values()]
        assert seen == sorted(seen)


TestSizes = Sizes.TestCase
TestSizes.settings = settings(deadline=None, max_examples=30)
