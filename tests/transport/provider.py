"""An identity provider for tests: it signs JWTs and publishes its keys over real HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

ISSUER = "https://id.example"
AUDIENCE = "game"


def new_key(algorithm: str) -> Any:
    """Make a private key for an algorithm."""
    if algorithm[:2] in ("RS", "PS"):
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    if algorithm in curves:
        return ec.generate_private_key(curves[algorithm])
    return ed25519.Ed25519PrivateKey.generate()


def public_pem(key: Any) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def public_jwk(key: Any, **names: str) -> dict[str, Any]:
    public = key.public_key()
    if isinstance(key, rsa.RSAPrivateKey):
        jwk = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        jwk = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        jwk = OKPAlgorithm.to_jwk(public, as_dict=True)
    return {**jwk, **names}


def claims(subject: Any = "ann", **changes: Any) -> dict[str, Any]:
    """Return what a good token says; a change to None leaves a claim out."""
    now = int(time.time())
    said = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "iat": now,
        "exp": now + 300,
        **changes,
    }
    return {name: value for name, value in said.items() if value is not None}


class _KeySet(RequestHandler):
    def initialize(self, provider: Provider) -> None:
        self._provider = provider

    async def get(self) -> None:
        provider = self._provider
        provider.requests += 1
        await asyncio.sleep(provider.delay)
        self.set_status(provider.status)
        if provider.status == 302:
            self.set_header("Location", "/elsewhere")
        self.set_header("Content-Type", "application/jwk-set+json")
        self.finish(provider.body())


class Provider:
    """Publishes `keys` at `url` while it runs; set what it does wrong."""

    def __init__(self, algorithm: str = "ES256") -> None:
        self.algorithm = algorithm
        self.keys: dict[str, Any] = {}
        self.others: list[Mapping[str, Any]] = []
        self.requests = 0
        self.delay = 0.0
        self.status = 200
        self.text: bytes | None = None
        self.port = 0
        self._server: HTTPServer | None = None
        self.rotate("k1")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks.json"

    def rotate(self, kid: str) -> None:
        """Sign with a new key only; the old ones are gone."""
        self.keys = {kid: new_key(self.algorithm)}

    def body(self) -> bytes:
        if self.text is not None:
            return self.text
        keys = [public_jwk(key, kid=kid, use="sig") for kid, key in self.keys.items()]
        return json.dumps({"keys": [*self.others, *keys]}).encode()

    def token(self, said: Mapping[str, Any] | None = None, **headers: Any) -> str:
        kid, key = next(iter(self.keys.items()))
        names = {"kid": kid, **headers}
        named = {name: value for name, value in names.items() if value is not None}
        return jwt.encode(
            dict(claims() if said is None else said), key, self.algorithm, headers=named
        )

    def start(self) -> None:
        (sock,) = bind_sockets(self.port, "127.0.0.1")
        self.port = sock.getsockname()[1]
        app = Application([("/jwks.json", _KeySet, {"provider": self})], log_function=str)
        self._server = HTTPServer(app)
        self._server.add_sockets([sock])

    async def stop(self) -> None:
        """Be gone, and refuse connections."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()
            await server.close_all_connections()
