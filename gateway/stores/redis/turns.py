"""What a sender asks happens in the order in which it was asked, and is answered in it.

Redis keeps the order of what goes to one server. A message to a room takes several calls, to
several partitions: what its sender asks meanwhile waits. And when there are several servers, one
may answer before another that was asked first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from gateway.messages import TrueId

#: Turns that may wait to begin.
_MAX_WAITING: Final = 50_000

#: Takes a draft, and what became of it.
Done = Callable[[Any, Any], None]


class _Lane:
    """The turns of one sender: those not told yet, and of them those that wait to begin."""

    __slots__ = ("blocked", "turns", "waiting")

    def __init__(self) -> None:
        self.turns: deque[Turn] = deque()
        self.waiting: deque[Turn] = deque()
        self.blocked = False


class Turn:
    """Something that a sender has asked. To be called, as `done`, with its answer."""

    __slots__ = ("_turns", "answer", "blocks", "done", "sender", "start")

    def __init__(
        self,
        turns: Turns,
        sender: TrueId,
        done: Done,
        start: Callable[[Done], None],
        blocks: bool,
    ) -> None:
        self._turns = turns
        self.sender = sender
        self.done = done
        self.start = start
        self.blocks = blocks
        self.answer: tuple[Any, Any] | None = None

    def __call__(self, draft: Any, result: Any) -> None:
        """Take the answer."""
        self.answer = (draft, result)
        self._turns.on_answer(self)


class Turns:
    """Everybody's turns: only senders with something under way are in it."""

    def __init__(self) -> None:
        self._lanes: dict[TrueId, _Lane] = {}
        self._waiting = 0

    def __contains__(self, sender: TrueId | None) -> bool:
        return sender in self._lanes

    def take(
        self, sender: TrueId, done: Done, start: Callable[[Done], None], *, blocks: bool = False
    ) -> bool:
        """Call `start` in the sender's next turn, with what takes the answer in place of `done`.

        What follows a turn that `blocks` starts when that has its answer. Returns False, and
        does nothing, when too much waits.
        """
        lane = self._lanes.get(sender)
        if lane is None:
            lane = self._lanes[sender] = _Lane()
        elif lane.blocked and self._waiting >= _MAX_WAITING:
            return False
        turn = Turn(self, sender, done, start, blocks)
        lane.turns.append(turn)
        lane.waiting.append(turn)
        self._waiting += 1
        self._start(lane)
        return True

    def _start(self, lane: _Lane) -> None:
        while lane.waiting and not lane.blocked:
            turn = lane.waiting.popleft()
            self._waiting -= 1
            lane.blocked = turn.blocks
            turn.start(turn)

    def on_answer(self, turn: Turn) -> None:
        """Start what has waited for it, and tell all answers that are next in the order."""
        lane = self._lanes[turn.sender]
        if turn.blocks:
            lane.blocked = False
            self._start(lane)
        turns = lane.turns
        while turns and (answer := turns[0].answer) is not None:
            done = turns.popleft().done
            if not turns:
                del self._lanes[turn.sender]
            done(*answer)
