"""What each object is told of the configuration, and what is built from it alone."""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from typing import Final, cast

from gateway.admin import Admin
from gateway.admin_sessions import AdminSessions
from gateway.api_keys import ApiKeysError, ApiKeysFile
from gateway.attendance import Attendance
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
from gateway.backend import Backend, BackendLimits
from gateway.config import Config
from gateway.config_checks import GATEWAY_IDS
from gateway.config_inquiries import InquiryConfig
from gateway.config_loader import STORED_BESIDE
from gateway.connecting import AdmissionSettings
from gateway.connection import Services
from gateway.errors import ConfigError
from gateway.extension_modules import load_modules
from gateway.history import History
from gateway.inquiries import Inquiries, InquirySettings
from gateway.joining import ClosedRooms, Joining, OpenRooms, RoomPolicy
from gateway.limits import ConnectionLimits, HiddenPolicy
from gateway.locks import KeyedLocks
from gateway.mailbox import Retention
from gateway.membership import RoomLimits
from gateway.messages import SessionId, TrueId
from gateway.metrics import Metrics
from gateway.minting import Minting
from gateway.outbox import OutboxLimits
from gateway.presence_service import PresenceService, PresenceSettings
from gateway.presence_writing import CallLater
from gateway.reporting import Reporting
from gateway.room_webhook import WebhookRooms
from gateway.rooms import RoomSettings
from gateway.secret_keys import load_webhook_secrets
from gateway.store import Store, StoreLimits
from gateway.tokens import Tokens
from gateway.transport.admin import admin_routes
from gateway.transport.admin_door import Door
from gateway.transport.api import Api, ApiLimits, Routes
from gateway.transport.app import BUILT_IN
from gateway.transport.extension_host import ExtensionHost
from gateway.transport.extensions import ExtensionRules, ExtensionServer
from gateway.transport.interfaces import EngineSettings
from gateway.transport.webhook_client import ClientLimits, WebhookClient
from gateway.webhooks import Webhooks, WebhookSettings

#: Room in a packet beside the game's data: event name, ids, tokens.
_ENVELOPE_BYTES: Final = 4096
#: What the backend may answer to webhooks: nothing of it is used.
_ANSWER_BYTES: Final = 65_536
#: What `message_bytes` 0 stands for where a number is needed.
_UNLIMITED_BYTES: Final = 2**30


def new_true_id() -> TrueId:
    """Return a fresh player id."""
    return TrueId(GATEWAY_IDS + secrets.token_urlsafe(12))


def new_session_id() -> SessionId:
    """Return a fresh session id."""
    return SessionId("s_" + secrets.token_urlsafe(12))


