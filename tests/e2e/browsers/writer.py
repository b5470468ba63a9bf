"""A player who writes to the one in the browser, and who is in no browser."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, Final

import socketio

from tests.e2e.browsers.interface import wait_until

_SECONDS: Final = 15


class Writer:
    """A guest by python-socketio."""

    def __init__(self, url: str) -> None:
        self._client = socketio.Client(reconnection=False)
        session: Future[dict[str, Any]] = Future()
        self._client.on("session", session.set_result)
        self._client.connect(url, auth={"guest": True, "recovery": False}, transports=["websocket"])
        self.true_id: str = session.result(_SECONDS)["true_id"]

    def _ask(self, event: str, payload: dict[str, Any]) -> Any:
        answer = self._client.call(event, payload, timeout=_SECONDS)
        assert answer["ok"], answer
        return answer

    def write(self, true_id: str, *texts: str) -> list[str]:
        """Send messages, each when the one before has its receipt; return what these say."""
        payloads = [{"target_id": true_id, "data": text} for text in texts]
        return [self._ask("message", payload)["status"] for payload in payloads]

    def wait_connections(self, true_id: str, count: int) -> None:
        """Wait until the gateway counts so many connections of a player."""

        def look() -> bool:
            presence = self._ask("presence_watch", {"true_ids": [true_id]})["presence"]
            connections: int = presence[true_id]["connections"]
            return connections == count

        wait_until(f"{count} connections of the player", look)

    def join(self, room: str) -> None:
        """Be a member of a room."""
        self._ask("join", {"room": room})

    def wait_members(self, room: str, *true_ids: str) -> None:
        """Wait until these, and nobody but the writer, are the members of a room."""

        def look() -> bool:
            players = self._ask("members", {"room": room})["players"]
            return {player["true_id"] for player in players} == {self.true_id, *true_ids}

        wait_until(f"{true_ids} in {room}", look)

    def publish(self, room: str, text: str) -> None:
        """Say something to all members of a room."""
        self._ask("publish", {"room": room, "data": text})

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
