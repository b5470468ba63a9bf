"""When what was revoked, as stores keep it at hand."""

from __future__ import annotations

from collections import OrderedDict


class Revocations:
    """When sessions or players were revoked, in that order; beyond a bound only up to when.

    A bound of 0 is none.
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._times: OrderedDict[str, float] = OrderedDict()
        #: Whatever was issued up to then may have been revoked.
        self.until = 0.0

    def add(self, key: str, now: float) -> bool:
        """Remember a revocation; return whether an older one had to go for it."""
        self._times[key] = now
        self._times.move_to_end(key)
        if not self._bound or len(self._times) <= self._bound:
            return False
        self.until = max(self.until, self._times.popitem(last=False)[1])
        return True

    def get(self, key: str) -> float | None:
        """Return when the key was revoked, None if it was not or that is forgotten."""
        return self._times.get(key)

    def expire(self, oldest: float) -> None:
        """Forget what was revoked before `oldest`."""
        while self._times and next(iter(self._times.values())) < oldest:
            self._times.popitem(last=False)
