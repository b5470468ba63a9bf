"""The parts of a client, put together: the connection and all that hangs on it."""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from gateway.client.backoff import Backoff
from gateway.client.connection import Connection, Link, Receiver, closed
from gateway.client.credentials import Auth
from gateway.client.errors import (
    LATER,
    ClientClosed,
    ClientError,
    LinkLost,
    PlayerChanged,
    QueueFull,
    RequestRefused,
    TimedOut,
)
from gateway.client.handlers import Handlers
from gateway.client.inbox import Inbox
from gateway.client.latest import DROPPED, Latest
from gateway.client.memory import Memory
from gateway.client.outbox import Outbox, receipt_of, snapshot, too_large
from gateway.client.payloads import (
    Fault,
    Gap,
    Greeting,
    Lost,
    Message,
    Presence,
    Receipt,
    RoomChange,
    Session,
)
from gateway.client.rooms import Rooms
from gateway.client.watching import Watching

_logger: Final = logging.getLogger(__name__)

REQUEST_SECONDS: Final = 10.0
#: When a refusal says "later" and not when. Seconds.
_PAUSE_SECONDS: Final = 1.0
#: More packets than that on their way out: a volatile message would come too late.
_MAX_BACKLOG: Final = 64
_EVENTS: Final = {"presence": Presence, "room": RoomChange, "error": Fault}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a client behaves; durations in seconds.

    `inbox` bounds the messages that wait to be handled; beyond it they wait in the gateway's
    mailbox. `queue` bounds those that wait for a receipt, and the requests that wait for an
    answer. `pipeline` is how many messages to one target may be on their way at once: 1 keeps
    their order whatever happens. Waits between tries double from `reconnect_delay` to
    `reconnect_delay_max`, half of them random. `connect_timeout` is for one try.
    """

    inbox: int = 1000
    queue: int = 1000
    pipeline: int = 1
    reconnect_delay: float = 1.0
    reconnect_delay_max: float = 15.0
    connect_timeout: float = 10.0


class Core:
    """What GatewayClient does, without its names and their explanations."""

    def __init__(
        self,
        make_link: Callable[[Receiver], Link],
        memory: Memory,
        auth: Auth,
        settings: Settings,
    ) -> None:
        self._backoff = Backoff(settings.reconnect_delay, settings.reconnect_delay_max)
        self._memory = memory
        self._limit = settings.queue
        self._requests = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._dispatcher: asyncio.Task[None] | None = None
        self._restoring: asyncio.Task[None] | None = None
        self.started = False
        self.session: Session | None = None
        self.handlers = Handlers()
        self.connection = Connection(
            self, memory, make_link, auth, self._backoff, settings.connect_timeout
        )
        self.inbox = Inbox(settings.inbox, memory, lambda: self.connection.restart("catching up"))
        self.watching = Watching(self.request, self.emit)
        self.rooms = Rooms(self.request, self.emit)
        self.outbox = Outbox(
            self.connection.ask,
            self.rooms.cure,
            settings.queue,
            settings.pipeline,
            self._backoff,
            time.time,
        )
        self.latest = Latest(
            self.connection.ask,
            self.rooms.cure,
            lambda: self.connection.backlog,
            settings.queue,
            self._backoff,
        )

    # Life

    async def start(self) -> None:
        """See GatewayClient.start."""
        if self.started:
            raise RuntimeError("a client is started once: make another one")
        self._memory.open()
        self.started = True
        self.connection.start()
        self.dispatch()
        try:
            await self.connection.wait_live()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See GatewayClient.close."""
        if not self.started:
            return
        await self.connection.close()
        current = asyncio.current_task()
        if self._dispatcher is not None and self._dispatcher is current:
            # The handler that closes the client has its message.
            self.inbox.settle()
        ending = {task for task in self._tasks if task is not current}
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending)
        await self.outbox.close()
        await self.latest.close()
        self._memory.close()

    async def log_out(self, everywhere: bool) -> None:
        """See GatewayClient.logout."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self.connection.wait_live()
                answer = await self.connection.ask("logout", {"everywhere": everywhere})
        except TimeoutError:
            raise TimedOut("logout") from None
        finally:
            self._memory.forget()
            self.connection.finish(ClientClosed("logged_out", "logged out"))
        _ok(answer)

    # Messages in

    def dispatch(self) -> None:
        """Begin to hand messages to their handlers, once there are some."""
        if self.started and self._dispatcher is None and self.handlers.of("message"):
            self._dispatcher = self._spawn(self._hand_out(), "gateway-messages")

    @property
    def dispatches(self) -> bool:
        """Whether handlers get the messages."""
        return bool(self.handlers.of("message"))

    async def _hand_out(self) -> None:
        while True:
            try:
                message = await self.inbox.get()
            except ClientError:
                return
            if message is None:
                return
            handlers = self.handlers.of("message")
            if not handlers:
                # The last one was removed: what comes waits for others.
                self.inbox.put_back()
                self._dispatcher = None
                return
            for handler in handlers:
                try:
                    outcome = handler(message)
                    if inspect.isawaitable(outcome):
                        await outcome
                except Exception:
                    _logger.exception("a handler of message failed")
            self.inbox.settle()

    # Messages out

    def submit(
        self,
        event: str,
        target: str,
        payload: dict[str, Any],
        data: object,
        key: str | None,
        volatile: bool,
        timeout: float | None,
    ) -> asyncio.Future[Receipt]:
        """See GatewayClient.send. `target` is where the order of messages matters."""
        payload["data"], size = snapshot(data)
        if self.connection.closed or not self.started:
            raise self.connection.error or closed()
        if volatile:
            return self._send_now(event, {**payload, "volatile": True}, size, timeout)
        payload["id"] = secrets.token_hex(16) if key is None else key
        return self.outbox.add(event, target, payload, size, timeout)

    def submit_latest(
        self, room: str, key: str, payload: Mapping[str, Any], data: object
    ) -> asyncio.Future[Receipt]:
        """See GatewayClient.volatile."""
        copy, size = snapshot(data)
        if self.connection.closed or not self.started:
            raise self.connection.error or closed()
        whole = {**payload, "room": room, "key": key, "data": copy, "volatile": True}
        return self.latest.set((room, key), whole, size)

    def _send_now(
        self, event: str, payload: Mapping[str, Any], size: int, timeout: float | None
    ) -> asyncio.Future[Receipt]:
        """Now or never: whatever is in the way, the message is dropped."""
        allowed = self._message_bytes()
        if allowed and size > allowed:
            raise too_large(size, allowed)
        crowded = self.connection.backlog > _MAX_BACKLOG or len(self._tasks) >= self._limit
        if self.connection.live and not crowded:
            return self._spawn(self._ask_once(event, payload, timeout), "gateway-volatile")
        dropped: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        dropped.set_result(DROPPED)
        return dropped

    async def _ask_once(
        self, event: str, payload: Mapping[str, Any], timeout: float | None
    ) -> Receipt:
        try:
            async with asyncio.timeout(REQUEST_SECONDS if timeout is None else timeout):
                answer = await self.connection.ask(event, payload)
        except (LinkLost, TimeoutError):
            return DROPPED
        outcome = receipt_of(answer)
        if isinstance(outcome, Receipt):
            return outcome
        if outcome.code in LATER:
            return DROPPED
        raise outcome

    # Questions

    async def request(
        self, event: str, payload: Mapping[str, Any], timeout: float = REQUEST_SECONDS
    ) -> dict[str, Any]:
        """See GatewayClient.request."""
        if not self.started:
            raise closed()
        if self._requests >= self._limit:
            raise QueueFull(self._limit)
        self._requests += 1
        try:
            async with asyncio.timeout(timeout) as deadline:
                return await self._request(event, payload, deadline)
        except TimeoutError:
            raise TimedOut(event) from None
        finally:
            self._requests -= 1

    async def _request(
        self, event: str, payload: Mapping[str, Any], deadline: asyncio.Timeout
    ) -> dict[str, Any]:
        while True:
            await self.connection.wait_live()
            try:
                return _ok(await self.connection.ask(event, payload))
            except LinkLost:
                await asyncio.sleep(0)
            except RequestRefused as refused:
                if refused.code not in LATER:
                    raise
                pause = _PAUSE_SECONDS if refused.retry_after is None else refused.retry_after
                pause = self._backoff.spread(pause)
                end = deadline.when()
                if end is None or asyncio.get_running_loop().time() + pause > end:
                    raise
                await asyncio.sleep(pause)

    # From the connection

    def emit(self, event: str, value: object) -> None:
        """See Owner.emit."""
        self.handlers.emit(event, value)

    def on_event(self, name: str, payload: object) -> None:
        """See Owner.on_event."""
        try:
            if name == "message":
                self.inbox.put(msgspec.convert(payload, Message))
            elif name in _EVENTS:
                event = msgspec.convert(payload, _EVENTS[name])
                if isinstance(event, RoomChange):
                    self.rooms.on_change(event)
                self.emit(name, event)
        except msgspec.ValidationError as error:
            _logger.error("the gateway's event %s is none of ours: %s", name, error)

    def on_session(self, greeting: Greeting, gap: Gap | None) -> None:
        """See Owner.on_session."""
        before, session = self.session, greeting.session()
        self.session = session
        self.inbox.start()
        if before is not None and before.true_id != session.true_id:
            # Some may have been accepted from the player of before: sent again, they were doubles.
            self.outbox.reject(PlayerChanged())
            self.latest.reject(PlayerChanged())
            self.watching.forget_watched()
        self.rooms.on_session(session)
        self.emit("session", session)
        if gap is not None:
            self.emit("lost", Lost(session.outcome, gap))
        if self.connection.live:
            self.outbox.start(self._message_bytes(), self._limit_of("dedupe_window"))
            self.latest.start(self._message_bytes())
            if self._restoring is not None:
                self._restoring.cancel()
            self._restoring = self._spawn(self._restore(), "gateway-restore")

    async def _restore(self) -> None:
        await asyncio.gather(self.rooms.restore(), self.watching.restore())

    def on_down(self) -> None:
        """See Owner.on_down."""
        self.outbox.stop()
        self.latest.stop()

    def on_end(self, error: ClientError | None) -> None:
        """See Owner.on_end."""
        self.outbox.reject(error or closed())
        self.latest.reject(error or closed())
        self.inbox.end(None if isinstance(error, ClientClosed) else error)

    # Parts

    def _message_bytes(self) -> int:
        return int(self._limit_of("message_bytes"))

    def _limit_of(self, name: str) -> float:
        """Return a limit that the gateway has told, 0 for none."""
        found = None if self.session is None else self.session.limits.get(name)
        return found if isinstance(found, int | float) else 0

    def _spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _ok(answer: object) -> dict[str, Any]:
    if isinstance(answer, dict) and answer.get("ok") is True:
        return answer
    raise RequestRefused.of(answer.get("error") if isinstance(answer, dict) else None)
