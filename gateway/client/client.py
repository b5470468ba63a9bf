"""The client: what a bot or a game's server calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, Self, overload

from gateway.client.core import REQUEST_SECONDS, Core
from gateway.client.errors import ClientClosed, ClientError
from gateway.client.inbox import Inbox
from gateway.client.payloads import (
    Fault,
    Goaway,
    Lost,
    Members,
    Membership,
    Message,
    Players,
    Presence,
    Receipt,
    Refusal,
    Rejoined,
    RoomChange,
    Session,
    State,
    StateChange,
)
from gateway.client.watching import convert


class GatewayClient:
    """A player's connection that outlives its links. Made by `connect`; `async with` opens it."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._reading = False

    # Life

    async def start(self) -> None:
        """Connect, and wait until the gateway has let this client in; `async with` does it.

        It waits for as long as the gateway is away: bound that with `asyncio.timeout`. Raises
        ConnectRefused when the gateway refuses for good, StorageInUse and StorageMismatch.
        """
        await self._core.start()

    async def close(self) -> None:
        """Disconnect. The token is kept: the next client with the same storage goes on.

        Whoever waits for a receipt or an answer gets ClientClosed.
        """
        await self._core.close()

    async def __aenter__(self) -> Self:
        """See start."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close. The message in hand of `messages` is handled unless there was an exception."""
        if kind is None and self._reading:
            self._core.inbox.settle()
        await self.close()

    async def wait_closed(self) -> None:
        """Wait for the end. Raises the ClientError that ended it, unless it was on purpose."""
        await self._core.connection.wait_ended()
        error = self._core.connection.error
        if error is not None and not isinstance(error, ClientClosed):
            raise error

    async def logout(self, *, everywhere: bool = False) -> None:
        """End the session, or all of this player, and close.

        Whatever comes of it, the token is forgotten. Raises TimedOut, RequestRefused, or LinkLost
        if nobody can say whether the gateway has heard of it.
        """
        await self._core.log_out(everywhere)

    # What is known

    @property
    def state(self) -> State:
        """Where it is: `connecting`, `live`, `away` (and back soon) or `closed`."""
        return self._core.connection.state

    @property
    def connected(self) -> bool:
        """Whether `state` is `live`."""
        return self._core.connection.live

    @property
    def session(self) -> Session | None:
        """The last event `session`; None before the first."""
        return self._core.session

    @property
    def true_id(self) -> str:
        """The player. Raises ClientError (`not_live`) before the first session."""
        if self._core.session is None:
            raise ClientError("not_live", "there is no session yet")
        return self._core.session.true_id

    @property
    def queued(self) -> int:
        """How many messages have no receipt yet."""
        return len(self._core.outbox)

    # Listening

    @overload
    def on(
        self, event: Literal["message"], handler: Callable[[Message], object]
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["session"], handler: Callable[[Session], object]
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["lost"], handler: Callable[[Lost], object]
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["presence"], handler: Callable[[Presence], object]
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["room"], handler: Callable[[RoomChange], object]
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["rejoined"], handler: Callable[[Rejoined], object]
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["error"], handler: Callable[[Fault], object]
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["goaway"], handler: Callable[[Goaway], object]
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["refused"], handler: Callable[[Refusal], object]
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["state"], handler: Callable[[StateChange], object]
    ) -> Callable[[], None]: ...

    def on(self, event: str, handler: Callable[[Any], object]) -> Callable[[], None]:
        """Call `handler` at each event of this name; return what stops that.

        Messages are handled one after the other, by functions or coroutine functions; one
        counts as handled when all of them have returned, or raised: that is logged. Handlers of
        all other events are functions and are called at once. Raises ValueError for an unknown
        event, TypeError for a coroutine function where none can be, and RuntimeError for
        `message` while `messages` is read.
        """
        if event == "message" and self._reading:
            raise RuntimeError("messages() is read already: use one of the two")
        off = self._core.handlers.on(event, handler)
        self._core.dispatch()
        return off

    def messages(self) -> Messages:
        """Return the messages to come, for `async for`; it ends when the client is closed.

        A message counts as handled when the next one is asked for, or when the client's
        `async with` ends without an exception; until then it comes again in the next process
        that uses the storage. Raises RuntimeError where `on("message", …)` handles them.
        """
        if self._core.dispatches:
            raise RuntimeError('on("message", …) handles the messages already: use one of the two')
        self._reading = True
        return Messages(self._core.inbox)

    # Sending

    def send(
        self,
        target_id: str,
        data: object,
        *,
        type: str | None = None,
        id: str | None = None,
        volatile: bool = False,
        timeout: float | None = None,
    ) -> asyncio.Future[Receipt]:
        """Send a message; return its receipt to come, which need not be awaited.

        It is sent again until there is a receipt, over reconnects and restarts of the gateway,
        and arrives once. Messages to one target arrive in the order of the calls. `id` is the
        idempotency key, by default a random one. `volatile` is now or never: not stored, not
        queued. After `timeout` seconds, by default never, it is given up; it may have arrived.
        So is one whose receipt is still missing when the gateway knows its key no longer
        (`mailbox.dedupe_window`).

        Raises QueueFull, ClientClosed, and TypeError or ValueError for data that is not JSON.
        The receipt raises RequestRefused, TimedOut, PlayerChanged, ClientClosed.
        """
        payload = _without_none({"target_id": target_id, "type": type})
        return self._core.submit("message", target_id, payload, data, id, volatile, timeout)

    def publish(
        self,
        room: str,
        data: object,
        *,
        type: str | None = None,
        id: str | None = None,
        volatile: bool = False,
        key: str | None = None,
        echo: bool = True,
        timeout: float | None = None,
    ) -> asyncio.Future[Receipt]:
        """Send a message to a room; everything else as in `send`.

        Without `echo` this connection does not get it back. Of volatile ones with the same `key`
        a slow reader gets the latest; `volatile` also sends no others.
        """
        payload = _without_none({"room": room, "type": type, "key": key})
        if not echo:
            payload["echo"] = False
        return self._core.submit("publish", room, payload, data, id, volatile, timeout)

    def volatile(
        self,
        room: str,
        key: str,
        data: object,
        *,
        type: str | None = None,
        echo: bool = True,
    ) -> asyncio.Future[Receipt]:
        """Send a room the latest state of something, such as a position, under its `key`.

        It is not stored, and of each key only the newest is sent or kept for who is slow: the
        last one arrives at all who are connected, also when this client was away meanwhile. Those
        in between may not: their receipts say `dropped`. `type` and `echo` are as in `publish`;
        nobody has to look at the receipt. Raises as `send` does.
        """
        payload = _without_none({"type": type})
        if not echo:
            payload["echo"] = False
        return self._core.submit_latest(room, key, payload, data)

    async def drained(self) -> None:
        """Wait until no message is without a receipt."""
        await self._core.outbox.drained()

    # Asking

    async def request(
        self,
        event: str,
        payload: Mapping[str, Any] | None = None,
        *,
        timeout: float = REQUEST_SECONDS,
    ) -> dict[str, Any]:
        """Send any other event and return its answer.

        It waits until the client is live and asks again after a reconnect, and when the gateway
        says "later", within `timeout` seconds. Raises RequestRefused, TimedOut, QueueFull,
        ClientClosed.
        """
        return await self._core.request(event, payload or {}, timeout)

    async def join(self, room: str) -> Membership:
        """Become a member of a room; that outlives reconnects. Raises as `request` does.

        Where the gateway has ended it meanwhile the client joins again, and the event `rejoined`
        says so: what the room was told meanwhile is missed. If that is refused, the events
        `error` and `room` say so.
        """
        return await self._core.rooms.join(room)

    async def leave(self, room: str) -> Membership:
        """Leave a room. Raises as `request` does."""
        return await self._core.rooms.leave(room)

    async def members(
        self, room: str, *, limit: int | None = None, cursor: str | None = None
    ) -> Members:
        """Return a page of a room's members. Raises as `request` does."""
        page = _without_none({"room": room, "limit": limit, "cursor": cursor})
        return await self._core.rooms.members(page)

    async def players(self, *, limit: int | None = None, cursor: str | None = None) -> Players:
        """Return a page of who is online. Raises as `request` does."""
        page = _without_none({"limit": limit, "cursor": cursor})
        return convert(await self.request("players", page), Players)

    async def set_presence(
        self, state: Literal["active", "hidden"] | None = None, *, status: str | None = None
    ) -> None:
        """Say where this player is; what is left out stays. It is repeated on reconnects.

        An empty `status` is none. Raises as `request` does.
        """
        await self._core.watching.say(state, status)

    async def watch(self, true_ids: Iterable[str]) -> dict[str, Presence]:
        """Hear of these players, by the event `presence`, over reconnects too.

        Returns where they are now. Raises as `request` does.
        """
        return await self._core.watching.watch(true_ids)

    async def unwatch(self, true_ids: Iterable[str]) -> None:
        """Hear of these players no more. Raises as `request` does."""
        await self._core.watching.unwatch(true_ids)


class Messages:
    """An async iterator over the messages of a client: see GatewayClient.messages."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> Message:
        """Return the next one. Raises the ClientError that ended the client, if one did."""
        self._inbox.settle()
        message = await self._inbox.get()
        if message is None:
            raise StopAsyncIteration
        return message


def _without_none(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in payload.items() if value is not None}
