"""The connection: when to connect, what to present, and what a refusal or an end means."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from gateway.client.backoff import Backoff
from gateway.client.credentials import Auth
from gateway.client.errors import ClientClosed, ClientError, ConnectRefused, LinkLost, seconds
from gateway.client.memory import Memory
from gateway.client.payloads import Fault, Gap, Goaway, Greeting, Refusal, State, StateChange

_logger: Final = logging.getLogger(__name__)

#: A connection that lasted so long is a new start for the backoff. Seconds.
_STABLE_SECONDS: Final = 5.0
#: When a `goaway` does not say. Seconds.
_GOAWAY_SECONDS: Final = 1.0


class Receiver(Protocol):
    """Who hears of a link. Nothing here blocks."""

    def on_event(self, name: str, payload: object) -> None:
        """The gateway sent an event."""

    def on_refused(self, error: object) -> None:
        """The CONNECT was refused."""

    def on_ended(self, reason: str) -> None:
        """The link is gone. Called once, last; not when the link was closed from this side."""


class Link(Protocol):
    """One connection: opened once, then closed whatever happened."""

    @property
    def backlog(self) -> int:
        """How many packets wait for the connection to take them."""

    async def open(self, auth: Mapping[str, Any]) -> None:
        """Connect, and send `auth` with CONNECT. Raises LinkLost."""

    async def ask(self, event: str, payload: Mapping[str, Any]) -> object:
        """Send an event and return what it is acknowledged with. Raises LinkLost."""

    async def close(self) -> None:
        """End it; nothing of it is left after that."""


class Owner(Protocol):
    """Who is told of the connection. Nothing here blocks."""

    def emit(self, event: str, value: object) -> None:
        """Something happened that handlers may want to know."""

    def on_event(self, name: str, payload: object) -> None:
        """The gateway sent an event that is none of the connection's business."""

    def on_session(self, greeting: Greeting, gap: Gap | None) -> None:
        """It is live."""

    def on_down(self) -> None:
        """No answer will come any more to what was asked."""

    def on_end(self, error: ClientError | None) -> None:
        """It will not connect again; None when it was closed on purpose."""


@dataclass(frozen=True, slots=True)
class _Next:
    """Why a link ended, and when to try again: `delay` in seconds, None as the backoff says."""

    reason: str
    delay: float | None = None


