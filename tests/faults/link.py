"""A websocket client by hand: what goes on the wire and when is up to the tests."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import struct
from collections.abc import AsyncIterator
from typing import Final

TEXT: Final = 1
_CLOSE: Final = 8
_PING: Final = 9
_PONG: Final = 10
_FINAL: Final = 0x80
_MASKED: Final = 0x80
_CHUNK: Final = 65536
_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PATH: Final = "/socket.io/?EIO=4&transport=websocket"


class LinkLost(Exception):
    """The link is gone, or never was."""


class Link:
    """One websocket, from its handshake to its end. `open` makes it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._closed = False

    @classmethod
    async def open(cls, host: str, port: int) -> Link:
        """Connect and shake hands. Raises LinkLost."""
        try:
            reader, writer = await asyncio.open_connection(host, port, limit=_CHUNK)
        except OSError as error:
            raise LinkLost(str(error)) from None
        link = cls(reader, writer)
        try:
            await link._shake_hands(f"{host}:{port}")
        except BaseException:
            link.abort()
            raise
        return link

    async def _shake_hands(self, host: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self._writer.write(
            f"GET {_PATH} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise LinkLost(f"no answer to the handshake: {error}") from None
        accept = base64.b64encode(hashlib.sha1((key + _GUID).encode()).digest()).decode()
        if not head.startswith("HTTP/1.1 101 ") or accept not in head:
            raise LinkLost(f"no websocket: {head[:100]!r}")

    def send(self, packet: str) -> None:
        """Send a packet in a text frame; on a dead link it goes nowhere."""
        self._send_frame(TEXT, packet.encode())

    def _send_frame(self, opcode: int, payload: bytes) -> None:
        if self._closed or self._writer.is_closing():
            return
        # A mask of zeros is a mask, and costs nothing.
        size = len(payload)
        if size < 126:
            head = struct.pack("!BB4x", _FINAL | opcode, _MASKED | size)
        elif size < 65536:
            head = struct.pack("!BBH4x", _FINAL | opcode, _MASKED | 126, size)
        else:
            head = struct.pack("!BBQ4x", _FINAL | opcode, _MASKED | 127, size)
        self._writer.write(head + payload)

    async def packets(self) -> AsyncIterator[str]:
        """Yield what comes in, until the link is lost. Raises LinkLost."""
        buffer = bytearray()
        while True:
            try:
                chunk = await self._reader.read(_CHUNK)
            except OSError as error:
                raise LinkLost(str(error)) from None
            if not chunk or self._closed:
                raise LinkLost("closed")
            buffer += chunk
            while (frame := _take_frame(buffer)) is not None:
                opcode, payload = frame
                if opcode == TEXT:
                    yield payload.decode()
                elif opcode == _PING:
                    self._send_frame(_PONG, payload)
                elif opcode == _CLOSE:
                    raise LinkLost("closed by the gateway")
                if self._closed:
                    raise LinkLost("closed")

    def abort(self) -> None:
        """Give the link up. The other side sees a connection that ends, or nothing at all."""
        self._closed = True
        # Not `transport.abort`: a browser's sockets too are closed after what was written.
        self._writer.close()
        # Wakes who waits in `packets`.
        if not self._reader.at_eof():
            self._reader.feed_eof()


def _take_frame(buffer: bytearray) -> tuple[int, bytes] | None:
    """Cut the first frame off the buffer; None if it is not complete. Servers do not mask."""
    if len(buffer) < 2:
        return None
    size, start = buffer[1], 2
    if size == 126:
        start = 4
    elif size == 127:
        start = 10
    if len(buffer) < start:
        return None
    if start > 2:
        size = int.from_bytes(buffer[2:start])
    end = start + size
    if len(buffer) < end:
        return None
    if not buffer[0] & _FINAL:
        raise LinkLost("a fragment")
    frame = buffer[0] & 0x0F, bytes(buffer[start:end])
    del buffer[:end]
    return frame
