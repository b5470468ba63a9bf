"""All that an extension imports of the gateway: `from gateway.extension import ...`.

An extension is a Python module named in `extensions`, with a function `setup(gateway)`. It runs
in the gateway's process and is trusted like it: what blocks in it blocks every player. Handlers
of namespaces are stock python-socketio; here is what stands beside them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from gateway.api_types import (
    ListRoom,
    MembershipInfo,
    PlayerInfo,
    PlayersPage,
    RoomInfo,
)
from gateway.errors import ConnectRefused, RequestRefused
from gateway.messages import ListPlayers, Receipt, TrueId

__all__ = [
    "Authenticator",
    "ConnectRefused",
    "Gateway",
    "Hook",
    "ListPlayers",
    "ListRoom",
    "Login",
    "MembershipInfo",
    "PlayerInfo",
    "PlayersPage",
    "Receipt",
    "Request",
    "RequestRefused",
    "Response",
    "RoomInfo",
    "Route",
    "TrueId",
]

#: Where the routes of extensions are.
PREFIX: Final = "/ext/"


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request to a route; `query` has the last value of each key, `headers` small names."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    address: str


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a Request."""

    body: bytes = b""
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Login:
    """Who an authenticator let in. The player's `true_id` is the method's name, a colon and `id`.

    `id` has 1 to 96 visible ASCII characters, `attributes` at most 512 bytes of JSON.
    """

    id: str
    name: str
    attributes: Mapping[str, object] = field(default_factory=dict)


class Authenticator(Protocol):
    """A way to log in, to be named in `auth.methods`.

    A CONNECT whose payload has one of `keys` is this method's. `method` has small letters,
    digits and underscores.
    """

    @property
    def method(self) -> str:
        """The method's name."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the payload."""

    async def authenticate(self, auth: Mapping[str, object], address: str) -> Login:
        """Return who it is. Raises ConnectRefused, of which the client is told."""

    async def still_valid(self, id: str) -> bool:
        """Tell whether the player with this id may come back by a token."""


Route = Callable[[Request], Awaitable[Response]]
Hook = Callable[[], Awaitable[None]]


class Gateway(Protocol):
    """What `setup` is given.

    The methods that add something are for `setup` alone and raise ExtensionError, which stops
    the start. The others are for later: from the hooks of `on_start` on. They raise
    RequestRefused, and StoreUnavailable, as handlers may: the client is told of the first by its
    code, of anything else as `unavailable`.
    """

    def add_namespace(self, namespace: object) -> None:
        """Add a `socketio.AsyncNamespace`, for another name than `/`.

        It is for players: a client's CONNECT to it waits until it has logged in on `/`, over the
        same connection, and it is disconnected when the player leaves `/`.
        """

    def add_handler(self, namespace: str, event: str, handler: Callable[..., object]) -> None:
        """Add a python-socketio handler, such as `async def move(sid, data)`."""

    def add_route(self, method: str, path: str, handler: Route) -> None:
        """Answer HTTP requests of this method to this path, which begins with `/ext/`.

        Pages of other origins than `server.allowed_origins` are refused; who else may call it
        is for the handler to check.
        """

    def add_authenticator(self, authenticator: Authenticator) -> None:
        """Add a way to log in."""

    def on_start(self, hook: Hook) -> None:
        """Call this when the store is open, before the first player comes."""

    def on_stop(self, hook: Hook) -> None:
        """Call this when the last player has gone; it may take five seconds."""

    def player_of(self, sid: str, namespace: str) -> TrueId | None:
        """Return whose client this is in a namespace of the extension; None when it has left."""

    async def emit(self, namespace: str, event: str, data: object, to: str) -> None:
        """Send an event of a namespace to one sid, or to a room of python-socketio."""

    async def send(
        self,
        target_id: TrueId,
        data: object,
        *,
        type: str | None = None,
        id: str | None = None,
        volatile: bool = False,
    ) -> Receipt:
        """Send a message to a player, with `from` null: event `message`. `data` is any JSON."""

    async def publish(
        self,
        room: str,
        data: object,
        *,
        type: str | None = None,
        id: str | None = None,
        volatile: bool = False,
    ) -> Receipt:
        """Send a message to the members of a room of the gateway's."""

    async def player(self, true_id: TrueId) -> PlayerInfo:
        """Return what the gateway knows of a player."""

    async def players(self, page: ListPlayers) -> PlayersPage:
        """Return a page of who is here."""

    async def room(self, room: str, page: ListRoom) -> RoomInfo:
        """Return a page of a room's members."""

    async def add_member(self, room: str, true_id: TrueId) -> MembershipInfo:
        """Put a player into a room, whatever `rooms.open` says."""

    async def remove_member(self, room: str, true_id: TrueId) -> MembershipInfo:
        """Take a player out of a room."""
