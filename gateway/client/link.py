"""One connection: python-socketio's client, with a bound on everything that it waits for.

Its own reconnection is off: it knows nothing of `retry_after`, and nothing of a link may outlive
it. Its log has tokens in it and goes nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import socketio  # type: ignore[import-untyped]
from engineio import base_client  # type: ignore[import-untyped]

from gateway.client.connection import Receiver
from gateway.client.errors import LinkLost

_logger: Final = logging.getLogger(__name__)

#: Events of the gateway: PROTOCOL 1.4.
EVENTS: Final = ("session", "message", "presence", "room", "error", "goaway")
#: How long a frame may take to get out of this process. A peer that reads nothing is dead.
_WRITE_SECONDS: Final = 20.0
#: How long a farewell may take.
_CLOSE_SECONDS: Final = 1.0
#: How long the event loop may take to notice that a connection was cut, and how often to look.
_GONE_SECONDS: Final = 1.0
_GONE_TRIES: Final = 100
#: The largest frame from the gateway. Bytes.
_MAX_FRAME: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Address:
    """Where the gateway is, and how to get there."""

    url: str
    path: str = "socket.io"
    ssl: ssl.SSLContext | None = None


class _WebSocket(aiohttp.ClientWebSocketResponse):
    """aiohttp's, without a wait that has no end."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # aiohttp forgets it when it closes, with bytes in its buffer that may never go.
        self._socket = self.get_extra_info("socket")

    async def send_str(self, data: str, compress: int | None = None) -> None:
        """Raises TimeoutError, an OSError, when the peer takes nothing any more."""
        async with asyncio.timeout(_WRITE_SECONDS):
            await super().send_str(data, compress)

    async def receive(self, timeout: float | None = None) -> aiohttp.WSMessage:
        """Receive; who stops waiting has waited longer than a heartbeat takes, or leaves."""
        try:
            return await super().receive(timeout)
        except asyncio.CancelledError:
            # Or what still waits to be written would keep the library waiting, too.
            self.cut()
            raise

    async def close(self, *, code: int = 1000, message: bytes = b"") -> bool:
        """Close; without an answer to that, cut."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                return await super().close(code=code, message=message)
        except TimeoutError:
            return False
        finally:
            self.cut()

    def cut(self) -> None:
        """End the connection under it, also while bytes wait that nobody takes."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    async def gone(self) -> None:
        """Wait until the event loop has seen the end of a connection that was cut."""
        for _ in range(_GONE_TRIES):
            if self._socket is None or self._socket.fileno() < 0:
                return
            await asyncio.sleep(_GONE_SECONDS / _GONE_TRIES)


class SocketIOLink:
    """One connection. `open` once, then `close` whatever happened."""

    def __init__(self, address: Address, receiver: Receiver) -> None:
        self._address = address
        self._receiver: Receiver | None = receiver
        self._http: aiohttp.ClientSession | None = None
        self._watch: asyncio.Task[None] | None = None
        self._asking: set[asyncio.Future[object]] = set()
        self._client: Any = None
        self._sockets: list[_WebSocket] = []

    async def open(self, auth: Mapping[str, Any]) -> None:
        """Connect, and send `auth` with CONNECT. Raises LinkLost."""
        address = self._address
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=True if address.ssl is None else address.ssl),
            ws_response_class=self._new_socket,  # type: ignore[arg-type]
        )
        quiet = logging.Logger("gateway.client.wire", logging.CRITICAL + 1)
        client = self._client = socketio.AsyncClient(
            reconnection=False,
            logger=quiet,
            engineio_logger=quiet,
            handle_sigint=False,
            http_session=self._http,
            websocket_extra_options={"max_msg_size": _MAX_FRAME},
        )
        # Plain functions: the library starts a task for each packet, and these run in its first
        # step, in order. A trailing argument is an offset for those that cannot read ids.
        for name in EVENTS:
            client.on(name, self._hears(name))
        client.on("connect_error", self._on_connect_error)
        client.on("disconnect", lambda reason=None: self._end(str(reason or "disconnected")))
        try:
            await client.connect(
                address.url,
                auth=dict(auth),
                transports=["websocket"],
                namespaces=["/"],
                socketio_path=address.path,
                wait=False,
            )
        except Exception as error:
            # What the library raises when a link dies in the wrong moment is of many kinds.
            raise LinkLost(f"no connection: {type(error).__name__} {error}") from error
        self._watch = asyncio.get_running_loop().create_task(self._follow(), name="gateway-link")

    def _new_socket(self, *arguments: Any, **options: Any) -> _WebSocket:
        """Remember every socket: the library forgets one that does not open in time."""
        made = _WebSocket(*arguments, **options)
        self._sockets.append(made)
        return made

    def _hears(self, name: str) -> Callable[..., None]:
        def hear(payload: object = None, *_: object) -> None:
            if self._receiver is not None:
                self._guard(self._receiver.on_event, name, payload)

        return hear

    def _on_connect_error(self, error: object = None, *_: object) -> None:
        # A plain text is about the transport; `open` raises then.
        if self._receiver is not None and isinstance(error, dict):
            self._guard(self._receiver.on_refused, error)

    def _guard(self, call: Callable[..., None], *arguments: object) -> None:
        """The library must not see our faults: it would hide them, or call again."""
        try:
            call(*arguments)
        except Exception:
            _logger.exception("an event of the gateway could not be handled")

    async def _follow(self) -> None:
        """Wait for the end that no event tells of: before the CONNECT was answered."""
        reading = self._client.eio.read_loop_task
        if reading is not None:
            await asyncio.wait({reading})
        self._end("connection lost")

    def _end(self, reason: str) -> None:
        receiver, self._receiver = self._receiver, None
        for question in self._asking:
            if not question.done():
                question.set_exception(LinkLost(reason))
        if receiver is not None:
            self._guard(receiver.on_ended, reason)

    @property
    def backlog(self) -> int:
        """How many packets wait for the connection to take them."""
        return 0 if self._client is None else int(self._client.eio.queue.qsize())

    async def ask(self, event: str, payload: Mapping[str, Any]) -> object:
        """Send an event and return what it is acknowledged with. Raises LinkLost."""
        if self._receiver is None:
            raise LinkLost("not connected")
        question: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        def answer(*arguments: object) -> None:
            if not question.done():
                question.set_result(arguments[0] if arguments else None)

        self._asking.add(question)
        try:
            await self._client.emit(event, dict(payload), callback=answer)
            return await question
        except socketio.exceptions.SocketIOError as error:
            raise LinkLost(str(error)) from error
        finally:
            self._asking.discard(question)

    async def close(self) -> None:
        """End it, politely if that is quick; nothing of it is left after that."""
        self._receiver = None
        self._end("closed")
        if self._client is not None:
            await self._tear_down(self._client)
        if self._http is not None:
            await self._http.close()

    async def _tear_down(self, client: Any) -> None:
        eio = client.eio
        tasks = {eio.read_loop_task, eio.write_loop_task, self._watch} - {None}
        # A task of its own: a cancelled task of the library's would cancel who waits for it.
        farewell = asyncio.get_running_loop().create_task(
            client.disconnect(), name="gateway-farewell"
        )
        await asyncio.wait({farewell}, timeout=_CLOSE_SECONDS * 2)
        for made in self._sockets:
            await made.close()
            await made.gone()
        tasks.add(farewell)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled() and task.exception() is not None:
                _logger.debug("a task of a link ended by %r", task.exception())
        # Where a farewell was cut short, the library still has it in its list.
        with contextlib.suppress(ValueError):
            base_client.connected_clients.remove(eio)
