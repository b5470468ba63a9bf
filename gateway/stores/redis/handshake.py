"""The first words on a new link: who we are, and what the server is."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from gateway.errors import StoreUnavailable
from gateway.store_url import RedisUrl
from gateway.stores.redis.link import Link, Refused, Word

L = TypeVar("L", bound=Link)

Address = tuple[str, int]

#: What this store needs came with it: SSUBSCRIBE, and scripts that fail whole or not at all.
_OLDEST: Final = 7
#: The first words of refusals that will not pass by themselves.
_LASTING: Final = re.compile(r"ERR (?!max number of clients)|NOAUTH|NOPERM|WRONGPASS|NOPROTO")
_NAME: Final = "game-gateway"


class LinkFailed(Exception):
    """A server cannot be used; `lasting` says that trying again soon is of no use."""

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says of itself: a process by `run_id`, and its history of writes.

    `evicts` says that it forgets keys, of all or of those with an end, when its memory is full.
    """

    run_id: str
    history: str
    master: bool
    cluster: bool
    evicts: bool


@dataclass(frozen=True, slots=True)
class Access:
    """How to come to a server: see RedisUrl."""

    username: str
    password: str = field(repr=False)
    database: int
    tls: ssl.SSLContext | None
    timeout: float


def access_of(url: RedisUrl) -> Access:
    """Return how servers are reached, with the files for TLS read.

    Raises OSError (ssl.SSLError is one) when a file cannot be used.
    """
    context = None
    if url.tls:
        context = ssl.create_default_context(cafile=url.ca_file or None)
        if url.certificate_file:
            context.load_cert_chain(url.certificate_file, url.key_file)
    return Access(url.username, url.password, url.database, context, url.timeout)


def is_lasting(refused: Refused) -> bool:
    """Tell whether a refusal will not pass by itself."""
    return _LASTING.match(refused.text) is not None


async def connect(
    address: Address, access: Access, build: Callable[[], L], protocol: int = 2
) -> tuple[L, Server]:
    """Return a link made by `build` and what its server is. Raises LinkFailed.

    `protocol` is the version of Redis' protocol: 3 is for those that subscribe.
    """
    host, port = address
    loop = asyncio.get_running_loop()
    link = None
    try:
        async with asyncio.timeout(access.timeout):
            _, link = await loop.create_connection(
                build,
                host,
                port,
                ssl=access.tls,
                server_hostname=host if access.tls is not None else None,
            )
            return link, await _greet(link, access, protocol)
    except Refused as error:
        reason, lasting = str(error), is_lasting(error)
    except TimeoutError:
        reason, lasting = f"no answer for {access.timeout:g} seconds", False
    except (OSError, StoreUnavailable) as error:
        reason, lasting = str(error), isinstance(error, ssl.SSLCertVerificationError)
    except BaseException:
        if link is not None:
            link.close()
        raise
    if link is not None:
        link.close()
    raise LinkFailed(reason, lasting=lasting)


async def _greet(link: Link, access: Access, protocol: int) -> Server:
    hello: list[Word] = ["HELLO", protocol]
    if access.password:
        hello += ["AUTH", access.username or "default", access.password]
    asked = [link.ask(*hello, "SETNAME", _NAME)]
    if access.database:
        asked.append(link.ask("SELECT", access.database))
    *_, about = await asyncio.gather(*asked, link.ask("INFO"))
    if not isinstance(about, bytes):
        raise LinkFailed("it does not say what it is", lasting=True)
    return _server(dict(re.findall(r"^(\w+):(.*?)\r?$", about.decode(errors="replace"), re.M)))


def _server(about: dict[str, str]) -> Server:
    version = about.get("redis_version", "")
    if not version[:1].isdigit() or int(version.partition(".")[0]) < _OLDEST:
        raise LinkFailed(
            f"it is version {version or 'unknown'}; Redis or Valkey {_OLDEST} or newer is needed",
            lasting=True,
        )
    if about.get("loading") == "1":
        raise LinkFailed("it is still loading its data")
    return Server(
        run_id=about.get("run_id", ""),
        history=about.get("master_replid", ""),
        master=about.get("role") == "master",
        # Valkey has another name for redis_mode.
        cluster=about.get("cluster_enabled") == "1",
        evicts=about.get("maxmemory", "0") != "0"
        and about.get("maxmemory_policy", "noeviction") != "noeviction",
    )
