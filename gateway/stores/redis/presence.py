"""Presence in Redis: what nodes say of players, who watches whom, and who is gone.

Players are asked about by partitions: each call is one script in one of them.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from typing import Any, Final

import msgspec

from gateway.errors import StoreUnavailable
from gateway.messages import SessionId, TrueId
from gateway.presence_store import (
    Change,
    Found,
    FoundDone,
    PlayersDone,
    PresenceListener,
)
from gateway.stores.redis import bus
from gateway.stores.redis.client import Reply, Word
from gateway.stores.redis.partitions import Partitions
from gateway.stores.redis.peers import Peers
from gateway.stores.redis.presence_pages import Page, parse_cursor, unpack_seen
from gateway.stores.redis.scripts import Script, load
from gateway.stores.redis.totals import Totals

_WRITE: Final = load("presence_write")
_WATCH: Final = load("presence_watch")
_UNWATCH: Final = load("presence_unwatch")
_LOOK: Final = load("presence_look")
_EXPECT: Final = load("presence_expect")
_ENDED: Final = load("presence_ended")
_SWEEP: Final = load("presence_sweep")
#: Within so many seconds all totals are looked at.
_LATELY: Final = 5.0
#: Players in one call: Redis does nothing else meanwhile.
_CHUNK: Final = 100


_encode: Final = msgspec.msgpack.Encoder().encode


class RedisPresence:
    """The PresenceStore of a redis store. `grace` is in seconds.

    `outbox_args` returns what a script of a partition opens the outbox with, `note_webhooks` is
    told what it says of it in the end: see lua/_outbox.lua.
    """

    def __init__(
        self,
        partitions: Partitions,
        totals: Totals,
        peers: Peers,
        node: str,
        grace: float,
        outbox_args: Callable[[int], tuple[Word, ...]],
        note_webhooks: Callable[[int, Sequence[int]], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._partitions = partitions
        self._totals = totals
        self._peers = peers
        self._node = node
        self._grace = grace
        self._outbox_args = outbox_args
        self._note_webhooks = note_webhooks
        self._clock = clock
        self._listener: PresenceListener = _Nobody()
        self._sweeping: set[int] = set()
        #: Nodes that partitions have and that are not alive, and when that was noticed.
        self._missing: dict[str, float] = {}
        #: Which of them each partition had at the last sweep.
        self._named: dict[int, frozenset[str]] = {}
        self._ended: dict[int, list[TrueId]] = {}
        #: When this node has last said something in a partition, by the loop's clock.
        self._written: dict[int, float] = {}
        self._owned: frozenset[int] = frozenset()

    def attach(self, listener: PresenceListener) -> None:
        """See PresenceStore.attach."""
        self._listener = listener

    @property
    def online(self) -> int:
        """See PresenceStore.online."""
        return self._totals.of_all("online")

    @property
    def share(self) -> Hashable:
        """See PresenceStore.share."""
        return self._owned

    def sees_to(self, true_id: TrueId) -> bool:
        """See PresenceStore.sees_to."""
        return self._partitions.of(true_id) in self._owned

    # What this node says

    def write(self, changes: Collection[Change], done: FoundDone) -> None:
        """See PresenceStore.write."""
        by_player = {change.true_id: change for change in changes}
        for partition, true_ids in self._chunks(by_player):
            self._written[partition] = asyncio.get_running_loop().time()
            args: list[Word] = [*self._outbox_args(partition), self._grace]
            for true_id in true_ids:
                change = by_player[true_id]
                entry = b"" if change.entry is None else _encode(change.entry)
                args += (true_id, entry, change.at, "1" if change.left else "0")

            def on_written(
                reply: Any, true_ids: Sequence[TrueId] = true_ids, partition: int = partition
            ) -> None:
                if isinstance(reply, StoreUnavailable):
                    done(true_ids, reply)
                    return
                version, added, full, *answers = reply
                self._note_webhooks(partition, (added, full))
                found = {
                    true_id: Found(
                        version, unpack_seen(packed), [SessionId(each.decode()) for each in new]
                    )
                    for true_id, (packed, *new) in zip(true_ids, answers, strict=True)
                }
                done(true_ids, found)

            self._partitions.call(partition, _WRITE, args, on_written)

    # What others say

    def watch(self, true_ids: Collection[TrueId], done: FoundDone) -> None:
        """See PresenceStore.watch."""
        self._find(_WATCH, (self._node,), true_ids, done)

    def look(self, true_ids: Collection[TrueId], done: FoundDone) -> None:
        """See PresenceStore.look."""
        self._find(_LOOK, (), true_ids, done)

    def _find(
        self,
        script: Script,
        head: Sequence[Word],
        true_ids: Collection[TrueId],
        done: FoundDone,
    ) -> None:
        for partition, chunk in self._chunks(true_ids):
            answer = functools.partial(_on_found, chunk, done)
            self._partitions.call(partition, script, (*head, *chunk), answer)

    def unwatch(self, true_ids: Collection[TrueId]) -> None:
        """See PresenceStore.unwatch."""
        for partition, chunk in self._chunks(true_ids):
            self._partitions.call(partition, _UNWATCH, (self._node, *chunk), _ignore)

    def page(self, cursor: str | None, limit: int, done: PlayersDone) -> None:
        """See PresenceStore.page: partition by partition, in each in the order of coming.

        Those are passed over that had nobody at the last look at all totals, a second ago: whoever
        has come to another node since then is not listed yet.
        """
        first, place = parse_cursor(cursor, self._partitions.count)
        lately = asyncio.get_running_loop().time() - _LATELY
        asked = [
            partition
            for partition in range(first, self._partitions.count)
            if partition == first
            or self._totals.of_partition("listed", partition)
            or self._written.get(partition, lately) > lately
        ]
        Page(self._partitions, asked, limit, done).start(place)

    # What is published

    def on_told(self, kind: bytes, partition: int, fields: Sequence[bytes]) -> None:
        """Another node has published this for presence. Raises ValueError if none would."""
        if kind == bus.PRESENCE:
            true_id, version, packed, at = fields
            found = Found(int(version), unpack_seen(packed))
            self._listener.on_seen(TrueId(true_id.decode()), found, float(at))
        else:
            (true_id,) = fields
            self._listener.on_dropped(TrueId(true_id.decode()))

    def on_restored(self, partitions: Collection[int], *, complete: bool) -> None:
        """What is published is heard again: see PresenceListener.on_restored."""
        of = self._partitions.of
        self._listener.on_restored(lambda true_id: of(true_id) in partitions, complete=complete)

    # Who is gone

    def expect(self, true_ids: Collection[TrueId], done: FoundDone) -> None:
        """See PresenceStore.expect."""
        due = self._clock() + self._grace
        for partition, chunk in self._chunks(true_ids):

            def on_expected(
                reply: Reply | StoreUnavailable, chunk: Sequence[TrueId] = chunk
            ) -> None:
                done(chunk, reply if isinstance(reply, StoreUnavailable) else {})

            self._partitions.call(partition, _EXPECT, (due, *chunk), on_expected)

    def ended(self, true_id: TrueId) -> None:
        """See PresenceStore.ended."""
        if not self._ended:
            asyncio.get_running_loop().call_soon(self._tell_ended)
        self._ended.setdefault(self._partitions.of(true_id), []).append(true_id)

    def _tell_ended(self) -> None:
        ended, self._ended = self._ended, {}
        for partition, true_ids in ended.items():
            self._partitions.call(partition, _ENDED, true_ids, _ignore)

    def sweep(self) -> None:
        """See PresenceStore.sweep."""
        live = self._peers.live
        if live is None:
            return
        owned = frozenset(self._peers.owned)
        for partition in owned - self._owned:
            # Who was reported online and is not is reported, too.
            self._partitions.call(partition, _EXPECT, (self._clock() + self._grace,), _ignore)
        self._owned = owned
        # A partition names a node until nothing is left of it there.
        self._named = {each: named for each, named in self._named.items() if each in owned}
        named = frozenset().union(*self._named.values())
        self._missing = {node: at for node, at in self._missing.items() if node in named - live}
        for partition in owned - self._sweeping:
            self._sweep(partition, live)

    def _sweep(self, partition: int, live: frozenset[str]) -> None:
        # One that has just come is in no list yet: one that was asked for later has to say so.
        listed = self._peers.listed
        named = self._named.get(partition, ())
        dead = [node for node in named if self._missing.get(node, math.inf) < listed]
        args = (
            *self._outbox_args(partition),
            self._clock(),
            self._grace,
            _CHUNK,
            f" {' '.join(live)} ",
            *dead,
        )
        self._sweeping.add(partition)
        answer = functools.partial(self._on_swept, partition)
        self._partitions.call(partition, _SWEEP, args, answer)

    def _on_swept(self, partition: int, reply: Any) -> None:
        self._sweeping.discard(partition)
        if isinstance(reply, StoreUnavailable):
            return
        added, full, more, nodes, gone = reply
        self._note_webhooks(partition, (added, full))
        live = self._peers.live
        if live is not None:
            named = frozenset(name.decode() for name in nodes) - live
            self._named[partition] = named
            for node in named:
                self._missing.setdefault(node, asyncio.get_running_loop().time())
        for true_id in gone:
            self._listener.on_gone(TrueId(true_id.decode()))
        if more and live is not None and partition in self._owned:
            self._sweep(partition, live)

    # Calls

    def _chunks(self, true_ids: Collection[TrueId]) -> Iterator[tuple[int, list[TrueId]]]:
        for partition, group in self._partitions.grouped(true_ids).items():
            for start in range(0, len(group), _CHUNK):
                yield partition, group[start : start + _CHUNK]


class _Nobody:
    """The listener of a store whose presence nobody uses."""

    def on_seen(self, true_id: TrueId, found: Found, at: float) -> None:
        """See PresenceListener.on_seen."""

    def on_dropped(self, true_id: TrueId) -> None:
        """See PresenceListener.on_dropped."""

    def on_restored(self, concerns: Callable[[TrueId], bool], *, complete: bool) -> None:
        """See PresenceListener.on_restored."""

    def on_gone(self, true_id: TrueId) -> None:
        """See PresenceListener.on_gone."""


def _on_found(true_ids: Sequence[TrueId], done: FoundDone, reply: Any) -> None:
    if isinstance(reply, StoreUnavailable):
        done(true_ids, reply)
        return
    version, *packed = reply
    found = {
        true_id: Found(version, unpack_seen(each))
        for true_id, each in zip(true_ids, packed, strict=True)
    }
    done(true_ids, found)


def _ignore(reply: Reply | StoreUnavailable) -> None:
    """What was asked is asked again anyway when it is needed."""
