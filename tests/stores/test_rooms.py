"""What every store promises of rooms: memberships, and messages to all members."""

from __future__ import annotations

import pytest

from gateway.errors import GatewayError
from gateway.mailbox import OVERHEAD, Hole, Located, Position, Retention, StoredMessage
from gateway.membership import RoomLimitReached, RoomLimits
from gateway.messages import SessionId, TrueId
from gateway.store import (
    KeysFull,
    KeyTaken,
    MailboxFull,
    Membership,
    NotMember,
    Published,
    UnknownTarget,
)
from gateway.stores.memory_player import KEY_BYTES
from tests.stores.conftest import ANN, BOB, Driver, NewStore
from tests.stores.test_store import accepted, confirm, session

EVE = TrueId("eve")
S1 = SessionId("s1")


def published(result: Published | GatewayError) -> Published:
    assert isinstance(result, Published)
    return result


def offsets(result: Published | GatewayError) -> dict[TrueId, int]:
    return {true_id: message.offset for true_id, message in copies_of(result).items()}


def copies_of(result: Published | GatewayError) -> dict[TrueId, StoredMessage]:
    """Return each member's copy."""
    copies = published(result).copies
    return {true_id: message for message, true_ids in copies for true_id in true_ids}


def position_in(message: StoredMessage) -> Position:
    position = Position.parse(message.id.decode())
    assert position is not None
    return position


# Memberships


def test_a_room_is_there_while_it_has_members(store: Driver) -> None:
    assert store.join(ANN) == Membership(True, 1, store.memberships.members_of("r")[ANN])
    assert (store.members(), len(store.memberships), store.memberships.count) == ([ANN], 1, 1)
    assert store.leave(ANN) == Membership(True, 0)
    assert (store.members(), len(store.memberships), store.memberships.count) == ([], 0, 0)


def test_joining_and_leaving_twice_changes_nothing(store: Driver) -> None:
    store.join(ANN)
    store.join(BOB)
    again = store.join(ANN)
    assert isinstance(again, Membership)
    assert (again.changed, again.members) == (False, 2)
    assert store.members() == [ANN, BOB]
    store.leave(ANN)
    assert store.leave(ANN) == Membership(False, 1)


def test_rooms_and_players_have_limits(new_store: NewStore) -> None:
    store = new_store(rooms=RoomLimits(max_members=2, per_player=2, rooms=3))

    def limit(true_id: TrueId, room: str) -> str:
        result = store.join(true_id, room)
        assert isinstance(result, RoomLimitReached)
        return result.limit

    for room in ("a", "b"):
        store.join(ANN, room)
    assert limit(ANN, "c") == "rooms.per_player"
    store.join(BOB, "a")
    assert limit(EVE, "a") == "rooms.max_members"
    store.join(EVE, "c")
    assert limit(EVE, "d") == "rooms.rooms"
    assert store.members("d") == []
    # Who is in already may say so again, and whoever leaves makes room.
    assert isinstance(store.join(ANN, "a"), Membership)
    store.leave(ANN, "a")
    assert isinstance(store.join(EVE, "a"), Membership)


def test_a_member_is_known_and_kept(store: Driver) -> None:
    assert isinstance(store.append(target=ANN), UnknownTarget)
    store.join(ANN)
    accepted(store.append(target=ANN))
    store.read(ANN)
    store.expire(10**9)
    accepted(store.append(target=ANN))
    assert store.head(ANN) == 2
    assert store.members() == [ANN]


def test_names_are_any_text(store: Driver) -> None:
    names = ["a", "A", "\0", "\1R", "\1", "'; --", "ü" * 128, '"]}', "☃ "]
    for name in names:
        store.join(ANN, name)
    assert list(store.memberships.rooms_of(ANN)) == names
    for name in names:
        assert len(offsets(store.publish(room=name, sender=ANN, key=name))) == 1
        assert published(store.publish(room=name, sender=ANN, key=name)).duplicate


# Messages


