"""The cache of an identity provider's keys, under a clock of its own; and files with keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.auth import METHODS, Authentication
from gateway.auth.jwks import FetchFailed, Jwks
from gateway.auth.jwt import JwtAuthenticator, JwtRules
from gateway.auth.jwt_keys import FileKeys, KeysUnavailable, parse_key_set
from gateway.errors import ConfigError
from gateway.messages import TrueId
from tests.transport.provider import new_key, public_jwk, public_pem

MAX_AGE, INTERVAL = 100.0, 10.0


class World:
    """A key set that changes, a clock, and fetches that wait to be let go."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.kids = ["k1"]
        self.fetches = 0
        self.fails = False
        self.gate: asyncio.Event | None = None
        self.key = new_key("ES256")
        self.jwks = Jwks(self._fetch, MAX_AGE, INTERVAL, lambda: self.now)

    async def _fetch(self) -> bytes:
        self.fetches += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.fails:
            raise FetchFailed("away")
        keys = [public_jwk(self.key, kid=kid) for kid in self.kids]
        return json.dumps({"keys": keys}).encode()

    async def has(self, kid: str | None) -> bool:
        return bool(await self.jwks.keys(kid, "ES256"))

    async def refused(self, kid: str) -> float:
        """Return how long a log-in is told to wait."""
        with pytest.raises(KeysUnavailable) as unavailable:
            await self.has(kid)
        return unavailable.value.retry_after


def in_world(test: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test(World()))

    run.__name__ = test.__name__
    return run


@in_world
async def test_keys_are_fetched_once_and_kept(world: World) -> None:
    assert await world.has("k1")
    world.now += MAX_AGE / 2
    assert await world.has("k1")
    assert await world.has(None)
    assert not await world.jwks.keys("k1", "RS256")
    assert world.fetches == 1


@in_world
async def test_half_of_their_age_is_when_they_are_fetched_behind_the_scenes(world: World) -> None:
    await world.has("k1")
    world.gate = asyncio.Event()
    world.now += MAX_AGE / 2 + 1
    # Nobody waits for that.
    assert await world.has("k1")
    await asyncio.sleep(0)
    assert world.fetches == 2
    world.gate.set()
    await world.jwks.close()


@in_world
async def test_keys_that_are_too_old_are_worth_nothing(world: World) -> None:
    await world.has("k1")
    world.fails = True
    world.now += MAX_AGE - 1
    assert await world.has("k1")
    await asyncio.sleep(0.01)
    world.now += 2
    # The try of a moment ago failed; the next is due in a while.
    assert await world.refused("k1") == INTERVAL - 2
    world.now += INTERVAL
    world.fails = False
    assert await world.has("k1")


@in_world
async def test_an_unknown_name_is_looked_for_but_not_too_often(world: World) -> None:
    await world.has("k1")
    world.kids = ["k1", "k2"]
    world.now += 1
    assert await world.refused("k2") == INTERVAL - 1
    assert world.fetches == 1
    world.now += INTERVAL
    assert await world.has("k2")
    assert world.fetches == 2


@in_world
async def test_a_name_that_was_looked_for_in_vain_is_unknown_for_a_while(world: World) -> None:
    # The fetch that it waited for is as new as can be.
    assert not await world.has("k9")
    assert not await world.has("k9")
    assert world.fetches == 1
    world.now += INTERVAL
    world.kids = ["k9"]
    assert await world.has("k9")
    # And one that was taken out is known to be out.
    assert not await world.has("k1")
    assert world.fetches == 2


@in_world
async def test_unknown_names_are_remembered_in_bounds(world: World) -> None:
    for number in range(3000):
        world.now += INTERVAL
        assert not await world.has(f"x{number}")
    assert len(world.jwks._unknown) <= 1000


@in_world
async def test_many_wait_for_one_fetch_and_one_who_leaves_ends_it_for_nobody(world: World) -> None:
    world.gate = asyncio.Event()
    waiting = [asyncio.create_task(world.has("k1")) for _ in range(50)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    world.gate.set()
    assert all(await asyncio.gather(*waiting[1:]))
    assert world.fetches == 1


@in_world
async def test_closing_ends_a_fetch(world: World) -> None:
    world.gate = asyncio.Event()
    world.jwks.prefetch()
    await asyncio.sleep(0)
    assert world.fetches == 1
    await world.jwks.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


# What is a key


def test_only_public_keys_for_signatures_are_taken_from_a_set() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    good = new_key("EdDSA")
    entries: list[Any] = [
        {"kty": "oct", "kid": "secret", "k": "c2VjcmV0"},
        public_jwk(weak, kid="weak"),
        public_jwk(new_key("ES256"), kid="enc", use="enc"),
        {**public_jwk(new_key("ES256"), kid="signs"), "key_ops": ["sign"]},
        {**public_jwk(good, kid="good"), "key_ops": ["verify"]},
        {**public_jwk(good), "kid": 7},
        "no object",
    ]
    keys = parse_key_set(json.dumps({"keys": entries}).encode())
    assert [(key.kid, key.algorithm) for key in keys] == [("good", None), (None, None)]


def load(tmp_path: Path, text: bytes, *algorithms: str) -> FileKeys:
    (tmp_path / "key").write_bytes(text)
    (tmp_path / "key").chmod(0o600)
    return FileKeys.load(tmp_path / "key", algorithms)


def test_a_file_that_will_not_do_says_why(tmp_path: Path) -> None:
    private = new_key("ES256").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    pem = public_pem(new_key("ES256"))
    for text, algorithms, why in (
        (b"", ("RS256",), "has no PEM block"),
        (b"x" * 64, ("RS256",), "has no PEM block"),
        (private, ("ES256",), "key 1 is no public key; get one with: openssl pkey"),
        (pem, ("RS256",), "no key in auth.jwt.key_file is for RS256"),
        (pem, ("ES256", "ES384"), "is for ES384; add one"),
        (public_pem(weak), ("RS256",), "the RSA key has 1024 bits; 2048"),
        (pem, ("HS256",), "has a PEM key, and auth.jwt.algorithms want a secret"),
        (b"\n", ("HS256",), "is empty; write one secret a line"),
        (b"s" * 31, ("HS256",), "secret 1 is shorter than 32 characters"),
        (b"s" * 64 + b"\n" + b"s" * 47, ("HS256", "HS384"), "secret 2 is shorter than 48"),
    ):
        with pytest.raises(ConfigError, match=why) as error:
            load(tmp_path, text, *algorithms)
        assert "sss" not in str(error.value)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        FileKeys.load(tmp_path / "nowhere", ["RS256"])


def test_who_may_come_back() -> None:
    rules = JwtRules(frozenset({"ES256"}), "i", ["a"], 0, "sub", "jwt:", "name", "", 64)
    authentication = Authentication([JwtAuthenticator(rules, FileKeys([]))])

    def valid(authentication: Authentication, true_id: str) -> bool:
        return asyncio.run(authentication.still_valid("jwt", TrueId(true_id)))

    assert valid(authentication, "jwt:ann")
    # Of another provider, or of a time when ids were made otherwise.
    assert not valid(authentication, "id/ann")
    # Without the method nobody vouches for them.
    assert METHODS["jwt"].vouched
    assert not valid(Authentication([]), "jwt:ann")
