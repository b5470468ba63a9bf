"""Who is at the other end of a request: address, origin, and whether we let it in."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

from tornado.httputil import HTTPServerRequest

from gateway.config_checks import UNIX_PEER

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: What Tornado says of a peer at a Unix domain socket; no TCP connection comes from there.
_NO_ADDRESS: Final = frozenset({"", "0.0.0.0"})  # noqa: S104
#: Any of them says that a request came through a proxy.
_PROXY_HEADERS: Final = ("X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Forwarded", "Via")


class PeerPolicy:
    """Reads addresses and origins of requests by `server.trusted_proxies` and friends."""

    def __init__(
        self, allowed_origins: Sequence[str], public_url: str, trusted_proxies: Sequence[str]
    ) -> None:
        self.reconfigure(allowed_origins, public_url, trusted_proxies)

    def reconfigure(
        self, allowed_origins: Sequence[str], public_url: str, trusted_proxies: Sequence[str]
    ) -> None:
        """Judge by other settings from now on."""
        self._any_origin = "*" in allowed_origins
        self._origins = {origin.rstrip("/").lower() for origin in allowed_origins}
        self._public_url = public_url.rstrip("/").lower()
        if public_url:
            self._origins.add(self._public_url)
        self._unix = UNIX_PEER in trusted_proxies
        self._proxies: tuple[Network, ...] = tuple(
            ipaddress.ip_network(proxy, strict=False)
            for proxy in trusted_proxies
            if proxy != UNIX_PEER
        )

    def address(self, peer: str, forwarded: str) -> str:
        """Return the client's address: the peer's, or what a trusted proxy says of it.

        `forwarded` is X-Forwarded-For, joined by commas; it is read from its end, for only
        what trusted proxies appended is true. A Unix domain socket's peer is `unix`.
        """
        address = UNIX_PEER if peer in _NO_ADDRESS else peer
        if not self._trusted(address):
            return address
        for hop in reversed(forwarded.split(",")):
            candidate = _parse(hop.strip())
            if candidate is None:
                break
            address = str(candidate)
            if not self._trusted(address):
                break
        return address

    def is_local(self, request: HTTPServerRequest) -> bool:
        """Tell whether the request comes from this machine and through no proxy."""
        peer = request.remote_ip or ""
        parsed = _parse(peer)
        local = peer in _NO_ADDRESS or (parsed is not None and parsed.is_loopback)
        return local and not any(header in request.headers for header in _PROXY_HEADERS)

    def allows_origin(self, origin: str | None, host: str) -> bool:
        """Tell whether a page of this Origin may talk to us, asked for at this Host.

        The same origin always may, and so may a client that sends none: no browser's page.
        """
        if origin is None or self._any_origin:
            return True
        origin = origin.lower()
        if origin in self._origins:
            return True
        host = host.lower()
        return origin in (f"http://{host}", f"https://{host}")

    def is_own_origin(self, origin: str | None, host: str, *, secure: bool) -> bool:
        """Tell whether this Origin is that of our own pages; without one it is not."""
        if not origin:
            return False
        scheme = "https" if secure else "http"
        return origin.lower() in (self._public_url, f"{scheme}://{host.lower()}")

    def is_secure(self, protocol: str, peer: str, forwarded_protocol: str) -> bool:
        """Tell whether the client speaks TLS: with us, or with a trusted proxy that says so.

        `forwarded_protocol` is X-Forwarded-Proto; its last entry is the proxy's own.
        """
        if protocol == "https":
            return True
        told = forwarded_protocol.rpartition(",")[2].strip().lower()
        return told == "https" and self._trusted(peer)

    def _trusted(self, address: str) -> bool:
        if address == UNIX_PEER or address in _NO_ADDRESS:
            return self._unix
        if not self._proxies:
            return False
        parsed = _parse(address)
        return parsed is not None and any(parsed in network for network in self._proxies)


def _parse(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
