"""What each object is told of the configuration, and what is built from it alone."""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Callable, Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from typing import Final, cast

from gateway.admin import Admin
from gateway.admin_sessions import AdminSessions
from gateway.api_keys import ApiKeysError, ApiKeysFile
from gateway.attendance import Attendance
from gateway.backend import Backend, BackendLimits
from gateway.building_auth import webhook_client
from gateway.config import Config
from gateway.config_loader import STORED_BESIDE
from gateway.connecting import AdmissionSettings
from gateway.connection import Connection, Services
from gateway.cut_off import CutOff
from gateway.errors import ConfigError
from gateway.fresh_ids import new_session_id
from gateway.history import History
from gateway.inquiries import Inquiries
from gateway.joining import ClosedRooms, Joining, OpenRooms, RoomPolicy
from gateway.limits import ConnectionLimits, HiddenPolicy
from gateway.locks import KeyedLocks
from gateway.mailbox import Retention
from gateway.membership import RoomLimits
from gateway.messages import TrueId
from gateway.metrics import Metrics
from gateway.minting import Minting
from gateway.nodes import NodeId, Nodes
from gateway.outbox import OutboxLimits
from gateway.presence_service import PresenceService, PresenceSettings
from gateway.presence_writing import CallLater
from gateway.registry import Registry
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
from gateway.transport.interfaces import EngineSettings
from gateway.transport.neighbour import Neighbour
from gateway.transport.webhook_client import ClientLimits
from gateway.webhooks import Webhooks, WebhookSettings

#: Room in a packet beside the game's data: event name, ids, tokens.
_ENVELOPE_BYTES: Final = 4096
#: What the backend may answer to webhooks: nothing of it is used.
_ANSWER_BYTES: Final = 65_536
#: What `message_bytes` 0 stands for where a number is needed.
_UNLIMITED_BYTES: Final = 2**30


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


def build_backend(
    config: Config,
    services: Services,
    store: Store,
    tokens: Tokens,
    locks: KeyedLocks,
    reporting: Reporting | None,
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
    limits = BackendLimits(config.api.broadcasts)
    if reporting is None:
        return Backend(services, store, minting, limits)
    return Backend(services, store, minting, limits, reporting.look_again)


def build_cut_off(
    registry: Registry[Connection],
    nodes: Nodes,
    neighbour: Neighbour | None,
    pace: Callable[[], tuple[float, float]],
) -> CutOff:
    """Return what sends players away when only this node has lost the store; see CutOff."""

    async def serves(node: NodeId) -> bool:
        return neighbour is not None and await neighbour.serves(node)

    return CutOff(registry, lambda: nodes.others, serves, pace, random.SystemRandom())


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
    client = webhook_client("webhooks", section.url, limits, section.ca_file)
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
        revocations=config.limits.revocations,
        pending_messages=config.rooms.pending_messages,
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
