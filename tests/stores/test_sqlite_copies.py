"""The sqlite store's log: one row for a message to a room, or for many to one player each."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import StoreUnavailable
from gateway.mailbox import Draft, Hole, Located, Position, Retention, RoomDraft
from gateway.messages import SessionId, TrueId
from gateway.outbox import OutboxLimits
from gateway.store import Ban, MailboxFull, Published
from gateway.stores import sqlite_log, sqlite_players, sqlite_writer
from gateway.stores.sqlite_answered import Answered
from gateway.stores.sqlite_backup import make_backup, restore_backup
from gateway.stores.sqlite_turns import Turns
from gateway.stores.sqlite_writer import Job
from tests.stores.conftest import ANN, BOB, Driver, sqlite_store
from tests.stores.test_store import accepted, is_duplicate, position_of, session

EVE = TrueId("eve")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def members(count: int) -> list[TrueId]:
    return [TrueId(f"p{number}") for number in range(count)]


def published(result: Any) -> Published:
    assert isinstance(result, Published), result
    return result


def query(path: Path, statement: str) -> list[Any]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def rows(path: Path) -> tuple[int, int, int]:
    """Return how many messages have rows of their own, and the log's: of rooms, and bundles."""
    (found,) = query(
        path,
        "SELECT (SELECT count(*) FROM messages), count(*) FILTER (WHERE NOT bundle),"
        " count(*) FILTER (WHERE bundle)"
        " FROM (SELECT substr(members, 1, 1) = x'62' AS bundle FROM log)",
    )
    return found


def bodies(store: Driver, true_id: TrueId) -> list[bytes]:
    """Return what is in a mailbox, asked in several ways: the answers must be one."""
    everything = store.batch(true_id, limit=10_000)
    offsets = [message.offset for message in everything.messages]
    first = store.first(true_id)
    assert offsets == list(range(first, everything.head + 1))
    paged: list[Any] = []
    after = 0
    while page := store.batch(true_id, after, 3, 700).messages:
        paged += page
        after = page[-1].offset
    assert tuple(paged) == everything.messages
    for message in everything.messages:
        position = Position.parse(message.id.decode())
        assert position is not None
        assert store.locate(true_id, position) is Located.HERE
    return [message.body for message in everything.messages]


# The file


def test_a_message_to_a_room_is_one_row_until_its_last_copy_has_gone(path: Path) -> None:
    with sqlite_store(path, mailbox=Retention(2, 0, 0)) as store:
        for who in members(50):
            store.join(who)
        published(store.publish(b"1", sender=None))
        assert rows(path) == (0, 1, 0)
        published(store.publish(b"2", sender=None))
        for number in range(3):
            store.append(b"direct %d" % number, target=TrueId("p0"))
        assert rows(path) == (0, 2, 2)
        # One player still has the first one.
        for who in members(49)[1:]:
            store.append(b"a", target=who)
        assert rows(path)[1] == 2
        store.append(b"a", target=TrueId("p49"))
        assert rows(path)[1] == 1
        published(store.publish(b"3", sender=None))
        published(store.publish(b"4", sender=None))
        assert rows(path) == (0, 2, 0)
        assert bodies(store, TrueId("p7")) == [b"3", b"4"]
    assert query(path, "SELECT max(stale) FROM (SELECT head < 4 AS stale FROM players)") == [(1,)]
    with sqlite_store(path, mailbox=Retention(2, 0, 0)) as store:
        assert bodies(store, TrueId("p7")) == [b"3", b"4"]
        assert (store.bytes, store.message_count) == (50 * 2 * 161, 100)


def test_a_copy_that_does_not_stay_leaves_nothing_but_its_offset(path: Path) -> None:
    limits: dict[str, Any] = {"mailbox": Retention(0, 300, 0)}
    with sqlite_store(path, **limits) as store:
        store.join(ANN)
        store.join(BOB)
        published(store.publish(b"x" * 200, sender=None))
        assert store.bytes == store.message_count == 0
        assert rows(path) == (0, 0, 0)
    with sqlite_store(path, **limits) as store:
        assert (store.head(ANN), store.first(ANN)) == (1, 2)
        assert published(store.publish(b"y", sender=ANN)).copies[0][0].offset == 2
        assert bodies(store, BOB) == [b"y"]


