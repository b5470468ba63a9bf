"""The extensions of a gateway: set up at the start, each behind the interface of extension.py."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import msgspec
import socketio  # type: ignore[import-untyped]
from msgspec import Raw

from gateway.api_types import (
    MAX_ATTRIBUTES_BYTES,
    ListRoom,
    MembershipInfo,
    PlayerInfo,
    PlayersPage,
    RoomInfo,
    SendRequest,
)
from gateway.auth import API, METHODS, Identity, Method
from gateway.backend import Backend
from gateway.errors import ConfigError, ConnectRefused
from gateway.extension import PREFIX, Authenticator, Hook, Login, Route
from gateway.extension_modules import ExtensionError, Setup, faults_of
from gateway.failure_log import FailureLog
from gateway.messages import ListPlayers, Receipt, TrueId
from gateway.texts import clean_text
from gateway.transport.extensions import ExtensionServer

logger = logging.getLogger(__name__)

_HTTP_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_PATH: Final = re.compile(r"/ext/[A-Za-z0-9._~/-]{1,200}")
_NAMESPACE: Final = re.compile(r"/[A-Za-z0-9._~/-]{1,100}")
_METHOD: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_ID: Final = re.compile(r"[!-~]{1,96}")
#: Keys of CONNECT that are the gateway's.
_OWN_KEYS: Final = frozenset({"token", "pid", "offset", "recovery", "name"}) | {
    key for method in METHODS.values() for key in method.keys
}
_STOP_SECONDS: Final = 5.0
_RETRY_AFTER: Final = 5.0

Routes = dict[tuple[str, str], Route]


class ExtensionHost:
    """All extensions. Names are taken once: whoever comes second stops the start."""

    def __init__(self, server: ExtensionServer, name_bytes: int) -> None:
        self.server = server
        self.routes: Routes = {}
        self.authenticators: dict[str, ExtensionAuthenticator] = {}
        self.failures: FailureLog = server.failures
        self._name_bytes = name_bytes
        self._backend: Backend | None = None
        self._starts: list[tuple[str, Hook]] = []
        self._stops: list[tuple[str, Hook]] = []
        self._owners: dict[str, str] = {}

    def set_up(self, modules: Sequence[tuple[str, Setup]]) -> None:
        """Call the `setup` of each module. Raises ExtensionError."""
        for name, setup in modules:
            extension = Extension(self, name)
            with faults_of(name, "its setup failed"):
                result = setup(extension)
                if asyncio.iscoroutine(result):
                    result.close()
                    raise ExtensionError(name, "its setup must be a plain function, not async")
            extension.close_setup()

    def check_methods(self, methods: Sequence[str]) -> None:
        """Raise ConfigError for a method of `auth.methods` that nobody provides."""
        for method in methods:
            if method not in METHODS and method not in self.authenticators:
                known = ", ".join(self.authenticators) or "none"
                raise ConfigError(
                    f"auth.methods: there is no method {method}; those of the extensions: {known}"
                )

    @property
    def backend(self) -> Backend:
        """What carries out the calls of extensions. Raises RuntimeError before the start."""
        if self._backend is None:
            raise RuntimeError("the gateway has not started yet: do it in a hook of on_start")
        return self._backend

    async def start(self, backend: Backend) -> None:
        """Call the hooks of `on_start`, in order. Raises ExtensionError."""
        self._backend = backend
        for name, hook in self._starts:
            with faults_of(name, "its hook of on_start failed"):
                await hook()

    async def stop(self) -> None:
        """Call the hooks of `on_stop`, the last module's first; what they raise is logged."""
        for name, hook in reversed(self._stops):
            try:
                await asyncio.wait_for(hook(), _STOP_SECONDS)
            except Exception:
                logger.exception("extension %s: its hook of on_stop failed", name)

    # For Extension

    def claim(self, module: str, what: str) -> None:
        """Take a name for a module. Raises ExtensionError when it is taken."""
        owner = self._owners.get(what)
        if owner is not None:
            raise ExtensionError(module, f"{what} is taken already, by {owner}")
        self._owners[what] = module

    def add_hook(self, module: str, hook: Hook, *, start: bool) -> None:
        """Keep a hook."""
        if not asyncio.iscoroutinefunction(hook):
            raise ExtensionError(module, "a hook must be an async function")
        (self._starts if start else self._stops).append((module, hook))

    def add_authenticator(self, module: str, authenticator: Authenticator) -> None:
        """Keep a way to log in."""
        method, keys = authenticator.method, tuple(authenticator.keys)
        if not _METHOD.fullmatch(method):
            raise ExtensionError(module, f"auth method {method!a}: small letters, digits and _")
        if method in METHODS or method == API:
            raise ExtensionError(module, f"auth method {method} is the gateway's own")
        if not keys or not _OWN_KEYS.isdisjoint(keys):
            raise ExtensionError(
                module, f"auth method {method} needs keys that are not the gateway's own"
            )
        self.claim(module, f"auth method {method}")
        for key in keys:
            self.claim(module, f"key {key} of CONNECT")
        self.authenticators[method] = ExtensionAuthenticator(
            authenticator, self._name_bytes, self.failures
        )