def test_every_member_gets_it_at_their_own_place(store: Driver) -> None:
    store.join(ANN)
    store.join(BOB)
    store.append(b"0", target=ANN)
    result = published(store.publish(b"1", now=5.0))
    assert offsets(result) == {ANN: 2, BOB: 1}
    copies = copies_of(result)
    assert result.message_id == copies[BOB].id
    assert store.batch(ANN).messages[1] == copies[ANN]
    assert store.batch(BOB).messages == (copies[BOB],)
    assert (copies[ANN].body, copies[ANN].ts, copies[ANN].skip) == (b"1", 5.0, None)
    assert (store.read(ANN), store.read(BOB)) == ([b"0", b"1"], [b"1"])
    assert store.bytes == 3 * (OVERHEAD + 1)


def test_all_members_have_all_messages_in_one_order(store: Driver) -> None:
    players = [TrueId(f"p{number}") for number in range(7)]
    for true_id in players:
        store.join(true_id)
    for number in range(20):
        store.publish(b"%d" % number, sender=players[number % 7])
    for true_id in players:
        assert store.read(true_id) == [b"%d" % number for number in range(20)]


def test_only_members_may_publish_but_the_game_may_always(store: Driver) -> None:
    store.join(ANN)
    assert isinstance(store.publish(sender=BOB, key="a"), NotMember)
    assert store.read(ANN) == []
    result = published(store.publish(sender=None))
    assert (result.message_id, offsets(result)) == (None, {ANN: 1})
    assert offsets(store.publish(room="empty", sender=None)) == {}
    store.leave(ANN)
    assert isinstance(store.publish(sender=ANN), NotMember)


def test_who_has_left_gets_nothing_more(store: Driver) -> None:
    store.join(ANN)
    store.join(BOB)
    store.publish(b"1")
    store.leave(ANN)
    store.publish(b"2")
    store.join(ANN)
    store.publish(b"3")
    assert (store.read(ANN), store.read(BOB)) == ([b"1", b"3"], [b"1", b"2", b"3"])


def test_the_same_key_is_accepted_once(store: Driver) -> None:
    store.join(ANN)
    store.join(BOB)
    first = published(store.publish(b"1", key="a"))
    again = published(store.publish(b"1", key="a"))
    assert (again.duplicate, again.message_id, list(again.copies)) == (True, first.message_id, [])
    assert (store.read(ANN), store.read(BOB)) == ([b"1"], [b"1"])
    # Another member's key is another one, and it is forgotten after its window.
    assert not published(store.publish(b"2", key="a", sender=ANN)).duplicate
    assert not published(store.publish(b"3", key="a", now=101.0)).duplicate
    assert store.read(ANN) == [b"1", b"2", b"3"]
    assert store.bytes == 6 * (OVERHEAD + 1) + 2 * KEY_BYTES


def test_a_key_is_good_for_one_room_or_player(store: Driver) -> None:
    for true_id in (ANN, BOB):
        for room in ("r", "s", "ann"):
            store.join(true_id, room)
    published(store.publish(key="a"))
    assert isinstance(store.publish(key="a", room="s"), KeyTaken)
    assert isinstance(store.append(key="a", target=ANN), KeyTaken)
    accepted(store.append(key="b", target=ANN))
    assert isinstance(store.publish(key="b", room="ann"), KeyTaken)
    published(store.publish(key="c", room="ann"))
    assert isinstance(store.append(key="c", target=ANN), KeyTaken)
    assert (store.head(ANN), store.head(BOB)) == (3, 2)


def test_a_sender_has_so_many_keys(new_store: NewStore) -> None:
    store = new_store(dedupe_keys=2)
    store.join(BOB)
    for key in "ab":
        published(store.publish(key=key))
    refused = store.publish(key="c", now=40.0)
    assert isinstance(refused, KeysFull)
    assert refused.retry_after == 60.0
    assert store.head(BOB) == 2


