"""The URL of a store, `store.url` in the YAML file: its forms, read and checked without IO."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import unquote

_SQLITE: Final = re.compile(r"sqlite:///([^?#]+)(?:\?([^#]*))?")
_FORMS: Final = (
    'must be "memory://", "sqlite:///FILE" (FILE is relative to the state directory) or '
    '"sqlite:////ABSOLUTE/FILE", the latter two with ?synchronous=FULL or ?synchronous=NORMAL '
    "at the end if wanted"
)
_REDIS_SCHEMES: Final = (
    "redis",
    "rediss",
    "valkey",
    "valkeys",
    "redis+sentinel",
    "rediss+sentinel",
)

_REDIS: Final = re.compile(
    r"(?:redis|valkey)(s?)(\+sentinel)?://(?:([^/?#@]*)@)?([^/?#@]*)(?:/([^?#]*))?(?:\?([^#]*))?",
    re.IGNORECASE,
)
_REDIS_FORMS: Final = (
    'must be "redis://HOST:PORT", "redis://HOST1:PORT1,HOST2:PORT2?cluster=1" or '
    '"redis+sentinel://HOST1:PORT1,HOST2:PORT2/NAME"; with rediss in place of redis for TLS, '
    "and valkey is the same as redis"
)
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?")
_NAME: Final = re.compile(r"[a-z_]{1,32}")
_PREFIX: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_OPTIONS: Final = (
    *("cluster", "prefix", "timeout", "wait", "wait_timeout"),
    *("ca_file", "certificate_file", "key_file"),
)
_TLS_OPTIONS: Final = ("ca_file", "certificate_file", "key_file")


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A store's kind and, for sqlite, its file and how safely it is written.

    `path` may be relative. FULL survives a power cut; NORMAL survives the end of the process,
    however sudden, but may lose the last moments before a power cut.
    """

    kind: Literal["memory", "sqlite"]
    path: str = ""
    synchronous: Literal["FULL", "NORMAL"] = "FULL"


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """How Redis or Valkey is reached, and what is asked of it.

    `hosts` are those of the server, of Sentinels (`service` is the name they know the master
    by) or of any nodes of a Cluster. A call that has no answer after `timeout` seconds failed.
    With `wait`, so many replicas must have what was written before it counts, within
    `wait_timeout` seconds. Without `ca_file` the system's authorities are trusted.
    """

    hosts: tuple[tuple[str, int], ...]
    mode: Literal["server", "sentinel", "cluster"] = "server"
    service: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    database: int = 0
    tls: bool = False
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    prefix: str = "gw"
    timeout: float = 5.0
    wait: int = 0
    wait_timeout: float = 1.0


def parse_store_url(url: str) -> StoreUrl | RedisUrl:
    """Return what the URL says. Raises ValueError with a text about what to write instead."""
    if url == "memory://":
        return StoreUrl("memory")
    if url.partition(":")[0].lower() in _REDIS_SCHEMES:
        return parse_redis_url(url)
    match = _SQLITE.fullmatch(url)
    if match is None:
        raise ValueError(_FORMS)
    path = unquote(match[1])
    if path.endswith("/") or "\0" in path:
        raise ValueError(f"names no file; {_FORMS}")
    if match[2] is None:
        return StoreUrl("sqlite", path)
    name, _, value = match[2].partition("=")
    if name != "synchronous":
        raise ValueError(f'has an unknown option "{name}"; the only one is synchronous')
    if value.upper() == "FULL":
        return StoreUrl("sqlite", path)
    if value.upper() == "NORMAL":
        return StoreUrl("sqlite", path, "NORMAL")
    raise ValueError(f'has synchronous "{value}"; it must be FULL or NORMAL')


