"""What nodes tell each other: a kind, and fields with their lengths.

Lua writes it (`payload` in lua/_common.lua), so a length is 4 bytes, the highest first. Messages
are written in a shorter way: there are more of them than of anything else.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from gateway.mailbox import StoredMessage
from gateway.messages import SessionId, TrueId
from gateway.nodes import VolatileKey
from gateway.store import Copies
from gateway.stores.redis.mirror import Change

_length: Final = struct.Struct(">I")
#: Bytes of player, epoch, session that passes over it and body; offset, nonce, time.
_message: Final = struct.Struct(">3HI3d")

#: Messages were stored for players who have connections at the node.
MESSAGE: Final = b"m"
#: An event that is stored nowhere is for members of a room who have connections at the node.
ROOM_VOLATILE: Final = b"r"
#: An event that is stored nowhere is for such a player.
VOLATILE: Final = b"v"
#: Another node has a session's connection now.
FENCE: Final = b"f"
#: A session was ended, or all of a player's are to be disconnected.
END: Final = b"x"
#: Whether a session's client is alive: the question, and the answer.
PROBE: Final = b"p"
ANSWER: Final = b"a"
#: Webhooks were written in a partition whose duties are the node's.
OUTBOX: Final = b"o"
#: A node has come, or leaves.
JOIN: Final = b"j"
LEAVE: Final = b"l"
#: A message to a room was stored for players who have connections at the node.
COPIES: Final = b"c"
#: A message to a room was not stored for players who have connections at the node.
HOLES: Final = b"h"
#: A player came into a room, or left it.
MEMBERSHIP: Final = b"g"
#: A player whom the node watches is another than before.
PRESENCE: Final = b"w"
#: What the node says of a player was dropped, as it was taken for dead.
DROPPED: Final = b"d"

#: Kinds by what they are called in metrics.
KINDS: Final = {
    "message": MESSAGE,
    "volatile": VOLATILE,
    "room_volatile": ROOM_VOLATILE,
    "fence": FENCE,
    "end": END,
    "probe": PROBE,
    "answer": ANSWER,
    "outbox": OUTBOX,
    "join": JOIN,
    "leave": LEAVE,
    "copies": COPIES,
    "holes": HOLES,
    "membership": MEMBERSHIP,
    "presence": PRESENCE,
    "dropped": DROPPED,
}


def encode(kind: bytes, *fields: bytes) -> bytes:
    """Return what is published."""
    parts = [kind]
    for field in fields:
        parts += (_length.pack(len(field)), field)
    return b"".join(parts)


def decode(payload: bytes) -> tuple[bytes, list[bytes]]:
    """Return kind and fields. Raises ValueError for what no node has written."""
    fields = []
    place, end = 1, len(payload)
    while place < end:
        if place + 4 > end:
            raise ValueError("a field's length is cut off")
        (size,) = _length.unpack_from(payload, place)
        place += 4 + size
        if place > end:
            raise ValueError("a field is cut off")
        fields.append(payload[place - size : place])
    if not payload:
        raise ValueError("there is no kind")
    return payload[:1], fields


def decode_messages(payload: bytes) -> list[tuple[TrueId, StoredMessage]]:
    """Return players and what was stored for them; `payload` is all that was published.

    It is a MESSAGE, and lua/_message.lua writes what follows the kind. Raises ValueError.
    """
    messages = []
    place, end = 1, len(payload)
    try:
        while place < end:
            player, epoch, skip, body, number, nonce, ts = _message.unpack_from(payload, place)
            place += _message.size
            player += place
            epoch += player
            skip += epoch
            body += skip
            if body > end:
                raise ValueError("a message is cut off")
            true_id, offset = TrueId(payload[place:player].decode()), int(number)
            message_id = b"%b.%d.%x" % (payload[player:epoch], offset, int(nonce))
            skipped = SessionId(payload[epoch:skip].decode()) if skip > epoch else None
            message = StoredMessage(offset, message_id, payload[skip:body], ts, skipped)
            messages.append((true_id, message))
            place = body
    except (struct.error, OverflowError) as error:
        raise ValueError(f"a message is cut off: {error}") from None
    if not messages:
        raise ValueError("there is no message")
    return messages


def decode_copies(fields: Sequence[bytes]) -> list[Copies]:
    """Return a message to a room, and the players who have it at its place. Raises ValueError."""
    epoch, nonce, ts, body, *places = fields
    players: dict[int, list[TrueId]] = {}
    for true_id, offset in zip(places[::2], places[1::2], strict=True):
        players.setdefault(int(offset), []).append(TrueId(true_id.decode()))
    return [
        (StoredMessage(offset, b"%b.%d.%b" % (epoch, offset, nonce), body, float(ts)), true_ids)
        for offset, true_ids in players.items()
    ]


def decode_players(fields: Sequence[bytes]) -> list[TrueId]:
    """Return players. Raises ValueError."""
    return [TrueId(each.decode()) for each in fields]


def decode_room_volatile(fields: Sequence[bytes]) -> tuple[str, bytes, VolatileKey | None]:
    """Return a room, an event and the key that it has, if any. Raises ValueError."""
    name, array, *rest = fields
    room = name.decode()
    if not rest:
        return room, array, None
    sender, key = (each.decode() for each in rest)
    return room, array, (TrueId(sender) if sender else None, room, key)


def decode_membership(fields: Sequence[bytes]) -> Change:
    """Return a change of a room's members. Raises ValueError."""
    epoch, version, by, sign, room, true_id, number, members = fields
    joined = sign == b"+"
    name, player = room.decode(), TrueId(true_id.decode())
    return Change(epoch, int(version), by, joined, name, player, int(number), int(members))
