"""Guests, display names, and the choice among the enabled methods."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth import (
    METHODS,
    Authentication,
    Authenticator,
    Identity,
    clean_name,
)
from gateway.auth.guest import GuestAuthenticator
from gateway.errors import ConnectRefused
from gateway.messages import TrueId
from gateway.texts import clean_text

ADDRESS = "192.0.2.1"
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
SCOTLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"


class Fake:
    """A method that claims its own name as key and knows one player."""

    def __init__(self, method: str, *, claims_all: bool = False) -> None:
        self.method = method
        self.addresses: list[str] = []
        self._claims_all = claims_all

    def claims(self, auth: Mapping[str, object]) -> bool:
        return self._claims_all or self.method in auth

    async def authenticate(self, auth: Mapping[str, object], address: str) -> Identity:
        self.addresses.append(address)
        return Identity(TrueId("p1"), "Ann", self.method)

    async def still_valid(self, true_id: TrueId) -> bool:
        return true_id == "p1"


def guests(max_name_bytes: int = 64) -> GuestAuthenticator:
    numbers = count(1)
    return GuestAuthenticator(max_name_bytes, lambda: TrueId(f"g{next(numbers)}"))


def log_in(authenticator: Authenticator | Authentication, auth: Mapping[str, object]) -> Identity:
    return asyncio.run(authenticator.authenticate(auth, ADDRESS))


def refusal(
    authenticator: Authenticator | Authentication, auth: Mapping[str, object]
) -> ConnectRefused:
    with pytest.raises(ConnectRefused) as caught:
        log_in(authenticator, auth)
    return caught.value


def test_who_may_come_back_is_asked_of_the_method_that_let_them_in() -> None:
    def valid(authentication: Authentication, method: str, true_id: str) -> bool:
        return asyncio.run(authentication.still_valid(method, TrueId(true_id)))

    both = Authentication([guests(), Fake("password")])
    assert valid(both, "guest", "g1")
    assert valid(both, "password", "p1")
    assert not valid(both, "password", "p2")
    # Nobody can tell whether an account is still there without its method.
    none = Authentication([])
    assert valid(none, "guest", "g1")
    assert not valid(none, "password", "p1")


def test_every_guest_is_a_new_player() -> None:
    authenticator = guests()
    first = log_in(authenticator, {"guest": True, "name": "Ann"})
    second = log_in(authenticator, {"guest": True, "name": "Ann"})
    assert first == Identity(TrueId("g1"), "Ann", "guest")
    assert second == Identity(TrueId("g2"), "Ann", "guest")


@pytest.mark.parametrize("auth", [{"guest": True}, {"guest": True, "name": None}])
def test_a_guest_without_name_is_called_guest(auth: Mapping[str, object]) -> None:
    assert log_in(guests(), auth).name == "guest"


def test_the_guest_key_alone_claims_the_payload() -> None:
    authenticator = guests()
    assert authenticator.claims({"guest": False})
    assert not authenticator.claims({"name": "Ann"})


@pytest.mark.parametrize("value", [False, 1, "true", None, [True]])
def test_guest_must_be_exactly_true(value: object) -> None:
    error = refusal(guests(), {"guest": value})
    assert error.code == "bad_credentials"
    assert "guest must be true" in error.message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "name must be a string"),
        (["Ann"], "name must be a string"),
        ("", "name is empty"),
        (" \t\n", "name is empty"),
        ("a" * 65, "name is longer than 64 bytes"),
        ("\u00e9" * 33, "name is longer than 64 bytes"),
        ("x" * 1_000_000, "name is longer than 64 bytes"),
        ("a\x00b", "name contains U+0000; remove it"),
        ("a\nb", "name contains U+000A; remove it"),
        ("a\x85b", "name contains U+0085; remove it"),
        ("a\u2028b", "name contains U+2028; remove it"),
        ("ann\u202egnp", "name contains U+202E; remove it"),
        ("a\u2066b", "name contains U+2066; remove it"),
        ("a\u200bb", "name contains U+200B; remove it"),
        ("a\ud800", "name contains U+D800; remove it"),
        ("Ann\U000e0041", "name contains U+E0041; remove it"),
        ("\u200d\u200c", "name has no visible character"),
        ("\ufe0f", "name has no visible character"),
        ("a" + "\u0301" * 31, "name has too many combining marks in a row; remove some"),
    ],
)
def test_a_bad_name_is_refused_with_field_and_fault(value: object, message: str) -> None:
    error = refusal(guests(), {"guest": True, "name": value})
    assert error.code == "bad_credentials"
    assert error.message == message


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("  Ann  ", "Ann"),
        ("Mary Ann", "Mary Ann"),
        ("e\u0301", "\u00e9"),
        (FAMILY, FAMILY),
        (SCOTLAND, SCOTLAND),
        ("\u2764\ufe0f", "\u2764\ufe0f"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",) * 2,
        ("a" * 64, "a" * 64),
    ],
)
def test_a_good_name_is_trimmed_and_composed(value: str, name: str) -> None:
    assert log_in(guests(), {"guest": True, "name": value}).name == name


def test_a_name_is_measured_after_composition() -> None:
    assert clean_name("e\u0301" * 4, 8) == "\u00e9" * 4


def test_a_name_limit_of_zero_is_no_limit() -> None:
    name = "a" * 100_000
    assert log_in(guests(0), {"guest": True, "name": name}).name == name


def test_endless_combining_marks_are_refused_before_they_are_sorted() -> None:
    # Normalising this takes minutes.
    with pytest.raises(ConnectRefused, match="combining marks"):
        clean_name("a" + "\u0301\u0316" * 300_000, 0)


@given(st.text(st.characters(), max_size=40), st.integers(0, 40))
def test_a_text_is_clean_for_good_or_refused_by_field(value: str, max_bytes: int) -> None:
    try:
        text = clean_text(value, "title", max_bytes)
    except ValueError as error:
        fault = str(error)
    else:
        fault = ""
        assert clean_text(text, "title", max_bytes) == text
        assert max_bytes == 0 or len(text.encode()) <= max_bytes
    assert not fault or (fault.startswith("title ") and len(fault) < 80)


def test_the_first_method_that_claims_decides() -> None:
    guest, password, webhook = Fake("guest"), Fake("password"), Fake("webhook", claims_all=True)
    authentication = Authentication([password, guest, webhook])
    assert log_in(authentication, {"guest": 1, "password": 1}).method == "password"
    assert log_in(authentication, {"guest": 1}).method == "guest"
    assert log_in(authentication, {"ticket": 1}).method == "webhook"
    assert guest.addresses == [ADDRESS]


def test_a_refusal_of_the_claiming_method_stands() -> None:
    authentication = Authentication([guests(), Fake("webhook", claims_all=True)])
    assert "guest must be true" in refusal(authentication, {"guest": 0}).message


@pytest.mark.parametrize("auth", [{}, {"name": "Ann"}, {"x" * 1_000_000: 1}])
def test_no_credentials_are_answered_by_what_to_send(auth: Mapping[str, object]) -> None:
    error = refusal(Authentication([guests(), Fake("password")]), auth)
    assert error.code == "bad_credentials"
    assert error.message == (
        "auth has no credentials; "
        "send `guest: true` (guest), or `username` and `password` (password)"
    )


@pytest.mark.parametrize(
    ("auth", "method"),
    [({"jwt": "e30"}, "jwt"), ({"username": "ann", "password": "x"}, "password")],
)
def test_a_method_that_is_not_enabled_is_unsupported(
    auth: Mapping[str, object], method: str
) -> None:
    error = refusal(Authentication([guests()]), auth)
    assert error.code == "unsupported"
    assert error.message == (
        f"auth method {method} is not enabled here; send `guest: true` (guest)"
    )


def test_without_methods_only_a_token_helps() -> None:
    error = refusal(Authentication([]), {})
    assert error.code == "bad_credentials"
    assert "send `token`" in error.message


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (["guest", "telepathy"], "unknown auth method 'telepathy'; use one of guest, password"),
        (["guest", "guest"], "auth method 'guest' comes twice; remove one"),
    ],
)
def test_a_method_must_be_known_and_come_once(methods: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Authentication([Fake(method) for method in methods])


def test_every_known_method_can_be_enabled() -> None:
    authentication = Authentication([Fake(method) for method in METHODS])
    assert [log_in(authentication, {name: 1}).method for name in METHODS] == list(METHODS)
