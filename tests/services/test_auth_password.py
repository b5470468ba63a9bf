"""Logins with a password: what is verified, and what limits those who guess."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import argon2
import pytest

from gateway.auth import Identity
from gateway.auth.password import (
    MAX_OUTSTANDING,
    NETWORK_FACTOR,
    USERNAME_FACTOR,
    PasswordAuthenticator,
)
from gateway.auth.users_file import UsersFile
from gateway.errors import ConnectRefused
from gateway.messages import TrueId

GOOD = "correct horse"
WRONG = "battery staple"
HOME = "192.0.2.1"
ELSEWHERE = "198.51.100.1"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class WatchedHasher(argon2.PasswordHasher):
    """Remembers what was verified, and verifies only while the gate is open."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.verified: list[str | bytes] = []
        self.gate = threading.Event()
        self.gate.set()

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override]
        self.verified.append(hash)
        self.gate.wait()
        return super().verify(hash, password)


class Bench:
    """A password file with the users ann and bob, and authenticators on it."""

    def __init__(self, path: Path, executor: ThreadPoolExecutor) -> None:
        numbers = count(1)
        self.path = path
        self.executor = executor
        self.clock = Clock()
        self.hasher = WatchedHasher()
        self.users = UsersFile(path, lambda: TrueId(f"p{next(numbers)}"), self.hasher)
        for name in ("ann", "bob"):
            self.users.add(name, GOOD)

    def authenticator(self, attempts_per_minute: int = 0) -> PasswordAuthenticator:
        return PasswordAuthenticator(self.users, self.executor, attempts_per_minute, self.clock)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with ThreadPoolExecutor(max_workers=4) as executor:
        bench = Bench(tmp_path / "users.txt", executor)
        yield bench
        # A test that failed must not leave the workers waiting.
        bench.hasher.gate.set()


def attempt(
    authenticator: PasswordAuthenticator,
    username: str = "ann",
    word: str = GOOD,
    address: str = HOME,
) -> Awaitable[Identity]:
    return authenticator.authenticate({"username": username, "password": word}, address)


async def outcome(awaitable: Awaitable[Identity]) -> str:
    try:
        return (await awaitable).true_id
    except ConnectRefused as error:
        return error.code


async def refusal(awaitable: Awaitable[Identity]) -> ConnectRefused:
    with pytest.raises(ConnectRefused) as caught:
        await awaitable
    return caught.value


async def fail(authenticator: PasswordAuthenticator, times: int, **where: str) -> None:
    for _ in range(times):
        assert await outcome(attempt(authenticator, word=WRONG, **where)) == "bad_credentials"


def run(scenario: Callable[[], Coroutine[object, object, None]]) -> None:
    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("auth", "claimed"),
    [
        ({"username": "ann"}, True),
        ({"password": None}, True),
        ({"guest": True, "name": "ann"}, False),
        ({}, False),
    ],
)
def test_username_or_password_claims_the_payload(
    auth: Mapping[str, object], claimed: bool, bench: Bench
) -> None:
    assert bench.authenticator().claims(auth) is claimed


def test_an_account_is_valid_as_long_as_the_file_has_it(bench: Bench) -> None:
    async def scenario() -> None:
        authenticator = bench.authenticator()
        user = bench.users.add("eve", GOOD)
        assert await authenticator.still_valid(user.true_id)
        bench.users.remove("eve")
        assert not await authenticator.still_valid(user.true_id)
        assert await authenticator.still_valid(TrueId("p1"))

    run(scenario)


def test_the_right_password_gives_the_users_identity(bench: Bench) -> None:
    async def scenario() -> None:
        identity = await attempt(bench.authenticator(), "bob")
        assert identity == Identity(TrueId("p2"), "bob", "password")

    run(scenario)


def test_an_unknown_user_gets_the_same_words_and_work_as_a_wrong_password(bench: Bench) -> None:
    async def scenario() -> None:
        authenticator = bench.authenticator()
        wrong = await refusal(attempt(authenticator, "ann", WRONG))
        unknown = await refusal(attempt(authenticator, "nobody", WRONG))
        assert wrong.payload() == unknown.payload()
        assert wrong.code == "bad_credentials"
        assert wrong.message == "username or password is wrong"

    run(scenario)
    real, decoy = (argon2.extract_parameters(str(value)) for value in bench.hasher.verified)
    assert decoy == real


@pytest.mark.parametrize(
    ("auth", "message"),
    [
        ({"username": "ann"}, "password is missing; send username and password"),
        ({"password": GOOD}, "username is missing; send username and password"),
        ({"username": 7, "password": GOOD}, "username must be a string"),
        ({"username": "", "password": GOOD}, "username is empty"),
        ({"username": "a" * 65, "password": GOOD}, "username is longer than 64 bytes"),
        ({"username": "a" * 10**6, "password": GOOD}, "username is longer than 64 bytes"),
        ({"username": "a\x00", "password": GOOD}, "username contains U+0000; remove it"),
        ({"username": "ann", "password": None}, "password must be a string"),
        ({"username": "ann", "password": "a" * 1025}, "password is longer than 1024 bytes"),
        ({"username": "ann", "password": "\ud800"}, "password is not valid Unicode"),
    ],
)
def test_a_malformed_payload_is_refused_by_field_and_costs_no_hash(
    auth: Mapping[str, object], message: str, bench: Bench
) -> None:
    async def scenario() -> None:
        error = await refusal(bench.authenticator(1).authenticate(auth, HOME))
        assert (error.code, error.message) == ("bad_credentials", message)

    run(scenario)
    assert bench.hasher.verified == []


