"""Frames of websockets on their way out: built once for many."""

from __future__ import annotations

from typing import Final

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


class TextFrames:
    """Builds text frames; for the same two objects again it is the same frame."""

    __slots__ = ("_body", "_frame", "_prefix")

    def __init__(self) -> None:
        self._prefix = self._body = self._frame = b""

    def build(self, prefix: bytes, body: bytes) -> bytes:
        """Return a text frame of both parts."""
        if body is not self._body or prefix is not self._prefix:
            self._prefix, self._body = prefix, body
            self._frame = build_frame(TEXT_FRAME, prefix, body)
        return self._frame
