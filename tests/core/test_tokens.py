"""Resume tokens and pids: what they say, how long, and whom they convince."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ConnectRefused
from gateway.messages import SessionId, TrueId
from gateway.session import Session
from gateway.tokens import MAX_TOKEN_LENGTH, Pid, ResumeToken, Tokens

ANN = TrueId("ann")
SESSION = SessionId("s1")
LIFETIME = 100.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.5

    def __call__(self) -> float:
        return self.now


def tokens(*keys: str, clock: Clock | None = None) -> Tokens:
    return Tokens(keys or ("first key",), LIFETIME, clock or Clock())


def refusal(verifier: Tokens, token: str) -> str:
    with pytest.raises(ConnectRefused) as caught:
        verifier.verify_token(token)
    assert not caught.value.reconnect
    return caught.value.code


def flipped(text: str, index: int) -> str:
    other = "A" if text[index] != "A" else "B"
    return text[:index] + other + text[index + 1 :]


def test_a_token_says_what_was_signed_and_when() -> None:
    token = tokens().sign_token(ANN, SESSION, 3, "e1", "Ann \u00e9", "guest")
    assert tokens().verify_token(token) == ResumeToken(
        ANN, SESSION, 3, "e1", "Ann \u00e9", "guest", 1_000_000.0
    )


def test_a_pid_says_what_was_signed() -> None:
    assert tokens().verify_pid(tokens().sign_pid(ANN, SESSION)) == Pid(ANN, SESSION)


def test_a_pid_stays_the_same_as_time_passes() -> None:
    clock = Clock()
    signer = tokens(clock=clock)
    before = signer.sign_pid(ANN, SESSION)
    clock.now += 10 * LIFETIME
    assert signer.sign_pid(ANN, SESSION) == before
    assert signer.verify_pid(before) is not None


def test_every_session_has_a_pid_of_its_own() -> None:
    signer = tokens()
    pids = {
        signer.sign_pid(TrueId(true_id), SessionId(session_id))
        for true_id in ("ann", "bob")
        for session_id in ("s1", "s2")
    }
    assert len(pids) == 4


@pytest.mark.parametrize(("age", "good"), [(0, True), (100, True), (101, False), (10_000, False)])
def test_a_token_is_good_for_its_lifetime(age: int, good: bool) -> None:
    clock = Clock()
    signer = tokens(clock=clock)
    token = signer.sign_token(ANN, SESSION, 1, "e1", "Ann", "guest")
    clock.now += age
    if good:
        assert signer.verify_token(token).issued_at == 1_000_000.0
    else:
        assert refusal(signer, token) == "token_expired"


@pytest.mark.parametrize("seconds", [1, 60, 10**6])
def test_a_clock_that_is_set_back_makes_no_token_expire(seconds: int) -> None:
    clock = Clock()
    signer = tokens(clock=clock)
    token = signer.sign_token(ANN, SESSION, 1, "e1", "Ann", "guest")
    clock.now -= seconds
    assert signer.verify_token(token).issued_at == 1_000_000.0
    clock.now += seconds + LIFETIME + 1
    assert refusal(signer, token) == "token_expired"


def test_a_pid_says_under_which_generation_its_session_was_opened() -> None:
    first, again = tokens().sign_pid(ANN, SESSION), tokens().sign_pid(ANN, SESSION, 4)
    assert first != again
    assert tokens().verify_pid(again) == Pid(ANN, SESSION, opened=4)


def test_a_pid_says_in_which_store_its_session_was_opened() -> None:
    pids = [tokens().sign_pid(ANN, SESSION, 4, epoch) for epoch in ("e1", "e2")]
    assert len(set(pids)) == 2
    assert tokens().verify_pid(pids[0]) == Pid(ANN, SESSION, opened=4, epoch="e1")


def test_the_first_key_signs_and_all_keys_verify() -> None:
    old, both, new = tokens("old"), tokens("new", "old"), tokens("new")
    from_old = old.sign_token(ANN, SESSION, 1, "e1", "Ann", "guest")
    from_both = both.sign_token(ANN, SESSION, 1, "e1", "Ann", "guest")
    assert both.verify_token(from_old).session_id == SESSION
    assert new.verify_token(from_both).session_id == SESSION
    assert refusal(old, from_both) == "token_invalid"
    assert both.verify_pid(old.sign_pid(ANN, SESSION)) == Pid(ANN, SESSION)
    assert new.verify_pid(both.sign_pid(ANN, SESSION)) == Pid(ANN, SESSION)
    assert old.verify_pid(both.sign_pid(ANN, SESSION)) is None


def test_a_pid_is_no_token_and_a_token_no_pid() -> None:
    signer = tokens()
    assert refusal(signer, signer.sign_pid(ANN, SESSION)) == "token_invalid"
    assert signer.verify_pid(signer.sign_token(ANN, SESSION, 1, "e1", "Ann", "guest")) is None


def test_every_changed_character_is_noticed() -> None:
    signer = tokens()
    token = signer.sign_token(ANN, SESSION, 1, "e1", "Ann", "guest")
    pid = signer.sign_pid(ANN, SESSION)
    # The last character of base64 carries bits that mean nothing.
    for index in range(len(token) - 1):
        assert refusal(signer, flipped(token, index)) in {"token_invalid", "token_expired"}
    for index in range(len(pid) - 1):
        assert signer.verify_pid(flipped(pid, index)) is None


@pytest.mark.parametrize("text", ["", ".", "..", "a.b", "a.b.c", "\ud800", "\u00e9.b.c", "\x00"])
def test_other_texts_are_no_tokens(text: str) -> None:
    assert refusal(tokens(), text) == "token_invalid"
    assert tokens().verify_pid(text) is None


def test_long_texts_are_refused_whatever_they_say() -> None:
    signer = tokens()
    # Not so simple that it could be compressed.
    name = "".join(hashlib.sha256(bytes([number])).hexdigest() for number in range(100))
    token = signer.sign_token(ANN, SESSION, 1, "e1", name, "guest")
    assert len(token) > MAX_TOKEN_LENGTH
    assert refusal(signer, token) == "token_invalid"
    assert signer.verify_pid("a" * 10_000_000) is None


def test_a_name_of_the_allowed_length_fits_into_a_token() -> None:
    signer = tokens()
    # 64 bytes are the default limit; escaped, a character of two bytes takes six.
    token = signer.sign_token(ANN, SESSION, 1, "e1", "\u0416\u20ac" * 256, "guest")
    assert signer.verify_token(token).name == "\u0416\u20ac" * 256


def test_a_key_is_needed() -> None:
    with pytest.raises(ValueError, match="at least one secret key"):
        Tokens((), LIFETIME, Clock())


@given(text=st.text())
@settings(deadline=None)
def test_any_text_is_refused_in_good_form(text: str) -> None:
    assert refusal(tokens(), text) == "token_invalid"
    assert tokens().verify_pid(text) is None


def presented(generation: int, *, forgets: bool) -> int:
    """Present a token of this generation to a session of the fifth."""
    verifier = tokens()
    session = Session(SESSION, ANN, "Ann", "guest", "pid", 0.0, 0, 0, generation=5)
    token = verifier.verify_token(
        verifier.sign_token(ANN, SESSION, generation, "e1", "Ann", "guest")
    )
    return verifier.rotate(session, token, "e1", forgets=forgets)


@pytest.mark.parametrize("generation", [6, 100])
def test_a_token_that_is_newer_than_its_session_is_good_where_the_store_may_forget(
    generation: int,
) -> None:
    assert presented(generation, forgets=True) == generation + 1
    with pytest.raises(ConnectRefused, match="revoked"):
        presented(generation, forgets=False)


@pytest.mark.parametrize("forgets", [False, True])
def test_a_token_older_than_the_one_before_the_newest_is_theft_in_any_store(forgets: bool) -> None:
    assert [presented(generation, forgets=forgets) for generation in (4, 5)] == [5, 6]
    with pytest.raises(ConnectRefused, match="revoked"):
        presented(3, forgets=forgets)