def test_both_kinds_stand_in_one_order_and_survive_the_process(path: Path) -> None:
    limits: dict[str, Any] = {"mailbox": Retention(60, 0, 0)}
    expected: dict[TrueId, list[bytes]] = {who: [] for who in (ANN, BOB, EVE)}
    for run in range(4):
        with sqlite_store(path, **limits) as store:
            for who in expected:
                store.join(who)
            for number in range(30):
                body = b"%d-%d" % (run, number)
                if number % 3 == run % 3:
                    target = list(expected)[number % 2]
                    store.append(body, target=target)
                    expected[target].append(body)
                elif number % 7 == 0:
                    store.publish(body, sender=BOB, skip=SessionId("s1"))
                    for found in expected.values():
                        found.append(body)
                else:
                    store.publish(body, sender=None if number % 2 else ANN)
                    for found in expected.values():
                        found.append(body)
            for who, found in expected.items():
                assert bodies(store, who) == found[-60:]
            count, size = store.message_count, store.bytes
            skipped = store.look(BOB, None, SessionId("s1")).skipped
            assert skipped
        with sqlite_store(path, **limits) as store:
            assert (store.message_count, store.bytes) == (count, size)
            assert store.look(BOB, None, SessionId("s1")).skipped == skipped
            for who, found in expected.items():
                assert bodies(store, who) == found[-60:]
                assert store.head(who) == len(found)


def test_a_lost_write_is_not_in_the_answers_of_reads(path: Path) -> None:
    with sqlite_store(path) as store:
        store.join(ANN)
        store.join(BOB)
        published(store.publish(b"1", sender=None))
        ledger = store.store._writer._jobs.ledger

        def fail() -> None:
            ledger.players.flush()
            raise RuntimeError("as if")

        commit, ledger.players.commit = ledger.players.commit, fail
        assert isinstance(store.publish(b"2", sender=None), StoreUnavailable)
        assert ledger.players.commit is not commit
        assert bodies(store, ANN) == [b"1"]
        assert store.available
        published(store.publish(b"3", sender=None))
        assert bodies(store, BOB) == [b"1", b"3"]
        assert store.bytes == 4 * 161


# Room


def test_what_is_read_gives_way_to_messages_of_both_kinds(path: Path) -> None:
    with sqlite_store(path, total_bytes=1000) as store:
        for number, who in enumerate((ANN, BOB), 1):
            store.add_session(session(number, who))
            store.join(who)
        published(store.publish(b"1", sender=None))
        store.append(b"2", target=ANN)
        published(store.publish(b"3", sender=None))
        store.append(b"4", target=BOB)
        assert store.bytes == 6 * 161
        assert isinstance(store.publish(b"5", sender=None), MailboxFull)
        subject = store.session(SessionId("s1"))
        assert subject is not None
        subject.confirm(2)
        store.save_session(subject)
        published(store.publish(b"5", sender=None))
        assert bodies(store, ANN) == [b"3", b"5"]
        assert bodies(store, BOB) == [b"1", b"3", b"4", b"5"]
    with sqlite_store(path, total_bytes=1000) as store:
        assert store.bytes == 6 * 161
        assert bodies(store, ANN) == [b"3", b"5"]
        assert isinstance(store.publish(b"6", sender=None), MailboxFull)


def test_a_full_mailbox_that_refuses_drops_copies_that_were_read(path: Path) -> None:
    limits: dict[str, Any] = {"mailbox": Retention(2, 0, 0), "refuse_when_full": True}
    with sqlite_store(path, **limits) as store:
        store.add_session(session(1, ANN))
        store.join(ANN)
        store.join(BOB)
        published(store.publish(b"1", sender=None))
        store.append(b"2", target=ANN)
        assert published(store.publish(b"3", sender=None)).full == [ANN]
        subject = store.session(SessionId("s1"))
        assert subject is not None
        subject.confirm(1)
        store.save_session(subject)
        assert published(store.publish(b"4", sender=None)).full == [BOB]
        assert bodies(store, ANN) == [b"2", b"4"]
        assert store.batch(ANN).hole == Hole(2, 1)
    with sqlite_store(path, **limits) as store:
        assert bodies(store, ANN) == [b"2", b"4"]
        assert bodies(store, BOB) == [b"1", b"3"]
        assert store.batch(BOB).hole == Hole(2, 1)


def test_both_kinds_expire_and_tell_of_it(path: Path) -> None:
    limits: dict[str, Any] = {
        "mailbox": Retention(0, 0, 10.0),
        "outbox": OutboxLimits(enabled=True),
    }
    with sqlite_store(path, **limits) as store:
        for who in (ANN, BOB):
            store.join(who)
        for number in range(6):
            store.publish(b"%d" % number, sender=None, now=float(number))
            store.append(b"%d" % number, target=ANN, now=float(number))
        store.expire(12.5)
        assert bodies(store, ANN) == [b"3", b"3", b"4", b"4", b"5", b"5"]
        assert rows(path) == (0, 3, 3)
    with sqlite_store(path, **limits) as store:
        assert bodies(store, BOB) == [b"3", b"4", b"5"]
        store.expire(100.0)
        assert (store.bytes, store.message_count) == (0, 0)
        assert rows(path) == (0, 0, 0)
        assert (store.head(ANN), store.first(ANN)) == (12, 13)
        told = [each.event for each in store.webhooks(0, 100)]
        assert [each.type for each in told] == ["message.expired"] * len(told)
        lost = {ANN: 0, BOB: 0}
        for each in told:
            lost[each.true_id] += int(each.data.split(b":")[1].rstrip(b"}"))
        assert lost == {ANN: 12, BOB: 6}


