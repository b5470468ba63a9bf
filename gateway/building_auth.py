"""Builds what says who players are: log-ins, accounts, and what the game's backend is asked."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path

from gateway.auth import Authentication, Authenticator
from gateway.auth.guest import GuestAuthenticator
from gateway.auth.jwks import HttpFetch, Jwks
from gateway.auth.jwt import JwtAuthenticator, JwtRules
from gateway.auth.jwt_keys import FileKeys, KeySource
from gateway.auth.password import PasswordAuthenticator
from gateway.auth.users import Users
from gateway.auth.users_database import UsersDatabase
from gateway.auth.users_file import UsersFile
from gateway.auth.users_format import UsersError
from gateway.auth.webhook import AuthWebhookSettings, WebhookAuthenticator
from gateway.config import Config
from gateway.config_checks import GATEWAY_IDS
from gateway.config_inquiries import InquiryConfig
from gateway.errors import ConfigError
from gateway.extension_modules import load_modules
from gateway.fresh_ids import new_sid, new_true_id
from gateway.inquiries import Inquiries, InquirySettings
from gateway.metrics import Metrics
from gateway.secret_keys import load_webhook_secrets
from gateway.transport.extension_host import ExtensionHost
from gateway.transport.extensions import ExtensionRules, ExtensionServer
from gateway.transport.webhook_client import ClientLimits, WebhookClient


def build_authentication(
    config: Config,
    users: Users | None,
    jwt_keys: KeySource | None,
    executor: Executor,
    inquiries: Inquiries | None,
    extensions: ExtensionHost | None,
    metrics: Metrics,
) -> Authentication:
    """Return the enabled methods.

    `users`, `jwt_keys`, `inquiries` and `extensions` are what was loaded or built for them.
    Raises ConfigError for a method that is nobody's.
    """
    others = extensions.authenticators if extensions is not None else {}
    if extensions is not None:
        extensions.check_methods(config.auth.methods)
    methods: list[Authenticator] = []
    password: PasswordAuthenticator | None = None
    for method in config.auth.methods:
        if method == "guest":
            methods.append(GuestAuthenticator(config.limits.name_bytes, new_true_id))
        elif method == "jwt" and jwt_keys is not None:
            methods.append(JwtAuthenticator(jwt_rules(config), jwt_keys))
        elif method == "password" and users is not None:
            attempts = config.auth.password.attempts_per_minute
            password = PasswordAuthenticator(users, executor, attempts, time.monotonic)
            methods.append(password)
        elif method in others:
            methods.append(others[method])
    if "webhook" in config.auth.methods and inquiries is not None:
        webhook = config.auth.webhook
        settings = AuthWebhookSettings(
            webhook.question_bytes,
            webhook.attempts_per_minute,
            (*_reserved(config), *(f"{name}:" for name in others)),
            config.limits.name_bytes,
        )
        is_account = None
        if password is not None and not webhook.accept_other_ids:
            is_account = password.still_valid
        # The last one: it takes what no other method wants.
        methods.append(
            WebhookAuthenticator(inquiries, settings, is_account, metrics, time.monotonic)
        )
    return Authentication(methods, {name: other.about for name, other in others.items()})


def load_extensions(config: Config, metrics: Metrics) -> ExtensionHost | None:
    """Return the extensions, set up; None when there are none. Raises ConfigError."""
    if not config.extensions:
        return None
    server = ExtensionServer(new_sid, extension_rules(config), metrics.limit_hit)
    host = ExtensionHost(server, config.limits.name_bytes)
    host.set_up(load_modules(config.extensions, config.extensions_path))
    host.check_methods(config.auth.methods)
    return host


def extension_rules(config: Config) -> ExtensionRules:
    """Return who may use the extensions' namespaces, and how often."""
    return ExtensionRules(True, config.limits.messages_per_second, config.limits.burst)


