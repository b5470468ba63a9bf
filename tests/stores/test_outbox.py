"""What every store promises of webhooks: written with what they report, kept until sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.mailbox import Retention
from gateway.messages import SessionId, TrueId
from gateway.outbox import OutboxLimits, Webhook
from tests.stores.conftest import ANN, BOB, Driver, NewStore
from tests.stores.test_store import session

ON = OutboxLimits(enabled=True)


@pytest.fixture
def store(new_store: NewStore) -> Driver:
    return new_store(outbox=ON)


def waiting(store: Driver, after: int = 0, limit: int = 100) -> list[Webhook]:
    found = store.webhooks(after, limit)
    assert len(found) <= limit
    return list(found)


def told(store: Driver) -> list[tuple[str, str, Any]]:
    """Return type, player and data of what waits."""
    bodies = [json.loads(each.body()) for each in waiting(store)]
    assert store.queued_webhooks == len(bodies)
    return [(body["type"], body["true_id"], body["data"]) for body in bodies]


def test_a_session_is_reported_with_its_attributes(store: Driver) -> None:
    opened = session(last_seen=7.5)
    opened.attributes = '{"team":"red"}'
    store.add_session(opened)
    (webhook,) = waiting(store)
    assert json.loads(webhook.body()) == {
        "id": webhook.id,
        "type": "session.new",
        "ts": 7.5,
        "true_id": "ann",
        "data": {
            "session_id": "s1",
            "name": "Name",
            "method": "guest",
            "attributes": {"team": "red"},
        },
    }
    assert webhook.id.startswith(f"{store.epoch_of(ANN)}.")


def test_a_revocation_is_reported_once_with_its_reason(store: Driver) -> None:
    store.add_session(session())
    store.revoke_session(SessionId("s1"), 9.0, "logout")
    store.revoke_session(SessionId("s1"), 9.0, "logout")
    store.revoke_session(SessionId("never"), 9.0)
    assert told(store)[1:] == [("session.revoked", "ann", {"session_id": "s1", "reason": "logout"})]


def test_messages_that_outlive_their_time_unread_are_reported(new_store: NewStore) -> None:
    store = new_store(outbox=ON, mailbox=Retention(0, 0, 10.0))
    store.know([ANN, BOB])
    for target in (ANN, ANN, BOB):
        store.append(target=target)
    store.expire(5.0)
    assert told(store) == []
    store.expire(11.0)
    assert sorted(told(store)) == [
        ("message.expired", "ann", {"messages": 2}),
        ("message.expired", "bob", {"messages": 1}),
    ]


def test_messages_that_were_confirmed_or_made_room_are_not_reported(new_store: NewStore) -> None:
    store = new_store(outbox=ON, mailbox=Retention(1, 0, 10.0))
    store.know([ANN])
    store.append()
    store.append()
    read = session()
    read.confirmed = 2
    store.add_session(read)
    store.expire(11.0)
    assert [kind for kind, _, _ in told(store)] == ["session.new"]


def test_presence_is_remembered_and_reported_together(store: Driver) -> None:
    odd = TrueId("o\0dd")
    store.report_presence({ANN: True, odd: True}, 3.0)
    assert store.reported_online() == {ANN, odd}
    store.report_presence({ANN: False}, 4.0)
    assert store.reported_online() == {odd}
    assert told(store) == [
        ("player.online", "ann", {}),
        ("player.online", odd, {}),
        ("player.offline", "ann", {}),
    ]
    assert [each.event.ts for each in waiting(store)] == [3.0, 3.0, 4.0]


def test_presence_that_is_known_is_not_reported_again(store: Driver) -> None:
    store.report_presence({ANN: True, BOB: False}, 3.0)
    store.report_presence({ANN: True, BOB: True}, 4.0)
    assert [(kind, who) for kind, who, _ in told(store)] == [
        ("player.online", "ann"),
        ("player.online", "bob"),
    ]
    assert store.reported_online() == {ANN, BOB}


def test_webhooks_are_read_in_pages_and_forgotten_when_sent(store: Driver) -> None:
    store.report_presence({TrueId(f"p{number}"): True for number in range(5)}, 0.0)
    first = waiting(store, 0, 2)
    rest = waiting(store, first[-1].seq)
    assert [each.event.true_id for each in (*first, *rest)] == ["p0", "p1", "p2", "p3", "p4"]
    assert len({each.id for each in (*first, *rest)}) == 5
    store.remove_webhooks([each.seq for each in first] + [999])
    assert [each.seq for each in waiting(store)] == [each.seq for each in rest]
    assert store.queued_webhooks == 3


def test_a_number_is_never_used_again(store: Driver) -> None:
    store.report_presence({ANN: True}, 0.0)
    (webhook,) = waiting(store)
    store.remove_webhooks([webhook.seq])
    store.report_presence({ANN: False}, 0.0)
    assert waiting(store)[0].seq > webhook.seq


def test_what_is_given_up_is_kept_to_be_looked_at(new_store: NewStore) -> None:
    store = new_store(outbox=OutboxLimits(enabled=True, max_dead=2))
    store.report_presence({TrueId(f"p{number}"): True for number in range(4)}, 0.0)
    webhooks = waiting(store)
    for number, webhook in enumerate(webhooks[:3]):
        store.bury_webhook(webhook.seq, f"reason {number}", 10.0 + number)
    store.bury_webhook(999, "never was", 20.0)
    dead = store.list_dead_webhooks(10)
    assert [(each.webhook, each.given_up, each.reason) for each in dead] == [
        (webhooks[2], 12.0, "reason 2"),
        (webhooks[1], 11.0, "reason 1"),
    ]
    assert store.list_dead_webhooks(1) == dead[:1]
    assert (store.dead_webhooks, store.queued_webhooks) == (2, 1)


def test_without_room_the_oldest_is_given_up(new_store: NewStore) -> None:
    store = new_store(outbox=OutboxLimits(enabled=True, max_queued=2))
    store.report_presence({TrueId(f"p{number}"): True for number in range(3)}, 5.0)
    assert [player for _, player, _ in told(store)] == ["p1", "p2"]
    (dead,) = store.list_dead_webhooks(10)
    assert (dead.webhook.event.true_id, dead.reason) == ("p0", "webhooks.max_queued is reached")


@pytest.fixture
def with_dead(new_store: NewStore) -> tuple[Driver, list[Webhook]]:
    """A store in which of the webhooks p0 to p4 the first three were given up, and all five."""
    store = new_store(outbox=OutboxLimits(enabled=True, max_queued=4))
    for number in range(5):
        store.report_presence({TrueId(f"p{number}"): True}, 0.0)
        if number < 3:
            (webhook,) = waiting(store)
            store.bury_webhook(webhook.seq, "refused", 10.0 + number)
    dead = [each.webhook for each in reversed(store.list_dead_webhooks(10))]
    return store, [*dead, *waiting(store)]


def test_what_was_given_up_waits_again_under_its_id(
    with_dead: tuple[Driver, list[Webhook]],
) -> None:
    store, webhooks = with_dead
    assert store.retry_dead_webhooks(webhooks[1].id) == (1, False)
    assert store.retry_dead_webhooks(webhooks[1].id) == (0, False)
    assert {each.id for each in waiting(store)} == {webhooks[number].id for number in (1, 3, 4)}
    (again,) = (each for each in waiting(store) if each.id == webhooks[1].id)
    assert again.event == webhooks[1].event
    assert (store.dead_webhooks, store.queued_webhooks) == (2, 3)
    # It may be sent now, or given up again.
    store.bury_webhook(again.seq, "refused again", 20.0)
    (newest, *_) = store.list_dead_webhooks(10)
    assert (newest.webhook.id, newest.reason) == (webhooks[1].id, "refused again")


def test_all_that_was_given_up_waits_again_as_far_as_there_is_room(
    with_dead: tuple[Driver, list[Webhook]],
) -> None:
    store, webhooks = with_dead
    # Nothing that waits is given up for it.
    assert store.retry_dead_webhooks(None) == (2, True)
    assert {each.id for each in waiting(store)} == {webhooks[number].id for number in (0, 1, 3, 4)}
    (left,) = store.list_dead_webhooks(10)
    assert left.webhook.id == webhooks[2].id
    assert store.retry_dead_webhooks(webhooks[2].id) == (0, True)
    store.remove_webhooks([each.seq for each in waiting(store)])
    assert store.retry_dead_webhooks(None) == (1, False)
    assert store.retry_dead_webhooks(None) == (0, False)
    assert (store.dead_webhooks, store.queued_webhooks) == (0, 1)


def test_what_was_given_up_can_be_forgotten(with_dead: tuple[Driver, list[Webhook]]) -> None:
    store, webhooks = with_dead
    assert store.delete_dead_webhooks(webhooks[0].id) == 1
    assert store.delete_dead_webhooks(webhooks[0].id) == 0
    assert [each.webhook.id for each in store.list_dead_webhooks(10)] == [
        webhooks[2].id,
        webhooks[1].id,
    ]
    assert store.delete_dead_webhooks(None) == 2
    assert store.list_dead_webhooks(10) == ()
    assert (store.dead_webhooks, store.queued_webhooks) == (0, 2)


@pytest.mark.parametrize("webhook_id", ["", "x", "a.1.b", "a.999999-1.b", "é", "a" * 128])
def test_an_id_that_is_nobodys_changes_nothing(
    with_dead: tuple[Driver, list[Webhook]], webhook_id: str
) -> None:
    store, webhooks = with_dead
    # One that waits is none that was given up.
    for each in (webhook_id, webhooks[4].id):
        assert store.retry_dead_webhooks(each) == (0, False)
        assert store.delete_dead_webhooks(each) == 0
    assert (store.dead_webhooks, store.queued_webhooks) == (3, 2)


def test_nothing_is_written_when_there_is_nobody_to_send_it_to(new_store: NewStore) -> None:
    store = new_store()
    store.add_session(session())
    store.revoke_session(SessionId("s1"), 0.0)
    assert told(store) == []


def test_news_are_told(new_store: NewStore, told_of: Callable[[Driver], list[Any]]) -> None:
    store = new_store(outbox=OutboxLimits(enabled=True, max_queued=2))
    news = told_of(store)
    store.add_session(session())
    store.report_presence({ANN: True, BOB: True}, 0.0)
    assert [sum(each) for each in zip(*news, strict=True)] == [3, 1]


@pytest.fixture
def told_of() -> Callable[[Driver], list[Any]]:
    def listen(store: Driver) -> list[Any]:
        news: list[Any] = []
        outbox = getattr(store.store, "outbox", None)
        (store.store if outbox is None else outbox)._on_webhooks = lambda *counts: news.append(
            counts
        )
        return news

    return listen
