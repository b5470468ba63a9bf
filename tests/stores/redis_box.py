"""The state of a mailbox as Redis has it: see gateway/stores/redis/lua/_box.lua."""

from __future__ import annotations

import struct
from typing import Any, Final

_BOX: Final = struct.Struct(">4d")
Box = tuple[float, float, float, float]


def read_box(box: Any) -> Box:
    """Return head, count, size and the time of the oldest message."""
    head, count, size, oldest = (0.0, 0.0, 0.0, 0.0) if box is None else _BOX.unpack(box)
    return head, count, size, oldest


def make_box(head: float, count: float = 0, size: float = 0, oldest: float = 0) -> bytes:
    """Return the state of such a mailbox."""
    return _BOX.pack(head, count, size, oldest)
