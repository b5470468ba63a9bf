"""A small game backend as a game's developer would write it, over real HTTP.

It logs players in, hears of them by signed webhooks, and writes to them by the HTTP API.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any, Final

from tornado.httpserver import HTTPServer
from tornado.web import Application, HTTPError, RequestHandler

from gateway.client import WebhookInvalid, verify_signature, verify_webhook
from gateway.client.api import GatewayApi

SECRET: Final = "a secret of 32 characters or more"
#: Who may play: ticket -> true_id.
TICKETS: Final = {f"ticket-{number}": f"hero-{number}" for number in range(1, 7)}


class ExampleBackend:
    """Listens on a port of its own; `api` is set once the gateway's address is known."""

    def __init__(self) -> None:
        self.api: GatewayApi | None = None
        self.log_ins: list[str] = []
        #: Events by their id: each may come more than once.
        self.events: dict[str, Any] = {}
        self._welcomes: set[asyncio.Task[None]] = set()
        backend = self

        class LogIn(RequestHandler):
            def post(self) -> None:
                backend._check(self)
                question = json.loads(self.request.body)
                true_id = TICKETS.get(question["auth"].get("ticket", ""))
                if true_id is None:
                    self.finish({"error": {"code": "bad_credentials", "message": "No ticket."}})
                    return
                backend.log_ins.append(true_id)
                self.finish({"true_id": true_id, "name": true_id.title(), "attributes": {"l": 3}})

        class Events(RequestHandler):
            def post(self) -> None:
                backend._on_event(self)
                self.set_status(204)

        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._server = HTTPServer(
            Application([("/log-in", LogIn), ("/events", Events)], log_function=lambda _: None)
        )
        self._server.add_sockets([listening])

    def _check(self, request: RequestHandler) -> None:
        try:
            verify_signature(request.request.body, request.request.headers, [SECRET])
        except WebhookInvalid:
            raise HTTPError(400) from None

    def _on_event(self, request: RequestHandler) -> None:
        try:
            event = verify_webhook(request.request.body, request.request.headers, [SECRET])
        except WebhookInvalid:
            raise HTTPError(400) from None
        new = event.id not in self.events
        self.events.setdefault(event.id, event)
        if new and event.type == "session.new":
            task = asyncio.create_task(self._welcome(event.true_id, event.id), name="welcome")
            self._welcomes.add(task)
            task.add_done_callback(self._welcomes.discard)

    async def _welcome(self, true_id: str, event_id: str) -> None:
        # Its id makes it one message, however often it has to be sent.
        assert self.api is not None
        await self.api.send(true_id, "welcome", type="welcome", id=f"welcome {event_id}")

    def types_of(self, true_id: str) -> list[str]:
        """What was heard of a player, in order."""
        return [event.type for event in self.events.values() if event.true_id == true_id]

    async def settled(self) -> None:
        """Wait until all that is to be sent has its receipt."""
        while self._welcomes:
            await asyncio.gather(*self._welcomes)

    async def stop(self) -> None:
        """Be gone."""
        for task in self._welcomes:
            task.cancel()
        self._server.stop()
        await self._server.close_all_connections()
