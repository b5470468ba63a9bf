"""The AsyncAPI document of the Socket.IO events, made from the types that parse them."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from gateway.connection import CLIENT_EVENTS
from gateway.event_types import ACKS, SERVER_EVENTS, Refusal

_REF: Final = "#/components/schemas/{name}"
_CHANNEL: Final = "events"
_SCHEMES: Final = {"http": "ws", "https": "wss"}


def build_asyncapi(version: str, url: str) -> dict[str, Any]:
    """Return the document; `version` is the gateway's, `url` where players reach it, if known."""
    messages = _messages()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "game-gateway",
            "version": version,
            "description": "Events of players over Socket.IO. Durations are in seconds, sizes in "
            "bytes, times in Unix seconds. The payload of CONNECT, which is no event, is in the "
            "README.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "gateway": {
                "host": urlsplit(url).netloc or "localhost",
                "pathname": "/socket.io/",
                "protocol": _SCHEMES.get(urlsplit(url).scheme, "ws"),
                "protocolVersion": "5",
                "description": "Socket.IO protocol 5 over Engine.IO 4",
            }
        },
        "channels": {
            _CHANNEL: {
                "address": "/",
                "title": "The namespace /",
                "messages": {name: _ref("messages", name) for name in messages},
            }
        },
        "operations": _operations(),
        "components": {"messages": messages, "schemas": _schemas()},
    }


def _ref(*path: str) -> dict[str, str]:
    return {"$ref": "/".join(("#/components", *path))}


def _messages() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (kind, _) in CLIENT_EVENTS.items():
        found[f"client.{name}"] = _message(name, kind)
        found[f"ack.{name}"] = {
            "name": f"ack of {name}",
            "title": f"The ack of {name}",
            "payload": {"anyOf": [_schema(ACKS[name]), _schema(Refusal)]},
        }
    for name, kind in SERVER_EVENTS.items():
        found[f"server.{name}"] = _message(name, kind)
    return found


def _message(name: str, kind: type) -> dict[str, Any]:
    return {"name": name, "title": f"The event {name}", "payload": _schema(kind)}


def _operations() -> dict[str, Any]:
    """Return what the gateway receives, with its acks, and what it sends."""
    channel = {"$ref": f"#/channels/{_CHANNEL}"}
    operations: dict[str, Any] = {}
    for name in CLIENT_EVENTS:
        operations[f"receive.{name}"] = {
            "action": "receive",
            "channel": channel,
            "messages": [_of_channel(f"client.{name}")],
            "reply": {"channel": channel, "messages": [_of_channel(f"ack.{name}")]},
        }
    for name in SERVER_EVENTS:
        operations[f"send.{name}"] = {
            "action": "send",
            "channel": channel,
            "messages": [_of_channel(f"server.{name}")],
        }
    return operations


def _of_channel(name: str) -> dict[str, str]:
    return {"$ref": f"#/channels/{_CHANNEL}/messages/{name}"}


def _schemas() -> dict[str, Any]:
    kinds = [kind for kind, _ in CLIENT_EVENTS.values()]
    kinds += [*SERVER_EVENTS.values(), *ACKS.values(), Refusal]
    _, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    return components


def _schema(kind: type) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=_REF)
    return schema
