"""The promise, over all interleavings that hypothesis finds.

Every message acknowledged to its sender reaches every session of its target exactly once and
in mailbox order, or the session is told exactly what it lost (`outcome`, `gap`).

Real services run around a store that commits and answers when the test says so. Clients are
links with frames under way in both directions; each step moves one thing: a frame is read, a
link breaks or stalls, a page reloads, a tab is duplicated, the gateway crashes.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from itertools import count
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from gateway.admission import Admission
from gateway.auth import Authentication
from gateway.auth.guest import GuestAuthenticator
from gateway.connecting import AdmissionSettings
from gateway.connection import Connection, Services
from gateway.delivery import Delivery
from gateway.errors import ConnectRefused, GatewayError, StoreUnavailable
from gateway.joining import Joining, OpenRooms
from gateway.limits import ConnectionLimits
from gateway.locks import KeyedLocks
from gateway.mailbox import Batch, Draft, Position, Retention, RoomDraft
from gateway.membership import RoomLimits
from gateway.messages import SessionId, TrueId, encode
from gateway.metrics import Metrics
from gateway.presence_service import PresenceService, PresenceSettings
from gateway.registry import Registry
from gateway.revocation import Revocation
from gateway.rooms import Rooms, RoomSettings
from gateway.sink import EventWriter
from gateway.store import Accepted, AppendDone, Ban, PublishDone, Published, ReadDone, StoreLimits
from gateway.stores.memory import MemoryStore
from gateway.tokens import Tokens
from tests.services.world import Clock, Timers

LIFETIME = 1000.0
#: Frames that fit into a link before its send buffer is full.
ROOM = 4
MAILBOX = 6
LIMITS = StoreLimits(
    mailbox=Retention(max_messages=MAILBOX, max_bytes=0, retention=5 * LIFETIME),
    refuse_when_full=False,
    total_bytes=0,
    dedupe_window=100 * LIFETIME,
    dedupe_keys=0,
    sessions=0,
    sessions_per_player=0,
    session_lifetime=LIFETIME,
    token_lifetime=100 * LIFETIME,
    rooms=RoomLimits(),
)


class SteppedStore(MemoryStore):
    """A durable store: what it has committed outlives the gateway, what waits does not.

    Appends and reads are committed, and later answered, one by one, when they are told to.
    """

    def __init__(self, epoch: str, truth: dict[tuple[str, str], int]) -> None:
        super().__init__(LIMITS, epoch, count(1), lambda reason, number: None)
        self.uncommitted: deque[Callable[[], None]] = deque()
        self.unanswered: deque[Callable[[], None]] = deque()
        #: Every message ever committed, by its player and id: the truth.
        self.truth = truth
        self.stored: set[tuple[str, int]] = set()
        self.orders: dict[str, list[int]] = {}

    def append(self, draft: Draft, now: float, done: AppendDone) -> None:
        def on_committed(draft: Draft, result: Accepted | GatewayError) -> None:
            if isinstance(result, Accepted) and result.message is not None:
                number = json.loads(b"{" + result.message.body)["data"]
                self._stored(draft.target_id, result.message_id, number)
            self.unanswered.append(lambda: done(draft, result))

        self.uncommitted.append(lambda: MemoryStore.append(self, draft, now, on_committed))

    def _stored(self, true_id: str, message_id: bytes, number: int) -> None:
        assert (true_id, number) not in self.stored, "a message was stored twice"
        self.stored.add((true_id, number))
        self.truth[true_id, message_id.decode()] = number

    def publish(self, draft: RoomDraft, now: float, done: PublishDone) -> None:
        def on_committed(draft: RoomDraft, result: Published | GatewayError) -> None:
            if isinstance(result, Published):
                for message, true_ids in result.copies:
                    number = json.loads(b"{" + message.body)["data"]
                    for true_id in true_ids:
                        self._stored(true_id, message.id, number)
                        # Whatever two members both have, they have in one order.
                        self.orders.setdefault(true_id, []).append(number)
            self.unanswered.append(lambda: done(draft, result))

        self.uncommitted.append(lambda: MemoryStore.publish(self, draft, now, on_committed))

    def read(self, true_id: TrueId, after: int, limit: int, max_bytes: int, done: ReadDone) -> None:
        def on_read(batch: Batch | StoreUnavailable) -> None:
            self.unanswered.append(lambda: done(batch))

        # Small batches: more seams.
        self.uncommitted.append(
            lambda: MemoryStore.read(self, true_id, after, 2, max_bytes, on_read)
        )

    def commit(self) -> None:
        if self.uncommitted:
            self.uncommitted.popleft()()

    def answer(self) -> None:
        if self.unanswered:
            self.unanswered.popleft()()

    def settle(self) -> None:
        while self.uncommitted or self.unanswered:
            self.commit()
            self.answer()

    def crash(self) -> None:
        """The process is gone, the file is not."""
        self.uncommitted.clear()
        self.unanswered.clear()
        for session in self._sessions.values():
            session.connection_id = None
            self.save_session(session)


class Gateway:
    """All services around a store."""

    def __init__(self, store: SteppedStore, clock: Clock, ids: Iterator[int]) -> None:
        self.store = store
        self.registry: Registry[Connection] = Registry()
        metrics = Metrics()
        connections_of = self.registry.connections_of
        self.delivery = Delivery(store, connections_of, metrics, clock, 0, store.nodes)
        locks = KeyedLocks()
        self.revocation = Revocation(store, connections_of, clock, locks)
        presence = PresenceService(
            PresenceSettings(0.0, 0.0, 0.0, 0, False),
            metrics,
            clock,
            clock,
            Timers(clock).call_later,
        )
        rooms = Rooms(
            store,
            Joining(OpenRooms(), 0, metrics),
            connections_of,
            presence,
            metrics,
            clock,
            RoomSettings(0.0, 0),
            store.nodes,
        )
        self.admission = Admission(
            Services(
                store=store,
                sessions=store,
                registry=self.registry,
                delivery=self.delivery,
                presence=presence,
                rooms=rooms,
                revocation=self.revocation,
                metrics=metrics,
                clock=clock,
                monotonic=clock,
            ),
            Authentication([GuestAuthenticator(64, lambda: TrueId(f"p{next(ids)}"))]),
            Tokens(["a secret key for this test"], 100 * LIFETIME, clock),
            AdmissionSettings(
                probe_timeout=0.001,
                connections_per_player=0,
                new_sessions_per_minute=0,
                connection=ConnectionLimits(0.0, 0.0, 0, 0, 0, "latest"),
                announced_limits={},
            ),
            lambda: SessionId(f"s{next(ids)}"),
            locks,
        )


class Link(EventWriter):
    """One connection: the gateway's Sink, with frames under way in both directions."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.down: deque[tuple[Any, ...]] = deque()
        self.up: deque[tuple[Any, ...]] = deque()
        self.connection: Connection | None = None
        #: The gateway has closed it, or learnt of its end.
        self.over = False
        self.congested = False

    # Sink

    #: A link is new when its client connects: no ping is under way.
    pings = 0

    @property
    def writer(self) -> EventWriter:
        return self

    def send_event(self, array: bytes) -> bool:
        assert not self.over
        event = json.loads(array)
        if event[0] == "message":
            assert self.connection is not None
            assert self.connection.true_id not in self.device.promise.banned
        self.down.append(("event", *event))
        self.congested = self.congested or len(self.down) > ROOM
        return not self.congested

    def send_ack(self, ack_id: int, array: bytes) -> None:
        assert not self.over
        (receipt,) = json.loads(array)
        self.device.promise.on_receipt(ack_id, receipt)
        self.down.append(("ack", ack_id))

    def ping(self) -> None:
        assert not self.over
        assert self.connection is not None
        self.connection.on_ping_sent()
        self.down.append(("ping",))
        if self.device.link is self and not self.device.frozen:
            # A client that is alive answers before the probe's timeout.
            asyncio.get_running_loop().call_soon(self.device.catch_up)

    def close(self, reason: str, *, reconnect: bool) -> None:
        assert not self.over
        self.over = True
        self.down.append(("close",))

    # The network

    def cut(self) -> None:
        """The gateway learns that the connection is gone."""
        if not self.over:
            self.over = True
            assert self.connection is not None
            self.connection.on_closed("transport_close")

    def deliver_up(self) -> bool:
        """The gateway takes one frame of the client; False when there is none."""
        if self.over or self.connection is None or not self.up:
            return False
        frame = self.up.popleft()
        if frame[0] == "pong":
            self.connection.on_pong()
        else:
            self.connection.receive(frame[1], frame[2])
        return True


