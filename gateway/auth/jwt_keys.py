"""Keys that verify JWTs: which key is for which algorithm, and where keys come from.

An algorithm and a key must be of one kind. A public key that were taken for the secret of an
HMAC would let everybody sign who knows it (RFC 8725, section 2.1).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWTError
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.config_auth import SECRET_ALGORITHMS
from gateway.errors import ConfigError

logger = logging.getLogger(__name__)

PublicKey: TypeAlias = (
    rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey
)
VerifyKey: TypeAlias = PublicKey | bytes

#: Shorter RSA keys can be broken (NIST SP 800-131A). Bits.
_MIN_RSA_BITS: Final = 2048
#: Keys that are looked at: of a set, of a file, and for one token.
_MAX_KEYS: Final = 100
_MAX_FILE_BYTES: Final = 1_048_576
#: A secret has at least as many bytes as the hash (RFC 7518, section 3.2).
_SECRET_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
_CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
_PEM: Final = re.compile(rb"-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----", re.DOTALL)
_OTHERS: Final = 0o077


class KeysUnavailable(Exception):
    """Nobody can say now which keys are good; `retry_after` is in seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("the identity provider's keys are not available")
        self.retry_after = retry_after


class KeySource(Protocol):
    """Where keys come from."""

    async def keys(self, kid: str | None, algorithm: str) -> Sequence[VerifyKey]:
        """Return the keys that may have signed; none is the answer for an unknown `kid`.

        Raises KeysUnavailable.
        """

    def prefetch(self) -> None:
        """Get them in the background, so that the first log-in need not wait."""

    async def close(self) -> None:
        """End what runs in the background."""


def fits(key: VerifyKey, algorithm: str) -> bool:
    """Tell whether a key is of the kind that an algorithm takes."""
    if isinstance(key, bytes):
        return algorithm in SECRET_ALGORITHMS
    if isinstance(key, rsa.RSAPublicKey):
        return algorithm[:2] in ("RS", "PS")
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _CURVES.get(algorithm) == key.curve.name
    return algorithm == "EdDSA"


def wrong_key(key: PublicKey) -> str | None:
    """Return what is wrong with a public key of any provider."""
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
        return f"the RSA key has {key.key_size} bits; {_MIN_RSA_BITS} are the least"
    return None


class FileKeys:
    """Keys of a file: public ones in PEM, or secrets, one a line."""

    def __init__(self, keys: Sequence[VerifyKey]) -> None:
        self._keys = tuple(keys)

    async def keys(self, kid: str | None, algorithm: str) -> Sequence[VerifyKey]:
        """See KeySource.keys. A file has no names for its keys."""
        return [key for key in self._keys if fits(key, algorithm)]

    def prefetch(self) -> None:
        """See KeySource.prefetch."""

    async def close(self) -> None:
        """See KeySource.close."""

    @staticmethod
    def load(path: Path, algorithms: Sequence[str]) -> FileKeys:
        """Read the file. Raises ConfigError that says what to write into it."""
        try:
            with path.open("rb") as file:
                text = file.read(_MAX_FILE_BYTES)
                mode = path.stat().st_mode
        except OSError as error:
            raise ConfigError(
                f"{path}: auth.jwt.key_file cannot be read: {error.strerror}"
            ) from None
        keys: Sequence[VerifyKey]
        if algorithms[0] in SECRET_ALGORITHMS:
            keys = _secrets(path, text, max(_SECRET_BYTES[each] for each in algorithms))
            if mode & _OTHERS:
                logger.warning("%s can be read by others; do: chmod 600 %s", path, path)
        else:
            keys = _public_keys(path, text)
        useless = [each for each in algorithms if not any(fits(key, each) for key in keys)]
        if useless:
            raise ConfigError(
                f"{path}: no key in auth.jwt.key_file is for {', '.join(useless)}; add one, or "
                "take that out of auth.jwt.algorithms"
            )
        return FileKeys(keys)


