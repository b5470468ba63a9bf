"""The way in: `connect`."""

from __future__ import annotations

import ssl as ssl_module
from typing import Final
from urllib.parse import urlsplit

from gateway.client.client import GatewayClient
from gateway.client.connection import Link, Receiver
from gateway.client.core import Core, Settings
from gateway.client.credentials import Auth, account_of
from gateway.client.memory import Memory
from gateway.client.storage import MemoryStorage, Storage

_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


def connect(
    url: str,
    auth: Auth,
    *,
    storage: Storage | None = None,
    path: str = "socket.io",
    ssl: ssl_module.SSLContext | None = None,
    settings: Settings | None = None,
) -> GatewayClient:
    """Return a client for `async with`.

    `auth` is what to log in with when there is no token, or a function that returns that, now
    or after a wait. `storage` keeps token and offset, by default as long as the client lives;
    FileStorage keeps them over restarts of the process. `ssl` checks the gateway's certificate,
    by default as the system does. The transport is websocket: the library's polling gives up on
    more than 16 packets at once, and a mailbox has more.

    Raises ValueError for an URL that cannot be used, and ImportError when the package's extra
    `client` is not installed.
    """
    try:
        # Only who connects needs aiohttp.
        from gateway.client.link import Address, SocketIOLink  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        raise ImportError(
            "gateway.client needs aiohttp: pip install 'game-gateway[client]'", name="aiohttp"
        ) from error
    gateway = _origin(url)
    address = Address(url, path, ssl)

    def make_link(receiver: Receiver) -> Link:
        return SocketIOLink(address, receiver)

    place = f"{gateway}/{path.strip('/')}"
    memory = Memory(storage or MemoryStorage(), place, account_of(auth))
    return GatewayClient(Core(make_link, memory, auth, settings or Settings()))


def _origin(url: str) -> str:
    """Return where a token may be shown."""
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError("url must be like https://gateway.example")
    if parts.username is not None or parts.password is not None:
        raise ValueError("url must not have a user or password in it: use `auth`")
    if parts.path.strip("/"):
        raise ValueError("url must end after the host; another endpoint goes into `path`")
    scheme = _SCHEMES[parts.scheme]
    port = parts.port or (443 if scheme == "https" else 80)
    return f"{scheme}://{parts.hostname}:{port}"