class Device:
    """A stock client with its page: what it remembers, and what its application has seen."""

    def __init__(self, promise: Promise, *, offsets: bool, stores_offset: bool) -> None:
        self.promise = promise
        #: Whether it asks for trailing offsets, and whether the page stores the last one.
        self.offsets = offsets
        self.stores_offset = stores_offset
        self.link: Link | None = None
        self.frozen = False
        self.forget()

    def forget(self) -> None:
        """Be a new player: nothing is known of an earlier session."""
        self.token: str | None = None
        self.session_id = ""
        #: Whether it has shared a session, and so a place in the mailbox, with a copied tab.
        self.shared = False
        self.stored: str | None = None
        self.true_id = ""
        self.epoch = ""
        self.may_double = False
        #: Offset of the newest message that the application has seen, or knows to be lost.
        self.position: int | None = None
        self.seen: set[str] = set()
        #: Messages without a receipt, in the order of their sending: number -> payload.
        self.unacked: dict[int, dict[str, Any]] = {}
        self.reload()

    def reload(self) -> None:
        """The page is gone, and with it what only the client library knew."""
        if self.token is None and self.true_id:
            self.forget()
        self.pid: str | None = None
        self.offset: str | None = None

    def copy(self) -> Device:
        """Duplicate the tab: its storage is copied, its page is not."""
        other = Device(self.promise, offsets=self.offsets, stores_offset=self.stores_offset)
        if self.token is None:
            return other
        other.token, other.stored, other.true_id = self.token, self.stored, self.true_id
        other.epoch = self.epoch
        other.session_id = self.session_id
        if self.stores_offset and self.stored is not None:
            other.position = self.position
            other.seen = self.seen.copy()
        return other

    # Out

    def auth(self) -> dict[str, Any]:
        """Return the payload of the next CONNECT."""
        auth: dict[str, Any] = {} if self.offsets else {"recovery": False}
        if self.token is None:
            auth["guest"] = True
        else:
            auth["token"] = self.token
        if self.pid is not None:
            auth["pid"] = self.pid
        offset = self.offset or (self.stored if self.pid is None else None)
        if offset is not None:
            auth["offset"] = offset
        return auth

    def emit(self, number: int) -> None:
        assert self.link is not None
        payload = self.unacked[number]
        name = "publish" if "room" in payload else "message"
        self.link.up.append(("event", encode([name, payload]), number))

    # In

    def read(self) -> bool:
        """Take one frame of the gateway; False when there is none."""
        link = self.link
        if link is None or self.frozen or not link.down:
            return False
        match link.down.popleft():
            case ("event", "session", greeting):
                self.token = greeting["token"]
                for number in self.unacked:
                    self.emit(number)
            case ("event", "message", payload, *offset):
                self.on_message(payload, *offset)
            case ("event", "room", _):
                pass
            case ("ack", number):
                self.unacked.pop(number, None)
            case ("ping",):
                link.up.append(("pong",))
            case ("close",):
                self.link = None
            case other:
                raise AssertionError(f"unexpected: {other}")
        if link.congested and len(link.down) <= ROOM // 2 and not link.over:
            link.congested = False
            assert link.connection is not None
            link.connection.on_drained()
        return True

    def catch_up(self) -> None:
        """Read all there is, and let the gateway read all of ours."""
        link = self.link
        while self.read() or (link is not None and link.deliver_up()):
            pass

    def on_message(self, payload: dict[str, Any], offset: str | None = None) -> None:
        assert offset == (payload["id"] if self.offsets else None)
        assert self.promise.store.truth[self.true_id, payload["id"]] == payload["data"]
        position = Position.parse(payload["id"])
        assert position is not None
        assert self.position is not None
        if self.offsets:
            self.offset = payload["id"]
            if self.stores_offset:
                self.stored = payload["id"]
        assert position.offset == self.position + 1, "lost or out of order"
        self.position = position.offset
        assert self.may_double or payload["id"] not in self.seen, "doubled"
        self.seen.add(payload["id"])

    def on_admitted(self, greeting: dict[str, Any], head: int, first: int, epoch: str) -> None:
        """Check what the gateway promises against what the application has."""
        presented = self.auth().get("offset")
        gap, start = greeting["gap"], head - greeting["missed"]
        # Without an offset the gateway cannot know what has arrived: ids tell doubles.
        self.may_double = presented is None
        if self.token is None and greeting["true_id"] != self.true_id:
            # Its session was gone before it had read its first token: it is somebody else now.
            self.forget()
        assert not self.true_id or greeting["true_id"] == self.true_id, "another player"
        self.true_id = greeting["true_id"]
        self._on_session(greeting["session_id"])
        new_epoch, self.epoch = epoch != self.epoch, epoch
        # A session that is new, for a client that does not say what it has, promises nothing.
        if self.position is None or (greeting["outcome"] == "new" and presented is None):
            pass
        elif new_epoch:
            assert greeting["outcome"] == "store_reset"
            assert gap is not None
        elif gap is None:
            # The place of a shared session is where any of its tabs has been.
            unsure = self.shared and presented is None
            assert unsure or start <= self.position, "messages are missing and nobody said so"
            assert presented is None or start == self.position
        elif gap["lost"] is not None:
            assert start == first - 1, "the gap covers what is still there"
            if presented is not None:
                old = Position.parse(presented)
                assert old is not None
                assert (gap["after"], gap["lost"]) == (presented, start - old.offset)
        self.position = start

    def _on_session(self, session_id: str) -> None:
        """Note who shares the session: a copy goes on with it if its original did not answer."""
        if session_id != self.session_id:
            self.session_id, self.shared = session_id, False
        for other in self.promise.devices:
            if other is not self and other.session_id == session_id:
                other.shared = self.shared = True


