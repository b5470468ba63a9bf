"""Conflation: of volatile values that cannot be written now, the latest for each key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable


class Conflation:
    """What waits for one connection, in the order of the last update of each key.

    `max_keys` and `max_bytes` bound it, 0 is no limit. The values are shared among
    connections, so their bytes count for each of them but exist once.
    """

    __slots__ = ("_bytes", "_max_bytes", "_max_keys", "_values")

    def __init__(self, max_keys: int, max_bytes: int) -> None:
        self._max_keys = max_keys
        self._max_bytes = max_bytes
        self._values: OrderedDict[Hashable, bytes] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    @property
    def size(self) -> int:
        """Bytes of all values together."""
        return self._bytes

    def put(self, key: Hashable, value: bytes) -> bool:
        """Keep the latest value of a key; return True when it took an older one's place."""
        old = self._values.pop(key, None)
        self._values[key] = value
        self._bytes += len(value)
        if old is None:
            return False
        self._bytes -= len(old)
        return True

    def over(self) -> str | None:
        """Return the limit that is exceeded, by its YAML key: then `pop` until it is not."""
        if self._max_keys and len(self._values) > self._max_keys:
            return "state_keys"
        if self._max_bytes and self._bytes > self._max_bytes:
            return "state_bytes"
        return None

    def pop(self) -> bytes | None:
        """Take out the value that was updated longest ago; None when there is none."""
        if not self._values:
            return None
        _, value = self._values.popitem(last=False)
        self._bytes -= len(value)
        return value
