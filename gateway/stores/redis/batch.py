"""Calls of one script that go out as one: most of what a small call costs is the call itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from gateway.errors import StoreUnavailable
from gateway.stores.redis.link import Reply, Word
from gateway.stores.redis.scripts import Script

logger = logging.getLogger(__name__)

#: Takes the two answers to a part: see Redis.add.
PartDone: TypeAlias = "Callable[[Reply | StoreUnavailable, Reply], None]"

#: A server does nothing else meanwhile.
_MOST_PARTS: Final = 32
#: Of all words of the parts.
_MOST_BYTES: Final = 256 * 1024


class Batch:
    """The arguments of several calls, its parts; see Redis.add.

    They are all of one `group`, and have their first arguments in common: `head`.
    """

    __slots__ = ("_bytes", "_dones", "group", "head", "partition", "script", "words")

    def __init__(
        self, script: Script, head: Sequence[Word], group: int, partition: int, prefix: bytes
    ) -> None:
        self.script = script
        self.head = head
        self.group = group
        self.partition = partition
        self.words: list[Word] = [b"EVALSHA", script.sha, b"1", prefix, *head]
        self._bytes = 0
        self._dones: list[PartDone] = []

    def __len__(self) -> int:
        return len(self._dones)

    def add(self, words: Sequence[Word], size: int, done: PartDone) -> None:
        """Add a part of about `size` bytes."""
        self.words += words
        self._bytes += size
        self._dones.append(done)

    @property
    def full(self) -> bool:
        """Whether it should go out."""
        return len(self._dones) >= _MOST_PARTS or self._bytes >= _MOST_BYTES

    def done(self, reply: Reply | StoreUnavailable) -> None:
        """Give each part its answers, or all of them the error."""
        answers: Any = reply if isinstance(reply, list) else (reply, 0) * len(self._dones)
        each = iter(answers)
        for done in self._dones:
            try:
                done(next(each), next(each))
            except Exception:
                logger.exception("an answer of the store could not be handled")
