"""HTTP/1.1 from node to node, over connections that are kept.

Tornado's own client opens a connection for each request and cannot give one up midway, which is
what happens to a long poll whose client goes away.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tornado.httputil import HTTPHeaders, HTTPInputError, parse_response_start_line
from tornado.iostream import IOStream, StreamClosedError, UnsatisfiableReadError
from tornado.tcpclient import TCPClient

logger = logging.getLogger(__name__)

#: How long a connection to another node may take, in seconds.
_CONNECT_TIMEOUT: Final = 3.0
_HEAD_BYTES: Final = 16 * 1024
#: Idle connections kept to a node, and for how long in seconds: the other side keeps them longer.
_IDLE: Final = 64
_IDLE_SECONDS: Final = 15.0
#: Far above what a poll is answered with.
_MAX_ANSWER: Final = 64 * 2**20
_HEAD_END: Final = b"\r\n\r\n"


class LinkFailed(Exception):
    """The other node could not be reached, or has not answered as one does."""


class NobodyListens(LinkFailed):
    """There is no process at its address."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; `raw` is its head as it came. The body of a 101 is what follows on the stream."""

    status: int
    headers: HTTPHeaders
    raw: bytes
    body: bytes


class NodeLinks:
    """Connections to the internal addresses of other nodes. `monotonic` returns seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._client = TCPClient()
        self._idle: dict[str, deque[tuple[float, IOStream]]] = {}

    async def acquire(self, address: str, *, fresh: bool = False) -> IOStream:
        """Return a connection: one that is kept, unless it must be `fresh`. Raises LinkFailed."""
        idle = self._idle.get(address)
        while idle and not fresh:
            since, stream = idle.pop()
            stream.set_close_callback(None)
            if not stream.closed() and self._monotonic() - since < _IDLE_SECONDS:
                return stream
            stream.close()
        self._drop_old()
        host, _, port = address.rpartition(":")
        try:
            stream = await self._client.connect(
                host.strip("[]"), int(port), timeout=_CONNECT_TIMEOUT
            )
        except (OSError, StreamClosedError, TimeoutError, ValueError) as error:
            reason = error.real_error if isinstance(error, StreamClosedError) else error
            refused = isinstance(reason, ConnectionRefusedError)
            failure = NobodyListens if refused else LinkFailed
            raise failure(f"{address} cannot be reached: {error!r}") from error
        stream.set_nodelay(True)
        return stream

    def release(self, address: str, stream: IOStream) -> None:
        """Keep a connection for the next request."""
        idle = self._idle.setdefault(address, deque())
        if stream.closed() or len(idle) >= _IDLE:
            stream.close()
            return
        idle.append((self._monotonic(), stream))
        # Also has the close seen when nobody reads.
        stream.set_close_callback(lambda: self._on_closed(address, stream))

    async def ask(
        self,
        stream: IOStream,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes = b"",
    ) -> Reply:
        """Send a request and read the answer. Raises LinkFailed."""
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {headers[name]}" for name in headers)]
        if method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join(lines).encode() + _HEAD_END
        try:
            stream.write(head + body)
            raw = await stream.read_until(_HEAD_END, max_bytes=_HEAD_BYTES)
            start, _, rest = raw.decode("latin-1").partition("\r\n")
            status = parse_response_start_line(start).code
            answered = HTTPHeaders.parse(rest.rstrip("\r\n"))
            length = 0 if status == 101 else int(answered.get("Content-Length", "0"))
            if not 0 <= length <= _MAX_ANSWER:
                raise LinkFailed(f"an answer of {length} bytes")
            content = await stream.read_bytes(length) if length else b""
        except (
            HTTPInputError,
            OSError,
            StreamClosedError,
            UnsatisfiableReadError,
            ValueError,
        ) as error:
            raise LinkFailed(f"no answer: {error!r}") from error
        return Reply(status, answered, raw, content)

    def close(self) -> None:
        """Close what is kept."""
        for idle in self._idle.values():
            for _, stream in idle:
                stream.set_close_callback(None)
                stream.close()
        self._idle.clear()
        self._client.close()

    def _on_closed(self, address: str, stream: IOStream) -> None:
        idle = self._idle.get(address, deque())
        self._idle[address] = deque(each for each in idle if each[1] is not stream)

    def _drop_old(self) -> None:
        """Close what was kept for too long: its node may be gone without a word."""
        oldest = self._monotonic() - _IDLE_SECONDS
        for address, idle in tuple(self._idle.items()):
            while idle and idle[0][0] < oldest:
                _, stream = idle.popleft()
                stream.set_close_callback(None)
                stream.close()
            if not idle:
                del self._idle[address]
