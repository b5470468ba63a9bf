"""Frames on their way out: built once for many, and written when the event loop's turn ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.transport.stream import Stream

#: First bytes of frames that are whole messages.
TEXT_FRAME: Final = 0x81
BINARY_FRAME: Final = 0x82
#: Value of a header's length that says that 16 bits of length follow.
LENGTH_16: Final = 126


def build_frame(first: int, prefix: bytes, body: bytes) -> bytes:
    """Return a whole unmasked frame: RFC 6455, section 5.2. `first` holds FIN and opcode."""
    size = len(prefix) + len(body)
    if size < LENGTH_16:
        return b"%c%c%b%b" % (first, size, prefix, body)
    if size < 1 << 16:
        return b"%c\x7e%c%c%b%b" % (first, size >> 8, size & 0xFF, prefix, body)
    return b"%c\x7f%b%b%b" % (first, size.to_bytes(8, "big"), prefix, body)


class Turn:
    """The writers that have something to write in this turn, and the text frame built last."""

    __slots__ = ("_body", "_loop", "_prefix", "_writers", "frame")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._writers: list[FrameWriter] = []
        self._prefix = self._body = b""
        self.frame = b""

    def text_frame(self, prefix: bytes, body: bytes) -> bytes:
        """Return a text frame of both parts; for the same objects it is the same frame."""
        if body is self._body and prefix is self._prefix:
            return self.frame
        self._prefix, self._body = prefix, body
        self.frame = frame = build_frame(TEXT_FRAME, prefix, body)
        return frame

    def add(self, writer: FrameWriter) -> None:
        """Flush this writer when the turn ends."""
        if not self._writers:
            self._loop.call_soon(self._end)
        self._writers.append(writer)

    def _end(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.flush()


class FrameWriter:
    """Keeps a websocket's frames until the event loop's turn ends: one system call writes them all.

    They go nowhere before `open` and after `close`.
    """

    __slots__ = ("_corked", "_first", "_more", "_stream", "_turn", "on_progress", "paused")

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        #: Called after each write, if somebody waits for what is buffered to go.
        self.on_progress: Callable[[], None] | None = None
        self._stream: Stream | None = None
        #: Most turns have one frame for a connection: no list is made for that.
        self._first: bytes | None = None
        self._more: list[bytes] | None = None
        self._corked = 0
        #: Much of what was written is still with the stream.
        self.paused = False

    def open(self, stream: Stream) -> None:
        """Write to this stream from now on."""
        self._stream = stream

    def close(self) -> None:
        """Write what is kept back, and nothing more."""
        self.on_progress = None
        self.flush()
        self._stream = None

    @property
    def buffered(self) -> int:
        """Bytes of frames that the kernel has not taken yet."""
        stream = self._stream
        return 0 if stream is None else self._corked + stream.get_write_buffer_size()

    def send_text(self, prefix: bytes, body: bytes) -> int:
        """See WebSocketLink.send_text."""
        self.send(self._turn.text_frame(prefix, body))
        # While little is with the stream, it is not worth asking.
        return self.buffered if self.paused else self._corked

    def send(self, frame: bytes) -> None:
        """Write a frame."""
        if self._stream is None:
            return
        self._corked += len(frame)
        if self._first is None:
            self._first = frame
            self._turn.add(self)
        elif self._more is None:
            self._more = [frame]
        else:
            self._more.append(frame)

    def flush(self) -> None:
        """Write what was kept back to be written together."""
        first = self._first
        if first is None:
            return
        more = self._more
        self._first = self._more = None
        self._corked = 0
        stream = self._stream
        if stream is not None:
            stream.write(first if more is None else b"".join([first, *more]))
            # What the kernel took at once never comes to `resume_writing`.
            if self.on_progress is not None:
                self.on_progress()
