"""The AsyncAPI document says what goes over Socket.IO: real events are held against it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from gateway.connection import CLIENT_EVENTS
from gateway.event_types import ACKS, SERVER_EVENTS, Refusal
from gateway.messages import SendMessage, TrueId
from gateway.server import Gateway
from tests.transport.client import Clients, Player

pytestmark = pytest.mark.gen_test(timeout=60)


async def document(clients: Clients) -> dict[str, Any]:
    response = await clients.fetch("/asyncapi.json")
    assert (response.code, response.headers["Content-Type"]) == (200, "application/json")
    found: dict[str, Any] = json.loads(response.body)
    return found


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            if key == "$ref":
                yield each
            else:
                yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def resolve(served: dict[str, Any], reference: str) -> Any:
    assert reference.startswith("#/")
    value: Any = served
    for part in reference[2:].split("/"):
        value = value[part]
    return value


async def test_the_document_has_the_structure_of_asyncapi_3(clients: Clients) -> None:
    served = await document(clients)
    assert served["asyncapi"] == "3.0.0"
    assert served["info"]["title"]
    assert served["info"]["version"]
    (server,) = served["servers"].values()
    assert (server["host"], server["protocol"]) == (f"127.0.0.1:{clients.port}", "ws")
    assert len(list(references(served))) > 50
    for reference in references(served):
        assert isinstance(resolve(served, reference), dict), reference
    for channel in served["channels"].values():
        assert channel["address"] == "/"
        for message in channel["messages"].values():
            assert resolve(served, message["$ref"])["payload"]
    for operation in served["operations"].values():
        assert operation["action"] in {"send", "receive"}
        channel = operation["channel"]["$ref"]
        # Messages of an operation are those of its channel, not of the components.
        for message in (*operation["messages"], *operation.get("reply", {}).get("messages", ())):
            assert message["$ref"].startswith(f"{channel}/messages/")


async def test_every_event_is_in_the_document(clients: Clients) -> None:
    served = await document(clients)
    received = {f"receive.{name}" for name in CLIENT_EVENTS}
    sent = {f"send.{name}" for name in SERVER_EVENTS}
    assert set(served["operations"]) == received | sent
    assert set(ACKS) == set(CLIENT_EVENTS)
    for name in received:
        assert served["operations"][name]["reply"]


@pytest.mark.settings(server={"public_url": "https://game.example"})
async def test_the_public_address_is_told(clients: Clients) -> None:
    (server,) = (await document(clients))["servers"].values()
    assert (server["host"], server["protocol"]) == ("game.example", "wss")


def strictly(payload: object, kind: type) -> None:
    """Check that a payload is of this type, without any key more."""
    fields = msgspec.structs.fields(kind)
    assert isinstance(payload, dict)
    assert set(payload) <= {field.encode_name for field in fields}
    msgspec.json.decode(json.dumps(payload), type=kind)


class Watched(Player):
    """A player whose events are held against their types."""

    async def told(self, name: str) -> Any:
        payload = (await self.event(name))[0]
        strictly(payload, SERVER_EVENTS[name])
        return payload

    async def asks(self, name: str, payload: object) -> Any:
        ack = await self.call(name, payload)
        strictly(ack, ACKS[name] if ack["ok"] else Refusal)
        return ack["ok"]


async def watched(clients: Clients) -> Watched:
    player = await Watched.log_in(await clients.link("websocket"))
    assert isinstance(player, Watched)
    strictly(player.session, SERVER_EVENTS["session"])
    return player


async def test_what_is_sent_is_what_the_document_says(clients: Clients, gateway: Gateway) -> None:
    ann, bob = await watched(clients), await watched(clients)
    watch = {"true_ids": [bob.true_id, "nobody"]}
    assert await ann.asks("presence_watch", watch)
    assert await bob.asks("presence_set", {"state": "hidden", "status": "busy"})
    assert (await ann.told("presence"))["status"] == "busy"
    assert await ann.asks("presence_unwatch", watch)
    assert await ann.asks("players", {"limit": 1})
    assert not await ann.asks("players", {"limit": 0})
    message = {"target_id": bob.true_id, "data": [1], "type": "t"}
    assert await ann.asks("message", message)
    assert (await bob.told("message"))["type"] == "t"
    assert await ann.asks("message", {**message, "volatile": True})
    assert not await ann.asks("message", {**message, "target_id": "nobody"})
    await ann.emit("message", {"data": 1})
    assert (await ann.told("error"))["field"] == "target_id"
    assert await ann.asks("join", {"room": "r"})
    assert (await ann.told("room"))["joined"] == ann.true_id
    assert await ann.asks("publish", {"room": "r", "data": 1})
    assert (await ann.told("message"))["room"] == "r"
    assert await ann.asks("members", {"room": "r"})
    assert await ann.asks("leave", {"room": "r"})
    assert (await ann.told("room"))["left"] == ann.true_id
    assert not await ann.asks("publish", {"room": "r", "data": 1})
    from_backend = SendMessage(TrueId(ann.true_id), msgspec.Raw(b"1"))
    gateway._services.delivery.send(None, from_backend)
    assert (await ann.told("message"))["from"] is None
    await gateway.drain()
    assert (await ann.told("goaway"))["reason"] == "draining"
    assert await ann.asks("logout", {})
