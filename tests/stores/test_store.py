"""What every store promises: mailboxes, idempotency keys, sessions and revocations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.errors import GatewayError
from gateway.mailbox import OVERHEAD, Draft, Located, Position, Retention
from gateway.messages import ConnectionId, SessionId, TrueId
from gateway.session import Session
from gateway.store import (
    Accepted,
    Ban,
    KeysFull,
    KeyTaken,
    MailboxFull,
    SessionsFull,
    UnknownTarget,
)
from gateway.stores.memory_player import KEY_BYTES
from tests.stores.conftest import ANN, BOB, Driver, NewStore


def accepted(result: Accepted | GatewayError) -> Accepted:
    assert isinstance(result, Accepted)
    return result


def is_duplicate(result: Accepted | GatewayError) -> bool:
    return accepted(result).message is None


def position_of(result: Accepted | GatewayError) -> Position:
    position = Position.parse(accepted(result).message_id.decode())
    assert position is not None
    return position


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


# Mailboxes


def test_a_message_is_kept_for_a_known_player(store: Driver) -> None:
    store.know([ANN])
    result = accepted(store.append(b"[1]", now=5.0))
    assert result.message is not None
    assert (result.message.body, result.message.ts) == (b"[1]", 5.0)
    assert result.message_id == result.message.id
    assert position_of(result).epoch == store.epoch_of(ANN)
    assert store.batch().messages == (result.message,)


def test_a_check_comes_back_after_what_was_asked_before(store: Driver) -> None:
    store.know([ANN])
    answers: list[Accepted | GatewayError] = []

    async def check() -> None:
        for _ in range(100):
            draft = Draft(ANN, BOB, b"1", None)
            store.store.append(draft, 0.0, lambda _, result: answers.append(result))
        await store.store.check()

    store.run(check())
    assert len(answers) == 100
    assert all(isinstance(answer, Accepted) for answer in answers)


def test_a_player_with_a_session_is_known(store: Driver) -> None:
    store.add_session(session())
    assert isinstance(store.append(), Accepted)


def test_a_message_to_a_stranger_is_kept_nowhere(store: Driver) -> None:
    assert isinstance(store.append(), UnknownTarget)
    assert (store.head(ANN), store.first(ANN), store.read()) == (0, 1, [])


def test_every_player_has_a_mailbox_of_their_own(store: Driver) -> None:
    store.know([ANN, BOB])
    store.append(b"1", target=ANN)
    store.append(b"2", target=BOB)
    store.append(b"3", target=ANN)
    assert (store.read(ANN), store.read(BOB)) == ([b"1", b"3"], [b"2"])
    assert (store.head(ANN), store.head(BOB)) == (2, 1)


def test_messages_are_read_in_batches(store: Driver) -> None:
    store.know([ANN])
    for number in range(5):
        store.append(b"%d" % number)
    assert store.read(after=1, limit=2) == [b"1", b"2"]
    assert store.read(max_bytes=2 * (OVERHEAD + 1)) == [b"0", b"1"]
    assert store.read(max_bytes=1) == [b"0"]
    assert store.read(after=5) == []


def test_the_oldest_messages_make_room(new_store: NewStore) -> None:
    store = new_store(mailbox=Retention(3, 0, 0))
    store.know([ANN])
    for number in range(5):
        store.append(b"%d" % number)
    assert store.read() == [b"2", b"3", b"4"]
    assert (store.first(ANN), store.head(ANN)) == (3, 5)


def test_old_messages_go_with_time(new_store: NewStore) -> None:
    store = new_store(mailbox=Retention(0, 0, 10.0))
    store.know([ANN])
    store.append(b"1", now=0.0)
    store.append(b"2", now=5.0)
    store.expire(10.0)
    assert store.read() == [b"1", b"2"]
    store.expire(11.0)
    assert store.read() == [b"2"]
    store.expire(100.0)
    assert store.read() == []
    assert (store.first(ANN), store.head(ANN)) == (3, 2)


def test_positions_are_located(new_store: NewStore) -> None:
    store = new_store(mailbox=Retention(2, 0, 0))
    store.know([ANN])
    positions = [position_of(store.append()) for _ in range(4)]
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


def test_nonces_differ(store: Driver) -> None:
    store.know([ANN])
    positions = [position_of(store.append()) for _ in range(10)]
    assert len({position.nonce for position in positions}) == 10


def test_all_mailboxes_together_have_a_limit(new_store: NewStore) -> None:
    store = new_store(total_bytes=2 * (OVERHEAD + 10))
    store.know([ANN, BOB])
    assert isinstance(store.append(b"x" * 10, target=ANN), Accepted)
    assert isinstance(store.append(b"x" * 11, target=BOB), MailboxFull)
    assert isinstance(store.append(b"x" * 10, target=BOB), Accepted)
    assert isinstance(store.append(b"", target=BOB), MailboxFull)
    assert (store.head(ANN), store.head(BOB)) == (1, 1)
    assert store.bytes == 2 * (OVERHEAD + 10)


# Room for new messages: what has arrived everywhere goes first


def confirm(store: Driver, subject: Session, offset: int) -> None:
    subject.confirm(offset)
    store.save_session(subject)


def test_messages_that_all_sessions_have_make_room(new_store: NewStore) -> None:
    store = new_store(total_bytes=4 * OVERHEAD)
    store.know([BOB])
    first, second = session(1), session(2)
    for each in (first, second):
        store.add_session(each)
    positions = [position_of(store.append(b"")) for _ in range(4)]
    confirm(store, first, 4)
    assert isinstance(store.append(b"", target=BOB), MailboxFull)
    confirm(store, second, 2)
    assert isinstance(store.append(b"", target=BOB), Accepted)
    assert (store.first(ANN), store.bytes) == (3, 3 * OVERHEAD)
    assert [store.locate(ANN, each) for each in positions] == [
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
        store.add_session(each)
    store.append(b"")
    store.append(b"")
    confirm(store, first, 1)
    assert isinstance(store.append(b"", target=BOB), MailboxFull)
    store.revoke_session(second.id, 0.0)
    assert isinstance(store.append(b"", target=BOB), Accepted)
    # Without any session it is what the player has confirmed, by whichever.
    store.revoke_session(first.id, 0.0)
    assert (store.first(ANN), store.head(ANN)) == (2, 2)
    assert isinstance(store.append(b"", target=BOB), MailboxFull)


def test_no_more_goes_than_is_needed(new_store: NewStore) -> None:
    players = [TrueId(f"p{number}") for number in range(3)]
    store = new_store(total_bytes=3 * OVERHEAD)
    store.know([ANN])
    for number, true_id in enumerate(players):
        subject = session(number, true_id)
        store.add_session(subject)
        store.append(b"", target=true_id)
        confirm(store, subject, 1)
    for expected in ([2, 1, 1], [2, 2, 1], [2, 2, 2]):
        store.append(b"")
        assert [store.first(true_id) for true_id in players] == expected
    assert isinstance(store.append(b""), MailboxFull)


def test_what_the_mailbox_drops_for_a_message_is_room_for_it(new_store: NewStore) -> None:
    store = new_store(mailbox=Retention(2, 3 * OVERHEAD, 50.0), total_bytes=2 * OVERHEAD)
    store.know([ANN, BOB])
    store.append(b"")
    store.append(b"")
    store.append(b"")
    assert (store.first(ANN), store.head(ANN), store.bytes) == (2, 3, 2 * OVERHEAD)
    # Nothing is lost for a message that does not fit after all.
    assert isinstance(store.append(b"x"), MailboxFull)
    assert (store.first(ANN), store.bytes) == (2, 2 * OVERHEAD)
    # But what is too old is gone anyway.
    assert isinstance(store.append(b"x", now=51.0), Accepted)
    assert (store.first(ANN), store.bytes) == (4, OVERHEAD + 1)


# Idempotency keys


def test_the_same_key_is_accepted_once(store: Driver) -> None:
    store.know([ANN, BOB])
    first = accepted(store.append(b"1", key="k"))
    again = accepted(store.append(b"2", key="k", now=100.0))
    assert again == Accepted(first.message_id, None)
    assert store.read() == [b"1"]


def test_a_key_belongs_to_its_sender(store: Driver) -> None:
    store.know([ANN, BOB])
    store.append(b"1", sender=ANN, key="k")
    store.append(b"2", sender=BOB, key="k")
    store.append(b"3", sender=None, key="k")
    store.append(b"4", sender=None, key="k")
    assert store.read() == [b"1", b"2", b"3", b"4"]


def test_a_key_is_forgotten_after_its_window(store: Driver) -> None:
    store.know([ANN, BOB])
    store.append(b"1", key="k", now=0.0)
    store.append(b"2", key="k", now=100.5)
    store.append(b"3", key="k", now=150.0)
    assert store.read() == [b"1", b"2"]


def test_no_key_is_forgotten_inside_the_window_however_many_there_are(
    new_store: NewStore,
) -> None:
    store = new_store(dedupe_keys=2)
    store.know([ANN, BOB])
    store.append(b"1", key="a", now=0.0)
    store.append(b"2", key="b", now=30.0)
    refused = store.append(b"3", key="c", now=40.0)
    assert isinstance(refused, KeysFull)
    assert refused.retry_after == 60.0
    # Known keys are answered, messages without one and other senders' go on.
    assert is_duplicate(store.append(key="a", now=40.0))
    store.append(b"4", now=40.0)
    store.append(b"5", sender=ANN, key="c", now=40.0)
    store.append(b"6", key="c", now=100.5)
    assert store.read() == [b"1", b"2", b"4", b"5", b"6"]


def test_a_key_is_good_for_one_target(store: Driver) -> None:
    store.know([ANN, BOB])
    store.append(b"1", key="k")
    assert isinstance(store.append(b"2", target=BOB, key="k"), KeyTaken)
    assert store.read(BOB) == []
    assert is_duplicate(store.append(b"3", key="k"))
    assert not is_duplicate(store.append(b"4", target=BOB, key="k", now=100.5))


def test_keys_count_until_they_expire(store: Driver) -> None:
    store.know([ANN, BOB])
    store.append(b"", key="k")
    store.append(b"", key="k")
    assert store.bytes == OVERHEAD + KEY_BYTES
    store.expire(100.0)
    assert store.bytes == OVERHEAD + KEY_BYTES
    store.expire(100.5)
    assert store.bytes == OVERHEAD


def test_a_full_store_takes_no_keys(new_store: NewStore) -> None:
    store = new_store(total_bytes=OVERHEAD + KEY_BYTES - 1)
    store.know([ANN, BOB])
    assert isinstance(store.append(b"", key="k"), MailboxFull)
    assert isinstance(store.append(b""), Accepted)


def test_a_player_with_keys_is_not_forgotten(store: Driver) -> None:
    store.know([ANN])
    store.add_session(session(1, BOB))
    store.append(key="k", now=0.0)
    store.revoke_session(SessionId("s1"), 0.0)
    store.expire(50.0)
    store.add_session(session(2, BOB))
    assert is_duplicate(store.append(key="k", now=50.0))


def test_a_window_of_zero_remembers_no_keys(new_store: NewStore) -> None:
    store = new_store(dedupe_window=0.0)
    store.know([ANN, BOB])
    assert [is_duplicate(store.append(key="k")) for _ in range(2)] == [False, False]


def test_a_refused_message_leaves_its_key_free(new_store: NewStore) -> None:
    store = new_store(total_bytes=OVERHEAD + KEY_BYTES + 10)
    store.know([ANN, BOB])
    assert isinstance(store.append(b"x" * 11, key="k"), MailboxFull)
    assert not is_duplicate(store.append(b"x", key="k"))


def test_a_key_is_remembered_under_its_owner_whoever_sends(store: Driver) -> None:
    store.know([ANN])
    shop, quiz = TrueId("shop"), TrueId("quiz")
    first = accepted(store.append(sender=None, key="k", key_owner=shop))
    assert is_duplicate(store.append(sender=None, key="k", key_owner=shop))
    assert accepted(store.append(sender=BOB, key="k", key_owner=shop)).message_id == (
        first.message_id
    )
    assert not is_duplicate(store.append(sender=None, key="k", key_owner=quiz))
    assert len(store.read()) == 2


def test_a_key_is_remembered_of_a_sender_whom_nobody_knows(store: Driver) -> None:
    store.know([ANN])
    first = accepted(store.append(key="k"))
    assert store.append(key="k") == Accepted(first.message_id, None)
    assert store.look(BOB).known


def test_a_sender_is_not_known_by_a_refused_message(new_store: NewStore) -> None:
    store = new_store(total_bytes=OVERHEAD)
    store.know([ANN])
    assert isinstance(store.append(key="k"), MailboxFull)
    assert not store.look(BOB).known


def test_an_owner_of_keys_is_forgotten_with_them(new_store: NewStore) -> None:
    store = new_store(dedupe_window=10.0)
    store.know([ANN])
    shop = TrueId("shop")
    store.append(sender=None, key="k", key_owner=shop)
    assert store.look(shop).known
    store.expire(11.0)
    assert not store.look(shop).known
    assert not is_duplicate(store.append(sender=None, key="k", key_owner=shop, now=11.0))


def test_a_view_tells_whether_the_player_is_known(store: Driver) -> None:
    assert not store.look(ANN).known
    store.know([ANN])
    store.add_session(session(true_id=BOB))
    assert store.look(ANN).known
    assert store.look(BOB).known


def test_everyone_is_who_may_come_back(store: Driver) -> None:
    assert store.everyone() == []
    odd = TrueId("o\0dd")
    store.know([ANN, odd])
    store.add_session(session(true_id=BOB))
    store.set_ban(TrueId("banned"), Ban(None, ""))
    store.append(sender=None, key="k", key_owner=TrueId("shop"))
    assert store.everyone() == [(ANN, odd, BOB)]
    assert store.everyone(2) == [(ANN, odd), (BOB,)]


# Sessions


def test_a_session_keeps_its_attributes(store: Driver) -> None:
    kept = session()
    kept.attributes = '{"team":"red","motto":"\\u0000\u00e9"}'
    store.add_session(kept)
    (found,) = store.sessions_of(ANN)
    assert found.attributes == kept.attributes


def test_a_session_is_kept(store: Driver) -> None:
    assert store.session(SessionId("s1")) is None
    store.add_session(session())
    assert store.session(SessionId("s1")) == session()
    assert store.session(SessionId("s1"), BOB) is None
    assert store.session(SessionId("")) is None


def test_sessions_of_a_player_come_longest_unseen_first(store: Driver) -> None:
    for number, last_seen in ((1, 5.0), (2, 3.0), (3, 4.0)):
        store.add_session(session(number, last_seen=last_seen))
    store.add_session(session(4, BOB))
    assert store.ids() == ["s2", "s3", "s1"]
    assert store.ids(BOB) == ["s4"]
    assert store.ids(TrueId("nobody")) == []


def test_what_any_session_confirmed_is_kept_beyond_it(store: Driver) -> None:
    assert store.confirmed_of(ANN) == 0
    store.know([ANN])
    for _ in range(7):
        store.append()
    first, second = session(1), session(2)
    for each, offset in ((first, 5), (second, 3)):
        store.add_session(each)
        each.confirm(offset)
        store.save_session(each)
    assert store.confirmed_of(ANN) == 5
    confirm(store, second, 7)
    store.revoke_session(second.id, 0.0)
    assert store.confirmed_of(ANN) == 7


def test_all_sessions_together_have_a_limit(new_store: NewStore) -> None:
    store = new_store(sessions=2)
    store.add_session(session(1, connected=True))
    store.add_session(session(2, BOB, connected=True))
    with pytest.raises(SessionsFull):
        store.add_session(session(3, TrueId("eve")))
    assert isinstance(store.append(target=TrueId("eve")), UnknownTarget)
    store.revoke_session(SessionId("s1"), 0.0)
    store.add_session(session(3, TrueId("eve")))
    assert store.session_count == 2


def test_a_player_at_the_limit_loses_the_session_longest_unseen(new_store: NewStore) -> None:
    store = new_store(sessions_per_player=3)
    for number, last_seen, connected in ((1, 1.0, True), (2, 3.0, False), (3, 2.0, False)):
        store.add_session(session(number, last_seen=last_seen, connected=connected))
    store.add_session(session(4, last_seen=9.0))
    assert store.ids() == ["s1", "s2", "s4"]
    # It was not revoked: its token opens a new one.
    assert not store.is_revoked(SessionId("s3"), ANN, 1.0)


def connect(store: Driver, subject: Session, number: int | None) -> None:
    """The session gets a connection or, with None, loses it."""
    subject.connection_id = None if number is None else ConnectionId(number)
    store.save_session(subject)


def test_beyond_all_sessions_the_one_longest_without_connection_goes(
    new_store: NewStore,
) -> None:
    store = new_store(sessions=3)
    first, second, third = [session(n, TrueId(f"p{n}")) for n in (1, 2, 3)]
    for each in (first, second, third):
        store.add_session(each)
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
            assert (store.session(each.id, each.true_id) is not None) == (each in left)
        newcomer = session(10 + number, TrueId(f"new{number}"))
        if left:
            store.add_session(newcomer)
            connect(store, newcomer, 9)
    assert store.session_count == 3
    # It was not revoked, and a late word about it brings nothing back.
    assert not store.is_revoked(first.id, first.true_id, 1.0)
    store.save_session(first)
    with pytest.raises(SessionsFull):
        store.add_session(session(20, BOB))
    assert store.session_count == 3


def test_the_limit_of_the_player_comes_first(new_store: NewStore) -> None:
    store = new_store(sessions=3, sessions_per_player=2)
    store.add_session(session(1, BOB))
    store.add_session(session(2))
    store.add_session(session(3))
    store.add_session(session(4))
    assert (store.ids(), store.ids(BOB)) == (["s3", "s4"], ["s1"])


def test_a_session_in_use_makes_no_room(new_store: NewStore) -> None:
    store = new_store(sessions_per_player=1)
    store.add_session(session(1, connected=True))
    with pytest.raises(SessionsFull):
        store.add_session(session(2))
    assert store.ids() == ["s1"]


def test_sessions_expire_when_they_are_not_in_use(store: Driver) -> None:
    store.add_session(session(1))
    store.add_session(session(2, connected=True))
    store.expire(1000.0)
    assert store.ids() == ["s1", "s2"]
    store.expire(1000.5)
    assert store.ids() == ["s2"]


def test_a_guest_without_sessions_is_forgotten_when_the_last_message_is_too_old(
    new_store: NewStore,
) -> None:
    store = new_store(mailbox=Retention(0, 0, 2000.0))
    store.add_session(session(1))
    store.append(b"1", now=500.0)
    store.expire(2500.0)
    assert store.ids() == []
    assert store.read() == [b"1"]
    store.expire(2500.5)
    assert isinstance(store.append(), UnknownTarget)
    assert store.bytes == 0


def test_a_player_who_is_known_no_more_is_forgotten_like_a_guest(new_store: NewStore) -> None:
    store = new_store(mailbox=Retention(0, 0, 10.0))
    store.know([ANN])
    store.append(b"1", now=0.0)
    store.forget([ANN, BOB])
    store.expire(5.0)
    assert store.read() == [b"1"]
    store.expire(15.0)
    assert isinstance(store.append(), UnknownTarget)


def test_a_player_known_for_good_keeps_messages_without_sessions(store: Driver) -> None:
    store.add_session(session(1))
    store.append(b"1")
    store.know([ANN])
    store.expire(1000.5)
    store.append(b"2")
    assert store.read() == [b"1", b"2"]


# Revocations


def test_a_revoked_session_is_gone_and_remembered(store: Driver) -> None:
    store.add_session(session(1))
    store.add_session(session(2))
    store.revoke_session(SessionId("s1"), 10.0)
    assert store.session(SessionId("s1")) is None
    assert store.is_revoked(SessionId("s1"), ANN, 5.0)
    assert not store.is_revoked(SessionId("s2"), ANN, 5.0)
    assert store.ids() == ["s2"]


def test_an_unknown_session_can_be_revoked(store: Driver) -> None:
    store.revoke_session(SessionId("s9"), 10.0)
    store.revoke_session(SessionId("s9"), 11.0)
    assert store.is_revoked(SessionId("s9"), ANN, 5.0)


def test_a_revocation_is_remembered_until_no_token_is_left(store: Driver) -> None:
    store.revoke_session(SessionId("s1"), 10.0)
    store.expire(1010.9)
    assert store.is_revoked(SessionId("s1"), ANN, 10.0)
    store.expire(1011.1)
    assert not store.is_revoked(SessionId("s1"), ANN, 10.0)


def test_what_no_longer_fits_is_remembered_by_its_time(new_store: NewStore) -> None:
    store = new_store(revocations=2)
    hit: list[str] = []
    store.store._on_limit = hit.append
    for number in range(1, 5):
        store.revoke_session(SessionId(f"s{number}"), number * 10.0)
    for number in range(1, 5):
        assert store.is_revoked(SessionId(f"s{number}"), ANN, number * 10.0 - 1)
    # Any token this old may be one of those.
    assert store.is_revoked(SessionId("other"), ANN, 20.0)
    assert not store.is_revoked(SessionId("other"), ANN, 21.0)
    assert not store.is_revoked(SessionId("other"), ANN, float("inf"))
    assert hit == ["revocations"] * 2


def test_a_revoked_player_has_no_tokens_from_before(store: Driver) -> None:
    store.add_session(session(1))
    store.revoke_player(ANN, 10.0)
    for issued_at, revoked in ((9.0, True), (10.0, True), (11.0, False)):
        assert store.is_revoked(SessionId("gone"), ANN, issued_at) is revoked
        assert not store.is_revoked(SessionId("gone"), BOB, issued_at)
    assert store.ids() == ["s1"]
    store.revoke_player(ANN, 20.0)
    store.expire(1011.5)
    assert store.is_revoked(SessionId("gone"), ANN, 15.0)
    store.expire(1021.5)
    assert not store.is_revoked(SessionId("gone"), ANN, 15.0)


def test_players_that_no_longer_fit_are_remembered_by_their_time(new_store: NewStore) -> None:
    store = new_store(revocations=2)
    hit: list[str] = []
    store.store._on_limit = hit.append
    for number in range(1, 4):
        store.revoke_player(TrueId(f"p{number}"), number * 10.0)
    for number in range(1, 4):
        assert store.is_revoked(SessionId("s"), TrueId(f"p{number}"), number * 10.0)
    assert store.is_revoked(SessionId("s"), ANN, 10.0)
    assert not store.is_revoked(SessionId("s"), ANN, 11.0)
    assert hit == ["revocations"]


# Full mailboxes


def test_a_full_mailbox_refuses_until_its_player_has_confirmed(new_store: NewStore) -> None:
    store = new_store(mailbox=Retention(2, 0, 0), refuse_when_full=True)
    subject = session()
    store.add_session(subject)
    for _ in range(2):
        accepted(store.append())
    assert isinstance(store.append(), MailboxFull)
    confirm(store, subject, 1)
    accepted(store.append())
    assert isinstance(store.append(), MailboxFull)
    assert (store.first(ANN), store.head(ANN), store.dropped) == (2, 3, [])


def test_messages_that_go_unread_are_told(new_store: NewStore) -> None:
    store = new_store(mailbox=Retention(2, 0, 50.0))
    subject = session()
    store.add_session(subject)
    store.append(now=1.0)
    store.append(now=1.0)
    confirm(store, subject, 1)
    store.append(now=2.0)
    assert store.dropped == []
    store.append(now=3.0)
    assert store.dropped == [("trimmed", 1)]
    store.expire(100.0)
    assert store.dropped == [("trimmed", 1), ("expired", 2)]


def test_bodies_are_any_bytes(store: Driver) -> None:
    store.know([ANN])
    bodies = [b"", bytes(range(256)), b"\xff\0\xfe", b"", b"x" * 70_000]
    for body in bodies:
        accepted(store.append(body))
    assert store.read() == bodies


def test_ids_and_keys_are_any_text(store: Driver) -> None:
    odd = [TrueId(text) for text in ("a", "a\0", "a\0b", "a\x01", "a\x01A", "a\x01B", "é☃'\"\\")]
    store.know(odd)
    for target in odd:
        for key in odd:
            assert not is_duplicate(store.append(target=target, sender=target, key=key))
    for target in odd:
        assert store.head(target) == len(odd)
        for key in odd:
            assert is_duplicate(store.append(target=target, sender=target, key=key))


# Bans


def test_a_ban_holds_until_its_end(store: Driver) -> None:
    ban = Ban(10.0, "rude")
    store.set_ban(ANN, ban)
    assert (store.ban_of(ANN, 9.0), store.ban_of(ANN, 10.0), store.ban_of(BOB, 9.0)) == (
        ban,
        None,
        None,
    )
    accepted(store.append())
    store.set_ban(BOB, Ban(None, ""))
    store.expire(1e9)
    assert store.ban_of(BOB, 1e9) == Ban(None, "")
    store.set_ban(BOB, None)
    assert store.ban_of(BOB, 1e9) is None


# Taking sessions into use


def test_an_update_takes_a_session_into_use(new_store: NewStore) -> None:
    store = new_store(sessions_per_player=1)
    store.add_session(session(1))
    subject = store.session(SessionId("s1"))
    subject.connection_id = ConnectionId(7)
    assert store.update_session(subject)
    with pytest.raises(SessionsFull):
        store.add_session(session(2))
    store.expire(5000.0)
    store.save_session(subject)
    assert store.session(subject.id, subject.true_id) is subject
    connect(store, subject, None)
    store.add_session(session(2))
    assert store.ids() == ["s2"]


def test_an_update_of_a_lost_session_brings_nothing_back(new_store: NewStore) -> None:
    store = new_store(sessions_per_player=1)
    store.add_session(session(1))
    subject = store.session(SessionId("s1"))
    store.add_session(session(2))
    subject.connection_id = ConnectionId(7)
    assert not store.update_session(subject)
    assert (store.session(subject.id, subject.true_id), store.ids()) == (None, ["s2"])


def test_what_a_resumed_session_confirms_is_kept(store: Driver) -> None:
    store.add_session(session(1))
    for _ in range(3):
        accepted(store.append())
    (subject,) = store.sessions_of(ANN)
    # Admission gives a copy to be kept, and goes on with the session itself.
    assert store.update_session(replace(subject, generation=2, connection_id=ConnectionId(7)))
    subject.generation, subject.connection_id = 2, ConnectionId(7)
    store.save_session(subject)
    assert store.session(subject.id, subject.true_id) is subject
    subject.confirm(2)
    store.save_session(subject)
    assert store.session(subject.id, subject.true_id) is subject
    subject.connection_id, subject.last_seen = None, 10.0
    store.save_session(subject)
    assert store.look(ANN).confirmed == 2
    found = store.session(subject.id, subject.true_id)
    assert (found.confirmed, found.generation, found.last_seen) == (2, 2, 10.0)
    # Without a connection it grows old.
    store.expire(1e9)
    assert store.ids() == []


def test_a_session_that_did_not_connect_after_all_grows_old(store: Driver) -> None:
    store.add_session(session(1))
    (subject,) = store.sessions_of(ANN)
    assert store.update_session(replace(subject, connection_id=ConnectionId(7)))
    store.save_session(subject)
    store.expire(1e9)
    assert store.ids() == []
