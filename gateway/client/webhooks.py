"""Webhooks at the receiving end: is an event from the gateway, and is it fresh?"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.client.errors import ClientError

_TIMESTAMP: Final = "Webhook-Timestamp"
_SIGNATURE: Final = "Webhook-Signature"
_VERSION: Final = "v1="
_MAX_DIGITS: Final = 12


class WebhookEvent(msgspec.Struct, frozen=True):
    """What has happened to a player: see "Webhooks" in the README. `ts` is in Unix seconds.

    An event may come more than once, always with the same `id`.
    """

    id: str
    type: str
    ts: float
    true_id: str
    data: dict[str, Any] = {}


class WebhookInvalid(ClientError):
    """A request is not one of the gateway's: do nothing, and answer with status 400."""


def verify_webhook(
    body: bytes,
    headers: Mapping[str, str],
    secrets: Sequence[str],
    *,
    tolerance: float = 300.0,
    now: float | None = None,
) -> WebhookEvent:
    """Return the event in a request's body, if `verify_signature` takes it.

    Raises WebhookInvalid also with the code `bad_request`, for what is no event.
    """
    verify_signature(body, headers, secrets, tolerance=tolerance, now=now)
    try:
        return msgspec.json.decode(body, type=WebhookEvent)
    except msgspec.DecodeError as error:
        raise WebhookInvalid("bad_request", f"the body is no event: {error}") from None


def verify_signature(
    body: bytes,
    headers: Mapping[str, str],
    secrets: Sequence[str],
    *,
    tolerance: float = 300.0,
    now: float | None = None,
) -> None:
    """Make sure that a request is the gateway's: its body exactly as it came in.

    `headers` are the request's, whatever the case of their names; `secrets` those that the
    gateway may sign with. A timestamp that is more than `tolerance` seconds from `now` (Unix
    seconds, by default the system's) is refused: somebody may have kept the request. Raises
    WebhookInvalid with the code `signature_missing`, `signature_wrong`, `too_old` or
    `bad_request`, and ValueError without secrets.
    """
    if not secrets:
        raise ValueError("at least one secret is needed to verify")
    found = {name.lower(): value for name, value in headers.items()}
    timestamp = found.get(_TIMESTAMP.lower(), "")
    signatures = found.get(_SIGNATURE.lower(), "")
    if not signatures or not timestamp:
        raise WebhookInvalid("signature_missing", "the request is not signed")
    signed = b"%b.%b" % (timestamp.encode(errors="replace"), body)
    expected = [
        hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest().encode() for secret in secrets
    ]
    good = False
    for signature in signatures.split(","):
        version, text = signature.strip()[: len(_VERSION)], signature.strip()[len(_VERSION) :]
        for each in expected:
            same = hmac.compare_digest(text.encode(errors="replace"), each)
            good |= same and version == _VERSION
    if not good:
        raise WebhookInvalid("signature_wrong", "no signature is by one of these secrets")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= _MAX_DIGITS):
        raise WebhookInvalid("bad_request", "the timestamp is not one")
    if abs((time.time() if now is None else now) - int(timestamp)) > tolerance:
        raise WebhookInvalid("too_old", "the request was sent at another time")
