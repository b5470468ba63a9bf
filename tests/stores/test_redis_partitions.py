"""A redis store of many partitions promises what every store does, to players who are far apart.

In one partition limits in total are exact, and a sender's keys are known whatever they were used
for. In many they are not: the tests that are about that are left out here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from types import ModuleType
from typing import Any

import pytest

from gateway.stores.redis.keys import PARTITIONS
from tests.redis_servers import RedisServer
from tests.stores import test_rooms, test_store
from tests.stores.conftest import Driver, NewStore, redis_store


@pytest.fixture
def new_store(redis_server: RedisServer, redis_prefix: str) -> Iterator[NewStore]:
    """Build an empty store of all partitions."""
    numbers = count()
    with ExitStack() as stack:

        def build(**limits: Any) -> Driver:
            url = f"{redis_server.url}?prefix={redis_prefix}-{next(numbers)}"
            return stack.enter_context(redis_store(url, partitions=PARTITIONS, **limits))

        yield build


def add_tests(module: ModuleType, left_out: set[str]) -> None:
    """Take over the tests of a module."""
    kind = module.__name__.rpartition("_")[2]
    for name, test in vars(module).items():
        if name.startswith("test_") and name not in left_out:
            globals()[f"test_{kind}_{name.removeprefix('test_')}"] = test
    assert left_out <= vars(module).keys()


add_tests(
    test_store,
    {
        # Limits in total, between two looks at the totals.
        "test_all_mailboxes_together_have_a_limit",
        "test_messages_that_all_sessions_have_make_room",
        "test_a_session_that_is_gone_holds_nothing_back",
        "test_no_more_goes_than_is_needed",
        "test_all_sessions_together_have_a_limit",
        "test_beyond_all_sessions_the_one_longest_without_connection_goes",
        "test_players_that_no_longer_fit_are_remembered_by_their_time",
        "test_what_no_longer_fits_is_remembered_by_its_time",
        # A key is remembered in the partition of what it was used for.
        "test_a_key_is_good_for_one_target",
        "test_a_key_is_remembered_of_a_sender_whom_nobody_knows",
        "test_an_owner_of_keys_is_forgotten_with_them",
        # The order of players among each other.
        "test_everyone_is_who_may_come_back",
    },
)
add_tests(
    test_rooms,
    {
        "test_rooms_and_players_have_limits",
        "test_a_key_is_good_for_one_room_or_player",
        "test_a_full_store_takes_all_copies_or_none",
    },
)