def test_a_session_may_be_passed_over(store: Driver) -> None:
    store.join(ANN)
    store.join(BOB)
    result = published(store.publish(b"1", skip=S1))
    store.publish(b"2")
    assert result.message_id is not None
    copies = {true_id: copy for copy, true_ids in result.copies for true_id in true_ids}
    assert {true_id: copy.skip for true_id, copy in copies.items()} == {ANN: None, BOB: S1}
    assert copies[BOB].id == result.message_id
    assert [message.skip for message in store.batch(BOB).messages] == [S1, None]
    assert [message.skip for message in store.batch(ANN).messages] == [None, None]
    assert store.look(BOB, None, S1).skipped == (1,)
    assert store.look(BOB, None, SessionId("s2")).skipped == ()
    assert store.look(ANN, None, S1).skipped == ()
    assert store.look(BOB).skipped == ()


def test_messages_to_rooms_and_players_stand_in_one_order(store: Driver) -> None:
    store.join(ANN)
    store.join(BOB)
    for number in range(12):
        if number % 4 == 0:
            store.append(b"%d" % number, target=ANN)
        else:
            store.publish(b"%d" % number)
    everything = [b"%d" % number for number in range(12)]
    assert store.read(ANN) == everything
    assert store.read(BOB) == [each for number, each in enumerate(everything) if number % 4]
    for after in range(12):
        for limit in (1, 2, 5):
            assert store.read(ANN, after, limit) == everything[after : after + limit]
        assert store.read(ANN, after, 9, 3 * (OVERHEAD + 2)) == everything[after : after + 3]
        assert store.read(ANN, after, 9, 1) == everything[after : after + 1]
    for message in store.batch(ANN).messages:
        assert store.locate(ANN, position_in(message)) is Located.HERE
    # The same place in another mailbox is another message.
    for message in store.batch(BOB).messages:
        assert store.locate(ANN, position_in(message)) is Located.FOREIGN


# Room for them


def test_both_kinds_of_messages_give_way_in_their_order(new_store: NewStore) -> None:
    store = new_store(mailbox=Retention(3, 0, 10.0))
    store.join(ANN)
    store.join(BOB)
    for number in range(7):
        store.publish(b"r%d" % number, now=float(number))
        store.append(b"d%d" % number, target=ANN, now=float(number))
    assert store.read(ANN) == [b"d5", b"r6", b"d6"]
    assert store.read(BOB) == [b"r4", b"r5", b"r6"]
    assert (store.first(ANN), store.head(ANN), store.message_count) == (12, 14, 6)
    assert store.bytes == 6 * (OVERHEAD + 2)
    store.append(b"d7", target=BOB, now=15.5)
    assert store.read(BOB) == [b"r6", b"d7"]
    store.expire(15.5)
    assert store.read(ANN) == [b"r6", b"d6"]
    store.expire(100.0)
    assert (store.read(ANN), store.read(BOB), store.bytes) == ([], [], 0)
    assert (store.first(ANN), store.first(BOB)) == (15, 9)


def test_each_mailbox_drops_its_own_oldest(new_store: NewStore) -> None:
    store = new_store(mailbox=Retention(2, 0, 0))
    store.join(ANN)
    store.join(BOB)
    for number in range(2):
        store.append(b"%d" % number, target=ANN)
    store.publish(b"2")
    assert (store.read(ANN), store.read(BOB)) == ([b"1", b"2"], [b"2"])
    assert store.dropped == [("trimmed", 1)]


def test_old_messages_go_with_the_next_one(new_store: NewStore) -> None:
    store = new_store(mailbox=Retention(0, 0, 10.0))
    for true_id in (ANN, BOB):
        store.join(true_id)
    store.publish(b"1", now=0.0)
    store.publish(b"2", now=11.0)
    assert (store.read(ANN), store.read(BOB)) == ([b"2"], [b"2"])
    assert sum(count for _, count in store.dropped) == 2


def test_a_full_store_takes_all_copies_or_none(new_store: NewStore) -> None:
    store = new_store(total_bytes=3 * OVERHEAD)
    store.join(ANN)
    store.join(BOB)
    published(store.publish(b""))
    refused = store.publish(b"")
    assert isinstance(refused, MailboxFull)
    assert refused.limit == "mailbox.total_bytes"
    assert (store.head(ANN), store.head(BOB), store.bytes) == (1, 1, 2 * OVERHEAD)


