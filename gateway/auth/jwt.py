"""Log-ins with a JWT of the game's identity provider (RFC 7519, checked as RFC 8725 advises).

A token lets its player in once it is verified; from then on their resume token does, and the
provider is not asked again. To end a session, revoke it or ban the player.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt
import msgspec
from jwt.types import Options

from gateway.api_types import MAX_ATTRIBUTES_BYTES
from gateway.auth import METHODS, Identity
from gateway.auth.jwt_keys import KeySource, KeysUnavailable, VerifyKey
from gateway.errors import ConnectRefused
from gateway.messages import TrueId
from gateway.session import NO_ATTRIBUTES
from gateway.texts import clean_text

#: A larger one is no log-in of a player. Characters.
_MAX_TOKEN: Final = 16_384
_MAX_KID: Final = 256
_MAX_TRUE_ID: Final = 128
_DEFAULT_NAME: Final = "player"


@dataclass(frozen=True, slots=True)
class JwtRules:
    """What tokens must say; see `auth.jwt` in the YAML file. `leeway` is in seconds."""

    algorithms: frozenset[str]
    issuer: str
    audience: Sequence[str]
    leeway: float
    subject: str
    prefix: str
    name: str
    attributes: str
    name_bytes: int


class JwtAuthenticator:
    """Checks `jwt` by the keys of the provider."""

    method: Final = "jwt"

    def __init__(self, rules: JwtRules, keys: KeySource) -> None:
        self._rules = rules
        self._keys = keys

    def claims(self, auth: Mapping[str, object]) -> bool:
        """Return whether the key `jwt` is there, whatever its value."""
        return any(key in auth for key in METHODS[self.method].keys)

    async def authenticate(self, auth: Mapping[str, object], address: str) -> Identity:
        """Return the player whom the token names.

        Raises ConnectRefused: `bad_credentials` for what is wrong with the token, `unavailable`
        with `retry_after` while nobody can say whether its key is good.
        """
        token = auth.get("jwt")
        if not isinstance(token, str):
            raise _bad("jwt must be a text")
        if len(token) > _MAX_TOKEN:
            raise _bad(f"jwt has more than {_MAX_TOKEN} characters")
        kid, algorithm = self._header(token)
        try:
            keys = await self._keys.keys(kid, algorithm)
        except KeysUnavailable as error:
            raise ConnectRefused(
                "unavailable", "JWTs cannot be verified now: try again", round(error.retry_after, 3)
            ) from None
        if not keys:
            raise _bad("the JWT is signed with a key that the identity provider does not have")
        return self._identity(self._verify(token, algorithm, keys))

    async def still_valid(self, true_id: TrueId) -> bool:
        """Return whether the id is one of this provider's: with another prefix it is not."""
        return true_id.startswith(self._rules.prefix)

    def _header(self, token: str) -> tuple[str | None, str]:
        """Return the name of the key and the algorithm that the token claims."""
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise _bad("the JWT is malformed") from None
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._rules.algorithms:
            wanted = ", ".join(sorted(self._rules.algorithms))
            raise _bad(f"the JWT must be signed with {wanted}")
        if kid is not None and (not isinstance(kid, str) or len(kid) > _MAX_KID):
            raise _bad("the JWT's header is malformed")
        return kid, algorithm

    def _verify(self, token: str, algorithm: str, keys: Sequence[VerifyKey]) -> dict[str, Any]:
        """Return the claims. All is left to the library, but which algorithm goes with a key."""
        rules = self._rules
        options: Options = {
            "require": ["exp", "iss", "aud", rules.subject],
            # It may be another claim, and a number: see `_identity`.
            "verify_sub": False,
            "verify_jti": False,
        }
        for key in keys:
            try:
                found: dict[str, Any] = jwt.decode(
                    token,
                    key,
                    algorithms=[algorithm],
                    options=options,
                    audience=rules.audience,
                    issuer=rules.issuer,
                    leeway=rules.leeway,
                )
            except jwt.InvalidSignatureError:
                continue
            except (jwt.PyJWTError, ValueError, RecursionError, OverflowError) as error:
                raise _bad(_wrong(error)) from None
            return found
        raise _bad("the JWT's signature is wrong")

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        rules = self._rules
        subject = claims[rules.subject]
        if isinstance(subject, int) and not isinstance(subject, bool):
            subject = str(subject)
        room = _MAX_TRUE_ID - len(rules.prefix)
        if (
            not isinstance(subject, str)
            or not 0 < len(subject) <= room
            or not all("!" <= character <= "~" for character in subject)
        ):
            raise _bad(
                f"claim {rules.subject} must be a number or 1 to {room} characters of visible ASCII"
            )
        return Identity(
            TrueId(rules.prefix + subject),
            self._name(claims.get(rules.name)),
            self.method,
            self._attributes(claims),
        )

    def _name(self, name: object) -> str:
        """Return the display name. A player cannot mend what their provider calls them."""
        if not isinstance(name, str):
            return _DEFAULT_NAME
        limit = self._rules.name_bytes
        cut = name.strip()
        if limit:
            cut = cut.encode(errors="ignore")[:limit].decode(errors="ignore").strip()
        try:
            return clean_text(cut, "name", limit)
        except ValueError:
            return _DEFAULT_NAME

    def _attributes(self, claims: Mapping[str, Any]) -> str:
        claim = self._rules.attributes
        if not claim or claim not in claims:
            return NO_ATTRIBUTES
        if not isinstance(claims[claim], dict):
            raise _bad(f"claim {claim} must be an object")
        try:
            attributes = msgspec.json.encode(claims[claim])
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise _bad(f"claim {claim} is malformed") from None
        if len(attributes) > MAX_ATTRIBUTES_BYTES:
            raise _bad(f"claim {claim} has more than {MAX_ATTRIBUTES_BYTES} bytes")
        return attributes.decode()


def _wrong(error: Exception) -> str:
    """Return what is wrong with a token, in our words: the library's may quote from it."""
    match error:
        case jwt.ExpiredSignatureError():
            return "the JWT has expired"
        case jwt.ImmatureSignatureError():
            return "the JWT is not valid yet"
        case jwt.InvalidAudienceError():
            return "the JWT is for another audience"
        case jwt.InvalidIssuerError():
            return "the JWT is of another issuer"
        case jwt.MissingRequiredClaimError():
            return f"the JWT lacks the claim {error.claim}"
    return "the JWT is malformed"


def _bad(text: str) -> ConnectRefused:
    return ConnectRefused("bad_credentials", text)
