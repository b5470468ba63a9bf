"""Sends webhooks: at least once each, those of a player one after the other.

What a backend does not take is tried again, with growing pauses. When it does not answer at
all, the circuit opens: everything waits, and one webhook now and then finds out whether it is
back. A webhook that it refuses is given up after some tries, or it would hold up the player's
others for good; any other after `webhooks.retention`.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.circuit import Backoff, Circuit
from gateway.errors import StoreUnavailable
from gateway.failure_log import FailureLog
from gateway.messages import TrueId
from gateway.metrics import Metrics
from gateway.outbox import OutboxStore, Webhook
from gateway.posting import Post, PostFailed, signed_headers

logger = logging.getLogger(__name__)

#: Webhooks held in memory.
_WINDOW: Final = 2000
#: Failures in a row after which everything waits.
_THRESHOLD: Final = 5
_FIRST_PAUSE: Final = 1.0
_STORE_PAUSE: Final = 1.0
#: Statuses of 400 to 499 that say nothing about the webhook itself: RFC 9110, 6585, 8470.
_LATER: Final = frozenset({401, 403, 404, 405, 407, 408, 421, 425, 429})
_ODD: Final = re.compile(r"[^ -~]")


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Section `webhooks` of the YAML file: see there. Durations are in seconds."""

    concurrency: int
    attempts: int
    max_backoff: float
    retention: float


