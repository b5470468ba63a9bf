"""Players in Redis: who is known, and what a node may have missed of those who are connected."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final, NamedTuple

from gateway.messages import TrueId
from gateway.stores.redis.client import Word
from gateway.stores.redis.partitions import Partitions
from gateway.stores.redis.scripts import load

_KNOW: Final = load("know")
_EVERYONE: Final = load("everyone")
_RECHECK: Final = load("recheck")
#: Players in one call.
_CHUNK: Final = 500


class Standing(NamedTuple):
    """Where a mailbox stands: its head, and the id of the message at the offset asked about.

    None: there is no message there, any more or yet.
    """

    head: int
    message_id: bytes | None


class PlayerCalls:
    """The part of RedisStore that is about players."""

    _node: str
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

    async def recheck(self, offsets: Mapping[TrueId, int]) -> dict[TrueId, Standing]:
        """Look after players who are connected here, when something may have been missed.

        `offsets` are of the last messages that were written to them. From now on what is stored
        for them is told to this node again. Who stands at a head above theirs has to read. After
        a failover another id than the one that was written, or a head below, says that the
        mailbox has lost messages, and has given their offsets to others. Raises
        StoreUnavailable.
        """
        found: dict[TrueId, Standing] = {}
        for partition, players in self._partitions.grouped(offsets).items():
            epoch = self._partitions.epochs[partition]
            for start in range(0, len(players), _CHUNK):
                chunk = players[start : start + _CHUNK]
                args: list[Word] = [self._node]
                for true_id in chunk:
                    args += (true_id, offsets[true_id])
                reply: Any = await self._partitions.ask(partition, _RECHECK, args)
                for true_id, head, nonce in zip(chunk, reply[::2], reply[1::2], strict=True):
                    message_id = None
                    if nonce:
                        message_id = b"%b.%d.%x" % (epoch, offsets[true_id], int(nonce))
                    found[true_id] = Standing(head, message_id)
        return found
