"""The checker finds what is wrong in logs made up for the occasion, and nothing in good ones."""

from __future__ import annotations

import pytest

from tests.faults.checker import Arrived, Findings, Greeted, Log, Sent, Stream, check

NEW = Greeted("new")
RESUMED = Greeted("resumed")


def arrived(offset: int, key: str, epoch: str = "e") -> Arrived:
    """Message `key`, such as a2: number 2 of the player a."""
    return Arrived(f"{epoch}.{offset}.0", key[0], key, int(key[1:]))


def log_of(
    *events: Greeted | Arrived, acked: dict[str, int] | None = None, at_least_once: bool = False
) -> Log:
    """A log in which the player x got these events.

    `acked` has the messages to x with the offsets of their acks: by default all that arrived.
    """
    log = Log()
    log.streams["x"] = Stream(at_least_once, [*events])
    if acked is None:
        ids = {event.key: event.id for event in reversed(events) if isinstance(event, Arrived)}
    else:
        ids = {key: f"e.{offset}.0" for key, offset in acked.items()}
    for key, id_ in ids.items():
        log.sent[key] = Sent(key[0], "x", int(key[1:]))
        log.acked[key] = id_
    return log


def counts(findings: Findings) -> tuple[int, int, int, int]:
    return (
        len(findings.lost),
        len(findings.doubled),
        len(findings.misordered),
        len(findings.unexpected),
    )


def test_a_good_log_is_clean() -> None:
    log = log_of(NEW, arrived(1, "a1"), arrived(2, "b1"), RESUMED, arrived(3, "a2"))
    findings = check(log)
    assert findings.clean, findings
    assert findings.arrived == 3
    assert findings.repeats == 0


def test_an_acked_message_that_never_arrived_is_lost() -> None:
    findings = check(log_of(NEW, arrived(1, "a1"), acked={"a1": 1, "a2": 2}))
    assert counts(findings) == (1, 0, 0, 0)
    assert "a2" in findings.lost[0]


def test_a_gap_that_was_announced_does_not_excuse_the_loss() -> None:
    log = log_of(
        NEW,
        arrived(1, "a1"),
        Greeted("trimmed", gap=True),
        arrived(3, "a3"),
        acked={"a1": 1, "a2": 2, "a3": 3},
    )
    assert counts(check(log)) == (1, 0, 0, 0)


def test_a_new_epoch_does_not_excuse_the_loss() -> None:
    log = log_of(NEW, arrived(1, "a1"), Greeted("store_reset", gap=True), arrived(1, "a3", "f"))
    log.sent["a2"] = Sent("a", "x", 2)
    log.acked["a2"] = "e.2.0"
    assert counts(check(log)) == (1, 0, 0, 0)


def test_a_silent_gap_is_found() -> None:
    assert counts(check(log_of(NEW, arrived(1, "a1"), arrived(3, "a2")))) == (0, 0, 0, 1)
    assert counts(check(log_of(NEW, arrived(2, "a1")))) == (0, 0, 0, 1)


def test_a_silent_change_of_the_epoch_is_found() -> None:
    log = log_of(NEW, arrived(1, "a1"), RESUMED, arrived(1, "a2", "f"))
    assert counts(check(log)) == (0, 0, 0, 1)


def test_the_same_id_twice_is_doubled() -> None:
    first = arrived(1, "a1")
    assert counts(check(log_of(NEW, first, first))) == (0, 1, 0, 0)
    assert counts(check(log_of(NEW, first, RESUMED, first))) == (0, 1, 0, 0)


def test_a_message_accepted_twice_is_doubled() -> None:
    log = log_of(NEW, arrived(1, "a1"), arrived(2, "a1"))
    assert counts(check(log)) == (0, 1, 0, 0)


@pytest.mark.parametrize("at_least_once", [True, False])
def test_who_presents_a_token_alone_may_get_messages_again(*, at_least_once: bool) -> None:
    first, second = arrived(1, "a1"), arrived(2, "a2")
    events = (NEW, first, second, RESUMED, first, second, arrived(3, "a3"))
    findings = check(log_of(*events, at_least_once=at_least_once))
    assert findings.repeats == (2 if at_least_once else 0)
    assert counts(findings) == (0, 0 if at_least_once else 2, 0, 0)


