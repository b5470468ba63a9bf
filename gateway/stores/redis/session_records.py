"""A session as it is kept in Redis: JSON, of which scripts change some fields."""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.messages import SessionId, TrueId
from gateway.session import Session


class Record(msgspec.Struct, frozen=True, gc=False):
    """What is kept of a session; its ids are in the key and the field.

    `last_seen` is a text: Lua would keep no more than 14 digits of a number. `node` is who has
    the session's connection, "" for none; `version` is another, higher number after each update.
    """

    name: str
    method: str
    pid: str
    last_seen: str
    start: int
    confirmed: int
    generation: int
    opened: int
    attributes: str
    node: str = ""
    version: int = 0


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Record, strict=False).decode


def encode_record(session: Session) -> bytes:
    """Return the record of a session; who has its connection is for the script to say."""
    return _encode(
        Record(
            session.name,
            session.method,
            session.pid,
            repr(session.last_seen),
            session.start,
            session.confirmed,
            session.generation,
            session.opened,
            session.attributes,
        )
    )


def decode_record(text: bytes) -> Record:
    """Return a record. Raises msgspec.DecodeError for what is none."""
    return _decode(text)


def new_session(session_id: SessionId, true_id: TrueId, record: Record) -> Session:
    """Return the session of a record, without connection."""
    return Session(
        id=session_id,
        true_id=true_id,
        name=record.name,
        method=record.method,
        pid=record.pid,
        last_seen=float(record.last_seen),
        start=record.start,
        confirmed=record.confirmed,
        generation=record.generation,
        opened=record.opened,
        attributes=record.attributes,
        node=record.node,
        version=record.version,
    )
