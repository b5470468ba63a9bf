"""Log-ins that the game's backend decides: `auth.webhook`.

The question is `{"type": "auth", "auth": {…}, "address"}`, where `auth` is what the client sent
without what only the gateway understands. The answer is `{"true_id", "name"?, "attributes"?}`, or
`{"error": {"code", "message"?, "retry_after"?}}`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.api_types import MAX_ATTRIBUTES_BYTES
from gateway.auth import Identity
from gateway.auth.failures import Failures
from gateway.errors import ConnectRefused
from gateway.inquiries import (
    Inquiries,
    Refusal,
    Unanswered,
    UnfitAnswer,
    clean_refusal,
    decode,
)
from gateway.messages import TrueId
from gateway.metrics import Metrics
from gateway.network import network_of
from gateway.texts import clean_text

SECTION: Final = "auth.webhook"
#: Codes that the backend may refuse with, and what clients are told without a message.
CODES: Final[Mapping[str, str]] = {
    "bad_credentials": "the game does not know these credentials",
    "banned": "the game has banned this player",
    "rate_limited": "too many log-ins; try again later",
    "server_full": "the game is full; try again later",
    "unavailable": "the game cannot let players in now; try again later",
}
#: Whom the game lets in as it likes, but these are no guesses at credentials.
_NO_GUESSES: Final = frozenset({"server_full", "unavailable"})
_TRUE_ID: Final = re.compile(r"[!-~]{1,128}")


class _Question(msgspec.Struct, tag_field="type", tag="auth"):
    auth: Mapping[str, object]
    address: str


class _Answer(msgspec.Struct):
    true_id: str | None = None
    name: str | None = None
    attributes: dict[str, Any] = {}
    error: Refusal | None = None


@dataclass(frozen=True, slots=True)
class AuthWebhookSettings:
    """What the YAML file says: see `auth.webhook` there, and `limits.name_bytes`.

    `reserved` is what ids may not begin with.
    """

    question_bytes: int
    attempts_per_minute: int
    reserved: tuple[str, ...]
    name_bytes: int


class WebhookAuthenticator:
    """Asks the backend who it is. To be the last of all methods: it takes whatever there is.

    `is_account` says whether an id is that of a user with a password, None where that does not
    matter; `clock` is monotonic.
    """

    method: Final = "webhook"

    def __init__(
        self,
        inquiries: Inquiries,
        settings: AuthWebhookSettings,
        is_account: Callable[[TrueId], Awaitable[bool]] | None,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._inquiries = inquiries
        self._settings = settings
        self._is_account = is_account
        self._metrics = metrics
        self._clock = clock
        self._failures = Failures(settings.attempts_per_minute)

    def claims(self, auth: Mapping[str, object]) -> bool:
        """Return whether there is anything at all: the backend knows what it means."""
        return bool(auth)

    async def authenticate(self, auth: Mapping[str, object], address: str) -> Identity:
        """Return whom the backend says it is.

        Raises ConnectRefused: as the backend refuses, see CODES; `rate_limited` for a network
        with too many refusals; `bad_credentials` for more than may be sent; `unavailable` with
        `retry_after` when the backend does not answer as it should.
        """
        try:
            question = msgspec.json.encode(_Question(auth, address))
        except RecursionError:
            raise ConnectRefused("bad_credentials", "auth is nested too deeply") from None
        most = self._settings.question_bytes
        if most and len(question) > most:
            self._metrics.limit_hit(f"{SECTION}.question_bytes")
            raise ConnectRefused(
                "bad_credentials",
                f"auth is too large: with the address it has {len(question)} bytes, more than "
                f"the {most} allowed",
            )
        network = network_of(address)
        wait = math.ceil(self._failures.wait(network, self._clock()))
        if wait > 0:
            self._metrics.limit_hit(f"{SECTION}.attempts_per_minute")
            raise ConnectRefused(
                "rate_limited", f"too many failed logins; try again in {wait} s", float(wait)
            )
        # Whoever does not wait for the answer may have guessed, too.
        failed = True
        self._failures.begin(network)
        try:
            answer = await self._inquiries.ask(question, self._parse)
            failed = isinstance(answer, Refusal) and answer.code not in _NO_GUESSES
        except Unanswered as error:
            failed = False
            raise ConnectRefused(
                "unavailable", "the game cannot say now who you are", error.retry_after
            ) from None
        finally:
            self._failures.settle(network, self._clock(), failed=failed)
        if isinstance(answer, Refusal):
            raise ConnectRefused(answer.code, answer.message, answer.retry_after)
        return answer

    async def still_valid(self, true_id: TrueId) -> bool:
        """Return True: the backend ends sessions and bans players by the API."""
        return True

    async def _parse(self, body: bytes) -> Identity | Refusal:
        answer = decode(body, _Answer)
        if answer.error is not None:
            if answer.true_id is not None:
                raise UnfitAnswer("there are both `true_id` and `error` in it; send one")
            return clean_refusal(answer.error, CODES)
        if answer.true_id is None:
            raise UnfitAnswer("there is neither `true_id` nor `error` in it; send one")
        if not _TRUE_ID.fullmatch(answer.true_id):
            raise UnfitAnswer("`true_id` must be 1 to 128 visible ASCII characters")
        true_id = TrueId(answer.true_id)
        await self._check_stranger(true_id)
        attributes = msgspec.json.encode(answer.attributes)
        if len(attributes) > MAX_ATTRIBUTES_BYTES:
            raise UnfitAnswer(
                f"`attributes` have {len(attributes)} bytes, more than {MAX_ATTRIBUTES_BYTES}"
            )
        return Identity(true_id, self._name(answer), self.method, attributes.decode())

    async def _check_stranger(self, true_id: TrueId) -> None:
        mending = f"choose another, or set {SECTION}.accept_other_ids"
        for prefix in self._settings.reserved:
            if true_id.startswith(prefix):
                raise UnfitAnswer(
                    f"`true_id` begins with {prefix}, as ids of other players do; {mending}"
                )
        if self._is_account is not None and await self._is_account(true_id):
            raise UnfitAnswer(f"`true_id` is that of a user with a password; {mending}")

    def _name(self, answer: _Answer) -> str:
        name: object = answer.name
        if name is None:
            name = answer.attributes.get("name")
        if name is None:
            return (answer.true_id or "")[: self._settings.name_bytes or None]
        try:
            return clean_text(name, "`name`", self._settings.name_bytes)
        except ValueError as error:
            raise UnfitAnswer(str(error)) from None
