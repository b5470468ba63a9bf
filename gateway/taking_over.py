"""A running gateway takes over a changed configuration, all of it or nothing."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from tornado.web import Application

from gateway.admission import Admission
from gateway.api_keys import ApiKeysFile
from gateway.auth import Authentication
from gateway.auth.jwt_keys import KeySource
from gateway.auth.users import Users
from gateway.building import (
    admission_settings,
    api_limits,
    engine_settings,
    load_api_keys,
    message_bytes,
)
from gateway.building_auth import build_authentication, extension_rules, load_jwt_keys, load_users
from gateway.config import Config
from gateway.config_loader import check_contradictions
from gateway.connection import Connection
from gateway.delivery import Delivery
from gateway.inquiries import Inquiries
from gateway.logs import configure_logging
from gateway.metrics import Metrics
from gateway.registry import Registry
from gateway.reloading import Merged, merge
from gateway.reporting import Reporting
from gateway.secret_keys import load_secret_keys, load_webhook_secrets
from gateway.tls import load_tls
from gateway.tokens import Tokens
from gateway.transport.api import Api
from gateway.transport.engine import Engine
from gateway.transport.extension_host import ExtensionHost
from gateway.transport.listeners import Listeners
from gateway.transport.neighbour import Neighbour
from gateway.transport.peer import PeerPolicy
from gateway.transport.picows import PicowsWebSockets

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a reload changes. `follow` is told of the accounts' file, None without passwords."""

    tokens: Tokens
    registry: Registry[Connection]
    admission: Admission
    delivery: Delivery
    engine: Engine
    picows: PicowsWebSockets | None
    app: Application
    listeners: Listeners
    peers: PeerPolicy
    api: Api
    reporting: Reporting | None
    extensions: ExtensionHost | None
    neighbour: Neighbour | None
    follow: Callable[[Users | None], None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration that could be taken over, with what was read for it."""

    merged: Merged
    tls: ssl.SSLContext | None
    secret_keys: tuple[str, ...]
    users: Users | None
    jwt_keys: KeySource | None
    authentication: Authentication
    api_keys: ApiKeysFile
    webhook_secrets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Environment:
    """What a configuration is read in: variables and state directory of the gateway, and so on."""

    variables: Mapping[str, str]
    state_dir: Path
    executor: Executor
    #: What asks the backend who players are.
    inquiries: Inquiries | None
    extensions: ExtensionHost | None
    metrics: Metrics


def prepare(
    running: Config, new: Config, jwt_keys: KeySource | None, environment: Environment
) -> Candidate:
    """Read every file that the configuration names. May block. Raises ConfigError.

    `jwt_keys` stay, with what was fetched, if they come from the same place as before.
    """
    merged = merge(running, new)
    config = merged.config
    check_contradictions(config)
    variables, state_dir = environment.variables, environment.state_dir
    users = load_users(config, state_dir)
    if config.auth != running.auth or not config.auth.jwt.jwks_url:
        jwt_keys = load_jwt_keys(config, environment.metrics)
    return Candidate(
        merged,
        load_tls(config.server.tls, time.time()),
        load_secret_keys(config.resume, variables, state_dir, generate=False),
        users,
        jwt_keys,
        build_authentication(
            config,
            users,
            jwt_keys,
            environment.executor,
            environment.inquiries,
            environment.extensions,
            environment.metrics,
        ),
        load_api_keys(config, state_dir),
        load_webhook_secrets("webhooks", config.webhooks.secret_file, variables)
        if config.webhooks.url
        else (),
    )


def take_over(candidate: Candidate, parts: Parts) -> None:
    """Have all parts go on by the candidate; connections stay."""
    merged = candidate.merged
    config = merged.config
    parts.tokens.reconfigure(candidate.secret_keys)
    parts.follow(candidate.users)
    settings = admission_settings(config)
    parts.admission.reconfigure(settings, candidate.authentication)
    for connection in parts.registry:
        connection.reconfigure(settings.connection)
    parts.delivery.reconfigure(message_bytes(config))
    parts.engine.reconfigure(engine_settings(config))
    max_payload = parts.engine.settings.max_payload
    if parts.picows is not None:
        parts.picows.reconfigure(max_payload, config.limits.send_buffer_bytes)
    if parts.neighbour is not None:
        limit = config.limits.forwarded_requests
        parts.neighbour.reconfigure(candidate.secret_keys, limit, max_payload)
    # Where Tornado's own websockets look.
    parts.app.settings["websocket_max_message_size"] = max_payload
    parts.listeners.use_tls(candidate.tls)
    server = config.server
    parts.peers.reconfigure(server.allowed_origins, server.public_url, server.trusted_proxies)
    parts.api.reconfigure(candidate.api_keys, api_limits(config))
    if parts.reporting is not None:
        parts.reporting.reconfigure(candidate.webhook_secrets)
    if parts.extensions is not None:
        parts.extensions.server.rules = extension_rules(config)
    if any(key.startswith("log.") for key in merged.changed):
        configure_logging(config.log)
    logger.info("the configuration was reloaded; changed: %s", ", ".join(merged.changed) or "-")
    if merged.waiting:
        logger.warning("a restart is needed for %s", ", ".join(merged.waiting))
