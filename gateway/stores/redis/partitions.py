"""Partitions of the store: which one has what, the epoch of each, and calls to them."""

from __future__ import annotations

import asyncio
import functools
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar
from zlib import crc32

from gateway.errors import ConfigError, GatewayError, StoreUnavailable
from gateway.stores.redis.client import Done, Redis, Reply, Word
from gateway.stores.redis.link import Refused, settle
from gateway.stores.redis.scripts import Script, load

logger = logging.getLogger(__name__)

_BEGIN: Final = load("epoch")
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
#: Which keys there are, and what is in them: a release that changes that counts on.
_FORMAT: Final = 2
#: What a script answers when the partition has not the epoch that its caller believes in.
LOST: Final = b"LOST"

Name = TypeVar("Name", bound=str)
#: Is told which partitions began another epoch while this gateway ran.
OnReplaced = Callable[[frozenset[int]], None]


def new_epoch() -> bytes:
    """Return a name for an epoch that no other one has."""
    return "".join(secrets.choice(_DIGITS) for _ in range(8)).encode()


class Partitions:
    """The partitions behind `redis`.

    A partition is lost when its server came back empty. Whichever script is asked next says so,
    its caller is told StoreUnavailable, and the partition begins another epoch. `on_replaced` is
    called then: what the gateway and its clients know of players in it is wrong.
    """

    def __init__(self, redis: Redis, on_replaced: OnReplaced) -> None:
        self.redis = redis
        self.count = redis.partitions
        #: The epoch of each, empty while it is not known.
        self.epochs = [b""] * redis.partitions
        #: Is told where a message may have been stored though its sender is told that it was not.
        self.on_unanswered: Callable[[int], None] = lambda partition: None
        self._on_replaced = on_replaced
        self._unknown = redis.partitions
        self._beginning: set[int] = set()
        self._replaced: set[int] = set()
        self._new_epoch = b""
        # Who is in which partition depends on their number.
        self._format = f"{_FORMAT} {redis.partitions}".encode()
        self._other_format = ""

    def of(self, name: str) -> int:
        """Return the partition of a player or room."""
        return crc32(name.encode()) % self.count

    def grouped(self, names: Iterable[Name]) -> dict[int, list[Name]]:
        """Return players or rooms by their partitions."""
        groups: dict[int, list[Name]] = {}
        for name in names:
            groups.setdefault(self.of(name), []).append(name)
        return groups

    @property
    def available(self) -> bool:
        """Whether all can be asked."""
        return not self._unknown and self.redis.available

    def epoch_of(self, name: str) -> str:
        """Return the epoch of a player's or room's partition."""
        return self.epochs[self.of(name)].decode()

    def call(self, partition: int, script: Script, args: Sequence[Word], done: Done) -> None:
        """Run a script that needs `epoch`, then call `done` with what it returns: see Redis.call.

        Its last argument is the epoch: it is not to be among `args`.
        """
        known = self.epochs[partition]
        answer = functools.partial(self._answer, partition, done)
        self.redis.call(partition, script, (*args, known), answer)

    def _answer(self, partition: int, done: Done, reply: Reply | StoreUnavailable) -> None:
        done(self.lost(partition) if reply == LOST else reply)

    async def ask(self, partition: int, script: Script, args: Sequence[Word] = ()) -> Reply:
        """Run a script as `call` does, and return its answer. Raises StoreUnavailable."""
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.call(partition, script, args, settle(answer))
        return await answer

    async def ask_all(self, script: Script, args: Sequence[Word] = ()) -> list[Reply]:
        """Run a script on every partition and return the answers. Raises StoreUnavailable."""
        return await asyncio.gather(
            *(self.ask(partition, script, args) for partition in range(self.count))
        )

    def note_failure(self, partition: int, error: GatewayError) -> None:
        """A call that stores messages has failed: too few replicas have what it may have stored.

        Others are not stored, but for those under way on a link that ends: what a node misses then
        is looked for when it hears the server again.
        """
        if isinstance(error, Refused) and error.code == "NOREPLICAS":
            self.on_unanswered(partition)

    # Epochs

    async def open(self) -> None:
        """Learn all epochs, as far as the servers can be reached; `lost` finds the rest.

        Raises ConfigError for data of another format.
        """
        answers = [asyncio.get_running_loop().create_future() for _ in range(self.count)]
        for partition, answer in enumerate(answers):
            self._begin(partition, answer)
        await asyncio.gather(*answers)
        if self._other_format:
            raise ConfigError(f"store.url: {self._other_format}")

    def lost(self, partition: int) -> StoreUnavailable:
        """Begin an epoch in a partition that answered LOST; return what its caller is told."""
        if partition not in self._beginning:
            self._begin(partition, None)
        return StoreUnavailable("this part of the store has lost its data, and begins anew")

    def _begin(self, partition: int, answer: asyncio.Future[None] | None) -> None:
        self._beginning.add(partition)
        done = functools.partial(self._on_epoch, partition, answer)
        self.redis.call(partition, _BEGIN, (self._name(), self._format), done)

    def _name(self) -> bytes:
        """Return a name for an epoch: one for all that begin now, and for none later.

        So a message to a room has one id in many mailboxes, and is written to many connections
        as one frame.
        """
        if not self._new_epoch:
            self._new_epoch = new_epoch()
            asyncio.get_running_loop().call_soon(self._use_up_name)
        return self._new_epoch

    def _use_up_name(self) -> None:
        self._new_epoch = b""

    def _on_epoch(
        self,
        partition: int,
        answer: asyncio.Future[None] | None,
        reply: Reply | StoreUnavailable,
    ) -> None:
        self._beginning.discard(partition)
        before = self.epochs[partition]
        epoch = self._epoch_in(reply)
        if epoch and epoch != before:
            self.epochs[partition] = epoch
            if before:
                self._note_replaced(partition)
            else:
                self._unknown -= 1
        if answer is not None and not answer.done():
            answer.set_result(None)

    def _epoch_in(self, reply: Any) -> bytes:
        """Return the epoch of a partition that was asked for it, empty if it cannot be used."""
        if not isinstance(reply, list):
            return b""
        epoch, found = reply
        if found == self._format:
            return bytes(epoch)
        if not self._other_format:
            self._other_format = (
                f"the data there is of another release: its format is {found.decode()!r}, "
                f"that of this one {self._format.decode()!r}; take another prefix"
            )
            logger.error("the store cannot be used: %s", self._other_format)
        return b""

    def _note_replaced(self, partition: int) -> None:
        # Mostly it is all of a server's: who is told looks through all connections.
        if not self._replaced:
            asyncio.get_running_loop().call_soon(self._tell_replaced)
        self._replaced.add(partition)

    def _tell_replaced(self) -> None:
        replaced, self._replaced = frozenset(self._replaced), set()
        self._on_replaced(replaced)
