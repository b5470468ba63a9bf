"""Questions to the game's backend that somebody waits for: `auth.webhook`, `rooms.webhook`.

At most so many are under way, others wait for their turn, and for a while only. When the
backend does not answer at all, the circuit opens: nobody waits for it then, and one question
now and then finds out whether it is back.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar, get_args

import msgspec

from gateway.circuit import Backoff, Circuit
from gateway.errors import GatewayError
from gateway.limits import TokenBucket
from gateway.metrics import Metrics
from gateway.posting import PostFailed, TimedPost, signed_headers
from gateway.texts import clean_text

logger = logging.getLogger(__name__)

#: Questions in a row without an answer after which nobody is asked for a while.
_THRESHOLD: Final = 5
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
#: How long a client is asked to wait, in seconds, when nothing else is known.
_RETRY_AFTER: Final = 2.0
#: Statuses that say that the backend itself is not there, or wants a rest: RFC 9110.
_OUTAGES: Final = frozenset({502, 503, 504})
_MAX_MESSAGE_BYTES: Final = 256
_MAX_RETRY_AFTER: Final = 86_400.0
_COMPLAINTS_PER_SECOND: Final = 0.1
_COMPLAINTS_AT_ONCE: Final = 3
_LATENCIES: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

T = TypeVar("T")
Result = Literal["allowed", "refused", "failed", "not_asked"]


class UnfitAnswer(Exception):
    """The backend's answer is not of the form that is asked for; the text says where and why."""


class Unanswered(GatewayError):
    """Nobody can tell: the backend is away, busy or has answered nonsense; seconds to wait."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("the game's backend did not answer")
        self.retry_after = retry_after


class Refusal(msgspec.Struct, frozen=True):
    """The backend says no: `error` of its answers. `retry_after` is in seconds."""

    code: str
    message: str = ""
    retry_after: float | None = None


#: Returns what a body says. Raises UnfitAnswer.
Parse = Callable[[bytes], Awaitable[T | Refusal]]


@dataclass(frozen=True, slots=True)
class InquirySettings:
    """Bounds of the YAML file's section `section`: see there. `timeout` is in seconds."""

    section: str
    timeout: float
    concurrency: int
    queue: int


