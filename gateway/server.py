"""The composition root: builds everything from the configuration, starts and stops it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from gateway.accounts import Accounts
from gateway.admission import Admission, AdmissionSettings
from gateway.auth import Authentication, Authenticator
from gateway.auth.guest import GuestAuthenticator
from gateway.auth.password import PasswordAuthenticator
from gateway.auth.users_file import UsersFile
from gateway.auth.users_format import UsersError
from gateway.config import Config
from gateway.config_loader import STORED_BESIDE
from gateway.connection import Connection, ConnectionLimits, Services, announce
from gateway.delivery import Delivery
from gateway.errors import ConfigError, StoreUnavailable
from gateway.locks import KeyedLocks
from gateway.mailbox import Retention
from gateway.messages import SessionId, TrueId
from gateway.metrics import Metrics
from gateway.presence import Presence
from gateway.registry import Registry
from gateway.revocation import Revocation
from gateway.secret_keys import load_secret_keys
from gateway.store import StoreLimits
from gateway.stores import build_store
from gateway.systemd import Notifier
from gateway.tokens import Tokens
from gateway.transport.acceptor import Acceptor
from gateway.transport.app import BUILT_IN, AppParts, build_app, build_metrics_app
from gateway.transport.engine import Engine, EngineSettings
from gateway.transport.peer import PeerPolicy
from gateway.transport.picows import PicowsWebSockets
from gateway.transport.socketio import SocketIOServer

logger = logging.getLogger(__name__)

#: Room in a packet beside the game's data: event name, ids, tokens.
_ENVELOPE_BYTES: Final = 4096
#: What `message_bytes` 0 stands for where a number is needed.
_UNLIMITED_BYTES: Final = 2**30
_HEADER_BYTES: Final = 16 * 1024

_BODY_TIMEOUT: Final = 20.0
#: For the head of a request, and between two requests of a connection.
_IDLE_TIMEOUT: Final = 30.0
_PRESENCE_SWEEP: Final = 1.0
_STORE_SWEEP: Final = 30.0
_ACCOUNTS_SWEEP: Final = 5.0
_MIN_RECONNECT: Final = 0.5
_PASSWORD_THREADS: Final = 2
_GC_THRESHOLDS: Final = (20_000, 20, 20)
#: The store's threads wait so long for a busy event loop to let them go on, in seconds. With
#: Python's 5 ms a commit of a few statements takes tens of them.
_SWITCH_INTERVAL: Final = 0.0002
_TURNS_TO_ANSWER: Final = 3


def new_true_id() -> TrueId:
    """Return a fresh player id."""
    return TrueId("p_" + secrets.token_urlsafe(12))


def _new_sid() -> str:
    return secrets.token_urlsafe(15)


class Gateway:
    """One running gateway. `environ` is where systemd's variables are read from.

    Raises ConfigError when the configuration asks for something that is not there.
    """

    def __init__(self, config: Config, state_dir: Path, environ: Mapping[str, str]) -> None:
        self.config = config
        self.metrics = Metrics()
        self._notifier = Notifier(environ)
        self._executor = ThreadPoolExecutor(_PASSWORD_THREADS, thread_name_prefix="password")
        self._state_dir = _prepare_state_dir(state_dir)
        secret_keys = load_secret_keys(config.resume, environ, state_dir)
        self._tokens = Tokens(secret_keys, config.resume.token_lifetime, time.time)
        self._registry: Registry[Connection] = Registry()
        self._store = build_store(
            config.store.url,
            _store_limits(config),
            self._state_dir,
            self.metrics.dropped,
            self._on_store_replaced,
        )
        self._presence = Presence(config.presence.grace)
        locks = KeyedLocks()
        revocation = Revocation(self._store, self._registry.connections_of, time.time, locks)
        self._revocation = revocation
        self._accounts: Accounts | None = None
        self._services = Services(
            store=self._store,
            sessions=self._store,
            registry=self._registry,
            delivery=Delivery(
                self._store,
                self._registry.connections_of,
                self.metrics,
                time.time,
                _message_bytes(config),
            ),
            presence=self._presence,
            revocation=revocation,
            metrics=self.metrics,
            clock=time.time,
            monotonic=time.monotonic,
        )
        self.admission = Admission(
            self._services,
            self._build_authentication(),
            self._tokens,
            self._admission_settings(),
            lambda: SessionId("s_" + secrets.token_urlsafe(12)),
            locks,
        )
        self._servers: list[HTTPServer] = []
        self._sweeps: list[asyncio.Task[None]] = []
        self._engine: Engine
        self._socketio: SocketIOServer
        self._picows: PicowsWebSockets | None = None
        self._acceptor: Acceptor | None = None
        self.url = ""
        self.port = 0

    # Building

    def _build_authentication(self) -> Authentication:
        config = self.config
        methods: list[Authenticator] = []
        for method in config.auth.methods:
            if method == "guest":
                methods.append(GuestAuthenticator(config.limits.name_bytes, new_true_id))
            else:
                methods.append(self._build_password())
        return Authentication(methods)

    def _build_password(self) -> PasswordAuthenticator:
        settings = self.config.auth.password
        users = UsersFile(users_path(self.config, self._state_dir), new_true_id)
        try:
            users.load()
        except UsersError as error:
            raise ConfigError(str(error)) from None
        # Messages may wait for a user who has not logged in yet.
        self._accounts = Accounts(users.true_ids, self._executor, self._store, self._revocation)
        return PasswordAuthenticator(
            users, self._executor, settings.attempts_per_minute, time.monotonic
        )

    def _admission_settings(self) -> AdmissionSettings:
        limits = self.config.limits
        return AdmissionSettings(
            probe_timeout=self.config.resume.probe_timeout,
            connections_per_player=limits.connections_per_player,
            new_sessions_per_minute=limits.new_sessions_per_minute,
            connection=ConnectionLimits(
                messages_per_second=limits.messages_per_second,
                burst=limits.burst,
                send_buffer_bytes=limits.send_buffer_bytes,
                max_watched=self.config.presence.max_watched,
                listing=self.config.presence.listing,
            ),
            announced_limits={
                "message_bytes": limits.message_bytes,
                "messages_per_second": limits.messages_per_second,
                "burst": limits.burst,
                "max_messages": self.config.mailbox.max_messages,
                "retention": self.config.mailbox.retention,
                "dedupe_window": self.config.mailbox.dedupe_window,
            },
        )

    # Running

    async def start(self) -> None:
        """Open the store and listen.

        Raises OSError when the address is taken or not ours, and ConfigError for a store that
        this release cannot use.
        """
        await self._store.open()
        try:
            await self._start()
        except BaseException:
            await self._store.close()
            raise

    async def _start(self) -> None:
        if self._store.available:
            await self._check_accounts()
        loop = asyncio.get_running_loop()
        config = self.config
        limits = config.limits
        self._socketio = SocketIOServer(
            self.admission, None, limits.connect_timeout, _new_sid, loop
        )
        self._engine = Engine(
            EngineSettings(
                ping_interval=config.server.ping_interval,
                ping_timeout=config.server.ping_timeout,
                max_payload=(limits.message_bytes or _UNLIMITED_BYTES) + _ENVELOPE_BYTES,
                connections=limits.connections,
                connections_per_address=limits.connections_per_address,
                send_buffer_bytes=limits.send_buffer_bytes,
                slow_timeout=limits.slow_timeout,
            ),
            self._socketio.accept,
            self.metrics,
            _new_sid,
            loop,
        )
        if config.server.websocket == "picows":
            self._picows = PicowsWebSockets(
                self._engine.settings.max_payload, limits.send_buffer_bytes, loop
            )
        self._add_gauges()
        peers = PeerPolicy(
            config.server.allowed_origins, config.server.public_url, config.server.trusted_proxies
        )
        separate = config.metrics.enabled and config.metrics.listen
        app = build_app(
            AppParts(
                engine=self._engine,
                picows=self._picows,
                peers=peers,
                metrics=self.metrics if config.metrics.enabled and not separate else None,
                static_path=_static_path(config),
                index=config.static.index,
                ready=self._not_ready,
            )
        )
        self.port = self._listen(app, config.server.host, config.server.port, peers)
        if separate:
            host, _, metrics_port = config.metrics.listen.rpartition(":")
            self._listen(build_metrics_app(self.metrics), host.strip("[]"), int(metrics_port), None)
        self.url = config.server.public_url or _url(config.server.host, self.port)
        self._sweeps = [
            loop.create_task(_every(_PRESENCE_SWEEP, self._sweep_presence), name="presence-sweep"),
            loop.create_task(_every(_STORE_SWEEP, self._sweep_store), name="store-sweep"),
            loop.create_task(_every(_ACCOUNTS_SWEEP, self._check_accounts), name="accounts"),
        ]
        self._notifier.notify("READY=1", f"STATUS=Serving {self.url}")

    def _listen(self, app: Application, host: str, port: int, peers: PeerPolicy | None) -> int:
        """Serve an application; websockets come to the one that is given `peers`."""
        try:
            sockets = bind_sockets(port, host or None, backlog=self.config.server.backlog)
        except OSError as error:
            raise OSError(
                error.errno, f"cannot listen on {host}:{port}: {error.strerror}"
            ) from error
        server = HTTPServer(
            app,
            max_header_size=_HEADER_BYTES,
            max_body_size=_HEADER_BYTES,
            idle_connection_timeout=_IDLE_TIMEOUT,
            body_timeout=_BODY_TIMEOUT,
        )
        self._servers.append(server)
        if self._picows is not None and peers is not None:
            loop = asyncio.get_running_loop()
            self._acceptor = Acceptor(
                server, self._engine, self._picows, peers, _IDLE_TIMEOUT, loop
            )
            self._acceptor.listen(sockets)
        else:
            server.add_sockets(sockets)
        bound: int = sockets[0].getsockname()[1]
        return bound

    def _add_gauges(self) -> None:
        gauge = self.metrics.gauge
        gauge("connections", "Open Engine.IO connections", lambda: len(self._engine))
        gauge("player_connections", "Connections of players", lambda: len(self._registry))
        gauge("players", "Players with a connection", lambda: self._registry.players)
        gauge("sessions", "Sessions kept", lambda: self._store.session_count)
        gauge("store_available", "1 while the store can be written", lambda: self._store.available)
        gauge("mailbox_bytes", "Size of all mailboxes", lambda: self._store.bytes)

    def _not_ready(self) -> str | None:
        if self.admission.draining:
            return "draining"
        return None if self._store.available else "the store is not available"

    def _on_store_replaced(self) -> None:
        """Send everybody away: they come back and are told what became of their messages."""
        logger.warning("the store has become another one: all connections are closed")
        if self._accounts is not None:
            self._accounts.start_anew()
        for connection in self._registry:
            connection.close("store_replaced", reconnect=True)

    async def _check_accounts(self) -> None:
        if self._accounts is not None and self._store.available:
            await self._accounts.check()

    async def _sweep_presence(self) -> None:
        announce(self._presence.expire(time.time()), self._registry)

    async def _sweep_store(self) -> None:
        if self._store.available:
            await self._store.expire(time.time())

    # Stopping

    async def drain(self) -> None:
        """Ask every client to reconnect elsewhere or later; wait up to `shutdown_grace`.

        Each is told another delay, so they do not come back all at once.
        """
        self.admission.draining = True
        grace = self.config.server.shutdown_grace
        self._notifier.notify("STOPPING=1", f"STATUS=Draining {len(self._registry)} connections")
        spread = random.Random()  # noqa: S311
        for connection in self._registry:
            delay = round(_MIN_RECONNECT + spread.random() * max(1.0, grace), 3)
            connection.send("goaway", {"reason": "draining", "reconnect_in": delay})
        deadline = time.monotonic() + grace
        # The registry is core and knows no asyncio.Event.
        while len(self._registry) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Close everything; what a client did not get waits for it until the process ends."""
        if self._acceptor is not None:
            self._acceptor.stop()
        for server in self._servers:
            server.stop()
        for sweep in self._sweeps:
            sweep.cancel()
        await asyncio.gather(*self._sweeps, return_exceptions=True)
        await self._socketio.close()
        self._engine.close()
        # The last answers to polls are written by their handlers, which wait for their turn.
        for _ in range(_TURNS_TO_ANSWER):
            await asyncio.sleep(0)
        await self._revocation.close()
        if self._acceptor is not None:
            await self._acceptor.close()
        for server in self._servers:
            await server.close_all_connections()
        if self._picows is not None:
            self._picows.close()
        await self._store.close()
        self._executor.shutdown(wait=False, cancel_futures=True)


