"""Sends webhooks over HTTP with Tornado's client: no redirects, bounded times and sizes."""

from __future__ import annotations

import ssl
from typing import Final

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse
from tornado.httputil import HTTPInputError

from gateway.webhooks import PostFailed, Response

#: What the backend may answer: nothing of it is used.
_MAX_ANSWER: Final = 65_536
#: An answer may ask for a longer rest than this, in seconds, and gets this.
_MAX_RETRY_AFTER: Final = 3600.0


class WebhookClient:
    """Posts to one URL. `timeout` is in seconds, for a connection and for the whole.

    `ca_file` holds certificates to trust instead of the system's. Raises OSError or
    ssl.SSLError if it is none.
    """

    def __init__(self, url: str, timeout: float, concurrency: int, ca_file: str) -> None:
        self._url = url
        self._timeout = timeout
        self._tls = ssl.create_default_context(cafile=ca_file or None)
        self._http = AsyncHTTPClient(
            force_instance=True,
            max_clients=concurrency,
            max_body_size=_MAX_ANSWER,
            max_buffer_size=2 * _MAX_ANSWER,
        )

    async def post(self, body: bytes, headers: dict[str, str]) -> Response:
        """See gateway.webhooks.Post."""
        request = HTTPRequest(
            self._url,
            "POST",
            headers=headers,
            body=body,
            connect_timeout=self._timeout,
            request_timeout=self._timeout,
            follow_redirects=False,
            decompress_response=False,
            ssl_options=self._tls,
            user_agent="game-gateway",
        )
        try:
            response = await self._http.fetch(request, raise_error=False)
        except (HTTPClientError, HTTPInputError, OSError, ValueError) as error:
            raise PostFailed(f"{type(error).__name__}: {error}") from error
        if response.code == 599:
            raise PostFailed(str(response.error))
        return Response(response.code, _retry_after(response))

    def close(self) -> None:
        """Give up what is under way."""
        self._http.close()


def _retry_after(response: HTTPResponse) -> float:
    """Return what the header Retry-After says in seconds; its other form, a date, is ignored."""
    text = response.headers.get("Retry-After", "")
    return min(_MAX_RETRY_AFTER, float(text)) if text.isascii() and text.isdigit() else 0.0