def test_what_has_arrived_everywhere_makes_room(new_store: NewStore) -> None:
    store = new_store(total_bytes=2 * OVERHEAD)
    subject = session(1, ANN)
    store.add_session(subject)
    store.join(ANN)
    store.join(BOB)
    published(store.publish(b""))
    confirm(store, subject, 1)
    assert isinstance(store.publish(b""), MailboxFull)
    other = session(2, BOB)
    store.add_session(other)
    confirm(store, other, 1)
    assert offsets(store.publish(b"")) == {ANN: 2, BOB: 2}
    assert (store.first(ANN), store.first(BOB), store.bytes) == (2, 2, 2 * OVERHEAD)


def test_what_the_mailboxes_drop_is_room(new_store: NewStore) -> None:
    store = new_store(mailbox=Retention(1, 0, 0), total_bytes=2 * OVERHEAD)
    store.join(ANN)
    store.join(BOB)
    for number in range(3):
        assert offsets(store.publish(b"")) == {ANN: number + 1, BOB: number + 1}
    assert store.bytes == 2 * OVERHEAD


@pytest.mark.parametrize(
    ("retention", "limit"),
    [
        (Retention(2, 0, 0), "mailbox.max_messages"),
        (Retention(0, 2 * OVERHEAD, 0), "mailbox.max_bytes"),
    ],
)
def test_a_full_mailbox_that_may_drop_nothing_has_a_hole(
    new_store: NewStore, retention: Retention, limit: str
) -> None:
    store = new_store(mailbox=retention, refuse_when_full=True)
    subject = session(1, ANN)
    store.add_session(subject)
    for true_id in (ANN, BOB):
        store.join(true_id)
    other = session(2, BOB)
    store.add_session(other)
    for _ in range(2):
        store.append(b"", target=ANN)
    for lost in (1, 2):
        result = published(store.publish(b"", key=str(lost)))
        assert (offsets(result), list(result.full), result.limit) == ({BOB: lost}, [ANN], limit)
        assert store.look(ANN).hole == Hole(2, lost)
        assert store.batch(ANN).hole == Hole(2, lost)
    assert store.dropped == [("refused", 1), ("refused", 1)]
    assert (store.look(BOB).hole, store.batch(BOB).hole) == (None, None)
    # It goes on behind the hole as soon as there is room, and the next hole is another one.
    confirm(store, subject, 2)
    assert offsets(store.publish(b"", sender=ANN))[ANN] == 3
    assert store.look(ANN).hole == Hole(2, 2)


def test_a_sender_without_a_copy_of_their_own_has_no_id(new_store: NewStore) -> None:
    store = new_store(mailbox=Retention(1, 0, 0), refuse_when_full=True)
    for true_id in (ANN, BOB):
        store.join(true_id)
    store.append(b"", target=BOB)
    for duplicate in (False, True):
        result = published(store.publish(b"", key="a"))
        assert (result.message_id, result.duplicate) == (None, duplicate)
    assert (store.head(ANN), store.head(BOB)) == (1, 1)


def test_a_hole_that_everybody_has_passed_is_forgotten(new_store: NewStore) -> None:
    store = new_store(mailbox=Retention(1, 0, 0), refuse_when_full=True)
    subject = session(1, ANN)
    store.add_session(subject)
    store.join(ANN)
    store.append(b"", target=ANN)
    store.publish(b"", sender=None)
    confirm(store, subject, 1)
    store.append(b"", target=ANN)
    # Not confirmed yet: both are told as one.
    store.publish(b"", sender=None)
    assert store.look(ANN).hole == Hole(1, 2)
    confirm(store, subject, 2)
    store.append(b"", target=ANN)
    store.publish(b"", sender=None)
    assert store.look(ANN).hole == Hole(3, 1)


def test_copies_at_one_place_are_one_object(store: Driver) -> None:
    for true_id in (ANN, BOB, EVE):
        store.join(true_id)
    store.append(target=EVE)
    copies = copies_of(store.publish(b"1", sender=None))
    assert copies[ANN] is copies[BOB]
    assert copies[EVE].offset == 2
