"""Limits that only failed attempts count against, so that honest players never meet them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Final

from gateway.limits import KeyedBuckets

#: Keys remembered by each limit.
MAX_KEYS: Final = 16_384


class Failures:
    """Failures of each key; attempts under way count as failed until they are settled."""

    __slots__ = ("_buckets", "_pending")

    def __init__(self, per_minute: int) -> None:
        self._buckets = KeyedBuckets(per_minute / 60, per_minute, MAX_KEYS)
        self._pending: Counter[Hashable] = Counter()

    def wait(self, key: Hashable, now: float) -> float:
        """Return the seconds until the key may try again, 0 for now."""
        return self._buckets.peek(key, now, 1 + self._pending[key])

    def begin(self, key: Hashable) -> None:
        """An attempt begins."""
        self._pending[key] += 1

    def settle(self, key: Hashable, now: float, *, failed: bool) -> None:
        """An attempt that began has ended."""
        self._pending[key] -= 1
        if not self._pending[key]:
            del self._pending[key]
        if failed:
            self._buckets.take(key, now)
