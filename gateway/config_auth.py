"""Section `auth` of the settings: see config.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from gateway.config_checks import wrong_claim, wrong_jwks_url, wrong_prefix
from gateway.config_inquiries import AuthWebhookConfig
from gateway.config_spec import about, limit, seconds

#: Algorithms with one secret that signs and verifies (RFC 7518, section 3.2).
SECRET_ALGORITHMS: Final = ("HS256", "HS384", "HS512")
#: Algorithms with a private key that signs and a public one that verifies (RFC 7518, RFC 8037).
PUBLIC_ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
)


#: The gateway's own ways to log in.
METHODS: Final = ("guest", "password", "jwt", "webhook")


@dataclass(frozen=True, slots=True)
class PasswordConfig:
    """Section `auth.password`: accounts with user names."""

    file: str = field(
        default="",
        metadata=about(
            "File of accounts. Empty: `users` in the state directory, unless there is a database."
        ),
    )
    database: str = field(
        default="",
        metadata=about(
            "SQLite file of accounts in the place of that file, for many of them; "
            "`game-gateway users` makes it."
        ),
    )
    attempts_per_minute: int = field(
        default=10,
        metadata=limit(
            "Failed log-ins for a user name from one network, which is an IPv4 address or an IPv6 "
            "/64; three times as many for a network, ten times as many for a user name.",
            "per minute",
        ),
    )


@dataclass(frozen=True, slots=True)
class JwtConfig:
    """Section `auth.jwt`: tokens of the game's identity provider."""

    jwks_url: str = field(
        default="",
        metadata=about(
            "Where the identity provider publishes its keys (JWKS), such as "
            "https://id.example/.well-known/jwks.json; http only for this machine's own.",
            check=wrong_jwks_url,
        ),
    )
    key_file: str = field(
        default="",
        metadata=about(
            "Instead of jwks_url, a file with the key: public keys (PEM), or for HS256 secrets of "
            "at least 32 characters, one a line; 48 for HS384, 64 for HS512. All of them verify."
        ),
    )
    algorithms: tuple[str, ...] = field(
        default=("RS256",),
        metadata=about(
            "Signatures that are accepted. Those with a secret (HS…) and those with a public key "
            "do not go together.",
            choices=(*PUBLIC_ALGORITHMS, *SECRET_ALGORITHMS),
        ),
    )
    issuer: str = field(
        default="", metadata=about("The claim `iss` that tokens must have. Needed.")
    )
    audience: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Tokens must have one of these in their claim `aud`: they are for this game. Needed."
        ),
    )
    subject: str = field(
        default="sub",
        metadata=about(
            "The claim that tells players apart, for good: a text of visible ASCII or a number.",
            check=wrong_claim,
        ),
    )
    prefix: str = field(
        default="jwt:",
        metadata=about(
            "A player's true_id is this and the subject, so that nobody gets the true_id of a "
            "guest or of an account by their name. Changed, everybody is another player.",
            check=wrong_prefix,
        ),
    )
    name: str = field(
        default="name",
        metadata=about(
            "The claim with the name that others see. Without it a player is called `player`.",
            check=wrong_claim,
        ),
    )
    attributes: str = field(
        default="",
        metadata=about(
            "A claim, an object of at most 512 bytes, that is told in the event `session`. Empty: "
            "none.",
            check=wrong_claim,
        ),
    )
    leeway: float = field(
        default=30.0,
        metadata=seconds("How far the provider's clock may be off.", "not at all"),
    )
    jwks_timeout: float = field(
        default=5.0, metadata=seconds("How long the provider may take to hand out its keys.")
    )
    jwks_max_age: float = field(
        default=3600.0,
        metadata=seconds(
            "How long keys are good for without being fetched again; at half of it that is tried."
        ),
    )
    jwks_min_interval: float = field(
        default=10.0,
        metadata=seconds(
            "Least pause between two fetches, whatever unknown keys tokens name; log-ins that "
            "need one sooner are told to wait."
        ),
    )
    jwks_bytes: int = field(
        default=262_144,
        metadata=about("Largest answer with keys that is taken.", "bytes", minimum=1024),
    )


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """Section `auth`: how a player without a session proves who they are."""

    methods: tuple[str, ...] = field(
        default=("guest",),
        metadata=about(
            "How new players may log in. The webhook is asked when no other method wants what the "
            "client sent. Extensions may add others.",
            choices=METHODS,
            open=True,
        ),
    )
    password: PasswordConfig = field(
        default_factory=PasswordConfig,
        metadata=about("User names and passwords, when methods has `password`."),
    )
    jwt: JwtConfig = field(
        default_factory=JwtConfig,
        metadata=about("Tokens of an identity provider, when methods has `jwt`."),
    )
    webhook: AuthWebhookConfig = field(
        default_factory=AuthWebhookConfig,
        metadata=about("The game's backend is asked who a player is, when methods has `webhook`."),
    )


def contradictions(auth: AuthConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the keys and the message of each thing that does not go together."""
    if auth.password.file and auth.password.database:
        message = "give either auth.password.file or auth.password.database, not both"
        yield ("auth.password.database", "auth.password.file"), message
    if "webhook" in auth.methods and not auth.webhook.url:
        message = "auth.webhook.url must be given with the method webhook"
        yield ("auth.methods", "auth.webhook.url"), message
    jwt = auth.jwt
    secret = [each for each in jwt.algorithms if each in SECRET_ALGORITHMS]
    if secret and len(secret) < len(jwt.algorithms):
        message = (
            f"{secret[0]} has a secret and others of the list a public key; with both, whoever "
            "knows the public key could sign: keep one kind"
        )
        yield ("auth.jwt.algorithms",), message
    elif secret and jwt.jwks_url:
        message = (
            f"{secret[0]} needs a secret, and what auth.jwt.jwks_url publishes is none; "
            "use auth.jwt.key_file or another algorithm"
        )
        yield ("auth.jwt.algorithms", "auth.jwt.jwks_url"), message
    if jwt.jwks_url and jwt.key_file:
        message = "give either auth.jwt.jwks_url or auth.jwt.key_file, not both"
        yield ("auth.jwt.key_file", "auth.jwt.jwks_url"), message
    if jwt.jwks_min_interval > jwt.jwks_max_age:
        message = "auth.jwt.jwks_min_interval must not be longer than auth.jwt.jwks_max_age"
        yield ("auth.jwt.jwks_min_interval", "auth.jwt.jwks_max_age"), message
    if "jwt" not in auth.methods:
        return
    for key, given, why in (
        ("jwks_url or auth.jwt.key_file", jwt.jwks_url or jwt.key_file, "nothing verifies a token"),
        ("issuer", jwt.issuer, "tokens of anybody would do"),
        ("audience", jwt.audience, "a token for any other game or site would do"),
    ):
        if not given:
            keys = ("auth.methods", "auth.jwt.issuer", "auth.jwt.audience", "auth.jwt.jwks_url")
            yield keys, f"jwt needs auth.jwt.{key}: without it {why}"
