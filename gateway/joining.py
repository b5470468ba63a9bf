"""Joins that somebody has to decide on before they are done: who may enter a room."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from gateway.errors import RequestRefused
from gateway.messages import TrueId
from gateway.metrics import Metrics
from gateway.session import Session

logger = logging.getLogger(__name__)

#: How long a client is asked to wait, in seconds.
_RETRY_AFTER: Final = 5.0


class RoomPolicy(Protocol):
    """Says who may join by themselves. Members, and whom the backend adds, are not asked about."""

    async def may_join(self, true_id: TrueId, room: str, attributes: str) -> bool:
        """Tell whether the player may join; `attributes` are those of the session, a JSON object.

        Raises RequestRefused for any other answer than no.
        """


class OpenRooms:
    """`rooms.open: true`: any player may join any room."""

    async def may_join(self, true_id: TrueId, room: str, attributes: str) -> bool:
        """See RoomPolicy.may_join."""
        return True


class ClosedRooms:
    """`rooms.open: false`: only the backend puts players into rooms."""

    async def may_join(self, true_id: TrueId, room: str, attributes: str) -> bool:
        """See RoomPolicy.may_join."""
        return False


class Client(Protocol):
    """A connection as rooms see it."""

    @property
    def true_id(self) -> TrueId:
        """The player it belongs to."""

    @property
    def session(self) -> Session:
        """The session it is of."""

    def answer(self, ack_id: int | None, payload: object) -> None:
        """Answer an event, if it asked for that."""

    def refuse(self, error: RequestRefused, ack_id: int | None, name: str = "") -> None:
        """Tell the client that its event was refused."""

    def send_event(self, array: bytes) -> None:
        """Send an event that is not stored."""


class Joining:
    """Asks `policy`, for at most `pending` joins of a connection at once; 0 means no limit."""

    def __init__(self, policy: RoomPolicy, pending: int, metrics: Metrics) -> None:
        self._policy = policy
        self._pending = pending
        self._metrics = metrics
        self._joins: dict[Client, list[_Join]] = {}

    @property
    def open(self) -> bool:
        """Whether there is nothing to ask: anybody may join."""
        return isinstance(self._policy, OpenRooms)

    def ask(self, client: Client, room: str, ack_id: int | None, join: Callable[[], None]) -> None:
        """Call `join` if the client's player may join; else tell the client that it may not.

        Raises RequestRefused (`rate_limited`) when too many joins of the connection wait.
        """
        joins = self._joins.setdefault(client, [])
        if self._pending and len(joins) >= self._pending:
            self._metrics.limit_hit("rooms.pending_joins")
            raise RequestRefused(
                "rate_limited", "too many joins wait for an answer", None, _RETRY_AFTER
            )
        asked = _Join(client, room, ack_id)
        joins.append(asked)
        asked.task = asyncio.get_running_loop().create_task(
            self._ask(asked, join), name=f"join-{client.true_id}"
        )
        asked.task.add_done_callback(lambda task: self._forget(asked))

    def withdraw(self, client: Client, room: str) -> bool:
        """The client leaves: its joins of the room that wait come to nothing. Tell if any did."""
        asked = [each for each in self._joins.get(client, ()) if each.room == room]
        for each in asked:
            self._cancel(each)
            error = RequestRefused("not_member", "you left before the answer came", "room")
            client.refuse(error, each.ack_id, "join")
        return bool(asked)

    def on_disconnected(self, client: Client) -> None:
        """The connection is gone: what it asked for comes to nothing."""
        for each in tuple(self._joins.get(client, ())):
            self._cancel(each)

    async def close(self) -> None:
        """Stop what waits."""
        tasks = [each.task for joins in self._joins.values() for each in joins if each.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _cancel(self, asked: _Join) -> None:
        if asked.task is not None:
            asked.task.cancel()
        self._forget(asked)

    def _forget(self, asked: _Join) -> None:
        joins = self._joins.get(asked.client, [])
        if asked in joins:
            joins.remove(asked)
        if not joins:
            self._joins.pop(asked.client, None)

    async def _ask(self, asked: _Join, join: Callable[[], None]) -> None:
        client, room = asked.client, asked.room
        try:
            if not await self._policy.may_join(client.true_id, room, client.session.attributes):
                raise RequestRefused("forbidden", "you may not join this room", "room")
            join()
        except RequestRefused as error:
            client.refuse(error, asked.ack_id, "join")
        except Exception:
            logger.exception("a player could not join a room, or nobody could say whether they may")
            fault = RequestRefused("unavailable", "try again", None, _RETRY_AFTER)
            client.refuse(fault, asked.ack_id, "join")


class _Join:
    """A join that waits."""

    __slots__ = ("ack_id", "client", "room", "task")

    def __init__(self, client: Client, room: str, ack_id: int | None) -> None:
        self.client = client
        self.room = room
        self.ack_id = ack_id
        self.task: asyncio.Task[None] | None = None
