"""A gateway without a network: all services, real ones, around a clock that tests set."""

from __future__ import annotations

import asyncio
import functools
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Any, ParamSpec

import pytest
from msgspec import Raw

from gateway.admission import Admission
from gateway.auth import Authentication, Identity
from gateway.auth.guest import GuestAuthenticator
from gateway.connecting import AdmissionSettings, Admitted
from gateway.connection import Connection, Services
from gateway.delivery import Delivery
from gateway.errors import ConnectRefused, RequestRefused, StoreUnavailable
from gateway.joining import Joining, OpenRooms, RoomPolicy
from gateway.limits import ConnectionLimits, HiddenPolicy
from gateway.locks import KeyedLocks
from gateway.mailbox import Draft, Position, Retention, RoomDraft
from gateway.membership import RoomLimits
from gateway.messages import Receipt, SendMessage, SessionId, TrueId, encode
from gateway.metrics import Metrics
from gateway.nodes import Nodes
from gateway.presence_service import PresenceService, PresenceSettings
from gateway.presence_view import Payload
from gateway.registry import Registry
from gateway.revocation import Revocation
from gateway.rooms import Rooms, RoomSettings
from gateway.session import Session
from gateway.sink import EventWriter
from gateway.store import (
    AppendDone,
    Ban,
    MembershipDone,
    PublishDone,
    ReadDone,
    SessionChanged,
    StoreLimits,
    View,
)
from gateway.stores.memory import MemoryStore
from gateway.tokens import Tokens

