"""Logins with username and password, verified by argon2 in worker threads.

Only failed attempts count against the limits, so that honest players may reconnect as often as
they like; an attempt under way is held against them until it is settled, so that many at once
gain nothing. There are three limits, in failures a minute: the configured number for a username
from one network, 3 times that for a network, which may be a school, and 10 times that for a
username from anywhere. The last one does not apply where the player has logged in before: an
attacker with many addresses cannot keep the player out of the own account.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Final

from gateway.auth import METHODS, Identity
from gateway.auth.failures import MAX_KEYS, Failures
from gateway.auth.users import Users
from gateway.auth.users_format import User, UsersError, clean_password, clean_username
from gateway.errors import ConnectRefused
from gateway.messages import TrueId
from gateway.network import network_of

NETWORK_FACTOR: Final = 3
USERNAME_FACTOR: Final = 10
#: Verifications that run or wait at the same time; more are refused.
MAX_OUTSTANDING: Final = 64

_BUSY_RETRY: Final = 1.0

_logger: Final = logging.getLogger(__name__)


class PasswordAuthenticator:
    """Checks `username` and `password` of users with passwords; lives on one event loop."""

    method: Final = "password"

    def __init__(
        self,
        users: Users,
        executor: Executor,
        attempts_per_minute: int,
        clock: Callable[[], float],
    ) -> None:
        """`executor` must run threads, and its owner shuts it down.

        `attempts_per_minute` counts failures, 0 means no limit; `clock` returns seconds.
        """
        self._users = users
        self._executor = executor
        self._clock = clock
        self._outstanding = 0
        self._by_pair = Failures(attempts_per_minute)
        self._by_network = Failures(attempts_per_minute * NETWORK_FACTOR)
        self._by_username = Failures(attempts_per_minute * USERNAME_FACTOR)
        self._proven: OrderedDict[tuple[str, str], None] = OrderedDict()

    def claims(self, auth: Mapping[str, object]) -> bool:
        """Return whether one of the keys `username` and `password` is there."""
        return any(key in auth for key in METHODS[self.method].keys)

    async def authenticate(self, auth: Mapping[str, object], address: str) -> Identity:
        """Return the user, under the username as name.

        Raises ConnectRefused: `bad_credentials`, in the same words and after the same work for
        an unknown user as for a wrong password; `rate_limited`, with `retry_after`;
        `unavailable` when the password cannot be verified. A verification whose caller is
        cancelled goes on and counts.
        """
        username, password = _credentials(auth)
        pair = (username, network_of(address))
        limits = self._limits(pair)
        self._refuse_excess(limits)
        work = asyncio.get_running_loop().run_in_executor(
            self._executor, self._verify, username, password
        )
        self._outstanding += 1
        for limit, key in limits:
            limit.begin(key)
        work.add_done_callback(partial(self._settle, pair, limits))
        try:
            user = await asyncio.shield(work)
        except UsersError as error:
            _logger.error("%s", error)
            raise ConnectRefused(
                "unavailable", "passwords cannot be verified now; try again", _BUSY_RETRY
            ) from error
        if user is None:
            raise ConnectRefused("bad_credentials", "username or password is wrong")
        return Identity(user.true_id, user.username, self.method)

    async def still_valid(self, true_id: TrueId) -> bool:
        """Return whether the account is still there."""
        # Not in the executor, where it would wait for passwords that are being verified.
        return await asyncio.to_thread(self._users.has, true_id)

    def _limits(self, pair: tuple[str, str]) -> Sequence[tuple[Failures, Hashable]]:
        # The network comes first: once it is spent, made-up usernames no longer crowd out others.
        limits: list[tuple[Failures, Hashable]] = [
            (self._by_network, pair[1]),
            (self._by_pair, pair),
        ]
        if pair not in self._proven:
            limits.append((self._by_username, pair[0]))
        return limits

    def _refuse_excess(self, limits: Sequence[tuple[Failures, Hashable]]) -> None:
        now = self._clock()
        for limit, key in limits:
            wait = math.ceil(limit.wait(key, now))
            if wait > 0:
                raise ConnectRefused(
                    "rate_limited", f"too many failed logins; try again in {wait} s", float(wait)
                )
        if self._outstanding >= MAX_OUTSTANDING:
            raise ConnectRefused("rate_limited", "too many logins now; try again", _BUSY_RETRY)

    def _verify(self, username: str, password: str) -> User | None:
        user = self._users.lookup(username)
        if not self._users.verify(user, password) or user is None:
            return None
        try:
            self._users.rehash(user, password)
        except UsersError as error:
            _logger.warning("password hash of %r stays outdated: %s", username, error)
        return user

    def _settle(
        self,
        pair: tuple[str, str],
        limits: Sequence[tuple[Failures, Hashable]],
        work: asyncio.Future[User | None],
    ) -> None:
        self._outstanding -= 1
        answered = not work.cancelled() and work.exception() is None
        failed = answered and work.result() is None
        now = self._clock()
        for limit, key in limits:
            limit.settle(key, now, failed=failed)
        if answered and not failed:
            self._proven[pair] = None
            self._proven.move_to_end(pair)
            if len(self._proven) > MAX_KEYS:
                self._proven.popitem(last=False)


def _credentials(auth: Mapping[str, object]) -> tuple[str, str]:
    for key in METHODS["password"].keys:
        if key not in auth:
            raise ConnectRefused("bad_credentials", f"{key} is missing; send username and password")
    try:
        return clean_username(auth["username"]), clean_password(auth["password"])
    except UsersError as error:
        raise ConnectRefused("bad_credentials", str(error)) from error
