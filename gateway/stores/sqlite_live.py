"""Sessions whose newest state is in memory: those in use, and those not saved yet."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from gateway.messages import SessionId, TrueId
from gateway.session import Session
from gateway.stores.sqlite_jobs import IN_USE
from gateway.stores.sqlite_pending import SessionChange
from gateway.stores.sqlite_schema import escape

#: Sessions dropped lately: a late word about them must not bring them back.
_MAX_DROPPED: Final = 16_384


@dataclass(slots=True, eq=False)
class Save:
    """What is to be saved of a session. `idle` as in SessionChange."""

    session: Session
    confirmed: int
    last_seen: float
    idle: int | None
    #: The file has lost the session, perhaps for another one of its id: only the player's
    #: confirmed offset counts.
    late: bool = False

    def change(self) -> tuple[str, SessionChange]:
        """Return the player's id and the row's change."""
        session = self.session
        if self.late:
            return session.true_id, SessionChange("", self.confirmed)
        return session.true_id, SessionChange(
            escape(session.id), self.confirmed, self.last_seen, self.idle
        )


class LiveSessions:
    """The identity map of sessions in use, over what is on its way to the file."""

    def __init__(self) -> None:
        #: The place of the session next to lose its connection.
        self.next_idle = 1
        self._in_use: dict[SessionId, Session] = {}
        self._claimed: set[SessionId] = set()
        self._queued: dict[tuple[SessionId, bool], Save] = {}
        self._unsaved: dict[SessionId, Save] = {}
        self._confirmed: dict[TrueId, Save] = {}
        #: By their id(): what the file before this one had in use.
        self._foreign: dict[int, Session] = {}
        self._dropped: OrderedDict[SessionId, None] = OrderedDict()

    def get(self, session_id: SessionId) -> Session | None:
        """Return the session if what is in memory is newer than the file."""
        session = self._in_use.get(session_id)
        if session is None and session_id in self._unsaved:
            session = self._unsaved[session_id].session
        return session

    def newest(self, found: Session) -> Session | None:
        """Return what is to be used for a session read from the file; None if it is gone."""
        if found.id in self._dropped:
            return None
        return self.get(found.id) or found

    def confirmed(self, true_id: TrueId) -> int:
        """Return what the player has confirmed that is not saved yet."""
        save = self._confirmed.get(true_id)
        return save.confirmed if save is not None else 0

    def place(self, session: Session) -> int | None:
        """Return the place of a new session among the idle, None if it has a connection."""
        if session.connection_id is not None:
            return None
        self.next_idle += 1
        return self.next_idle

    def added(self, session: Session, in_use: bool) -> None:
        """The file has a new session."""
        self._dropped.pop(session.id, None)
        if in_use:
            self.used(session)

    def used(self, session: Session) -> None:
        """The file has a session as one in use, as it was when that was asked for."""
        if session.id in self._dropped:
            return
        self._in_use[session.id] = session
        if session.connection_id is None:
            # The connection has gone meanwhile.
            self.save(session)

    def claim(self, session_id: SessionId) -> None:
        """The file is told that a session is in use: the next save says by which object, or not."""
        self._claimed.add(session_id)

    def unclaim(self, session_id: SessionId) -> None:
        """The file does not have the session."""
        self._claimed.discard(session_id)

    def dropped(self, session_id: SessionId) -> None:
        """The file has lost a session."""
        self._in_use.pop(session_id, None)
        self._claimed.discard(session_id)
        self._unsaved.pop(session_id, None)
        queued = self._queued.pop((session_id, False), None)
        if queued is not None:
            queued.late = True
            self._queued[session_id, True] = queued
        self._dropped[session_id] = None
        self._dropped.move_to_end(session_id)
        if len(self._dropped) > _MAX_DROPPED:
            self._dropped.popitem(last=False)

    def replaced(self) -> None:
        """The file is another one: nothing here is about its sessions.

        What is still said of those in use is ignored.
        """
        self._foreign.update((id(session), session) for session in self._in_use.values())
        for kept in (
            self._in_use,
            self._claimed,
            self._queued,
            self._unsaved,
            self._confirmed,
            self._dropped,
        ):
            kept.clear()

    def save(self, session: Session) -> bool:
        """Queue a session to be saved; return whether it is the first one queued."""
        if id(session) in self._foreign:
            if session.connection_id is None:
                del self._foreign[id(session)]
            return False
        key = session.id
        current = self._in_use.get(key)
        late = key in self._dropped or (current is not None and _newer(current, session))
        idle: int | None = None
        if late:
            pass
        elif session.connection_id is not None:
            idle = IN_USE
            self._in_use[key] = session
            self._claimed.discard(key)
        elif current is not None or key in self._claimed:
            self._in_use.pop(key, None)
            self._claimed.discard(key)
            idle = self.place(session)
        first = not self._queued
        save = Save(session, session.confirmed, session.last_seen, idle, late)
        if not late:
            earlier = self._unsaved.get(key)
            # Each save says all that the ones before it said, so only the last one counts.
            if earlier is not None and idle is None:
                save.idle = earlier.idle
            self._unsaved[key] = save
        self._queued[key, late] = save
        if save.confirmed >= self.confirmed(session.true_id):
            self._confirmed[session.true_id] = save
        return first

    def take(self) -> list[Save]:
        """Return what is queued; it is under way now."""
        saves = list(self._queued.values())
        self._queued.clear()
        return saves

    def saved(self, saves: list[Save]) -> None:
        """These are in the file."""
        for save in saves:
            session = save.session
            if self._unsaved.get(session.id) is save:
                del self._unsaved[session.id]
            if self._confirmed.get(session.true_id) is save:
                del self._confirmed[session.true_id]

    def failed(self, saves: list[Save]) -> None:
        """These are not in the file: queue those that nothing newer has replaced."""
        for save in saves:
            session = save.session
            if save is self._unsaved.get(session.id) or save is self._confirmed.get(
                session.true_id
            ):
                save.late |= session.id in self._dropped
                self._queued.setdefault((session.id, save.late), save)

    @property
    def waiting(self) -> bool:
        """Whether anything is queued."""
        return bool(self._queued)


def _newer(current: Session, session: Session) -> bool:
    """Tell whether `current` is another object of a session, with a later connection."""
    if current is session:
        return False
    return session.connection_id is None or (current.connection_id or 0) > session.connection_id
