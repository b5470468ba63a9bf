"""What a client writes: the upgrade request and masked frames, built before they are needed."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

#: One key for all connections, as one mask for all frames: servers only read them. The mask is
#: not zero, which would be legal too and leave payloads as they are: ws, which Node's Socket.IO
#: runs on, skips the unmasking then, and the others do not.
_KEY = base64.b64encode(b"tests.bench.load")
_MASK = b"\x6c\x6f\x61\x64"
_ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#: What the server answers to our key.
ACCEPT = base64.b64encode(hashlib.sha1(_KEY + _ACCEPT_GUID, usedforsecurity=False).digest())


def upgrade(host: str) -> bytes:
    """Return the request that opens a Socket.IO connection by WebSocket."""
    return (
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n"
        b"Host: %b\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: %b\r\n\r\n" % (host.encode(), _KEY)
    )


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """Return the masked frame of a payload below 64 KiB; opcode 1 is text, 10 a pong."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    else:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2)
    mask = int.from_bytes((_MASK * (size // 4 + 1))[:size])
    return head + _MASK + (int.from_bytes(payload) ^ mask).to_bytes(size)


def connect(auth: dict[str, Any]) -> bytes:
    """Return the frame of a CONNECT with a payload."""
    return frame(b"40" + json.dumps(auth).encode())


def message(target: str, data: str, ack: bool) -> bytes:
    """Return the frame of a message to a player."""
    payload = json.dumps({"target_id": target, "data": data})
    return frame(f'42{"1" if ack else ""}["message",{payload}]'.encode())


def join(room: str) -> bytes:
    """Return the frame of a join with an ack."""
    return frame(f'421["join",{json.dumps({"room": room})}]'.encode())


def publish(room: str, data: str, volatile: bool) -> bytes:
    """Return the frame of a message to a room."""
    payload = json.dumps({"room": room, "data": data, "volatile": volatile})
    return frame(f'42["publish",{payload}]'.encode())
