"""The webhooks that this node sends: those of the partitions whose duties it has, numbered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from gateway.messages import TrueId
from gateway.outbox import Event, Webhook

#: An entry of a stream: its id, and names and values in turn.
Entry = tuple[bytes, Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a webhook is: the partition, its entry in the stream there, and its id.

    A server that has lost its newest entries gives their places to others.
    """

    partition: int
    entry: bytes
    id: str


class LocalOutbox:
    """Numbers what is read from partitions, in that order: other nodes number it otherwise.

    So a webhook's id names it, and its number only says where it is.
    """

    def __init__(self, partitions: Iterable[int]) -> None:
        #: Up to which entry each partition of this node has been read.
        self._read: dict[int, bytes] = {}
        #: Those that may have more. A dict keeps the order: each gets its turn.
        self._unread: dict[int, None] = {}
        self._noticed: dict[int, int] = {}
        self._webhooks: dict[int, Webhook] = {}
        self._places: dict[int, Place] = {}
        self._numbers: dict[str, int] = {}
        self._last = 0
        self.own(partitions)

    def __len__(self) -> int:
        return len(self._webhooks)

    @property
    def partitions(self) -> tuple[int, ...]:
        """Those whose webhooks are sent here."""
        return tuple(self._read)

    def own(self, partitions: Iterable[int]) -> None:
        """Send the webhooks of these partitions, too, from the oldest on."""
        for partition in partitions:
            if partition not in self._read:
                self._read[partition] = b"0-0"
                self._unread[partition] = None

    def disown(self, partitions: Iterable[int]) -> list[int]:
        """Send those of these partitions no more; return their numbers, which are good no more."""
        gone = {each for each in partitions if self._read.pop(each, None) is not None}
        for partition in gone:
            self._unread.pop(partition, None)
            self._noticed.pop(partition, None)
        numbers = [each for each, place in self._places.items() if place.partition in gone]
        self.forget(numbers)
        return numbers

    def read_anew(self, partitions: Iterable[int]) -> None:
        """What these partitions have may be other than what was read: read them from the start.

        What is known stays, also if the store has lost it: it has happened.
        """
        for partition in partitions:
            if partition in self._read:
                self._read[partition] = b"0-0"
                self._unread[partition] = None
                self._noticed.pop(partition, None)

    def touch(self, partition: int) -> bool:
        """There may be more in a partition; return whether that is sent here."""
        if partition not in self._read:
            return False
        self._unread[partition] = None
        return True

    def notice(self, partition: int, newest: int) -> bool:
        """Note the number, by the partition, of its newest webhook; return whether that is news."""
        read = self._read.get(partition)
        if read is None:
            return False
        known = max(int(read.partition(b"-")[0]), self._noticed.get(partition, 0))
        self._noticed[partition] = newest
        return newest > known

    def take_unread(self) -> tuple[int, bytes] | None:
        """Return a partition to be read now, and after which entry; None if there is none.

        Whoever does not read all of it says so by `touch`.
        """
        if not self._unread:
            return None
        partition = next(iter(self._unread))
        del self._unread[partition]
        return partition, self._read[partition]

    def add(self, partition: int, after: bytes, entries: Sequence[Entry]) -> list[Webhook]:
        """Number what was read of a partition after an entry, and return what is new of it.

        There is nothing if the partition was given up meanwhile, or is to be read anew.
        """
        if self._read.get(partition) != after:
            return []
        added = []
        for entry, fields in entries:
            self._read[partition] = entry
            webhook = decode_webhook(self._last + 1, fields)
            if webhook.id in self._numbers:
                continue
            self._last = webhook.seq
            self._webhooks[webhook.seq] = webhook
            self._places[webhook.seq] = Place(partition, entry, webhook.id)
            self._numbers[webhook.id] = webhook.seq
            added.append(webhook)
        return added

    def after(self, number: int, limit: int) -> list[Webhook]:
        """Return webhooks with numbers above this one, in order."""
        found = (each for seq, each in self._webhooks.items() if seq > number)
        return [*islice(found, limit)]

    def place(self, number: int) -> Place | None:
        """Return where a webhook is, None if that is not known here any more."""
        return self._places.get(number)

    def forget(self, numbers: Iterable[int]) -> None:
        """These were sent, or given up, or are another node's now."""
        for number in numbers:
            webhook = self._webhooks.pop(number, None)
            if webhook is not None:
                del self._places[number], self._numbers[webhook.id]


def decode_fields(fields: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return values by names."""
    return dict(zip(fields[::2], fields[1::2], strict=True))


def decode_webhook(number: int, fields: Sequence[bytes]) -> Webhook:
    """Return a webhook as lua/_outbox.lua writes it."""
    said = decode_fields(fields)
    event = Event(
        said[b"kind"].decode(),  # type: ignore[arg-type]
        TrueId(said[b"true_id"].decode()),
        float(said[b"ts"]),
        said[b"data"],
    )
    return Webhook(number, said[b"id"].decode(), event)