def test_a_repeat_on_the_same_link_is_doubled_for_everybody() -> None:
    first = arrived(1, "a1")
    log = log_of(NEW, first, RESUMED, first, first, at_least_once=True)
    assert counts(check(log)) == (0, 1, 0, 0)


def test_repeats_have_their_order_too() -> None:
    first, second = arrived(1, "a1"), arrived(2, "a2")
    log = log_of(NEW, first, second, RESUMED, second, first, at_least_once=True)
    assert counts(check(log)) == (0, 0, 1, 0)


def test_a_later_message_before_an_earlier_one_is_misordered() -> None:
    log = log_of(NEW, arrived(1, "a2"), arrived(2, "b1"), arrived(3, "a1"))
    assert counts(check(log)) == (0, 0, 1, 0)


def test_offsets_that_fall_are_misordered() -> None:
    log = log_of(NEW, arrived(1, "a1"), arrived(3, "a2"), arrived(2, "b1"))
    findings = check(log)
    assert len(findings.misordered) == 1


def test_what_nobody_sent_is_unexpected() -> None:
    log = log_of(NEW, arrived(1, "a1"), acked={})
    assert counts(check(log)) == (0, 0, 0, 1)


def test_what_was_sent_to_somebody_else_is_unexpected() -> None:
    log = log_of(NEW, arrived(1, "a1"))
    log.streams["y"] = Stream(events=[NEW, arrived(1, "a1")])
    assert counts(check(log)) == (0, 0, 0, 1)


def test_an_ack_with_another_id_is_unexpected() -> None:
    assert counts(check(log_of(NEW, arrived(1, "a1"), acked={"a1": 7}))) == (0, 0, 0, 1)


def test_a_message_that_was_never_acked_is_unexpected() -> None:
    log = log_of(NEW, arrived(1, "a1"))
    del log.acked["a1"]
    assert counts(check(log)) == (0, 0, 0, 1)


def test_complaints_of_the_fleet_are_unexpected() -> None:
    log = log_of(NEW)
    log.complaints.append("refused for good")
    findings = check(log)
    assert not findings.clean
    assert str(findings) == "refused for good"


RESET = Greeted("store_reset", gap=True)


def test_a_store_that_may_lose_must_say_so_to_who_lacks_something() -> None:
    lost = {"a1": 1, "a2": 2, "a3": 2}
    told = log_of(NEW, arrived(1, "a1"), RESET, arrived(2, "a3"), acked=lost)
    findings = check(told, may_lose=True)
    assert findings.clean, findings
    assert findings.told == 1
    assert counts(check(told)) == (1, 0, 0, 0)
    silent = log_of(NEW, arrived(1, "a1"), RESUMED, arrived(2, "a3"), acked=lost)
    findings = check(silent, may_lose=True)
    assert counts(findings) == (1, 0, 0, 0)
    assert findings.told == 0


def test_offsets_that_are_given_again_have_to_be_told_of() -> None:
    again = Arrived("e.2.7", "b", "b1", 1)
    for outcome, clean in ((RESET, True), (RESUMED, False)):
        log = log_of(NEW, arrived(1, "a1"), arrived(2, "a2"), outcome, again)
        findings = check(log, may_lose=True)
        assert findings.clean is clean, findings


def test_what_is_sent_again_to_a_store_that_forgot_the_key_may_come_again() -> None:
    again = Arrived("e.1.7", "a", "a1", 1)
    log = log_of(NEW, arrived(1, "a1"), RESET, again)
    findings = check(log, may_lose=True)
    assert findings.clean, findings
    assert (findings.arrived, findings.repeats) == (1, 1)
    assert counts(check(log_of(NEW, arrived(1, "a1"), RESUMED, again), may_lose=True))[1] == 1


def test_who_says_nothing_of_what_it_has_may_get_offsets_that_are_given_again() -> None:
    again = Arrived("e.1.7", "b", "b1", 1)
    for bare in (True, False):
        log = log_of(NEW, arrived(1, "a1"), RESUMED, again, at_least_once=bare)
        assert check(log, may_lose=True).clean is bare
        assert not check(log).clean


def test_who_has_nothing_but_a_token_is_told_of_losses_like_all_others() -> None:
    acked = {"a1": 1, "a2": 2}
    log = log_of(NEW, arrived(1, "a1"), RESUMED, acked=acked, at_least_once=True)
    assert counts(check(log, may_lose=True)) == (1, 0, 0, 0)
