"""Close frames of websockets: RFC 6455, sections 5.5.1 and 7.4."""

from __future__ import annotations

from typing import Final

NORMAL: Final = 1000
PROTOCOL_ERROR: Final = 1002
INVALID_TEXT: Final = 1007
TOO_BIG: Final = 1009

#: Codes of the standard and of its registry that may be sent.
_STANDARD: Final = frozenset({*range(1000, 1004), *range(1007, 1015)})


def wrong_close(payload: bytes) -> int | None:
    """Return the code that a close frame with this payload is answered by if it is wrong."""
    if not payload:
        return None
    if len(payload) == 1:
        return PROTOCOL_ERROR
    code = int.from_bytes(payload[:2], "big")
    if code not in _STANDARD and not 3000 <= code <= 4999:
        return PROTOCOL_ERROR
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        return INVALID_TEXT
    return None