def test_an_empty_password_is_just_wrong(bench: Bench) -> None:
    async def scenario() -> None:
        assert await outcome(attempt(bench.authenticator(), word="")) == "bad_credentials"

    run(scenario)


def test_names_and_passwords_match_however_they_are_composed(bench: Bench) -> None:
    bench.users.add("Zo\u00eb", "caf\u00e9 au lait")

    async def scenario() -> None:
        decomposed = attempt(bench.authenticator(), "Zoe\u0308", "cafe\u0301 au lait")
        assert (await decomposed).name == "Zo\u00eb"

    run(scenario)


def test_a_user_who_was_just_added_or_removed_is_known_at_once(bench: Bench) -> None:
    async def scenario() -> None:
        authenticator = bench.authenticator()
        bench.users.add("cid", GOOD)
        assert await outcome(attempt(authenticator, "cid")) == "p3"
        bench.users.remove("cid")
        assert await outcome(attempt(authenticator, "cid")) == "bad_credentials"

    run(scenario)


def test_failures_are_limited_and_the_limit_wears_off(bench: Bench) -> None:
    async def scenario() -> None:
        authenticator = bench.authenticator(10)
        await fail(authenticator, 10)
        error = await refusal(attempt(authenticator))
        assert (error.code, error.retry_after) == ("rate_limited", 6.0)
        assert error.message == "too many failed logins; try again in 6 s"
        assert error.reconnect
        assert len(bench.hasher.verified) == 10
        bench.clock.now += 5.9
        assert await outcome(attempt(authenticator)) == "rate_limited"
        bench.clock.now += 0.1
        assert await outcome(attempt(authenticator)) == "p1"
        await fail(authenticator, 1)
        assert await outcome(attempt(authenticator)) == "rate_limited"

    run(scenario)


def test_an_unknown_user_is_limited_like_a_known_one(bench: Bench) -> None:
    async def scenario() -> None:
        authenticator = bench.authenticator(2)
        await fail(authenticator, 2, username="nobody")
        assert await outcome(attempt(authenticator, "nobody")) == "rate_limited"

    run(scenario)


def test_successes_cost_nothing(bench: Bench) -> None:
    async def scenario() -> None:
        authenticator = bench.authenticator(1)
        for _ in range(20):
            assert await outcome(attempt(authenticator)) == "p1"
        await fail(authenticator, 1)

    run(scenario)


def test_no_limit_means_no_limit(bench: Bench) -> None:
    async def scenario() -> None:
        authenticator = bench.authenticator(0)
        await fail(authenticator, 100)
        assert await outcome(attempt(authenticator)) == "p1"

    run(scenario)


def test_failures_for_one_user_leave_others_of_the_network_alone(bench: Bench) -> None:
    async def scenario() -> None:
        authenticator = bench.authenticator(2)
        await fail(authenticator, 2, username="ann")
        assert await outcome(attempt(authenticator, "ann")) == "rate_limited"
        assert await outcome(attempt(authenticator, "bob")) == "p2"

    run(scenario)


def test_a_network_that_tries_many_usernames_is_limited(bench: Bench) -> None:
    async def scenario() -> None:
        authenticator = bench.authenticator(2)
        for number in range(2 * NETWORK_FACTOR):
            await fail(authenticator, 1, username=f"guess{number}")
        assert await outcome(attempt(authenticator, "bob")) == "rate_limited"
        assert await outcome(attempt(authenticator, "bob", address=ELSEWHERE)) == "p2"

    run(scenario)


def test_an_attacker_cannot_lock_the_player_out_from_elsewhere(bench: Bench) -> None:
    async def scenario() -> None:
        authenticator = bench.authenticator(2)
        await fail(authenticator, 2, address=ELSEWHERE)
        assert await outcome(attempt(authenticator, address=ELSEWHERE)) == "rate_limited"
        assert await outcome(attempt(authenticator)) == "p1"

    run(scenario)


def test_many_networks_together_are_limited_but_not_where_the_player_was_before(
    bench: Bench,
) -> None:
    async def scenario() -> None:
        authenticator = bench.authenticator(1)
        assert await outcome(attempt(authenticator, address=HOME)) == "p1"
        for number in range(USERNAME_FACTOR):
            await fail(authenticator, 1, address=f"203.0.113.{number}")
        assert await outcome(attempt(authenticator, address=ELSEWHERE)) == "rate_limited"
        assert await outcome(attempt(authenticator, address=HOME)) == "p1"
        assert await outcome(attempt(authenticator, "bob", address=ELSEWHERE)) == "p2"

    run(scenario)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("unix", "unix", True),
    ],
)
def test_a_network_is_an_ipv4_address_or_half_an_ipv6_one(
    first: str, second: str, same: bool, bench: Bench
) -> None:
    async def scenario() -> None:
        authenticator = bench.authenticator(1)
        await fail(authenticator, 1, address=first)
        expected = "rate_limited" if same else "p1"
        assert await outcome(attempt(authenticator, address=second)) == expected

    run(scenario)


