"""A gateway without a network: all services, real ones, around a clock that tests set."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from itertools import count
from typing import Any, ParamSpec

import pytest
from msgspec import Raw

from gateway.admission import Admission, AdmissionSettings, Admitted
from gateway.auth import Authentication, Identity
from gateway.auth.guest import GuestAuthenticator
from gateway.connection import Connection, ConnectionLimits, Services
from gateway.delivery import Delivery
from gateway.errors import ConnectRefused, StoreUnavailable
from gateway.mailbox import AppendDone, Batch, Draft, Retention
from gateway.messages import Receipt, SendMessage, SessionId, TrueId, encode
from gateway.metrics import Metrics
from gateway.presence import Presence
from gateway.registry import Registry
from gateway.revocation import Revocation
from gateway.session import Session
from gateway.stores.memory import MemoryLimits, MemoryStore
from gateway.tokens import Tokens

ADDRESS = "192.0.2.1"
LIFETIME = 1000.0
GRACE = 30.0
LIMITS = MemoryLimits(
    mailbox=Retention(max_messages=100, max_bytes=0, retention=0),
    total_bytes=0,
    dedupe_window=600.0,
    dedupe_keys=256,
    sessions=0,
    sessions_per_player=0,
    session_lifetime=LIFETIME,
    token_lifetime=LIFETIME,
)
P = ParamSpec("P")


def scenario(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a coroutine as a test."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def settled() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Store(MemoryStore):
    """The memory store; it can be made to fail, or to answer reads only when told to."""

    down = False
    slow = False

    def __init__(self, limits: MemoryLimits, epoch: str) -> None:
        numbers = count(1)
        super().__init__(limits, epoch, lambda: f"n{next(numbers)}")
        self.reads: list[Callable[[], None]] = []

    def append(self, draft: Draft, now: float, done: AppendDone) -> None:
        if self.down:
            done(StoreUnavailable("down"))
        else:
            super().append(draft, now, done)

    def read(
        self,
        true_id: TrueId,
        after: int,
        limit: int,
        max_bytes: int,
        done: Callable[[Batch], None],
    ) -> None:
        def answer() -> None:
            MemoryStore.read(self, true_id, after, limit, max_bytes, done)

        if self.slow:
            self.reads.append(answer)
        else:
            answer()

    def answer_reads(self) -> None:
        """Answer the reads that were asked, and those that they lead to."""
        while self.reads:
            self.reads.pop(0)()

    async def session(self, session_id: SessionId) -> Session | None:
        if self.down:
            raise StoreUnavailable("down")
        return await super().session(session_id)

    async def revoke_session(self, session_id: SessionId, now: float) -> None:
        if self.down:
            raise StoreUnavailable("down")
        await super().revoke_session(session_id, now)

    async def revoke_player(self, true_id: TrueId, now: float) -> None:
        if self.down:
            raise StoreUnavailable("down")
        await super().revoke_player(true_id, now)


class Accounts:
    """Players whom the game knows, by user name alone."""

    method = "password"

    def __init__(self) -> None:
        self.removed: set[TrueId] = set()

    def claims(self, auth: Mapping[str, object]) -> bool:
        return "username" in auth

    async def authenticate(self, auth: Mapping[str, object], address: str) -> Identity:
        name = str(auth["username"])
        return Identity(TrueId("acc-" + name), name, self.method)

    async def still_valid(self, true_id: TrueId) -> bool:
        # As the password file does, it lets others run meanwhile.
        await asyncio.sleep(0)
        return true_id not in self.removed


class Client:
    """A Sink that records what it is told, and the client behind it."""

    def __init__(self, *, alive: bool = True) -> None:
        self.connection: Connection | None = None
        self.pid = ""
        self.greeting: dict[str, Any] = {}
        self.events: list[list[Any]] = []
        self.acks: dict[int, Any] = {}
        self.closed: tuple[str, bool] | None = None
        self.pings = 0
        #: How many events fit in before the send buffer is full.
        self.room = 1_000_000
        #: Whether it answers pings.
        self.alive = alive
        self._ack_ids = count(1)

    # Sink

    def send_event(self, array: bytes) -> bool:
        assert self.closed is None
        self.events.append(json.loads(array))
        self.room -= 1
        return self.room > 0

    def send_ack(self, ack_id: int, array: bytes) -> None:
        assert self.closed is None
        assert ack_id not in self.acks
        (self.acks[ack_id],) = json.loads(array)

    def ping(self) -> None:
        self.pings += 1
        assert self.connection is not None
        self.connection.on_ping_sent()
        if self.alive:
            asyncio.get_running_loop().call_soon(self.connection.on_pong)

    def close(self, reason: str, *, reconnect: bool) -> None:
        assert self.closed is None
        self.closed = (reason, reconnect)

    # The client

    def admitted(self, admitted: Admitted) -> None:
        self.connection = admitted.connection
        self.pid = admitted.pid
        self.connection.start(admitted.greeting)
        self.greeting = self.events[0][1]

    @property
    def link(self) -> Connection:
        assert self.connection is not None
        return self.connection

    @property
    def true_id(self) -> TrueId:
        return TrueId(self.greeting["true_id"])

    @property
    def session_id(self) -> SessionId:
        return SessionId(self.greeting["session_id"])

    @property
    def token(self) -> str:
        return str(self.greeting["token"])

    @property
    def resumed(self) -> tuple[bool, str, int, object]:
        """What the greeting says: resumed, outcome, missed, gap."""
        keys = ("resumed", "outcome", "missed", "gap")
        return tuple(self.greeting[key] for key in keys)  # type: ignore[return-value]

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [event[1] for event in self.events if event[0] == "message"]

    @property
    def data(self) -> list[Any]:
        """The data of all messages."""
        return [message["data"] for message in self.messages]

    @property
    def last_id(self) -> str:
        return str(self.messages[-1]["id"])

    def payloads(self, name: str) -> list[Any]:
        """Return the payloads of the events with this name."""
        return [event[1] for event in self.events if event[0] == name]

    def emit(self, name: str, *arguments: object) -> None:
        """Send an event without ack."""
        self.link.receive(encode([name, *arguments]), None)

    def call(self, name: str, *arguments: object) -> Any:
        """Send an event with ack and return the ack, or None if there is none yet."""
        ack_id = next(self._ack_ids)
        self.link.receive(encode([name, *arguments]), ack_id)
        return self.acks.get(ack_id)

    def heartbeat(self) -> None:
        """A ping and its pong."""
        self.link.on_ping_sent()
        self.link.on_pong()

    def drain(self, room: int = 1_000_000) -> None:
        """The send buffer has room again."""
        self.room = room
        self.link.on_drained()

    def lose(self) -> None:
        """The connection breaks."""
        self.link.on_closed("transport_close")


class World:
    """One gateway; `restarted` is the next one, with the same keys and an empty store."""

    def __init__(
        self,
        *,
        epoch: str = "e1",
        clock: Clock | None = None,
        probe_timeout: float = 60.0,
        connections_per_player: int = 0,
        new_sessions_per_minute: int = 0,
        max_watched: int = 0,
        listing: bool = True,
        messages_per_second: float = 0.0,
        burst: float = 0.0,
        message_bytes: int = 0,
        **limits: Any,
    ) -> None:
        self.clock = clock or Clock()
        self.monotonic = Clock()
        self.store = Store(replace(LIMITS, **limits), epoch)
        self.metrics = Metrics()
        self.registry: Registry[Connection] = Registry()
        self.presence = Presence(GRACE)
        connections_of = self.registry.connections_of
        self.delivery = Delivery(
            self.store, connections_of, self.metrics, self.clock, message_bytes
        )
        self.revocation = Revocation(self.store, connections_of, self.clock)
        self.tokens = Tokens(["a secret key of this world"], LIFETIME, self.clock)
        self.accounts = Accounts()
        guests, sessions = count(1), count(1)
        self.admission = Admission(
            Services(
                store=self.store,
                sessions=self.store,
                registry=self.registry,
                delivery=self.delivery,
                presence=self.presence,
                revocation=self.revocation,
                metrics=self.metrics,
                clock=self.clock,
                monotonic=self.monotonic,
            ),
            Authentication(
                [GuestAuthenticator(64, lambda: TrueId(f"{epoch}-g{next(guests)}")), self.accounts]
            ),
            self.tokens,
            AdmissionSettings(
                probe_timeout=probe_timeout,
                connections_per_player=connections_per_player,
                new_sessions_per_minute=new_sessions_per_minute,
                connection=ConnectionLimits(
                    messages_per_second=messages_per_second,
                    burst=burst,
                    send_buffer_bytes=0,
                    max_watched=max_watched,
                    listing=listing,
                ),
                announced_limits={"message_bytes": message_bytes},
            ),
            lambda: SessionId(f"{epoch}-s{next(sessions)}"),
        )

    def restarted(self) -> World:
        return World(epoch="e2", clock=self.clock)

    async def connect(
        self,
        *,
        alive: bool = True,
        room: int = 1_000_000,
        address: str = ADDRESS,
        **auth: object,
    ) -> Client:
        """Send a CONNECT with this auth payload."""
        client = Client(alive=alive)
        client.room = room
        client.admitted(await self.admission.admit(auth, address, client))
        return client

    async def guest(self, name: str = "Ann", *, alive: bool = True) -> Client:
        return await self.connect(alive=alive, guest=True, name=name)

    async def refused(self, auth: object) -> ConnectRefused:
        """Send a CONNECT that is refused without any word to the sink."""
        client = Client()
        with pytest.raises(ConnectRefused) as caught:
            await self.admission.admit(auth, ADDRESS, client)
        assert client.events == []
        assert client.closed is None
        return caught.value

    def write(self, target: Client | TrueId, *data: object) -> None:
        """Let the game's backend send messages."""
        target_id = target.true_id if isinstance(target, Client) else target
        for each in data:
            receipts: list[object] = []
            self.delivery.send(None, SendMessage(target_id, Raw(encode(each))), receipts.append)
            assert [type(receipt) for receipt in receipts] == [Receipt]

    def metric(self, name: str, label: str) -> float:
        """Return a counter's value, by the one label it has."""
        for line in self.metrics.render().decode().splitlines():
            if line.startswith(f"gateway_{name}_total{{") and f'"{label}"' in line:
                return float(line.rpartition(" ")[2])
        return 0.0
