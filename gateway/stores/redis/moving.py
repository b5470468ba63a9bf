"""A partition on its way from one master of a Cluster to another: its calls wait, in their order.

A master refuses calls for what it has not got (MOVED), and for what it is about to hand over (ASK),
before they have begun. They are not sent where it points at once: others of the same partition may
still be under way to it, and would be overtaken. So a probe is sent after them. When it comes back
refused, so have all before it, and nothing of the partition is under way anywhere. Then they are
sent again, in the order in which they were asked, to whoever has the partition. An ASK itself is
never followed: keys are in two places then, and a script needs all of them.
https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#redirection-and-resharding
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.errors import StoreUnavailable
from gateway.stores.redis.link import Call, Refused, Reply, pack
from gateway.stores.redis.master import Master

#: Between two looks whether a slot has arrived, in seconds.
_PAUSE: Final = 0.05


class Room:
    """How much may wait in all partitions together: calls, and bytes of them.

    `on_full` is told of each call for which there is no room.
    """

    def __init__(self, calls: int, size: int, on_full: Callable[[], None]) -> None:
        self._calls = calls
        self._bytes = size
        self._on_full = on_full

    def take(self, call: Call) -> bool:
        """Take room for a call; return False if there is none."""
        if self._calls <= 0 or self._bytes < len(call[0]):
            self._on_full()
            return False
        self._calls -= 1
        self._bytes -= len(call[0])
        return True

    def give_back(self, call: Call) -> None:
        """It does not wait any more."""
        self._calls += 1
        self._bytes += len(call[0])


class Moving:
    """A partition that `origin` refuses. `key` is one of its keys, which is never there.

    What waits longer than `timeout` seconds is told StoreUnavailable. `on_end` is called once it
    is over, with the master that has the partition if that is known.
    """

    def __init__(
        self,
        origin: Master,
        partition: int,
        key: bytes,
        room: Room,
        timeout: float,
        on_end: Callable[[Moving, Master | None], None],
    ) -> None:
        self.origin = origin
        self.partition = partition
        #: Who has the partition now, if it is known.
        self.target: Master | None = None
        self._room = room
        self._on_end = on_end
        self._probe: Call = (pack((b"EXISTS", key)), self._on_probe, partition, None)
        #: Refused by the origin, and asked since: in this order they are asked again.
        self._returned: list[Call] = []
        self._held: list[Call] = []
        #: All that was under way to the origin has come back.
        self._settled = False
        self._over = False
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._deadline = loop.call_later(timeout, self.give_up)
        self._again: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Send the probe: what is asked from now on waits."""
        self.origin.send(self._probe)

    def send(self, call: Call) -> None:
        """See Owner: it waits."""
        if not self._hold(self._held, call):
            self._refuse(call, "too much waits for a part of the store that is being moved")

    def take_back(self, call: Call, refused: Refused) -> bool:
        """The origin has refused this call with MOVED or ASK; return whether it waits here."""
        if call is self._probe:
            self._settled = True
            if refused.code == "ASK":
                self._again = self._loop.call_later(_PAUSE, self.start)
            self.try_to_end()
            return True
        return not self._settled and self._hold(self._returned, call)

    def try_to_end(self) -> None:
        """Ask all that waits again, if somebody is known to have the partition."""
        target = self.target
        if self._settled and target is not None and target is not self.origin and target.up:
            self._end(target)

    def give_up(self) -> None:
        """Tell all that waits that the store is not available."""
        for call in (*self._returned, *self._held):
            self._room.give_back(call)
            self._refuse(call, "a part of the store is being moved")
        self._returned, self._held = [], []
        self._end(self.target)

    def _on_probe(self, reply: Reply | StoreUnavailable) -> None:
        if self._over:
            return
        if isinstance(reply, StoreUnavailable):
            # What was under way may have been run, or not.
            self.give_up()
            return
        if not self._settled:
            # It has come back meanwhile: what was asked after a refused call may have been run.
            for call in self._returned:
                self._room.give_back(call)
                self._refuse(call, "a part of the store was moved")
            self._returned = []
        # It takes calls. If another one is known to have the partition, it was cut off meanwhile.
        self._end(self.origin if self.target is None else self.target)

    def _end(self, owner: Master | None) -> None:
        if self._over:
            return
        self._over = True
        self._deadline.cancel()
        if self._again is not None:
            self._again.cancel()
        self._on_end(self, owner)
        waiting = (*self._returned, *self._held)
        self._returned, self._held = [], []
        for call in waiting:
            self._room.give_back(call)
            if owner is None:
                self._refuse(call, "a part of the store was moved")
            else:
                owner.send(call)

    def _hold(self, where: list[Call], call: Call) -> bool:
        if not self._room.take(call):
            return False
        where.append(call)
        return True

    def _refuse(self, call: Call, reason: str) -> None:
        self._loop.call_soon(call[1], StoreUnavailable(reason))