async def serve(gateway: Gateway, announce_url: Callable[[str], None]) -> None:
    """Run until SIGTERM or SIGINT, then drain; a second signal stops at once."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    at_once = asyncio.Event()

    def on_signal() -> None:
        (at_once if stopping.is_set() else stopping).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await gateway.start()
    # Per-message objects make no cycles: the collector need not look at them so often, and
    # never at what start-up has built.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    sys.setswitchinterval(_SWITCH_INTERVAL)
    announce_url(gateway.url)
    await stopping.wait()
    logger.info("draining")
    draining = loop.create_task(gateway.drain(), name="drain")
    impatient = loop.create_task(at_once.wait(), name="second-signal")
    await asyncio.wait((draining, impatient), return_when=asyncio.FIRST_COMPLETED)
    for task in (draining, impatient):
        task.cancel()
    await asyncio.gather(draining, impatient, return_exceptions=True)
    await gateway.stop()
    logger.info("stopped")


def _message_bytes(config: Config) -> int:
    """Return the largest `data` of a message: without a limit, what a mailbox can hold."""
    limit = config.limits.message_bytes
    if not limit and config.mailbox.max_bytes:
        limit = max(1, config.mailbox.max_bytes - STORED_BESIDE)
    return limit


def _store_limits(config: Config) -> StoreLimits:
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
    )


def users_path(config: Config, state_dir: Path) -> Path:
    """Return where the password file is."""
    return Path(config.auth.password.file or state_dir / "users")


def _prepare_state_dir(state_dir: Path) -> Path:
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


def _static_path(config: Config) -> Path:
    if not config.static.path:
        return BUILT_IN
    path = Path(config.static.path)
    if not (path / config.static.index).is_file():
        raise ConfigError(f"static.path: there is no {config.static.index} in {path}")
    return path


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"


async def _every(seconds: float, action: Callable[[], Awaitable[None]]) -> None:
    """Call `action` every so many seconds; a failure is logged and the next try follows."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await action()
        except StoreUnavailable as error:
            logger.debug("a periodic task waits for the store: %s", error)
        except Exception:
            logger.exception("a periodic task failed")
