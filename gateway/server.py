"""The composition root: builds everything from the configuration, starts and stops it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Final

from gateway.accounts import Accounts
from gateway.admission import Admission
from gateway.auth.jwt_keys import KeySource
from gateway.auth.users import Users
from gateway.building import (
    admission_settings,
    api_limits,
    build_admin_routes,
    build_backend,
    build_cut_off,
    build_joining,
    build_presence,
    build_reporting,
    engine_settings,
    is_compiled,
    load_api_keys,
    message_bytes,
    prepare_state_dir,
    room_settings,
    static_path,
    store_limits,
)
from gateway.building_auth import (
    auth_inquiries,
    build_authentication,
    load_extensions,
    load_jwt_keys,
    load_users,
    room_inquiries,
)
from gateway.config import Config
from gateway.connection import Connection, Services
from gateway.delivery import Delivery
from gateway.draining import Draining
from gateway.errors import ConfigError
from gateway.fresh_ids import new_session_id, new_sid
from gateway.gauges import add_gauges, heard_from_nodes
from gateway.history import SAMPLE_SECONDS, History
from gateway.inbound import PlayersHere
from gateway.lifecycle import Periodic, call_later
from gateway.locks import KeyedLocks
from gateway.loop_lag import LoopLag
from gateway.metrics import Metrics
from gateway.registry import Registry
from gateway.revocation import Revocation
from gateway.rooms import Rooms
from gateway.secret_keys import load_secret_keys, load_store_password
from gateway.store_news import StoreNews
from gateway.stores import build_store
from gateway.systemd import Notifier, watchdog_seconds
from gateway.taking_over import Candidate, Environment, Parts, prepare, take_over
from gateway.tls import load_tls
from gateway.tokens import Tokens
from gateway.transport.api import Api
from gateway.transport.app import AppParts, build_app, build_metrics_app
from gateway.transport.binding import bind_players
from gateway.transport.engine import Engine
from gateway.transport.forwarding import Directory
from gateway.transport.handler import Beyond
from gateway.transport.listeners import Listeners
from gateway.transport.neighbour import build_neighbour
from gateway.transport.peer import PeerPolicy
from gateway.transport.picows import PicowsWebSockets
from gateway.transport.socketio import SocketIOServer
from gateway.watchdog import Watchdog

logger = logging.getLogger(__name__)

_ROOM_SWEEP: Final = 1.0
_STORE_SWEEP: Final = 30.0
_ACCOUNTS_SWEEP: Final = 5.0
_STATUS_PAUSE: Final = 2.0
_PASSWORD_THREADS: Final = 2


class Gateway:
    """One running gateway. `environ` is where systemd's variables are read from.

    Raises ConfigError when the configuration asks for something that is not there.
    """

    def __init__(
        self,
        config: Config,
        state_dir: Path,
        environ: Mapping[str, str],
        directory: Directory | None = None,
    ) -> None:
        self.config = config
        self.metrics = Metrics()
        self._extensions = load_extensions(config, self.metrics)  # first: a fault leaves nothing
        self._environ = environ
        self._tls = load_tls(config.server.tls, time.time())
        self._notifier = Notifier(environ)
        self._executor = ThreadPoolExecutor(_PASSWORD_THREADS, thread_name_prefix="password")
        self._state_dir = prepare_state_dir(state_dir)
        secret_keys = load_secret_keys(config.resume, environ, state_dir)
        self._tokens = Tokens(secret_keys, config.resume.token_lifetime, time.time)
        self._registry: Registry[Connection] = Registry()
        self._news = news = StoreNews(self._registry)
        self._store = build_store(
            config.store.url,
            store_limits(config),
            self._state_dir,
            self.metrics.dropped,
            news.on_replaced,
            news.on_webhooks,
            self.metrics.store_latency,
            node_lease=config.store.node_lease,
            presence_grace=config.presence.grace,
            heard=heard_from_nodes(self.metrics),
            on_webhooks_lost=news.on_webhooks_lost,
            on_limit=self.metrics.limit_hit,
            password=load_store_password(config.store, environ),
        )
        self._presence = build_presence(config, self._store, self.metrics, call_later, news.on_here)
        self._reporting = build_reporting(
            config, environ, self._store, self._presence.is_here, self.metrics
        )
        news.reporting, news.nodes = self._reporting, self._store.nodes
        self._auth_inquiries = auth_inquiries(config, environ, self.metrics)
        self._room_inquiries = room_inquiries(config, environ, self.metrics)
        self._rooms = Rooms(
            self._store,
            build_joining(config, self._room_inquiries, self.metrics),
            self._registry.connections_of,
            self._presence,
            self.metrics,
            time.monotonic,
            room_settings(config),
            self._store.nodes,
        )
        locks = KeyedLocks()
        nodes = self._store.nodes
        revocation = Revocation(self._store, self._registry.connections_of, time.time, locks)
        self._revocation = revocation
        self._accounts: Accounts | None = None
        users = load_users(config, self._state_dir)
        self._jwt_keys = load_jwt_keys(config, self.metrics)
        self._retired_keys: KeySource | None = None
        self._follow(users)
        self._delivery = Delivery(
            self._store,
            self._registry.connections_of,
            self.metrics,
            time.time,
            message_bytes(config),
            nodes,
        )
        self._services = Services(
            store=self._store,
            sessions=self._store,
            registry=self._registry,
            delivery=self._delivery,
            presence=self._presence,
            rooms=self._rooms,
            revocation=revocation,
            metrics=self.metrics,
            clock=time.time,
            monotonic=time.monotonic,
        )
        self.admission = Admission(
            self._services,
            build_authentication(
                config,
                users,
                self._jwt_keys,
                self._executor,
                self._auth_inquiries,
                self._extensions,
                self.metrics,
            ),
            self._tokens,
            admission_settings(config),
            new_session_id,
            locks,
        )
        api_keys = load_api_keys(config, self._state_dir)
        self._backend = build_backend(
            config, self._services, self._store, self._tokens, locks, self._reporting
        )
        server = config.server
        self._peers = PeerPolicy(server.allowed_origins, server.public_url, server.trusted_proxies)
        self._api = Api(
            self._backend,
            api_keys,
            api_limits(config),
            self._peers,
            self.metrics,
            time.monotonic,
        )
        self._neighbour = build_neighbour(config, directory or nodes, secret_keys, self.metrics)
        self._cut_off = build_cut_off(self._registry, nodes, self._neighbour, self._pace)
        here = self._registry, self._delivery, self.admission.arrivals, self._rooms
        nodes.attach(PlayersHere(*here, self._cut_off))
        self._lag = LoopLag(self.metrics)
        self._history = History(self.metrics, self._lag.take_worst, time.time, time.monotonic)
        self._listeners = Listeners()
        self._periodic = Periodic()
        self._engine: Engine
        self._socketio: SocketIOServer
        self._picows: PicowsWebSockets | None = None
        self._parts: Parts
        self._activated = False
        self._draining = False
        #: Why the configuration was not reloaded, and which of its keys need a restart.
        self._refused = ""
        self._waiting: tuple[str, ...] = ()
        self.url, self.port = "", 0

    # Running

    async def start(self) -> None:
        """Open the store and listen.

        Raises OSError when the address is taken or not ours, and ConfigError for a store that
        this release cannot use.
        """
        if self._neighbour is not None:
            self._neighbour.bind()
        try:
            await self._store.open()
            await self._start()
        except BaseException:
            if self._neighbour is not None:
                await self._neighbour.close()
            if self._extensions is not None:
                await self._extensions.stop()
            await self._store.close()
            raise

    async def _start(self) -> None:
        if self._store.available:
            await self._check_accounts()
        loop = asyncio.get_running_loop()
        config = self.config
        if (extensions := self._extensions) is not None:
            await extensions.start(self._backend)
        self._socketio = SocketIOServer(
            self.admission,
            extensions.server if extensions is not None else None,
            config.limits.connect_timeout,
            new_sid,
            loop,
        )
        neighbour = self._neighbour
        self._engine = Engine(
            engine_settings(config),
            self._socketio.accept,
            self.metrics,
            new_sid if neighbour is None else lambda: neighbour.name(new_sid()),
            loop,
        )
        if config.server.websocket == "picows":
            self._picows = PicowsWebSockets(
                self._engine.settings.max_payload, config.limits.send_buffer_bytes, loop
            )
        beyond: Beyond | None = None
        if neighbour is not None:
            beyond = neighbour.open(self._engine, self._picows, self._peers)
        if self._jwt_keys is not None:
            self._jwt_keys.prefetch()
        add_gauges(self.metrics, self._engine, self._registry, self._store)
        pages = static_path(config)
        bound = bind_players(config.server, self._environ)
        self._activated, self.port = bound.activated, bound.port
        self.url = config.server.public_url or bound.url(
            config.server.host, tls=self._tls is not None
        )
        release = version("game-gateway")
        self.metrics.build_info(release, compiled=is_compiled())
        listen = config.metrics.listen if config.metrics.enabled else ""
        app = build_app(
            AppParts(
                engine=self._engine,
                picows=self._picows,
                peers=self._peers,
                metrics=self.metrics if config.metrics.enabled and not listen else None,
                static_path=pages,
                index=config.static.index,
                ready=self._not_ready,
                api=self._api,
                release=release,
                url=self.url,
                admin=build_admin_routes(
                    config, self._services, self._history, self._not_ready, release, self._api
                ),
                extensions=extensions,
                beyond=beyond,
            )
        )
        self._listeners.serve_players(
            app, bound, self._engine, self._picows, self._peers, self._tls
        )
        self._parts = Parts(
            self._tokens,
            self._registry,
            self.admission,
            self._delivery,
            self._engine,
            self._picows,
            app,
            self._listeners,
            self._peers,
            self._api,
            self._reporting,
            extensions,
            neighbour,
            self._follow,
        )
        if listen:
            metrics_app = build_metrics_app(self.metrics)
            self._listeners.serve_metrics(metrics_app, bound, listen, config.server.backlog)
        self._periodic.add("room-sweep", _ROOM_SWEEP, self._sweep_rooms)
        if self._reporting is not None:
            self._reporting.start()
        self._periodic.add("store-sweep", _STORE_SWEEP, self._sweep_store)
        self._periodic.add("accounts", _ACCOUNTS_SWEEP, self._check_accounts)
        self._periodic.run("loop-lag", self._lag.run())
        self._periodic.add("history", SAMPLE_SECONDS, self._history.sample)
        self._periodic.add("status", _STATUS_PAUSE, self._refresh_status)
        if seconds := watchdog_seconds(self._environ):
            watchdog = Watchdog(
                seconds, self._store.check, lambda: self._notifier.notify("WATCHDOG=1")
            )
            self._periodic.add("watchdog", watchdog.interval, watchdog.beat)
        self._tell_status("READY=1")

    def _tell_status(self, *assignments: str) -> None:
        players, connections = self._registry.players, len(self._registry)
        state = "Draining" if self._draining else f"Serving {self.url}"
        parts = [f"{state} (players: {players}, connections: {connections})"]
        if not self._store.available:
            parts.append("the store is not available")
        if self._refused:
            parts.append(f"the configuration was refused: {self._refused}")
        if self._waiting:
            parts.append(f"a restart is needed for {', '.join(self._waiting)}")
        self._notifier.status("; ".join(parts), *assignments)

    async def _refresh_status(self) -> None:
        self._tell_status()

    def _not_ready(self) -> str | None:
        if self._draining:
            return "draining"
        return self._store.nodes.trouble or (
            None if self._store.available else "the store is not available"
        )

    async def _check_accounts(self) -> None:
        if self._accounts is not None and self._store.available:
            await self._accounts.check()

    async def _sweep_rooms(self) -> None:
        if self._store.available:
            self._rooms.expire()

    async def _sweep_store(self) -> None:
        # Also one that takes nothing more: what goes makes room.
        await self._store.expire(time.time())

    # Reloading

    async def reload(self, load: Callable[[], Config]) -> None:
        """Take over the configuration that `load` returns, with the files that it names.

        No connection is dropped. If there is anything wrong with it, all stays as it is, and log
        and status line say why. What takes effect only at the next start is named there, too.
        """
        self._notifier.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            candidate = await asyncio.to_thread(self._prepare, load)
        except ConfigError as error:
            self._refused = str(error)
            logger.error("the configuration was refused, all stays as it is: %s", error)
        else:
            take_over(candidate, self._parts)
            await self._use_jwt_keys(candidate.jwt_keys)
            self.config = candidate.merged.config
            self._refused, self._waiting = "", candidate.merged.waiting
        finally:
            self._tell_status("READY=1")

    def _prepare(self, load: Callable[[], Config]) -> Candidate:
        environment = Environment(
            self._environ,
            self._state_dir,
            self._executor,
            self._auth_inquiries,
            self._extensions,
            self.metrics,
        )
        return prepare(self.config, load(), self._jwt_keys, environment)

    async def _use_jwt_keys(self, keys: KeySource | None) -> None:
        """Verify by other keys; log-ins under way go on with the old ones until the next reload."""
        if keys is self._jwt_keys:
            return
        retired, self._retired_keys, self._jwt_keys = self._retired_keys, self._jwt_keys, keys
        if keys is not None:
            keys.prefetch()
        if retired is not None:
            await retired.close()

    def _follow(self, users: Users | None) -> None:
        """Follow the accounts of this file: messages may wait before somebody's first log-in."""
        if users is None:
            self._accounts = None
        elif self._accounts is None:
            self._accounts = Accounts(users.true_ids, self._executor, self._store, self._revocation)
        else:
            self._accounts.follow(users.true_ids)
        self._news.accounts = self._accounts

    # Stopping

    async def drain(self) -> None:
        """Ask every client to reconnect elsewhere or later; wait up to `shutdown_grace`.

        Each is told another delay, and who is still here by then is closed. With sockets of
        systemd's, newcomers wait in their queue for the next process; others on the same port or
        store get them, if there are any; else they are refused.
        """
        self._draining = True
        self._tell_status("STOPPING=1")
        await self._cut_off.stop()
        if self._shared:
            await self._listeners.hold(empty=not self._activated)
        else:
            self.admission.draining = True
        draining = Draining(
            self._registry, self._store.check, self._late, self._tell_status, random.SystemRandom()
        )
        await self._store.nodes.leave()
        pace = self._pace()
        also = [self._neighbour.drain(*pace)] if self._neighbour is not None else []
        await asyncio.gather(draining.run(*pace), *also)

    def _pace(self) -> tuple[float, float]:
        return self.config.server.reconnects_per_second, self.config.server.shutdown_grace

    def _late(self) -> int:
        """Count who was accepted and is not a player yet, if they are still let in."""
        return self._listeners.silent + len(self._engine) if self._shared else 0

    @property
    def _shared(self) -> bool:
        """Whether connects that are not accepted here come to another process."""
        alone = self._neighbour is None
        return self._activated or self.config.server.reuse_port or not alone

    async def stop(self) -> None:
        """Close everything; what a client did not get waits for it until the process ends."""
        self._listeners.stop()
        await self._cut_off.stop()
        if self._neighbour is not None:
            await self._neighbour.release()
        await self._periodic.stop()
        await self._socketio.close()
        self._engine.close()
        if self._extensions is not None:
            await self._extensions.stop()
        self._presence.stop()
        # The last answers to polls are written by their handlers, which wait for their turn.
        for _ in range(3):
            await asyncio.sleep(0)
        for keys in (self._jwt_keys, self._retired_keys):
            if keys is not None:
                await keys.close()
        await self._revocation.close()
        await self._rooms.close()
        if self._reporting is not None:
            await self._reporting.stop()
        for inquiries in (self._auth_inquiries, self._room_inquiries):
            if inquiries is not None:
                await inquiries.close()
        await self._listeners.close()
        if self._neighbour is not None:
            await self._neighbour.close()
        if self._picows is not None:
            self._picows.close()
        await self._store.close()
        self._executor.shutdown(wait=False, cancel_futures=True)
