"""The events `message` and `publish`, decoded and encoded: compiled, for they come by the thousand.

Their types are in `messages.py`, which is not compiled: msgspec checks by annotations, and a
compiled class has none.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from gateway.messages import HARMLESS_BYTES, Publish, SendMessage, check_shape, whole_refusal

#: How stock clients begin them.
SEND_PREFIX: Final = b'["message",'
PUBLISH_PREFIX: Final = b'["publish",'
_encoder: Final = msgspec.json.Encoder()
_send_decoder: Final = msgspec.json.Decoder(tuple[str, SendMessage])
_publish_decoder: Final = msgspec.json.Decoder(tuple[str, Publish])


def decode_send(array: bytes) -> SendMessage:
    """Decode the whole JSON array of the event `message`.

    Raises RequestRefused (`bad_request`) that names the offending field, or
    ProtocolViolation if it is not JSON.
    """
    if len(array) > HARMLESS_BYTES:
        check_shape(array)
    try:
        return _send_decoder.decode(array)[1]
    except (RecursionError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise whole_refusal("message", array, error) from None


def decode_publish(array: bytes) -> Publish:
    """Decode the whole JSON array of the event `publish`: see decode_send."""
    if len(array) > HARMLESS_BYTES:
        check_shape(array)
    try:
        return _publish_decoder.decode(array)[1]
    except (RecursionError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise whole_refusal("publish", array, error) from None


def encode_body(
    sender: str | None,
    data: bytes | Raw,
    ts: bytes,
    kind: str | None = None,
    room: str | None = None,
) -> bytes:
    """Return the payload of the server's event `message`, from behind its `id` on.

    `ts` is the time in Unix seconds, as JSON; `kind` is the payload's `type`.
    """
    body = b'"from":%b,"data":%b,"ts":%b}' % (_encoder.encode(sender), data, ts)
    if kind is None and room is None:
        return body
    more = b'%b,"room":%b}' % (body[:-1], _encoder.encode(room)) if room is not None else body
    return b'%b,"type":%b}' % (more[:-1], _encoder.encode(kind)) if kind is not None else more


def encode_message(message_id: bytes, body: bytes) -> bytes:
    """Return the JSON array of the event `message`, with the id repeated as its offset."""
    return b'["message",{"id":"%b",%b,"%b"]' % (message_id, body, message_id)


def without_offset(message_id: bytes, array: bytes) -> bytes:
    """Return what `encode_message` made without its second argument."""
    return array[: -len(message_id) - 4] + b"]"


def encode_volatile(body: bytes) -> bytes:
    """Return the JSON array of an event `message` that is stored nowhere: it has no id."""
    return b'["message",{%b]' % body
