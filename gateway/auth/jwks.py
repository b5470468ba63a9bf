"""The keys of an identity provider that publishes them: fetched, kept, and fetched again.

One fetch at a time, not more often than `min_interval`, each bounded in time and size. Keys are
good for `max_age`: then log-ins wait for a fetch, and are told to come back if there is none.
Nobody with a session is concerned by that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from gateway.auth.jwt_keys import KeysUnavailable, NamedKey, VerifyKey, fits, parse_key_set

logger = logging.getLogger(__name__)

#: Unknown names that are remembered until the next fetch.
_MAX_UNKNOWN: Final = 1000

Fetch = Callable[[], Awaitable[bytes]]


class FetchFailed(Exception):
    """The keys could not be had; the text says why, to the operator."""


class Jwks:
    """A cache of one key set. `clock` returns seconds that never go back."""

    def __init__(
        self, fetch: Fetch, max_age: float, min_interval: float, clock: Callable[[], float]
    ) -> None:
        self._fetch = fetch
        self._max_age = max_age
        self._min_interval = min_interval
        self._clock = clock
        self._keys: Sequence[NamedKey] = ()
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None
        #: Names that were not in the newest set; until another fetch may begin nobody asks again.
        self._unknown: set[str | None] = set()
        self._failing = False

    async def keys(self, kid: str | None, algorithm: str) -> Sequence[VerifyKey]:
        """See KeySource.keys. An unknown name may be a new key: it is worth a fetch."""
        age, fetched = self._age(), False
        if age is None or age > self._max_age:
            await self._refresh()
            fetched = True
        elif age > self._max_age / 2 and self._wait() <= 0:
            self._start()
        found = self._find(kid, algorithm)
        if found or self._has(kid) or (kid in self._unknown and self._wait() > 0):
            return found
        if not fetched:
            await self._refresh()
            found = self._find(kid, algorithm)
        if not found and len(self._unknown) < _MAX_UNKNOWN:
            self._unknown.add(kid)
        return found

    def prefetch(self) -> None:
        """See KeySource.prefetch."""
        if self._fetching is None and self._tried_at is None:
            self._start()

    async def close(self) -> None:
        """See KeySource.close."""
        fetching = self._fetching
        if fetching is not None:
            fetching.cancel()
            await asyncio.wait({fetching})

    def _find(self, kid: str | None, algorithm: str) -> Sequence[VerifyKey]:
        """Return the key of that name. A token without one gets all that it may mean."""
        return [
            each.key
            for each in self._keys
            if (kid is None or each.kid == kid)
            and each.algorithm in (None, algorithm)
            and fits(each.key, algorithm)
        ]

    def _has(self, kid: str | None) -> bool:
        """Tell whether a name is in the set, be it for another algorithm."""
        return kid is not None and any(each.kid == kid for each in self._keys)

    def _age(self) -> float | None:
        return None if self._fetched_at is None else self._clock() - self._fetched_at

    def _wait(self) -> float:
        """Return how long it is until a fetch may begin."""
        if self._tried_at is None:
            return 0.0
        return max(0.0, self._tried_at + self._min_interval - self._clock())

    async def _refresh(self) -> None:
        """Wait for a fetch, the one under way or a new one. Raises KeysUnavailable."""
        if self._fetching is None:
            wait = self._wait()
            if wait > 0:
                raise KeysUnavailable(wait)
            self._start()
        fetching = self._fetching
        assert fetching is not None  # noqa: S101
        # One who goes away does not end it for the others.
        await asyncio.wait({fetching})
        age = self._age()
        if self._failing or age is None or age > self._max_age:
            raise KeysUnavailable(max(1.0, self._wait()))

    def _start(self) -> None:
        if self._fetching is None:
            self._tried_at = self._clock()
            self._fetching = asyncio.get_running_loop().create_task(self._run(), name="jwks")

    async def _run(self) -> None:
        try:
            keys = parse_key_set(await self._fetch())
        except (FetchFailed, ValueError) as error:
            if not self._failing:
                logger.warning("the keys of auth.jwt.jwks_url cannot be had: %s", error)
            self._failing = True
        except Exception:
            logger.exception("fetching the keys of auth.jwt.jwks_url failed")
            self._failing = True
        else:
            if self._failing:
                logger.info("the keys of auth.jwt.jwks_url are back")
            self._failing = False
            # Those that were taken out of the set are known not to be in it.
            self._unknown = {each.kid for each in self._keys} - {each.kid for each in keys}
            self._keys, self._fetched_at = keys, self._clock()
        finally:
            self._fetching = None


class HttpFetch:
    """Fetches `url`; `too_large` is called when the answer has more than `max_bytes`."""

    def __init__(
        self, url: str, timeout: float, max_bytes: int, too_large: Callable[[], None]
    ) -> None:
        self._url = url
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._too_large = too_large

    async def __call__(self) -> bytes:
        """Return the body of the answer. Raises FetchFailed."""
        body = bytearray()

        def take(chunk: bytes) -> None:
            # What is beyond the limit is not kept; the timeout ends it.
            if len(body) <= self._max_bytes:
                body.extend(chunk)

        request = HTTPRequest(
            self._url,
            headers={"Accept": "application/jwk-set+json, application/json"},
            connect_timeout=self._timeout,
            request_timeout=self._timeout,
            follow_redirects=False,
            decompress_response=False,
            streaming_callback=take,
        )
        client = SimpleAsyncHTTPClient(force_instance=True)
        try:
            await client.fetch(request)
        except HTTPClientError as error:
            raise FetchFailed(f"HTTP status {error.code} {error.message}") from error
        except OSError as error:
            raise FetchFailed(error.strerror or str(error) or type(error).__name__) from error
        finally:
            client.close()
        if len(body) > self._max_bytes:
            self._too_large()
            raise FetchFailed(
                f"the answer has more than {self._max_bytes} bytes: see auth.jwt.jwks_bytes"
            )
        return bytes(body)
