"""Posts to the game's backend with Tornado's client: no redirects, bounded times and sizes."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse
from tornado.httputil import HTTPInputError
from tornado.iostream import UnsatisfiableReadError

from gateway.posting import PostFailed, Response

#: What is read of an answer's head, in bytes.
_MAX_HEAD: Final = 16_384
#: An answer may ask for a longer rest than this, in seconds, and gets this.
_MAX_RETRY_AFTER: Final = 3600.0


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Bounds of a client: seconds for a connection and the whole, posts at once, answers' size."""

    connect_timeout: float
    timeout: float
    concurrency: int
    answer_bytes: int


class WebhookClient:
    """Posts to one URL; certificates are checked.

    `ca_file` holds certificates to trust instead of the system's. Raises OSError or
    ssl.SSLError if it is none.
    """

    def __init__(self, url: str, limits: ClientLimits, ca_file: str) -> None:
        self._url = url
        self._limits = limits
        self._tls = ssl.create_default_context(cafile=ca_file or None)
        # Tornado's client belongs to the event loop that runs when it is made.
        self._http: AsyncHTTPClient | None = None

    def _open(self) -> AsyncHTTPClient:
        limits = self._limits
        return AsyncHTTPClient(
            force_instance=True,
            max_clients=limits.concurrency,
            max_body_size=limits.answer_bytes,
            max_header_size=_MAX_HEAD,
            max_buffer_size=limits.answer_bytes + _MAX_HEAD,
        )

    async def post(
        self, body: bytes, headers: dict[str, str], seconds: float | None = None
    ) -> Response:
        """See gateway.posting.Post; without `seconds` the whole may take `limits.timeout`."""
        whole = self._limits.timeout if seconds is None else seconds
        request = HTTPRequest(
            self._url,
            "POST",
            headers=headers,
            body=body,
            connect_timeout=min(self._limits.connect_timeout, whole),
            request_timeout=whole,
            follow_redirects=False,
            decompress_response=False,
            ssl_options=self._tls,
            user_agent="game-gateway",
        )
        if self._http is None:
            self._http = self._open()
        try:
            response = await self._http.fetch(request, raise_error=False)
        except (
            HTTPClientError,
            HTTPInputError,
            OSError,
            UnsatisfiableReadError,
            ValueError,
        ) as error:
            raise PostFailed(f"{type(error).__name__}: {error}") from error
        if response.error is not None and response.code == 599:
            raise PostFailed(str(response.error))
        return Response(response.code, _retry_after(response), response.body)

    def close(self) -> None:
        """Take no more posts."""
        if self._http is not None:
            self._http.close()


def _retry_after(response: HTTPResponse) -> float:
    """Return what the header Retry-After says in seconds; its other form, a date, is ignored."""
    text = response.headers.get("Retry-After", "")
    return min(_MAX_RETRY_AFTER, float(text)) if text.isascii() and text.isdigit() else 0.0