class Extension:
    """One extension's view of the gateway: see extension.Gateway."""

    def __init__(self, host: ExtensionHost, module: str) -> None:
        self._host = host
        self._module = module
        self._setting_up = True
        self._namespaces: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        known = [each for each in dir(type(self)) if not each.startswith("_")]
        known.remove("close_setup")
        raise ExtensionError(
            self._module, f"the gateway has no hook {name}; it has {', '.join(known)}"
        )

    def close_setup(self) -> None:
        """Nothing is added any more."""
        self._setting_up = False

    def _adding(self) -> None:
        if not self._setting_up:
            raise ExtensionError(self._module, "what an extension adds, it adds in setup")

    def _claim_namespace(self, namespace: object) -> None:
        if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
            raise ExtensionError(
                self._module, f"namespace {namespace!a}: a name such as /referee, other than /"
            )
        self._host.claim(self._module, f"namespace {namespace}")
        self._namespaces.add(namespace)

    def add_namespace(self, namespace: object) -> None:
        """See extension.Gateway."""
        self._adding()
        if not isinstance(namespace, socketio.AsyncNamespace):
            raise ExtensionError(self._module, "a namespace must be a socketio.AsyncNamespace")
        self._claim_namespace(namespace.namespace)
        self._host.server.register_namespace(namespace)

    def add_handler(self, namespace: str, event: str, handler: Callable[..., object]) -> None:
        """See extension.Gateway."""
        self._adding()
        if namespace not in self._namespaces:
            self._claim_namespace(namespace)
        self._host.claim(self._module, f"event {event} of namespace {namespace}")
        if not callable(handler):
            raise ExtensionError(self._module, f"the handler of {event} cannot be called")
        self._host.server.on(event, handler, namespace=namespace)

    def add_route(self, method: str, path: str, handler: Route) -> None:
        """See extension.Gateway."""
        self._adding()
        if method not in _HTTP_METHODS:
            raise ExtensionError(self._module, f"route {path}: one of {', '.join(_HTTP_METHODS)}")
        if not _PATH.fullmatch(path):
            raise ExtensionError(self._module, f"route {path!a} must begin with {PREFIX}")
        if not asyncio.iscoroutinefunction(handler):
            raise ExtensionError(self._module, f"the handler of {path} must be an async function")
        self._host.claim(self._module, f"route {method} {path}")
        self._host.routes[method, path] = handler

    def add_authenticator(self, authenticator: Authenticator) -> None:
        """See extension.Gateway."""
        self._adding()
        self._host.add_authenticator(self._module, authenticator)

    def on_start(self, hook: Hook) -> None:
        """See extension.Gateway."""
        self._adding()
        self._host.add_hook(self._module, hook, start=True)

    def on_stop(self, hook: Hook) -> None:
        """See extension.Gateway."""
        self._adding()
        self._host.add_hook(self._module, hook, start=False)

    # At run time

    @property
    def _caller(self) -> str:
        return f"extension {self._module}"

    def player_of(self, sid: str, namespace: str) -> TrueId | None:
        """See extension.Gateway."""
        return self._host.server.player_of(sid, namespace)

    async def emit(self, namespace: str, event: str, data: object, to: str) -> None:
        """See extension.Gateway."""
        await self._host.server.emit(event, data, to=to, namespace=namespace)

    async def send(
        self,
        target_id: TrueId,
        data: object,
        *,
        type: str | None = None,
        id: str | None = None,
        volatile: bool = False,
    ) -> Receipt:
        """See extension.Gateway."""
        raw = Raw(msgspec.json.encode(data))
        request = SendRequest(raw, target_id=target_id, type=type, id=id, volatile=volatile)
        return cast(Receipt, await self._host.backend.send(self._caller, request))

    async def publish(
        self,
        room: str,
        data: object,
        *,
        type: str | None = None,
        id: str | None = None,
        volatile: bool = False,
    ) -> Receipt:
        """See extension.Gateway."""
        raw = Raw(msgspec.json.encode(data))
        request = SendRequest(raw, room=room, type=type, id=id, volatile=volatile)
        return cast(Receipt, await self._host.backend.send(self._caller, request))

    async def player(self, true_id: TrueId) -> PlayerInfo:
        """See extension.Gateway."""
        return await self._host.backend.player(true_id)

    async def players(self, page: ListPlayers) -> PlayersPage:
        """See extension.Gateway."""
        return await self._host.backend.players(page)

    async def room(self, room: str, page: ListRoom) -> RoomInfo:
        """See extension.Gateway."""
        return await self._host.backend.room(room, page)

    async def add_member(self, room: str, true_id: TrueId) -> MembershipInfo:
        """See extension.Gateway."""
        return await self._host.backend.add_member(room, true_id)

    async def remove_member(self, room: str, true_id: TrueId) -> MembershipInfo:
        """See extension.Gateway."""
        return await self._host.backend.remove_member(room, true_id)


