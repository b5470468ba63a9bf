"""Rooms in the sqlite store, the event loop's side: it queues, and keeps what was answered."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable

from gateway.errors import GatewayError, StoreUnavailable
from gateway.mailbox import RoomDraft
from gateway.membership import Memberships
from gateway.messages import TrueId
from gateway.store import Membership, MembershipDone, PublishDone
from gateway.stores.sampling import Sampler
from gateway.stores.sqlite_jobs import Jobs
from gateway.stores.sqlite_writer import Job


class RoomCalls:
    """The part of SqliteStore that is about rooms."""

    memberships: Memberships
    _loop: asyncio.AbstractEventLoop
    _publishes: Sampler

    def _refusal(self) -> StoreUnavailable | None:
        raise NotImplementedError

    def _put(self, job: Job) -> None:
        raise NotImplementedError

    def publish(self, draft: RoomDraft, now: float, done: PublishDone) -> None:
        """See MailboxStore.publish."""
        refusal = self._refusal()
        if refusal is not None:
            self._loop.call_soon(done, draft, refusal)
            return
        if now >= self._publishes.due:
            done = self._publishes.watch(now, done)
        self._put(
            Job(
                lambda jobs: jobs.rooms.publish(draft, now),
                functools.partial(done, draft),
                copies=len(self.memberships.members_of(draft.room)),
                size=len(draft.body),
            )
        )

    def join(self, room: str, true_id: TrueId, done: MembershipDone) -> None:
        """See RoomStore.join."""

        def then(result: Membership | GatewayError) -> None:
            members = self.memberships.members_of(room)
            if isinstance(result, Membership) and true_id not in members:
                self.memberships.add(room, true_id, result.number)
            done(result)

        self._change(lambda jobs: jobs.rooms.join(room, true_id), true_id, then)

    def leave(self, room: str, true_id: TrueId, done: MembershipDone) -> None:
        """See RoomStore.leave."""

        def then(result: Membership | GatewayError) -> None:
            if isinstance(result, Membership):
                self.memberships.remove(room, true_id)
            done(result)

        self._change(lambda jobs: jobs.rooms.leave(room, true_id), true_id, then)

    def _change(
        self, run: Callable[[Jobs], Membership], true_id: TrueId, done: MembershipDone
    ) -> None:
        refusal = self._refusal()
        if refusal is not None:
            self._loop.call_soon(done, refusal)
        else:
            self._put(Job(run, done, (true_id,)))
