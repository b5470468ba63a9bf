"""Who is logged in to the operator's page: sessions of API keys, in memory only."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

from gateway.api_keys import ApiKey


class AdminSessions:
    """Sessions that last `lifetime` seconds, at most `limit` of them; 0 is no limit.

    `holds` tells whether a key is still good: a session ends with its key. Of a token only a
    digest is kept, so that a look-up tells nothing of the tokens there are by how long it takes.
    """

    def __init__(
        self,
        lifetime: float,
        limit: int,
        holds: Callable[[ApiKey], bool],
        on_limit: Callable[[], None],
        monotonic: Callable[[], float],
        new_token: Callable[[], str],
    ) -> None:
        self.lifetime = lifetime
        self._limit = limit
        self._holds = holds
        self._on_limit = on_limit
        self._monotonic = monotonic
        self._new_token = new_token
        #: The oldest first: key, and when the session ends.
        self._sessions: OrderedDict[bytes, tuple[ApiKey, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, key: ApiKey) -> str:
        """Open a session and return its token; the oldest one goes if there are too many."""
        now = self._monotonic()
        while self._sessions and next(iter(self._sessions.values()))[1] <= now:
            self._sessions.popitem(last=False)
        if self._limit and len(self._sessions) >= self._limit:
            self._on_limit()
            self._sessions.popitem(last=False)
        token = self._new_token()
        self._sessions[_digest(token)] = (key, now + self.lifetime)
        return token

    def key_of(self, token: str) -> ApiKey | None:
        """Return the key of a session, or None if there is none (any more)."""
        digest = _digest(token)
        found = self._sessions.get(digest)
        if found is None:
            return None
        key, end = found
        if end <= self._monotonic() or not self._holds(key):
            del self._sessions[digest]
            return None
        return key

    def close(self, token: str) -> None:
        """End a session, if it is there."""
        self._sessions.pop(_digest(token), None)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
