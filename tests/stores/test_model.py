"""The other stores answer what the memory store answers, whatever happens to both."""

from __future__ import annotations

import contextlib
import tempfile
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from gateway.errors import GatewayError
from gateway.mailbox import Draft, Position, Retention
from gateway.membership import RoomLimits
from gateway.messages import ConnectionId, SessionId, TrueId
from gateway.outbox import OutboxLimits, Webhook
from gateway.store import Accepted, Ban, Membership, Published
from gateway.stores import sqlite_players
from tests.redis_servers import RedisServer
from tests.stores.conftest import Driver, memory_store, redis_store, sqlite_store
from tests.stores.test_store import session

PLAYERS = [TrueId("ann"), TrueId("bob"), TrueId("eve")]
ROOMS = ["red", "blue", "ann"]
players = st.sampled_from(PLAYERS)
rooms = st.sampled_from(ROOMS)
numbers = st.integers(0, 7)


def counted(dropped: list[tuple[str, int]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reason, number in dropped:
        counts[reason] = counts.get(reason, 0) + number
    return counts


def outcome(result: Accepted | GatewayError) -> Any:
    """Return what a sender was told, but for what differs from store to store."""
    if isinstance(result, Accepted):
        return int(result.message_id.split(b".")[1]), result.message is not None
    return type(result), getattr(result, "retry_after", 0), getattr(result, "limit", "")


def webhooks(driver: Driver) -> dict[TrueId, list[Webhook]]:
    """Return what waits for each player: among players the order does not matter."""
    found: dict[TrueId, list[Webhook]] = {}
    for webhook in driver.webhooks(0, 10_000):
        found.setdefault(webhook.event.true_id, []).append(webhook)
    return found


def _owner(number: int) -> TrueId:
    return PLAYERS[number % len(PLAYERS)]


class Stores(RuleBasedStateMachine):
    """Each rule is done to both; the other store is also closed and opened again."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.stores: list[Driver] = []
        self.limits: dict[str, Any] = {}
        self.dropped: list[tuple[str, int]] = []

    @initialize(
        mailbox=st.sampled_from(
            [Retention(5, 2000, 50.0), Retention(3, 0, 0), Retention(0, 700, 50.0)]
        ),
        refuse=st.booleans(),
        total=st.sampled_from([0, 2500]),
        keys=st.sampled_from([0, 2]),
        sessions=st.sampled_from([0, 4]),
        per_player=st.sampled_from([0, 2]),
        room_limits=st.sampled_from([RoomLimits(), RoomLimits(2, 2, 2)]),
        joined=st.lists(players, unique=True),
    )
    def begin(
        self,
        mailbox: Retention,
        refuse: bool,
        total: int,
        keys: int,
        sessions: int,
        per_player: int,
        room_limits: RoomLimits,
        joined: list[TrueId],
    ) -> None:
        self.limits = {
            "mailbox": mailbox,
            "refuse_when_full": refuse,
            "total_bytes": total,
            "dedupe_keys": keys,
            "sessions": sessions,
            "sessions_per_player": per_player,
            "rooms": room_limits,
            "outbox": OutboxLimits(enabled=True, max_dead=2),
        }
        self.stores = [memory_store(**self.limits), self.open()]
        for true_id in joined:
            self.join(true_id, ROOMS[0])

    def open(self) -> Driver:
        raise NotImplementedError

    def both(self, act: Any) -> Any:
        """Do it to both; the answers must be the same."""
        answers = []
        for driver in self.stores:
            try:
                answers.append(act(driver))
            except GatewayError as error:
                answers.append((type(error), str(error)))
        assert answers[0] == answers[1]
        return answers[0]

    @rule(
        receiver=players,
        sender=players,
        size=st.integers(0, 500),
        key=st.none() | st.sampled_from("abc"),
    )
    def append(self, receiver: TrueId, sender: TrueId, size: int, key: str | None) -> None:
        def act(driver: Driver) -> Any:
            return outcome(
                driver.append(b"x" * size, target=receiver, sender=sender, key=key, now=self.now)
            )

        self.both(act)

    @rule(
        messages=st.lists(
            st.tuples(
                players, players, st.integers(0, 500), st.none() | st.sampled_from("abcdefg")
            ),
            min_size=2,
            max_size=40,
        )
    )
    def append_at_once(self, messages: list[tuple[TrueId, TrueId, int, str | None]]) -> None:
        def act(driver: Driver) -> Any:
            drafts = [
                Draft(receiver, sender, b"x" * size, key)
                for receiver, sender, size, key in messages
            ]
            return [outcome(each) for each in driver.append_all(drafts, self.now)]

        self.both(act)

    @rule(
        sender=st.none() | players,
        size=st.integers(0, 500),
        key=st.none() | st.sampled_from("abc"),
        room=rooms,
        skip=st.none() | numbers,
    )
    def publish(
        self, sender: TrueId | None, size: int, key: str | None, room: str, skip: int | None
    ) -> None:
        session_id = SessionId(f"s{skip}") if skip is not None else None

        def act(driver: Driver) -> Any:
            result = driver.publish(
                b"x" * size, room=room, sender=sender, key=key, skip=session_id, now=self.now
            )
            if isinstance(result, Published):
                own = result.message_id
                return (
                    None if own is None else int(own.split(b".")[1]),
                    [
                        (copy.offset, copy.body, copy.skip, true_ids)
                        for copy, true_ids in result.copies
                    ],
                    list(result.full),
                    result.limit,
                    result.duplicate,
                )
            return type(result), getattr(result, "retry_after", 0), getattr(result, "limit", "")

        self.both(act)

    @rule(true_id=players, room=rooms)
    def join(self, true_id: TrueId, room: str) -> None:
        def act(driver: Driver) -> Any:
            result = driver.join(true_id, room)
            if isinstance(result, Membership):
                return result.changed, result.members
            # Redis notes who joins before it says whether they may: they go with the next sweep.
            driver.expire(self.now)
            return type(result), str(result)

        self.both(act)

    @rule(true_id=players, room=rooms)
    def leave(self, true_id: TrueId, room: str) -> None:
        self.both(lambda driver: driver.leave(true_id, room))

    @rule(number=numbers, connected=st.booleans())
    def log_in(self, number: int, connected: bool) -> None:
        def act(driver: Driver) -> Any:
            true_id = _owner(number)
            if driver.session(SessionId(f"s{number}"), true_id) is None:
                # Nobody connects who is banned: the redis store sees to that.
                in_use = connected and driver.ban_of(true_id, self.now) is None
                driver.add_session(session(number, true_id, last_seen=self.now, connected=in_use))

        self.both(act)

    @rule(number=numbers, offset=st.integers(0, 12), connected=st.booleans())
    def confirm(self, number: int, offset: int, connected: bool) -> None:
        def act(driver: Driver) -> Any:
            subject = driver.session(SessionId(f"s{number}"), _owner(number))
            if subject is not None:
                if subject.connection_id is not None or connected:
                    subject.last_seen = self.now
                subject.connection_id = ConnectionId(number) if connected else None
                subject.confirm(min(offset, driver.head(subject.true_id)))
                driver.save_session(subject)

        self.both(act)

    @rule(number=numbers)
    def revoke(self, number: int) -> None:
        self.both(
            lambda driver: driver.revoke_session(
                SessionId(f"s{number}"), self.now, true_id=_owner(number)
            )
        )

    @rule(true_id=players, known=st.booleans())
    def know(self, true_id: TrueId, known: bool) -> None:
        self.both(lambda driver: (driver.know if known else driver.forget)([true_id]))

    @rule(true_id=players, until=st.none() | st.floats(0, 2000), lift=st.booleans())
    def ban(self, true_id: TrueId, until: float | None, lift: bool) -> None:
        self.both(lambda driver: driver.set_ban(true_id, None if lift else Ban(until, "why")))

    @rule(seconds=st.sampled_from([1.0, 30.0, 101.0, 999.0]))
    def expire(self, seconds: float) -> None:
        self.now += seconds
        self.both(lambda driver: driver.expire(self.now))

    @rule(true_id=players, online=st.booleans())
    def report_presence(self, true_id: TrueId, online: bool) -> None:
        self.both(lambda driver: driver.report_presence({true_id: online}, self.now))

    @rule(true_id=players, refused=st.booleans())
    def send_webhook(self, true_id: TrueId, refused: bool) -> None:
        """The first webhook of a player goes, or is given up."""

        def act(driver: Driver) -> Any:
            first = next(iter(webhooks(driver).get(true_id, ())), None)
            if first is not None and refused:
                driver.bury_webhook(first.seq, "refused", self.now)
            elif first is not None:
                driver.remove_webhooks([first.seq])
            return first is not None and first.event

        self.both(act)

    @rule()
    def reopen(self) -> None:
        """A restart changes nothing: here all sessions have lost their connections before."""
        for number in range(8):
            self.confirm(number, 0, False)
        self.dropped += self.stores[1].dropped
        epoch = self.stores[1].epoch_of(PLAYERS[0])
        self.stores[1].close()
        self.stores[1] = self.open()
        assert self.stores[1].epoch_of(PLAYERS[0]) == epoch

    @rule(true_id=players, after=st.integers(0, 9), limit=st.integers(1, 9))
    def read(self, true_id: TrueId, after: int, limit: int) -> None:
        self.both(lambda driver: driver.read(true_id, after, limit, 700))

    @invariant()
    def they_agree(self) -> None:
        if not self.stores:
            return
        for true_id in PLAYERS:

            def act(driver: Driver, true_id: TrueId = true_id) -> Any:
                foreign = Position("other", 1, "1")
                subjects = [
                    (each.id, each.last_seen, each.confirmed, each.connection_id)
                    for each in driver.sessions_of(true_id)
                ]
                return (
                    driver.look(true_id, foreign, SessionId("s1")),
                    driver.read(true_id),
                    driver.batch(true_id).hole,
                    [message.skip for message in driver.batch(true_id).messages],
                    driver.memberships.rooms_of(true_id),
                    sorted(subjects),
                    driver.ban_of(true_id, self.now),
                )

            self.both(act)
        for room in ROOMS:
            self.both(lambda driver, room=room: driver.members(room))
        self.both(
            lambda driver: {
                true_id: [each.event for each in found]
                for true_id, found in webhooks(driver).items()
            }
        )
        self.both(lambda driver: driver.reported_online())
        self.both(
            lambda driver: [
                (each.webhook.event, each.given_up, each.reason)
                for each in driver.list_dead_webhooks(10)
            ]
        )
        self.both(lambda driver: (driver.queued_webhooks, driver.dead_webhooks))
        self.both(
            lambda driver: (
                driver.bytes,
                driver.message_count,
                driver.session_count,
                driver.memberships.count,
            )
        )
        # Each tells of its players in an order of its own.
        assert counted(self.stores[0].dropped) == counted(self.dropped + self.stores[1].dropped)

    def teardown(self) -> None:
        for driver in self.stores:
            with contextlib.suppress(Exception):
                driver.close()


class SqliteStores(Stores):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()

    def open(self) -> Driver:
        return sqlite_store(Path(self.folder.name) / "model.db", clock=lambda: 0.0, **self.limits)

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


class FoldingSqliteStores(SqliteStores):
    """Hardly any player is kept at hand: what the log has becomes rows of their own."""

    bounds: ClassVar = {"_MAX_LOGGED": 1, "_MAX_CACHED": 1}

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        for name, bound in self.bounds.items():
            self.patch.setattr(sqlite_players, name, bound)

    def teardown(self) -> None:
        super().teardown()
        self.patch.undo()


class CrowdedSqliteStores(FoldingSqliteStores):
    """There is little room in the log: new messages and old ones have rows of their own."""

    bounds: ClassVar = {"_MAX_REFERENCES": 300, "_EVICTION": 1, "_LEAST_EVICTED": 4}


class RedisStores(Stores):
    """Each time it is opened it is another node, the only one alive."""

    url = ""
    numbers = count()

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"model{next(self.numbers)}"

    def open(self) -> Driver:
        node = f"node{next(self.numbers)}"
        return redis_store(f"{self.url}?prefix={self.prefix}", node=node, **self.limits)


@pytest.fixture(scope="module", autouse=True)
def server(redis_server: RedisServer) -> None:
    """Let the machines find the server."""
    RedisStores.url = redis_server.url


TestSqliteStores = SqliteStores.TestCase
TestSqliteStores.settings = settings(deadline=None, max_examples=30, stateful_step_count=25)
TestFoldingSqliteStores = FoldingSqliteStores.TestCase
TestFoldingSqliteStores.settings = settings(deadline=None, max_examples=30, stateful_step_count=25)
TestCrowdedSqliteStores = CrowdedSqliteStores.TestCase
TestCrowdedSqliteStores.settings = TestFoldingSqliteStores.settings
TestRedisStores = RedisStores.TestCase
TestRedisStores.settings = settings(deadline=None, max_examples=30, stateful_step_count=25)