def _secrets(path: Path, text: bytes, least: int) -> list[bytes]:
    if b"-----BEGIN" in text:
        raise ConfigError(
            f"{path}: auth.jwt.key_file has a PEM key, and auth.jwt.algorithms want a secret; "
            "name the key's own algorithm, such as RS256"
        )
    secrets = [line.strip() for line in text.splitlines() if line.strip()]
    if not secrets:
        raise ConfigError(f"{path}: auth.jwt.key_file is empty; write one secret a line")
    for number, secret in enumerate(secrets, 1):
        if len(secret) < least:
            raise ConfigError(
                f"{path}: auth.jwt.key_file: secret {number} is shorter than {least} characters; "
                f"make one with: openssl rand -hex {least}"
            )
    return secrets[:_MAX_KEYS]


def _public_keys(path: Path, text: bytes) -> list[PublicKey]:
    keys: list[PublicKey] = []
    for number, block in enumerate(_PEM.findall(text)[:_MAX_KEYS], 1):
        try:
            key = load_pem_public_key(block)
        except (ValueError, UnsupportedAlgorithm):
            raise ConfigError(
                f"{path}: auth.jwt.key_file: key {number} is no public key; get one with: "
                "openssl pkey -in KEY -pubout, or openssl x509 -in CERTIFICATE -pubkey -noout"
            ) from None
        if not isinstance(key, PublicKey):
            raise ConfigError(f"{path}: auth.jwt.key_file: key {number} is not RSA, EC or EdDSA")
        if wrong := wrong_key(key):
            raise ConfigError(f"{path}: auth.jwt.key_file: key {number}: {wrong}")
        keys.append(key)
    if not keys:
        raise ConfigError(
            f"{path}: auth.jwt.key_file has no PEM block (-----BEGIN PUBLIC KEY-----)"
        )
    return keys


# Key sets: RFC 7517


@dataclass(frozen=True, slots=True)
class NamedKey:
    """A key of a set; `algorithm` is the only one it is for, None where the set does not say."""

    kid: str | None
    algorithm: str | None
    key: PublicKey


def parse_key_set(text: bytes) -> list[NamedKey]:
    """Return the keys of a JWKS that can verify signatures; others in it are passed over.

    Raises ValueError when it is no key set, or has no such key.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    entries = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(entries, list):
        raise ValueError("it is no key set: there is no list `keys`")
    keys = list(_usable(entries[:_MAX_KEYS]))
    if not keys:
        raise ValueError("it has no key for signatures that is known here")
    return keys


def _usable(entries: Iterable[object]) -> Iterable[NamedKey]:
    for entry in entries:
        if not isinstance(entry, dict) or not _is_for_signatures(entry):
            continue
        kid, algorithm = entry.get("kid"), entry.get("alg")
        key = _public_key(entry)
        if key is not None:
            yield NamedKey(
                kid if isinstance(kid, str) else None,
                algorithm if isinstance(algorithm, str) else None,
                key,
            )


def _is_for_signatures(entry: Mapping[str, Any]) -> bool:
    operations = entry.get("key_ops")
    verifies = not isinstance(operations, list) or "verify" in operations
    return entry.get("use", "sig") == "sig" and verifies


def _public_key(entry: Mapping[str, Any]) -> PublicKey | None:
    readers: dict[str, Callable[[dict[str, Any]], object]] = {
        "RSA": RSAAlgorithm.from_jwk,
        "EC": ECAlgorithm.from_jwk,
        "OKP": OKPAlgorithm.from_jwk,
    }
    reader = readers.get(str(entry.get("kty")))
    if reader is None:
        return None
    # A provider that publishes a private key has a problem of its own.
    public = {name: value for name, value in entry.items() if name != "d"}
    try:
        key = reader(public)
    except (PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, PublicKey) and wrong_key(key) is None else None
