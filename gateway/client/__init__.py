"""An async client of the gateway for bots, game servers and tests.

It does what `/client/gateway.js` does in a browser: it remembers who it is, comes back by itself,
handles every message once and in order, and sends every message until there is a receipt.

    from gateway.client import Guest, connect

    async with connect("https://gateway.example", Guest("Ada")) as game:
        await game.send(friend, {"hello": "world"})
        async for message in game.messages():
            print(message.sender, message.data)

It needs the extra `client` of the package. It has nothing in common with the gateway's own code
but the protocol.
"""

from __future__ import annotations

from gateway.client.client import GatewayClient, Messages
from gateway.client.connect import connect
from gateway.client.core import Settings
from gateway.client.credentials import Auth, Credentials, Guest, Jwt, Keys, Password
from gateway.client.errors import (
    ClientClosed,
    ClientError,
    ConnectRefused,
    LinkLost,
    PlayerChanged,
    QueueFull,
    RequestRefused,
    StorageInUse,
    StorageMismatch,
    TimedOut,
)
from gateway.client.payloads import (
    Fault,
    Gap,
    Goaway,
    Lost,
    Members,
    Membership,
    Message,
    Players,
    Presence,
    Receipt,
    Refusal,
    Rejoined,
    RoomChange,
    Session,
    State,
    StateChange,
)
from gateway.client.storage import FileStorage, MemoryStorage, Record, Storage
from gateway.client.webhooks import (
    WebhookEvent,
    WebhookInvalid,
    verify_signature,
    verify_webhook,
)

__all__ = [
    "Auth",
    "ClientClosed",
    "ClientError",
    "ConnectRefused",
    "Credentials",
    "Fault",
    "FileStorage",
    "Gap",
    "GatewayClient",
    "Goaway",
    "Guest",
    "Jwt",
    "Keys",
    "LinkLost",
    "Lost",
    "Members",
    "Membership",
    "MemoryStorage",
    "Message",
    "Messages",
    "Password",
    "PlayerChanged",
    "Players",
    "Presence",
    "QueueFull",
    "Receipt",
    "Record",
    "Refusal",
    "Rejoined",
    "RequestRefused",
    "RoomChange",
    "Session",
    "Settings",
    "State",
    "StateChange",
    "Storage",
    "StorageInUse",
    "StorageMismatch",
    "TimedOut",
    "WebhookEvent",
    "WebhookInvalid",
    "connect",
    "verify_signature",
    "verify_webhook",
]
