"""Ids, the typed payloads of every event, and their encoding: PROTOCOL 1.3 and 1.4.

`hot_events.py` does the latter for those that come by the thousand.

Payloads of games stay `msgspec.Raw`: bytes of JSON that are checked for form once, at the
edge, and are never decoded into objects or encoded again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final, Literal, NewType, TypeVar

import msgspec
from msgspec import Meta, Raw

from gateway.errors import ProtocolViolation, RequestRefused

TrueId = NewType("TrueId", str)
SessionId = NewType("SessionId", str)
#: Numbers of one process, never reused: a late close cannot hit a newcomer.
ConnectionId = NewType("ConnectionId", int)

Id = Annotated[str, Meta(min_length=1, max_length=128)]
PlayerId = Annotated[TrueId, Meta(min_length=1, max_length=128)]
ShortText = Annotated[str, Meta(min_length=1, max_length=64)]
#: Length of a room's name, in characters.
MAX_ROOM_NAME: Final = 128
PresenceState = Literal["active", "hidden", "away", "offline"]

T = TypeVar("T")


class SendMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Payload of the client's event `message`."""

    target_id: PlayerId
    data: Raw
    type: ShortText | None = None
    id: Id | None = None
    volatile: bool = False


class Publish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Payload of `publish`: a message to every member of a room.

    `key` is for volatile ones: of two with the same key only the latest matters.
    """

    room: str
    data: Raw
    type: ShortText | None = None
    id: Id | None = None
    volatile: bool = False
    key: ShortText | None = None
    echo: bool = True


class Join(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Payload of `join`."""

    room: str


