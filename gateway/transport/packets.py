"""Socket.IO v5 packets: their text form, taken apart and checked before anything acts on it."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from gateway.errors import ConnectRefused, ProtocolViolation
from gateway.messages import has_surrogate

CONNECT, DISCONNECT, EVENT, ACK, CONNECT_ERROR, BINARY_EVENT, BINARY_ACK = "0123456"
#: Events that only the library itself may raise; Node's server refuses them, too.
RESERVED_EVENTS: Final = frozenset(
    {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}
)
MAX_ATTACHMENTS: Final = 10

#: type, [attachments-], [/namespace,], [ack id], [JSON]
_PACKET: Final = re.compile(
    r"([0-6])(?:(\d{1,4})-)?(?:(/[^,]{0,128})(?:,|$))?(\d{0,15})(.*)", re.DOTALL | re.ASCII
)


class Packet(msgspec.Struct, frozen=True, gc=False):
    """A packet from a client. `body` is its JSON, still encoded, or empty."""

    kind: str
    attachments: int
    namespace: str
    ack_id: int | None
    body: str


def parse_packet(text: str) -> Packet:
    """Take a packet apart and check its form, not the JSON in it. Raises ProtocolViolation."""
    match = _PACKET.fullmatch(text)
    if match is None:
        raise ProtocolViolation("unknown packet")
    kind, attachments, namespace, ack, body = match.groups()
    if (attachments is not None) != (kind in (BINARY_EVENT, BINARY_ACK)):
        raise ProtocolViolation("malformed packet")
    count = int(attachments or 0)
    if count > MAX_ATTACHMENTS:
        raise ProtocolViolation(f"more than {MAX_ATTACHMENTS} binary attachments")
    if kind == CONNECT_ERROR:
        raise ProtocolViolation("a client sends no CONNECT_ERROR")
    if kind == DISCONNECT and (body or ack):
        raise ProtocolViolation("DISCONNECT has no payload")
    if kind in (ACK, BINARY_ACK) and not ack:
        raise ProtocolViolation("an ack needs its id")
    # A query behind the name is from revision 4 and means nothing any more.
    name = (namespace or "/").partition("?")[0]
    return Packet(kind, count, name, int(ack) if ack else None, body)


def decode_auth(body: str) -> object:
    """Return the payload of a CONNECT, None without one.

    Raises ProtocolViolation, or ConnectRefused for half a surrogate pair.
    """
    try:
        return msgspec.json.decode(body) if body else None
    except RecursionError:
        raise ProtocolViolation("the JSON is nested too deeply") from None
    except msgspec.DecodeError:
        if has_surrogate(body.encode()):
            raise ConnectRefused(
                "bad_credentials", "a text in auth has half of a surrogate pair"
            ) from None
        raise ProtocolViolation("the payload of CONNECT is not JSON") from None


def check_ack(body: str) -> None:
    """Check that the payload of an ack is an array. Raises ProtocolViolation."""
    try:
        valid = isinstance(msgspec.json.decode(body), list)
    except (msgspec.DecodeError, RecursionError):
        valid = False
    if not valid:
        raise ProtocolViolation("the payload of an ack must be an array")
