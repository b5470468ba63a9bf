"""Messages to rooms: one order for all members, wherever they are. How: see fanout.py."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from gateway.errors import GatewayError, StoreUnavailable
from gateway.mailbox import OVERHEAD, RoomDraft
from gateway.messages import TrueId
from gateway.store import (
    Copies,
    MailboxFull,
    NotMember,
    PublishDone,
    Published,
    StoreLimits,
)
from gateway.stores.limits import OnLimit
from gateway.stores.memory_player import KEY_BYTES
from gateway.stores.redis.client import Word
from gateway.stores.redis.fanout import Before, Fanout, Note, parse_note
from gateway.stores.redis.mirror import Mirror, sort
from gateway.stores.redis.partitions import Partitions
from gateway.stores.redis.scripts import UNLIMITED, load
from gateway.stores.redis.totals import Totals

_PUBLISH: Final = load("publish")
_ROOM: Final = load("publish_room")
_END: Final = load("publish_end")
_LOG: Final = load("publish_log")
_STALE: Final = load("publish_stale")
#: With less room than this in the whole store, room is made before a message is sent: between
#: two looks at the totals it may be taken by others.
_AMPLE: Final = 16 * 1024 * 1024
#: How long what a partition had of a room's messages is remembered at least, in seconds.
_REMEMBERED: Final = 3600
#: What has been under way for so long is finished by whoever sees it, in microseconds.
_STALE_AFTER: Final = 10_000_000
#: How many of these in a partition at once.
_MAX_STALE: Final = 64
#: How often a message is looked for that is under way, before its sender is to try again.
_MAX_LOOKS: Final = 3


#: Is told of a message that was stored for players, and of those who have a hole there.
OnCopies: TypeAlias = Callable[[Sequence[Copies], Sequence[TrueId]], None]


class _Entry(NamedTuple):
    """A message under way."""

    number: int
    before: Before
    note: Note


class _Log(NamedTuple):
    """What is under way to a room, and its members if this node may not know them."""

    room: str
    members: Any
    entries: list[_Entry]


@dataclass(frozen=True, slots=True)
class Outlets:
    """What the rest of the store is told, and asked.

    `on_copies` gets what came into mailboxes otherwise than by the answer to a sender,
    `on_dropped` and `on_losses` what did not come, or went to make room. `known_key` says what
    an answer about a key means: the id of its message, or why it may not be used;
    `on_acknowledged` gets copies, their nonce and time when all of them are stored, `on_limit` is
    as OnLimit says.
    """

    on_copies: OnCopies
    on_dropped: Callable[[str, int], None]
    on_losses: Callable[[int, Sequence[int]], None]
    known_key: Callable[[bytes, float], bytes | GatewayError]
    on_acknowledged: Callable[[Sequence[Copies], int, float], None]
    on_limit: OnLimit


class Publishing:
    """The part of the store that is about messages to rooms."""

    def __init__(
        self,
        partitions: Partitions,
        totals: Totals,
        mirror: Mirror,
        limits: StoreLimits,
        nonces: Iterator[int],
        outlets: Outlets,
    ) -> None:
        self.partitions = partitions
        self.on_losses = outlets.on_losses
        self.remember = int(max(_REMEMBERED, 2 * limits.dedupe_window))
        self._totals = totals
        self._mirror = mirror
        self._limits = limits
        self._nonces = nonces
        self._outlets = outlets
        self._under_way = 0
        #: On their way from here, by room and number.
        self._fanouts: dict[tuple[str, int], Fanout] = {}

    def head(self, partition: int) -> tuple[Word, ...]:
        """See Surroundings.head."""
        seed: Word = next(self._nonces) if self._limits.outbox.enabled else b""
        return (*self._totals.heads[partition], seed)

    # The first step

    def publish(self, draft: RoomDraft, now: float, done: PublishDone) -> None:
        """See MailboxStore.publish: a sender's next call comes after the answer to this one."""
        note = self._note(draft, now)
        self._under_way += 1

        def answered(draft: RoomDraft, result: Published | GatewayError) -> None:
            self._under_way -= 1
            done(draft, result)

        if self._is_ample(draft):
            self._number(draft, note, functools.partial(self._on_number, draft, note, answered))
        else:
            self._make_room(draft, note, answered)

    @property
    def busy(self) -> bool:
        """Whether a message is under way from here."""
        return bool(self._under_way)

    def _note(self, draft: RoomDraft, now: float) -> Note:
        owner = draft.key_owner or draft.sender
        key = draft.key
        if key is None or owner is None or self._limits.dedupe_window <= 0:
            owner = key = None
        nonce = next(self._nonces)
        return Note(nonce, now, draft.body, draft.sender, draft.skip, owner, key)

    def _number(
        self, draft: RoomDraft, note: Note, then: Callable[[Any], None], *, look: bool = False
    ) -> None:
        partition = self.partitions.of(draft.room)
        arguments: tuple[Word, ...] = (
            *self.head(partition),
            draft.room,
            note.sender or "",
            repr(note.now),
            self._mirror.version(partition),
            note.encode(),
            self._limits.pending_messages or UNLIMITED,
            int(look),
        )
        if note.owner is not None and note.key is not None:
            arguments = (*arguments, note.owner, note.key)
        self.partitions.call(partition, _PUBLISH, arguments, then)

    def _on_number(
        self, draft: RoomDraft, note: Note, done: PublishDone, reply: Any, looks: int = 0
    ) -> None:
        if not isinstance(reply, list):
            self._on_refused(draft, note, done, reply, looks)
            return
        number, members, targets = int(reply[0]), reply[1], reply[2]
        before = {
            int(partition): int(last)
            for partition, last in zip(targets[::2], targets[1::2], strict=True)
        }
        if not before:
            done(draft, Published(None))
            return
        players = self._players(draft.room, number, members)
        fanout = Fanout(self, draft.room, number, before, players, note)
        self._send(fanout, functools.partial(self._on_arrived, draft, done))

    def _on_refused(
        self, draft: RoomDraft, note: Note, done: PublishDone, reply: Any, looks: int
    ) -> None:
        if isinstance(reply, GatewayError):
            done(draft, reply)
        elif reply == b"STRANGER":
            done(draft, NotMember(draft.room))
        elif reply == b"BUSY":
            self._outlets.on_limit("rooms.pending_messages")
            done(draft, StoreUnavailable("rooms.pending_messages to the room are under way"))
        elif reply.startswith(b"=#"):
            self._finish_under_way(draft, note, done, int(reply[2:]), looks)
        else:
            known = self._outlets.known_key(reply, note.now)
            if isinstance(known, GatewayError):
                done(draft, known)
            else:
                done(draft, Published(known or None, duplicate=True))

    def _players(self, room: str, number: int, members: Any) -> Mapping[int, Sequence[TrueId]]:
        """Return by their partitions the members to whom a message goes."""
        targets = self._mirror.targets(room)
        numbers = self._mirror.memberships.members_of(room)
        if members != b"":
            numbers = {
                TrueId(true_id.decode()): int(each)
                for true_id, each in zip(members[::2], members[1::2], strict=True)
            }
            targets = sort(numbers, self.partitions.count)
        if targets.newest < number:
            return targets.players
        # Some have come since.
        before = {true_id: each for true_id, each in numbers.items() if each < number}
        return sort(before, self.partitions.count).players

    # Room in the store

    def _is_ample(self, draft: RoomDraft) -> bool:
        most = self._limits.total_bytes
        if not most:
            return True
        members = len(self._mirror.memberships.members_of(draft.room))
        needed = members * (len(draft.body) + OVERHEAD) + KEY_BYTES
        return self._totals.of_all("bytes") + needed + _AMPLE < most

    def _make_room(self, draft: RoomDraft, note: Note, done: PublishDone) -> None:
        """Send a message if all partitions have room for it, or can make some.

        First it is looked whether it may be sent at all.
        """
        players = self._mirror.targets(draft.room).players
        members = len(self._mirror.memberships.members_of(draft.room))
        size = len(draft.body) + OVERHEAD
        key = KEY_BYTES if note.key is not None else 0
        left = len(players)
        failure: GatewayError | None = None
        then = functools.partial(self._on_number, draft, note, done)

        def on_looked(reply: Any) -> None:
            if reply != b"OK":
                then(reply)
                return
            if not players:
                self._number(draft, note, then)
            for partition, true_ids in players.items():
                elsewhere = key + size * (members - len(true_ids))
                arguments = (*self.head(partition), repr(note.now), size, elsewhere, *true_ids)
                answer = functools.partial(on_room, partition)
                self.partitions.call(partition, _ROOM, arguments, answer)

        def on_room(partition: int, reply: Any) -> None:
            nonlocal left, failure
            if isinstance(reply, GatewayError):
                failure = reply
            else:
                fits, *losses = reply
                if not fits:
                    failure = MailboxFull("mailbox.total_bytes")
                self.on_losses(partition, losses)
            left -= 1
            if not left and failure is not None:
                done(draft, failure)
            elif not left:
                self._number(draft, note, then)

        self._number(draft, note, on_looked, look=True)

    # On the way

    def _send(self, fanout: Fanout, then: Callable[[Fanout], None]) -> None:
        self._fanouts[fanout.room, fanout.number] = fanout
        fanout.on_end = [self._on_end, then]
        fanout.start()

    def _on_end(self, fanout: Fanout) -> None:
        del self._fanouts[fanout.room, fanout.number]
        if fanout.full:
            self._outlets.on_dropped("refused", len(fanout.full))
        if fanout.failure is not None:
            return
        note = fanout.note
        arguments: tuple[Word, ...] = (fanout.room, fanout.number, fanout.own or b"")
        if note.owner is not None and note.key is not None:
            arguments = (*arguments, note.owner, note.key)
        # If this comes to nothing it is all done again, and found done.
        self.partitions.call(self.partitions.of(fanout.room), _END, arguments, _ignore)

    def _on_arrived(self, draft: RoomDraft, done: PublishDone, fanout: Fanout) -> None:
        if fanout.failure is None:
            self._outlets.on_acknowledged(fanout.copies, fanout.note.nonce, fanout.note.now)
            done(
                draft,
                Published(
                    fanout.own,
                    fanout.copies,
                    fanout.full,
                    fanout.limit,
                    remote=fanout.remote,
                    elsewhere=fanout.elsewhere,
                ),
            )
            return
        # Some members have it all the same.
        self._outlets.on_copies(fanout.copies, fanout.full)
        done(draft, fanout.failure)

    # What others have left under way, or an earlier try

    def finish_earlier(self, fanout: Fanout, then: Callable[[frozenset[int]], None]) -> None:
        """See Surroundings.finish_earlier."""

        def found(log: _Log | None) -> None:
            if log is None:
                then(fanout.partitions)
                return
            earlier = [entry for entry in log.entries if entry.number < fanout.number]
            unfinished = frozenset(each for entry in earlier for each in entry.before)
            self._finish_all(log, earlier, lambda: then(unfinished))

        self._look(fanout.room, fanout.number, found)

    def _finish_under_way(
        self, draft: RoomDraft, note: Note, done: PublishDone, number: int, looks: int
    ) -> None:
        """Answer to a message that an earlier try has left under way."""

        def ended(fanout: Fanout) -> None:
            done(draft, fanout.failure or Published(fanout.own, duplicate=True))

        def found(log: _Log | None) -> None:
            entry = log.entries[-1] if log is not None and log.entries else None
            if log is not None and entry is not None and entry.number == number:
                self._finish(log, entry, ended)
            elif log is not None and looks < _MAX_LOOKS:
                # It has arrived meanwhile: now the key says so.
                then = functools.partial(self._on_number, draft, note, done, looks=looks + 1)
                self._number(draft, note, then)
            else:
                done(draft, StoreUnavailable("the message is still under way"))

        self._look(draft.room, number, found)

    async def finish_stale(self, partition: int) -> None:
        """Finish what nodes that died have left under way in a partition.

        Raises StoreUnavailable. What cannot be finished now waits for the next time.
        """
        arguments = (_STALE_AFTER, _MAX_STALE)
        reply: Any = await self.partitions.ask(partition, _STALE, arguments)
        newest: dict[str, int] = {}
        for entry in reply:
            number, _, room = entry.partition(b" ")
            newest[room.decode()] = int(number)
        for room, number in newest.items():
            self._look(room, number, self._finish_found)

    def _finish_found(self, log: _Log | None) -> None:
        if log is not None:
            self._finish_all(log, log.entries, lambda: None)

    def _look(self, room: str, last: int, then: Callable[[_Log | None], None]) -> None:
        """Call `then` with what is under way to a room, up to this number; None if unknown."""

        def found(reply: Any) -> None:
            if isinstance(reply, GatewayError):
                then(None)
                return
            members, *entries = reply
            pairs = zip(entries[::2], entries[1::2], strict=True)
            then(
                _Log(room, members, [_Entry(int(each), *parse_note(text)) for each, text in pairs])
            )

        partition = self.partitions.of(room)
        arguments = (room, last, self._mirror.version(partition))
        self.partitions.call(partition, _LOG, arguments, found)

    def _finish_all(self, log: _Log, entries: Sequence[_Entry], then: Callable[[], None]) -> None:
        """Finish one after the other."""
        left = iter(entries)

        def go_on(_: Fanout | None = None) -> None:
            entry = next(left, None)
            if entry is None:
                then()
            else:
                self._finish(log, entry, go_on)

        go_on()

    def _finish(self, log: _Log, entry: _Entry, then: Callable[[Fanout], None]) -> None:
        fanout = self._fanouts.get((log.room, entry.number))
        if fanout is not None:
            fanout.on_end.append(then)
            return
        players = self._players(log.room, entry.number, log.members)
        fanout = Fanout(self, log.room, entry.number, entry.before, players, entry.note)

        def ended(fanout: Fanout) -> None:
            self._outlets.on_copies(fanout.copies, fanout.full)
            then(fanout)

        self._send(fanout, ended)


def _ignore(reply: object) -> None:
    """Nobody waits for it."""