ADDRESS = "192.0.2.1"
LIFETIME = 1000.0
GRACE = 30.0
SETTLE = 2.0
INTERVAL = 0.25
LIMITS = StoreLimits(
    mailbox=Retention(max_messages=100, max_bytes=0, retention=0),
    refuse_when_full=False,
    total_bytes=0,
    dedupe_window=600.0,
    dedupe_keys=256,
    sessions=0,
    sessions_per_player=0,
    session_lifetime=LIFETIME,
    token_lifetime=LIFETIME,
    rooms=RoomLimits(),
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


class Timers:
    """An event loop's `call_later`, by a clock that tests set."""

    def __init__(self, monotonic: Clock) -> None:
        self._monotonic = monotonic
        self._timers: list[Timer] = []

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        assert seconds >= 0
        timer = Timer(self._monotonic.now + seconds, callback)
        self._timers.append(timer)
        return timer

    def run(self) -> None:
        """Call back what is due, and what that leads to."""
        while due := [timer for timer in self._timers if timer.due <= self._monotonic.now]:
            for timer in sorted(due, key=lambda timer: timer.due):
                self._timers.remove(timer)
                timer.fire()


class Timer:
    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self._callback = None

    def fire(self) -> None:
        if self._callback is not None:
            self._callback()


class Gate:
    """Where a call of the store waits: before it is carried out, or with its answer."""

    def __init__(self, *, after: bool = False) -> None:
        self.after = after
        self.reached = False
        self._opened = asyncio.Event()

    async def wait(self) -> None:
        self.reached = True
        await self._opened.wait()

    def open(self) -> None:
        self._opened.set()


class Store(MemoryStore):
    """The memory store; it can be made to fail, to wait, or to answer reads when told to."""

    down = False
    slow = False

    def __init__(
        self, limits: StoreLimits, epoch: str, on_dropped: Callable[[str, int], None]
    ) -> None:
        super().__init__(limits, epoch, count(1), on_dropped)
        self.reads: list[Callable[[], None]] = []
        #: The names of all coroutines called, in order.
        self.calls: list[str] = []
        #: Gates, and calls that fail, by name or by their place in `calls`.
        self.gates: dict[str | int, Gate] = {}
        self.broken: set[str | int] = set()
        #: Told what `update_session` was given.
        self.on_update: Callable[[Session], object] = lambda session: None
        #: What another node does, each just before a session is added or updated here.
        self.rival: list[Callable[[Session], Awaitable[object]]] = []

    @asynccontextmanager
    async def _call(self, name: str) -> AsyncIterator[None]:
        number = len(self.calls)
        self.calls.append(name)
        if self.down or self.broken & {name, number}:
            raise StoreUnavailable("down")
        gate = self.gates.get(name) or self.gates.get(number)
        if gate is not None and not gate.after:
            await gate.wait()
        yield
        if gate is not None and gate.after:
            await gate.wait()

    def append(self, draft: Draft, now: float, done: AppendDone) -> None:
        if self.down:
            done(draft, StoreUnavailable("down"))
        else:
            super().append(draft, now, done)

    def read(self, true_id: TrueId, after: int, limit: int, max_bytes: int, done: ReadDone) -> None:
        def answer() -> None:
            if self.down:
                done(StoreUnavailable("down"))
            else:
                MemoryStore.read(self, true_id, after, limit, max_bytes, done)

        if self.slow:
            self.reads.append(answer)
        else:
            answer()

    def answer_reads(self) -> None:
        """Answer the reads that were asked, and those that they lead to."""
        while self.reads:
            self.reads.pop(0)()

    async def view(
        self,
        true_id: TrueId,
        position: Position | None = None,
        session_id: SessionId | None = None,
    ) -> View:
        async with self._call("view"):
            return await super().view(true_id, position, session_id)

    def publish(self, draft: RoomDraft, now: float, done: PublishDone) -> None:
        if self.down:
            done(draft, StoreUnavailable("down"))
        else:
            super().publish(draft, now, done)

    def join(self, room: str, true_id: TrueId, done: MembershipDone) -> None:
        if self.down:
            done(StoreUnavailable("down"))
        else:
            super().join(room, true_id, done)

    def leave(self, room: str, true_id: TrueId, done: MembershipDone) -> None:
        if self.down:
            done(StoreUnavailable("down"))
        else:
            super().leave(room, true_id, done)

    async def know(self, true_ids: Iterable[TrueId]) -> None:
        async with self._call("know"):
            await super().know(true_ids)

    async def forget(self, true_ids: Iterable[TrueId]) -> None:
        async with self._call("forget"):
            await super().forget(true_ids)

    async def session(self, session_id: SessionId, true_id: TrueId) -> Session | None:
        async with self._call("session"):
            return await super().session(session_id, true_id)

    async def sessions_of(self, true_id: TrueId) -> tuple[Session, ...]:
        async with self._call("sessions_of"):
            return await super().sessions_of(true_id)

    async def add_session(self, session: Session, issued_at: float = math.inf) -> None:
        async with self._call("add_session"):
            await self._race(session)
            await super().add_session(session, issued_at)

    async def update_session(self, session: Session) -> bool:
        async with self._call("update_session"):
            self.on_update(session)
            await self._race(session)
            return await super().update_session(session)

    async def _race(self, session: Session) -> None:
        if self.rival:
            await self.rival.pop(0)(session)
            raise SessionChanged(session.id)

    async def revoke_session(
        self, session_id: SessionId, true_id: TrueId, now: float, reason: str = "revoked"
    ) -> None:
        async with self._call("revoke_session"):
            await super().revoke_session(session_id, true_id, now, reason)

    async def revoke_player(self, true_id: TrueId, now: float) -> None:
        async with self._call("revoke_player"):
            await super().revoke_player(true_id, now)

    async def is_revoked(self, session_id: SessionId, true_id: TrueId, issued_at: float) -> bool:
        async with self._call("is_revoked"):
            return await super().is_revoked(session_id, true_id, issued_at)

    async def set_ban(self, true_id: TrueId, ban: Ban | None) -> None:
        async with self._call("set_ban"):
            await super().set_ban(true_id, ban)

    async def ban_of(self, true_id: TrueId, now: float) -> Ban | None:
        async with self._call("ban_of"):
            return await super().ban_of(true_id, now)


class Sender:
    """An Origin that keeps what it is told, with the ack id."""

    def __init__(self) -> None:
        self.told: list[tuple[Receipt | RequestRefused, int | None]] = []

    def on_receipt(self, receipt: Receipt, ack_id: int) -> None:
        self.told.append((receipt, ack_id))

    def on_refused(self, error: RequestRefused, ack_id: int | None, event: str = "message") -> None:
        self.told.append((error, ack_id))


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


class Client(EventWriter):
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

    @property
    def writer(self) -> EventWriter:
        return self

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
        state_keys: int = 0,
        state_bytes: int = 0,
        hidden_policy: HiddenPolicy = "latest",
        messages_per_second: float = 0.0,
        burst: float = 0.0,
        message_bytes: int = 0,
        policy: RoomPolicy | None = None,
        announce: int = 0,
        nodes: Nodes | None = None,
        **limits: Any,
    ) -> None:
        self.clock = clock or Clock()
        self.monotonic = Clock()
        self.metrics = Metrics()
        self.store = Store(replace(LIMITS, **limits), epoch, self.metrics.dropped)
        if nodes is not None:
            self.store.nodes = nodes
        self.registry: Registry[Connection] = Registry()
        self.timers = Timers(self.monotonic)
        self.presence = PresenceService(
            PresenceSettings(GRACE, SETTLE, INTERVAL, max_watched, listing),
            self.metrics,
            self.clock,
            self.monotonic,
            self.timers.call_later,
        )
        connections_of = self.registry.connections_of
        self.delivery = Delivery(
            self.store, connections_of, self.metrics, self.clock, message_bytes, self.store.nodes
        )
        self.rooms = Rooms(
            self.store,
            Joining(policy or OpenRooms(), 2, self.metrics),
            connections_of,
            self.presence,
            self.metrics,
            self.monotonic,
            RoomSettings(GRACE, announce),
            self.store.nodes,
        )
        self.locks = KeyedLocks()
        self.revocation = Revocation(self.store, connections_of, self.clock, self.locks)
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
                rooms=self.rooms,
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
                    state_keys=state_keys,
                    state_bytes=state_bytes,
                    hidden_policy=hidden_policy,
                ),
                announced_limits={"message_bytes": message_bytes},
            ),
            lambda: SessionId(f"{epoch}-s{next(sessions)}"),
            self.locks,
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
        await self.admit(client, address=address, **auth)
        return client

    async def admit(self, client: Client, *, address: str = ADDRESS, **auth: object) -> None:
        """Let this client send a CONNECT."""
        client.admitted(await self.admission.admit(auth, address, client))

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
            backend = Sender()
            self.delivery.send(None, SendMessage(target_id, Raw(encode(each))), backend, 1)
            assert [type(told) for told, _ in backend.told] == [Receipt]

    async def sessions(self, true_id: TrueId) -> tuple[Session, ...]:
        """Return the player's sessions, without a call that counts."""
        return await MemoryStore.sessions_of(self.store, true_id)

    def look(self, true_id: TrueId) -> Payload:
        """Return how a player is."""
        seen: list[dict[TrueId, Payload] | StoreUnavailable] = []
        self.presence.look([true_id], seen.append)
        assert isinstance(seen[0], dict)
        return seen[0][true_id]

    async def head(self, true_id: TrueId) -> int:
        """Return the offset of the newest message in a mailbox."""
        return (await self.store.view(true_id)).head

    async def time_passes(self, seconds: float) -> None:
        """Move the clock, and let the store forget what is too old by then."""
        self.pass_by(seconds)
        await self.store.expire(self.clock.now)

    def pass_by(self, seconds: float = 0.0) -> None:
        """Move both clocks and call back what is due by then; at first what is due now."""
        self.timers.run()
        self.clock.now += seconds
        self.monotonic.now += seconds
        self.timers.run()

    def metric(self, name: str, label: str) -> float:
        """Return a counter's value for this label; the sum if there are more series with it."""
        return sum(
            float(line.rpartition(" ")[2])
            for line in self.metrics.render().decode().splitlines()
            if line.startswith(f"gateway_{name}_total{{") and f'"{label}"' in line
        )