class Connection:
    """Connects, again and again, until `finish` or a refusal that is final.

    `make_link` returns a new link whose events go to its argument. `timeout` is how long a
    connect may take up to the event `session`, in seconds.
    """

    def __init__(
        self,
        owner: Owner,
        memory: Memory,
        make_link: Callable[[Receiver], Link],
        auth: Auth,
        backoff: Backoff,
        timeout: float,
    ) -> None:
        self._owner = owner
        self._memory = memory
        self._make_link = make_link
        self._auth = auth
        self._backoff = backoff
        self._timeout = timeout
        self._task: asyncio.Task[None] | None = None
        self._link: Link | None = None
        #: Done when the link, or the attempt to get one, is over.
        self._over: asyncio.Future[_Next] | None = None
        self._deadline: asyncio.Timeout | None = None
        self._live_at: float | None = None
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._complained = False
        self.state: State = "connecting"
        #: Why it is closed, if not on purpose.
        self.error: ClientError | None = None

    # For the owner

    @property
    def live(self) -> bool:
        """Whether an event can be sent now."""
        return self.state == "live"

    @property
    def closed(self) -> bool:
        """Whether it will not connect again."""
        return self.state == "closed"

    @property
    def backlog(self) -> int:
        """How many packets wait for the link to take them."""
        return 0 if self._link is None else self._link.backlog

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="gateway-client")

    async def wait_live(self) -> None:
        """Wait until it is live. Raises the ClientError that it ended with, else ClientClosed."""
        while not self.live:
            if self.closed:
                raise self.error or closed()
            self._changed.clear()
            await self._changed.wait()

    async def wait_ended(self) -> None:
        """Wait until it is closed."""
        await self._ended.wait()

    async def ask(self, event: str, payload: Mapping[str, Any]) -> object:
        """Send an event and return its answer. Raises LinkLost."""
        if self._link is None or not self.live:
            raise LinkLost("not connected")
        return await self._link.ask(event, payload)

    def restart(self, reason: str) -> None:
        """Connect anew, at once."""
        self._go_down(_Next(reason, 0.0))

    def finish(self, error: ClientError | None = None) -> None:
        """Be closed from now on, if it is not yet."""
        if self.closed:
            return
        was_live, self.error = self.live, error
        if self._over is not None and not self._over.done():
            self._over.set_result(_Next("closed"))
        self._set_state("closed", "closed" if error is None else error.code)
        self._ended.set()
        if was_live:
            self._owner.on_down()
        self._owner.on_end(error)

    async def close(self) -> None:
        """Be closed, and wait until nothing of it is left."""
        self.finish()
        task = self._task
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait({task})

    # Connecting

    async def _run(self) -> None:
        try:
            while not self.closed:
                following = await self._connect_once()
                if not self.closed:
                    self._set_state("connecting" if self._live_at is None else "away", "")
                    delay = self._backoff.next() if following.delay is None else following.delay
                    await asyncio.sleep(delay)
        except Exception as error:
            _logger.exception("the client failed")
            self.finish(ClientError("failed", f"the client failed: {type(error).__name__}"))
        finally:
            self.finish()

    async def _connect_once(self) -> _Next:
        """Have one connection, from the first try to its end; return why it ended."""
        over = self._over = asyncio.get_running_loop().create_future()
        live_before = self._live_at
        link: Link | None = None
        try:
            async with asyncio.timeout(self._timeout) as deadline:
                self._deadline = deadline
                auth = await self._presented()
                if auth is not None:
                    link = self._link = self._make_link(self)
                    await link.open(auth)
                # Shielded, or the timeout would cancel it instead of leaving it to say why.
                await asyncio.shield(over)
        except TimeoutError:
            self._go_down(_Next("no answer to the connect in time"))
        except LinkLost as lost:
            self._go_down(_Next(lost.message))
        finally:
            self._link = None
            if link is not None:
                await _to_its_end(link.close())
        following: _Next = over.result()
        if self._live_at == live_before:
            self._complain(following.reason)
        return following

    async def _presented(self) -> dict[str, Any] | None:
        """Return what goes with CONNECT; None if there is nothing, which ends the attempt."""
        # No trailing offset on messages: their ids say the same.
        token = self._memory.token
        if token is not None:
            offset = self._memory.offset
            auth = {"token": token, "recovery": False}
            return auth if offset is None else {**auth, "offset": offset}
        try:
            found = self._auth() if callable(self._auth) else self._auth
            credentials = await found if inspect.isawaitable(found) else found
            return {**credentials.payload(), "recovery": False}
        except Exception as error:
            _logger.warning("no credentials: %s", type(error).__name__)
            self._owner.emit("error", Fault("auth_failed", str(error), "auth"))
            self._go_down(_Next("auth_failed"))
            return None

    def _complain(self, reason: str) -> None:
        """Say once that there is no way to the gateway."""
        if not self._complained and not self.closed:
            self._complained = True
            _logger.warning("the gateway cannot be reached (%s): trying again", reason)

    # From the link

    def on_event(self, name: str, payload: object) -> None:
        """See Receiver.on_event."""
        if name == "session":
            self._on_session(payload)
        elif name == "goaway":
            self._on_goaway(payload)
        elif self.live or name == "error":
            # What a link brings that was given up already comes again over the next one.
            self._owner.on_event(name, payload)

    def _on_session(self, payload: object) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is None or self._over is None or self._over.done():
            return
        try:
            greeting = msgspec.convert(payload, Greeting)
        except msgspec.ValidationError as error:
            self._go_down(_Next(f"the gateway's greeting is none: {error}"))
            return
        # First of all: the token that was presented is spent.
        gap = self._memory.accept(greeting)
        if deadline.expired():
            return
        deadline.reschedule(None)
        self._live_at = asyncio.get_running_loop().time()
        if self._complained:
            self._complained = False
            _logger.info("the gateway is back")
        self._set_state("live", "")
        # Unless a handler has closed it just now.
        if self.live:
            self._owner.on_session(greeting, gap)

    def _on_goaway(self, payload: object) -> None:
        try:
            notice = msgspec.convert(payload, Goaway)
        except msgspec.ValidationError:
            notice = Goaway()
        self._owner.emit("goaway", notice)
        wait = seconds(notice.reconnect_in)
        delay = self._backoff.spread(_GOAWAY_SECONDS if wait is None else wait)
        self._go_down(_Next(notice.reason or "goaway", delay))

    def on_refused(self, error: object) -> None:
        """See Receiver.on_refused."""
        packet: Mapping[str, Any] = error if isinstance(error, dict) else {}
        data, message = packet.get("data"), str(packet.get("message") or "refused")
        code = data.get("code") if isinstance(data, dict) else None
        if not isinstance(data, dict) or not isinstance(code, str):
            self._go_down(_Next(message))
            return
        reconnect, wait = data.get("reconnect") is True, seconds(data.get("retry_after"))
        # A ban is the player's, not the token's: forgetting it would make a new guest of them.
        again = not reconnect and self._memory.token is not None and code != "banned"
        final = not reconnect and not again
        self._owner.emit("refused", Refusal(code, message, reconnect, wait, final))
        if final:
            self.finish(ConnectRefused(code, message, wait))
        elif again:
            _logger.warning("the session is refused (%s): logging in anew", code)
            self._memory.forget()
            self._go_down(_Next(code, 0.0))
        else:
            self._go_down(_Next(code, None if wait is None else self._backoff.spread(wait)))

    def on_ended(self, reason: str) -> None:
        """See Receiver.on_ended."""
        self._go_down(_Next(reason))

    def _go_down(self, following: _Next) -> None:
        """The link, or the attempt to get one, is over: what follows is known."""
        if self._over is None or self._over.done():
            return
        self._over.set_result(following)
        if not self.live:
            return
        if self._live_at is not None:
            lasted = asyncio.get_running_loop().time() - self._live_at
            if lasted > _STABLE_SECONDS:
                self._backoff.reset()
        self._set_state("away", following.reason)
        self._owner.on_down()

    def _set_state(self, state: State, reason: str) -> None:
        if state != self.state and not self.closed:
            self.state = state
            self._changed.set()
            self._owner.emit("state", StateChange(state, reason))


def closed() -> ClientClosed:
    """Return why nothing can be asked of a client that was closed."""
    return ClientClosed("closed", "the client is closed")


async def _to_its_end(closing: Any) -> None:
    """Await something that has to end, however often who waits for it is cancelled."""
    task = asyncio.get_running_loop().create_task(closing, name="gateway-close")
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError
