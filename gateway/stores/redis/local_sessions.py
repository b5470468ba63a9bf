"""Sessions in use on this node, and what is on its way to Redis of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.errors import GatewayError
from gateway.messages import SessionId, TrueId
from gateway.session import Session
from gateway.stores.redis.session_records import Record, new_session

#: Between two tries while Redis does not answer, in seconds.
_RETRY: Final = 1.0
#: Higher than all versions, exact in Lua.
_ANY: Final = 2**53


@dataclass(slots=True, eq=False)
class Save:
    """What is to be saved of a session.

    `version` is the one that this node knows, 0 if another object stands for the session by now:
    then only the player's confirmed offset counts.
    """

    session_id: SessionId
    true_id: TrueId
    version: int
    confirmed: int
    last_seen: float
    in_use: bool


#: Of a save: whose, and whether its version is 0.
Key = tuple[SessionId, bool]
#: Sends a save; the answer is None once it is kept.
Send = Callable[[Save, Callable[[GatewayError | None], None]], None]


class LocalSessions:
    """The identity map of the sessions in use on the node `node`.

    Of each session one save is under way at most; those that come meanwhile become one. What
    could not be saved is tried again until `close`. While a player is `doubted`, the store may have
    lost what they have confirmed, and given the offsets to other messages: it is not saved.
    """

    def __init__(self, node: str, send: Send, doubted: Callable[[TrueId], bool]) -> None:
        self._node = node
        self._send = send
        self._doubted = doubted
        self._in_use: dict[SessionId, Session] = {}
        #: Versions of sessions taken into use: the next save says by which object, or not.
        self._claimed: dict[SessionId, int] = {}
        #: The newest save of each that Redis has not answered yet, and those not sent.
        self._newest: dict[Key, Save] = {}
        self._waiting: set[Key] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._in_use)

    def in_use(self) -> list[Session]:
        """Return the sessions in use."""
        return [*self._in_use.values()]

    def is_known(self, session_id: SessionId) -> bool:
        """Tell whether a session is in use here, or may be, or Redis is about to be told of it."""
        return (
            session_id in self._in_use
            or session_id in self._claimed
            or (session_id, False) in self._newest
        )

    def claim(self, session_id: SessionId) -> None:
        """Redis is told that a session is in use here: it may be, whatever it answers."""
        self._claimed[session_id] = _ANY

    def claimed(self, session_id: SessionId, version: int) -> None:
        """It is, and this is its version; unless a save has followed already."""
        if session_id in self._claimed:
            self._claimed[session_id] = version

    def unclaim(self, session_id: SessionId) -> None:
        """It is not."""
        self._claimed.pop(session_id, None)

    def added(self, session: Session) -> None:
        """Redis has a new session, in use here if its connection is still there."""
        self._claimed.pop(session.id, None)
        if session.connection_id is not None:
            session.node = self._node
            self._in_use[session.id] = session

    def dropped(self, session_id: SessionId) -> None:
        """Redis does not have the session, or another node has its connection."""
        self._in_use.pop(session_id, None)

    def found(self, session_id: SessionId, true_id: TrueId, record: Record) -> Session:
        """Return the session of a record: the one object that stands for it if it is used here."""
        session = self._in_use.get(session_id)
        if session is None:
            return new_session(session_id, true_id, record)
        if record.version < session.version:
            # The answer is older than what was told since.
            return session
        if record.node != self._node:
            if record.node or record.version > session.version:
                # Its connection here is about to be closed.
                self.dropped(session_id)
                return new_session(session_id, true_id, record)
            # This node was taken for dead.
            self.save(session)
        session.generation, session.start = record.generation, record.start
        session.pid, session.version = record.pid, record.version
        session.confirm(record.confirmed)
        return session

    # Saving

    def save(self, session: Session) -> None:
        """Save a session now, or after the save that is under way."""
        current = self._in_use.get(session.id)
        version = session.version
        if current is not None and _newer(current, session):
            version = 0
        else:
            claimed = self._claimed.pop(session.id, None)
            if claimed == _ANY:
                version = _ANY
            elif claimed is not None:
                version = session.version = claimed
            if session.connection_id is not None:
                session.node = self._node
                self._in_use[session.id] = session
            else:
                session.node = ""
                self.dropped(session.id)
        save = Save(
            session.id,
            session.true_id,
            version,
            0 if self._doubted(session.true_id) else session.confirmed,
            session.last_seen,
            session.connection_id is not None,
        )
        key = save.session_id, version == 0
        before = self._newest.get(key)
        if before is not None:
            save.confirmed = max(save.confirmed, before.confirmed)
        self._newest[key] = save
        if before is None:
            self._start(key)
        else:
            self._waiting.add(key)

    def flush(self, session_id: SessionId) -> None:
        """Send what waits of a session: what is sent after it finds it kept."""
        for late in (True, False):
            if (session_id, late) in self._waiting:
                self._start((session_id, late))

    def flush_player(self, true_id: TrueId) -> None:
        """Send what waits of a player's sessions."""
        for key in tuple(self._waiting):
            if self._newest[key].true_id == true_id:
                self._start(key)

    def close(self) -> None:
        """Send all that waits for the last time."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.flush_all()

    def flush_all(self) -> None:
        """Send all that waits."""
        self._timer = None
        for key in tuple(self._waiting):
            self._start(key)

    def forget_confirmed(self) -> None:
        """The store has lost something: what doubted players confirmed before is not saved."""
        for save in self._newest.values():
            if self._doubted(save.true_id):
                save.confirmed = 0

    def _start(self, key: Key) -> None:
        self._waiting.discard(key)
        save = self._newest[key]

        def on_answer(error: GatewayError | None) -> None:
            if self._newest.get(key) is save:
                if error is None:
                    del self._newest[key]
                else:
                    self._waiting.add(key)
                    if self._timer is None and not self._closed:
                        loop = asyncio.get_running_loop()
                        self._timer = loop.call_later(_RETRY, self.flush_all)
            elif error is None and key in self._waiting:
                self._start(key)

        self._send(save, on_answer)

    @property
    def unsaved(self) -> int:
        """How many saves Redis has not answered, or not well."""
        return len(self._newest)


def _newer(current: Session, session: Session) -> bool:
    """Tell whether `current` is another object of a session, with a later connection."""
    if current is session:
        return False
    return session.connection_id is None or (current.connection_id or 0) > session.connection_id
