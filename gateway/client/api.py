"""The HTTP API for the game's backend, `/api/v1`.

    from gateway.client.api import GatewayApi

    async with GatewayApi("https://gateway.example", key) as api:
        minted = await api.mint("u-1", {"name": "Ada"})
        await api.send("u-1", {"coins": 5}, type="reward")

It needs the extra `client` of the package.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl as ssl_module
import time
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

import msgspec

from gateway.client.backoff import Backoff
from gateway.client.errors import LinkLost, RequestRefused, TimedOut, seconds
from gateway.client.payloads import Presence

if TYPE_CHECKING:
    import aiohttp

#: Statuses that say "later": RFC 6585, 9110.
_LATER: Final = frozenset({429, 503})
_FIRST_PAUSE: Final = 0.2
_MAX_PAUSE: Final = 10.0
_PAGE: Final = 200
#: For a message to all, in seconds.
_ALL_TIMEOUT: Final = 600.0

T = TypeVar("T")


class Sent(msgspec.Struct, frozen=True):
    """The receipt of a message. Of one to all, `players` took it and `refused` did not."""

    status: str
    connections: int
    id: str | None = None
    duplicate: bool = False
    players: int | None = None
    refused: int | None = None


class Minted(msgspec.Struct, frozen=True):
    """A session that waits for its client, which connects with `token`."""

    true_id: str
    session_id: str
    token: str
    token_expires_in: float

    def __repr__(self) -> str:
        return f"<Minted {self.true_id} {self.session_id}>"


class PlayerSession(msgspec.Struct, frozen=True):
    """A session of a player."""

    session_id: str
    connected: bool
    last_seen: float
    name: str = ""
    attributes: dict[str, Any] = {}


class Mailbox(msgspec.Struct, frozen=True):
    """Messages that are kept, and those of them that no session has confirmed."""

    messages: int
    unread: int


class Ban(msgspec.Struct, frozen=True):
    """A ban that holds; `until` is in Unix seconds, None for good."""

    until: float | None = None
    reason: str = ""


class Player(Presence, frozen=True, kw_only=True):
    """What the gateway knows of a player."""

    rooms: tuple[str, ...] = ()
    sessions: tuple[PlayerSession, ...]
    mailbox: Mailbox
    ban: Ban | None = None


class Member(msgspec.Struct, frozen=True):
    """A player in a room: `active`, `hidden` or `away`."""

    true_id: str
    state: str
    name: str | None = None


class _Room(msgspec.Struct, frozen=True):
    players: tuple[Member, ...]
    cursor: str | None = None


class _Members(msgspec.Struct, frozen=True):
    members: int


class _Page(msgspec.Struct, frozen=True):
    players: tuple[Presence, ...]
    cursor: str | None = None


class _Revoked(msgspec.Struct, frozen=True):
    sessions: int


class _Problem(msgspec.Struct, frozen=True):
    code: str = "unknown"
    detail: str = "the gateway gave no reason"
    field: str | None = None
    retry_after: Any = None


class GatewayApi:
    """Calls of one backend. `key` is made by `game-gateway api-keys add`.

    A call that does not get through, or is asked to wait, is made again for `patience` seconds;
    what is sent has an `id` that makes it count once. `timeout` is for one try, except of
    messages to all, which may take minutes. `ssl` checks the gateway's certificate, by default
    as the system does. Use it as a context manager.

    Methods raise RequestRefused, LinkLost and TimedOut.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout: float = 10.0,
        patience: float = 30.0,
        ssl: ssl_module.SSLContext | None = None,
    ) -> None:
        self._url = url.rstrip("/") + "/api/v1"
        self._key = key
        self._timeout = timeout
        self._patience = patience
        self._ssl = ssl
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<GatewayApi {self._url}>"

    async def __aenter__(self) -> GatewayApi:
        import aiohttp  # noqa: PLC0415

        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self._key}"},
            connector=aiohttp.TCPConnector(ssl=self._ssl or True),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close connections. A second call changes nothing."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # Messages

    async def send(
        self,
        target_id: str,
        data: object,
        *,
        type: str | None = None,
        id: str | None = None,
        volatile: bool = False,
    ) -> Sent:
        """Send a message to a player. Without an `id` it gets one."""
        return await self._send({"target_id": target_id}, data, type, id, volatile)

    async def publish(
        self,
        room: str,
        data: object,
        *,
        type: str | None = None,
        id: str | None = None,
        volatile: bool = False,
    ) -> Sent:
        """Send a message to all members of a room."""
        return await self._send({"room": room}, data, type, id, volatile)

    async def send_all(
        self,
        data: object,
        *,
        type: str | None = None,
        id: str | None = None,
        volatile: bool = False,
    ) -> Sent:
        """Send a message to all players; volatile, to those who are connected."""
        return await self._send({"all": True}, data, type, id, volatile)

    async def _send(
        self,
        target: Mapping[str, object],
        data: object,
        kind: str | None,
        key: str | None,
        volatile: bool,
    ) -> Sent:
        body = {**target, "data": data, "volatile": volatile}
        if kind is not None:
            body["type"] = kind
        if not volatile:
            body["id"] = key or secrets.token_urlsafe(16)
        timeout = _ALL_TIMEOUT if "all" in target else self._timeout
        return await self._call("POST", "/messages", Sent, body, timeout)

    # Players

    async def mint(self, true_id: str, attributes: Mapping[str, object] | None = None) -> Minted:
        """Open a session for a player whom the backend knows."""
        body = {"true_id": true_id, "attributes": attributes or {}}
        return await self._call("POST", "/sessions", Minted, body)

    async def player(self, true_id: str) -> Player:
        """Return what the gateway knows of a player."""
        return await self._call("GET", f"/players/{_quoted(true_id)}", Player)

    async def players(self) -> AsyncIterator[Presence]:
        """Yield everybody who is here or away."""
        cursor: str | None = ""
        while cursor is not None:
            more = f"&cursor={_quoted(cursor)}" if cursor else ""
            page = await self._call("GET", f"/players?limit={_PAGE}{more}", _Page)
            for player in page.players:
                yield player
            cursor = page.cursor

    async def members(self, room: str) -> AsyncIterator[Member]:
        """Yield who is in a room, the one who joined first at the front."""
        cursor: str | None = ""
        while cursor is not None:
            more = f"&cursor={_quoted(cursor)}" if cursor else ""
            page = await self._call("GET", f"/rooms/{_quoted(room)}?limit={_PAGE}{more}", _Room)
            for member in page.players:
                yield member
            cursor = page.cursor

    async def add_member(self, room: str, true_id: str) -> int:
        """Put a player into a room; return how many members it has now."""
        path = f"/rooms/{_quoted(room)}/members/{_quoted(true_id)}"
        return (await self._call("PUT", path, _Members)).members

    async def remove_member(self, room: str, true_id: str) -> int:
        """Take a player out of a room; return how many members are left."""
        path = f"/rooms/{_quoted(room)}/members/{_quoted(true_id)}"
        return (await self._call("DELETE", path, _Members)).members

    async def revoke(self, true_id: str, session_id: str | None = None) -> int:
        """End a session of a player, or all of them; return how many."""
        path = f"/players/{_quoted(true_id)}/sessions"
        if session_id is not None:
            path += f"/{_quoted(session_id)}"
        return (await self._call("DELETE", path, _Revoked)).sessions

    async def ban(self, true_id: str, *, until: float | None = None, reason: str = "") -> Ban:
        """Keep a player out until a time (Unix seconds), or for good; they are told `reason`."""
        body = {"until": until, "reason": reason}
        return await self._call("PUT", f"/players/{_quoted(true_id)}/ban", Ban, body)

    async def lift_ban(self, true_id: str) -> None:
        """Let a player in again."""
        await self._call("DELETE", f"/players/{_quoted(true_id)}/ban", Ban)

    # Calls

    async def _call(
        self,
        method: str,
        path: str,
        kind: type[T],
        body: object = None,
        timeout: float | None = None,
    ) -> T:
        data = None if body is None else msgspec.json.encode(body)
        backoff = Backoff(_FIRST_PAUSE, _MAX_PAUSE)
        deadline = time.monotonic() + self._patience
        while True:
            pause = backoff.next()
            try:
                return await self._try(method, path, data, kind, timeout or self._timeout)
            except RequestRefused as error:
                if error.code not in {"rate_limited", "unavailable"}:
                    raise
                if error.retry_after is not None:
                    pause = backoff.spread(error.retry_after)
                if time.monotonic() + pause > deadline:
                    raise
            except (LinkLost, TimedOut):
                if time.monotonic() + pause > deadline:
                    raise
            await asyncio.sleep(pause)

    async def _try(
        self, method: str, path: str, data: bytes | None, kind: type[T], timeout: float
    ) -> T:
        import aiohttp  # noqa: PLC0415

        if self._session is None:
            raise RuntimeError("use it as `async with GatewayApi(…) as api`")
        headers = {} if data is None else {"Content-Type": "application/json"}
        try:
            async with self._session.request(
                method,
                self._url + path,
                data=data,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout),
            ) as response:
                answer = await response.read()
        except TimeoutError:
            raise TimedOut(f"{method} {path}") from None
        except aiohttp.ClientError as error:
            raise LinkLost(f"{type(error).__name__}: {error}") from error
        try:
            if response.status == 200:
                return msgspec.json.decode(answer, type=kind)
            problem = msgspec.json.decode(answer, type=_Problem)
        except msgspec.DecodeError:
            # A proxy in between, perhaps.
            code = "unavailable" if response.status in _LATER | {502, 504} else "unknown"
            problem = _Problem(code, f"the answer had status {response.status}")
        raise RequestRefused(
            problem.code, problem.detail, problem.field, seconds(problem.retry_after)
        )


def _quoted(text: str) -> str:
    return quote(text, safe="")
