"""Players in Redis: who is known, and who all of them are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

from gateway.messages import TrueId
from gateway.stores.redis.client import Word
from gateway.stores.redis.partitions import Partitions
from gateway.stores.redis.scripts import load

_KNOW: Final = load("know")
_EVERYONE: Final = load("everyone")
#: Players in one call.
_CHUNK: Final = 500


class PlayerCalls:
    """The part of RedisStore that is about players."""

    _partitions: Partitions

    async def know(self, true_ids: Iterable[TrueId]) -> None:
        """See MailboxStore.know."""
        await self._know(true_ids, b"1")

    async def forget(self, true_ids: Iterable[TrueId]) -> None:
        """See MailboxStore.forget; what is left of the players goes with `expire`."""
        await self._know(true_ids, b"0")

    async def _know(self, true_ids: Iterable[TrueId], permanent: bytes) -> None:
        for partition, players in self._partitions.grouped(true_ids).items():
            for start in range(0, len(players), _CHUNK):
                args: list[Word] = [permanent, *players[start : start + _CHUNK]]
                await self._partitions.ask(partition, _KNOW, args)

    async def everyone(self, limit: int) -> AsyncIterator[tuple[TrueId, ...]]:
        """See MailboxStore.everyone."""
        page: list[TrueId] = []
        for partition in range(self._partitions.count):
            last: Any = b"-inf"
            while last:
                wanted = limit - len(page)
                reply: Any = await self._partitions.ask(partition, _EVERYONE, (last, wanted))
                last, *found = reply
                page.extend(TrueId(each.decode()) for each in found)
                if len(page) >= limit:
                    yield tuple(page)
                    page = []
        if page:
            yield tuple(page)
