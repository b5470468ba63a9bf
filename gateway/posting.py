"""What the gateway posts to the game's backend: how it is signed, and what comes back."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

TIMESTAMP_HEADER: Final = "Webhook-Timestamp"
SIGNATURE_HEADER: Final = "Webhook-Signature"


class PostFailed(Exception):
    """Nothing could be sent, or nobody has answered in time; the text says why."""


@dataclass(frozen=True, slots=True)
class Response:
    """What the backend answered; `retry_after` is in seconds, 0 for none."""

    status: int
    retry_after: float = 0.0
    body: bytes = b""


#: Sends a body with these headers. Raises PostFailed.
Post = Callable[[bytes, dict[str, str]], Awaitable[Response]]
#: The same, and waits for so many seconds.
TimedPost = Callable[[bytes, dict[str, str], float], Awaitable[Response]]


def sign(body: bytes, timestamp: str, secrets: Sequence[str]) -> str:
    """Return the header that proves where a body is from and when it was sent.

    One signature for each secret, so that secrets can be replaced one after the other:
    HMAC-SHA256, in hex, over the timestamp, a full stop and the body.
    """
    signed = b"%b.%b" % (timestamp.encode(), body)
    return ",".join(
        f"v1={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}" for secret in secrets
    )


def signed_headers(body: bytes, now: float, secrets: Sequence[str]) -> dict[str, str]:
    """Return the headers of a JSON body that is sent `now`, in Unix seconds."""
    timestamp = str(int(now))
    return {
        "Content-Type": "application/json",
        TIMESTAMP_HEADER: timestamp,
        SIGNATURE_HEADER: sign(body, timestamp, secrets),
    }
