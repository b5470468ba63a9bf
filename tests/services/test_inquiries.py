"""Questions to the backend: turns, the circuit, what an answer may be. The clock is the test's."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import msgspec
import pytest

from gateway.inquiries import (
    Inquiries,
    InquirySettings,
    Refusal,
    Unanswered,
    UnfitAnswer,
    clean_refusal,
    decode,
)
from gateway.metrics import Metrics
from gateway.posting import SIGNATURE_HEADER, TIMESTAMP_HEADER, PostFailed, Response, sign
from tests.services.world import Clock, scenario, settled

SECRETS = ["k" * 40, "old" * 20]
CODES = {"no": "just no", "later": "come again"}


class Answer(msgspec.Struct):
    yes: bool | None = None
    error: Refusal | None = None


async def parse(body: bytes) -> bool | Refusal:
    answer = decode(body, Answer)
    if answer.error is not None:
        return clean_refusal(answer.error, CODES)
    if answer.yes is None:
        raise UnfitAnswer("there is no `yes` in it")
    return answer.yes


class Desk:
    """Inquiries, and a backend that answers when it is told to."""

    def __init__(self, *, timeout: float = 4.0, concurrency: int = 2, queue: int = 2) -> None:
        self.metrics = Metrics()
        self.clock = Clock()
        self.monotonic = Clock()
        self.posts: list[tuple[bytes, dict[str, str], float]] = []
        self.replies: list[asyncio.Future[Response]] = []
        #: What is answered at once, if anything is.
        self.now: Response | Exception | None = None
        self.closed = False
        settings = InquirySettings("auth.webhook", timeout, concurrency, queue)
        self.inquiries = Inquiries(
            self.post,
            self.close,
            SECRETS,
            settings,
            self.metrics,
            self.clock,
            self.monotonic,
            lambda: 1.0,
        )

    async def post(self, body: bytes, headers: dict[str, str], seconds: float) -> Response:
        self.posts.append((body, headers, seconds))
        if isinstance(self.now, Exception):
            raise self.now
        if self.now is not None:
            return self.now
        reply: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.replies.append(reply)
        return await reply

    def close(self) -> None:
        self.closed = True

    async def ask(self) -> bool | Refusal:
        return await self.inquiries.ask(b"?", parse)

    def asking(self) -> asyncio.Task[bool | Refusal]:
        return asyncio.get_running_loop().create_task(self.ask())

    async def unanswered(self) -> float:
        """Ask in vain; return the seconds to wait."""
        with pytest.raises(Unanswered) as caught:
            await self.ask()
        return caught.value.retry_after

    def value(self, name: str) -> float:
        for line in self.metrics.render().decode().splitlines():
            if line.startswith(f"gateway_{name} "):
                return float(line.rpartition(" ")[2])
        raise KeyError(name)

    def results(self) -> dict[str, float]:
        found = {}
        for line in self.metrics.render().decode().splitlines():
            if line.startswith("gateway_auth_webhook_questions_total{"):
                label, _, value = line.partition("} ")
                found[label.partition('"')[2].strip('"')] = float(value)
        assert set(found) == {"allowed", "refused", "failed", "not_asked"}
        return {result: count for result, count in found.items() if count}


def reply(body: object, status: int = 200, retry_after: float = 0.0) -> Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status, retry_after, raw)


@scenario
async def test_a_question_is_signed_by_every_secret_and_answered() -> None:
    desk = Desk()
    desk.now = reply({"yes": True})
    assert await desk.ask() is True
    ((body, headers, seconds),) = desk.posts
    timestamp = headers[TIMESTAMP_HEADER]
    assert timestamp == str(int(desk.clock.now))
    assert headers[SIGNATURE_HEADER] == sign(body, timestamp, SECRETS)
    assert len(headers[SIGNATURE_HEADER].split(",")) == 2
    assert headers["Content-Type"] == "application/json"
    assert seconds == 4.0
    assert desk.results() == {"allowed": 1.0}
    assert desk.value("auth_webhook_seconds_count") == 1


@pytest.mark.parametrize("status", [200, 401, 403, 429])
@scenario
async def test_a_refusal_counts_as_one_whatever_its_status(status: int) -> None:
    desk = Desk()
    desk.now = reply({"error": {"code": "no", "message": "not you", "retry_after": 3}}, status)
    assert await desk.ask() == Refusal("no", "not you", 3)
    desk.now = reply({"error": {"code": "later"}}, status)
    assert await desk.ask() == Refusal("later", "come again")
    assert desk.results() == {"refused": 2.0}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (reply(b"<html>"), "it is not JSON"),
        (reply(b""), "it is not JSON"),
        (reply(b"\xff\xfe"), "it is not JSON"),
        (reply(b'{"more": ' + b"[" * 10_000), "it is not JSON"),
        (reply([]), "Expected `object`, got `array`"),
        (reply(None), "Expected `object`, got `null`"),
        (reply({"yes": 1}), "Expected `bool | null`, got `int` - at `$.yes`"),
        (reply({}), "there is no `yes` in it"),
        (reply({"error": "no"}), "at `$.error`"),
        (reply({"error": {}}), "at `$.error`"),
        (reply({"error": {"code": "maybe"}}), "`error.code` must be one of no, later"),
        (reply({"error": {"code": "no", "retry_after": -1}}), "`error.retry_after` must be"),
        (reply({"error": {"code": "no", "retry_after": 1e9}}), "`error.retry_after` must be"),
        (reply({"error": {"code": "no", "message": "a\nb"}}), "`message` contains U+000A"),
        (reply({"error": {"code": "no", "message": "a" * 300}}), "`message` is longer than 256"),
        (reply({"yes": True}, 403), "there is no `error` in it"),
        (reply({"yes": True}, 302), "HTTP status 302"),
        (reply({"yes": True}, 500), "HTTP status 500"),
    ],
)
def test_what_is_no_answer_lets_nobody_in_and_is_logged(
    answer: Response, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    @scenario
    async def unfit() -> None:
        desk = Desk()
        desk.now = answer
        assert await desk.unanswered() >= 1
        assert desk.results() == {"failed": 1.0}
        # It is there: the next one may be answered better.
        assert desk.value("auth_webhook_circuit_open") == 0
        for _ in range(20):
            await desk.unanswered()
        assert desk.value("auth_webhook_circuit_open") == 0
        assert len(desk.posts) == 21

    unfit()
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("auth.webhook: HTTP status")
    assert reason in lines[0]
    # A line now and then, whoever floods.
    assert len(lines) == 3


@pytest.mark.parametrize(
    "outage", [PostFailed("Timeout"), reply(b"", 502), reply(b"", 503), reply(b"", 504)]
)
def test_an_outage_opens_the_circuit_and_then_costs_nothing(
    outage: Response | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    @scenario
    async def outages() -> None:
        desk = Desk()
        desk.now = outage
        for _ in range(5):
            assert await desk.unanswered() == 2
        assert desk.value("auth_webhook_circuit_open") == 1
        for _ in range(100):
            assert await desk.unanswered() == 1
        assert len(desk.posts) == 5
        assert desk.results() == {"failed": 5.0, "not_asked": 100.0}
        # One finds out that it is not back: the next pause is longer.
        desk.monotonic.now += 1
        assert await desk.unanswered() == 2
        assert (len(desk.posts), await desk.unanswered()) == (6, 2)
        # And another that it is.
        desk.monotonic.now += 2
        desk.now = reply({"yes": True})
        assert await desk.ask() is True
        assert desk.value("auth_webhook_circuit_open") == 0
        assert await desk.ask() is True

    with caplog.at_level(logging.INFO):
        outages()
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if "is left alone" in line] == [
        f"auth.webhook is left alone for a while: {outage}"
        if isinstance(outage, Exception)
        else f"auth.webhook is left alone for a while: HTTP status {outage.status}"
    ]
    assert "auth.webhook answers again" in lines


@scenario
async def test_a_backend_may_ask_for_a_rest_but_not_for_a_day() -> None:
    desk = Desk()
    desk.now = reply(b"", 503, 3600.0)
    assert await desk.unanswered() == 3600
    assert await desk.unanswered() == 30
    assert len(desk.posts) == 1


@scenario
async def test_only_one_question_is_the_probe() -> None:
    desk = Desk(concurrency=10)
    desk.now = PostFailed("down")
    for _ in range(5):
        await desk.unanswered()
    desk.monotonic.now += 1
    desk.now = None
    probe = desk.asking()
    await settled()
    for _ in range(10):
        assert await desk.unanswered() == 1
    desk.replies[0].set_result(reply({"yes": True}))
    assert await probe is True
    assert len(desk.posts) == 6


@scenario
async def test_questions_take_turns_and_too_many_are_refused_at_once() -> None:
    desk = Desk(concurrency=2, queue=2)
    asking = [desk.asking() for _ in range(4)]
    await settled()
    assert (len(desk.posts), desk.value("auth_webhook_pending")) == (2, 4)
    assert await desk.unanswered() == 2
    assert 'gateway_limit_hits_total{limit="auth.webhook.queue"} 1.0' in (
        desk.metrics.render().decode()
    )
    for number in range(4):
        await settled()
        desk.replies[number].set_result(reply({"yes": True}))
    assert await asyncio.gather(*asking) == [True] * 4
    assert desk.value("auth_webhook_pending") == 0
    assert desk.results() == {"allowed": 4.0, "not_asked": 1.0}


@scenario
async def test_who_waits_too_long_for_a_turn_is_refused_and_the_next_one_has_all_the_time() -> None:
    desk = Desk(timeout=0.2, concurrency=1)
    first = desk.asking()
    await settled()
    async with asyncio.timeout(15):
        assert await desk.unanswered() == 2
    assert desk.results() == {"not_asked": 1.0}
    desk.replies[0].set_result(reply({"yes": True}))
    assert await first is True
    desk.now = reply({"yes": True})
    assert await desk.ask() is True
    assert desk.posts[-1][2] == 0.2


@scenario
async def test_what_waits_when_the_circuit_opens_is_refused_without_being_asked() -> None:
    desk = Desk(concurrency=1, queue=10)
    desk.now = PostFailed("down")
    for _ in range(4):
        await desk.unanswered()
    desk.now = None
    asking = [desk.asking() for _ in range(4)]
    await settled()
    desk.replies[0].set_exception(PostFailed("down"))
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(result) for result in results] == [Unanswered] * 4
    assert len(desk.posts) == 5


@scenario
async def test_an_asker_that_goes_away_frees_its_turn_only_with_the_answer() -> None:
    desk = Desk(concurrency=1)
    first, second = desk.asking(), desk.asking()
    await settled()
    first.cancel()
    await settled()
    assert (first.cancelled(), len(desk.posts)) == (True, 1)
    desk.replies[0].set_exception(PostFailed("down"))
    await settled()
    desk.replies[1].set_result(reply({"yes": True}))
    assert await second is True
    # One that waits for its turn is not asked at all.
    third = desk.asking()
    await settled()
    fourth = desk.asking()
    await settled()
    fourth.cancel()
    await settled()
    desk.replies[2].set_result(reply({"yes": False}))
    assert await third is False
    await settled()
    assert (len(desk.posts), desk.value("auth_webhook_pending")) == (3, 0)


@scenario
async def test_a_fault_of_the_gateways_own_is_logged_and_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk()
    desk.now = KeyError("a secret")
    with pytest.raises(Unanswered) as caught:
        await desk.ask()
    assert "a secret" not in str(caught.value)
    assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR"]
    assert desk.results() == {"failed": 1.0}


@scenario
async def test_closing_gives_up_what_is_under_way() -> None:
    desk = Desk()
    asking: asyncio.Task[Any] = desk.asking()
    await settled()
    await desk.inquiries.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (desk.closed, desk.replies[0].cancelled()) == (True, True)
