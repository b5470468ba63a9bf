"""A crowd for the soak: bots of `gateway.client` in one room, with presence and latest values."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final

from gateway.client import GatewayClient, Guest, RequestRefused, TimedOut, connect

_ROOM: Final = "soak"
#: What a bot does each second.
_RELIABLE: Final = 2.0
_VOLATILE: Final = 10.0
#: Seconds between two changes of a bot's presence.
_PRESENCE: Final = 3.0
_WAIT: Final = 60.0


class Bot:
    """One bot: what it has published, and what came of everybody's."""

    def __init__(self, game: GatewayClient, chance: random.Random) -> None:
        self.game = game
        self.published = 0
        #: (publisher, number) of the reliable messages, in the order in which they came.
        self.heard: list[tuple[str, int]] = []
        self.volatile = 0
        self.presence = 0
        self._chance = chance
        game.on("message", self._on_message)
        game.on("presence", self._on_presence)

    def _on_message(self, message: object) -> None:
        number = getattr(message, "data", None)
        if getattr(message, "id", None) is None:
            self.volatile += 1
        else:
            self.heard.append((str(getattr(message, "sender", "")), int(number or 0)))

    def _on_presence(self, presence: object) -> None:
        self.presence += 1

    async def publish(self, *, volatile: bool) -> None:
        """Publish again and again, until cancelled."""
        while True:
            pause = 1.0 / (_VOLATILE if volatile else _RELIABLE)
            await asyncio.sleep(pause * self._chance.uniform(0.5, 1.5))
            if volatile:
                self.game.publish(_ROOM, [1, 2], volatile=True, key="at").add_done_callback(_taken)
            else:
                self.published += 1
                self.game.publish(_ROOM, self.published).add_done_callback(_taken)

    async def change(self) -> None:
        """Be hidden and active in turn, until cancelled."""
        while True:
            await asyncio.sleep(_PRESENCE * self._chance.uniform(0.5, 1.5))
            try:
                await self.game.set_presence(self._chance.choice(("active", "hidden")))
            except (RequestRefused, TimedOut):
                # Links break all the time here; the next one says it again.
                continue


def _taken(receipt: asyncio.Future[object]) -> None:
    if not receipt.cancelled():
        receipt.exception()


class Crowd:
    """So many bots at `url`; as a context manager they are all in the room, and busy."""

    def __init__(self, size: int, url: str, chance: random.Random) -> None:
        self._size = size
        self._url = url
        self._chance = chance
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self.bots: list[Bot] = []

    async def __aenter__(self) -> Crowd:
        for number in range(self._size):
            game = await self._stack.enter_async_context(connect(self._url, Guest(f"bot{number}")))
            self.bots.append(Bot(game, random.Random(self._chance.random())))
            await game.join(_ROOM)
        ids = [bot.game.true_id for bot in self.bots]
        for bot in self.bots:
            await bot.game.watch(ids)
        for bot in self.bots:
            for doing in (bot.publish(volatile=False), bot.publish(volatile=True), bot.change()):
                self._tasks.append(asyncio.create_task(doing, name="bot"))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._quiet()
        await self._stack.aclose()

    async def _quiet(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def settle(self) -> list[str]:
        """Publish nothing new, wait for the rest, and return what is wrong, in sentences."""
        await self._quiet()
        wanted = sum(bot.published for bot in self.bots)
        try:
            async with asyncio.timeout(_WAIT):
                for bot in self.bots:
                    await bot.game.drained()
                while any(len(bot.heard) < wanted for bot in self.bots):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pass
        return self._findings(wanted)

    def _findings(self, wanted: int) -> list[str]:
        findings = []
        first = self.bots[0].heard
        for number, bot in enumerate(self.bots):
            lost = wanted - len(set(bot.heard))
            doubled = len(bot.heard) - len(set(bot.heard))
            if lost or doubled:
                findings.append(f"bot {number}: {lost} lost and {doubled} doubled of {wanted}")
            elif bot.heard != first:
                findings.append(f"bot {number} heard the room in another order than bot 0")
            for sender in {sender for sender, _ in bot.heard}:
                numbers = [each for name, each in bot.heard if name == sender]
                if numbers != sorted(numbers):
                    findings.append(f"bot {number} heard {sender} out of order")
        if not all(bot.volatile and bot.presence for bot in self.bots):
            findings.append("a bot got no latest values, or heard of nobody's presence")
        return findings