def test_expiry_of_copies_goes_in_chunks(path: Path) -> None:
    with sqlite_store(path, mailbox=Retention(0, 0, 10.0)) as store:
        for who in members(600):
            store.join(who)
        for room in ("a", "b", "c"):
            for who in members(200):
                store.join(who, room)
        for number in range(4):
            for room in ("a", "r", "b", "c"):
                published(store.publish(b"%d" % number, room=room, sender=None))
        seen = []
        put = store.store._writer.put
        store.store._writer.put = lambda job: (seen.append(store.message_count), put(job))
        store.expire(100.0)
        # Some before others.
        assert len(set(seen)) > 2
        assert (store.bytes, store.message_count) == (0, 0)
        assert rows(path) == (0, 0, 0)


def test_a_player_whose_row_says_nothing_of_copies_is_kept(path: Path) -> None:
    with sqlite_store(path) as store:
        store.join(ANN)
        published(store.publish(b"1", sender=None))
        store.leave(ANN)
        store.expire(10.0)
        assert store.look(ANN).known
        assert bodies(store, ANN) == [b"1"]


# Bounds


@pytest.mark.parametrize("limit", ["players", "copies"])
def test_copies_of_too_many_players_get_rows_of_their_own(
    path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    if limit == "players":
        monkeypatch.setattr(sqlite_players, "_MAX_LOGGED", 5)
    else:
        monkeypatch.setattr(sqlite_players, "_MAX_REFERENCES", 25)
    monkeypatch.setattr(sqlite_players, "_MAX_CACHED", 3)
    mailbox = Retention(6, 0, 1000.0)
    expected: dict[TrueId, list[bytes]] = {who: [] for who in members(12)}
    numbers = itertools.count()
    for _ in range(3):
        with sqlite_store(path, mailbox=mailbox) as store:
            for who in expected:
                store.join(who)
            for number in range(9):
                body = b"%d" % next(numbers)
                published(store.publish(body, sender=None))
                for found in expected.values():
                    found.append(body)
                if number % 2:
                    target = TrueId(f"p{number}")
                    body = b"%d" % next(numbers)
                    store.append(body, target=target)
                    expected[target].append(body)
            players = store.store._writer._jobs.ledger.players
            assert len(players._logged) <= 12
            if limit == "players":
                assert len(players._logged) <= 5
            assert players.mailboxes.copies + players.mailboxes.bundled <= 30
            assert len(players._others) <= 3
            assert len(players._by_id) == len(players._by_true_id) <= 15
            assert rows(path)[0] > 10
            for who, found in expected.items():
                assert bodies(store, who) == found[-6:]
            size = store.bytes
        with sqlite_store(path, mailbox=mailbox) as store:
            for who, found in expected.items():
                assert bodies(store, who) == found[-6:]
                assert store.head(who) == len(found)
            assert (store.bytes, store.message_count) == (size, 72)
    with sqlite_store(path, mailbox=mailbox) as store:
        store.expire(2000.0)
        assert (store.bytes, store.message_count) == (0, 0)
        assert rows(path) == (0, 0, 0)


def test_who_got_no_copy_for_longest_is_folded_first(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_players, "_MAX_LOGGED", 4)
    with sqlite_store(path) as store:
        for number, who in enumerate(members(6)):
            store.join(who, f"r{number}")
        for number in (0, 1, 2, 3, 4, 1, 5):
            published(store.publish(b"%d" % number, room=f"r{number}", sender=None))
        players = store.store._writer._jobs.ledger.players
        there = [player.true_id for player in players._logged.values()]
        assert sorted(there) == ["p1", "p3", "p4", "p5"]
        assert [bodies(store, who) for who in members(3)] == [[b"0"], [b"1", b"1"], [b"2"]]


def test_copies_with_rows_of_their_own_expire_in_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite_store(path, mailbox=Retention(0, 0, 10.0)) as store:
        store.know([BOB])
        for who in (ANN, EVE):
            store.join(who)
        published(store.publish(b"1", sender=None, now=1.0))
        store.append(b"2", target=BOB, now=8.0)
        published(store.publish(b"3", sender=None, now=9.0))
        monkeypatch.setattr(sqlite_players, "_MAX_LOGGED", 0)
        hit: list[str] = []
        store.store._on_limit = hit.append
        store.check()
        assert hit == ["store.copies"]
        # The younger message to Bob has the older row.
        assert rows(path) == (5, 0, 0)
        store.expire(12.0)
        assert (bodies(store, ANN), bodies(store, EVE)) == ([b"3"], [b"3"])
        assert bodies(store, BOB) == [b"2"]
        store.expire(20.0)
        assert (store.bytes, rows(path)) == (0, (0, 0, 0))


def test_long_lists_of_few_copies_are_written_shorter(path: Path) -> None:
    limits: dict[str, Any] = {"mailbox": Retention(2, 0, 0)}
    with sqlite_store(path, **limits) as store:
        for who in members(200):
            store.join(who)
        published(store.publish(b"1", sender=None))
        lists = "SELECT length(members) FROM log WHERE substr(members, 1, 1) = x'49'"
        (before,) = query(path, lists)[0]
        for who in members(200)[:160]:
            store.append(b"a", target=who)
            store.append(b"b", target=who)
        store.expire(1.0)
        (after,) = query(path, lists)[0]
        assert after < before // 4
        assert bodies(store, TrueId("p199")) == [b"1"]
    with sqlite_store(path, **limits) as store:
        assert bodies(store, TrueId("p0")) == [b"a", b"b"]
        assert bodies(store, TrueId("p199")) == [b"1"]
        assert store.message_count == 40 + 320
        for who in members(200)[160:]:
            store.append(b"a", target=who)
            store.append(b"b", target=who)
        assert rows(path) == (0, 0, 400)


def test_lists_of_members_hold_any_numbers() -> None:
    for numbers in ([1, 2, 3, 4], [1, 2, 3, 4, 5, 2**32, 7, 8]):
        members = sqlite_log.pack(numbers)
        assert not sqlite_log.is_bundle(members)
        count = len(numbers) // 4
        assert sqlite_log.states_of(members) == [
            tuple(numbers[place::count]) for place in range(count)
        ]


# Bundles


def send(store: Driver, *messages: tuple[TrueId, bytes]) -> None:
    """Send messages in one transaction, if they are not too many."""

    async def ask() -> list[Any]:
        answers = []
        for who, body in messages:
            answer = asyncio.get_running_loop().create_future()
            answers.append(answer)
            store.store.append(
                Draft(who, None, body), 0.0, lambda _, result, to=answer: to.set_result(result)
            )
        return await asyncio.gather(*answers)

    for each in store.run(ask()):
        accepted(each)


def test_messages_at_once_are_bundled_by_number_and_size(path: Path) -> None:
    small = [(TrueId(f"p{number % 7}"), b"%d" % number) for number in range(50)]
    large = [(ANN, b"%d" % number + b"x" * 1400) for number in range(5)]
    huge = [(ANN, b"y" * 5000), (BOB, b""), (ANN, b"z" * 5000), (ANN, b"")]
    expected: dict[TrueId, list[bytes]] = {}
    with sqlite_store(path) as store:
        store.know([*members(7), ANN, BOB])
        for sent, bundles in ((small, 4), (large, 3), (huge, 4)):
            before = rows(path)[2]
            send(store, *sent)
            # The first may have had a transaction of its own.
            assert bundles <= rows(path)[2] - before <= bundles + 1
            for who, body in sent:
                expected.setdefault(who, []).append(body)
        for _ in range(2):
            for who, found in expected.items():
                assert bodies(store, who) == found
        size, count = store.bytes, store.message_count
    with sqlite_store(path) as store:
        assert (store.bytes, store.message_count) == (size, count)
        for who, found in expected.items():
            assert bodies(store, who) == found
            assert store.head(who) == len(found)


def test_a_bundle_goes_with_the_last_of_its_messages(path: Path) -> None:
    limits: dict[str, Any] = {"mailbox": Retention(3, 0, 0)}
    with sqlite_store(path, **limits) as store:
        store.know([ANN, BOB])
        # Some are trimmed before their bundle is written.
        send(store, *((ANN, b"%d" % number) for number in range(40)))
        assert bodies(store, ANN) == [b"37", b"38", b"39"]
        assert rows(path)[2] <= 2
        send(store, (BOB, b"b"))
        send(store, *((ANN, b"%d" % number) for number in range(3)))
        assert bodies(store, ANN) == [b"0", b"1", b"2"]
        assert 2 <= rows(path)[2] <= 3
    with sqlite_store(path, **limits) as store:
        assert bodies(store, BOB) == [b"b"]
        assert (store.head(ANN), store.first(ANN)) == (43, 41)
        assert store.message_count == 4


def test_what_is_left_of_a_bundle_gets_rows_of_its_own(path: Path) -> None:
    limits: dict[str, Any] = {"mailbox": Retention(2, 0, 100.0)}
    with sqlite_store(path, **limits) as store:
        store.know([ANN, BOB, EVE])
        for number in range(4):
            send(
                store,
                (BOB, b"b%d" % number),
                (ANN, b"a"),
                (ANN, b"a"),
                *[(ANN, b"%d" % number)] * 9,
            )
        send(store, (EVE, b"e"), *[(ANN, b"last")] * 9)
        send(store, (ANN, b"very"), (ANN, b"last"))
        store.expire(1.0)
        assert rows(path)[0] == 3
        expected = {BOB: [b"b2", b"b3"], EVE: [b"e"], ANN: [b"very", b"last"]}
        for who, found in expected.items():
            assert bodies(store, who) == found
    with sqlite_store(path, **limits) as store:
        for who, found in expected.items():
            assert bodies(store, who) == found
        assert (store.head(EVE), store.message_count) == (1, 5)
        send(store, (BOB, b"b4"), (EVE, b"f"), (EVE, b"g"))
        assert bodies(store, BOB) == [b"b3", b"b4"]
        assert bodies(store, EVE) == [b"f", b"g"]
        assert rows(path)[0] == 1
        store.expire(200.0)
        assert (store.bytes, store.message_count, rows(path)) == (0, 0, (0, 0, 0))


def test_who_writes_most_has_room_in_a_crowded_log(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_players, "_MAX_REFERENCES", 4000)
    monkeypatch.setattr(sqlite_players, "_LEAST_EVICTED", 16)
    limits: dict[str, Any] = {"mailbox": Retention(90, 0, 0)}
    expected: dict[TrueId, list[bytes]] = {who: [] for who in (ANN, BOB, EVE)}
    for run in range(2):
        hit: list[str] = []
        with sqlite_store(path, **limits) as store:
            store.store._on_limit = hit.append
            for who in expected:
                store.join(who)
            for number in range(20):
                if number % 5 == 0:
                    published(store.publish(b"r%d" % number, sender=None))
                    for found in expected.values():
                        found.append(b"r%d" % number)
                sent = [(ANN, b"a%d" % number)] * 10 + [(BOB, b"b%d-%d" % (run, number))] * 3
                send(store, *sent)
                for who, body in sent:
                    expected[who].append(body)
            for who, found in expected.items():
                assert bodies(store, who) == found[-90:]
            mailboxes = store.store._writer._jobs.ledger.players.mailboxes
            assert mailboxes.references <= 4000
            assert mailboxes.bundled > 30
            own = rows(path)[0]
            assert own == sum(len(found[-90:]) for found in expected.values()) - (
                mailboxes.copies + mailboxes.bundled
            )
            assert own > 0
            assert set(hit) == {"store.copies"}
            size = store.bytes
            # What nobody writes to any more goes, and all is well with the others again.
            hit.clear()
            for number in range(200):
                send(store, *[(EVE, b"e%d" % number)] * 10)
                expected[EVE] += [b"e%d" % number] * 10
            assert bodies(store, EVE) == expected[EVE][-90:]
            assert hit
            assert not mailboxes.crowded
            assert bodies(store, ANN) == expected[ANN][-90:]
            size = store.bytes
        with sqlite_store(path, **limits) as store:
            assert store.bytes == size
            for who, found in expected.items():
                assert bodies(store, who) == found[-90:]


def test_what_a_bundle_says_last_of_a_mailbox_counts(path: Path) -> None:
    limits: dict[str, Any] = {"mailbox": Retention(0, 500, 0)}
    with sqlite_store(path, **limits) as store:
        store.know([ANN, BOB])
        send(store, *((ANN if number % 3 else BOB, b"%d" % number) for number in range(14)))
        found = [bodies(store, ANN), bodies(store, BOB), store.bytes]
        assert found[0] == [b"10", b"11", b"13"]
        assert query(path, "SELECT max(head) FROM players") == [(0,)]
    with sqlite_store(path, **limits) as store:
        assert [bodies(store, ANN), bodies(store, BOB), store.bytes] == found
        assert (store.head(ANN), store.head(BOB)) == (9, 5)


def test_messages_join_those_with_rows_of_their_own(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trimming has to read the file while a bundle is being made."""
    limits: dict[str, Any] = {"mailbox": Retention(600, 0, 0)}
    expected: dict[TrueId, list[bytes]] = {ANN: [], BOB: []}
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_players, "_MAX_LOGGED", 0)
        with sqlite_store(path, **limits) as store:
            store.know([ANN, BOB])
            for number in range(600):
                for found in expected.values():
                    found.append(b"%d" % number)
                send(store, (ANN, b"%d" % number), (BOB, b"%d" % number))
            assert rows(path) == (1200, 0, 0)
    with sqlite_store(path, **limits) as store:
        for number in range(40):
            sent = [
                (who, b"%d-%d" % (number, place)) for place in range(20) for who in (ANN, BOB, ANN)
            ]
            send(store, *sent)
            for who, body in sent:
                expected[who].append(body)
        for who, found in expected.items():
            assert bodies(store, who) == found[-600:]
    with sqlite_store(path, **limits) as store:
        for who, found in expected.items():
            assert bodies(store, who) == found[-600:]
            assert store.head(who) == len(found)


# Other files


def write_old_file(path: Path, number: int) -> None:
    connection = sqlite3.connect(path)
    script = Path(__file__).parent / "data" / f"format-{number}.sql"
    connection.executescript(script.read_text(encoding="utf-8"))
    connection.close()


def test_a_file_of_format_4_opens_as_it_was(path: Path) -> None:
    write_old_file(path, 4)
    limits: dict[str, Any] = {
        "mailbox": Retention(4, 0, 0),
        "refuse_when_full": True,
        "outbox": OutboxLimits(enabled=True),
    }
    eve = TrueId("eve\0\1")
    for _ in range(2):
        with sqlite_store(path, **limits) as store:
            assert query(path, "PRAGMA user_version") == [(6,)]
            assert (store.epoch, store.bytes) == ("56719b5e", 2380)
            assert (store.message_count, store.session_count) == (12, 2)
            assert bodies(store, ANN) == [b'"direct 1"', b'"room 1"', b"", b'"room 3"']
            assert bodies(store, BOB) == [b'"room 1"', b"", b'"room 3"', b'"room 4"']
            assert bodies(store, eve) == [b'"room 1"', b'"direct 2"', b"", b'"room 3"']
            assert store.batch(ANN).hole == store.batch(eve).hole == Hole(4, 1)
            assert store.look(BOB, None, SessionId("s2")).skipped == (1,)
            assert store.batch(BOB).messages[3].id == b"56719b5e.4.8"
            assert store.members() == [ANN, BOB, eve]
            assert store.memberships.rooms_of(eve) == ("r", "other\0")
            assert is_duplicate(store.append(key="k1", now=7.0))
            assert published(store.publish(key="k2", now=7.0)).message_id == b"56719b5e.1.4"
            assert store.is_revoked(SessionId("s9"), ANN, 8.0)
            assert store.ban_of(TrueId("mallory"), 8.0) == Ban(None, "rude")
            assert store.queued_webhooks == 2
    limits = {"mailbox": Retention(5, 0, 0)}
    for run in range(2):
        with sqlite_store(path, **limits) as store:
            if run == 0:
                result = published(store.publish(b"new 1", sender=ANN, now=8.0))
                assert [(copy.offset, who) for copy, who in result.copies] == [
                    (5, [ANN]),
                    (5, [BOB, eve]),
                ]
                accepted(store.append(b"new 2", target=ANN, now=9.0))
                published(store.publish(b"new 3", sender=None, now=10.0))
            assert bodies(store, ANN) == [b"", b'"room 3"', b"new 1", b"new 2", b"new 3"]
            assert bodies(store, BOB) == [b"", b'"room 3"', b'"room 4"', b"new 1", b"new 3"]
            assert rows(path) == (2 + 3 + 3, 2, 1)


def test_a_file_of_format_5_opens_as_it_was(path: Path) -> None:
    write_old_file(path, 5)
    limits: dict[str, Any] = {"mailbox": Retention(4, 0, 0)}
    eve = TrueId("eve\0\1")
    expected = {
        ANN: [b'"room 2"', b'"skipped"', b'"direct 2"', b'"direct 3"'],
        BOB: [b'"room 1"', b'"room 2"', b'"skipped"', b""],
        eve: [b'"direct 1"', b'"room 2"', b'"skipped"', b""],
    }
    with sqlite_store(path, **limits) as store:
        assert query(path, "PRAGMA user_version") == [(6,)]
        assert (store.epoch, store.bytes, store.message_count) == ("2d185d5a", 2265, 12)
        assert rows(path) == (9, 3, 0)
        for who, found in expected.items():
            assert bodies(store, who) == found
        assert [each.id for each in store.batch(ANN).messages] == [
            b"2d185d5a.2.6",
            b"2d185d5a.3.7",
            b"2d185d5a.4.9",
            b"2d185d5a.5.a",
        ]
        assert store.look(BOB, None, SessionId("s2")).skipped == (3,)
        accepted(store.append(b"new 1", target=ANN, now=8.0))
        published(store.publish(b"new 2", sender=None, now=9.0))
    expected[ANN].append(b"new 1")
    for who in (BOB, eve):
        expected[who].append(b"new 2")
    with sqlite_store(path, **limits) as store:
        for who, found in expected.items():
            assert bodies(store, who) == found[-4:]
        assert store.message_count == 12


def test_a_backup_has_the_copies(path: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    with sqlite_store(path) as store:
        for who in (ANN, BOB):
            store.join(who)
        published(store.publish(b"1", sender=None))
        store.append(b"2", target=BOB)
        published(store.publish(b"3", sender=None))
        position = position_of(store.append(b"4", target=ANN))
        make_backup(path, {}, backup)
        published(store.publish(b"5", sender=None))
        epoch = store.epoch
    restore_backup(backup, path, {})
    with sqlite_store(path) as store:
        assert store.epoch != epoch
        assert store.locate(ANN, position) is Located.FOREIGN
        assert bodies(store, ANN) == [b"1", b"3", b"4"]
        assert bodies(store, BOB) == [b"1", b"2", b"3"]
        assert published(store.publish(b"6", sender=None)).copies[0][0].offset == 4


# Killed

PUBLISHER = """
import asyncio, random, sys
from dataclasses import replace
from itertools import count
from pathlib import Path
from gateway.mailbox import Draft, Retention, RoomDraft
from gateway.messages import SessionId, TrueId
from gateway.store import Accepted, Membership, Published
from gateway.stores import nonces, sqlite_players
from gateway.stores.sqlite import SqliteStore
from tests.stores.conftest import LIMITS

path, run, folding = sys.argv[1:]
if folding == "folding":
    sqlite_players._MAX_LOGGED = 7
    sqlite_players._MAX_CACHED = 4

async def main():
    limits = replace(LIMITS, mailbox=Retention(40, 0, 0))
    store = SqliteStore(Path(path), "FULL", limits, nonces(), lambda *_: None)
    await store.open()
    players = [TrueId(f"p{number}") for number in range(20)]
    pick = random.Random(int(run))
    def say(*words):
        sys.stdout.write(" ".join(words) + "\\n")
        sys.stdout.flush()
    under_way = 0
    def sent(draft, result):
        nonlocal under_way
        under_way -= 1
        assert isinstance(result, (Accepted, Published)), result
        if isinstance(result, Accepted):
            copies = [(draft.target_id, result.message.id)]
        else:
            copies = [(who, copy.id) for copy, players in result.copies for who in players]
        say(draft.body.decode(), *(f"{who}={id.decode()}" for who, id in copies))
    if run == "0":
        for who in players:
            store.join("all", who, lambda result: None)
    for number in count():
        body = f"{run}-{number}".encode()
        who = pick.choice(players)
        kind = pick.random()
        if kind < 0.4:
            store.append(Draft(who, None, b"d" + body), 1.0, sent)
        else:
            skip = SessionId("s1") if kind < 0.5 else None
            store.publish(RoomDraft("all", who, b"r" + body, None, skip), 1.0, sent)
        under_way += 1
        while under_way > 30:
            await asyncio.sleep(0.001)

asyncio.run(main())
"""


@pytest.mark.parametrize("folding", ["folding", "plain"])
def test_no_answered_copy_is_lost_when_the_process_is_killed(path: Path, folding: str) -> None:
    heads = dict.fromkeys(members(20), 0)
    for run in range(4):
        command = [sys.executable, "-c", PUBLISHER, str(path), str(run), folding]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(150 + 100 * run)]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.read().splitlines(keepends=True)
        answered: dict[TrueId, dict[str, str]] = {who: {} for who in heads}
        for body, *copies in (line.split() for line in lines if line.endswith("\n")):
            for who, message_id in (copy.split("=") for copy in copies):
                answered[TrueId(who)][message_id] = body
        with sqlite_store(path, mailbox=Retention(40, 0, 0)) as store:
            orders = []
            total = 0
            for who, found in answered.items():
                texts = [each.decode() for each in bodies(store, who)]
                batch = store.batch(who, limit=100)
                total += sum(message.size for message in batch.messages)
                offsets = [int(message_id.split(".")[1]) for message_id in found]
                assert offsets == list(range(heads[who] + 1, heads[who] + 1 + len(offsets)))
                assert batch.head >= heads[who] + len(offsets)
                heads[who] = batch.head
                assert len(texts) == min(40, batch.head)
                kept = {each.id.decode(): each.body.decode() for each in batch.messages}
                first = batch.messages[0].offset
                for message_id, body in found.items():
                    if int(message_id.split(".")[1]) >= first:
                        assert kept[message_id] == body
                orders.append([body for body in texts if body.startswith("r")])
            assert store.bytes == total
            for one, other in itertools.pairwise(orders):
                common = min(len(one), len(other))
                assert one[-common:] == other[-common:]
    assert all(head > 100 for head in heads.values())


# The disk


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_a_full_disk_keeps_what_was_answered_of_both_kinds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writer, "_RETRY", 0.05)
    monkeypatch.setattr(sqlite_writer, "_MAX_RETRY", 0.05)
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True)
    limits: dict[str, Any] = {"mailbox": Retention(50, 0, 0)}
    kept: list[bytes] = []
    try:
        with sqlite_store(disk / "store.db", **limits) as store:
            for who in members(20):
                store.join(who)
            for number in itertools.count():
                body = b"%d " % number + b"x" * 5000
                if number % 2:
                    result = store.append(body, target=TrueId("p1"))
                else:
                    result = store.publish(body, sender=None)
                if isinstance(result, StoreUnavailable):
                    break
                kept.append(body)
            assert len(kept) > 50
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            deadline = time.monotonic() + 20
            while not store.available:
                assert time.monotonic() < deadline
                store.run(asyncio.sleep(0.01))
            assert store.head(TrueId("p1")) == len(kept)
            assert bodies(store, TrueId("p1")) == kept[-50:]
            assert bodies(store, TrueId("p2")) == kept[::2][-50:]
            published(store.publish(b"y", sender=None))
        with sqlite_store(disk / "store.db", **limits) as store:
            assert bodies(store, TrueId("p1")) == [*kept[-49:], b"y"]
            assert bodies(store, TrueId("p19")) == [*kept[::2], b"y"][-50:]
    finally:
        subprocess.run(["umount", str(disk)], check=False)


# The two threads


def test_reads_see_nothing_half_done(path: Path) -> None:
    """Many reads while messages come and go: each answer is whole in itself."""
    mailbox = Retention(8, 0, 0)
    with sqlite_store(path, mailbox=mailbox) as store:
        for who in (ANN, BOB):
            store.join(who)
        heads: list[int] = []

        async def ask() -> None:
            loop = store.loop
            for number in range(400):
                body = b"%d" % number
                if number % 3:
                    store.store.publish(RoomDraft("r", None, body), 0.0, lambda *_: None)
                else:
                    store.store.append(Draft(ANN, None, body), 0.0, lambda *_: None)
                answer = loop.create_future()
                store.store.read(ANN, 0, 100, 0, answer.set_result)
                batch = await answer
                offsets = [message.offset for message in batch.messages]
                assert len(offsets) == min(8, batch.head)
                assert offsets == list(range(batch.head - len(offsets) + 1, batch.head + 1))
                assert [int(message.body) + 1 for message in batch.messages] == offsets
                view = await store.store.view(ANN)
                assert view.first == max(1, view.head - 7)
                heads.append(batch.head)

        store.run(ask())
        assert heads == sorted(heads)
        # Reads need not wait for what is not answered yet.
        store.check()
        assert store.head(ANN) == 400


def test_a_turn_of_the_loop_has_one_message_to_many_members() -> None:
    called: list[int] = []

    def answer(number: int, copies: int) -> Any:
        return Job(lambda jobs: None, called.append, copies=copies), number

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        answered = Answered()
        sizes = (1, 300, 2, 3, 300, 300, 300, 1)
        answered.extend([answer(number, size) for number, size in enumerate(sizes)], loop)
        assert called == [0, 1]
        await asyncio.sleep(0)
        assert called == [0, 1, 2, 3, 4]
        answered.extend([answer(8, 1)], loop)
        await asyncio.sleep(0)
        assert called == [0, 1, 2, 3, 4, 5]
        answered.call_all()
        assert called == list(range(9))
        answered.extend([answer(9, 300)], loop)
        assert called == list(range(10))

    asyncio.run(ask())


def test_closing_calls_back_what_waits_for_its_turn(path: Path) -> None:
    results: list[Any] = []
    with sqlite_store(path) as store:
        for who in members(300):
            store.join(who)

        async def ask() -> None:
            for number in range(40):
                draft = RoomDraft("r", None, b"%d" % number)
                store.store.publish(draft, 0.0, lambda draft, result: add((draft.body, result)))
            await store.store.close()

        add = results.append
        store._closed = True
        store.run(ask())
        store.loop.run_until_complete(store.loop.shutdown_default_executor())
        store.loop.close()
    assert [body for body, _ in results] == [b"%d" % number for number in range(40)]
    assert all(isinstance(result, Published) for _, result in results)


def test_a_turn_goes_to_who_waits_for_it() -> None:
    turns = Turns()
    order: list[str] = []
    started = threading.Event()

    def other() -> None:
        started.set()
        with turns:
            order.append("other")

    thread = threading.Thread(target=other)
    with turns:
        thread.start()
        started.wait(15)
        deadline = time.monotonic() + 15
        while not turns._next.locked():
            assert time.monotonic() < deadline
            time.sleep(0.001)
    with turns:
        order.append("first again")
    thread.join(15)
    assert order == ["other", "first again"]