def parse_redis_url(url: str) -> RedisUrl:
    """Return what the URL of a Redis or Valkey says.

    Raises ValueError with a text about what to write instead, never with a part of the URL
    that may be a password.
    """
    match = _REDIS.fullmatch(url)
    if match is None:
        raise ValueError(_REDIS_FORMS)
    tls, sentinel, credentials, hosts, path, query = match.groups(default="")
    found = _hosts(hosts, _SENTINEL_PORT if sentinel else _PORT)
    options = _options(query)
    if not tls and (wrong := [name for name in _TLS_OPTIONS if name in options]):
        raise ValueError(f"has {wrong[0]} without TLS; write rediss:// for redis://")
    if ("certificate_file" in options) != ("key_file" in options):
        raise ValueError("has certificate_file or key_file; it takes both")
    cluster = _one_of(options, "cluster")
    if cluster and sentinel:
        raise ValueError("has cluster=1 with Sentinels; a Cluster does without them")
    service, database = "", 0
    if sentinel:
        service = unquote(path)
        if not service:
            raise ValueError(
                "names no master; its name in the Sentinels' configuration comes at the end: "
                '"redis+sentinel://HOST:PORT/NAME"'
            )
    elif path:
        if re.fullmatch(r"\d{1,4}", path) is None:
            raise ValueError('has something other than the number of a database after the "/"')
        database = int(path)
    if cluster and database:
        raise ValueError("has a database other than 0; a Cluster has no other")
    if len(found) > 1 and not (cluster or sentinel):
        raise ValueError(
            "has several hosts; write ?cluster=1 if they are nodes of a Cluster, "
            "redis+sentinel:// if they are Sentinels"
        )
    username, _, password = credentials.partition(":")
    return RedisUrl(
        hosts=found,
        mode="sentinel" if sentinel else "cluster" if cluster else "server",
        service=service,
        username=unquote(username),
        password=unquote(password),
        database=database,
        tls=bool(tls),
        ca_file=options.get("ca_file", ""),
        certificate_file=options.get("certificate_file", ""),
        key_file=options.get("key_file", ""),
        prefix=_prefix(options),
        timeout=_number(options, "timeout", 5.0, 0.1, 600.0),
        wait=int(_number(options, "wait", 0, 0, 100, whole=True)),
        wait_timeout=_number(options, "wait_timeout", 1.0, 0.01, 600.0),
    )


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for each in query.split("&") if query else ():
        name, _, value = each.partition("=")
        if name not in _OPTIONS:
            # Only what looks like a name is repeated: the rest may be a part of a password.
            what = f'unknown option "{name}"' if _NAME.fullmatch(name) else "unknown option"
            raise ValueError(f"has an {what}; there are {', '.join(_OPTIONS)}")
        if name in options:
            raise ValueError(f"has {name} twice")
        options[name] = unquote(value)
        if not options[name]:
            raise ValueError(f"has {name} without a value")
    return options


def _hosts(text: str, port: int) -> tuple[tuple[str, int], ...]:
    hosts = []
    for each in text.split(","):
        match = _HOST.fullmatch(each)
        if match is None:
            raise ValueError(f"{_REDIS_FORMS}; special characters of a password are written %XX")
        number = int(match[2] or port)
        if not 0 < number < 65536:
            raise ValueError(f"has port {number}; it must be between 1 and 65535")
        hosts.append((match[1].strip("[]"), number))
    return tuple(hosts)


def _one_of(options: Mapping[str, str], name: str) -> bool:
    value = options.get(name, "0")
    if value not in {"0", "1"}:
        raise ValueError(f'has {name} "{value}"; it must be 0 or 1')
    return value == "1"


def _prefix(options: Mapping[str, str]) -> str:
    prefix = options.get("prefix", "gw")
    if _PREFIX.fullmatch(prefix) is None:
        raise ValueError(
            f'has prefix "{prefix}"; it must be 1 to 64 letters, digits, dots, "_" or "-"'
        )
    return prefix


def _number(
    options: Mapping[str, str],
    name: str,
    default: float,
    minimum: float,
    maximum: float,
    *,
    whole: bool = False,
) -> float:
    text = options.get(name)
    if text is None:
        return default
    pattern = r"\d{1,9}" if whole else r"\d{1,9}(\.\d{1,9})?"
    value = float(text) if re.fullmatch(pattern, text) else -1.0
    if not minimum <= value <= maximum:
        kind = "whole number" if whole else "number"
        raise ValueError(f'has {name} "{text}"; it must be a {kind} from {minimum} to {maximum}')
    return value


def wrong_store_url(url: str) -> str | None:
    """Return what is wrong with the URL of a store, None if nothing is."""
    try:
        parse_store_url(url)
    except ValueError as error:
        return str(error)
    return None
