"""Log-ins with a JWT: a real gateway, and a real HTTP server that publishes keys."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from tornado.ioloop import IOLoop

from gateway.client import Jwt, MemoryStorage, Settings
from gateway.client import connect as connect_client
from gateway.config import Config
from gateway.config_auth import AuthConfig, JwtConfig
from gateway.server import Gateway
from tests.transport.client import Clients, soon
from tests.transport.conftest import change
from tests.transport.provider import (
    AUDIENCE,
    ISSUER,
    Provider,
    claims,
    new_key,
    public_jwk,
    public_pem,
)

pytestmark = pytest.mark.gen_test(timeout=60)

#: Changes of `auth.jwt` that a test asks for.
jwt_settings = pytest.mark.jwt_settings
SECRET = "s" * 64


@pytest.fixture
def provider(io_loop: IOLoop, request: pytest.FixtureRequest) -> Iterator[Provider]:
    provider = Provider(getattr(request, "param", "ES256"))
    provider.start()
    yield provider
    io_loop.run_sync(provider.stop)


@pytest.fixture
def settings(provider: Provider, request: pytest.FixtureRequest) -> Config:
    mark = request.node.get_closest_marker("jwt_settings")
    wanted = {
        "jwks_url": provider.url,
        "algorithms": (provider.algorithm,),
        "issuer": ISSUER,
        "audience": (AUDIENCE,),
        "jwks_timeout": 1.0,
        **(mark.kwargs if mark else {}),
    }
    return configured(JwtConfig(**wanted))


def configured(section: JwtConfig) -> Config:
    config = change(
        Config(),
        server={"port": 0, "shutdown_grace": 0},
        resume={"secret_keys": ("k" * 40,)},
        limits={"connections_per_player": 100},
    )
    auth = AuthConfig(methods=("guest", "jwt"), jwt=section)
    return dataclasses.replace(config, auth=auth)


async def connect(clients: Clients, auth: object) -> dict[str, Any]:
    """Send a CONNECT; return its event `session`, or what it is refused with."""
    link = await clients.link("websocket")
    await link.send("40" + json.dumps(auth))
    packet = str(await soon(link.receive()))
    if packet.startswith("44"):
        refusal = json.loads(packet[2:])
        return {**refusal["data"], "message": refusal["message"]}
    name, session = json.loads(str(await soon(link.receive()))[2:])
    assert name == "session"
    await link.send("41")
    found: dict[str, Any] = session
    return found


async def log_in(clients: Clients, token: object) -> dict[str, Any]:
    return await connect(clients, {"jwt": token})


# Who it is


@pytest.mark.parametrize(
    "provider",
    ["RS256", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA"],
    indirect=True,
)
async def test_every_public_algorithm(clients: Clients, provider: Provider) -> None:
    session = await log_in(clients, provider.token(claims("ann", name="Ann")))
    assert (session["true_id"], session["name"]) == ("jwt:ann", "Ann")


async def test_the_same_subject_is_the_same_player(clients: Clients, provider: Provider) -> None:
    first = await log_in(clients, provider.token(claims("auth0|4711")))
    second = await log_in(clients, provider.token(claims("auth0|4711")))
    assert first["true_id"] == second["true_id"] == "jwt:auth0|4711"
    assert first["session_id"] != second["session_id"]
    resumed = await connect(clients, {"token": second["token"], "jwt": "ignored"})
    assert (resumed["resumed"], resumed["session_id"]) == (True, second["session_id"])


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("  Ann  ", "Ann"),
        (None, "player"),
        (7, "player"),
        ("", "player"),
        ("a\nb", "player"),
        ("\u00e9" * 100, "\u00e9" * 32),
    ],
    ids=range(6),
)
async def test_a_name_that_will_not_do_keeps_nobody_out(
    clients: Clients, provider: Provider, name: Any, shown: str
) -> None:
    session = await log_in(clients, provider.token(claims(name=name)))
    assert session["name"] == shown


@jwt_settings(subject="user_id", prefix="id/", name="nick", attributes="game")
async def test_claims_are_configurable(clients: Clients, provider: Provider) -> None:
    said = claims(None, user_id=42, nick="Ann", game={"level": 3}, name="no")
    session = await log_in(clients, provider.token(said))
    assert (session["true_id"], session["name"]) == ("id/42", "Ann")
    assert session["attributes"] == {"level": 3}
    resumed = await connect(clients, {"token": session["token"]})
    assert resumed["attributes"] == {"level": 3}
    for attributes, why in (([1], "must be an object"), ({"x": "y" * 512}, "more than 512 bytes")):
        refused = await log_in(clients, provider.token({**said, "game": attributes}))
        assert refused["code"] == "bad_credentials"
        assert why in refused["message"]


# What is refused


def signed_by_hand(header: dict[str, Any], said: dict[str, Any], secret: bytes | None) -> str:
    """Make a token that the library would not make."""

    def part(value: object) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    text = part(header) + b"." + part(said)
    mac = b"" if secret is None else hmac.new(secret, text, hashlib.sha256).digest()
    return (text + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"exp": 1}, "has expired"),
        ({"exp": None}, "lacks the claim exp"),
        ({"exp": "soon"}, "malformed"),
        ({"exp": 1e400}, "malformed"),
        ({"nbf": 4_000_000_000}, "not valid yet"),
        ({"iat": 4_000_000_000}, "not valid yet"),
        ({"iss": "https://other.example"}, "of another issuer"),
        ({"iss": ISSUER[:-1]}, "of another issuer"),
        ({"iss": None}, "lacks the claim iss"),
        ({"aud": "other"}, "for another audience"),
        ({"aud": ["other", "third"]}, "for another audience"),
        ({"aud": None}, "lacks the claim aud"),
        ({"sub": None}, "lacks the claim sub"),
        ({"sub": ""}, "claim sub must be"),
        ({"sub": "a b"}, "claim sub must be"),
        ({"sub": "a\n"}, "claim sub must be"),
        ({"sub": "\u00e9"}, "claim sub must be"),
        ({"sub": "x" * 125}, "claim sub must be"),
        ({"sub": True}, "claim sub must be"),
        ({"sub": ["ann"]}, "claim sub must be"),
    ],
)
async def test_a_token_that_says_the_wrong_thing(
    clients: Clients, provider: Provider, changes: dict[str, Any], why: str
) -> None:
    refused = await log_in(clients, provider.token(claims(**changes)))
    assert (refused["code"], refused["reconnect"]) == ("bad_credentials", False)
    assert why in refused["message"]


@pytest.mark.parametrize(
    "token",
    [None, 7, [], "", "x", "a.b.c", "..", "\u00e9.b.c", "x" * 20_000],
    ids=range(9),
)
async def test_what_is_no_token(clients: Clients, token: object) -> None:
    refused = await log_in(clients, token)
    assert refused["code"] == "bad_credentials"


async def test_forged_tokens(clients: Clients, provider: Provider) -> None:
    good = provider.token()
    head, body, signature = good.split(".")
    (key,) = provider.keys.values()
    kid = {"kid": "k1"}
    deep = base64.urlsafe_b64encode(b"[" * 9000).rstrip(b"=").decode()
    forged = {
        "another body": f"{head}.{body[:-2]}xx.{signature}",
        "no signature": f"{head}.{body}.",
        "no algorithm": signed_by_hand({"alg": "none", **kid}, claims(), None),
        "no algorithm, in capitals": signed_by_hand({"alg": "None", **kid}, claims(), None),
        "the public key for a secret": signed_by_hand(
            {"alg": "HS256", **kid}, claims(), public_pem(key)
        ),
        "an algorithm that is not allowed": jwt.encode(
            claims(), new_key("ES384"), "ES384", headers=kid
        ),
        "a key of somebody else's": jwt.encode(claims(), new_key("ES256"), "ES256", headers=kid),
        "a name of a key that is none": provider.token(kid="x" * 300),
        "a demand that is not known": provider.token(crit=["exp"], exp=1),
        "a header too deep": f"{deep}.{body}.{signature}",
    }
    for what, token in forged.items():
        refused = await log_in(clients, token)
        assert refused["code"] == "bad_credentials", what
    assert (await log_in(clients, good))["true_id"] == "jwt:ann"


async def test_a_key_of_its_own_in_the_header_is_not_taken(
    clients: Clients, provider: Provider
) -> None:
    mine = new_key("ES256")
    headers = {"kid": "k1", "jwk": public_jwk(mine), "jku": provider.url}
    refused = await log_in(clients, jwt.encode(claims(), mine, "ES256", headers=headers))
    assert refused["code"] == "bad_credentials"


@jwt_settings(leeway=60.0)
async def test_clocks_may_differ_a_little(clients: Clients, provider: Provider) -> None:
    now = int(time.time())
    late = await log_in(clients, provider.token(claims("late", exp=now - 30)))
    early = await log_in(clients, provider.token(claims("early", nbf=now + 30, iat=now + 30)))
    assert (late["true_id"], early["true_id"]) == ("jwt:late", "jwt:early")


# Keys that are published


@jwt_settings(jwks_min_interval=0.05)
async def test_rotation(clients: Clients, provider: Provider) -> None:
    old = provider.token(claims("ann"))
    before = await log_in(clients, old)
    provider.rotate("k2")
    await asyncio.sleep(0.06)
    assert (await log_in(clients, provider.token(claims("bob"))))["true_id"] == "jwt:bob"
    # The old key is gone from the set. Who has a session does not need it.
    assert (await log_in(clients, old))["code"] == "bad_credentials"
    assert (await connect(clients, {"token": before["token"]}))["true_id"] == "jwt:ann"


async def test_unknown_keys_do_not_make_the_gateway_ask_again_and_again(
    clients: Clients, provider: Provider
) -> None:
    await log_in(clients, provider.token())
    asked = provider.requests
    assert asked == 1
    provider.rotate("k2")
    for number in range(20):
        refused = await log_in(clients, provider.token(kid=f"made up {number}"))
        # It may be a new key: nobody can say until the gateway may ask again.
        assert (refused["code"], refused["reconnect"]) == ("unavailable", True)
        assert 0 < refused["retry_after"] <= 10
    assert provider.requests == asked


@jwt_settings(jwks_min_interval=0.001)
async def test_many_at_once_ask_once(clients: Clients, provider: Provider) -> None:
    provider.delay = 0.3
    provider.rotate("k2")
    before = provider.requests
    tokens = [provider.token(claims(f"p{number}")) for number in range(20)]
    sessions = await asyncio.gather(*(log_in(clients, token) for token in tokens))
    assert {session["true_id"] for session in sessions} == {f"jwt:p{n}" for n in range(20)}
    assert provider.requests - before <= 1


@pytest.mark.expects_warnings
@jwt_settings(jwks_max_age=0.2, jwks_min_interval=0.05)
async def test_an_outage_of_the_provider_keeps_only_new_players_out(
    clients: Clients, provider: Provider
) -> None:
    before = await log_in(clients, provider.token())
    await provider.stop()
    await asyncio.sleep(0.25)
    refused = await log_in(clients, provider.token())
    assert (refused["code"], refused["reconnect"]) == ("unavailable", True)
    assert refused["retry_after"] > 0
    resumed = await connect(clients, {"token": before["token"]})
    assert (resumed["true_id"], resumed["resumed"]) == ("jwt:ann", True)
    assert (await connect(clients, {"guest": True}))["name"] == "guest"
    provider.start()
    await asyncio.sleep(0.06)
    assert (await log_in(clients, provider.token()))["true_id"] == "jwt:ann"


@pytest.mark.expects_warnings
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 302},
        {"text": b"<html>"},
        {"text": b"{}"},
        {"text": b'{"keys": []}'},
        {"text": b'{"keys": [1, {}, {"kty": "RSA"}, {"kty": "EC", "crv": "P-256", "x": 1}]}'},
        {"text": b"[" * 100_000},
        {"text": b" " * 300_000},
        {"delay": 2.0},
    ],
    ids=["500", "302", "html", "no keys", "empty", "unusable", "deep", "large", "slow"],
)
@jwt_settings(jwks_min_interval=0.001, jwks_timeout=0.5)
async def test_a_provider_that_is_not_well(
    clients: Clients, gateway: Gateway, provider: Provider, fault: dict[str, Any]
) -> None:
    await log_in(clients, provider.token())
    for name, value in fault.items():
        setattr(provider, name, value)
    refused = await log_in(clients, provider.token(kid="new"))
    assert refused["code"] == "unavailable"
    assert refused["retry_after"] >= 1
    # What it had is good for a while.
    assert (await log_in(clients, provider.token()))["true_id"] == "jwt:ann"
    text = gateway.metrics.render().decode()
    hit = 'gateway_limit_hits_total{limit="auth.jwt.jwks_bytes"}' in text
    assert hit is (len(fault.get("text", b"")) > 262_144)
    provider.delay = 0.0


async def test_keys_that_are_not_for_this_are_passed_over(
    clients: Clients, provider: Provider
) -> None:
    mine = new_key("ES256")
    provider.others = [
        {"kty": "oct", "kid": "k1", "k": base64.urlsafe_b64encode(b"x" * 32).decode()},
        public_jwk(mine, kid="enc", use="enc"),
        public_jwk(mine, kid="other", alg="ES384"),
        public_jwk(new_key("RS256"), kid="k1"),
    ]
    for kid in ("enc", "other"):
        token = jwt.encode(claims(), mine, "ES256", headers={"kid": kid})
        assert (await log_in(clients, token))["code"] in ("bad_credentials", "unavailable")
    secret = signed_by_hand({"alg": "HS256", "kid": "k1"}, claims(), b"x" * 32)
    assert (await log_in(clients, secret))["code"] == "bad_credentials"
    assert (await log_in(clients, provider.token()))["true_id"] == "jwt:ann"
    # Without a name each key of the kind is tried.
    assert (await log_in(clients, provider.token(kid=None)))["true_id"] == "jwt:ann"


@pytest.mark.expects_warnings
@jwt_settings(jwks_min_interval=0.05)
async def test_a_bot_waits_for_the_provider_and_needs_it_once(
    gateway: Gateway, provider: Provider
) -> None:
    await provider.stop()
    asked: list[str] = []

    def auth() -> Jwt:
        asked.append(provider.token(claims("bot"), kid=f"{next(iter(provider.keys))}"))
        return Jwt(asked[-1])

    storage = MemoryStorage()
    pace = Settings(reconnect_delay=0.05, reconnect_delay_max=0.1)
    url = f"http://127.0.0.1:{gateway.port}"
    bot = connect_client(url, auth, storage=storage, settings=pace)
    refused: list[str] = []
    bot.on("refused", lambda refusal: refused.append(refusal.code))
    starting = asyncio.create_task(bot.start())
    async with asyncio.timeout(30):
        while len(refused) < 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    provider.start()
    await asyncio.wait_for(starting, 30)
    assert bot.true_id == "jwt:bot"
    assert set(refused) == {"unavailable"}
    # A fresh JWT for each try.
    assert len(set(asked)) == len(refused) + 1
    await bot.close()
    await provider.stop()
    async with connect_client(url, auth, storage=storage, settings=pace) as bot:
        assert bot.true_id == "jwt:bot"
    assert len(asked) == len(refused) + 1


# Keys of a file


@pytest.mark.parametrize("algorithm", ["HS256", "HS512", "ES256", "RS256"])
async def test_a_key_of_a_file(tmp_path: Path, algorithm: str) -> None:
    file = tmp_path / "key"
    key: Any = SECRET
    old: Any = "o" * 64
    if algorithm.startswith("HS"):
        file.write_text(f"{old}\n{key}\n")
    else:
        key, old = new_key(algorithm), new_key(algorithm)
        file.write_bytes(public_pem(old) + public_pem(key))
    file.chmod(0o600)
    section = JwtConfig(
        key_file=str(file), algorithms=(algorithm,), issuer=ISSUER, audience=("a", AUDIENCE)
    )
    gateway = Gateway(configured(section), tmp_path / "own", {})
    await gateway.start()
    try:
        async with Clients(f"http://127.0.0.1:{gateway.port}") as clients:
            for number, signing in enumerate((key, old)):
                token = jwt.encode(claims(f"p{number}"), signing, algorithm)
                assert (await log_in(clients, token))["true_id"] == f"jwt:p{number}"
            foreign = "f" * 64 if algorithm.startswith("HS") else new_key(algorithm)
            refused = await log_in(clients, jwt.encode(claims(), foreign, algorithm))
            assert refused["message"] == "the JWT's signature is wrong"
    finally:
        await gateway.stop()


# Reload


async def test_a_reload_keeps_the_keys_that_were_fetched(
    gateway: Gateway, clients: Clients, provider: Provider
) -> None:
    assert (await log_in(clients, provider.token()))["true_id"] == "jwt:ann"
    await provider.stop()
    await gateway.reload(lambda: change(gateway.config, limits={"burst": 7}))
    assert (await log_in(clients, provider.token()))["true_id"] == "jwt:ann"


async def test_a_reload_takes_over_another_provider(
    gateway: Gateway, clients: Clients, provider: Provider
) -> None:
    assert (await log_in(clients, provider.token()))["true_id"] == "jwt:ann"
    other = Provider("ES256")
    other.start()
    try:
        section = dataclasses.replace(gateway.config.auth.jwt, jwks_url=other.url, prefix="other:")
        await gateway.reload(lambda: change(gateway.config, auth={"jwt": section}))
        assert (await log_in(clients, other.token()))["true_id"] == "other:ann"
        assert (await log_in(clients, provider.token()))["code"] == "bad_credentials"
        await gateway.reload(lambda: change(gateway.config, auth={"methods": ("guest",)}))
        assert (await log_in(clients, other.token()))["code"] == "unsupported"
    finally:
        await other.stop()