class ExtensionAuthenticator:
    """An extension's way to log in, as an auth.Authenticator. Its players' ids have a prefix."""

    def __init__(self, inner: Authenticator, name_bytes: int, failures: FailureLog) -> None:
        self.method = inner.method
        keys = tuple(inner.keys)
        told = " or ".join(f"`{key}`" for key in keys)
        self.about = Method(keys, told, vouched=True)
        self._inner = inner
        self._name_bytes = name_bytes
        self._failures = failures
        self._prefix = f"{inner.method}:"

    def claims(self, auth: Mapping[str, object]) -> bool:
        """See auth.Authenticator."""
        return any(key in auth for key in self.about.keys)

    async def authenticate(self, auth: Mapping[str, object], address: str) -> Identity:
        """See auth.Authenticator."""
        try:
            return self._identity(await self._inner.authenticate(auth, address))
        except ConnectRefused:
            raise
        except Exception as error:
            self._failures.note(f"auth method {self.method}", error)
            raise self._unavailable() from None

    def _unavailable(self) -> ConnectRefused:
        return ConnectRefused("unavailable", "log-ins are not available now", _RETRY_AFTER)

    def _identity(self, login: Login) -> Identity:
        if not _ID.fullmatch(login.id):
            raise ValueError("authenticate must return a Login whose id is visible ASCII")
        attributes = msgspec.json.encode(login.attributes)
        if len(attributes) > MAX_ATTRIBUTES_BYTES:
            raise ValueError(f"attributes have more than {MAX_ATTRIBUTES_BYTES} bytes")
        name = clean_text(login.name, "name", self._name_bytes)
        return Identity(TrueId(self._prefix + login.id), name, self.method, attributes.decode())

    async def still_valid(self, true_id: TrueId) -> bool:
        """See auth.Authenticator."""
        try:
            return bool(await self._inner.still_valid(true_id.removeprefix(self._prefix)))
        except Exception as error:
            self._failures.note(f"auth method {self.method}", error)
            raise self._unavailable() from None
