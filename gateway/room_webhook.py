"""Rooms whose doors the game's backend keeps: `rooms.webhook`.

The question is `{"type": "join", "true_id", "room", "attributes"}`, the answer `{"allow": true}`,
or `{"allow": false, "message"?}`, or `{"error": {"code", "message"?, "retry_after"?}}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from gateway.errors import RequestRefused
from gateway.inquiries import Inquiries, Refusal, Unanswered, UnfitAnswer, clean_refusal, decode
from gateway.messages import TrueId

SECTION: Final = "rooms.webhook"
#: Codes that the backend may refuse with, and what clients are told without a message.
CODES: Final[Mapping[str, str]] = {
    "forbidden": "you may not join this room",
    "rate_limited": "too many joins; try again later",
    "unavailable": "nobody can join this room now; try again later",
}


class _Question(msgspec.Struct, tag_field="type", tag="join"):
    true_id: str
    room: str
    attributes: msgspec.Raw


class _Answer(msgspec.Struct):
    allow: bool | None = None
    message: str = ""
    error: Refusal | None = None


class WebhookRooms:
    """Asks the backend about everybody who wants to join."""

    def __init__(self, inquiries: Inquiries) -> None:
        self._inquiries = inquiries

    async def may_join(self, true_id: TrueId, room: str, attributes: str) -> bool:
        """Return True for whom the backend lets in.

        Raises RequestRefused: as the backend refuses, see CODES, and `unavailable` with
        `retry_after` when it does not answer as it should.
        """
        question = _Question(true_id, room, msgspec.Raw(attributes.encode()))
        try:
            answer = await self._inquiries.ask(msgspec.json.encode(question), _parse)
        except Unanswered as error:
            raise RequestRefused(
                "unavailable", "the game cannot say now who may join", None, error.retry_after
            ) from None
        if isinstance(answer, Refusal):
            raise RequestRefused(answer.code, answer.message, "room", answer.retry_after)
        return answer


async def _parse(body: bytes) -> bool | Refusal:
    answer = decode(body, _Answer)
    if answer.error is not None:
        if answer.allow is not None:
            raise UnfitAnswer("there are both `allow` and `error` in it; send one")
        return clean_refusal(answer.error, CODES)
    if answer.allow is None:
        raise UnfitAnswer("there is neither `allow` nor `error` in it; send one")
    if not answer.allow:
        return clean_refusal(Refusal("forbidden", answer.message), CODES)
    return True
