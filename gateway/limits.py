"""Rates: token buckets, alone and by key in a bounded table."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal


class TokenBucket:
    """`rate` tokens a second flow in, up to `burst`; a rate of 0 means no limit."""

    __slots__ = ("_burst", "_rate", "_tokens", "_updated")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._updated = now

    def take(self, now: float, cost: float = 1.0) -> float:
        """Take `cost` tokens and return 0.0, or take none and return the seconds to wait."""
        wait = self.peek(now, cost)
        if wait == 0.0 and self._rate > 0:
            self._tokens -= cost
        return wait

    def peek(self, now: float, cost: float = 1.0) -> float:
        """Return the seconds until `cost` tokens could be taken; take none."""
        if self._rate <= 0:
            return 0.0
        # A clock that steps back must not freeze the bucket until it has caught up.
        elapsed = max(0.0, now - self._updated)
        self._tokens = min(self._burst, self._tokens + elapsed * self._rate)
        self._updated = now
        return 0.0 if self._tokens >= cost else (cost - self._tokens) / self._rate


class KeyedBuckets:
    """A token bucket for each key; the least recently used keys are forgotten first.

    A forgotten key starts again with a full bucket: the bound on memory is worth that.
    """

    __slots__ = ("_buckets", "_burst", "_max_keys", "_rate")

    def __init__(self, rate: float, burst: float, max_keys: int) -> None:
        self._rate = rate
        self._burst = burst
        self._max_keys = max_keys
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()

    def take(self, key: Hashable, now: float, cost: float = 1.0) -> float:
        """Take from the key's bucket: see TokenBucket.take."""
        return self._bucket(key, now).take(now, cost)

    def peek(self, key: Hashable, now: float, cost: float = 1.0) -> float:
        """Return the seconds to wait for the key: see TokenBucket.peek."""
        return self._bucket(key, now).peek(now, cost)

    def _bucket(self, key: Hashable, now: float) -> TokenBucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._rate, self._burst, now)
            if len(self._buckets) > self._max_keys:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket


#: What a hidden page gets of volatile messages.
HiddenPolicy = Literal["latest", "drop", "send"]


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of one connection: see `limits`, `presence.hidden_policy` in the YAML file."""

    messages_per_second: float
    burst: float
    send_buffer_bytes: int
    state_keys: int
    state_bytes: int
    hidden_policy: HiddenPolicy

    def bucket(self, now: float) -> TokenBucket | None:
        """Return a full bucket for the connection's events; None without a limit."""
        if not self.messages_per_second:
            return None
        return TokenBucket(self.messages_per_second, self.burst, now)
