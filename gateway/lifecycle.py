"""The gateway as a process: signals, periodic tasks, the garbage collector."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final, Protocol

from gateway.config import Config
from gateway.errors import StoreUnavailable

logger = logging.getLogger(__name__)

_GC_THRESHOLDS: Final = (20_000, 20, 20)
#: The store's threads wait so long for a busy event loop to let them go on, in seconds. With
#: Python's 5 ms a commit of a few statements takes tens of them.
_SWITCH_INTERVAL: Final = 0.0002


class Service(Protocol):
    """What is started, drained and stopped: the Gateway."""

    @property
    def url(self) -> str:
        """Where it serves, once it is started."""

    async def start(self) -> None:
        """Begin to serve."""

    async def reload(self, load: Callable[[], Config]) -> None:
        """Take over what `load` returns; if it raises ConfigError, go on as before."""

    async def drain(self) -> None:
        """Ask every client to leave, and wait for them."""

    async def stop(self) -> None:
        """Close everything."""


async def serve(
    service: Service, announce_url: Callable[[str], None], load: Callable[[], Config]
) -> None:
    """Run until SIGTERM or SIGINT, then drain; a second signal stops at once.

    SIGHUP has the service take over what `load`, which may block, returns then.
    """
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    at_once = asyncio.Event()

    def on_signal() -> None:
        (at_once if stopping.is_set() else stopping).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    # systemd's watchdog ends a gateway that hangs with SIGABRT: then the log says where it hung.
    faulthandler.enable()
    # Per-message objects make no cycles: the collector need not look at them so often, and
    # never at what start-up has built, which may be most of a store.
    gc.disable()
    try:
        await service.start()
        gc.collect()
        gc.freeze()
    finally:
        gc.enable()
    gc.set_threshold(*_GC_THRESHOLDS)
    sys.setswitchinterval(_SWITCH_INTERVAL)
    hang_ups: asyncio.Queue[None] = asyncio.Queue()
    loop.add_signal_handler(signal.SIGHUP, hang_ups.put_nowait, None)
    reloading = loop.create_task(_reload(service, load, hang_ups), name="reload")
    announce_url(service.url)
    await stopping.wait()
    loop.add_signal_handler(signal.SIGHUP, _ignore)
    reloading.cancel()
    await asyncio.gather(reloading, return_exceptions=True)
    logger.info("draining")
    draining = loop.create_task(service.drain(), name="drain")
    impatient = loop.create_task(at_once.wait(), name="second-signal")
    await asyncio.wait((draining, impatient), return_when=asyncio.FIRST_COMPLETED)
    for task in (draining, impatient):
        task.cancel()
    await asyncio.gather(draining, impatient, return_exceptions=True)
    await service.stop()
    logger.info("stopped")


async def _reload(
    service: Service, load: Callable[[], Config], hang_ups: asyncio.Queue[None]
) -> None:
    while True:
        await hang_ups.get()
        # Several at once ask for the same.
        while not hang_ups.empty():
            hang_ups.get_nowait()
        try:
            await service.reload(load)
        except Exception:
            logger.exception("the configuration could not be reloaded")


def _ignore() -> None:
    pass


def call_later(seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
    """Call back in so many seconds, by the event loop that runs."""
    return asyncio.get_running_loop().call_later(seconds, callback)


class Periodic:
    """Actions that are done again and again, each in a task of its own."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, name: str, seconds: float, action: Callable[[], Awaitable[None]]) -> None:
        """Call `action` every so many seconds; a failure is logged and the next try follows."""
        self.run(name, _every(seconds, action))

    def run(self, name: str, body: Coroutine[None, None, None]) -> None:
        """Run something that goes on until it is cancelled."""
        task = asyncio.get_running_loop().create_task(body, name=name)
        task.add_done_callback(_tell_end)
        self._tasks.append(task)

    async def stop(self) -> None:
        """End all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()


def _tell_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the task %s has ended", task.get_name(), exc_info=error)


async def _every(seconds: float, action: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await action()
        except StoreUnavailable as error:
            logger.debug("a periodic task waits for the store: %s", error)
        except Exception:
            logger.exception("a periodic task failed")
