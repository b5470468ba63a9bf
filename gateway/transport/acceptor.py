"""Accepts connections without TLS: websocket handshakes are answered here, all else is Tornado's.

Tornado's HTTP server costs more than everything else about a connect. So the head of a new
connection's first request is looked at without being taken (MSG_PEEK). If it is a plain
handshake for the engine that would be accepted, it is; anything else, odd or refused, goes to
Tornado as if nothing had happened, whose handler knows all the answers.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import socket
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

from gateway.engineio import PROTOCOL_VERSION, RequestError
from gateway.transport.engine import Engine
from gateway.transport.handshake import asks_for_upgrade, is_key
from gateway.transport.peer import PeerPolicy
from gateway.transport.picows import PicowsWebSockets
from gateway.transport.timers import Timer, TimerQueue

logger = logging.getLogger(__name__)

#: Connections accepted in one turn of the event loop.
_AT_ONCE: Final = 64
_PEEK_BYTES: Final = 4096
#: How long accepting rests when the process has no file descriptors left, in seconds.
_EXHAUSTED_PAUSE: Final = 0.5
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_TARGET: Final = b"GET /socket.io/?"
#: Headers that may come once only for a handshake to be plain.
_SINGLE: Final = frozenset(
    {"host", "origin", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version"}
)
#: A header without anything unusual: RFC 9110, section 5.
_HEADER: Final = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t\x20-\x7e]*)")
_BODY: Final = frozenset({"content-length", "transfer-encoding"})


class Acceptor:
    """Owns the listening sockets. `head_timeout` is in seconds, a limit of 0 means no limit."""

    def __init__(
        self,
        http: HTTPServer,
        engine: Engine,
        picows: PicowsWebSockets,
        peers: PeerPolicy,
        head_timeout: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._http = http
        self._engine = engine
        self._picows = picows
        self._peers = peers
        self._loop = loop
        self._listening: list[socket.socket] = []
        self._silent: dict[socket.socket, Timer[socket.socket]] = {}
        self._timers: TimerQueue[socket.socket] = TimerQueue(loop, head_timeout, self._drop)

    def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Accept from these non-blocking listening sockets."""
        self._listening += sockets
        for listening in sockets:
            self._loop.add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    # accept(2): the new connection's own fault, it is gone already.
                    logger.debug("a connection was lost while it was accepted: %s", error)
                    continue
                logger.error("no new connections for a moment: %s", error.strerror)
                self._loop.remove_reader(listening)
                self._loop.call_later(_EXHAUSTED_PAUSE, self._resume, listening)
                return
            accepted.setblocking(False)
            self._silent[accepted] = self._timers.start(accepted)
            # A Unix domain socket's peer has no address, only an empty text.
            self._loop.add_reader(accepted, self._look, accepted, address or ())

    def _resume(self, listening: socket.socket) -> None:
        if listening in self._listening:
            self._loop.add_reader(listening, self._accept, listening)

    def _look(self, accepted: socket.socket, address: tuple[Any, ...]) -> None:
        """The first bytes of a connection are here: whose is it?"""
        self._loop.remove_reader(accepted)
        self._silent.pop(accepted).cancel()
        try:
            data = accepted.recv(_PEEK_BYTES, socket.MSG_PEEK)
            if not data:
                accepted.close()
            elif not (data.startswith(_TARGET) and self._take(accepted, address, data)):
                self._http.handle_stream(IOStream(accepted), address)
        except OSError:
            accepted.close()

    def _take(self, accepted: socket.socket, address: tuple[Any, ...], data: bytes) -> bool:
        """Take a plain handshake that would be accepted; return False for anything else."""
        end = data.find(b"\r\n\r\n") + 4
        request = _parse(data[:end]) if end > len(_TARGET) else None
        if request is None:
            return False
        parameters, headers = request
        if not self._peers.allows_origin(headers.get("origin"), headers.get("host", "")):
            return False
        sid = parameters.get("sid")
        try:
            if sid is not None:
                connection = self._engine.connection(sid)
                connection.check_upgrade()
            else:
                forwarded = headers.get("x-forwarded-for", "")
                host = address[0] if address else ""
                peer = self._peers.address(host, forwarded)
                connection = self._engine.connect("websocket", peer)
        except RequestError:
            return False
        accepted.recv(end)
        key = headers["sec-websocket-key"]
        try:
            self._picows.take_over(accepted, key, b"", connection)
        except OSError:
            accepted.close()
            connection.on_websocket_failed()
        return True

    def _drop(self, accepted: socket.socket) -> None:
        """Nothing came in time."""
        self._loop.remove_reader(accepted)
        del self._silent[accepted]
        accepted.close()

    @property
    def silent(self) -> int:
        """How many connections were accepted that have not said anything yet."""
        return len(self._silent)

    def hold(self) -> None:
        """Accept no more: who comes now waits for the next process that has these sockets."""
        for listening in self._listening:
            self._loop.remove_reader(listening)
            listening.close()
        self._listening.clear()

    def stop(self) -> None:
        """Accept no more, and drop who has not said anything."""
        self._timers.stop()
        self.hold()
        for accepted in tuple(self._silent):
            self._drop(accepted)


def _parse(head: bytes) -> tuple[dict[str, str], dict[str, str]] | None:
    """Return query and headers (RFC 6455, section 4.2.1) of a plain handshake, else None."""
    try:
        request_line, *lines = head.decode("ascii").split("\r\n")[:-2]
        _, target, version = request_line.split(" ")
    except ValueError:
        return None
    if not target.isprintable():
        return None
    headers: dict[str, str] = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            return None
        name, value = match[1].lower(), match[2]
        if name in _BODY:
            return None
        if name in headers:
            if name in _SINGLE:
                return None
            value = f"{headers[name]},{value}"
        headers[name] = value.strip()
    parameters = parse_qsl(target.partition("?")[2], keep_blank_values=True)
    query = dict(parameters)
    plain = (
        version == "HTTP/1.1"
        and len(query) == len(parameters)
        and query.get("EIO") == PROTOCOL_VERSION
        and query.get("transport") == "websocket"
        and headers.get("upgrade", "").lower() == "websocket"
        and asks_for_upgrade(headers.get("connection", ""))
        and headers.get("sec-websocket-version") == "13"
        and is_key(headers.get("sec-websocket-key", ""))
        and "host" in headers
    )
    return (query, headers) if plain else None