class Inquiries:
    """Asks one URL by `post`; `close` is called in the end.

    `secrets` sign, `clock` returns Unix time, `random` numbers from 0 to 1.
    """

    def __init__(
        self,
        post: TimedPost,
        close: Callable[[], None],
        secrets: Sequence[str],
        settings: InquirySettings,
        metrics: Metrics,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._post = post
        self._close = close
        self._secrets = secrets
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._monotonic = monotonic
        self._circuit = Circuit(_THRESHOLD, Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, random))
        self._turns = asyncio.Semaphore(settings.concurrency)
        self._waiting = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._complaints = TokenBucket(_COMPLAINTS_PER_SECOND, _COMPLAINTS_AT_ONCE, monotonic())
        name, section = settings.section.replace(".", "_"), settings.section
        self._results = metrics.counters(
            f"{name}_questions",
            f"Questions to {section} by what became of them",
            "result",
            get_args(Result),
        )
        self._observe = metrics.histogram(
            f"{name}_seconds", f"How long {section} took to answer or fail", _LATENCIES
        )
        metrics.gauge(
            f"{name}_pending",
            f"Questions to {section} that are under way or wait for their turn",
            lambda: len(self._tasks) + self._waiting,
        )
        metrics.gauge(
            f"{name}_circuit_open",
            f"1 while {section} is left alone because it does not answer",
            lambda: self._circuit.is_open,
        )

    async def ask(self, question: bytes, parse: Parse[T]) -> T | Refusal:
        """Return the answer as `parse` understands it.

        A question whose asker is cancelled is asked to its end once it is its turn. Raises
        Unanswered.
        """
        self._look_at_circuit()
        asked = self._monotonic()
        if self._turns.locked():
            await self._wait_for_turn()
        else:
            await self._turns.acquire()
        try:
            # It may have opened while others had their turns.
            self._look_at_circuit()
        except Unanswered:
            self._turns.release()
            raise
        self._circuit.on_call()
        timeout = self._settings.timeout
        left = max(timeout / 2, timeout - (self._monotonic() - asked))
        task = asyncio.get_running_loop().create_task(
            self._ask(question, parse, left), name=self._settings.section
        )
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Give up what is under way."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._close()

    def _look_at_circuit(self) -> None:
        wait = self._circuit.wait(self._monotonic())
        if wait != 0.0:
            self._count("not_asked")
            raise Unanswered(max(1.0, math.ceil(wait or 0.0)))

    async def _wait_for_turn(self) -> None:
        queue = self._settings.queue
        if queue and self._waiting >= queue:
            self._metrics.limit_hit(f"{self._settings.section}.queue")
            self._count("not_asked")
            raise Unanswered(_RETRY_AFTER)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._settings.timeout / 2):
                await self._turns.acquire()
        except TimeoutError:
            self._metrics.limit_hit(f"{self._settings.section}.concurrency")
            self._count("not_asked")
            raise Unanswered(_RETRY_AFTER) from None
        finally:
            self._waiting -= 1

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._turns.release()
        self._tasks.discard(task)
        if not task.cancelled():
            # Whoever asked may be gone: then nobody else looks at it.
            task.exception()

    async def _ask(self, question: bytes, parse: Parse[T], seconds: float) -> T | Refusal:
        headers = signed_headers(question, self._clock(), self._secrets)
        started = self._monotonic()
        try:
            response = await self._post(question, headers, seconds)
        except PostFailed as error:
            self._fail(str(error), outage=True)
            raise Unanswered(_RETRY_AFTER) from None
        except Exception as error:
            logger.exception("%s: a question could not be asked", self._settings.section)
            self._fail(type(error).__name__, outage=True)
            raise Unanswered(_RETRY_AFTER) from None
        finally:
            self._observe(self._monotonic() - started)
        if response.status in _OUTAGES:
            self._fail(f"HTTP status {response.status}", response.retry_after, outage=True)
            raise Unanswered(max(_RETRY_AFTER, response.retry_after))
        self._answered()
        if not (200 <= response.status < 300 or 400 <= response.status < 500):
            self._fail(f"HTTP status {response.status}")
            raise Unanswered(max(_RETRY_AFTER, response.retry_after))
        try:
            answer = await parse(response.body)
            if response.status >= 400 and not isinstance(answer, Refusal):
                raise UnfitAnswer("there is no `error` in it")
        except UnfitAnswer as error:
            self._fail(f"HTTP status {response.status}, and the answer cannot be used: {error}")
            raise Unanswered(max(_RETRY_AFTER, response.retry_after)) from None
        self._count("refused" if isinstance(answer, Refusal) else "allowed")
        return answer

    def _answered(self) -> None:
        """It is there. What one player makes it answer must not close it to all others."""
        if self._circuit.is_open:
            logger.info("%s answers again", self._settings.section)
        self._circuit.on_success()

    def _fail(self, reason: str, retry_after: float = 0.0, *, outage: bool = False) -> None:
        self._count("failed")
        now = self._monotonic()
        if outage:
            was_open = self._circuit.is_open
            self._circuit.on_failure(now, min(retry_after, _LONGEST_PAUSE))
            if self._circuit.is_open and not was_open:
                logger.warning("%s is left alone for a while: %s", self._settings.section, reason)
                return
        if self._complaints.take(now) == 0.0:
            logger.warning("%s: %s", self._settings.section, reason)

    def _count(self, result: Result) -> None:
        self._results[result] += 1


def decode(body: bytes, kind: type[T]) -> T:
    """Return a JSON answer as an object of this type. Raises UnfitAnswer."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise UnfitAnswer(str(error)) from None
    except (msgspec.DecodeError, RecursionError):
        raise UnfitAnswer("it is not JSON") from None


def clean_refusal(refusal: Refusal, codes: Mapping[str, str]) -> Refusal:
    """Return a refusal that can go to the client; `codes` have messages for want of one.

    Raises UnfitAnswer.
    """
    if refusal.code not in codes:
        raise UnfitAnswer(f"`error.code` must be one of {', '.join(codes)}")
    retry_after = refusal.retry_after
    if retry_after is not None and not 0 <= retry_after <= _MAX_RETRY_AFTER:
        raise UnfitAnswer(f"`error.retry_after` must be 0 to {_MAX_RETRY_AFTER:.0f} seconds")
    message = codes[refusal.code]
    if refusal.message:
        try:
            message = clean_text(refusal.message, "`message`", _MAX_MESSAGE_BYTES)
        except ValueError as error:
            raise UnfitAnswer(str(error)) from None
    return Refusal(refusal.code, message, retry_after)
