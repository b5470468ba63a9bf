"""The fleet: players in one process that write to each other while the gateway suffers."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Final

from tests.faults.checker import Log
from tests.faults.player import HASTY, Pace, Patience, Player, Recovery

#: How long a condition may take to come true. Seconds.
WAIT_SECONDS: Final = 30.0
_LOOK_EVERY: Final = 0.02


class Fleet:
    """Players connected to `address`; as a context manager they all are when it begins.

    Half of them behave like a page that stays, the others like one that is reloaded; every
    sixth keeps nothing but its token. `patience` says how each comes back, by its number.
    """

    def __init__(
        self,
        size: int,
        address: Callable[[], tuple[str, int]],
        pace: Pace,
        chance: random.Random,
        patience: Callable[[int], Patience] = lambda number: HASTY,
    ) -> None:
        bare = max(1, size // 6)
        kinds = [Recovery.STATE] * math.ceil(size / 2) + [Recovery.BARE] * bare
        kinds += [Recovery.RELOAD] * (size - len(kinds))
        chance.shuffle(kinds)
        self.log = Log()
        self.players = [
            Player(
                f"player{number}",
                kind,
                address,
                self.log,
                pace,
                random.Random(chance.random()),
                patience(number),
            )
            for number, kind in enumerate(kinds, 1)
        ]
        self._chance = chance
        self._sending = True
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def acked(self) -> int:
        """Messages acked so far."""
        return len(self.log.acked)

    @property
    def connects(self) -> int:
        """Greetings so far."""
        return sum(player.connects for player in self.players)

    @property
    def all_online(self) -> bool:
        """Every player has been greeted and has not lost its link since."""
        return all(player.online for player in self.players)

    @property
    def longest_outage(self) -> float:
        """From the last packet of a link to the next greeting, the worst of all. Seconds."""
        return max(player.longest_outage for player in self.players)

    @property
    def refusals(self) -> Counter[str]:
        """Codes of refused connects and messages."""
        return sum((player.refusals for player in self.players), Counter())

    async def __aenter__(self) -> Fleet:
        self._tasks = [
            asyncio.create_task(player.run(), name=player.name) for player in self.players
        ]
        try:
            await self.until("all players are online", lambda: self.all_online)
        except BaseException:
            await self.close()
            raise
        for player in self.players:
            others = [other for other in self.players if other is not player]
            writing = player.write(others, lambda: self._sending)
            self._tasks.append(asyncio.create_task(writing, name=f"{player.name} writes"))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Take all players away."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until(
        self, what: str, condition: Callable[[], bool], seconds: float = WAIT_SECONDS
    ) -> None:
        """Wait until the condition holds. Raises AssertionError after so many seconds."""
        deadline = time.monotonic() + seconds
        while not condition():
            for task in self._tasks:
                if task.done():
                    task.result()
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:.0f} s: {what}; {self.state()}")
            await asyncio.sleep(_LOOK_EVERY)

    async def flows(self, messages: int) -> None:
        """Wait until all players are online and so many more messages have been acked."""
        await self.until("all players are online", lambda: self.all_online)
        wanted = self.acked + messages
        await self.until(f"{messages} more messages are acked", lambda: self.acked >= wanted)

    async def nap(self, messages: int) -> None:
        """Send a third of the players away and wait until so many messages wait for them."""
        asleep = self._chance.sample(self.players, max(1, len(self.players) // 3))
        for player in asleep:
            player.nap()
        names = {player.true_id for player in asleep}
        log = self.log

        def waiting() -> int:
            missing = log.acked.keys() - log.seen
            return sum(log.sent[key].target in names for key in missing)

        await self.until(
            f"{messages} messages wait for players who are away", lambda: waiting() >= messages
        )

    def shake(self) -> None:
        """Take half of the players' links away: they may come to another gateway."""
        for player in self._chance.sample(self.players, len(self.players) // 2):
            player.nap()
            player.wake()

    def wake(self) -> None:
        """Let all players who are away come back."""
        for player in self.players:
            player.wake()

    async def settle(self, seconds: float = WAIT_SECONDS) -> None:
        """Write nothing new; wait until what was sent is acked and has arrived, or time is up."""
        self._sending = False
        self.wake()
        try:
            await self.until("everything has arrived", self._settled, seconds)
        except AssertionError:
            # What is missing is for the checker to name.
            return

    def _settled(self) -> bool:
        unacked = any(player.unacked for player in self.players)
        return not unacked and self.log.seen.issuperset(self.log.acked)

    def state(self) -> str:
        """Describe the fleet, for a wait that failed."""
        away = [
            f"{player.name} ({player.recovery.value})"
            for player in self.players
            if not player.online
        ]
        return (
            f"{self.acked} acked, away: {away}, refused: {dict(self.refusals)}, "
            f"complaints: {self.log.complaints[:3]}"
        )