class Leave(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Payload of `leave`."""

    room: str


class ListMembers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Payload of `members`: one page of who is in a room."""

    room: str
    limit: Annotated[int, Meta(ge=1, le=200)] = 100
    cursor: Annotated[str, Meta(max_length=32)] | None = None


class PresenceSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Payload of `presence_set`: what this connection says of its tab."""

    state: Literal["active", "hidden"]
    status: Annotated[str, Meta(max_length=128)] | None = None


class PresenceWatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Payload of `presence_watch` and `presence_unwatch`."""

    true_ids: Annotated[list[PlayerId], Meta(max_length=1000)]


class ListPlayers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Payload of `players`: one page of who is online."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 100
    cursor: Annotated[str, Meta(max_length=32)] | None = None


class Logout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Payload of `logout`."""

    everywhere: bool = False


class Receipt(msgspec.Struct, frozen=True):
    """What the sender of a message is told once the store has accepted it.

    `id` is null when nothing of it is in a mailbox of the sender's own or, for `message`, of
    the target's.
    """

    ok: Literal[True]
    id: str | None
    status: Literal["delivered", "queued", "dropped"]
    connections: int
    duplicate: bool = False


_encoder: Final = msgspec.json.Encoder()
_event_decoder: Final = msgspec.json.Decoder(list[Raw])
_name_decoder: Final = msgspec.json.Decoder(str)
_FIELD: Final = re.compile(r" - at `\$(?:\[\d+\])?\.?([^`]*)`")
_MISSING: Final = re.compile(r"(?:required|unknown) field `([^`]*)`")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
#: Levels of `data`, and with the event's array and object around it.
_MAX_DEPTH: Final = 100 + 2
_MAX_DIGITS: Final = 100
#: An event of so many bytes has room for neither.
HARMLESS_BYTES: Final = 135
#: The look-behind keeps the search linear.
_LONG_NUMBER: Final = re.compile(rb"(?<![0-9])[0-9]{%d}" % (_MAX_DIGITS + 1))
_SHAPE: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]|[0-9]{%d,}' % (_MAX_DIGITS + 1), re.DOTALL)
#: The longest piece of msgspec's or a client's text that goes back to the client.
_MAX_ECHO: Final = 200


def encode(value: object) -> bytes:
    """Return compact JSON of a payload."""
    return _encoder.encode(value)


def encode_event(name: str, payload: object) -> bytes:
    """Return the JSON array of an event with one argument, an object.

    It must not end in a string: a stock client would take that for an offset (PROTOCOL 1.4).
    """
    return b'["%b",%b]' % (name.encode(), _encoder.encode(payload))


def decode_event(array: bytes) -> tuple[str, Sequence[Raw]]:
    """Split the JSON array of an event into its name and undecoded arguments.

    Raises ProtocolViolation for anything but a JSON array that starts with a string, which
    no Socket.IO client sends, and RequestRefused (`bad_request`) for one nested too deeply or
    with half a surrogate pair.
    """
    try:
        parts = _event_decoder.decode(array)
        return _name_decoder.decode(parts[0]), parts[1:]
    except IndexError:
        raise ProtocolViolation("the event has no name") from None
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _malformed(array, error) from None


def event_name(array: bytes) -> str:
    """Return the name of an event that was refused before it was decoded, "" if it has none."""
    try:
        return decode_event(array)[0]
    except (RequestRefused, ProtocolViolation):
        return ""


def check_room_name(room: str) -> None:
    """Refuse (`bad_request`) a name that is too short, too long or has control characters."""
    if not 0 < len(room) <= MAX_ROOM_NAME:
        text = f"a room's name has 1 to {MAX_ROOM_NAME} characters"
        raise RequestRefused("bad_request", text, "room")
    if _CONTROL.search(room):
        raise RequestRefused("bad_request", "a room's name has no control characters", "room")


def check_publish(request: Publish) -> None:
    """Refuse (`bad_request`) fields that contradict each other."""
    if request.key is not None and not request.volatile:
        raise RequestRefused("bad_request", "key is for volatile messages only", "key")


def decode_payload(name: str, arguments: Sequence[Raw], kind: type[T]) -> T:
    """Decode the one argument of the event `name`.

    Raises RequestRefused (`bad_request`) that names the offending field, or
    ProtocolViolation if it is not JSON.
    """
    if len(arguments) > 1:
        raise RequestRefused("bad_request", f"{name} takes one object, not {len(arguments)}")
    argument = bytes(arguments[0]) if arguments else b"{}"
    if len(argument) > HARMLESS_BYTES:
        check_shape(argument, depth=1)
    try:
        return msgspec.json.decode(argument, type=kind)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _refusal(name, argument, error) from None


def check_shape(array: bytes, depth: int = 0) -> None:
    """Refuse what is JSON but breaks recipients: deep nesting, numbers of many digits.

    Python's own decoder, for one, fails on both, and would again at every replay.
    """
    if array.count(b"[") + array.count(b"{") <= _MAX_DEPTH and not _LONG_NUMBER.search(array):
        return
    for token in _SHAPE.finditer(array):
        first = token[0][:1]
        if first in b"[{":
            depth += 1
            if depth > _MAX_DEPTH:
                raise _too_deep()
        elif first in b"]}":
            depth -= 1
        elif first != b'"':
            raise RequestRefused(
                "bad_request", f"a number has more than {_MAX_DIGITS} digits", "data"
            )


def whole_refusal(name: str, array: bytes, error: Exception) -> RequestRefused | ProtocolViolation:
    """Return what to say of an event's whole array that msgspec did not take."""
    if isinstance(error, RecursionError):
        return _too_deep()
    if isinstance(error, msgspec.ValidationError):
        # It is raised at the first wrong value: what follows need not be JSON.
        decode_event(array)
    return _refusal(name, array, error)


def _too_deep() -> RequestRefused:
    return RequestRefused("bad_request", "the JSON is nested too deeply")


def has_surrogate(text: bytes) -> bool:
    """Tell whether JSON that msgspec does not take may only have half of a surrogate pair.

    JSON allows half a pair and msgspec does not. Clients write one when they cut a text in
    the middle of an emoji: that is no reason to close their connection.
    """
    return _SURROGATE.search(text) is not None


def _malformed(text: bytes, error: Exception) -> RequestRefused | ProtocolViolation:
    if has_surrogate(text):
        return RequestRefused("bad_request", "a text has half of a surrogate pair")
    return ProtocolViolation(f"malformed event: {_short(error)}")


def _refusal(name: str, array: bytes, error: Exception) -> RequestRefused | ProtocolViolation:
    if not isinstance(error, msgspec.ValidationError):
        return _malformed(array, error)
    return RequestRefused("bad_request", f"{name}: {_short(error)}", offending_field(error))


def offending_field(error: msgspec.ValidationError) -> str | None:
    """Return the key of a payload that msgspec complains of, if it names one."""
    text = str(error)
    found = _MISSING.search(text) or _FIELD.search(text)
    return found.group(1)[:_MAX_ECHO] if found and found.group(1) else None


def _short(error: Exception) -> str:
    # Clients count from their payload, not from the event's array around it.
    text = str(error).replace("`$[1]", "`$")
    return text if len(text) <= _MAX_ECHO else text[:_MAX_ECHO] + "..."
