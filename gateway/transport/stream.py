"""A connected socket on the event loop: asyncio's transport for sockets, as far as picows needs it.

This one is compiled. asyncio's own is interpreted, which is half of what a small read or write
costs; aiofastnet's, which is not, takes 4 KiB more for each connection.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

#: What asyncio's transports have for limits, in bytes.
_HIGH: Final = 64 * 1024
#: Looked up once: each write needs it.
_send: Final = socket.socket.send
#: In the place of a protocol that has been told that its connection is lost.
_NOBODY: Final = asyncio.BufferedProtocol()


class Turn:
    """The streams that have something to write when the event loop's turn ends."""

    __slots__ = ("_loop", "_streams")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._streams: list[Stream] = []

    def add(self, stream: Stream) -> None:
        """Flush this stream when the turn ends."""
        if not self._streams:
            self._loop.call_soon(self._end)
        self._streams.append(stream)

    def _end(self) -> None:
        streams, self._streams = self._streams, []
        for stream in streams:
            stream.end_turn()


class Stream:
    """Reads into a protocol and writes at once, or when the kernel has room again.

    The methods are those of asyncio.Transport, but for those that cork; all is of the event
    loop's thread.
    """

    __slots__ = (
        "_closing",
        "_corked",
        "_corked_bytes",
        "_descriptor",
        "_high",
        "_loop",
        "_lost",
        "_low",
        "_more_corked",
        "_paused",
        "_protocol",
        "_socket",
        "_turn",
        "_unsent",
        "on_progress",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connected: socket.socket,
        protocol: asyncio.BufferedProtocol,
        turn: Turn,
    ) -> None:
        # What a small write needs comes first, for compiled that is the order in memory: of a
        # message to a thousand, each connection's part of it has left the processor's cache.
        #: Nothing is read or accepted any more; what is unsent still goes.
        self._closing = False
        #: Most turns have one write for a stream: no list is made for that.
        self._corked: bytes | None = None
        self._more_corked: list[bytes] | None = None
        self._corked_bytes = 0
        #: Made when the kernel takes less than there is: most connections never need it.
        self._unsent: bytearray | None = None
        self._turn = turn
        self._socket = connected
        #: Called after each flush, if somebody waits for what is buffered to go.
        self.on_progress: Callable[[], None] | None = None
        self._loop = loop
        self._descriptor = connected.fileno()
        self._protocol = protocol
        self._high = _HIGH
        self._low = _HIGH // 4
        #: The protocol was told to write no more.
        self._paused = False
        #: The protocol is about to be told that the connection is lost, or was.
        self._lost = False

    def start(self) -> None:
        """Tell the protocol that it is connected, then read."""
        self._protocol.connection_made(self)  # type: ignore[arg-type]
        if not self._closing:
            self._loop.add_reader(self._descriptor, self._on_readable)

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Return the socket, or its `peername` or `sockname`."""
        if name == "socket":
            return self._socket
        try:
            if name == "peername":
                return self._socket.getpeername()
            if name == "sockname":
                return self._socket.getsockname()
        except OSError:
            # The peer has gone already: reading will tell.
            pass
        return default

    def is_closing(self) -> bool:
        """Tell whether the stream is closed, or will be when all is sent."""
        return self._closing

    # Reading

    def _on_readable(self) -> None:
        if self._closing:
            return
        protocol = self._protocol
        try:
            buffer = protocol.get_buffer(-1)
        except Exception as error:
            self._fail(error, "a protocol has no buffer")
            return
        try:
            size = self._socket.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        try:
            if size:
                protocol.buffer_updated(size)
            elif not protocol.eof_received():
                self.close()
            else:
                self._loop.remove_reader(self._descriptor)
        except Exception as error:
            self._fail(error, "a protocol failed")

    # Writing

    def cork(self, data: bytes) -> int:
        """Send data when the event loop's turn ends: one system call for all that it has.

        Returns how many bytes are not gone yet.
        """
        if self._closing:
            return 0
        if self._corked is None:
            self._corked = data
            self._turn.add(self)
        elif self._more_corked is None:
            self._more_corked = [data]
        else:
            self._more_corked.append(data)
        self._corked_bytes = corked = self._corked_bytes + len(data)
        return corked if self._unsent is None else corked + len(self._unsent)

    def flush(self) -> None:
        """Send what was corked."""
        first = self._corked
        if first is None:
            return
        more = self._more_corked
        self._corked = self._more_corked = None
        self._corked_bytes = 0
        self._send(first if more is None else b"".join([first, *more]))
        # What the kernel took at once never comes to `resume_writing`.
        if self.on_progress is not None:
            self.on_progress()

    def end_turn(self) -> None:
        """Send what was corked; a fault ends this connection, and no other."""
        try:
            self.flush()
        except Exception as error:
            self._fail(error, "what was corked could not be sent")

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send data, or keep what the kernel does not take now; after `close` it goes nowhere."""
        self.flush()
        self._send(data)

    def _send(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            return
        unsent = self._unsent
        if unsent:
            unsent += data
        else:
            try:
                sent = _send(self._socket, data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._lose(error)
                return
            if sent == len(data):
                return
            self._unsent = unsent = bytearray(data[sent:])
            self._loop.add_writer(self._descriptor, self._on_writable)
        if len(unsent) > self._high and not self._paused:
            self._paused = True
            self._tell(True)

    def writelines(self, parts: list[bytes | bytearray | memoryview]) -> None:
        """Send these one after the other."""
        self.write(b"".join(parts))

    def _on_writable(self) -> None:
        unsent = self._unsent
        if self._lost or not unsent:
            return
        try:
            sent = _send(self._socket, unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        del unsent[:sent]
        if not unsent:
            self._unsent = None
            self._loop.remove_writer(self._descriptor)
        if self._paused and len(unsent) <= self._low:
            self._paused = False
            # It may write.
            self._tell(False)
        if self._closing and self._unsent is None:
            self._lose(None)

    def _tell(self, pause: bool) -> None:
        try:
            if pause:
                self._protocol.pause_writing()
            else:
                self._protocol.resume_writing()
        except Exception as error:
            self._fail(error, "a protocol's flow control failed")

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the kernel has not taken yet."""
        unsent = self._unsent
        return self._corked_bytes + (len(unsent) if unsent is not None else 0)

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        """Tell the protocol when more than `high` bytes are unsent, and when `low` are left."""
        self._high, self._low = high, low

    # Ends

    def close(self) -> None:
        """Close the socket when all is sent."""
        self.flush()
        if not self._closing:
            self._closing = True
            self._loop.remove_reader(self._descriptor)
            if self._unsent is None:
                self._lose(None)

    def abort(self) -> None:
        """Close the socket now."""
        self._lose(None)

    def _fail(self, error: Exception, text: str) -> None:
        self._loop.call_exception_handler({"message": text, "exception": error})
        self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        """Give the connection up; the protocol is told in the loop's next turn."""
        if self._lost:
            return
        self._lost = True
        self._corked = self._more_corked = None
        self._corked_bytes = 0
        if self._unsent is not None:
            self._unsent = None
            self._loop.remove_writer(self._descriptor)
        if not self._closing:
            self._closing = True
            self._loop.remove_reader(self._descriptor)
        self._loop.call_soon(self._on_lost, error)

    def _on_lost(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._protocol = _NOBODY
            self._socket.close()