def test_attempts_at_the_same_time_gain_nothing(bench: Bench) -> None:
    async def scenario() -> None:
        authenticator = bench.authenticator(3)
        guesses = [attempt(authenticator, word=f"guess {n}") for n in range(20)]
        outcomes = await asyncio.gather(*(outcome(guess) for guess in guesses))
        assert sorted(outcomes) == ["bad_credentials"] * 3 + ["rate_limited"] * 17

    run(scenario)
    assert len(bench.hasher.verified) == 3


def test_the_waiting_verifications_are_bounded(bench: Bench) -> None:
    async def scenario() -> None:
        authenticator = bench.authenticator(0)
        bench.hasher.gate.clear()
        waiting = [asyncio.ensure_future(attempt(authenticator)) for _ in range(MAX_OUTSTANDING)]
        try:
            await asyncio.sleep(0)
            error = await refusal(attempt(authenticator))
        finally:
            bench.hasher.gate.set()
        assert (error.code, error.retry_after) == ("rate_limited", 1.0)
        assert error.message == "too many logins now; try again"
        assert {identity.true_id for identity in await asyncio.gather(*waiting)} == {"p1"}
        assert await outcome(attempt(authenticator)) == "p1"

    run(scenario)


def test_the_loop_runs_on_while_a_password_is_verified(bench: Bench) -> None:
    async def scenario() -> None:
        bench.hasher.gate.clear()
        login = asyncio.ensure_future(attempt(bench.authenticator()))
        await asyncio.sleep(0)
        assert not login.done()
        bench.hasher.gate.set()
        assert (await login).true_id == "p1"

    run(scenario)


def test_hanging_up_early_does_not_save_a_failure(bench: Bench) -> None:
    async def scenario() -> None:
        authenticator = bench.authenticator(1)
        bench.hasher.gate.clear()
        login = asyncio.ensure_future(attempt(authenticator, word=WRONG))
        await asyncio.sleep(0)
        login.cancel()
        try:
            with pytest.raises(asyncio.CancelledError):
                await login
            assert await outcome(attempt(authenticator)) == "rate_limited"
        finally:
            bench.hasher.gate.set()
        # A login of somebody else ends after the abandoned one: there is one worker.
        assert await outcome(attempt(authenticator, "bob", address=ELSEWHERE)) == "p2"
        assert await outcome(attempt(authenticator)) == "rate_limited"
        bench.clock.now += 60
        assert await outcome(attempt(authenticator)) == "p1"

    with ThreadPoolExecutor(max_workers=1) as bench.executor:
        run(scenario)


def test_an_outdated_hash_is_renewed_at_login(bench: Bench) -> None:
    slower = argon2.PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
    users = UsersFile(bench.path, lambda: TrueId("unused"), slower)

    async def scenario() -> None:
        authenticator = PasswordAuthenticator(users, bench.executor, 0, bench.clock)
        assert await outcome(attempt(authenticator, word=WRONG)) == "bad_credentials"
        assert [slower.check_needs_rehash(user.hash) for user in users.list()] == [True, True]
        assert await outcome(attempt(authenticator)) == "p1"
        assert [slower.check_needs_rehash(user.hash) for user in users.list()] == [False, True]
        assert await outcome(attempt(authenticator)) == "p1"

    run(scenario)


def test_a_hash_that_cannot_be_renewed_does_not_stop_the_login(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    lock = bench.path.with_name("users.txt.lock")
    lock.unlink()
    lock.mkdir()
    slower = argon2.PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
    users = UsersFile(bench.path, lambda: TrueId("unused"), slower)

    async def scenario() -> None:
        authenticator = PasswordAuthenticator(users, bench.executor, 0, bench.clock)
        assert await outcome(attempt(authenticator)) == "p1"

    run(scenario)
    warnings = [record for record in caplog.records if record.name.startswith("gateway.")]
    assert [record.levelno for record in warnings] == [logging.WARNING]
    assert "password hash of 'ann' stays outdated: cannot write" in caplog.text


def test_a_hash_that_argon2_cannot_use_is_no_failure_of_the_player(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    text = bench.path.read_text()
    bench.path.write_text(text.replace("m=8", "m=1"))

    async def scenario() -> None:
        authenticator = bench.authenticator(1)
        for _ in range(3):
            error = await refusal(attempt(authenticator))
            assert (error.code, error.reconnect) == ("unavailable", True)
            assert error.retry_after == 1.0

    run(scenario)
    assert "cannot verify password of 'ann'" in caplog.text
    assert "$argon2" not in caplog.text