class Promise(RuleBasedStateMachine):
    """Each rule is one step of somebody; the checks are in Device."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.ids = count(1)
        self.epochs = count(2)
        self.numbers = count(1)
        self.store = SteppedStore("e1", {})
        self.gateway = Gateway(self.store, self.clock, self.ids)
        self.links: list[Link] = []
        self.banned: set[str] = set()
        #: Message number -> target.
        self.targets: dict[int, str] = {}
        self.devices: list[Device] = []
        self.devices += [
            Device(self, offsets=True, stores_offset=True),
            Device(self, offsets=True, stores_offset=False),
            Device(self, offsets=False, stores_offset=False),
        ]
        for device in self.devices:
            self._connect(device)

    def teardown(self) -> None:
        """In the end everybody gets everything."""
        try:
            for true_id in self.banned:
                self._run(self.gateway.revocation.lift_ban(TrueId(true_id)))
            self.banned.clear()
            for device in self.devices:
                device.frozen = False
                self._connect(device)
            self._settle()
            # A tab whose token was taken for a thief's comes again as a new player.
            for _ in range(5):
                for device in self.devices:
                    if device.link is None:
                        self._connect(device)
                self._settle()
            for device in self.devices:
                if device.link is None:
                    # Another tab took the session over, with the token that both had.
                    continue
                head = self._run(self.store.view(TrueId(device.true_id))).head
                assert device.position == head, "accepted messages have not arrived"
                assert not device.unacked
            orders = list(self.store.orders.values())
            for one in orders:
                for other in orders:
                    common = set(one) & set(other)
                    assert [n for n in one if n in common] == [n for n in other if n in common]
        finally:
            self.loop.close()

    def on_receipt(self, number: int, receipt: dict[str, Any]) -> None:
        """A sender is told that its message is accepted."""
        target = self.targets[number]
        if target.startswith("room "):
            if receipt["ok"]:
                sender = target.removeprefix("room ")
                assert self.store.truth.get((sender, receipt["id"])) == number
            else:
                assert receipt["error"]["code"] == "not_member"
        elif receipt["ok"]:
            assert self.store.truth.get((target, receipt["id"])) == number
        else:
            # Who was lost with the store cannot be written to.
            assert receipt["error"]["code"] == "unknown_target"
            assert target not in self.store._players

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)

    def _device(self, index: int) -> Device:
        return self.devices[index % len(self.devices)]

    def _settle(self) -> None:
        for _ in range(100):
            self.store.settle()
            for device in self.devices:
                device.catch_up()

    def _connect(self, device: Device) -> None:
        """The client drops what link it has, without a word, and opens another."""
        link = Link(device)
        auth = device.auth()

        async def admit() -> None:
            admitted = await self.gateway.admission.admit(auth, "192.0.2.1", link)
            link.connection = admitted.connection
            view = await self.store.view(admitted.connection.true_id)
            device.on_admitted(admitted.greeting, view.head, view.first, self.store.epoch)
            device.pid = admitted.pid
            device.link = link
            self.links.append(link)
            admitted.connection.start(admitted.greeting)

        device.link = None
        try:
            self._run(admit())
        except ConnectRefused as error:
            refused = error
        else:
            return
        assert not link.down
        assert refused.code in {"banned", "token_reused", "session_revoked"}
        assert refused.code != "banned" or device.true_id in self.banned
        if refused.code != "banned":
            # Two tabs with one token, both alive in turn, are told apart from no thief.
            device.forget()

    # The clients

    @rule(who=st.integers(0, 9), to=st.integers(0, 9))
    def send(self, who: int, to: int) -> None:
        device, target = self._device(who), self._device(to).true_id
        if device.link is not None and not device.frozen and target:
            number = next(self.numbers)
            self.targets[number] = target
            device.unacked[number] = {"target_id": target, "data": number, "id": f"k{number}"}
            device.emit(number)

    @rule(who=st.integers(0, 9))
    def publish(self, who: int) -> None:
        """All who are known are members, and a membership may have ended before it arrives."""
        device = self._device(who)
        if device.link is None or device.frozen or not device.true_id:
            return
        for each in self.devices:
            if each.true_id:
                self.store.join("r", TrueId(each.true_id), lambda result: None)
        number = next(self.numbers)
        self.targets[number] = f"room {device.true_id}"
        device.unacked[number] = {"room": "r", "data": number, "id": f"k{number}"}
        device.emit(number)

    @rule(who=st.integers(0, 9), frames=st.integers(1, 4))
    def client_reads(self, who: int, frames: int) -> None:
        for _ in range(frames):
            self._device(who).read()

    @rule(who=st.integers(0, 9))
    def client_reconnects(self, who: int) -> None:
        self._connect(self._device(who))

    @rule(who=st.integers(0, 9))
    def page_reloads(self, who: int) -> None:
        device = self._device(who)
        device.reload()
        self._connect(device)

    @precondition(lambda self: len(self.devices) < 6)
    @rule(who=st.integers(0, 9))
    def tab_is_duplicated(self, who: int) -> None:
        device = self._device(who).copy()
        self.devices.append(device)
        self._connect(device)

    @rule(who=st.integers(0, 9))
    def page_freezes(self, who: int) -> None:
        self._device(who).frozen = True

    @rule(who=st.integers(0, 9))
    def page_thaws(self, who: int) -> None:
        self._device(who).frozen = False

    # The network

    @rule(which=st.integers(0, 99), frames=st.integers(1, 4))
    def gateway_reads(self, which: int, frames: int) -> None:
        for _ in range(frames):
            self.links[which % len(self.links)].deliver_up()

    @rule(who=st.integers(0, 9))
    def link_breaks(self, who: int) -> None:
        """The gateway notices at once, the client when it has read what still arrives."""
        link = self._device(who).link
        if link is not None:
            link.cut()
            link.down.append(("close",))

    @rule(which=st.integers(0, 99))
    def link_times_out(self, which: int) -> None:
        """The gateway notices that a client is gone; one that is still there, too."""
        self.links[which % len(self.links)].cut()

    @rule(which=st.integers(0, 99))
    def heartbeat(self, which: int) -> None:
        link = self.links[which % len(self.links)]
        if not link.over and link.connection is not None:
            link.connection.on_ping_sent()
            link.down.append(("ping",))

    # The store

    @rule(operations=st.integers(1, 5))
    def store_commits(self, operations: int) -> None:
        for _ in range(operations):
            self.store.commit()

    @rule(operations=st.integers(1, 5))
    def store_answers(self, operations: int) -> None:
        for _ in range(operations):
            self.store.answer()

    @rule()
    def all_settles(self) -> None:
        self._settle()

    @rule(seconds=st.sampled_from([1.0, LIFETIME + 1, 6 * LIFETIME]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds
        self._run(self.store.expire(self.clock.now))

    # The gateway

    @rule()
    def gateway_crashes(self) -> None:
        self._restart(self.store)

    @rule()
    def store_is_lost(self) -> None:
        self._restart(SteppedStore(f"e{next(self.epochs)}", self.store.truth))

    def _restart(self, store: SteppedStore) -> None:
        self.store.crash()
        for link in self.links:
            if not link.over:
                link.over = True
                link.down.append(("close",))
        if store is not self.store:
            # Bans go with it, and messages to players whom nobody knows any more.
            self.banned.clear()
            for device in self.devices:
                device.unacked.clear()
        self.store = store
        self.gateway = Gateway(store, self.clock, self.ids)

    @rule(who=st.integers(0, 9))
    def player_is_banned(self, who: int) -> None:
        true_id = self._device(who).true_id
        if true_id:
            self.banned.add(true_id)
            self._run(self.gateway.revocation.ban(TrueId(true_id), Ban(None, "")))

    @rule()
    def bans_are_lifted(self) -> None:
        for true_id in self.banned:
            self._run(self.gateway.revocation.lift_ban(TrueId(true_id)))
        self.banned.clear()


TestPromise = Promise.TestCase
TestPromise.settings = settings(deadline=None, max_examples=400, stateful_step_count=60)