def new_sid() -> str:
    """Return a fresh id for an Engine.IO session or a socket."""
    return secrets.token_urlsafe(15)


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
    client = _webhook_client(
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


def _webhook_client(section: str, url: str, limits: ClientLimits, ca_file: str) -> WebhookClient:
    try:
        return WebhookClient(url, limits, ca_file)
    except OSError as error:
        raise ConfigError(
            f"{section}.ca_file: {ca_file} cannot be used: {error.strerror or error}"
        ) from None


def build_presence(
    config: Config,
    store: Store,
    metrics: Metrics,
    call_later: CallLater,
    on_here: Callable[[TrueId], None],
) -> PresenceService:
    """Return what knows who is here; see PresenceService."""
    of = config.presence
    settings = PresenceSettings(of.grace, of.settle, of.interval, of.max_watched, of.listing)
    clocks = (time.time, time.monotonic)
    return PresenceService(settings, metrics, *clocks, call_later, on_here, store.presence)


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


def build_backend(
    config: Config, services: Services, store: Store, tokens: Tokens, locks: KeyedLocks
) -> Backend:
    """Return the calls of game backends."""
    minting = Minting(
        store,
        tokens,
        locks,
        services.metrics,
        lambda true_id: bool(services.registry.connections_of(true_id)),
        new_session_id,
        time.time,
        config.limits.name_bytes,
    )
    return Backend(services, store, minting, BackendLimits(config.api.broadcasts))


def load_api_keys(config: Config, state_dir: Path) -> ApiKeysFile:
    """Return the keys of game backends. Raises ConfigError for a broken file."""
    keys = ApiKeysFile(api_keys_path(config, state_dir))
    try:
        keys.load()
    except ApiKeysError as error:
        raise ConfigError(str(error)) from None
    return keys


def api_keys_path(config: Config, state_dir: Path) -> Path:
    """Return where the API keys are."""
    return Path(config.api.keys_file or state_dir / "api-keys")


def api_limits(config: Config) -> ApiLimits:
    """Return what the HTTP API is told."""
    return ApiLimits(
        config.api.requests_per_second,
        config.api.burst,
        config.api.attempts_per_minute,
        message_bytes(config),
    )


def build_admin_routes(
    config: Config,
    services: Services,
    history: History,
    trouble: Callable[[], str | None],
    release: str,
    api: Api,
) -> Routes:
    """Return the routes of the operator's page; none without `admin.enabled`.

    Keys are those that the API goes by at the time.
    """
    section = config.admin
    if not section.enabled:
        return []
    sessions = AdminSessions(
        section.session_lifetime,
        section.sessions,
        api.holds,
        lambda: api.metrics.limit_hit("admin.sessions"),
        time.monotonic,
        lambda: secrets.token_urlsafe(32),
    )
    door = Door(sessions, api, section.attempts_per_minute, time.monotonic)
    return admin_routes(api, Admin(services, api.backend, history, trouble, release), door)


def build_reporting(
    config: Config,
    environ: Mapping[str, str],
    store: Store,
    is_here: Callable[[TrueId], bool],
    metrics: Metrics,
) -> Reporting | None:
    """Return what tells the game's backend of players; None without `webhooks.url`.

    Raises ConfigError.
    """
    section = config.webhooks
    if not section.url:
        return None
    signing = load_webhook_secrets("webhooks", section.secret_file, environ)
    limits = ClientLimits(section.timeout, section.timeout, section.concurrency, _ANSWER_BYTES)
    client = _webhook_client("webhooks", section.url, limits, section.ca_file)
    settings = WebhookSettings(
        section.concurrency, section.attempts, section.max_backoff, section.retention
    )
    jitter = random.Random().random  # noqa: S311
    attendance = None
    if store.presence is None:
        grace = config.presence.grace
        attendance = Attendance(store, is_here, grace, time.time, time.monotonic)
    return Reporting(
        store,
        attendance,
        Webhooks(store, client.post, signing, settings, metrics, time.time, time.monotonic, jitter),
        metrics,
        client.close,
    )


def admission_settings(config: Config) -> AdmissionSettings:
    """Return what admission is told."""
    limits = config.limits
    return AdmissionSettings(
        probe_timeout=config.resume.probe_timeout,
        connections_per_player=limits.connections_per_player,
        new_sessions_per_minute=limits.new_sessions_per_minute,
        connection=ConnectionLimits(
            messages_per_second=limits.messages_per_second,
            burst=limits.burst,
            send_buffer_bytes=limits.send_buffer_bytes,
            state_keys=limits.state_keys,
            state_bytes=limits.state_bytes,
            hidden_policy=cast(HiddenPolicy, config.presence.hidden_policy),
        ),
        announced_limits={
            "message_bytes": limits.message_bytes,
            "messages_per_second": limits.messages_per_second,
            "burst": limits.burst,
            "max_messages": config.mailbox.max_messages,
            "retention": config.mailbox.retention,
            "dedupe_window": config.mailbox.dedupe_window,
            "presence_grace": config.presence.grace,
        },
    )


def engine_settings(config: Config) -> EngineSettings:
    """Return what the Engine.IO engine is told."""
    limits = config.limits
    return EngineSettings(
        ping_interval=config.server.ping_interval,
        ping_timeout=config.server.ping_timeout,
        max_payload=(limits.message_bytes or _UNLIMITED_BYTES) + _ENVELOPE_BYTES,
        connections=limits.connections,
        connections_per_address=limits.connections_per_address,
        send_buffer_bytes=limits.send_buffer_bytes,
        slow_timeout=limits.slow_timeout,
    )


def is_compiled() -> bool:
    """Tell whether the modules of the hot path run as C: packaging/compiled.py."""
    spec = find_spec(ConnectionLimits.__module__)
    return spec is not None and (spec.origin or "").endswith(tuple(EXTENSION_SUFFIXES))


def message_bytes(config: Config) -> int:
    """Return the largest `data` of a message: without a limit, what a mailbox can hold."""
    limit = config.limits.message_bytes
    if not limit and config.mailbox.max_bytes:
        limit = max(1, config.mailbox.max_bytes - STORED_BESIDE)
    return limit


def store_limits(config: Config) -> StoreLimits:
    """Return what the store is told."""
    mailbox = config.mailbox
    return StoreLimits(
        mailbox=Retention(mailbox.max_messages, mailbox.max_bytes, mailbox.retention),
        refuse_when_full=mailbox.when_full == "refuse",
        total_bytes=mailbox.total_bytes,
        dedupe_window=mailbox.dedupe_window,
        dedupe_keys=mailbox.dedupe_keys,
        sessions=config.limits.sessions,
        sessions_per_player=config.limits.sessions_per_player,
        session_lifetime=config.resume.session_lifetime,
        token_lifetime=config.resume.token_lifetime,
        rooms=RoomLimits(config.rooms.max_members, config.rooms.per_player, config.rooms.rooms),
        outbox=OutboxLimits(
            bool(config.webhooks.url), config.webhooks.max_queued, config.webhooks.max_dead
        ),
    )


def build_joining(config: Config, inquiries: Inquiries | None, metrics: Metrics) -> Joining:
    """Return who says who may join; `inquiries` is what `room_inquiries` returned."""
    policy: RoomPolicy = OpenRooms() if config.rooms.open else ClosedRooms()
    if inquiries is not None:
        policy = WebhookRooms(inquiries)
    return Joining(policy, config.rooms.pending_joins, metrics)


def room_settings(config: Config) -> RoomSettings:
    """Return what rooms are told."""
    return RoomSettings(config.presence.grace, config.rooms.announce)


def prepare_state_dir(state_dir: Path) -> Path:
    """Make the state directory if need be. Raises ConfigError."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{state_dir}: the state directory cannot be made: {error.strerror}; "
            "name another with --state-dir"
        ) from None
    if not os.access(state_dir, os.W_OK | os.X_OK):
        raise ConfigError(f"{state_dir}: the state directory is not writable")
    return state_dir


def static_path(config: Config) -> Path:
    """Return the directory of the page that players load. Raises ConfigError."""
    if not config.static.path:
        return BUILT_IN
    path = Path(config.static.path)
    if not (path / config.static.index).is_file():
        raise ConfigError(f"static.path: there is no {config.static.index} in {path}")
    return path
