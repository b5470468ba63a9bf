"""A message on its way into the mailboxes of all members of a room.

The room's partition has given it a number, and for each partition with members it has said which
message to the room was the one before. A partition takes a message only when it has that one: so
all members get all messages in the order of their numbers, whoever puts them there, and however
often. One that has not come may be on its way from another node, or that node has died: what is
under way is noted in the room's partition, and whoever waits for it finishes it.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from gateway.errors import GatewayError, StoreUnavailable
from gateway.mailbox import StoredMessage
from gateway.messages import SessionId, TrueId
from gateway.store import Copies
from gateway.stores.redis.client import Word
from gateway.stores.redis.partitions import Partitions
from gateway.stores.redis.scripts import load

_COPIES: Final = load("publish_copies")
#: How long to wait for the message before, each time that it has not come, in seconds; then it
#: is looked for.
_PAUSES: Final = (0.005, 0.02, 0.08, 0.16)
#: When to give up, in seconds.
_PATIENCE: Final = 10.0

_encode: Final = msgspec.msgpack.Encoder().encode


class Note(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What is noted of a message under way: all that is needed to finish it."""

    nonce: int
    now: float
    body: bytes
    sender: TrueId | None
    skip: SessionId | None
    owner: TrueId | None
    key: str | None

    def encode(self) -> bytes:
        """Return it as bytes."""
        return _encode(self)


_decode: Final = msgspec.msgpack.Decoder(Note).decode
#: The number of the last message for each partition that has members.
Before = Mapping[int, int]


def parse_note(entry: bytes) -> tuple[Before, Note]:
    """Return what is in an entry of the log: see lua/publish.lua."""
    targets, _, note = entry.partition(b"\n")
    pairs = (each.split(b":") for each in targets.split(b","))
    return {int(partition): int(number) for partition, number in pairs}, _decode(note)


class Surroundings(Protocol):
    """What a message on its way needs to know."""

    partitions: Partitions
    remember: int

    def head(self, partition: int) -> Sequence[Word]:
        """Return the arguments with which a script begins that has to do with mailboxes."""

    def on_losses(self, partition: int, losses: Sequence[int]) -> None:
        """Take what a script says of messages that went to make room, if any did."""

    def finish_earlier(self, fanout: Fanout, then: Callable[[frozenset[int]], None]) -> None:
        """Finish what is under way to the room and was before `fanout`.

        Then call `then` with the partitions for which there was something.
        """


class Fanout:
    """One message, from its number to its arrival everywhere: then each `on_end` is called.

    After the end `failure` says why it has not arrived everywhere, if so. The others are as in
    Published; `remote` is how many connections of members at other nodes were told, `elsewhere`
    how many members have only such.
    """

    def __init__(
        self,
        around: Surroundings,
        room: str,
        number: int,
        before: Before,
        players: Mapping[int, Sequence[TrueId]],
        note: Note,
    ) -> None:
        self.room = room
        self.number = number
        self.note = note
        self.on_end: list[Callable[[Fanout], None]] = []
        self.copies: list[Copies] = []
        self._by_id: dict[bytes, Copies] = {}
        self.full: list[TrueId] = []
        self.limit = ""
        self.own: bytes | None = None
        self.remote = self.elsewhere = 0
        self.failure: GatewayError | None = None
        self._around = around
        self._before = before
        self._players = players
        self._left = len(before)
        self._behind: set[int] = set()
        self._tries = 0
        self._give_up = time.monotonic() + _PATIENCE

    @property
    def partitions(self) -> frozenset[int]:
        """Where there are members."""
        return frozenset(self._before)

    def start(self) -> None:
        """Ask every partition."""
        for partition in self._before:
            self._put(partition)

    def _put(self, partition: int, *, force: bool = False) -> None:
        note, around = self.note, self._around
        arguments = (
            *around.head(partition),
            self.room,
            self.number,
            self._before[partition],
            int(force),
            around.remember,
            note.nonce,
            repr(note.now),
            note.body,
            note.sender or "",
            note.skip or "",
            *self._players.get(partition, ()),
        )
        answer = functools.partial(self._on_answer, partition)
        around.partitions.call(partition, _COPIES, arguments, answer)

    def _on_answer(self, partition: int, reply: Any) -> None:
        if isinstance(reply, list):
            self._take(partition, reply)
        elif isinstance(reply, GatewayError):
            self.failure = reply
            self._around.partitions.note_failure(partition, reply)
        elif reply in (b"BEHIND", b"BLANK"):
            self._wait(partition, look=reply == b"BLANK")
            return
        elif reply == b"PASSED":
            # Its number was lost and given again, while it was on its way.
            self.failure = StoreUnavailable("the store has forgotten that it was sent")
        elif (offset := int(reply[1:])) and self.note.sender is not None:
            self.own = self._id(self._around.partitions.of(self.note.sender), offset)
        self._arrived()

    def _take(self, partition: int, reply: list[Any]) -> None:
        note = self.note
        limit, remote, elsewhere, offsets, *losses = reply
        self.remote += remote
        self.elsewhere += elsewhere
        places: dict[int, list[TrueId]] = {}
        for true_id, offset in zip(self._players.get(partition, ()), offsets, strict=True):
            if not offset:
                self.full.append(true_id)
                self.limit = limit.decode()
            elif true_id == note.sender:
                self.own = self._id(partition, offset)
                mine = StoredMessage(offset, self.own, note.body, note.now, note.skip)
                self.copies.append((mine, [true_id]))
            else:
                places.setdefault(offset, []).append(true_id)
        for offset, true_ids in places.items():
            message_id = self._id(partition, offset)
            copies = self._by_id.get(message_id)
            if copies is None:
                copies = (StoredMessage(offset, message_id, note.body, note.now), true_ids)
                self._by_id[message_id] = copies
                self.copies.append(copies)
            else:
                copies[1].extend(true_ids)
        self._around.on_losses(partition, losses)

    def _id(self, partition: int, offset: int) -> bytes:
        epoch = self._around.partitions.epochs[partition]
        return b"%b.%d.%x" % (epoch, offset, self.note.nonce)

    def _arrived(self) -> None:
        self._left -= 1
        if not self._left:
            for call in self.on_end:
                call(self)

    # The message before has not come

    def _wait(self, partition: int, *, look: bool) -> None:
        if look:
            self._tries = max(self._tries, len(_PAUSES) - 1)
        if not self._behind:
            pause = _PAUSES[min(self._tries, len(_PAUSES) - 1)]
            asyncio.get_running_loop().call_later(pause, self._try_again)
        self._behind.add(partition)

    def _try_again(self) -> None:
        self._tries += 1
        if time.monotonic() >= self._give_up:
            self.failure = StoreUnavailable("messages before it do not arrive")
            for _ in self._take_behind():
                self._arrived()
        elif self._tries < len(_PAUSES):
            for partition in self._take_behind():
                self._put(partition)
        else:
            self._around.finish_earlier(self, self._on_finished)

    def _on_finished(self, unfinished: frozenset[int]) -> None:
        """Try again where something was still to come; nothing will come to the others."""
        for partition in self._take_behind():
            self._put(partition, force=partition not in unfinished)

    def _take_behind(self) -> set[int]:
        behind, self._behind = self._behind, set()
        return behind
