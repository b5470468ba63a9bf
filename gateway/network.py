"""What limits by address count: one subscriber, not one address of theirs."""

from __future__ import annotations

import ipaddress
from typing import Final

_IPV6_HOST_BITS: Final = 64


def network_of(address: str) -> str:
    """Return what one subscriber has: an IPv4 address, or an IPv6 network of 64 bits.

    Anything that is no address is returned as it is.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    prefix = int(parsed) >> _IPV6_HOST_BITS << _IPV6_HOST_BITS
    return str(ipaddress.IPv6Address(prefix))
