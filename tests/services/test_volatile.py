"""Volatile state: what a slow or hidden connection gets of it, when, and in which order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Hashable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.limits import HiddenPolicy
from tests.services.world import Client, World, scenario


def offer(client: Client, value: object, key: Hashable | None = None) -> bool:
    """Offer what `publish` would, with `value` as its data."""
    array = json.dumps(["message", {"from": None, "data": value}]).encode()
    return client.link.offer_volatile(array, key)


def hide(client: Client) -> None:
    assert client.call("presence_set", {"state": "hidden"}) == {"ok": True}


def show(client: Client) -> None:
    assert client.call("presence_set", {"state": "active"}) == {"ok": True}


@scenario
async def test_who_is_up_to_date_gets_every_value_at_once() -> None:
    world = World()
    client = await world.guest()
    assert [offer(client, number, "k") for number in range(3)] == [True] * 3
    assert client.data == [0, 1, 2]
    assert client.link._held is None


@scenario
async def test_a_slow_client_gets_the_latest_of_each_key_when_it_has_drained() -> None:
    world = World()
    client = await world.guest()
    client.room = 1
    assert offer(client, "fills the buffer")
    for value, key in (("a1", "a"), ("b1", "b"), ("c1", "c"), ("a2", "a"), ("lost", None)):
        assert not offer(client, value, key)
    assert client.data == ["fills the buffer"]
    client.drain()
    assert client.data[1:] == ["b1", "c1", "a2"]
    assert world.metric("kept_volatile", "behind") == 4
    assert world.metric("dropped_volatile", "conflated") == 1
    assert world.metric("dropped_volatile", "behind") == 1
    assert offer(client, "a3", "a")
    assert client.data[4:] == ["a3"]


@scenario
async def test_state_follows_all_stored_messages_that_waited() -> None:
    world = World()
    client = await world.guest()
    client.room = 1
    world.write(client, *range(5))
    offer(client, "state", "k")
    world.write(client, *range(5, 90))
    client.drain()
    assert client.data == [*range(90), "state"]


@scenario
async def test_state_that_comes_during_a_replay_is_kept_until_its_end() -> None:
    world = World()
    first = await world.guest()
    first.lose()
    world.write(first, 1, 2)
    world.store.slow = True
    client = await world.connect(pid=first.pid)
    assert not offer(client, "old", "k")
    assert not offer(client, "new", "k")
    assert client.data == []
    world.store.answer_reads()
    assert client.data == [1, 2, "new"]


@scenario
async def test_a_catch_up_that_does_not_fit_goes_on_later_with_newer_values() -> None:
    world = World()
    client = await world.guest()
    client.room = 1
    offer(client, "first")
    for key in "abcd":
        offer(client, key + "1", key)
    client.drain(2)
    assert client.data == ["first", "a1", "b1"]
    assert not offer(client, "a2", "a")
    assert not offer(client, "c2", "c")
    client.drain()
    assert client.data[3:] == ["d1", "a2", "c2"]


@scenario
async def test_a_hidden_page_gets_one_catch_up_when_it_is_active_again() -> None:
    world = World()
    client = await world.guest()
    hide(client)
    for number in range(10):
        for key in "ab":
            assert not offer(client, f"{key}{number}", key)
        assert not offer(client, "keyless")
    world.write(client, "stored")
    assert client.data == ["stored"]
    show(client)
    assert client.data == ["stored", "a9", "b9"]
    assert world.metric("kept_volatile", "hidden") == 20
    assert world.metric("dropped_volatile", "conflated") == 18
    assert world.metric("dropped_volatile", "hidden") == 10
    assert offer(client, "a10", "a")
    show(client)
    assert client.data[3:] == ["a10"]


@scenario
async def test_a_page_that_is_active_again_and_slow_gets_its_state_once_it_has_drained() -> None:
    world = World()
    client = await world.guest()
    hide(client)
    client.room = 1
    world.write(client, 1, 2)
    offer(client, "state", "k")
    show(client)
    assert client.data == [1]
    client.drain()
    assert client.data == [1, 2, "state"]


@scenario
async def test_a_hidden_page_that_drains_keeps_its_state() -> None:
    world = World()
    client = await world.guest()
    client.room = 1
    offer(client, "first")
    offer(client, "state", "k")
    hide(client)
    client.drain()
    assert client.data == ["first"]
    show(client)
    assert client.data == ["first", "state"]


@pytest.mark.parametrize(("policy", "expected"), [("drop", []), ("send", ["a", "b", "c"])])
@scenario
async def test_the_other_policies_keep_nothing(policy: HiddenPolicy, expected: list[str]) -> None:
    world = World(hidden_policy=policy)
    client = await world.guest()
    hide(client)
    told = [offer(client, "a", "k"), offer(client, "b", "k"), offer(client, "c")]
    assert told == [policy == "send"] * 3
    assert client.data == expected
    show(client)
    assert client.data == expected
    assert offer(client, "d", "k")
    assert client.data == [*expected, "d"]
    assert world.metric("dropped_volatile", "hidden") == (3 if policy == "drop" else 0)


@scenario
async def test_what_a_slow_client_waits_for_survives_the_policy_drop() -> None:
    world = World(hidden_policy="drop")
    client = await world.guest()
    client.room = 1
    offer(client, "first")
    offer(client, "kept", "k")
    hide(client)
    offer(client, "dropped", "j")
    client.drain()
    show(client)
    assert client.data == ["first", "kept"]


@pytest.mark.parametrize(
    ("limits", "limit"), [({"state_keys": 2}, "state_keys"), ({"state_bytes": 100}, "state_bytes")]
)
@scenario
async def test_the_keys_longest_without_an_update_go_first(
    limits: dict[str, int], limit: str
) -> None:
    world = World(**limits)  # type: ignore[arg-type]
    client = await world.guest()
    hide(client)
    # Each value is an event of 42 bytes.
    for key in "abac":
        offer(client, key, key)
    assert world.metric("limit_hits", limit) == 1
    assert world.metric("dropped_volatile", "limit") == 1
    show(client)
    assert client.data == ["a", "c"]


@scenario
async def test_a_value_that_is_too_large_to_keep_leaves_no_older_one() -> None:
    world = World(state_bytes=100)
    client = await world.guest()
    hide(client)
    offer(client, "old", "k")
    offer(client, "x" * 200, "k")
    show(client)
    assert client.data == []


@scenario
async def test_what_is_left_at_the_close_is_counted() -> None:
    world = World()
    client = await world.guest()
    hide(client)
    for key in "abc":
        offer(client, key, key)
    client.lose()
    assert world.metric("dropped_volatile", "closed") == 3
    back = await world.connect(pid=client.pid)
    show(back)
    assert back.data == []


@scenario
async def test_a_message_has_no_key_and_its_receipt_counts_what_was_written() -> None:
    world = World()
    ann = await world.connect(username="ann")
    first, second = [await world.connect(username="bob") for _ in range(2)]
    hide(first)
    volatile = {"target_id": first.true_id, "data": 1, "volatile": True}
    receipt = ann.call("message", volatile)
    assert (receipt["status"], receipt["connections"]) == ("delivered", 1)
    hide(second)
    receipt = ann.call("message", volatile)
    assert (receipt["status"], receipt["connections"]) == ("dropped", 0)
    assert (len(first.data), len(second.data)) == (0, 1)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(["hide", "show", "stored", "read"]),
            st.tuples(st.just("offer"), st.sampled_from(["a", "b", "c", None])),
            st.tuples(st.just("drain"), st.integers(1, 3)),
        ),
        max_size=40,
    )
)
def test_no_older_value_follows_a_newer_one_and_the_latest_comes(
    steps: list[str | tuple[str, object]],
) -> None:
    async def run() -> None:
        world = World()
        client = await world.guest()
        client.room = 2
        world.store.slow = True
        latest: dict[object, int] = {}
        stored: list[object] = []
        for number, step in enumerate(steps):
            world.monotonic.now += 10.0
            match step:
                case ("offer", key):
                    written = offer(client, [key, number], key)
                    assert written == (client.data[-1:] == [[key, number]])
                    if key is not None:
                        latest[key] = number
                case ("drain", room):
                    client.drain(int(str(room)))
                case "stored":
                    stored.append(number)
                    world.write(client, number)
                case "read":
                    world.store.answer_reads()
                case "hide":
                    hide(client)
                case _:
                    show(client)
        show(client)
        client.drain()
        world.store.answer_reads()
        values = [data for data in client.data if isinstance(data, list)]
        assert [data for data in client.data if not isinstance(data, list)] == stored
        for key in ("a", "b", "c"):
            numbers = [number for each, number in values if each == key]
            assert numbers == sorted(set(numbers))
            assert numbers[-1:] == ([latest[key]] if key in latest else [])
        assert client.link._held is None

    asyncio.run(run())
