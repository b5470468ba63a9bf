"""python-socketio's server on our engine, for every namespace but the gateway's own.

Extensions write stock python-socketio handlers; python-engineio's transports, its queues and
its tasks for each frame are not used. Every touch of a private name of python-socketio is in
this module; tests/transport/test_extensions.py fails loudly when a new release moves one.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import socketio  # type: ignore[import-untyped]

from gateway.engineio import Data
from gateway.errors import ConnectRefused, ProtocolViolation, RequestRefused
from gateway.failure_log import FailureLog
from gateway.limits import TokenBucket
from gateway.messages import TrueId, decode_event, encode
from gateway.transport.engine import EngineConnection
from gateway.transport.packets import (
    ACK,
    BINARY_ACK,
    BINARY_EVENT,
    CONNECT,
    DISCONNECT,
    EVENT,
    RESERVED_EVENTS,
    Packet,
    check_ack,
    decode_auth,
)

logger = logging.getLogger(__name__)

#: Packets of one client that wait for a handler; more end the connection.
_MAX_PENDING: Final = 1000
#: Handlers of one client that run at once; more of its events are refused.
_MAX_RUNNING: Final = 100
_RETRY_AFTER: Final = 1.0
#: What python-socketio raises for a malformed packet.
_UNDECODABLE: Final = (ValueError, LookupError, TypeError, RecursionError)


class _Facade:
    """What python-socketio takes for python-engineio's server."""

    async_mode = "asgi"

    def __init__(self, new_sid: Callable[[], str], failures: FailureLog) -> None:
        self.generate_id = new_sid
        self._failures = failures
        self.handlers: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {}
        self.peers: dict[str, ExtensionPeer] = {}
        self._sessions: dict[str, dict[str, Any]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def on(self, event: str, handler: Callable[..., Coroutine[Any, Any, None]]) -> None:
        self.handlers[event] = handler

    async def send(self, sid: str, data: Data) -> None:
        peer = self.peers.get(sid)
        if peer is not None:
            peer.send(data)

    async def send_packet(self, sid: str, packet: Any) -> None:
        await self.send(sid, packet.data)

    async def disconnect(self, sid: str) -> None:
        peer = self.peers.get(sid)
        if peer is not None:
            peer.engine.close("server disconnect")

    async def get_session(self, sid: str) -> dict[str, Any]:
        return self._sessions.setdefault(sid, {})

    async def save_session(self, sid: str, session: dict[str, Any]) -> None:
        self._sessions[sid] = session

    def transport(self, sid: str) -> str:
        return self.peers[sid].engine.session.transport

    def create_event(self) -> asyncio.Event:
        return asyncio.Event()

    async def sleep(self, seconds: float = 0) -> None:
        await asyncio.sleep(seconds)

    def start_background_task(self, target: Any, *args: Any, **kwargs: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(target(*args, **kwargs), name="extension")
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failures.note("a task of the extensions", error)

    async def shutdown(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def forget(self, sid: str) -> None:
        self.peers.pop(sid, None)
        self._sessions.pop(sid, None)


@dataclass(frozen=True, slots=True)
class ExtensionRules:
    """Who may use the extensions' namespaces: with `players_only` who has logged in on `/`.

    `events_per_second` and `burst` are those of each client; a rate of 0 means no limit.
    """

    players_only: bool = False
    events_per_second: float = 0.0
    burst: float = 0.0


class ExtensionServer(socketio.AsyncServer):  # type: ignore[misc]
    """A stock `socketio.AsyncServer` that our engine drives; `new_sid` makes fresh ids.

    What handlers raise ends no connection: the client is told, and the log, but not each time.
    """

    def __init__(
        self,
        new_sid: Callable[[], str],
        rules: ExtensionRules = ExtensionRules(),
        limit_hit: Callable[[str], None] = lambda limit: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._new_sid = new_sid
        self.rules = rules
        self.limit_hit = limit_hit
        self.monotonic = monotonic
        self.failures = FailureLog(logger, monotonic)
        self._signatures: dict[Callable[..., Any], inspect.Signature | None] = {}
        self._running: Counter[str] = Counter()
        # A logger of ours keeps the library from adding a handler to its own. Below an error it
        # only tells of what clients do.
        library_logger = logging.getLogger(f"{__name__}.socketio")
        library_logger.setLevel(logging.ERROR)
        super().__init__(logger=library_logger, json=json)

    def _engineio_server_class(self) -> Callable[..., _Facade]:
        return lambda **options: _Facade(self._new_sid, self.failures)

    async def _handle_event_internal(
        self, server: Any, sid: str, eio_sid: str, data: list[Any], namespace: str, id: int | None
    ) -> None:
        handler, arguments = self._handler(data[0], namespace, (sid, *data[1:]))
        self._running[sid] += 1
        try:
            if self._running[sid] > _MAX_RUNNING:
                self.limit_hit("extensions.running")
                text = f"{_MAX_RUNNING} of your events are being handled: wait for them"
                raise RequestRefused("rate_limited", text, None, _RETRY_AFTER)
            if handler is not None and not self._takes(handler, arguments):
                raise RequestRefused("bad_request", "the event takes other arguments than these")
            await super()._handle_event_internal(server, sid, eio_sid, data, namespace, id)
        except RequestRefused as error:
            refusal = error
        except Exception as error:
            # Not the event's name: a client may choose it.
            self.failures.note(f"{_name_of(handler)}, a handler of {namespace},", error)
            refusal = RequestRefused("unavailable", "the gateway had a fault", None, _RETRY_AFTER)
        else:
            return
        finally:
            self._running[sid] -= 1
            if not self._running[sid]:
                del self._running[sid]
        if id is not None:
            answer = {"ok": False, "error": refusal.payload()}
            await self._send_packet(
                eio_sid,
                self.packet_class(socketio.packet.ACK, namespace=namespace, id=id, data=[answer]),
            )

    async def _trigger_event(self, event: str, namespace: str, *arguments: Any) -> Any:
        if event not in self.reserved_events:
            return await super()._trigger_event(event, namespace, *arguments)
        # The payload of a CONNECT, and the reason of an end, are for handlers that take them.
        handler, adapted = self._handler(event, namespace, arguments)
        if handler is not None and not self._takes(handler, adapted):
            arguments = arguments[:-1]
        try:
            return await super()._trigger_event(event, namespace, *arguments)
        except socketio.exceptions.ConnectionRefusedError:
            raise
        except ConnectRefused as error:
            payload = error.payload()
            raise socketio.exceptions.ConnectionRefusedError(
                payload["message"], payload["data"]
            ) from None
        except Exception as error:
            self.failures.note(f"{_name_of(handler)}, a handler of {namespace},", error)
            if event == "disconnect":
                # Raised on, it would keep python-socketio from forgetting the client.
                return None
            fault = ConnectRefused("unavailable", "the gateway had a fault", _RETRY_AFTER).payload()
            raise socketio.exceptions.ConnectionRefusedError(
                fault["message"], fault["data"]
            ) from None

    def _handler(
        self, event: str, namespace: str, arguments: tuple[Any, ...]
    ) -> tuple[Callable[..., Any] | None, tuple[Any, ...]]:
        """Return who handles an event, if anybody does, and the arguments as they get them."""
        handler, adapted = self._get_event_handler(event, namespace, arguments)
        if handler is None:
            holder, adapted = self._get_namespace_handler(namespace, arguments)
            handler = getattr(holder, f"on_{event}", None)
        return handler, adapted

    def _takes(self, handler: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
        """Tell whether a handler can be called with so many arguments."""
        if handler not in self._signatures:
            try:
                self._signatures[handler] = inspect.signature(handler)
            except (TypeError, ValueError):
                self._signatures[handler] = None
        signature = self._signatures[handler]
        if signature is None:
            return True
        try:
            signature.bind(*arguments)
        except TypeError:
            return False
        return True

    def player_of(self, sid: str, namespace: str) -> TrueId | None:
        """Return the player whose client has this sid, if it is here."""
        engine_sid = self.manager.eio_sid_from_sid(sid, namespace)
        peer = self.eio.peers.get(engine_sid)
        return peer.player if peer is not None else None

    async def forget(self, engine_sid: str) -> None:
        """Forget a client also where it did not get to be connected: its handler failed."""
        for namespace in tuple(self.manager.get_namespaces()):
            sid = self.manager.sid_from_eio_sid(engine_sid, namespace)
            if sid is not None:
                await self.manager.disconnect(sid, namespace, ignore_queue=True)

    def knows(self, namespace: str) -> bool:
        """Tell whether an extension has handlers for this namespace."""
        return namespace in self.handlers or namespace in self.namespace_handlers


class ExtensionPeer:
    """One client's connection to the extensions' namespaces; packets are taken in order."""

    def __init__(
        self, server: ExtensionServer, engine: EngineConnection, on_connected: Callable[[], None]
    ) -> None:
        self.engine = engine
        self._server = server
        self._facade: _Facade = server.eio
        self._sid = engine.session.sid
        self._on_connected = on_connected
        #: Who the client has logged in as on `/`.
        self.player: TrueId | None = None
        self._rules = server.rules
        self._bucket: TokenBucket | None = None
        self._namespaces: set[str] = set()
        self._pending: deque[Data] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._facade.peers[self._sid] = self

    def on_player(self, player: TrueId) -> None:
        """The client has logged in on `/`: what waited for that goes on."""
        self.player = player
        self._start()

    def on_player_left(self) -> None:
        """The client has left `/`: it leaves the namespaces that are for players."""
        self.player = None
        if self._server.rules.players_only:
            for namespace in tuple(self._namespaces):
                self._facade.start_background_task(self._dismiss, namespace)

    async def _dismiss(self, namespace: str) -> None:
        sid = self._server.manager.sid_from_eio_sid(self._sid, namespace)
        if sid is not None:
            await self._server.disconnect(sid, namespace)

    def receive(self, packet: Packet, text: str) -> bool:
        """Take a checked packet; return False when it was refused, with what belongs to it.

        Raises ProtocolViolation, or ConnectRefused for a CONNECT.
        """
        if packet.kind == CONNECT:
            if packet.namespace in self._namespaces:
                raise ProtocolViolation("CONNECT was sent already")
            auth = decode_auth(packet.body)
            if auth is not None and not isinstance(auth, dict):
                raise ProtocolViolation("the payload of CONNECT must be an object")
        elif packet.namespace not in self._namespaces:
            raise ProtocolViolation("not connected to this namespace")
        elif packet.kind in (EVENT, BINARY_EVENT):
            name = _event_name(packet.body)
            if name in RESERVED_EVENTS:
                raise ProtocolViolation("the event's name is reserved")
            if not self._may_send(packet):
                return False
        elif packet.kind in (ACK, BINARY_ACK):
            check_ack(packet.body)
        elif packet.kind == DISCONNECT:
            self._namespaces.discard(packet.namespace)
        if packet.kind in (BINARY_EVENT, BINARY_ACK) and not packet.attachments:
            # python-socketio would wait for an attachment for ever.
            kind = EVENT if packet.kind == BINARY_EVENT else ACK
            text = kind + text.partition("-")[2]
        self._enqueue(text)
        return True

    def _may_send(self, packet: Packet) -> bool:
        rules = self._server.rules
        now = self._server.monotonic()
        if self._bucket is None or rules is not self._rules:
            self._rules = rules
            self._bucket = TokenBucket(rules.events_per_second, rules.burst, now)
        wait = self._bucket.take(now)
        if not wait:
            return True
        self._server.limit_hit("messages_per_second")
        if packet.ack_id is not None:
            error = RequestRefused("rate_limited", "too many events", None, round(wait, 3))
            namespace = "" if packet.namespace == "/" else f"{packet.namespace},"
            prefix = f"43{namespace}{packet.ack_id}".encode()
            self.engine.send_text(prefix, encode([{"ok": False, "error": error.payload()}]))
        return False

    def receive_attachment(self, data: bytes) -> None:
        """Take a binary attachment of the packet before."""
        self._enqueue(data)

    def send(self, data: Data) -> None:
        """Write what python-socketio sends; its CONNECTs and DISCONNECTs open and close here."""
        if isinstance(data, str) and data[:1] in (CONNECT, DISCONNECT):
            namespace = data[1:].partition(",")[0] if data[1:2] == "/" else "/"
            if data[0] == CONNECT:
                self._namespaces.add(namespace)
                self._on_connected()
            else:
                self._namespaces.discard(namespace)
        if isinstance(data, str):
            self.engine.send_text(b"4", data.encode())
        else:
            self.engine.send_data(data)

    def close(self, reason: str) -> None:
        """The engine's connection is over."""
        if self._worker is not None:
            self._worker.cancel()
        self._facade.start_background_task(self._disconnect, reason)

    async def _disconnect(self, reason: str) -> None:
        if self._sid in self._server.environ:
            await self._facade.handlers["disconnect"](self._sid, reason)
            await self._server.forget(self._sid)
        self._facade.forget(self._sid)

    def _enqueue(self, data: Data) -> None:
        if len(self._pending) >= _MAX_PENDING:
            raise ProtocolViolation("too many packets at once")
        self._pending.append(data)
        self._start()

    def _start(self) -> None:
        if self._server.rules.players_only and self.player is None:
            return
        if self._worker is None and self._pending:
            self._worker = asyncio.get_running_loop().create_task(self._work(), name="extensions")

    async def _work(self) -> None:
        try:
            if self._sid not in self._server.environ:
                environ = {"REMOTE_ADDR": self.engine.address, "gateway.sid": self._sid}
                await self._facade.handlers["connect"](self._sid, environ)
            while self._pending:
                await self._facade.handlers["message"](self._sid, self._pending.popleft())
        except Exception as error:
            if isinstance(error, _UNDECODABLE) and not _from_handler(error):
                logger.debug("%s sent what cannot be decoded: %s", self.engine.address, error)
                self.engine.close("parse error")
                return
            logger.exception("an extension failed; its client's connection is closed")
            self.engine.close("server error")
        finally:
            self._worker = None


def _from_handler(error: Exception) -> bool:
    """Tell whether an extension's handler raised this, not python-socketio's decoder."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code.co_name == "_trigger_event" for frame, _ in frames)


def _name_of(handler: Callable[..., Any] | None) -> str:
    return getattr(handler, "__qualname__", type(handler).__qualname__)


def _event_name(body: str) -> str:
    try:
        return decode_event(body.encode())[0]
    except RequestRefused as error:
        raise ProtocolViolation(str(error)) from None
