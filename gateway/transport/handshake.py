"""What both ways to a websocket check of its handshake: RFC 6455, section 4.2.1."""

from __future__ import annotations

import base64
import binascii
from typing import Final

_KEY_BYTES: Final = 16


def is_key(text: str) -> bool:
    """Tell whether this is a well-formed Sec-WebSocket-Key."""
    try:
        return len(base64.b64decode(text, validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        return False


def asks_for_upgrade(connection: str) -> bool:
    """Tell whether the header Connection holds the token `Upgrade`."""
    return any(option.strip().lower() == "upgrade" for option in connection.split(","))
