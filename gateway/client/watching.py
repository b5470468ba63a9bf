"""Presence that outlives reconnects: what was said of this player, and who is watched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

import msgspec

from gateway.client.errors import ClientError, RequestRefused
from gateway.client.payloads import Fault, Presence

T = TypeVar("T")
Request = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]

#: Players asked for in one event. The gateway takes 1,000.
_AT_ONCE: Final = 500


class Watching:
    """`request` asks the gateway, `emit` tells handlers."""

    def __init__(self, request: Request, emit: Callable[[str, object], None]) -> None:
        self._request = request
        self._emit = emit
        self._watched: dict[str, None] = {}
        self._said: dict[str, str] = {}

    def forget_watched(self) -> None:
        """The player is another one: what they watch is their own business."""
        self._watched.clear()

    async def say(self, state: str | None, status: str | None) -> None:
        """Say where this player is; what is None stays as it was."""
        said = self._said or {"state": "active"}
        if state is not None:
            said = {**said, "state": state}
        if status is not None:
            said = {**said, "status": status}
        self._said = said
        await self._request("presence_set", said)

    async def watch(self, true_ids: Iterable[str]) -> dict[str, Presence]:
        """Hear of these players; return where they are now."""
        known: dict[str, Presence] = {}
        for some in _chunks(true_ids):
            known.update(await self._ask(some))
            self._watched.update(dict.fromkeys(some))
        return known

    async def unwatch(self, true_ids: Iterable[str]) -> None:
        """Hear of these players no more."""
        for some in _chunks(true_ids):
            for true_id in some:
                self._watched.pop(true_id, None)
            await self._request("presence_unwatch", {"true_ids": some})

    async def restore(self) -> None:
        """The gateway takes a new connection for active, and it watches nobody.

        Handlers hear what has changed meanwhile, or by the event `error` that it could not be.
        """
        event = "presence_set"
        try:
            if self._said:
                await self._request(event, self._said)
            event = "presence_watch"
            for some in _chunks(self._watched):
                for presence in (await self._ask(some)).values():
                    self._emit("presence", presence)
        except ClientError as error:
            self._emit("error", Fault(error.code, error.message, event))

    async def _ask(self, true_ids: list[str]) -> dict[str, Presence]:
        answer = await self._request("presence_watch", {"true_ids": true_ids})
        return convert(answer.get("presence"), dict[str, Presence])


def convert(value: object, kind: type[T]) -> T:
    """Read an answer. Raises RequestRefused (`unknown`) for one that is not what was asked for."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise RequestRefused("unknown", f"the gateway's answer is none of ours: {error}") from None


def _chunks(true_ids: Iterable[str]) -> Iterator[list[str]]:
    wanted = list(dict.fromkeys(true_ids))
    return (wanted[at : at + _AT_ONCE] for at in range(0, len(wanted), _AT_ONCE))
