"""The stores under test: every test that takes `new_store` or `store` runs on all of them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.mailbox import Batch, Draft, Located, Position, Retention, RoomDraft
from gateway.membership import RoomLimits
from gateway.messages import SessionId, TrueId
from gateway.session import Session
from gateway.store import Accepted, Membership, Published, StoreLimits, View
from gateway.store_url import parse_redis_url
from gateway.stores.memory import MemoryStore
from gateway.stores.redis.client import Redis
from gateway.stores.redis.store import RedisStore
from gateway.stores.sqlite import SqliteStore
from tests.redis_servers import RedisServer

LIMITS = StoreLimits(
    mailbox=Retention(max_messages=0, max_bytes=0, retention=0),
    refuse_when_full=False,
    total_bytes=0,
    dedupe_window=100.0,
    dedupe_keys=0,
    sessions=0,
    sessions_per_player=0,
    session_lifetime=1000.0,
    token_lifetime=1000.0,
    rooms=RoomLimits(),
)
ANN, BOB = TrueId("ann"), TrueId("bob")


class Driver:
    """A store and the loop that it runs on: every method waits for its answer."""

    def __init__(self, build: Callable[[Callable[[str, int], None]], Any]) -> None:
        #: What on_dropped was told.
        self.dropped: list[tuple[str, int]] = []
        self.loop = asyncio.new_event_loop()
        self.store = build(lambda reason, number: self.dropped.append((reason, number)))
        self._closed = False
        try:
            self.run(self.store.open())
        except BaseException:
            self.loop.close()
            raise

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.run(self.store.close())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 60))

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.store, name)
        if not inspect.iscoroutinefunction(attribute):
            return attribute
        return lambda *arguments, **named: self.run(attribute(*arguments, **named))

    def session(self, session_id: SessionId, true_id: TrueId = ANN) -> Session | None:
        found: Session | None = self.run(self.store.session(session_id, true_id))
        return found

    def revoke_session(
        self,
        session_id: SessionId,
        now: float,
        reason: str = "revoked",
        true_id: TrueId = ANN,
    ) -> None:
        self.run(self.store.revoke_session(session_id, true_id, now, reason))

    # Callbacks

    def answered(self, ask: Callable[[Callable[..., None]], None]) -> Any:
        """Ask something that answers by a callback, and wait for its last argument."""

        async def asked() -> Any:
            answer: asyncio.Future[Any] = self.loop.create_future()
            ask(lambda *arguments: answer.set_result(arguments[-1]))
            return await answer

        return self.run(asked())

    def append(
        self,
        body: bytes = b"1",
        *,
        target: TrueId = ANN,
        sender: TrueId | None = BOB,
        key: str | None = None,
        key_owner: TrueId | None = None,
        now: float = 0.0,
    ) -> Accepted | GatewayError:
        draft = Draft(target, sender, body, key, key_owner=key_owner)
        result: Accepted | GatewayError = self.answered(
            lambda done: self.store.append(draft, now, done)
        )
        return result

    def append_all(
        self, drafts: Sequence[Draft], now: float = 0.0
    ) -> list[Accepted | GatewayError]:
        """Append these without waiting in between; what the sender was told, in their order."""

        async def append() -> list[Accepted | GatewayError]:
            order: list[Draft] = []
            answers: list[Accepted | GatewayError] = []
            answered: asyncio.Future[None] = self.loop.create_future()

            def done(draft: Draft, result: Any) -> None:
                order.append(draft)
                answers.append(result)
                if len(answers) == len(drafts):
                    answered.set_result(None)

            for draft in drafts:
                self.store.append(draft, now, done)
            await answered
            assert [id(draft) for draft in order] == [id(draft) for draft in drafts]
            return answers

        found: list[Accepted | GatewayError] = self.run(append())
        return found

    def publish(
        self,
        body: bytes = b"1",
        *,
        room: str = "r",
        sender: TrueId | None = BOB,
        key: str | None = None,
        skip: SessionId | None = None,
        now: float = 0.0,
    ) -> Published | GatewayError:
        draft = RoomDraft(room, sender, body, key, skip)
        result: Published | GatewayError = self.answered(
            lambda done: self.store.publish(draft, now, done)
        )
        return result

    def join(self, true_id: TrueId = ANN, room: str = "r") -> Membership | GatewayError:
        result: Membership | GatewayError = self.answered(
            lambda done: self.store.join(room, true_id, done)
        )
        return result

    def leave(self, true_id: TrueId = ANN, room: str = "r") -> Membership | GatewayError:
        result: Membership | GatewayError = self.answered(
            lambda done: self.store.leave(room, true_id, done)
        )
        return result

    def members(self, room: str = "r") -> list[TrueId]:
        return list(self.store.memberships.members_of(room))

    def batch(
        self, true_id: TrueId = ANN, after: int = 0, limit: int = 100, max_bytes: int = 0
    ) -> Batch:
        batch: Batch = self.answered(
            lambda done: self.store.read(true_id, after, limit, max_bytes, done)
        )
        assert isinstance(batch, Batch)
        return batch

    def read(
        self, true_id: TrueId = ANN, after: int = 0, limit: int = 100, max_bytes: int = 0
    ) -> list[bytes]:
        batch = self.batch(true_id, after, limit, max_bytes)
        assert batch.head == self.head(true_id)
        offsets = [message.offset for message in batch.messages]
        assert offsets == list(range(offsets[0], offsets[0] + len(offsets))) if offsets else True
        return [message.body for message in batch.messages]

    def everyone(self, limit: int = 100) -> list[tuple[TrueId, ...]]:
        async def pages() -> list[tuple[TrueId, ...]]:
            return [page async for page in self.store.everyone(limit)]

        found: list[tuple[TrueId, ...]] = self.run(pages())
        return found

    # Parts of a view

    def look(
        self,
        true_id: TrueId,
        position: Position | None = None,
        session_id: SessionId | None = None,
    ) -> View:
        view: View = self.run(self.store.view(true_id, position, session_id))
        return view

    def head(self, true_id: TrueId) -> int:
        return self.look(true_id).head

    def first(self, true_id: TrueId) -> int:
        return self.look(true_id).first

    def confirmed_of(self, true_id: TrueId) -> int:
        return self.look(true_id).confirmed

    def locate(self, true_id: TrueId, position: Position) -> Located:
        return self.look(true_id, position).located

    def ids(self, true_id: TrueId = ANN) -> list[str]:
        return [each.id for each in self.run(self.store.sessions_of(true_id))]


class RedisDriver(Driver):
    """The totals of a redis store are those of its last look: here it looks when it is asked."""

    @property
    def bytes(self) -> int:
        return self.looked().bytes

    @property
    def message_count(self) -> int:
        return self.looked().message_count

    @property
    def session_count(self) -> int:
        return self.looked().session_count

    @property
    def queued_webhooks(self) -> int:
        return self.looked().queued_webhooks

    @property
    def dead_webhooks(self) -> int:
        return self.looked().dead_webhooks

    def looked(self) -> RedisStore:
        self.run(self.store.look())
        store: RedisStore = self.store
        return store


NewStore = Callable[..., Driver]


def memory_store(**limits: Any) -> Driver:
    return Driver(
        lambda on_dropped: MemoryStore(replace(LIMITS, **limits), "e1", count(1), on_dropped)
    )


def sqlite_store(
    path: Path,
    synchronous: str = "NORMAL",
    clock: Callable[[], float] = lambda: 0.0,
    **limits: Any,
) -> Driver:
    return Driver(
        lambda on_dropped: SqliteStore(
            path, synchronous, replace(LIMITS, **limits), count(1), on_dropped, clock
        )
    )


class Listing:
    """The list of nodes, as a test has it: a NodeList."""

    def __init__(self, *live: str, died: Collection[str] = (), listed: float = 0.0) -> None:
        self.live: frozenset[str] | None = frozenset(live)
        self.died = frozenset(died)
        self.listed = listed


def redis_store(
    url: str,
    *,
    partitions: int = 1,
    node: str = "node1",
    listing: Listing | None = None,
    owned: Collection[int] | None = None,
    **limits: Any,
) -> RedisDriver:
    """A node's store; without a `listing` all other nodes are of earlier lives."""
    return RedisDriver(
        lambda on_dropped: RedisStore(
            Redis(parse_redis_url(url), partitions),
            replace(LIMITS, **limits),
            node,
            count(1),
            on_dropped,
            node_list=listing,
            owned=owned,
        )
    )


@pytest.fixture(params=["memory", "sqlite", "redis"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewStore]:
    """Build an empty store with no limits but those that are given."""
    numbers = count()
    with ExitStack() as stack:

        def build(**limits: Any) -> Driver:
            if request.param == "memory":
                return stack.enter_context(memory_store(**limits))
            if request.param == "redis":
                server: RedisServer = request.getfixturevalue("redis_server")
                prefix = f"{request.getfixturevalue('redis_prefix')}-{next(numbers)}"
                url = f"{server.url}?prefix={prefix}"
                return stack.enter_context(redis_store(url, **limits))
            path = tmp_path / f"{next(numbers)}.db"
            return stack.enter_context(sqlite_store(path, **limits))

        yield build


@pytest.fixture
def store(new_store: NewStore) -> Driver:
    """An empty store without limits."""
    return new_store()


@pytest.fixture
def nodes(redis_url: str) -> Iterator[NewStore]:
    """Build nodes that share one redis store."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(redis_store(redis_url, **settings))