def _reserved(config: Config) -> tuple[str, ...]:
    """Return what ids begin with that the webhook must not give to players."""
    if config.auth.webhook.accept_other_ids:
        return ()
    return (GATEWAY_IDS, config.auth.jwt.prefix)


def load_jwt_keys(config: Config, metrics: Metrics) -> KeySource | None:
    """Return the identity provider's keys, if players may log in with a JWT. Raises ConfigError."""
    if "jwt" not in config.auth.methods:
        return None
    jwt = config.auth.jwt
    if jwt.key_file:
        return FileKeys.load(Path(jwt.key_file), jwt.algorithms)
    fetch = HttpFetch(
        jwt.jwks_url,
        jwt.jwks_timeout,
        jwt.jwks_bytes,
        lambda: metrics.limit_hit("auth.jwt.jwks_bytes"),
    )
    return Jwks(fetch, jwt.jwks_max_age, jwt.jwks_min_interval, time.monotonic)


def jwt_rules(config: Config) -> JwtRules:
    """Return what JWTs must say."""
    jwt = config.auth.jwt
    return JwtRules(
        algorithms=frozenset(jwt.algorithms),
        issuer=jwt.issuer,
        audience=jwt.audience,
        leeway=jwt.leeway,
        subject=jwt.subject,
        prefix=jwt.prefix,
        name=jwt.name,
        attributes=jwt.attributes,
        name_bytes=config.limits.name_bytes,
    )


def auth_inquiries(
    config: Config, environ: Mapping[str, str], metrics: Metrics
) -> Inquiries | None:
    """Return what asks the backend who players are; None without a url. Raises ConfigError.

    It is there also while the method is off: a reload may turn that on.
    """
    if not config.auth.webhook.url:
        return None
    return _build_inquiries("auth.webhook", config.auth.webhook, environ, metrics)


def room_inquiries(
    config: Config, environ: Mapping[str, str], metrics: Metrics
) -> Inquiries | None:
    """Return what asks the backend who may join, if it is asked. Raises ConfigError."""
    if config.rooms.open or not config.rooms.webhook.url:
        return None
    return _build_inquiries("rooms.webhook", config.rooms.webhook, environ, metrics)


def _build_inquiries(
    section: str, config: InquiryConfig, environ: Mapping[str, str], metrics: Metrics
) -> Inquiries:
    signing = load_webhook_secrets(section, config.secret_file, environ)
    client = webhook_client(
        section,
        config.url,
        ClientLimits(
            config.connect_timeout, config.timeout, config.concurrency, config.answer_bytes
        ),
        config.ca_file,
    )
    return Inquiries(
        client.post,
        client.close,
        signing,
        InquirySettings(section, config.timeout, config.concurrency, config.queue),
        metrics,
        time.time,
        time.monotonic,
        random.SystemRandom().random,
    )


def webhook_client(section: str, url: str, limits: ClientLimits, ca_file: str) -> WebhookClient:
    """Return what posts to the game's backend. Raises ConfigError for a `ca_file` of no use."""
    try:
        return WebhookClient(url, limits, ca_file)
    except OSError as error:
        raise ConfigError(
            f"{section}.ca_file: {ca_file} cannot be used: {error.strerror or error}"
        ) from None


def load_users(config: Config, state_dir: Path) -> Users | None:
    """Return the accounts, if players may log in with a password. Raises ConfigError."""
    if "password" not in config.auth.methods:
        return None
    users = open_users(config, state_dir)
    try:
        users.load()
    except UsersError as error:
        raise ConfigError(str(error)) from None
    return users


def open_users(config: Config, state_dir: Path) -> Users:
    """Return what holds the accounts; nothing is read yet."""
    path = users_path(config, state_dir)
    if config.auth.password.database:
        return UsersDatabase(path, new_true_id)
    return UsersFile(path, new_true_id)


def users_path(config: Config, state_dir: Path) -> Path:
    """Return where the accounts are: the password file, or their database."""
    password = config.auth.password
    return Path(password.database or password.file or state_dir / "users")
