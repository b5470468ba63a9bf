"""Forms that texts in the configuration must have.

Each check takes a text and returns None, or what is wrong and how to mend it; none repeats a
value that could hold a secret.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

MIN_SECRET_CHARACTERS: Final = 32
MAX_PORT: Final = 65535
MAX_HOST_CHARACTERS: Final = 253
#: Stands for who connects by a Unix domain socket, which has no address.
UNIX_PEER: Final = "unix"

_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_ORIGIN: Final = re.compile(
    r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]*:[0-9a-f:.]*\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?"
)
_URL: Final = re.compile(
    r"https?://(\[[0-9A-Fa-f:.]*\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?(?:[/?][!\"$-\[\]-~]*)?"
)
_HOST_NAME: Final = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?")
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_MODULE: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_MAX_CLAIM: Final = 256
#: sockaddr_un has 108 bytes on Linux and 104 elsewhere, with the final NUL.
_MAX_SOCKET_PATH: Final = 103
_MODE: Final = re.compile(r"0?[0-7]{3}")
_PREFIX: Final = re.compile(r"[!-~]{1,32}")
#: How the `true_id` of guests and accounts begins.
GATEWAY_IDS: Final = "p_"
_ADDRESS: Final = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+)):([0-9]{1,5})")


def wrong_port(port: str) -> str | None:
    """Ports end at 65535."""
    return None if int(port) <= MAX_PORT else f"names port {port}; ports end at {MAX_PORT}"


def wrong_host(host: str) -> str | None:
    """An IP address or a host name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if len(host) > MAX_HOST_CHARACTERS or not _HOST_NAME.fullmatch(host) or ".." in host:
            return "must be an IP address or a host name, without brackets, scheme or port"
    return None


def wrong_address(address: str) -> str | None:
    """HOST:PORT, an IPv6 address in brackets."""
    match = _ADDRESS.fullmatch(address)
    if match is None or wrong_host(match[1] or match[2]):
        return "must be HOST:PORT, such as 127.0.0.1:9100 or [::1]:9100"
    return wrong_port(match[3])


def wrong_internal(address: str) -> str | None:
    """HOST:PORT, where HOST is one address that others can be told."""
    wrong = wrong_address(address)
    if wrong is None and address.rpartition(":")[0].strip("[]") in _WILDCARDS:
        return "must name the address at which the other gateways reach this one, not all of them"
    return wrong


def wrong_origin(origin: str) -> str | None:
    """An origin as browsers send it, or `*`."""
    if origin == "*":
        return None
    match = _ORIGIN.fullmatch(origin.lower())
    if match is None or wrong_host(match[2].strip("[]")):
        return (
            "must be scheme://host or scheme://host:port, such as https://game.example, "
            "without user, path or final slash"
        )
    scheme, host, port = match.groups()
    if port is not None and (wrong := wrong_port(port)):
        return wrong
    # Browsers send lower case and leave the default port out; anything else never matches.
    sent = f"{scheme}://{host}"
    if port is not None and port != _DEFAULT_PORTS.get(scheme):
        sent += f":{int(port)}"
    return None if origin == sent else f'is not in the form that browsers use; write "{sent}"'


def wrong_public_url(url: str) -> str | None:
    """An http or https origin."""
    if not url.lower().startswith(("http://", "https://")):
        return "must begin with http:// or https://, such as https://game.example"
    return wrong_origin(url)


def wrong_webhook_url(url: str) -> str | None:
    """An http or https URL, without a user: a secret in it would be logged."""
    match = _URL.fullmatch(url)
    if match is None or wrong_host(match[1].strip("[]")):
        return (
            "must be http:// or https:// with a host, and perhaps a port and a path, such as "
            "https://backend.example/gateway"
        )
    return wrong_port(match[2]) if match[2] else None


def wrong_network(network: str) -> str | None:
    """An IP address or a network (CIDR)."""
    try:
        ipaddress.ip_network(network)
    except ValueError:
        try:
            meant = ipaddress.ip_network(network, strict=False)
        except ValueError:
            return "must be an IP address or a network such as 10.0.0.0/8"
        return f'has bits set beyond its prefix; write "{meant}" or the bare address'
    return None


def wrong_proxy(proxy: str) -> str | None:
    """An IP address, a network (CIDR), or `unix`."""
    return None if proxy == UNIX_PEER else wrong_network(proxy)


def wrong_socket_path(path: str) -> str | None:
    """A path that fits into a socket's address: unix(7)."""
    size = len(path.encode())
    if size > _MAX_SOCKET_PATH:
        return f"has {size} bytes; the path of a socket has {_MAX_SOCKET_PATH} at most"
    if path.endswith("/"):
        return "must be the path of a file, without a final slash"
    return None


def wrong_mode(mode: str) -> str | None:
    """Permissions as chmod(1) takes them, in octal."""
    if not _MODE.fullmatch(mode):
        return 'must be three octal digits, perhaps behind a 0, such as "0660"'
    return None


def wrong_file_name(name: str) -> str | None:
    """The name of a file, without folders."""
    if "/" in name or "\\" in name or name in {".", ".."}:
        return 'must be the name of a file in static.path, such as "index.html", without folders'
    return None


def wrong_module_name(name: str) -> str | None:
    """The dotted name of a module."""
    return None if _MODULE.fullmatch(name) else "must be the name of a module, such as referee"


def wrong_secret(secret: str) -> str | None:
    """Long enough for a signing key."""
    if len(secret) < MIN_SECRET_CHARACTERS:
        return (
            f"has {len(secret)} characters; a key needs at least {MIN_SECRET_CHARACTERS}, "
            "best made by a random generator"
        )
    return None


def wrong_jwks_url(url: str) -> str | None:
    """An https URL; http where nobody is between: on this machine."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None or parts.fragment:
        return "must have no user, password or fragment"
    try:
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "has an impossible port"
    if parts.scheme not in ("http", "https") or not host or wrong_host(host) or " " in url:
        return "must be an URL such as https://id.example/.well-known/jwks.json"
    if parts.scheme == "http" and host not in _LOOPBACK:
        return "must begin with https://, or anybody on the way could put in their own keys"
    return None


def wrong_claim(claim: str) -> str | None:
    """The name of a claim."""
    if len(claim) > _MAX_CLAIM:
        return f"has {len(claim)} characters; a claim's name has {_MAX_CLAIM} at most"
    return None


def wrong_prefix(prefix: str) -> str | None:
    """What no id that the gateway makes begins with."""
    if not _PREFIX.fullmatch(prefix):
        return "must be 1 to 32 characters of visible ASCII"
    if prefix.startswith(GATEWAY_IDS) or GATEWAY_IDS.startswith(prefix):
        return f'must not begin like "{GATEWAY_IDS}", which guests and accounts have'
    return None