class Webhooks:
    """Sends what the store keeps. `random` returns numbers from 0 to 1."""

    def __init__(
        self,
        store: OutboxStore,
        post: Post,
        secrets: Sequence[str],
        settings: WebhookSettings,
        metrics: Metrics,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._store = store
        self._post = post
        self._secrets = secrets
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._monotonic = monotonic
        self._backoff = Backoff(_FIRST_PAUSE, settings.max_backoff, random)
        self._circuit = Circuit(_THRESHOLD, self._backoff)
        self._wake = asyncio.Event()
        #: What is in memory, by number, and by player in that order.
        self._window: OrderedDict[int, Webhook] = OrderedDict()
        self._queues: dict[TrueId, deque[Webhook]] = {}
        #: Players whose first webhook may be sent, and when the others' may.
        self._ready: OrderedDict[TrueId, None] = OrderedDict()
        self._paused: dict[TrueId, float] = {}
        #: Tries that failed, and those of them that the backend refused.
        self._failures: dict[int, tuple[int, int]] = {}
        self._sent: list[int] = []
        self._last = 0
        self._more = True
        self._life = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._faults = FailureLog(logger, monotonic)

    def reconfigure(self, secrets: Sequence[str]) -> None:
        """Sign by other secrets from now on."""
        self._secrets = secrets

    @property
    def circuit_open(self) -> bool:
        """Whether the backend is left alone because it did not answer."""
        return self._circuit.is_open

    @property
    def lag(self) -> float:
        """Age of the oldest webhook that waits, in seconds."""
        oldest = next(iter(self._window.values()), None)
        return 0.0 if oldest is None else max(0.0, self._clock() - oldest.event.ts)

    def wake(self) -> None:
        """There are new webhooks in the store."""
        self._more = True
        self._wake.set()

    def look_again(self) -> None:
        """There may be webhooks in the store with lower numbers than some that were read."""
        self._last = 0
        self.wake()

    def drop(self, numbers: Iterable[int]) -> None:
        """Another gateway sends these from now on: no try follows the one that is under way.

        They are all that there are of their players.
        """
        for number in numbers:
            webhook = self._window.pop(number, None)
            if webhook is None:
                continue
            self._failures.pop(number, None)
            true_id = webhook.event.true_id
            queue = self._queues[true_id]
            queue.remove(webhook)
            if not queue:
                del self._queues[true_id]
                self._ready.pop(true_id, None)
                self._paused.pop(true_id, None)
        # There may be room for others.
        self.wake()

    def start_anew(self) -> None:
        """The store has become another one: what is here is not its."""
        self._life += 1
        self._last = 0
        self._sent = []
        for kept in (self._window, self._queues, self._ready, self._paused, self._failures):
            kept.clear()
        self.wake()

    async def run(self) -> None:
        """Send until cancelled; what is under way then is sent again by the next gateway."""
        try:
            while True:
                try:
                    pause = await self._round()
                except Exception as error:
                    self._faults.note("sending webhooks", error)
                    pause = _STORE_PAUSE
                await self._sleep(pause)
        finally:
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _round(self) -> float | None:
        """Start what can be sent; return the seconds until more can, None if something tells."""
        pause: float | None = None
        try:
            await self._forget()
            await self._load()
        except StoreUnavailable as error:
            logger.debug("webhooks wait for the store: %s", error)
            pause = _STORE_PAUSE
        waits = [each for each in (pause, self._start()) if each is not None]
        return min(waits, default=None)

    async def _sleep(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    # The store

    async def _load(self) -> None:
        """Fill the window from the store."""
        while self._more and len(self._window) < _WINDOW:
            life, wanted = self._life, _WINDOW - len(self._window)
            self._more = False
            try:
                found = await self._store.webhooks(self._last, wanted)
            except BaseException:
                self._more = True
                raise
            if life != self._life:
                continue
            for webhook in found:
                self._last = webhook.seq
                if webhook.seq in self._window or webhook.seq in self._sent:
                    continue
                self._window[webhook.seq] = webhook
                true_id = webhook.event.true_id
                queue = self._queues.get(true_id)
                if queue is None:
                    queue = self._queues[true_id] = deque()
                    self._ready[true_id] = None
                queue.append(webhook)
            self._more |= len(found) == wanted

    async def _forget(self) -> None:
        """Let the store forget what was sent; should it not, it is sent once more after a start."""
        while self._sent:
            sent = self._sent
            count = len(sent)
            await self._store.remove_webhooks(sent[:count])
            del sent[:count]

    # Sending

    def _start(self) -> float | None:
        """Start what can be sent; return the seconds until more can, None if something tells."""
        now = self._monotonic()
        for true_id in [each for each, due in self._paused.items() if due <= now]:
            del self._paused[true_id]
            self._ready[true_id] = None
        while self._ready and len(self._tasks) < self._settings.concurrency:
            wait = self._circuit.wait(now)
            if wait != 0.0:
                return wait
            self._circuit.on_call()
            true_id, _ = self._ready.popitem(last=False)
            webhook = self._queues[true_id][0]
            task = asyncio.get_running_loop().create_task(
                self._send(webhook, self._life), name=f"webhook-{webhook.seq}"
            )
            self._tasks.add(task)
            task.add_done_callback(self._on_done)
        return min(self._paused.values()) - now if self._paused else None

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a webhook could not be handled", exc_info=error)
        self._wake.set()

    async def _send(self, webhook: Webhook, life: int) -> None:
        body = webhook.body()
        headers = signed_headers(body, self._clock(), self._secrets)
        retry_after = 0.0
        refused = False
        try:
            response = await self._post(body, headers)
        except PostFailed as error:
            reason = str(error)
        except Exception:
            # Left alone, it would hold up its player's others for good.
            logger.exception("webhook %s could not be sent", webhook.id)
            reason = "a fault of the gateway; its log says more"
        else:
            if 200 <= response.status < 300:
                self._on_answer()
                self._metrics.webhook("sent")
                self._done(webhook, life)
                return
            reason = f"HTTP status {response.status}"
            refused = 400 <= response.status < 500 and response.status not in _LATER
            retry_after = response.retry_after
        self._metrics.webhook("failed")
        if refused:
            self._on_answer()
        else:
            self._on_no_answer(reason, retry_after)
        await self._on_failed(webhook, life, reason, refused)

    def _on_answer(self) -> None:
        if self._circuit.is_open:
            logger.info("the backend takes webhooks again")
        self._circuit.on_success()

    def _on_no_answer(self, reason: str, retry_after: float) -> None:
        was_open = self._circuit.is_open
        self._circuit.on_failure(self._monotonic(), retry_after)
        if self._circuit.is_open and not was_open:
            logger.warning("the backend takes no webhooks, so they wait: %s", _plain(reason))

    async def _on_failed(self, webhook: Webhook, life: int, reason: str, refused: bool) -> None:
        if not self._is_here(webhook, life):
            return
        failures, refusals = self._failures.get(webhook.seq, (0, 0))
        failures, refusals = failures + 1, refusals + refused
        age = self._clock() - webhook.event.ts
        settings = self._settings
        tired = refusals >= settings.attempts
        if tired or (settings.retention and age > settings.retention):
            try:
                await self._store.bury_webhook(webhook.seq, _plain(reason), self._clock())
            except StoreUnavailable as error:
                logger.debug("a webhook cannot be given up yet: %s", error)
            else:
                logger.warning(
                    "webhook %s (%s of %s) is given up: %s",
                    webhook.id,
                    webhook.event.type,
                    _plain(webhook.event.true_id),
                    _plain(reason),
                    extra={"true_id": webhook.event.true_id},
                )
                self._metrics.webhook("dead")
                self._done(webhook, life, remove=False)
                return
        if self._is_here(webhook, life):
            self._failures[webhook.seq] = (failures, refusals)
            self._paused[webhook.event.true_id] = self._monotonic() + self._backoff.pause(failures)

    def _is_here(self, webhook: Webhook, life: int) -> bool:
        """Tell whether the webhook is still to be sent by this gateway."""
        return life == self._life and webhook.seq in self._window

    def _done(self, webhook: Webhook, life: int, *, remove: bool = True) -> None:
        if not self._is_here(webhook, life):
            return
        if remove:
            self._sent.append(webhook.seq)
        self._window.pop(webhook.seq, None)
        self._failures.pop(webhook.seq, None)
        true_id = webhook.event.true_id
        queue = self._queues[true_id]
        queue.popleft()
        if queue:
            self._ready[true_id] = None
        else:
            del self._queues[true_id]


def _plain(text: str) -> str:
    """Return a text that can stand in a log line."""
    return _ODD.sub("?", text)[:200]
