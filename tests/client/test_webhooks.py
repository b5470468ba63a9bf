"""Webhooks at the receiving end: only what the gateway has signed just now is believed."""

from __future__ import annotations

import pytest

from gateway.client import WebhookEvent, WebhookInvalid, verify_webhook
from gateway.posting import SIGNATURE_HEADER, TIMESTAMP_HEADER, sign

BODY = b'{"id":"e.1.a","type":"player.online","ts":1.5,"true_id":"ann","data":{"a":1}}'
NOW = 1_700_000_000
SECRET = "a secret of 32 characters or more"


def headers(body: bytes = BODY, timestamp: str = str(NOW), *secrets: str) -> dict[str, str]:
    return {
        TIMESTAMP_HEADER: timestamp,
        SIGNATURE_HEADER: sign(body, timestamp, secrets or (SECRET,)),
    }


def code(body: bytes, given: dict[str, str], *secrets: str, now: float = NOW) -> str:
    with pytest.raises(WebhookInvalid) as caught:
        verify_webhook(body, given, secrets or (SECRET,), now=now)
    return caught.value.code


def test_what_the_gateway_signs_is_believed() -> None:
    event = verify_webhook(BODY, headers(), [SECRET], now=NOW + 299.0)
    assert event == WebhookEvent("e.1.a", "player.online", 1.5, "ann", {"a": 1})
    lower = {name.lower(): value for name, value in headers().items()}
    assert verify_webhook(BODY, lower, ["other", SECRET], now=NOW) == event


def test_secrets_can_be_replaced_on_either_side_first() -> None:
    both = headers(BODY, str(NOW), "old secret", "new secret")
    for secret in ("old secret", "new secret"):
        assert verify_webhook(BODY, both, [secret], now=NOW).true_id == "ann"


def test_nothing_may_be_changed() -> None:
    assert code(BODY + b" ", headers()) == "signature_wrong"
    assert code(BODY, headers() | {TIMESTAMP_HEADER: str(NOW + 1)}) == "signature_wrong"
    assert code(BODY, headers(), "another secret") == "signature_wrong"
    other_version = {SIGNATURE_HEADER: headers()[SIGNATURE_HEADER].replace("v1=", "v2=")}
    assert code(BODY, headers() | other_version) == "signature_wrong"


@pytest.mark.parametrize("signature", ["", "v1=", "v1", ",", "v1=\u00e9", "x" * 1000])
def test_odd_signatures_are_wrong(signature: str) -> None:
    given = headers() | {SIGNATURE_HEADER: signature}
    assert code(BODY, given) in {"signature_wrong", "signature_missing"}
    assert code(BODY, {}) == "signature_missing"


def test_a_request_that_was_kept_is_refused() -> None:
    for now in (NOW + 301.0, NOW - 301.0):
        assert code(BODY, headers(), now=now) == "too_old"


@pytest.mark.parametrize("timestamp", ["soon", "-1", "1e9", "1" * 13, "\u0661"])
def test_a_timestamp_is_a_number(timestamp: str) -> None:
    assert code(BODY, headers(BODY, timestamp)) == "bad_request"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_body_is_an_event(body: bytes) -> None:
    assert code(body, headers(body)) == "bad_request"


def test_there_must_be_a_secret() -> None:
    with pytest.raises(ValueError, match="secret"):
        verify_webhook(BODY, headers(), [])
