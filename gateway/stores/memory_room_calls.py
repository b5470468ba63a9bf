"""Who is in which room, in the memory store."""

from __future__ import annotations

from gateway.membership import Memberships, RoomLimitReached
from gateway.messages import TrueId
from gateway.store import Membership, MembershipDone, StoreLimits
from gateway.stores.memory_player import Player


class RoomCalls:
    """The part of MemoryStore that is about memberships."""

    memberships: Memberships
    _limits: StoreLimits
    _players: dict[TrueId, Player]

    def join(self, room: str, true_id: TrueId, done: MembershipDone) -> None:
        """See RoomStore.join; answers before it returns."""
        memberships = self.memberships
        members = memberships.members_of(room)
        if true_id in members:
            done(Membership(False, len(members), members[true_id]))
            return
        try:
            memberships.check(room, true_id, self._limits.rooms)
        except RoomLimitReached as error:
            done(error)
            return
        self._players.setdefault(true_id, Player(true_id))
        number = memberships.add(room, true_id)
        done(Membership(True, len(memberships.members_of(room)), number))

    def leave(self, room: str, true_id: TrueId, done: MembershipDone) -> None:
        """See RoomStore.leave; answers before it returns."""
        changed = self.memberships.remove(room, true_id)
        done(Membership(changed, len(self.memberships.members_of(room))))
